"""Token shards to training samples: any sample, on any rank, at any time, without state.

``open_mixture(run.path("tokens", "mixture.json"), stage=0, sequence_length=256, seed=8).batch(0, 8)`` is int64
[8, 257]. A window is ``sequence_length + 1`` tokens and shares its last token with the next one, so that every token
of a shard is a target exactly once an epoch; what is left at the end of a shard (less than one window) is not used
and is counted in ``unused_tokens``.

Shards are read with ``preadv`` rather than mapped: as fast from the page cache, no resident memory that grows with
the corpus, and a shard truncated under the run is an error instead of a SIGBUS. Folders may be fsspec URLs.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.schedule import Interleave, apportion, permute
from data.shards import Shard, check_shards, folder_shards, read_text
from duetto.errors import UserError

OPEN_FILES = 256
"""File descriptors kept open; the usual soft limit is 1,024 a process."""

FULL_HASH_BELOW = 256 * 2**20
"""Mixtures smaller than this many bytes are hashed in full at open (0.2 s a GB); larger ones by sampled blocks."""


@dataclass
class Source:
    """The shards of one source and the windows they hold."""

    name: str
    shards: list[Shard]
    sequence_length: int
    key: str = ""
    """Names its shuffle; not the folder, so that data that was moved keeps its order."""
    window_ends: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        windows = [max(s.tokens - 1, 0) // self.sequence_length for s in self.shards]
        self.window_ends = np.cumsum(windows, dtype=np.int64)

    @property
    def windows(self) -> int:
        return int(self.window_ends[-1]) if len(self.window_ends) else 0

    @property
    def tokens(self) -> int:
        return sum(s.tokens for s in self.shards)

    def locate(self, window: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard and first token of each window."""
        shard = np.searchsorted(self.window_ends, window, side="right")
        before = np.where(shard > 0, self.window_ends[shard - 1], 0)
        return shard, (window - before) * self.sequence_length


class Mixture:
    """Several sources as one endless, shuffled, randomly addressable sequence of samples."""

    def __init__(
        self,
        sources: Sequence[Source],
        counts: Sequence[int],
        *,
        sequence_length: int,
        seed: int,
        eos_id: int | None,
        vocab_size: int | None,
        tokenizer_sha256: str | None,
        max_epochs: Mapping[str, float] | None = None,
    ) -> None:
        """
        Args:
            sources: where the windows are.
            counts: samples of each source in one stage; their ratios are the weights.
            sequence_length: tokens a model sees; a sample has one more.
            seed: of the shuffle.
        """
        for source, count in zip(sources, counts):
            if count and not source.windows:
                raise UserError(
                    f"source {source.name} has no window of {sequence_length + 1} tokens in its {len(source.shards)} "
                    "shards; give it more text, shorten the sequence, or set its weight to 0"
                )
        self.sources = list(sources)
        self.sequence_length, self.seed = sequence_length, seed
        self.eos_id, self.vocab_size, self.tokenizer_sha256 = eos_id, vocab_size, tokenizer_sha256
        self.interleave = Interleave(counts)
        self.total_samples = int(sum(counts))
        """Samples of the stage as budgeted; the sequence itself goes on for ever."""
        self.weights = {s.name: c / self.interleave.period for s, c in zip(sources, self.interleave.counts)}
        self.max_epochs = dict(max_epochs or {})
        self.epochs = self.epochs_after(self.total_samples)
        self.unused_tokens = {s.name: s.tokens - s.windows * sequence_length for s in sources}
        self._files: OrderedDict[str, Any] = OrderedDict()
        sizes = {s.token_size for source in sources for s in source.shards}
        if len(sizes) > 1:
            raise UserError(
                f"shards with {sorted(sizes)} bytes a token in one mixture: they are of different tokenizers"
            )
        self.dtype = np.dtype("<u2" if sizes == {2} else "<u4")

    def __len__(self) -> int:
        return self.total_samples

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides sample k: shards, weights, window, seed."""
        identity = {
            "seed": self.seed,
            "sequence_length": self.sequence_length,
            "counts": self.interleave.counts,
            "sources": [[s.key, *(x.identity() for x in s.shards)] for s in self.sources],
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def epochs_after(self, samples: int) -> dict[str, float]:
        """Passes over each source after so many samples."""
        drawn = self.interleave.drawn(samples)
        return {s.name: n / s.windows if n else 0.0 for s, n in zip(self.sources, drawn)}

    def require(self, samples: int) -> None:
        """Raises UserError when ``samples`` would pass over a source more often than its bound allows."""
        for name, epochs in self.epochs_after(samples).items():
            bound = self.max_epochs.get(name)
            if bound is not None and epochs > bound * 1.02:  # tails shorter than a window are not drawn: 2 % of grace
                most = int(samples * bound / epochs) * self.sequence_length
                raise UserError(
                    f"{samples * self.sequence_length:,} tokens need {epochs:.2f} passes over source {name} (bound: "
                    f"{bound:g}); at most {most:,} tokens fit; train fewer steps, add text, or raise max_epochs"
                )

    def locate(self, k: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Source, shard and first token of each sample: the way back from a sample to its documents."""
        k = np.asarray(k, dtype=np.int64)
        source, rank = self.interleave.locate(k)
        shard, start = np.zeros_like(k), np.zeros_like(k)
        for s in np.unique(source):
            mine = source == s
            origin = self.sources[s]
            epoch, place = np.divmod(rank[mine], origin.windows)
            window = np.empty_like(place)
            for e in np.unique(epoch):
                now = epoch == e
                window[now] = permute(place[now], origin.windows, f"{self.seed}/{origin.key}/{e}")
            shard[mine], start[mine] = origin.locate(window)
        return source, shard, start

    def batch(self, first: int, count: int) -> NDArray[np.int64]:
        """Samples ``first`` to ``first + count``: int64 [count, sequence_length + 1]."""
        return self.gather(np.arange(first, first + count, dtype=np.int64))

    def sample(self, k: int) -> NDArray[np.int64]:
        """Sample ``k``: int64 [sequence_length + 1]."""
        return self.gather(np.asarray([k], dtype=np.int64))[0]

    def gather(self, k: NDArray[np.int64]) -> NDArray[np.int64]:
        """Any samples, in the order asked: int64 [len(k), sequence_length + 1]."""
        source, shard, start = self.locate(k)
        rows = np.empty((len(k), self.sequence_length + 1), dtype=self.dtype)
        for i in range(len(k)):
            self._read(self.sources[source[i]].shards[shard[i]], int(start[i]), rows[i])
        return rows.astype(np.int64)

    def positions(self, tokens: NDArray[np.integer]) -> NDArray[np.int32]:
        """Position of each token inside its document, counted from the start of the window: int32, shape of ``tokens``.

        The end-of-text token is the last of its document, and never occurs inside one (data/encode.py), so documents
        are exactly the runs between them.
        """
        if self.eos_id is None:
            raise UserError("document positions need the end-of-text id of the tokenizer; give eos_id to open_folders")
        return document_positions(tokens, self.eos_id)

    def _read(self, shard: Shard, start: int, row: NDArray[Any]) -> None:
        wanted, offset = row.nbytes, start * self.dtype.itemsize
        if shard.remote:
            data = shard.read(offset, wanted)
            got = len(data)
            if got == wanted:
                row[:] = np.frombuffer(data, dtype=self.dtype)
        else:
            fd = self._files.get(shard.path)
            if fd is None:
                fd = self._files[shard.path] = os.open(shard.path, os.O_RDONLY)
                if len(self._files) > OPEN_FILES:
                    os.close(self._files.popitem(last=False)[1])
            else:
                self._files.move_to_end(shard.path)
            got = os.preadv(fd, [row.data.cast("B")], offset)
        if got != wanted:
            raise UserError(f"{shard.path}: read {got} of {wanted} bytes at {offset}; it was truncated during the run")

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_files": OrderedDict()}  # descriptors do not travel to worker processes

    def __del__(self) -> None:
        if "_files" in self.__dict__:
            self.close()


def document_positions(tokens: NDArray[np.integer], eos_id: int) -> NDArray[np.int32]:
    """``[5, EOS, 7, 8]`` -> ``[0, 1, 0, 1]``, along the last axis."""
    n = tokens.shape[-1]
    index = np.broadcast_to(np.arange(n, dtype=np.int32), tokens.shape)
    starts = np.zeros(tokens.shape, dtype=np.int32)
    np.multiply(index[..., 1:], tokens[..., :-1] == eos_id, out=starts[..., 1:])
    return index - np.maximum.accumulate(starts, axis=-1)


def open_mixture(path: Path | str, *, stage: int = 0, sequence_length: int, seed: int, verify: str = "auto") -> Mixture:
    """The mixture of one stage of a run, as written by ``duetto tokenize``.

    Args:
        path: tokens/mixture.json (a path or an fsspec URL).
        stage: index of the stage.
        sequence_length: tokens the model sees in a sample.
        seed: of the shuffle.
        verify: "full" hashes every shard, "quick" its size and sampled blocks, "auto" chooses by size.

    Raises:
        UserError: a shard is missing or changed, or the file is not a mixture.
    """
    path = str(path)
    folder = path.rsplit("/", 1)[0] if "/" in path else "."
    try:
        mixture = json.loads(read_text(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `duetto tokenize` first") from None
    except ValueError as e:
        raise UserError(f"{path}: not valid JSON ({e}); run `duetto tokenize --force`") from None
    stages = mixture["stages"]
    if not 0 <= stage < len(stages):
        raise UserError(
            f"{path}: stage {stage} asked for, but the data configuration has {len(stages)} "
            f"({', '.join(s['name'] for s in stages)}); add budgets for it under `stages`"
        )
    drawn = {name: d for name, d in stages[stage]["sources"].items() if d["tokens"]}
    token_size = mixture["token_size"]
    sources = []
    for name in drawn:
        shards = [Shard.from_record(folder, record, token_size) for record in mixture["sources"][name]["shards"]]
        sources.append(Source(name, shards, sequence_length, key=name))
    everything = [s for source in sources for s in source.shards]
    check_shards(everything, full=_full(verify, everything))
    samples = max(sum(d["tokens"] for d in drawn.values()) // sequence_length, 1)
    tokenizer = mixture["tokenizer"]
    return Mixture(
        sources,
        apportion([d["tokens"] for d in drawn.values()], samples),
        sequence_length=sequence_length,
        seed=seed,
        eos_id=tokenizer["eos_id"],
        vocab_size=tokenizer["vocab_size"],
        tokenizer_sha256=tokenizer["sha256"],
        max_epochs=mixture["max_epochs"],
    )


def open_folders(
    folders: Sequence[Path | str],
    weights: Sequence[float] | None = None,
    *,
    sequence_length: int,
    seed: int,
    samples: int | None = None,
    eos_id: int | None = None,
    vocab_size: int | None = None,
    token_size: int | None = None,
    tokenizer_sha256: str | None = None,
    max_epochs: float | None = None,
    verify: str = "auto",
) -> Mixture:
    """Folders of ``.ds`` files with weights, as a pretraining YAML names them under ``data_stages``.

    Args:
        folders: each is one source; all ``.ds`` files below it, in name order.
        weights: one per folder, any positive scale; without them each folder counts by its tokens.
        samples: length of the stage; without it, until the first source has been passed over once.
        token_size: bytes a token; by default read from the ``.metadata`` beside the shards, then from ``vocab_size``.
        tokenizer_sha256: of the tokenizer.json of the run; shards that name another one are refused.
        max_epochs: bound for every source; none by default.

    Raises:
        UserError: a folder has no shards, a shard is torn or of another tokenizer, the weights do not fit.
    """
    if weights is not None and len(weights) != len(folders):
        raise UserError(f"{len(folders)} dataset folders but {len(weights)} weights; give one weight a folder")
    if token_size is None and vocab_size is not None:
        token_size = 2 if vocab_size <= 65536 else 4
    sources = [
        Source(str(f), folder_shards(str(f), token_size, tokenizer_sha256), sequence_length, key=str(i))
        for i, f in enumerate(folders)
    ]
    everything = [s for source in sources for s in source.shards]
    check_shards(everything, full=_full(verify, everything))
    share = list(weights) if weights is not None else [s.windows for s in sources]
    norm = sum(share)
    if norm <= 0 or min(share) < 0:
        raise UserError(f"dataset weights {share} must be non-negative with a positive sum")
    if samples is None:
        samples = max(int(min(s.windows * norm / w for s, w in zip(sources, share) if w)), 1)
    period = max(samples, 10_000)  # short stages keep fine weights: the ratios come from the period, not the length
    mixture = Mixture(
        sources,
        apportion(share, period),
        sequence_length=sequence_length,
        seed=seed,
        eos_id=eos_id,
        vocab_size=vocab_size,
        tokenizer_sha256=tokenizer_sha256,
        max_epochs={s.name: max_epochs for s in sources} if max_epochs else None,
    )
    mixture.total_samples = samples
    mixture.epochs = mixture.epochs_after(samples)
    return mixture


def _full(verify: str, shards: Sequence[Shard]) -> bool:
    if verify not in ("auto", "full", "quick"):
        raise ValueError(f"verify is {verify!r}, not auto, full or quick")
    return verify == "full" or (verify == "auto" and sum(s.tokens * s.token_size for s in shards) < FULL_HASH_BELOW)
