"""Skipping, continuing, and one process a run folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from duetto.errors import Preempted, StageFailed, UserError
from duetto.process import run_logged
from duetto.recipe import Recipe
from duetto.run import Run
from duetto.stage import Stage


def recipe(tmp_path, **resolved):
    return Recipe(
        file=Path("r.yaml"), name="t", languages=["en"], tokenizer="x", data=None, pretrain=[], sft=None, dpo=None,
        eval=None, release=None, cluster=None, run_root=tmp_path / "t", resolved=resolved,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    with Run(recipe(tmp_path)) as opened:
        yield opened


def counting(run, name="a", **kw):
    calls = []

    def work(job):
        calls.append(job.continued)
        (run.path(name)).mkdir(exist_ok=True)
        (run.path(name, "out.txt")).write_text(name)
        return {"n": len(calls)}

    return Stage(name=name, version=kw.pop("version", 1), work=work, outputs=[run.path(name)], **kw), calls


def test_unchanged_is_skipped_and_every_change_is_seen(run):
    stage, calls = counting(run, config={"k": 1})
    stage.execute(run)
    stage.execute(run)
    assert len(calls) == 1
    counting(run, config={"k": 1})[0].execute(run)
    for change in ({"config": {"k": 2}}, {"version": 2, "config": {"k": 2}}):
        changed, again = counting(run, **change)
        changed.execute(run)
        assert len(again) == 1, change
    run.path("a", "out.txt").write_text("longer than before")
    changed, again = counting(run, version=2, config={"k": 2})
    changed.execute(run)
    assert len(again) == 1
    changed.execute(run, force=True)
    assert len(again) == 2


def test_a_stage_downstream_follows_the_bytes_of_its_input(run):
    first, _ = counting(run, "a")
    second, calls = counting(run, "b", inputs=["a"])
    with pytest.raises(UserError, match="'a' is not done; run: duetto a"):
        second.execute(run)
    first.execute(run)
    second.execute(run)
    first.execute(run, force=True)  # the same bytes again
    second.execute(run)
    assert len(calls) == 1


def test_a_failed_stage_has_no_manifest_and_continues(run):
    seen = []

    def work(job):
        seen.append((job.continued, run.path("c", "part1").exists()))
        run.path("c").mkdir(exist_ok=True)
        run.path("c", "part1").write_text("x")
        if len(seen) == 1:
            raise RuntimeError
        return {}

    stage = Stage(name="c", version=1, work=work, outputs=[run.path("c")])
    with pytest.raises(RuntimeError):
        stage.execute(run)
    assert run.manifest("c") is None
    stage.execute(run)
    assert seen == [(False, False), (True, True)]
    assert set(run.manifest("c")["outputs"]) == {"c/part1"}


def test_partial_outputs_of_other_work_are_removed_unless_kept(run):
    for keeps in (False, True):
        run.path("d").mkdir(exist_ok=True)
        run.path("d", "stale").write_text("x")
        Stage(
            name="d", version=1, work=lambda job: {}, config=keeps, outputs=[run.path("d")], keeps_partial=keeps
        ).execute(run)
        assert run.path("d", "stale").exists() is keeps


def test_manifest_says_where_it_comes_from(run):
    stage, _ = counting(run)
    m = stage.execute(run)
    assert m == json.loads(run.path("manifests", "a.json").read_text())
    assert m["outputs"]["a/out.txt"]["bytes"] == 1 and len(m["outputs"]["a/out.txt"]["sha256"]) == 64
    assert m["versions"]["torch"] and m["git_commit"] and m["host"]["cpus"] >= 1 and m["metrics"] == {"n": 1}


def test_the_second_process_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=f"in use by process {os.getpid()}"), Run(recipe(tmp_path)):
        pass
    Run(recipe(tmp_path), lock=False).__enter__()  # readers are welcome


def test_a_read_only_home_is_one_line(tmp_path):
    (tmp_path / "t").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot write there"), Run(recipe(tmp_path)):
        pass


def script(tmp_path, body):
    path = tmp_path / "child.py"
    path.write_text(
        f"from duetto.process import worker_main\nfrom duetto.errors import *\ndef main():\n    {body}\nworker_main(main)\n"
    )
    return [sys.executable, str(path)]


def test_a_child_hands_its_errors_over(tmp_path):
    log = tmp_path / "x.log"
    with pytest.raises(UserError, match="^bad key$"):
        run_logged(script(tmp_path, "raise UserError('bad key')"), log)
    with pytest.raises(Preempted, match="^saved$"):
        run_logged(script(tmp_path, "raise Preempted('saved')"), log)
    with pytest.raises(StageFailed, match="ZeroDivisionError"):
        run_logged(script(tmp_path, "1 / 0"), log)
    with pytest.raises(UserError, match="disk is full"):
        run_logged(script(tmp_path, "raise OSError(28, 'No space left on device')"), log)
    assert "ZeroDivisionError" in log.read_text()


def test_killing_the_parent_kills_the_child(tmp_path):
    pid_file = tmp_path / "pid"
    child = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"import sys; from pathlib import Path; from duetto.process import run_logged; run_logged([sys.executable, '-c', {child!r}], Path({str(tmp_path / 'log')!r}))"
    process = subprocess.Popen([sys.executable, "-c", parent])
    end = time.monotonic() + 20
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    pid = int(pid_file.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    while time.monotonic() < end and Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.02)
    else:
        assert not Path(f"/proc/{pid}").exists()
