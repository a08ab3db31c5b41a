"""The newest complete checkpoint as a Hugging Face model, refused without logits parity.

duetto convert [--recipe FILE] [--step N] [--out FOLDER]
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.files import read_json
from duetto.process import run_logged
from duetto.run import Run
from duetto.stage import Job, Stage
from pretrain import forgetting
from pretrain.checkpoints import steps_on_disk, verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--step", type=int, help="a checkpoint other than the last one; goes to base-<step>/")
    parser.add_argument("--out", type=Path, help="folder to write instead, outside the run's stages")


def run(run: Run, args: argparse.Namespace) -> None:
    step, out = getattr(args, "step", None), getattr(args, "out", None)
    root = run.path("pretrain", "checkpoints")
    if step is not None or out is not None:
        chosen = step if step is not None else _last(run)
        checkpoint = verify(root / str(chosen))
        convert(run, checkpoint.path, out or run.path(f"base-{chosen}"))
        return
    checkpoint = verify(root / str(_last(run)))

    def work(_: Job) -> Mapping[str, Any]:
        return convert(run, checkpoint.path, run.path("base"))

    Stage(
        "convert",
        version=1,
        config={"step": checkpoint.step, "files": checkpoint.commit["files"]},
        inputs=["pretrain"],
        outputs=[run.path("base")],
        work=work,
    ).execute(run, args.force)
    if forgetting.wanted(run):
        forgetting.compare(run, args.force)


def _last(run: Run) -> int:
    """The step that pretraining ended with, by its manifest."""
    metrics = run.require("pretrain")["metrics"]
    step = int(metrics["steps"])
    if step not in steps_on_disk(run.path("pretrain", "checkpoints")):
        raise UserError(
            f"{run.path('pretrain', 'checkpoints')}: no step {step}; run: duetto pretrain --recipe {run.recipe.file}"
        )
    return step


def convert(run: Run, checkpoint: Path, out: Path) -> dict[str, Any]:
    """Convert in a process of its own (it patches nanotron for the CPU) and return what parity.json says."""
    tokenizer = run.path("tokenizer")
    command = [sys.executable, "-m", "pretrain.convert", "to-hf", str(checkpoint), str(out)]
    command += ["--tokenizer", str(tokenizer)]
    run_logged(command, run.logs / "convert.log")
    parity = dict(read_json(out / "parity.json"))
    return {**parity, "step": int(checkpoint.name)}
