"""The learning rate against nanotron's own scheduler, and the drawn curve."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from pretrain.schedule import LRScheduler, learning_rate, multiplier, plot
from tests.pretrain.ranks import in_engine


def scheduler(**changes: object) -> LRScheduler:
    values: dict[str, object] = {"learning_rate": 3e-3, "lr_warmup_steps": 7, "lr_decay_starting_step": 30}
    return LRScheduler(**values | {"lr_decay_steps": 20, "min_decay_lr": 1e-4} | changes)


def test_equal_to_nanotron_step_by_step() -> None:
    in_engine(against_nanotron)


def against_nanotron() -> None:
    from nanotron.config import LRSchedulerArgs
    from nanotron.helpers import lr_scheduler_builder

    changes: list[dict[str, object]] = [{}, {"lr_warmup_steps": 0}, {"lr_decay_starting_step": 7, "lr_decay_steps": 43}]
    for style, warmup, change in itertools.product(("linear", "cosine"), ("linear", "constant"), changes):
        s = scheduler(lr_decay_style=style, lr_warmup_style=warmup, **change)
        assert s.problem(50) is None
        group = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=s.learning_rate)
        theirs = lr_scheduler_builder(
            SimpleNamespace(get_base_optimizer=lambda group=group: group), LRSchedulerArgs(**s.model_dump()), 50
        )
        expected = [s.learning_rate * theirs.lr_lambdas[0](step) for step in range(60)]
        assert [learning_rate(s, step) for step in range(60)] == pytest.approx(expected, rel=1e-12, abs=0)


def test_one_minus_sqrt_falls_first() -> None:
    s = scheduler(lr_decay_style="1-sqrt")
    assert learning_rate(s, 30) == 3e-3 and learning_rate(s, 50) == 1e-4
    assert learning_rate(s, 35) == pytest.approx(1e-4 + (3e-3 - 1e-4) * (1 - (5 / 20) ** 0.5))
    rates = [learning_rate(s, i) for i in range(30, 51)]
    assert rates == sorted(rates, reverse=True)
    assert rates[1] < learning_rate(scheduler(), 31)


def test_multiplier_scales_every_group_alike() -> None:
    s = scheduler()
    assert [multiplier(s, i) for i in (0, 7, 20)] == [0, 1, 1]
    assert multiplier(s, 50) == pytest.approx(1e-4 / 3e-3)


def test_plot_shows_the_curve() -> None:
    rows = plot(scheduler(), 50, width=50, height=5).splitlines()
    assert rows[0].startswith("3.0e-03") and rows[-1].rstrip().endswith("50 steps")
    top = rows[0].split("│")[1]
    # Stable from the end of the warm-up to the start of the decay, nothing before and after.
    assert top.startswith(" ") and 22 <= top.count("█") <= 28


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr_decay_steps": 10}, "ends at 40, but tokens.train_steps is 50"),
        ({"lr_decay_starting_step": None}, "lr_decay_starting_step is missing"),
        ({"min_decay_lr": None}, "min_decay_lr is missing"),
        ({"lr_decay_starting_step": 50, "lr_decay_steps": 0, "lr_warmup_steps": 0}, "both 0"),
    ],
)
def test_problems_are_named(change: dict, message: str) -> None:
    assert message in (scheduler(**change).problem(50) or "")
