"""Decontamination: documents that share n-grams with the evaluation sets of the recipe are dropped.

The sets are those that the recipe's eval configuration names, no fixed list: local files of a task, or the Hub data set
behind it as ``duetto fetch`` brought it. Words are compared without case, accents and punctuation. Every n-gram of a
document is hashed with numpy and looked up in a sorted table, at some 8 MB of text a second.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from numpy.typing import NDArray

from data.blocks import CleanBlock
from data.config import Decontaminate
from data.ledger import Ledger
from duetto.errors import UserError
from duetto.recipe import ROOT, read_yaml
from duetto.run import Run

SHORTEST = 8
"""Words below which an item is no evidence: common phrases are that long."""

NOT_TEXT = frozenset({"id", "ind", "idx", "label", "answerKey", "answer", "url", "split", "subject", "language"})
"""Keys whose values name or classify an item."""

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

WORD = re.compile(r"\w+")

ACCENTS = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+")
"""Unicode's blocks of combining marks."""


def benchmark_files(run: Run) -> dict[str, str]:
    """Benchmark name to file, for every task of the recipe's eval configuration and ``decontaminate.files``.

    Raises:
        UserError: a data set of the Hub is not on this machine.
    """
    config = run.recipe.data.decontaminate
    files = {Path(f).stem: f for f in config.files}
    suite = run.recipe.eval
    for task in suite.tasks if suite is not None else []:
        for split, path in task.data.items():
            files[task.task if len(task.data) == 1 else f"{task.task}/{split}"] = path
        if not task.data:
            for number, path in enumerate(hub_files(run, task.task, suite.datasets)):
                files[f"{task.task}/{number}" if number else task.task] = str(path)
    return files


def hub_files(run: Run, task: str, folder: str | None) -> list[Path]:
    """Files of the data sets that an lm-eval task reads, in ``folder/<org>/<name>`` or the Hub's cache."""
    from data import hub

    table = read_yaml(ROOT / "configs" / "eval" / "datasets.yaml")
    found: list[Path] = []
    named = [d for d, entry in table.items() if any(task == t or task.startswith(f"{t}_") for t in entry["tasks"])]
    for dataset in named:
        commit = (hub.fetched(run, "eval", dataset) or {}).get("commit") or table[dataset].get("revision")
        where = Path(folder) / dataset if folder else _in_cache(dataset, commit)
        inside = sorted(p for p in where.rglob("*") if p.suffix in (".parquet", ".jsonl", ".json")) if where else []
        if not inside:
            raise UserError(
                f"decontamination: the data set {dataset} of task {task} is not on this machine; run `duetto fetch` "
                "where there is internet, or set data.decontaminate.enabled=false"
            )
        found += inside
    return found


def _in_cache(dataset: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(dataset, repo_type="dataset", revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return None


def read_items(path: str) -> Iterator[tuple[str, list[str]]]:
    """Id and texts of every item of a benchmark file."""
    if path.endswith(".parquet"):
        import pyarrow.parquet as pq

        records: Iterable[Any] = pq.read_table(path, use_threads=False).to_pylist()
    else:
        text = Path(path).read_text(encoding="utf-8")
        try:
            records = json.loads(text) if text.lstrip().startswith("[") else map(json.loads, text.splitlines())
        except json.JSONDecodeError as e:
            raise UserError(f"{path}: not a benchmark file in JSON lines ({e})") from None
    for number, record in enumerate(records):
        name = str(record.get("id", record.get("ind", number))) if isinstance(record, dict) else str(number)
        yield name, list(_texts(record))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in NOT_TEXT:
                yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


class WordHashes:
    """Words of a text as 64-bit hashes; the words seen so far are remembered."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __call__(self, text: str) -> NDArray[np.uint64]:
        from xxhash import xxh3_64_intdigest

        text = text.lower()
        if not text.isascii():
            text = ACCENTS.sub("", unicodedata.normalize("NFD", text))
        known = self._known
        if len(known) > 500_000:  # bounded: numbers and misspellings never end
            known.clear()
        words = WORD.findall(text)
        for word in set(words):
            if word not in known:
                known[word] = xxh3_64_intdigest(word)
        return np.fromiter(map(known.__getitem__, words), np.uint64, count=len(words))


def ngram_hashes(words: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """A hash of every run of ``n`` words: ``max(len(words) - n + 1, 0)`` values."""
    count = len(words) - n + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    out = np.zeros(count, np.uint64)
    for j in range(n):
        out = out * MULTIPLIER + words[j : j + count]  # modulo 2**64
    return out ^ (out >> np.uint64(29))


@dataclass
class Index:
    """N-grams of all benchmarks, sorted, with the item that each belongs to."""

    length: int
    hashes: NDArray[np.uint64]
    item: NDArray[np.int64]

    def __post_init__(self) -> None:
        """A table of the hashes' first bits rules out nearly every n-gram of a document with one look."""
        bits = min(max(16 * len(self.hashes), 2).bit_length(), 28)
        self.shift = np.uint64(64 - bits)
        self.maybe = np.zeros(1 << bits, bool)
        self.maybe[self.hashes >> self.shift] = True

    def found(self, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The different n-grams of the table that stand in a text."""
        grams = ngram_hashes(words, self.length)
        grams = np.unique(grams[self.maybe[grams >> self.shift]])
        left = np.searchsorted(self.hashes, grams, side="left")
        inside = left < len(self.hashes)
        return grams[inside][self.hashes[left[inside]] == grams[inside]]


class Benchmarks:
    """All items of the benchmark files, ready to be looked for."""

    def __init__(self, files: Mapping[str, str], ngram: int) -> None:
        hashes = WordHashes()
        self.items: list[tuple[str, str]] = []
        self.totals: list[int] = []
        self.too_short: dict[str, int] = {}
        by_length: dict[int, list[tuple[NDArray[np.uint64], int]]] = {}
        for benchmark, path in files.items():
            name = benchmark.partition("/")[0]
            for item, texts in read_items(path):
                parts = [hashes(t) for t in texts]
                grams = [ngram_hashes(p, ngram) for p in parts]
                length = ngram
                if not any(map(len, grams)):  # a short question: all of it, with its choices
                    whole = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
                    length = min(len(whole), ngram)
                    if length < SHORTEST:
                        self.too_short[name] = self.too_short.get(name, 0) + 1
                        continue
                    grams = [ngram_hashes(whole, length)]
                unique = np.unique(np.concatenate(grams))
                by_length.setdefault(length, []).append((unique, len(self.items)))
                self.items.append((name, item))
                self.totals.append(len(unique))
        self.tables = []
        for length, entries in sorted(by_length.items()):
            flat = np.concatenate([h for h, _ in entries])
            owner = np.concatenate([np.full(len(h), i, np.int64) for h, i in entries])
            order = np.argsort(flat, kind="stable")
            self.tables.append(Index(length, flat[order], owner[order]))
        self._hashes = hashes

    def find(self, text: str) -> dict[int, float]:
        """Items with an n-gram in the text, and the share of the item's n-grams that is there."""
        words = self._hashes(text)
        hits: dict[int, int] = {}
        for table in self.tables:
            for gram in table.found(words):
                a, b = np.searchsorted(table.hashes, gram, "left"), np.searchsorted(table.hashes, gram, "right")
                for item in table.item[a:b]:
                    hits[int(item)] = hits.get(int(item), 0) + 1
        return {item: n / self.totals[item] for item, n in hits.items()}


_loaded: dict[str, Benchmarks] = {}


class Decontamination(CleanBlock):
    """Drops a document with the reason ``contaminated:<benchmark>`` and records the items it held."""

    def __init__(self, files: Mapping[str, str], options: Decontaminate, ledger: Ledger) -> None:
        super().__init__("decontaminate", ledger)
        self.files, self.options = dict(files), options

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # type: ignore[override]
        for name in self.files:  # also those that no document holds: the matrix shows what was looked for
            self.ledger.contaminated(name.partition("/")[0], [])
        yield from super().run(data, rank, world_size)

    def apply(self, document: Document) -> str | None:
        benchmarks = self._benchmarks()
        found = benchmarks.find(document.text)
        found = {item: share for item, share in found.items() if share >= self.options.min_overlap}
        if not found:
            return None
        by_name: dict[str, list[str]] = {}
        for item in found:
            name, label = benchmarks.items[item]
            by_name.setdefault(name, []).append(label)
        for name, labels in by_name.items():
            self.ledger.contaminated(name, labels)
        most = max(sorted(by_name), key=lambda n: len(by_name[n]))
        return f"contaminated:{most}"

    def _benchmarks(self) -> Benchmarks:
        key = json.dumps([self.files, self.options.ngram])
        if key not in _loaded:
            _loaded[key] = Benchmarks(self.files, self.options.ngram)
        return _loaded[key]
