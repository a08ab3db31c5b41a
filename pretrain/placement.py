"""checkpoints.checkpoints_path: checkpoints on another disk, with a link where the run folder expects them."""

import shutil
from pathlib import Path

from duetto.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.mapping import checkpoints_folder


def place(configs: list[PretrainConfig], run_root: Path) -> None:
    """Make ``<run>/pretrain/checkpoints`` the folder that the files name.

    Raises:
        UserError: the files of one recipe name different folders, or checkpoints are already elsewhere.
    """
    targets = {checkpoints_folder(c, run_root) for c in configs}
    if len(targets) > 1:
        raise UserError(
            f"the pretraining files name {len(targets)} checkpoints_path ({', '.join(map(str, sorted(targets)))}); the "
            "files of a recipe share one, so that each continues the one before"
        )
    target, expected = targets.pop(), run_root / "pretrain" / "checkpoints"
    if target == expected and not expected.is_symlink():
        return
    if expected.is_symlink() and expected.resolve() == target.resolve():
        return
    if expected.exists() and (expected.is_symlink() or any(expected.iterdir())):
        raise UserError(
            f"{expected} already has checkpoints, but checkpoints_path now says {target}; move them there (and leave a "
            "link), restore checkpoints_path, or start again with --force"
        )
    target.mkdir(parents=True, exist_ok=True)
    expected.parent.mkdir(parents=True, exist_ok=True)
    if expected.is_symlink():
        expected.unlink()
    elif expected.exists():
        expected.rmdir()
    expected.symlink_to(target.resolve(), target_is_directory=True)


def remove(run_root: Path) -> None:
    """For --force: what the link points to, and the link; a plain folder is the stage's own to remove."""
    link = run_root / "pretrain" / "checkpoints"
    if link.is_symlink():
        for inner in link.resolve().glob("*") if link.exists() else ():
            if inner.is_dir() and inner.name.isdigit():
                shutil.rmtree(inner)
        link.unlink()
