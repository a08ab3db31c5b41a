"""What continued training forgot and what it learned: held-out text by source, before and after.

    python -m pretrain.forgetting <run>/pretrain/forgetting-job.json

`duetto convert` runs it when a pretraining file that starts from a model asks for it (duetto.compare_before). Both
models are Hugging Face folders, measured by the same code on the same windows: at the context of the start model and,
when the context grew, at the new one. Validation during training cannot tell the two apart, because its first
measurement already has the new rotary base.
"""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from duetto.console import log
from duetto.errors import UserError
from duetto.files import atomic_write, read_json, write_json
from duetto.process import run_logged, worker_main
from duetto.recipe import StrictModel
from duetto.run import Run
from duetto.stage import Job, Stage
from pretrain.job import ValidationSet
from pretrain.start import local_folder

HEAD_TOKENS = 1024
"""Positions whose logits exist at a time."""


class Comparison(StrictModel):
    """Two models and what to measure them on."""

    before: str
    """Hugging Face folder that training started from."""
    after: str
    """Hugging Face folder of the result."""
    sets: list[ValidationSet]
    windows: list[int] = Field(min_length=1)
    """Contexts to measure at, in tokens."""
    max_tokens: int = Field(default=2**18, gt=0)
    """Of each set and context."""
    device: str = "auto"
    out: str
    """Folder of forgetting.json and forgetting.md."""


def wanted(run: Run) -> bool:
    """Whether the recipe's first file continues a model and asks for the comparison."""
    first = run.recipe.pretrain[0]
    return bool(first.duetto.compare_before and first.model.init_method.path)


def compare(run: Run, force: bool = False) -> dict[str, Any]:
    """The stage: measure the start model and ``base/``, write pretrain/forgetting.{json,md}, and show the table.

    Raises:
        UserError: there is no held-out text, or the start model has another tokenizer.
    """
    first, last = run.recipe.pretrain[0], run.recipe.pretrain[-1]
    start, out = local_folder(first.model.init_method.path), run.path("pretrain")
    mixture = read_json(run.path("tokens", "mixture.json"))
    if not mixture["validation"]:
        raise UserError(
            f"{run.path('tokens', 'mixture.json')} has no held-out text to compare on; set validation.holdout or "
            "validation.files in the data configuration, or duetto.compare_before=false"
        )
    hf = run.path("pretrain", "start") if not (start / "config.json").exists() else start
    known = read_json(start / ("config.json" if hf == start else "model_config.json"))
    windows = sorted(
        {min(int(known["max_position_embeddings"]), first.tokens.sequence_length), last.tokens.sequence_length}
    )
    sets = [
        ValidationSet(
            name=name,
            file=str(run.path("tokens", entry["path"])),
            tokens=entry["tokens"],
            bytes=entry["bytes"],
            token_size=mixture["token_size"],
        )
        for name, entry in mixture["validation"].items()
    ]
    job = Comparison(
        before=str(hf),
        after=str(run.path("base")),
        sets=sets,
        windows=windows,
        device=first.duetto.device,
        out=str(out),
    )

    def work(_: Job) -> Mapping[str, Any]:
        if hf != start:
            from pretrain.convert_stage import convert

            convert(run, start, hf)
        path = out / "forgetting-job.json"
        write_json(path, job.model_dump(mode="json"))
        run_logged([sys.executable, "-m", "pretrain.forgetting", str(path)], run.logs / "forgetting.log")
        return dict(read_json(out / "forgetting.json"))

    manifest = Stage(
        "forgetting",
        version=1,
        config=job.model_dump(mode="json", exclude={"device"}),
        inputs=["convert"],
        outputs=[out / "forgetting.json", out / "forgetting.md"],
        work=work,
    ).execute(run, force)
    log((out / "forgetting.md").read_text())
    return manifest


def table(found: Mapping[str, Any]) -> str:
    """The comparison as Markdown."""
    lines = [
        "| held-out | context | before, bits per byte | after | change |",
        "|---|---|---|---|---|",
        *(
            f"| {row['set']} | {row['window']:,} | {row['before']:.4f} | {row['after']:.4f} | {row['change']:+.1%} |"
            for row in found["rows"]
        ),
        "",
        f"Forgotten (more than 1 % worse): {', '.join(found['forgotten']) or 'nothing'}. "
        f"Learned (more than 1 % better): {', '.join(found['learned']) or 'nothing'}.",
    ]
    return "\n".join(lines) + "\n"


def judge(before: Mapping[tuple[str, int], float], after: Mapping[tuple[str, int], float]) -> dict[str, Any]:
    """Rows with the relative change; a set counts as forgotten or learned at the smallest context, the old one."""
    rows: list[dict[str, Any]] = [
        {
            "set": name,
            "window": window,
            "before": b,
            "after": after[name, window],
            "change": after[name, window] / b - 1,
        }
        for (name, window), b in before.items()
    ]
    smallest = min(window for _, window in before)
    old = [r for r in rows if r["window"] == smallest]
    return {
        "unit": "bits per byte of held-out text; every token but the first of a window is predicted, no document masks",
        "rows": rows,
        "forgotten": [r["set"] for r in old if r["change"] > 0.01],
        "learned": [r["set"] for r in old if r["change"] < -0.01],
    }


def measure(folder: str, job: Comparison) -> dict[tuple[str, int], float]:
    """Bits per byte of one model, by set and context.

    Raises:
        UserError: the folder holds no model, or its vocabulary is smaller than the token ids.
    """
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{folder}: no Hugging Face model there; run its recipe, or duetto fetch")
    cuda = torch.cuda.is_available() and job.device != "cpu"
    dtype = torch.bfloat16 if cuda else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    model = model.to("cuda" if cuda else "cpu").eval()
    out = {}
    for given in job.sets:
        tokens = np.fromfile(given.file, dtype=f"<u{given.token_size}").astype(np.int64)
        if int(tokens.max()) >= model.config.vocab_size:
            raise UserError(
                f"{given.file} has token {int(tokens.max())}, {folder} has {model.config.vocab_size}: the run must use "
                "the tokenizer of the model it continues"
            )
        for window in job.windows:
            nats, targets = 0.0, 0
            for at in range(0, min(len(tokens) - 1, job.max_tokens), window):
                piece = torch.from_numpy(tokens[at : at + window + 1]).to(model.device)[None]
                nats += _nats(model, piece)
                targets += piece.shape[1] - 1
            out[given.name, window] = nats / targets * given.tokens / given.bytes / math.log(2)
    return out


def _nats(model: Any, ids: Any) -> float:
    """Sum over positions of the cross-entropy of ``ids[:, 1:]``."""
    import torch
    from torch.nn.functional import cross_entropy

    total = 0.0
    with torch.inference_mode():
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[0]
        for at in range(0, len(hidden), HEAD_TOKENS):
            logits = model.lm_head(hidden[at : at + HEAD_TOKENS]).float()
            total += float(cross_entropy(logits, ids[0, at + 1 : at + 1 + len(logits)], reduction="sum"))
    return total


def main() -> None:
    job = Comparison.model_validate(read_json(sys.argv[1]))
    found = judge(measure(job.before, job), measure(job.after, job))
    found |= {"before": job.before, "after": job.after}
    with atomic_write(Path(job.out) / "forgetting.md") as f:
        f.write(table(found))
    write_json(Path(job.out) / "forgetting.json", found)


if __name__ == "__main__":
    worker_main(main)
