"""Pretraining checkpoints as Hugging Face models: for the chat page, and for the revisions that push uploads."""

from __future__ import annotations

import sys
from pathlib import Path

from duetto.errors import UserError
from duetto.files import atomic_write, read_json
from duetto.process import run_logged
from duetto.run import Run


def committed_steps(run: Run) -> list[int]:
    """Steps of complete checkpoints, oldest first."""
    folder = run.path("pretrain", "checkpoints")
    found = folder.glob("*/COMMIT") if folder.is_dir() else ()
    return sorted(int(p.parent.name) for p in found if p.parent.name.isdigit())


def converted(run: Run, step: int) -> Path:
    """``release/checkpoints/step-N/``, converted with the same parity gate as the base model; kept once made.

    Raises:
        UserError: there is no such checkpoint.
    """
    steps = committed_steps(run)
    if step not in steps:
        there = ", ".join(map(str, steps)) or "none"
        raise UserError(
            f"{run.path('pretrain', 'checkpoints')}: step {step} has no complete checkpoint (there is: {there})"
        )
    folder = run.path("release", "checkpoints", f"step-{step}")
    if not (folder / "parity.json").is_file():
        checkpoint = run.path("pretrain", "checkpoints", str(step))
        command = [sys.executable, "-m", "pretrain.convert", "to-hf", str(checkpoint), str(folder)]
        run_logged([*command, "--tokenizer", str(run.path("tokenizer"))], run.logs / f"convert-{step}.log")
    read_json(folder / "parity.json")
    return folder


def chosen_steps(run: Run) -> list[int]:
    """Steps that the recipe wants published."""
    wanted = run.recipe.release.checkpoints
    if isinstance(wanted, str):
        return committed_steps(run) if wanted == "all" else []
    return list(wanted)


def release_checkpoint(run: Run, step: int) -> tuple[Path, list[str]]:
    """Folder and files of one revision: the model, its tokenizer, and a page that says what it is."""
    folder = converted(run, step)
    release = run.recipe.release
    name, licence = release.name_of("base"), release.license
    languages = "\n".join(f"- {c}" for c in run.recipe.languages)
    with atomic_write(folder / "README.md") as f:
        f.write(
            f"---\nlanguage:\n{languages}\nlicense: {licence}\nlibrary_name: transformers\n"
            f"pipeline_tag: text-generation\n---\n\n# {name}, step {step}\n\n"
            "An intermediate checkpoint of pretraining. The `main` revision has the final model and its card.\n"
        )
    return folder, sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
