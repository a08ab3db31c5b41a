"""Budgets to weights and passes; what is refused, and what the message says."""

import pytest

from data.mixture import plan_stages, sampling_weights
from duetto.errors import UserError


def test_weights_sum_to_one_and_passes_follow():
    draws = sampling_weights(
        {"en": 400, "it": 400, "code": 200},
        {"en": 800, "it": 100, "code": 400},
        dict.fromkeys(("en", "it", "code"), 4.0),
        "s",
    )
    assert [d.weight for d in draws.values()] == [0.4, 0.4, 0.2]
    assert [d.epochs for d in draws.values()] == [0.5, 4.0, 0.5]


def test_too_small_a_corpus_names_source_passes_and_the_largest_budget():
    with pytest.raises(UserError) as e:
        sampling_weights({"it": 500}, {"it": 100}, {"it": 4.0}, "main")
    message = str(e.value)
    assert "source it" in message and "5.00 passes" in message and "largest budget that fits is 400" in message


def test_the_bound_holds_over_all_stages():
    budgets = {"first": {"it": 300}, "second": {"it": 200}}
    with pytest.raises(UserError, match=r"stage second.*largest budget that fits is 100"):
        plan_stages(budgets, {"it": 100}, {"it": 4.0})
    assert [s["tokens"] for s in plan_stages(budgets, {"it": 200}, {"it": 4.0})] == [300, 200]


def test_a_source_without_tokens():
    with pytest.raises(UserError, match="source it has a budget of 5 tokens but gave none"):
        sampling_weights({"it": 5}, {}, {"it": 4.0}, "main")
    with pytest.raises(UserError, match="sum to 0"):
        sampling_weights({"it": 0}, {"it": 5}, {"it": 4.0}, "main")
