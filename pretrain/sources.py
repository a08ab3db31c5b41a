"""What a pretraining file draws from each source: weights, tokens, passes. Known before training, without an engine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.files import read_json
from duetto.recipe import nearest
from pretrain.config import PretrainConfig


@dataclass(frozen=True)
class Draw:
    """One source in one stretch of steps."""

    stage: str
    first_step: int
    source: str
    weight: float
    """Share of the stretch's samples."""
    tokens: int
    """Drawn in the stretch, repetitions included."""
    available: int | None
    """Tokens on disk; None while there are none."""
    max_epochs: float

    @property
    def epochs(self) -> float | None:
        return self.tokens / self.available if self.available else None


def draws(config: PretrainConfig, position: int, data: Any, run_root: Path) -> list[Draw]:
    """All draws of the file at ``position`` of the recipe's pretrain list, in the order of training.

    Args:
        data: the recipe's data configuration, used until tokens/mixture.json is there.

    Raises:
        UserError: the mixture has no stage for this file.
    """
    if config.data_stages is not None:
        return _from_folders(config)
    path = run_root / "tokens" / "mixture.json"
    if path.exists():
        mixture = read_json(path)
        stages = mixture["stages"]
        stage = stages[mixture_index(config, position, [s["name"] for s in stages])]
        weights = {name: draw["weight"] for name, draw in stage["sources"].items()}
        available = {name: mixture["sources"][name]["tokens"] for name in weights}
        bounds, name = mixture["max_epochs"], stage["name"]
    else:
        stage = data.stages[mixture_index(config, position, [s.name for s in data.stages])]
        total = sum(stage.tokens.values()) or 1
        weights = {source: tokens / total for source, tokens in stage.tokens.items()}
        available = {}
        bounds = {source: data.sources[source].max_epochs or data.max_epochs for source in weights}
        name = stage.name
    return [
        Draw(name, 1, source, w, round(w * config.total_tokens), available.get(source), bounds[source])
        for source, w in weights.items()
    ]


def mixture_index(config: PretrainConfig, position: int, names: list[str]) -> int:
    """Which stage of the mixture feeds the file: the one it names, else the one of its position."""
    wanted = config.duetto.mixture_stage
    if wanted is not None:
        if wanted not in names:
            raise UserError(
                f"duetto.mixture_stage: the data configuration has no stage {wanted!r}{nearest(wanted, names)}"
            )
        return names.index(wanted)
    if position >= len(names):
        raise UserError(
            f"pretraining file {position + 1} has no data: the data configuration has {len(names)} stages "
            f"({', '.join(names)}); add budgets for it under `stages`, or give the file data_stages"
        )
    return position


def _from_folders(config: PretrainConfig) -> list[Draw]:
    stages, out = config.stages, []
    ends = [s.start_training_step - 1 for s in stages[1:]] + [config.tokens.train_steps]
    for stage, end in zip(stages, ends):
        tokens = (end - stage.start_training_step + 1) * config.tokens_per_step
        dataset = stage.data.dataset
        for folder, share in zip(dataset.folders, dataset.shares):
            drawn, found = round(share * tokens), folder_tokens(folder, dataset.token_size_in_bytes)
            out.append(
                Draw(stage.name, stage.start_training_step, folder, share, drawn, found, config.duetto.max_epochs)
            )
    return out


def folder_tokens(folder: str, token_size: int | None = None) -> int | None:
    """Tokens of all .ds files below a folder, from the .metadata beside them; None when there are none."""
    total = 0
    for path in sorted(Path(folder).rglob("*.ds")):
        meta = path.with_name(path.name + ".metadata")
        lines = meta.read_text().splitlines() if meta.exists() else []
        if len(lines) > 1 and lines[1].isdigit():
            total += int(lines[1])
        else:
            width = lines[0].rpartition("|")[2] if lines else ""
            total += path.stat().st_size // (int(width) if width.isdigit() else token_size or 4)
    return total or None
