"""Files that are either whole or absent: write beside, fsync, rename."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from duetto.errors import UserError


def disk_full(path: Path) -> UserError:
    """The one message for ENOSPC, wherever it strikes."""
    folder = path if path.is_dir() else path.parent
    try:
        free = f"{shutil.disk_usage(folder).free / 1e6:.0f} MB free"
    except OSError:
        free = "unknown free space"
    return UserError(
        f"the disk is full while writing {path} ({free}): free some space there (old runs and checkpoints are the "
        "largest) or set DUETTO_HOME to another disk, then run the same command again; finished work is kept"
    )


@contextmanager
def atomic_write(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that appears under ``path`` only when the block ends well.

    Raises:
        UserError: the disk is full; the half-written file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, mode, encoding=None if "b" in mode else "utf-8") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as e:
        beside.unlink(missing_ok=True)
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path) from e
        raise
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: Path | str, value: Any) -> None:
    with atomic_write(path) as f:
        json.dump(value, f, indent=1, ensure_ascii=False, sort_keys=False)
        f.write("\n")


def read_json(path: Path | str) -> Any:
    """Raises UserError when the file is missing or torn."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not valid JSON ({e}); delete it and run its stage again") from None


def sha256_file(path: Path | str) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hash of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


def files_under(path: Path) -> list[Path]:
    """The file itself, or every file of the folder, in a stable order; unfinished ``.part`` files are not files yet."""
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file() and not p.name.endswith(".part"))
    return [path] if path.is_file() else []
