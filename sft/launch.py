"""Start Axolotl for a resolved YAML, in one process or under torchrun, and know where to continue a killed run."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from duetto.console import progress
from duetto.files import atomic_write
from duetto.process import run_logged

COMMIT = "COMMIT"

ENV = {"PYTHONDONTWRITEBYTECODE": ""}
"""Axolotl imports 6,700 modules: compiling them anew takes 20 CPU seconds a process, reading bytecode two."""


def write_config(path: Path, config: Mapping[str, Any], header: str) -> None:
    """The YAML that Axolotl reads; it can be run by hand with ``axolotl train``."""
    with atomic_write(path) as f:
        f.write(f"# {header}\n")
        yaml.safe_dump(plain(config), f, sort_keys=False, allow_unicode=True)


def plain(value: Any) -> Any:
    """Plain dicts and lists: PyYAML refuses to dump their subclasses."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list) else value


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def gpus() -> int:
    import torch

    return torch.cuda.device_count()


def processes(cpu: int) -> int:
    """Ranks of a run: one a GPU, or ``cpu`` without any; in a SLURM job of Duetto's as many on each of its nodes."""
    here = gpus() if has_cuda() else cpu
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) if "DUETTO_HEAD" in os.environ else 1
    return here * nodes


def command(config: Path, processes: int) -> list[str]:
    """Command line of a run; inside a SLURM job its driver spreads a torchrun command over the nodes."""
    worker = ["-m", "sft.worker", str(config)]
    if processes == 1:
        return [sys.executable, *worker]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *worker]


def committed(output: Path) -> list[Path]:
    """Complete checkpoints of an Axolotl run, oldest first."""
    found = [p for p in output.glob("checkpoint-*") if p.name.rsplit("-", 1)[1].isdigit() and (p / COMMIT).exists()]
    return sorted(found, key=lambda p: int(p.name.rsplit("-", 1)[1]))


def resume_point(output: Path) -> Path | None:
    """Clear what a kill left half done, and name the checkpoint to continue from.

    A checkpoint without COMMIT is torn. Prepared data without the gate's verdict may be torn too, and Axolotl's own
    process counter in there is wrong after a kill.
    """
    whole = committed(output)
    for path in output.glob("checkpoint-*"):
        if path not in whole:
            shutil.rmtree(path)
    if not (output / "gate.json").exists():
        shutil.rmtree(output / "prepared", ignore_errors=True)
    for name in ("process_counter.txt", "datasets_ready.flag"):
        (output / "prepared" / name).unlink(missing_ok=True)
    return whole[-1] if whole else None


def run(config: Path, output: Path, processes: int, log: Path, title: str) -> list[dict[str, Any]]:
    """Run Axolotl to its end.

    Returns:
        The lines of ``metrics.jsonl``.

    Raises:
        UserError: the gate or Axolotl's own validation refused the input.
        StageFailed: anything else; the message holds the log's last lines.
    """
    metrics = output / "metrics.jsonl"
    with progress(title, total=1, unit="step") as bar:

        def poll() -> None:
            last = [x for x in read_metrics(metrics, last=4096) if "loss" in x]
            if last:
                bar.total = last[-1]["of"]
                bar.update(last[-1]["step"], f"loss {last[-1]['loss']:.3f}")

        run_logged(command(config, processes), log=log, poll=poll, env=ENV)
    return read_metrics(metrics)


def read_metrics(path: Path, last: int | None = None) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl, or those in its ``last`` bytes; a line that is half written is left out."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8") as f:
        f.seek(max(0, path.stat().st_size - last) if last else 0)
        return [json.loads(x) for x in f.read().splitlines() if x.startswith("{") and x.endswith("}")]


def loss_summary(lines: list[dict[str, Any]], window: int = 10) -> dict[str, float]:
    """First and last loss, each the mean of ``window`` logged steps (single steps are noisy)."""
    losses = [x["loss"] for x in lines if "loss" in x]
    window = max(1, min(window, len(losses) // 2))
    return {
        "loss_first": round(sum(losses[:window]) / window, 4),
        "loss_last": round(sum(losses[-window:]) / window, 4),
    }
