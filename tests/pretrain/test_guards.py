"""Each guard fires: on numbers alone, and inside a real training run."""

import math
import time
from pathlib import Path

import numpy as np
import pytest

from duetto.errors import UserError
from pretrain import checkpoints, guards
from pretrain.job import GuardOptions
from tests.pretrain.conftest import MakeJob
from tests.pretrain.ranks import Ranks, train


def test_non_finite() -> None:
    guards.refuse_non_finite(7, 2.0, 1.0, None)
    for loss, norm in ((math.nan, 1.0), (2.0, math.inf)):
        with pytest.raises(UserError, match="step 7.*checkpoint of step 5 is intact"):
            guards.refuse_non_finite(7, loss, norm, 5)


def test_spikes() -> None:
    watch = guards.SpikeWatch(GuardOptions(spike_factor=6.0))
    rng = np.random.default_rng(0)
    falling = [8 - 5 * i / 500 + 0.05 * float(rng.normal()) for i in range(500)]
    assert not any(watch.spiking(x) for x in falling)
    assert watch.spiking(falling[-1] + 2.0) and not watch.spiking(falling[-1])
    again = guards.SpikeWatch(GuardOptions(spike_factor=6.0), watch.state)
    assert again.spiking(falling[-1] + 2.0)
    assert not guards.SpikeWatch(GuardOptions()).spiking(1e9)


def test_slow_ranks() -> None:
    assert guards.slow_ranks([0.1, 0.1, 0.2, 0.1], 1.5) == [2]
    assert guards.slow_ranks([0.1, 0.12], 1.5) == [] and guards.slow_ranks([0.1], 1.5) == []


def test_nan_stops_before_the_optimizer_step(make_job: MakeJob) -> None:
    """From step 4 on the loss is NaN: exit 2, the checkpoint of step 3 is whole, no weight has been touched since."""
    job = make_job(dp=2, steps=12, interval=3)
    result = Ranks(job, {"DUETTO_TEST_FAULT": "nan:4"}).wait()
    assert set(result.codes) == {2} and "step 4: loss nan" in result.log
    assert "the checkpoint of step 3 is intact" in result.log
    found, torn = checkpoints.complete(job.root / "checkpoints")
    assert found is not None and found.step == 3 and not torn
    assert [r["step"] for r in result.records] == [1, 2, 3]
    assert len(train(job).records) == 12  # without the fault it goes on to the end


def test_spiking_batch_is_skipped(make_job: MakeJob) -> None:
    watch = {"spike_factor": 6.0, "skip_spikes": True}
    job = make_job(dp=2, steps=60, rows=1, accumulation=1, guards=watch)
    records = Ranks(job, {"DUETTO_TEST_FAULT": "spike:55"}).wait().records
    assert [r["step"] for r in records if r.get("spike")] == [55] and records[54]["skipped"]
    assert len(records) == 60


def test_stalled_rank_is_named(make_job: MakeJob) -> None:
    job = make_job(dp=2, steps=12, guards={"stall_seconds": 3.0})
    result = Ranks(job, {"DUETTO_TEST_FAULT": "stall:5:1"}).wait()
    assert 1 in result.codes and "step 5 took more than 3 s" in result.log and "silent: rank 1" in result.log


def test_slow_rank_is_named(make_job: MakeJob) -> None:
    job = make_job(dp=2, steps=8, rows=8, accumulation=4)
    result = Ranks(job, {"DUETTO_TEST_FAULT": "slow:6:1"}).wait()
    slow = {r["step"]: r.get("slow_ranks") for r in result.records}
    assert slow[6] == [1]


def test_full_disk_leaves_no_torn_checkpoint(tmp_path: Path) -> None:
    """ENOSPC in the writer's thread reaches the training loop as one clear line."""
    import errno

    from pretrain.job import CheckpointOptions

    def full(path: Path) -> None:
        path.write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    writer = checkpoints.Writer(tmp_path, CheckpointOptions(interval=1), 0, 1, (0, 1))
    (tmp_path / "3").mkdir()
    writer.start(3, [(tmp_path / "3" / "a", full)], {"identity": {}})
    with pytest.raises(UserError, match="disk is full"):
        writer.wait()
    assert checkpoints.steps_on_disk(tmp_path) == []


def test_training_goes_on_while_a_checkpoint_is_written(make_job: MakeJob) -> None:
    """Slow writes do not slow the steps: the pause is the copy to host memory."""
    job = make_job(steps=40, interval=10)
    started = time.monotonic()
    result = Ranks(job, {"DUETTO_TEST_SLOW_WRITES": "0.1"}).wait()
    assert time.monotonic() - started > 2
    pauses = [r["seconds"]["checkpoint"] for r in result.records if "checkpoint" in r["seconds"]]
    assert pauses and pauses[0] < 0.5 and set(result.codes) == {0}


def test_wrong_world_size(make_job: MakeJob) -> None:
    job = make_job(dp=2)
    ranks = Ranks(job, {"WORLD_SIZE": "1", "RANK": "0"})
    result = ranks.wait()
    assert "dp 2 x tp 1 x pp 1 = 2 processes are configured, 1 were started" in result.log


def test_tokens_of_another_tokenizer(make_job: MakeJob) -> None:
    """Ids beyond the vocabulary are found before the embedding reads past its end."""
    result = Ranks(make_job(shape={"vocab_size": 256})).wait()
    assert result.codes == [2] and "the token files were made with another tokenizer" in result.log
