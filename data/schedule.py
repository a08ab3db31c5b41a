"""The sample schedule: which window of which source is sample k of the run.

A pure function of (seed, mixture, k). Nothing is materialised: a source's windows are shuffled once per epoch by a
keyed bijection (an alternating Feistel network with cycle walking), and the sources are interleaved by a cascade of
Bresenham splits, so any rank jumps to any step in microseconds and memory depends on the number of sources only.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ROUNDS = 8
"""Each round mixes one half; 8 leave no visible structure even on domains of a few dozen windows (see tests)."""

MAX_PERIOD = 1 << 30
"""Products of two numbers below this fit in int64."""


@lru_cache(maxsize=4096)
def _round_keys(key: str) -> tuple[int, ...]:
    digest = hashlib.shake_256(key.encode()).digest(8 * ROUNDS)
    return tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(ROUNDS))


def _mix(x: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al., 2014), keyed."""
    x = x + np.uint64(key)  # wraps: uint64 arithmetic is modulo 2**64
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(index: Ints, size: int, key: str) -> Ints:
    """Image of ``index`` under a pseudo-random permutation of ``range(size)`` chosen by ``key``.

    Args:
        index: any shape, values in ``[0, size)``.
        size: number of elements; the domain of the network is the next power of two, so fewer than two walks are
            needed on average.
        key: text that names the permutation; another key gives an unrelated one.
    """
    if size <= 1:
        return np.zeros_like(index)
    bits = max((size - 1).bit_length(), 2)
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    keys = _round_keys(key)

    def network(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        high, low = x >> low_bits, x & low_mask
        for i, round_key in enumerate(keys):
            if i % 2:
                high = high ^ (_mix(low, round_key) & high_mask)
            else:
                low = low ^ (_mix(high, round_key) & low_mask)
        return (high << low_bits) | low

    out = network(np.asarray(index, dtype=np.uint64).ravel())
    outside = np.flatnonzero(out >= size)
    while len(outside):  # walk the cycle until it comes back inside: still a bijection of range(size)
        out[outside] = network(out[outside])
        outside = outside[out[outside] >= size]
    return out.astype(np.int64).reshape(np.shape(index))


class Interleave:
    """Balanced order of several sources: after any k samples, each source is within a few samples of its share.

    Source 0 is spread evenly among all samples, source 1 evenly among what is left, and so on. The pattern repeats
    after ``sum(counts)`` samples and each period holds exactly ``counts[s]`` samples of source ``s``.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        total = sum(counts)
        if total <= 0 or min(counts) < 0:
            raise ValueError(f"an interleave needs non-negative counts with a positive sum, got {list(counts)}")
        if total > MAX_PERIOD:
            counts = apportion([c / total for c in counts], MAX_PERIOD)
        self.counts = tuple(int(c) for c in counts)
        self.period = sum(self.counts)

    def locate(self, k: Ints) -> tuple[Ints, Ints]:
        """Source of each sample ``k``, and how many samples of that source came before it."""
        k = np.asarray(k, dtype=np.int64)
        cycle, rest = np.divmod(k, self.period)
        source = np.full(k.shape, -1, dtype=np.int64)
        rank = np.zeros_like(k)
        left = self.period
        for s, count in enumerate(self.counts):
            if count == 0:
                continue
            before = rest * count // left
            mine = (source < 0) & ((rest + 1) * count // left > before)
            source[mine] = s
            rank[mine] = (cycle * count + before)[mine]
            rest = rest - before
            left -= count
            if left == 0:
                break
        return source, rank

    def drawn(self, k: int) -> list[int]:
        """Samples of each source among the first ``k``."""
        cycle, rest = divmod(int(k), self.period)
        left, out = self.period, []
        for count in self.counts:
            before = rest * count // left if left else 0
            out.append(cycle * count + before)
            rest -= before
            left -= count
        return out


def apportion(weights: Sequence[float], total: int) -> list[int]:
    """Integers that sum to ``total``, as close to the weights as integers can be (largest remainders)."""
    norm = sum(weights)
    exact = [w / norm * total for w in weights]
    counts = [int(x) for x in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
