"""Properties of the sample schedule: a permutation, balanced, the same on any topology."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.schedule import MAX_PERIOD, Interleave, apportion, permute


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 5000), key=st.text(min_size=1, max_size=8))
def test_permute_is_a_bijection(size, key):
    image = permute(np.arange(size), size, key)
    assert np.array_equal(np.sort(image), np.arange(size))


@settings(max_examples=40, deadline=None)
@given(size=st.integers(2, 10**12), key=st.text(min_size=1, max_size=8), start=st.integers(0, 10**12))
def test_permute_of_a_part_is_that_part_of_the_whole(size, key, start):
    """Any rank computes its own indices alone: no state, no order."""
    index = (start + np.arange(50)) % size
    together = permute(index, size, key)
    alone = np.array([permute(np.array([i]), size, key)[0] for i in index])
    assert np.array_equal(together, alone)
    assert together.min() >= 0 and together.max() < size


def test_another_key_is_another_order():
    a, b = (permute(np.arange(1000), 1000, key) for key in ("8/web/0", "8/web/1"))
    assert (a == b).sum() < 10
    assert np.array_equal(a, permute(np.arange(1000), 1000, "8/web/0"))


@pytest.mark.parametrize("size", [64, 1000, 4096, 100_003])
def test_no_visible_structure(size):
    """Positions and steps look uniform: chi-square of 16 x 16 cells within five sigma; neighbours do not stay together."""
    image = permute(np.arange(size), size, "structure")
    if size >= 4096:
        cells = np.histogram2d(np.arange(size), image, bins=16)[0]
        expected = size / 256
        chi2 = ((cells - expected) ** 2 / expected).sum()
        assert abs(chi2 - 255) < 5 * np.sqrt(2 * 255)
    assert np.abs(np.corrcoef(np.arange(size), image)[0, 1]) < 4 / np.sqrt(size)
    assert (np.abs(np.diff(image)) == 1).sum() <= 12  # two are expected


counts = st.lists(st.integers(0, 5000), min_size=1, max_size=8).filter(any)


@settings(max_examples=80, deadline=None)
@given(counts=counts, start=st.integers(0, 100_000))
def test_interleave_ranks_are_gapless_and_counts_exact(counts, start):
    order = Interleave(counts)
    k = np.arange(start, start + order.period)
    source, rank = order.locate(k)
    before, after = order.drawn(start), order.drawn(start + order.period)
    for s, count in enumerate(counts):
        mine = rank[source == s]
        assert np.array_equal(mine, np.arange(before[s], after[s]))
        assert len(mine) == count  # any window of one period holds each source exactly as often as it should


@settings(max_examples=60, deadline=None)
@given(counts=counts, k=st.integers(0, 10_000_000))
def test_interleave_is_balanced_after_any_number_of_samples(counts, k):
    order = Interleave(counts)
    for s, drawn in enumerate(order.drawn(k)):
        assert abs(drawn - k * counts[s] / sum(counts)) <= len(counts)


def test_interleave_of_more_samples_than_fit_keeps_the_weights():
    order = Interleave([4 * 10**12, 4 * 10**12, 2 * 10**12])
    assert order.period <= MAX_PERIOD
    _, rank = order.locate(np.array([10**12, 10**12 + 1]))
    assert (rank >= 0).all() and (rank <= 10**12).all()
    assert np.allclose(np.array(order.drawn(10**12)) / 10**12, [0.4, 0.4, 0.2], atol=1e-8)


@given(weights=st.lists(st.floats(0.001, 1000), min_size=1, max_size=8), total=st.integers(0, 10**9))
def test_apportion_sums_up_and_is_near(weights, total):
    parts = apportion(weights, total)
    assert sum(parts) == total
    assert all(abs(p - total * w / sum(weights)) <= 1.001 for p, w in zip(parts, weights))
