"""Muon: the ranks share the matrices out, and the result does not depend on how."""

import pytest

from tests.pretrain.conftest import MakeJob
from tests.pretrain.ranks import Ranks, train

MUON = {"name": "muon", "muon_learning_rate": 0.02, "weight_decay_exclude": [".*norm.*"]}


def test_shared_out_muon_is_muon(llama, make_job: MakeJob) -> None:  # type: ignore[no-untyped-def]
    """One rank, two, two with sharded states, two pipeline stages: the same losses."""
    start = {"init_from": str(llama.with_name("halves")), "model": {"rope_interleaved": False}, "optimizer": MUON}
    losses = {
        "one": train(make_job("one", rows=8, **start)).losses,
        "dp2": train(make_job("dp2", dp=2, **start)).losses,
        "zero1": train(make_job("zero1", dp=2, zero=1, **start)).losses,
        "pp2": train(make_job("pp2", pp=2, rows=8, **start)).losses,
    }
    for name in ("dp2", "zero1", "pp2"):
        assert losses[name] == pytest.approx(losses["one"], abs=2e-3), name  # bf16 iterations, batched differently
    assert losses["zero1"] == losses["dp2"]


def test_muon_learns_faster_here(make_job: MakeJob) -> None:
    """What it is for, at the demo's kind of budget."""
    adam = train(make_job("adam", steps=40, dtype="bfloat16")).losses
    muon = train(make_job("muon", steps=40, dtype="bfloat16", optimizer=MUON)).losses
    assert sum(muon[-5:]) < sum(adam[-5:]) - 0.2


def test_refused_under_tp(make_job: MakeJob) -> None:
    result = Ranks(make_job(tp=2, optimizer=MUON)).wait()
    assert set(result.codes) == {2} and "muon needs whole matrices" in result.log
