"""One node looks at itself and at its neighbours: what ``slurm.health`` runs on each node of an allocation.

    srun ... python -m slurm.node --folder SHARED --places /tmp /runs/demo --nodes node1 node2 [--gpus]

Writes <folder>/<node>.json. The reachability check is plain TCP; the all-reduce runs on NCCL where there are GPUs,
else on gloo.
"""

import argparse
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from duetto.files import write_json

QUERY = (
    "index",
    "memory.total",
    "memory.free",
    "ecc.errors.uncorrected.volatile.total",
    "clocks_throttle_reasons.hw_slowdown",
    "clocks_throttle_reasons.hw_thermal_slowdown",
    "clocks.sm",
    "clocks.max.sm",
)

MEGABYTES = 64
"""Size of the all-reduced buffer."""


def read_gpus(text: str) -> list[dict[str, Any]]:
    """Lines of ``nvidia-smi --query-gpu=<QUERY> --format=csv,noheader,nounits``; ``[N/A]`` counts as nothing wrong."""
    out = []
    for line in text.strip().splitlines():
        cells = [c.strip() for c in line.split(",")]
        numbers = [float(c) if re.fullmatch(r"-?[\d.]+", c) else 0.0 for c in cells]
        active = [name for name, cell in zip(("slowdown", "thermal"), cells[4:6]) if cell == "Active"]
        out.append(
            {
                "index": int(numbers[0]),
                "memory_total": numbers[1],
                "memory_free": numbers[2],
                "ecc_errors": int(numbers[3]),
                "throttled": ", ".join(active),
                "clock_mhz": numbers[6],
                "clock_max_mhz": numbers[7],
            }
        )
    return out


def gpu_report() -> dict[str, Any]:
    """GPUs as nvidia-smi sees them, and XID errors where the kernel log may be read."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
        )
    except FileNotFoundError:
        return {"gpus": [], "gpu_error": "not found, although the cluster file names a GPU"}
    except subprocess.TimeoutExpired:
        return {"gpus": [], "gpu_error": "no answer in 30 s"}
    if done.returncode:
        return {"gpus": [], "gpu_error": (done.stdout + done.stderr).strip()[:200]}
    return {"gpus": read_gpus(done.stdout), "xid": xid_errors()}


def xid_errors() -> list[str] | None:
    """XIDs of the last hour in the kernel log; None where it may not be read."""
    try:
        done = subprocess.run(["dmesg", "--time-format=iso"], capture_output=True, text=True, timeout=10)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - 3600))
    recent = [x for x in done.stdout.splitlines() if x[:19] >= since and "Xid" in x]
    return sorted({m[1] for x in recent if (m := re.search(r"Xid[^:]*: (\d+)", x.split("NVRM:")[-1]))})


def disk_gb(places: Sequence[str]) -> dict[str, float | None]:
    """Free space; None where nothing can be written."""
    out: dict[str, float | None] = {}
    for place in places:
        probe = Path(place) / f".probe-{socket.gethostname()}-{os.getpid()}"
        try:
            probe.write_text("x")
            probe.unlink()
            found = os.statvfs(place)
            out[place] = round(found.f_bavail * found.f_frsize / 1e9, 2)
        except OSError:
            out[place] = None
    return out


class Neighbours:
    """A listener on this node; ``unreachable`` knocks at all others until they answer or the time is up."""

    def __init__(self, port: int, node: str, addresses: Mapping[str, str]) -> None:
        self.node, self.port, self.addresses = node, port, addresses
        self.server = socket.socket()
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Bound to the address of this node's name: virtual nodes share one network.
        self.server.bind((socket.gethostbyname(addresses[node]), port))
        self.server.listen(256)
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(self.node.encode())

    def unreachable(self, seconds: float) -> list[str]:
        missing, end = [n for n in self.addresses if n != self.node], time.monotonic() + seconds
        while missing and time.monotonic() < end:
            missing = [n for n in missing if not self._reaches(n)]
            if missing:
                time.sleep(0.1)
        return missing

    def _reaches(self, node: str) -> bool:
        try:
            with socket.create_connection((self.addresses[node], self.port), timeout=2) as s:
                return s.recv(64).decode() == node
        except OSError:
            return False


def matmul_gflops(cuda: bool) -> float:
    """Best of a few bf16 matmuls on each GPU (the slowest GPU counts), or of float32 ones on the CPU."""
    if not cuda:
        import numpy

        small, ones = 256, numpy.ones((256, 256), numpy.float32)
        return 2 * small**3 / min(_timed(lambda: ones @ ones) for _ in range(20)) / 1e9
    import torch

    speeds, n = [], 8192
    for device in range(torch.cuda.device_count()):
        a = torch.randn(n, n, device=f"cuda:{device}", dtype=torch.bfloat16)

        def work(a: Any = a, device: int = device) -> None:
            a @ a
            torch.cuda.synchronize(device)

        for _ in range(3):
            work()
        speeds.append(2 * n**3 / min(_timed(work) for _ in range(10)) / 1e9)
    return min(speeds)


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def all_reduce_gbs(rank: int, world: int, head: str, port: int, cuda: bool, seconds: int) -> float:
    """Bus bandwidth of an all-reduce over one process a node: 2 (n - 1) / n x bytes / seconds."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    dist.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=f"tcp://{head}:{port}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=seconds),
    )
    size = MEGABYTES if cuda else MEGABYTES // 16
    buffer = torch.ones(size * 2**20 // 4, device="cuda:0" if cuda else "cpu")
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        dist.all_reduce(buffer)
        if cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    dist.barrier()
    dist.destroy_process_group()
    return 2 * (world - 1) / world * buffer.numel() * 4 / best / 1e9


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m slurm.node", description="report on this node")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--places", nargs="*", default=[])
    parser.add_argument("--nodes", nargs="+", required=True, metavar="NAME[=ADDRESS]")
    parser.add_argument("--gpus", action="store_true")
    args = parser.parse_args(argv)
    node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    port = int(os.environ.get("DUETTO_PORT", "29400"))
    addresses = {name: at or name for name, _, at in (n.partition("=") for n in args.nodes)}
    neighbours = Neighbours(port + 1, node, addresses)
    report: dict[str, Any] = {"asked_at": _reference(args.folder), "clock": time.time()}
    report |= {"disk_gb": disk_gb(args.places), **(gpu_report() if args.gpus else {})}
    cuda = False
    if args.gpus and not report.get("gpu_error"):
        import torch

        cuda = torch.cuda.is_available()
        report["torch_gpus"] = torch.cuda.device_count() if torch.version.cuda else None
    report["matmul_gflops"] = round(matmul_gflops(cuda), 1)
    report["unreachable"] = neighbours.unreachable(seconds=min(20, args.seconds / 3))
    out = args.folder / f"{node}.json"
    write_json(out, report)  # what is known so far: the all-reduce may hang
    if len(args.nodes) > 1 and not report["unreachable"]:
        rank, head = list(addresses).index(node), next(iter(addresses.values()))
        try:
            reached = all_reduce_gbs(rank, len(addresses), head, port, cuda, args.seconds // 2)
            report["all_reduce_gbs"] = round(reached, 3)
        except RuntimeError as e:  # torch raises nothing more specific for a lost peer
            report["all_reduce_error"] = str(e).splitlines()[0][:200]
        write_json(out, report)
    else:
        time.sleep(1)  # others may still be knocking


def _reference(folder: Path) -> float:
    """Now, by the clock of the file server: the same for all nodes."""
    probe = folder / f".clock-{socket.gethostname()}-{os.getpid()}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


if __name__ == "__main__":
    main()
