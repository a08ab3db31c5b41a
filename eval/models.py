"""The models of a run, as files: where they are, which stage made them, what they are made of."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from duetto.errors import UserError
from duetto.files import sha256_file
from duetto.run import Run
from eval.config import EvalConfig, ModelEntry

_PARTS = ("*.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class LocalModel:
    """A Hugging Face model folder on this machine."""

    name: str
    path: Path
    languages: tuple[str, ...]
    chat_template: bool = False
    revision: str | None = None
    step: int | None = None
    tokens: int | None = None

    def digest(self) -> str:
        """sha256 over what decides its answers: weights, configuration, tokenizer, template."""
        total = hashlib.sha256()
        for path in sorted(p for pattern in _PARTS for p in self.path.glob(pattern)):
            total.update(f"{path.name} {sha256_file(path)}\n".encode())
        return total.hexdigest()

    def check(self) -> "LocalModel":
        """Raises UserError when the folder holds no loadable model, or lacks a template that is asked for."""
        for name in ("config.json", "tokenizer_config.json"):
            if not (self.path / name).is_file():
                raise UserError(
                    f"model {self.name!r}: {self.path} has no {name}; it is not a Hugging Face model folder"
                )
        if not any(self.path.glob("*.safetensors")):
            raise UserError(f"model {self.name!r}: {self.path} holds no *.safetensors weights (pickles are not loaded)")
        if self.chat_template and not has_chat_template(self.path):
            raise UserError(
                f"model {self.name!r}: {self.path} has no chat template, and chat_template is on; "
                "turn it off for this model or add chat_template.jinja"
            )
        return self


def has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and "chat_template" in json.loads(config.read_text(encoding="utf-8"))


def run_models(run: Run, config: EvalConfig) -> list[LocalModel]:
    """The models that a suite measures, checked.

    Raises:
        UserError: a model of the run is not made yet, or a named one cannot be found.
    """
    languages = tuple(run.recipe.languages)
    out = []
    for entry in config.models:
        if isinstance(entry, ModelEntry):
            out.append(_named(entry))
        elif entry == "base":
            run.require("convert")
            out.append(LocalModel("base", run.path("base"), languages))
        elif run.recipe.sft is not None:
            run.require("sft")
            out.append(LocalModel("instruct", run.path("instruct"), languages, config.chat_template))
    if not out:
        raise UserError("eval.models names only 'instruct', but the recipe has no sft; add base, or an sft section")
    return [m.check() for m in out]


def upstream(run: Run, config: EvalConfig) -> list[str]:
    """Stages whose outputs are measured."""
    stages = {"base": ["convert"], "instruct": ["sft", "dpo"]}
    wanted = [s for m in config.models if isinstance(m, str) for s in stages[m]]
    skipped = {"sft": run.recipe.sft is None, "dpo": run.recipe.dpo is None}
    return [s for s in wanted if not skipped.get(s, False)]


def _named(entry: ModelEntry) -> LocalModel:
    path, revision = Path(entry.path), entry.revision
    if not path.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            path = Path(snapshot_download(entry.path, revision=revision, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            raise UserError(
                f"model {entry.name!r}: {entry.path} is neither a folder nor in the Hub cache; "
                "run duetto fetch on a machine with internet, or correct the path"
            ) from None
        revision = path.name
    return LocalModel(entry.name, path, tuple(entry.languages), entry.chat_template, revision)
