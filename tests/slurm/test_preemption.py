"""A pretraining on four virtual nodes that is warned, or loses a node, ends with the weights of an undisturbed one."""

import json
import os
import re
import time

import pytest
from safetensors.torch import load_file

from tests.slurm.conftest import EVERY, STEPS


def weights(run):
    folder = run / "pretrain" / "checkpoints" / str(STEPS) / "model"
    return {str(p.relative_to(folder)): load_file(p)["data"] for p in sorted(folder.rglob("*.safetensors"))}


def assert_same(found, expected):
    assert found.keys() == expected.keys() and len(found) > 20
    for name in expected:
        assert found[name].equal(expected[name]), name


def steps(run):
    path = run / "pretrain" / "metrics.jsonl"
    return [json.loads(x)["step"] for x in path.read_text().splitlines()] if path.exists() else []


def wait_for_step(duetto, step, timeout=180):
    end = time.monotonic() + timeout
    while not any(s >= step for s in steps(duetto.run)):
        assert time.monotonic() < end, f"no step {step} in {timeout} s:\n{duetto.log('pretrain')}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, recipe, tokenized):
    """Final weights of the same training here, without SLURM: four gloo ranks on one machine."""
    import shutil

    from tests.slurm.conftest import Duetto

    home = tmp_path_factory.mktemp("undisturbed") / "home"
    shutil.copytree(tokenized, home)
    duetto = Duetto(home, recipe)
    duetto("pretrain", timeout=300)
    return weights(duetto.run)


def start(duetto, *args):
    duetto("submit", "--from", "pretrain", "--to", "pretrain", "--no-health", *args)
    return duetto.jobs()["pretrain"]


def test_a_warned_job_saves_returns_to_the_queue_and_ends_with_the_same_weights(ready, undisturbed, cluster):
    job = start(ready)
    wait_for_step(ready, 3)
    cluster.client("scancel", "--batch", "--signal=USR1", job)
    assert cluster.wait_job(job, ("COMPLETED",), 240) == "COMPLETED", ready.log("pretrain")
    log = ready.log("pretrain")
    took = re.search(r"checkpoint committed ([\d.]+) s after the warning", log)
    assert took, log
    print(f"from the warning to a committed checkpoint: {took[1]} s")
    assert f"back to the queue as job {job}" in log and f"job {job}, start 2" in log
    assert steps(ready.run) == list(range(1, STEPS + 1))
    assert_same(weights(ready.run), undisturbed)


def test_a_node_without_power_costs_steps_but_no_exactness(ready, undisturbed, cluster):
    job = start(ready)
    wait_for_step(ready, EVERY + 2)
    lost = cluster.client("squeue", "-h", "-j", job, "-o", "%B")
    others = [n for n in cluster.client("scontrol", "show", "hostnames", cluster.client("squeue", "-h", "-j", job, "-o", "%N")).split() if n != lost]  # fmt: skip
    cluster.power_off(others[0])
    try:
        assert cluster.wait_job(job, ("COMPLETED",), 300) == "COMPLETED", ready.log("pretrain")
    finally:
        cluster.power_on(others[0])
    log = ready.log("pretrain")
    assert f"job {job}, start 2" in log, log
    assert re.search(r"continues from the checkpoint of step \d+", log), log
    assert steps(ready.run) == list(range(1, STEPS + 1))
    assert_same(weights(ready.run), undisturbed)


@pytest.mark.slow
@pytest.mark.skipif("DUETTO_LARGE" not in os.environ, reason="16 ranks need 8 GB: DUETTO_LARGE=1")
def test_eight_nodes_with_two_ranks_each_start_training(ready, cluster):
    job = start(ready, "pretrain.parallelism.dp=16", "cluster.nodes=8", "cluster.jobs.pretrain.nodes=8", "cluster.jobs.pretrain.gpus_per_node=2")  # fmt: skip
    try:
        wait_for_step(ready, 3, timeout=500)
        assert cluster.client("squeue", "-h", "-j", job, "-o", "%D") == "8"
    finally:
        cluster.client("scancel", job)
