"""Look at every node of an allocation before a launch, in seconds; name the bad ones.

    python -m slurm.health           # inside a job: all nodes; exit 0 good, 4 a bad node, 1 the check itself failed
    python -m slurm.health --bad     # the bad nodes of the last check of this job, comma separated

What each node reports is in slurm/node.py. The judgement is a pure function of the reports, so that the tests can break
each figure. GPU checks need ``gpu`` in the cluster file; without it they are skipped, and the check says so.
"""

import argparse
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from duetto.console import log
from duetto.errors import UserError
from duetto.files import read_json, write_json
from slurm.across import srun
from slurm.clients import hostnames, own_steps
from slurm.config import ClusterConfig, Health, find

GOOD, FAILED, BAD = 0, 1, 4

Report = Mapping[str, Any]
"""What one node says of itself: see slurm/node.py."""


def judge(reports: Mapping[str, Report], expected: Sequence[str], limits: Health, gpus: int | None) -> dict[str, str]:
    """Bad nodes with the reason.

    Args:
        reports: by node.
        expected: nodes of the allocation; one that reports nothing is bad.
        limits: of the cluster file.
        gpus: GPUs that each node must have; None when there are none to check.
    """
    bad = {node: "no report: it hangs or cannot start a process" for node in expected if node not in reports}
    matmul = [r["matmul_gflops"] for r in reports.values() if r.get("matmul_gflops")]
    median = statistics.median(matmul) if matmul else 0.0
    # The whole allocation is late together when the batch node's clock is off: the median is the reference.
    clock = statistics.median([r["clock"] - r["asked_at"] for r in reports.values()]) if reports else 0.0
    for node, r in reports.items():
        reasons = []
        if gpus is not None:
            reasons += _gpu_reasons(r, limits, gpus)
        if r.get("matmul_gflops") and r["matmul_gflops"] < limits.min_matmul * median:
            share = 100 * r["matmul_gflops"] / median
            reasons.append(f"matmul {r['matmul_gflops']:.0f} GFLOP/s, {share:.0f} % of the median {median:.0f}")
        skew = r["clock"] - r["asked_at"] - clock
        if abs(skew) > limits.max_clock_skew:
            reasons.append(f"clock {skew:+.1f} s away from the other nodes")
        for place, free in r["disk_gb"].items():
            if free is None:
                reasons.append(f"cannot write to {place}")
            elif free < limits.min_disk_gb:
                reasons.append(f"{free:.1f} GB free in {place}")
        if r["unreachable"]:
            reasons.append(f"cannot reach {', '.join(r['unreachable'])}")
        if reasons:
            bad[node] = "; ".join(reasons)
    # When everyone fails to reach one node, that node is bad and not its accusers.
    accused = [n for r in reports.values() for n in r["unreachable"]]
    for node in set(accused):
        if accused.count(node) >= max(1, len(reports) - 1):
            bad[node] = "no other node can reach it"
            for other, reason in list(bad.items()):
                if other != node and reason == f"cannot reach {node}":
                    del bad[other]
    return bad


def _gpu_reasons(r: Report, limits: Health, gpus: int) -> list[str]:
    if r.get("gpu_error"):
        return [f"nvidia-smi: {r['gpu_error']}"]
    out = []
    if len(r["gpus"]) != gpus:
        out.append(f"{len(r['gpus'])} GPUs of {gpus}")
    elif r.get("torch_gpus") is not None and r["torch_gpus"] != gpus:
        out.append(f"nvidia-smi shows {gpus} GPUs, torch {r['torch_gpus']}: driver too old, or a GPU that is lost")
    for gpu in r["gpus"]:
        name = f"GPU {gpu['index']}"
        if gpu["ecc_errors"]:
            out.append(f"{name}: {gpu['ecc_errors']} uncorrected ECC errors")
        if gpu["memory_free"] < limits.min_free_memory * gpu["memory_total"]:
            out.append(f"{name}: {gpu['memory_free']:.0f} of {gpu['memory_total']:.0f} MiB free, something runs there")
        if gpu["throttled"]:
            out.append(f"{name}: throttled by hardware ({gpu['throttled']})")
    if r.get("xid"):
        out.append(f"XID errors in the kernel log: {', '.join(r['xid'])}")
    return out


def check(cluster: ClusterConfig, run: Path) -> int:
    """Ask every node, print what was found, remember the bad ones."""
    started = time.monotonic()
    nodes = hostnames(os.environ["SLURM_JOB_NODELIST"])
    gpus = int(os.environ.get("SLURM_GPUS_ON_NODE") or 0) if cluster.gpu else None
    # Each node writes a file: output of srun is lost with the node that hangs it.
    folder = run / "logs" / "slurm" / f"health-{os.environ['SLURM_JOB_ID']}"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    places = [os.environ.get("TMPDIR", "/tmp"), str(run)]
    ask = [sys.executable, "-m", "slurm.node", "--folder", str(folder), "--seconds", str(cluster.health.seconds)]
    ask += ["--places", *places, "--nodes", *(f"{n}={address(n)}" for n in nodes), *(["--gpus"] if gpus else [])]
    try:
        done = subprocess.run(srun(len(nodes)) + ask, timeout=cluster.health.seconds, capture_output=True, text=True)
        said = done.stderr
    except subprocess.TimeoutExpired as e:
        said = e.stderr.decode(errors="replace") if e.stderr else ""
        for step in own_steps():  # srun is gone, its tasks may not be, and would hold the nodes
            subprocess.run(["scancel", "--signal=KILL", step], capture_output=True, timeout=30)
    reports = {p.stem: read_json(p) for p in folder.glob("*.json")}
    if not reports:
        log(f"node check: no node answered; srun said: {said[-500:]}")
        return FAILED
    bad = judge(reports, nodes, cluster.health, gpus)
    bandwidth = min((r["all_reduce_gbs"] for r in reports.values() if r.get("all_reduce_gbs")), default=None)
    slow_net = bandwidth is not None and bandwidth < cluster.health.min_bandwidth
    # What was bad at an earlier start of this job stays excluded: the list replaces the one before.
    excluded = {**bad_nodes(run, os.environ["SLURM_JOB_ID"]), **bad}
    found = {"nodes": reports, "bad": bad, "excluded": excluded, "all_reduce_gbs": bandwidth}
    write_json(folder.with_suffix(".json"), found)
    log(_line(reports, bad, gpus, bandwidth, time.monotonic() - started))
    for node, reason in sorted(bad.items()):
        log(f"node check: {node} is bad: {reason}")
    if slow_net and not bad:
        log(
            f"node check: all-reduce reaches {bandwidth:.2f} GB/s, less than health.min_bandwidth "
            f"{cluster.health.min_bandwidth:g}: look at NCCL_SOCKET_IFNAME and NCCL_IB_HCA, or lower the limit"
        )
        return FAILED
    if bad and (left := usable_nodes(excluded)) < len(nodes):
        log(
            f"node check: {len(nodes)} nodes are needed and {left} good ones are left in the partition: the job would "
            "wait for ever; ask for repair, or take fewer nodes (jobs.pretrain.nodes, and dp with it)"
        )
        return FAILED
    return BAD if bad else GOOD


def usable_nodes(excluded: Collection[str]) -> int:
    """Nodes of this job's partition that work, without the excluded ones."""
    ask = ["sinfo", "-h", "-N", "-p", os.environ["SLURM_JOB_PARTITION"], "-o", "%N %t"]
    lines = subprocess.run(ask, capture_output=True, text=True, timeout=60).stdout.splitlines()
    broken = ("down", "drain", "fail", "maint", "inval")
    return sum(1 for name, state in map(str.split, lines) if name not in excluded and not state.startswith(broken))


def address(node: str) -> str:
    """The name where it resolves, else what SLURM itself connects to."""
    try:
        socket.gethostbyname(node)
        return node
    except OSError:
        shown = subprocess.run(["scontrol", "-o", "show", "node", node], capture_output=True, text=True).stdout
        found = re.search(r" NodeAddr=(\S+)", shown)
        return found[1] if found else node


def _line(
    reports: Mapping[str, Report], bad: Mapping[str, str], gpus: int | None, bandwidth: float | None, seconds: float
) -> str:
    speeds = [r["matmul_gflops"] for r in reports.values() if r.get("matmul_gflops")]
    parts = [f"node check: {len(reports)} nodes in {seconds:.1f} s, {len(bad)} bad"]
    if speeds:
        parts.append(f"matmul {min(speeds):.0f} to {max(speeds):.0f} GFLOP/s")
    parts.append(f"all-reduce {bandwidth:.2f} GB/s" if bandwidth else "all-reduce not measured (one node)")
    parts.append("GPU checks skipped (no gpu in the cluster file)" if gpus is None else f"{gpus} GPUs a node")
    return ", ".join(parts)


def bad_nodes(run: Path, job: str) -> dict[str, str]:
    """Nodes that the checks of a job have found bad, with the reason."""
    found = run / "logs" / "slurm" / f"health-{job}.json"
    return dict(read_json(found)["excluded"]) if found.exists() else {}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m slurm.health", description="check the nodes of this job")
    parser.add_argument("--bad", action="store_true", help="only name the bad nodes of the last check")
    args = parser.parse_args(argv)
    run, job = Path(os.environ["DUETTO_RUN"]), os.environ["SLURM_JOB_ID"]
    if args.bad:
        sys.stdout.write(",".join(sorted(bad_nodes(run, job))) + "\n")
        return GOOD
    try:
        return check(find(os.environ.get("DUETTO_CLUSTER")), run)
    except UserError as e:
        sys.stderr.write(f"node check: {e}\n")
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
