"""The parent: torchrun for real, a lost worker, a request to stop, and the summary of a run."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from duetto.errors import Preempted, UserError
from pretrain import checkpoints, metrics
from pretrain.stage import summary, train
from tests.pretrain.conftest import MakeJob
from tests.pretrain.ranks import train as train_in_server


def test_lost_worker_and_request_to_stop(make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank is killed at step 7: torchrun restarts from step 5. Then SIGTERM: exit 3, and on to the end."""
    monkeypatch.setenv("DUETTO_TEST_FAULT", "kill:7:1")
    job = make_job(dp=2, steps=60, interval=5)
    job.root.mkdir(parents=True)
    log = tmp_path / "log"

    def ask() -> None:
        path = job.root / "metrics.jsonl"
        while not (path.exists() and any(r["step"] >= 20 for r in metrics.read(path))):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    with pytest.raises(Preempted, match="saved the checkpoint of step"):
        train(job, log)
    text = log.read_text(errors="replace")
    assert "exitcode: -9" in text or "Signal 9" in text or "SIGKILL" in text, text[-3000:]
    saved, _ = checkpoints.complete(job.root / "checkpoints")
    assert saved is not None and 20 <= saved.step < 60
    monkeypatch.delenv("DUETTO_TEST_FAULT")
    whole = train_in_server(make_job("whole", dp=2, steps=60, interval=5))
    resumed = train_in_server(job)
    assert resumed.losses == whole.losses  # each step once, and the same


def test_summary(make_job: MakeJob) -> None:
    job = make_job(dp=2, steps=8, validate=0)
    result = train_in_server(job)
    made = summary([job])
    assert made["steps"] == 8 and made["tokens"] == 8 * 16 * 64 and made["parameters"] > 50_000
    assert made["loss_first"] == result.losses[0] and made["validation"].keys() == {"held-out"}
    (job.root / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="0 records for 8 steps"):
        summary([job])
