"""Rows of conversation data: jsonl, json, parquet, a folder of those, or a Hub data set that was fetched."""

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from duetto.errors import UserError

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".parquet")

BROKEN = object()
"""Stands for a line that is no JSON; the preparation counts it."""


def rows(entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """``(where, row)`` for each row of one Axolotl dataset entry; ``where`` is ``file:line``.

    Raises:
        UserError: a missing, empty, unreadable or truncated file, or a data set that is not on this machine.
    """
    path = Path(entry["path"])
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.name.endswith(SUFFIXES))
        if not files:
            raise UserError(f"{path}: no {', '.join(SUFFIXES)} file in this folder")
        for file in files:
            yield from _file(file)
    elif path.exists():
        yield from _file(path)
    elif path.is_absolute() or path.suffix or entry["path"].startswith("."):
        raise UserError(f"{path}: no such file (a path of sft.datasets)")
    else:
        yield from _hub(entry)


def _file(path: Path) -> Iterator[tuple[str, Any]]:
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; it should hold conversations")
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        elif path.suffix == ".json":
            yield from _json(path)
        else:
            yield from _jsonl(path)
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: unreadable or truncated ({e}); fetch or make it again") from None


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as f:
        for number, line in enumerate(f, 1):
            if line.strip():
                try:
                    yield f"{path}:{number}", json.loads(line)
                except ValueError:  # not JSON, or not UTF-8
                    yield f"{path}:{number}", BROKEN


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as e:
        raise UserError(f"{path}:{e.lineno}: not valid JSON ({e.msg}); a list of conversations is expected") from None
    if not isinstance(content, list):
        raise UserError(f"{path}: a list of conversations is expected, found {type(content).__name__}")
    for number, row in enumerate(content, 1):
        yield f"{path}[{number}]", row


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}[{number}]", row
    except pa.ArrowException as e:
        raise UserError(f"{path}: unreadable or truncated ({e}); fetch or make it again") from None


def hub_folder(name: str, revision: str | None = None) -> Path:
    """Where ``duetto fetch`` put a data set of the Hub.

    Raises:
        UserError: it is not on this machine.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    fetched = list(Path(constants.HF_HUB_CACHE).glob(f"datasets--{name.replace('/', '--')}/snapshots/*"))
    if revision is None and len(fetched) == 1:  # an evaluation set is fetched by its pinned commit, not as a branch
        return fetched[0]
    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise UserError(
            f"{name}: neither a file nor a data set that was fetched; where there is internet run: duetto fetch"
        ) from None


def _hub(entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    from datasets import load_dataset

    name, split = entry["path"], entry.get("split") or "train"
    folder = hub_folder(name, entry.get("revision"))
    try:
        found = load_dataset(str(folder), entry.get("name"), data_files=entry.get("data_files"), split=split)
    except (OSError, ValueError) as e:
        raise UserError(f"{name}: split {split!r} cannot be read ({str(e).splitlines()[0][:160]})") from None
    for number, row in enumerate(found, 1):
        yield f"{name}[{number}]", row
