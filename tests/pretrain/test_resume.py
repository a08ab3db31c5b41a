"""A resumed run is the uninterrupted one, bit for bit, whatever interrupted it."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from duetto.errors import UserError
from pretrain import checkpoints
from pretrain.job import Job
from tests.pretrain.conftest import MakeJob
from tests.pretrain.ranks import Ranks, Result, train

STEPS = 8
MUON = {"name": "muon", "muon_learning_rate": 0.02, "muon_weight_decay": 0.01}


def weights(job: Job, step: int) -> dict[str, bytes]:
    """All weights of a checkpoint, as bytes."""
    root = job.root / "checkpoints" / str(step) / "model"
    return {
        str(p.relative_to(root)): load_file(p)["data"].float().numpy().tobytes()
        for p in sorted(root.rglob("*.safetensors"))
    }


def journal(job: Job) -> list[tuple[int, float, float, float]]:
    lines = [json.loads(x) for x in (job.root / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"], r["grad_norm"], r["lr"]) for r in lines]


def copy_run(job: Job, name: str) -> Job:
    folder = job.root.parent.with_name(name) / "pretrain"
    shutil.copytree(job.root, folder)
    return job.model_copy(update={"folder": str(folder)})


TOPOLOGIES = {
    "fp32": {},
    "bf16-dp2": {"dp": 2, "dtype": "bfloat16"},
    "bf16-dp2-zero1": {"dp": 2, "dtype": "bfloat16", "zero": 1},
    "bf16-dp2-muon": {"dp": 2, "dtype": "bfloat16", "optimizer": MUON},
    "bf16-dp2-muon-zero1": {"dp": 2, "dtype": "bfloat16", "optimizer": MUON, "zero": 1},
    "bf16-tp2": {"tp": 2, "dtype": "bfloat16"},
    "bf16-pp2": {"pp": 2, "dtype": "bfloat16"},
    "reduce-scatter": {"tp": 2, "dtype": "bfloat16", "tp_mode": "REDUCE_SCATTER"},
    "bf16-dp2-tp2-zero1": {"dp": 2, "tp": 2, "dtype": "bfloat16", "zero": 1},
    "bf16-dp2-pp2-1f1b": {"dp": 2, "pp": 2, "dtype": "bfloat16", "pp_engine": "1f1b"},
}


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_bit_equal(name: str, make_job: MakeJob) -> None:
    """Eight steps in one go, and eight with the second half in new processes: same weights, same journal."""
    job = make_job(steps=STEPS, interval=4, validate=4, checkpoints={"keep_last": 5}, **TOPOLOGIES[name])
    train(job)
    again = copy_run(job, "again")
    shutil.rmtree(again.root / "checkpoints" / str(STEPS))  # back to step 4, with journals that run ahead
    train(again)
    assert weights(again, STEPS) == weights(job, STEPS)
    assert journal(again) == journal(job)
    assert (again.root / "validation.jsonl").read_text() == (job.root / "validation.jsonl").read_text()


@pytest.fixture
def uninterrupted(make_job: MakeJob) -> Result:
    return train(make_job("whole", dp=2, steps=40, interval=5, dtype="bfloat16", optimizer=MUON))


def test_sigkill_in_the_middle_of_a_checkpoint(uninterrupted: Result, make_job: MakeJob) -> None:
    """Killed while files are being written: the torn folder is ignored, the end is the same."""
    job = make_job("killed", dp=2, steps=40, interval=5, dtype="bfloat16", optimizer=MUON)
    first = Ranks(job, {"DUETTO_TEST_SLOW_WRITES": "0.05"})
    first.wait_for_step(17)
    first.kill()
    done, _ = checkpoints.complete(job.root / "checkpoints")
    folders = checkpoints.steps_on_disk(job.root / "checkpoints")
    assert done is None or folders[-1] > done.step  # the last one is torn, so the test tests something
    train(job)
    assert weights(job, 40) == weights(uninterrupted.job, 40)
    assert journal(job) == journal(uninterrupted.job)


def test_signal_saves_and_exits_with_3(uninterrupted: Result, make_job: MakeJob) -> None:
    job = make_job("asked", dp=2, steps=40, interval=1000, dtype="bfloat16", optimizer=MUON)
    ranks = Ranks(job)
    ranks.wait_for_step(3)
    os.kill(ranks.processes[1].pid or 0, signal.SIGUSR1)  # one rank is enough: the ranks agree
    result = ranks.wait()
    assert set(result.codes) == {3}, result.log
    saved, torn = checkpoints.complete(job.root / "checkpoints")
    assert saved is not None and 3 <= saved.step < 40 and not torn
    assert f"saved the checkpoint of step {saved.step}" in result.log
    train(job)
    assert weights(job, 40) == weights(uninterrupted.job, 40)


def test_torn_checkpoints_are_named_and_passed_over(uninterrupted: Result) -> None:
    """Without COMMIT, with a short file, with an altered one: the one before is used."""
    job = copy_run(uninterrupted.job, "torn")
    root = job.root / "checkpoints"
    (steps := checkpoints.steps_on_disk(root)) and len(steps) == 3
    newest, middle, oldest = (root / str(s) for s in reversed(steps[-3:]))
    (newest / checkpoints.COMMIT).unlink()
    file = next((middle / "optimizer").glob("*.pt"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    found, torn = checkpoints.complete(root)
    assert found is not None and found.path == oldest
    assert "no COMMIT marker" in torn[0] and str(newest) in torn[0]
    assert "differs from the hash" in torn[1] and str(file) in torn[1]
    with pytest.raises(UserError, match="no COMMIT marker"):
        checkpoints.verify(newest)
    short = next((middle / "optimizer").glob("*.pt"))
    short.write_bytes(data[:-10])
    with pytest.raises(UserError, match="bytes, COMMIT says"):
        checkpoints.verify(middle, hashes=False)
    train(job)
    assert weights(job, 40) == weights(uninterrupted.job, 40)


def test_changes_are_refused_with_the_difference(uninterrupted: Result) -> None:
    from pretrain.stage import continue_from

    job = uninterrupted.job
    other = job.model_copy(update={"identity": {**job.identity, "samples_per_step": 32}})
    with pytest.raises(UserError, match="samples_per_step: 16 -> 32.*--accept-change"):
        continue_from(other, accept_change=False)
    assert continue_from(other, accept_change=True) is not None


def test_a_finished_file_is_not_trained_again(make_job: MakeJob) -> None:
    """Its last checkpoint is pruned while the next file trains; and a horizon cut short does not start afresh."""
    from pretrain.stage import continue_from

    first = make_job(steps=6, interval=6, checkpoints={"keep_last": 1})
    start = {"stage": 1, "offset": 6, "init_from": str(first.root / "checkpoints" / "6")}
    second = first.model_copy(update=start)
    train(first)
    train(second)
    assert checkpoints.steps_on_disk(first.root / "checkpoints") == [12]
    found = continue_from(first, accept_change=False)
    assert found is not None and found.step >= first.last_step
    shorter = second.nanotron | {"tokens": second.nanotron["tokens"] | {"train_steps": 4}}
    with pytest.raises(UserError, match="beyond the last step now asked for, 10"):
        continue_from(second.model_copy(update={"nanotron": shorter}), accept_change=True)


def test_missing_resume_path_is_an_error(make_job: MakeJob, tmp_path: Path) -> None:
    result = Ranks(make_job(resume_from=str(tmp_path / "nowhere"))).wait()
    assert result.codes == [2] and "no such checkpoint folder" in result.log


def test_retention() -> None:
    from pretrain.job import CheckpointOptions

    options = CheckpointOptions(interval=10, keep_last=2, keep_every=50, keep_steps=[30])
    assert checkpoints.to_prune(range(10, 101, 10), options) == [10, 20, 40, 60, 70, 80]


def test_what_was_converted_is_kept(tmp_path: Path) -> None:
    from types import SimpleNamespace
    from typing import Any, cast

    from pretrain.prepare import converted

    for name, step in (("base", 40), ("base-20", 20)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "parity.json").write_text(json.dumps({"step": step}))
    assert converted(cast(Any, SimpleNamespace(root=tmp_path))) == [20, 40]
