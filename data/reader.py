"""Reads a run's cleaned documents back: without the rows that deduplication removed, training or held-out part."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data.ledger import Ledger, byte_length


class CleanReader(PipelineStep):
    """Documents of ``data/<source>/*.parquet``; one task reads every ``world_size``-th file."""

    type = "📖 - READER"

    def __init__(
        self,
        source: str,
        folder: Path,
        removed: Path | None = None,
        holdout: float = 0.0,
        held_out: bool = False,
        ledger: Ledger | None = None,
    ) -> None:
        """
        Args:
            source: name, for the step.
            folder: of the parquet files.
            removed: folder with ``<file stem>.npy``, the rows that deduplication removed.
            holdout: share of the documents that is held out.
            held_out: read that share instead of the rest.
            ledger: counts documents and bytes.
        """
        self.name = f"cleaned {source}"
        super().__init__()
        self.folder, self.removed, self.holdout, self.held_out = folder, removed, holdout, held_out
        self.ledger = ledger

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # type: ignore[override]
        documents = size = 0
        for path in clean_files(self.folder)[rank::world_size]:
            for document in self._read(path):
                documents += 1
                size += byte_length(document.text)
                yield document
        if self.ledger is not None:
            self.ledger.count("documents", documents)
            self.ledger.count("bytes", size)
            self.ledger.write(rank)

    def _read(self, path: Path) -> Iterator[Document]:
        removed = removed_rows(self.removed, path)
        number = -1
        for row in iter_rows(path, ["id", "text", "text_hash"]):
            number += 1
            if number in removed:
                continue
            if self.holdout and is_held_out(row["text_hash"], self.holdout) != self.held_out:
                continue
            yield Document(text=row["text"], id=row["id"])


class FileReader(PipelineStep):
    """Every row of the given cleaned files, one file a task: a document's position is its row number."""

    type = "📖 - READER"
    name = "cleaned files"

    def __init__(self, files: list[Path]) -> None:
        super().__init__()
        self.files = files

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # type: ignore[override]
        for row in iter_rows(self.files[rank], ["id", "text"]):
            yield Document(text=row["text"], id=row["id"])


def clean_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.parquet"))


def iter_rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of one parquet file, a row group in memory at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, pre_buffer=False) as table:
        for group in range(table.num_row_groups):
            yield from table.read_row_group(group, columns=columns, use_threads=False).to_pylist()


def removed_rows(folder: Path | None, path: Path) -> frozenset[int]:
    if folder is None:
        return frozenset()
    marks = folder / f"{path.stem}.npy"
    return frozenset(np.load(marks).tolist()) if marks.exists() else frozenset()


def is_held_out(text_hash: bytes, share: float) -> bool:
    """By the text itself, so that equal texts are on the same side."""
    return int.from_bytes(text_hash[:8], "little") < share * 2**64
