"""What a person sees of a training: the live view, the trackers, the plots."""

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from duetto.files import atomic_write
from pretrain import follow, plots, trackers
from pretrain.follow import Follower, LiveView, NewRecords, sparkline
from pretrain.trackers import Trackers


def record(step: int, **more: Any) -> dict[str, Any]:
    values = {"step": step, "stage": 0, "tokens": step * 512, "loss": 6.0 - step / 10, "lr": 1e-3, "grad_norm": 1.0}
    return values | {"tokens_per_second": 1000.0, "memory_bytes": 10**9, "goodput": 0.9, "mfu": None} | more


def append(path: Path, *records: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as f:
        f.writelines(json.dumps(r) + "\n" for r in records)


def test_only_new_and_whole_records_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    new = NewRecords(path)
    assert new.read() == []
    append(path, record(1), record(2))
    with open(path, "a") as f:
        f.write('{"step": 3, "lo')
    assert [r["step"] for r in new.read()] == [1, 2]
    with open(path, "a") as f:
        f.write('ss": 1}\n')
    assert [r["step"] for r in new.read()] == [3]


def test_a_file_cut_back_by_a_resume_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    new = NewRecords(path)
    append(path, *(record(i) for i in range(1, 6)))
    assert len(new.read()) == 5
    with atomic_write(path) as f:  # as pretrain.metrics.truncate_after does it
        f.write(json.dumps(record(1)) + "\n")
    append(path, *(record(i) for i in range(2, 9)))  # longer than before within one poll
    assert [r["step"] for r in new.read()] == list(range(1, 9))


def test_live_view_shows_the_step_and_held_out_text(make_job: Any) -> None:
    view = LiveView(make_job(steps=20))
    view.update([record(i) for i in range(1, 11)], [{"step": 10, "source": "it", "bits_per_byte": 1.25, "loss": 2.0}])
    console = Console(width=100, record=True)
    console.print(view.render())
    text = console.export_text()
    for part in ("50.0%", "5.0000", "1,000", "n/a", "1.2500 bits per byte", "1.00 GB", "█", "▁"):
        assert part in text


def test_sparkline() -> None:
    assert sparkline([3.0, 2.0, 1.0], 8) == "█▅▁"
    assert len(sparkline(list(range(1000)), 64)) == 64 and sparkline([], 4) == "" and sparkline([1.0], 4) == "▁"


def test_plain_lines_in_a_log(make_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[float, str]] = []
    job = make_job(steps=20)

    class Bar:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None: ...
        def update(self, done: float, note: str = "") -> None:
            shown.append((done, note))

    monkeypatch.setattr(follow, "progress", Bar)
    with Follower(job) as follower:
        append(job.root / "metrics.jsonl", record(1), record(2))
        follower.poll()
        append(job.root / "metrics.jsonl", record(3))
    assert [d for d, _ in shown] == [2 * job.tokens_per_step, 3 * job.tokens_per_step]
    assert "step 3 loss 5.700" in shown[-1][1]


def feed(job: Any, first: int, last: int) -> None:
    sink = Trackers(job)
    sink.log(
        [record(i) for i in range(first, last + 1)],
        [{"step": last, "source": "it", "bits_per_byte": 1.5, "loss": 2.0}],
    )
    sink.close()


def test_tensorboard_gets_each_step_once(make_job: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = make_job(trackers=["tensorboard"])
    feed(job, 1, 5)
    feed(job, 4, 8)  # a resumed run reports 4 and 5 again
    events = EventAccumulator(str(job.root / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == list(range(1, 9))
    assert [e.value for e in events.Scalars("validation/it/bits_per_byte")] == [1.5, 1.5]


@pytest.mark.slow
def test_trackio_writes_to_the_run_folder(make_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job("some-run", trackers=["trackio"])
    monkeypatch.setenv("TRACKIO_DIR", str(job.root / "trackio"))
    import trackio.utils

    monkeypatch.setattr(trackio.utils, "TRACKIO_DIR", job.root / "trackio")
    monkeypatch.setattr(trackio.sqlite_storage, "TRACKIO_DIR", job.root / "trackio")
    feed(job, 1, 5)
    (database,) = (job.root / "trackio").glob("*.db")
    rows = sqlite3.connect(database).execute("select step, metrics from metrics order by step").fetchall()
    assert [step for step, _ in rows] == [1, 2, 3, 4, 5] and json.loads(rows[0][1])["loss"] == 5.9


@pytest.mark.slow
def test_wandb_stays_offline(make_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.modules.get("wandb", sys) is None:  # the engine was imported by another test of this process
        monkeypatch.delitem(sys.modules, "wandb")
    monkeypatch.setenv("WANDB_MODE", "disabled")  # what duetto sets where the user sets nothing
    monkeypatch.setenv("WANDB_SILENT", "true")
    job = make_job(trackers=["wandb"])
    job.root.mkdir(parents=True, exist_ok=True)
    feed(job, 1, 3)
    assert list((job.root / "wandb").glob("offline-run-*/*.wandb"))


def test_a_broken_tracker_is_left_out(make_job: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def broken(job: Any) -> None:
        raise ConnectionError("no route to host")

    job = make_job(trackers=["wandb", "tensorboard"])
    monkeypatch.setitem(trackers.OPENERS, "wandb", broken)
    feed(job, 1, 2)
    assert "tracker wandb failed and is left out: ConnectionError: no route to host" in capsys.readouterr().out
    assert (job.root / "tensorboard").is_dir()


def test_plots_of_a_finished_run(tmp_path: Path) -> None:
    assert plots.draw(tmp_path) == []
    append(tmp_path / "metrics.jsonl", *(record(i, spike=i == 7) for i in range(1, 30)))
    append(
        tmp_path / "validation.jsonl", *({"step": s, "source": "en", "bits_per_byte": 2 - s / 100} for s in (0, 10, 29))
    )
    made = plots.draw(tmp_path)
    assert [p.name for p in made] == ["training.png", "validation.png"]
    first = [p.read_bytes() for p in made]
    assert all(b.startswith(b"\x89PNG") and len(b) > 10_000 for b in first)
    assert [p.read_bytes() for p in plots.draw(tmp_path)] == first


def test_smooth() -> None:
    assert plots.smooth([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]
