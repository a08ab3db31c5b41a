"""The whole pipeline at a tiny size: once undisturbed, once killed in three stages, with the same weights at the end."""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from duetto.files import sha256_file
from tests.support.tiny import ROOT, demo_command, environment, run_folder

STAGES = ("tokenize", "pretrain", "convert", "sft", "eval", "card")


def kill_when(condition, home):
    """Start the demo, SIGKILL its parent process when ``condition()`` holds, and wait until no child writes any more."""
    process = subprocess.Popen(demo_command(), cwd=ROOT, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.xdist_group("demo")
def test_the_table_says_what_every_stage_made(tiny_home):
    printed = (tiny_home / "output.txt").read_text()
    for stage in STAGES:
        assert re.search(rf"^{stage}: done in", printed, re.M), stage
        assert re.search(rf"│ {stage} ", printed), stage
    for said in ("loss ", "max |logit difference|", "chance", "no context", "word overlap", "[en] >", "[it] >"):
        assert said in printed, said
    assert (run_folder(tiny_home) / "release" / "instruct" / "README.md").exists()
    assert str(run_folder(tiny_home) / "release" / "instruct" / "README.md") in printed


@pytest.mark.xdist_group("demo")
def test_a_second_run_skips_everything_in_seconds(tiny_home):
    started = time.monotonic()
    done = subprocess.run(
        ["make", "--no-print-directory", "demo", f"ARGS={' '.join(map(quoted, demo_command()[2:]))}"],
        cwd=ROOT, env=environment(tiny_home), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in STAGES:
        assert f"{stage}: unchanged, skipped" in done.stdout
    assert "starts" not in done.stdout
    assert time.monotonic() - started < 15


def quoted(text):
    return f"'{text}'"


@pytest.mark.xdist_group("demo-killed")
def test_killed_in_tokenize_pretrain_and_sft_it_ends_with_the_same_weights(tiny_home, tmp_path):
    run = run_folder(tmp_path)
    kill_when((run / "manifests" / "tokens-web_it.started.json").exists, tmp_path)
    assert not (run / "manifests" / "tokenize.json").exists()
    metrics = run / "pretrain" / "metrics.jsonl"
    kill_when(lambda: metrics.exists() and metrics.read_text().count("\n") >= 11, tmp_path)
    assert not (run / "manifests" / "pretrain.json").exists()
    kill_when(lambda: any((run / "sft").glob("checkpoint-*")), tmp_path)
    assert not (run / "manifests" / "sft.json").exists()
    done = subprocess.run(demo_command(), cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sft: continues" in done.stdout

    undisturbed = run_folder(tiny_home)
    weights = "base/model.safetensors"
    assert sha256_file(run / weights) == sha256_file(undisturbed / weights)
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 25))
    losses = [[json.loads(x)["loss"] for x in (r / "pretrain" / "metrics.jsonl").open()] for r in (run, undisturbed)]
    assert losses[0] == losses[1]


@pytest.mark.xdist_group("demo")
def test_a_full_disk_leaves_nothing_torn_and_says_what_to_free(tmp_path):
    """A tmpfs of 3 MB; without the right to mount one, nothing can be said."""
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small]).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        done = subprocess.run(demo_command(), cwd=ROOT, env=environment(small), capture_output=True, text=True)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "disk is full" in done.stderr and "free some space" in done.stderr
        assert done.stderr.count("\n") == 1
        for path in run_folder(small).rglob("*.json"):
            json.loads(path.read_text())
        assert not (run_folder(small) / "manifests" / "tokenize.json").exists()
    finally:
        subprocess.run(["umount", small], check=True)
