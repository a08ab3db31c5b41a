"""The node check's judgement, one broken figure at a time."""

import socket
import subprocess
import threading

import pytest

from slurm.config import find
from slurm.health import judge
from slurm.node import Neighbours, disk_gb, read_gpus

LIMITS = find("a100-8x8").health
NODES = ("node1", "node2", "node3")
GPU = {"index": 0, "memory_total": 81920.0, "memory_free": 81000.0, "ecc_errors": 0, "throttled": ""}


def report(**changes):
    good = {
        "asked_at": 1000.0,
        "clock": 1000.02,
        "matmul_gflops": 250_000.0,
        "disk_gb": {"/tmp": 100.0, "/runs": 5000.0},
        "unreachable": [],
        "gpus": [GPU | {"index": i} for i in range(8)],
        "torch_gpus": 8,
        "xid": [],
    }
    return good | changes


def judged(expected=8, **second):
    return judge({"node1": report(), "node2": report(**second), "node3": report()}, NODES, LIMITS, expected)


def test_good_nodes_are_good():
    assert judged() == {}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"gpus": [GPU] * 7}, "7 GPUs of 8"),
        ({"gpus": [GPU | {"ecc_errors": 2}, *[GPU] * 7]}, "GPU 0: 2 uncorrected ECC errors"),
        ({"gpus": [GPU | {"memory_free": 10_000.0}, *[GPU] * 7]}, "10000 of 81920 MiB free, something runs there"),
        ({"gpus": [GPU | {"throttled": "thermal"}, *[GPU] * 7]}, "throttled by hardware (thermal)"),
        ({"gpus": [], "gpu_error": "no answer in 30 s"}, "nvidia-smi: no answer in 30 s"),
        ({"torch_gpus": 7}, "nvidia-smi shows 8 GPUs, torch 7"),
        ({"xid": ["79"]}, "XID errors in the kernel log: 79"),
        ({"matmul_gflops": 150_000.0}, "150000 GFLOP/s, 60 % of the median 250000"),
        ({"clock": 1007.0}, "clock +7.0 s away"),
        ({"disk_gb": {"/tmp": 0.5, "/runs": 5000.0}}, "0.5 GB free in /tmp"),
        ({"disk_gb": {"/tmp": 50.0, "/runs": None}}, "cannot write to /runs"),
        ({"unreachable": ["node3"]}, "cannot reach node3"),
    ],
)
def test_each_broken_figure_makes_its_node_bad_and_no_other(broken, reason):
    bad = judged(**broken)
    assert list(bad) == ["node2"] and reason in bad["node2"]


def test_a_node_without_report_is_bad():
    bad = judge({"node1": report(), "node3": report()}, NODES, LIMITS, 8)
    assert list(bad) == ["node2"] and "no report" in bad["node2"]


def test_a_node_that_nobody_reaches_is_the_bad_one_and_not_its_accusers():
    accusing = report(unreachable=["node3"])
    bad = judge({"node1": accusing, "node2": accusing, "node3": report()}, NODES, LIMITS, 8)
    assert bad == {"node3": "no other node can reach it"}


def test_a_batch_node_with_a_wrong_clock_does_not_condemn_the_others():
    late = [report(asked_at=1000.0, clock=1030.0) for _ in NODES]
    assert judge(dict(zip(NODES, late)), NODES, LIMITS, 8) == {}


def test_without_gpus_their_checks_are_skipped():
    assert judged(expected=None, gpus=[], gpu_error="no nvidia-smi") == {}


def test_bad_nodes_stay_excluded_and_the_rest_is_counted(tmp_path, monkeypatch):
    from slurm import health

    said = "node1 idle\nnode2 alloc\nnode3 down*\nnode4 mix\n"
    monkeypatch.setenv("SLURM_JOB_PARTITION", "batch")
    monkeypatch.setattr(health.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, said, ""))
    assert health.usable_nodes(()) == 3 and health.usable_nodes({"node2"}) == 2
    (tmp_path / "logs" / "slurm").mkdir(parents=True)
    (tmp_path / "logs" / "slurm" / "health-7.json").write_text('{"bad": {}, "excluded": {"node2": "7 GPUs of 8"}}')
    assert health.bad_nodes(tmp_path, "7") == {"node2": "7 GPUs of 8"} and health.bad_nodes(tmp_path, "8") == {}


def test_what_nvidia_smi_prints():
    text = "0, 81920, 81037, 0, Not Active, Not Active, 1410, 1410\n1, 81920, 80000, [N/A], Active, Active, 345, 1410\n"
    first, second = read_gpus(text)
    assert first == {**GPU, "memory_free": 81037.0, "clock_mhz": 1410.0, "clock_max_mhz": 1410.0}
    assert second["ecc_errors"] == 0 and second["throttled"] == "slowdown, thermal"


def test_disks(tmp_path):
    found = disk_gb([str(tmp_path), "/proc"])
    assert found[str(tmp_path)] > 0 and found["/proc"] is None and list(tmp_path.iterdir()) == []


def test_neighbours_reach_each_other_and_miss_the_dead():
    addresses = {"node1": "127.0.1.1", "node2": "127.0.1.2", "node3": "127.0.1.3"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ends = {n: Neighbours(port, n, addresses) for n in ("node1", "node2")}
    found = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: ends[n].unreachable(1.0)})) for n in ends]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == {"node1": ["node3"], "node2": ["node3"]}
