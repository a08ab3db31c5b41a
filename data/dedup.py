"""Deduplication across the sources of one language: exact, then MinHash.

The survivor of a group is its first document in the order of the sources in the configuration, then of files, then of
rows. What is removed is recorded as row numbers (``data/dedup/<source>/<file>.npy``); cleaned files stay whole, so a
removed document can be looked up with its survivor (``pairs.jsonl`` has ten of each kind).
"""

import json
import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.config import DataConfig, Dedup, Executor, Source
from data.ledger import EXAMPLES, EXCERPT
from data.reader import clean_files, iter_rows
from duetto.files import atomic_write, write_json
from duetto.run import Run

Rows = list[NDArray[np.int64]]
"""Row numbers to remove, one array a file."""

Survivors = dict[tuple[int, int], tuple[int, int]]
"""(file, row) that was removed -> (file, row) that stays; for the examples only."""


def deduplicate(run: Run, config: DataConfig, sources: Mapping[str, Source]) -> dict[str, Any]:
    """Write the rows to remove for every source, ``summary.json`` and ``pairs.jsonl`` in ``data/dedup/``."""
    folder = run.path("data", "dedup")
    by_language: dict[str, list[str]] = {}
    for name, source in sources.items():
        if source.dedup:
            by_language.setdefault(source.language, []).append(name)
    summary: dict[str, dict[str, int]] = {name: {"exact": 0, "minhash": 0} for name in sources}
    pairs: list[dict[str, Any]] = []
    for language, members in by_language.items():
        files = [(name, path) for name in members for path in clean_files(run.path("data", name))]
        paths = [path for _, path in files]
        removed: Rows = [np.array([], np.int64) for _ in files]
        for kind, wanted in (("exact", config.dedup.exact), ("minhash", config.dedup.minhash)):
            if not wanted:
                continue
            if kind == "exact":
                found, survivors = exact_duplicates(paths)
            else:
                work = folder / f".minhash-{language}"
                found, survivors = near_duplicates(paths, config.dedup, config.executor, work)
                shutil.rmtree(work, ignore_errors=True)
            for i, (name, _) in enumerate(files):
                new = np.setdiff1d(found[i], removed[i])
                summary[name][kind] += len(new)
                removed[i] = np.union1d(removed[i], new)
            pairs += _examples(kind, language, files, survivors)
        for (name, path), rows in zip(files, removed):
            if len(rows):
                with atomic_write(folder / name / f"{path.stem}.npy", "wb") as f:
                    np.save(f, rows.astype(np.int64))
    with atomic_write(folder / "pairs.jsonl") as f:
        f.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
    write_json(folder / "summary.json", summary)
    return summary


def exact_duplicates(files: list[Path]) -> tuple[Rows, Survivors]:
    """Rows of each file whose text (white space aside) stands in an earlier row or file."""
    hashes = [_hashes(path) for path in files]
    starts = np.cumsum([0, *map(len, hashes)])
    if not starts[-1]:
        return [np.array([], np.int64) for _ in files], {}
    _, first, which = np.unique(np.concatenate(hashes), return_index=True, return_inverse=True)
    return _by_file(first[which.ravel()], starts)


def _by_file(keeper: NDArray[np.int64], starts: NDArray[np.int64]) -> tuple[Rows, Survivors]:
    """``keeper[i]`` is the document that stays for document i: split into files what is not its own keeper."""
    duplicate = np.flatnonzero(keeper != np.arange(len(keeper)))
    rows = [duplicate[(duplicate >= a) & (duplicate < b)] - a for a, b in pairwise(starts)]

    def place(document: int) -> tuple[int, int]:
        file = int(np.searchsorted(starts, document, side="right")) - 1
        return file, int(document - starts[file])

    step = max(len(duplicate) // EXAMPLES, 1)
    return rows, {place(d): place(keeper[d]) for d in duplicate[::step][:EXAMPLES]}


def _hashes(path: Path) -> NDArray[Any]:
    """The text hashes of a file: two 64-bit halves a row, comparable as one value."""
    import pyarrow.parquet as pq

    column = pq.read_table(path, columns=["text_hash"], use_threads=False)["text_hash"].combine_chunks()
    flat = np.frombuffer(b"".join(column.to_pylist()), "<u8").reshape(-1, 2)
    return np.ascontiguousarray(flat).view([("low", "<u8"), ("high", "<u8")]).ravel()


def near_duplicates(files: list[Path], config: Dedup, executor: Executor, work: Path) -> tuple[Rows, Survivors]:
    """Rows of each file that are near duplicates of an earlier document.

    Signatures and buckets are datatrove's MinHash steps, an array job each on SLURM. The clusters are ours: datatrove
    keeps whichever document its union-find ends at, here the first one stays.
    """
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupSignature

    from data.executor import run_tasks
    from data.reader import FileReader
    from data.words import FastWords

    setting = MinhashConfig(
        n_grams=config.ngram,
        num_buckets=config.buckets,
        hashes_per_bucket=config.hashes_per_bucket,
        seed=config.seed,
    )
    signatures, buckets = work / "signatures", work / "buckets"
    size = sum(f.stat().st_size for f in files) * 3  # parquet is compressed about so much
    words: Any = FastWords()
    run_tasks(
        [FileReader(files), MinhashDedupSignature(str(signatures), setting, language=words)],
        "minhash-signatures",
        len(files),
        work / "tasks-signatures",
        executor,
        size,
    )
    run_tasks(
        [MinhashDedupBuckets(str(signatures), str(buckets), config=setting)],
        "minhash-buckets",
        config.buckets,
        work / "tasks-buckets",
        executor,
        size // 4,
    )
    starts = np.cumsum([0, *(count_rows(f) for f in files)])
    edges = [np.fromfile(p, "<u4").reshape(-1, 4).astype(np.int64) for p in sorted(buckets.glob("*.dups"))]
    pairs = np.concatenate(edges) if edges else np.zeros((0, 4), np.int64)
    return _by_file(
        first_of_cluster(starts[pairs[:, 0]] + pairs[:, 1], starts[pairs[:, 2]] + pairs[:, 3], starts[-1]), starts
    )


def first_of_cluster(a: NDArray[np.int64], b: NDArray[np.int64], documents: int) -> NDArray[np.int64]:
    """For each document the first one that it is connected to by the pairs (a, b)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(documents, documents))
    count, label = connected_components(graph, directed=False)
    first = np.full(count, documents, np.int64)
    np.minimum.at(first, label, np.arange(documents))
    return first[label]


def count_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return pq.read_metadata(path).num_rows


def _examples(kind: str, language: str, files: list[tuple[str, Path]], survivors: Survivors) -> list[dict[str, Any]]:
    """The removed documents and their survivors, as text."""
    wanted: dict[int, set[int]] = {}
    for file, row in (*survivors.keys(), *survivors.values()):
        wanted.setdefault(file, set()).add(row)
    texts: dict[tuple[int, int], dict[str, str]] = {}
    for file, rows in wanted.items():
        source, path = files[file]
        for number, document in enumerate(iter_rows(path, ["id", "text"])):
            if number in rows:
                texts[file, number] = {"source": source, "id": document["id"], "text": document["text"][:EXCERPT]}
    return [
        {"kind": kind, "language": language, "removed": texts[gone], "kept": texts[kept]}
        for gone, kept in survivors.items()
    ]
