"""Deduplication across the sources of one language: exact, then MinHash.

The survivor of a group is its first document in the order of the sources in the configuration, then of files, then of
rows. What is removed is recorded as row numbers (``data/dedup/<source>/<file>.npy``); cleaned files stay whole, so a
removed document can be looked up with its survivor.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.config import DataConfig, Source
from data.reader import clean_files
from duetto.files import atomic_write, write_json
from duetto.run import Run


def deduplicate(run: Run, config: DataConfig, sources: Mapping[str, Source]) -> dict[str, Any]:
    """Write the rows to remove for every source, and ``data/dedup/summary.json``."""
    by_language: dict[str, list[str]] = {}
    for name, source in sources.items():
        if source.dedup:
            by_language.setdefault(source.language, []).append(name)
    summary: dict[str, Any] = {name: {"exact": 0, "minhash": 0} for name in sources}
    for members in by_language.values():
        files = [(name, path) for name in members for path in clean_files(run.path("data", name))]
        removed = (
            exact_duplicates([path for _, path in files]) if config.dedup.exact else [np.array([], int)] * len(files)
        )
        for (name, _), rows in zip(files, removed):
            summary[name]["exact"] += len(rows)
        for (name, path), rows in zip(files, removed):
            if len(rows):
                with atomic_write(run.path("data", "dedup", name, f"{path.stem}.npy"), "wb") as f:
                    np.save(f, rows)
    write_json(run.path("data", "dedup", "summary.json"), summary)
    return summary


def exact_duplicates(files: list[Path]) -> list[NDArray[np.int64]]:
    """Rows of each file whose text (white space aside) stands in an earlier row or file."""
    hashes, sizes = [], []
    for path in files:
        found = _hashes(path)
        hashes.append(found)
        sizes.append(len(found))
    if not sum(sizes):
        return [np.array([], np.int64) for _ in files]
    everything = np.concatenate(hashes)
    _, first = np.unique(everything, return_index=True)
    duplicate = np.ones(len(everything), bool)
    duplicate[first] = False
    return [np.flatnonzero(part) for part in np.split(duplicate, np.cumsum(sizes)[:-1])]


def _hashes(path: Path) -> NDArray[Any]:
    """The text hashes of a file: two 64-bit halves a row, comparable as one value."""
    import pyarrow.parquet as pq

    column = pq.read_table(path, columns=["text_hash"], use_threads=False)["text_hash"].combine_chunks()
    flat = np.frombuffer(b"".join(column.to_pylist()), "<u8").reshape(-1, 2)
    return np.ascontiguousarray(flat).view([("low", "<u8"), ("high", "<u8")]).ravel()
