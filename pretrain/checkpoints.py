"""Checkpoints that are whole or not there: nanotron's files, then a COMMIT marker with the size and hash of each.

`complete` finds what can be resumed from; `refuse_changes` compares what must not change; `Writer` writes in the
background, while training goes on, and prunes by rule. Light to import: the parent uses it too.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.files import disk_full, files_under, read_json, sha256_file, sync_folder, write_json
from pretrain.job import CheckpointOptions

COMMIT = "COMMIT"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a COMMIT marker."""

    step: int
    path: Path
    commit: dict[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        return dict(self.commit["identity"])


def verify(folder: Path, hashes: bool = True) -> Checkpoint:
    """The checkpoint in ``folder``.

    Raises:
        UserError: no COMMIT marker, or a file is missing, short or altered; the message names the file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder")
    if not (folder / COMMIT).is_file():
        raise UserError(
            f"{folder}: this checkpoint has no COMMIT marker, so it was not written to the end; use an earlier one, or "
            "delete the folder"
        )
    try:
        commit = json.loads((folder / COMMIT).read_text())
        files, step = commit["files"], int(commit["step"])
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder / COMMIT}: torn COMMIT marker; use an earlier checkpoint, or delete the folder"
        ) from None
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing, though COMMIT lists it; use an earlier checkpoint")
        if path.stat().st_size != entry["bytes"]:
            raise UserError(
                f"{path}: {path.stat().st_size} bytes, COMMIT says {entry['bytes']}; use an earlier checkpoint"
            )
        if hashes and sha256_file(path) != entry["sha256"]:
            raise UserError(f"{path}: its content differs from the hash in COMMIT; use an earlier checkpoint")
    return Checkpoint(step, folder, commit)


def steps_on_disk(root: Path) -> list[int]:
    """Steps of all folders, complete or not, oldest first."""
    return sorted(int(p.name) for p in root.iterdir() if p.name.isdigit()) if root.is_dir() else []


def complete(root: Path, up_to: int | None = None, hashes: bool = True) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that passes `verify`, and why newer ones did not, one line each."""
    torn: list[str] = []
    for step in reversed(steps_on_disk(root)):
        if up_to is not None and step > up_to:
            continue
        try:
            return verify(root / str(step), hashes), torn
        except UserError as e:
            torn.append(str(e))
    return None, torn


def refuse_changes(checkpoint: Checkpoint, identity: Mapping[str, Any], accept: bool) -> list[str]:
    """What differs between a checkpoint's identity and the present one, one line each.

    Raises:
        UserError: something differs and ``accept`` is false.
    """
    before, now = _flat(checkpoint.identity), _flat(identity)
    changed = [
        f"{k}: {before.get(k)!r} -> {now.get(k)!r}"
        for k in sorted(before.keys() | now.keys())
        if before.get(k) != now.get(k)
    ]
    if changed and not accept:
        raise UserError(
            f"{checkpoint.path} was trained with other settings ({'; '.join(changed)}): a continuation would be "
            "neither the old run nor the new one; restore them, start afresh with --force, or give --accept-change"
        )
    return changed


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        k: v for key, inner in value.items() for k, v in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def to_prune(steps: Sequence[int], options: CheckpointOptions) -> list[int]:
    """Steps that no rule keeps. ``steps`` are complete checkpoints."""
    ordered = sorted(steps)
    kept = set(ordered[-options.keep_last :]) | set(options.keep_steps)
    if options.keep_every:
        kept |= {s for s in ordered if s % options.keep_every == 0}
    return [s for s in ordered if s not in kept]


Write = tuple[Path, Callable[[Path], None]]


class Writer:
    """One rank's part in writing checkpoints: `start` returns at once, a thread writes.

    Every rank leaves a list of its files; the leader (rank 0, or the first rank of each node when the folder is not
    shared) waits for all lists, writes COMMIT and prunes. No collective is involved, so training is free to use them.
    """

    def __init__(self, root: Path, options: CheckpointOptions, rank: int, world: int, local: tuple[int, int]) -> None:
        """``local``: rank and number of ranks on this node."""
        self.root, self.options, self.rank = root, options, rank
        self.ranks = list(range(world)) if options.shared_filesystem else [rank - local[0] + i for i in range(local[1])]
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def start(self, step: int, writes: Sequence[Write], commit: Mapping[str, Any], wait: bool = False) -> None:
        """Write ``writes`` and, from the leader, COMMIT with ``commit``'s keys. Awaits the one before first."""
        self.wait()
        self.thread = threading.Thread(target=self._run, args=(step, list(writes), dict(commit)), name="checkpoint")
        self.thread.start()
        if wait or not self.options.background:
            self.wait()

    def wait(self) -> None:
        """Until the checkpoint under way is on disk. Raises what its thread met."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        self.check()

    def check(self) -> None:
        """Raises what the thread met, if it met something: a full disk must not go unnoticed until the end."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def _run(self, step: int, writes: list[Write], commit: dict[str, Any]) -> None:
        folder = self.root / str(step)
        try:
            self._write(folder, writes)
            if self.rank == self.ranks[0]:
                self._commit(folder, step, commit)
                self._prune()
        except OSError as e:
            shutil.rmtree(folder, ignore_errors=True)
            import errno

            self.error = disk_full(folder) if e.errno in (errno.ENOSPC, errno.EDQUOT) else e
        except BaseException as e:  # handed to the training loop by `check`
            self.error = e

    def _list(self, folder: Path, rank: int) -> Path:
        return folder / f".files-{rank}.json"

    def _write(self, folder: Path, writes: list[Write]) -> None:
        files = {}
        slow = float(os.environ.get("DUETTO_TEST_SLOW_WRITES", 0))  # widens the window that tests kill in
        for path, write in writes:
            time.sleep(slow)
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
            with open(path, "rb") as f:
                os.fsync(f.fileno())
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        write_json(self._list(folder, self.rank), files)

    def _commit(self, folder: Path, step: int, commit: dict[str, Any]) -> None:
        files: dict[str, Any] = {}
        for rank in self.ranks:
            listed, deadline = self._list(folder, rank), time.monotonic() + 1800
            while not listed.exists():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{folder}: rank {rank} did not finish its part of the checkpoint in 30 minutes")
                time.sleep(0.01)
            files |= read_json(listed)
        for inner in sorted({p.parent for p in files_under(folder)}):
            sync_folder(inner)
        for rank in self.ranks:
            self._list(folder, rank).unlink()
        write_json(folder / COMMIT, {"format": FORMAT, "step": step, **commit, "files": files})

    def _prune(self) -> None:
        done = [s for s in steps_on_disk(self.root) if (self.root / str(s) / COMMIT).is_file()]
        for step in to_prune(done, self.options):
            # COMMIT goes first: a half-deleted folder must not look complete.
            (self.root / str(step) / COMMIT).unlink()
            shutil.rmtree(self.root / str(step))
