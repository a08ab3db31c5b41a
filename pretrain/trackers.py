"""metrics.jsonl forwarded to trackio, W&B or TensorBoard, as ``duetto.trackers`` asks.

All three stay on this machine: trackio and TensorBoard write below ``<run>/pretrain``, W&B too unless the user has set
WANDB_MODE=online. A tracker that fails is named and left out; the training and metrics.jsonl go on.
"""

import contextlib
import io
import os
from pathlib import Path
from typing import Any, Protocol

from duetto.console import log
from duetto.files import read_json, write_json
from pretrain.job import Job

VALUES = ("loss", "lr", "grad_norm", "tokens", "tokens_per_second", "step_seconds", "memory_bytes", "goodput", "mfu")
"""Of metrics.jsonl, as far as they are numbers."""


class Tracker(Protocol):
    def log(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """The configured trackers of one job; each step goes to each of them once, also over restarts."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.open: dict[str, Tracker | None] = dict.fromkeys(job.trackers)
        self.state = job.root / ".trackers.json"
        self.sent: dict[str, int] = read_json(self.state) if self.open and self.state.exists() else {}

    def log(self, records: list[dict[str, Any]], measured: list[dict[str, Any]]) -> None:
        steps: dict[int, dict[str, float]] = {}
        for r in records:
            steps.setdefault(r["step"], {}).update({k: r[k] for k in VALUES if isinstance(r.get(k), int | float)})
        for r in measured:
            steps.setdefault(r["step"], {})[f"validation/{r['source']}/bits_per_byte"] = r["bits_per_byte"]
        for name in list(self.open):
            new = {s: v for s, v in sorted(steps.items()) if s > self.sent.get(name, -1)}
            if not new:
                continue
            try:
                tracker = self.open[name] = self.open[name] or OPENERS[name](self.job)
                for step, values in new.items():
                    tracker.log(step, values)
                self.sent[name] = max(new)
            except Exception as e:  # a dashboard must never end a training
                log(f"pretrain: tracker {name} failed and is left out: {type(e).__name__}: {e}")
                del self.open[name]

    def close(self) -> None:
        for name, tracker in self.open.items():
            if tracker is not None:
                try:
                    tracker.close()
                except Exception as e:  # as above
                    log(f"pretrain: tracker {name} did not close: {type(e).__name__}: {e}")
        if self.sent:
            write_json(self.state, self.sent)


class Trackio:
    """Hugging Face's local dashboard: ``TRACKIO_DIR=<run>/pretrain/trackio trackio show``."""

    def __init__(self, job: Job) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(job.root / "trackio"))
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):
            self.run = trackio.init(project=_project(job), name=_name(job), resume="allow", embed=False)

    def log(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):
            trackio.finish()


class WandB:
    """Weights & Biases; ``wandb sync <run>/pretrain/wandb/offline-*`` uploads an offline run."""

    def __init__(self, job: Job) -> None:
        import wandb

        mode: Any = "online" if os.environ.get("WANDB_MODE") == "online" else "offline"
        self.run = wandb.init(
            project=_project(job), name=_name(job), id=_name(job), resume="allow", mode=mode, dir=str(job.root)
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        self.run.finish()


class TensorBoard:
    """``tensorboard --logdir <run>/pretrain/tensorboard``."""

    def __init__(self, job: Job) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(job.root / "tensorboard"))  # type: ignore[no-untyped-call]

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self.writer.close()  # type: ignore[no-untyped-call]


OPENERS: dict[str, Any] = {"trackio": Trackio, "wandb": WandB, "tensorboard": TensorBoard}


def _project(job: Job) -> str:
    return str(job.nanotron["general"]["project"])


def _name(job: Job) -> str:
    """One run in the tracker for all files of a recipe."""
    return f"{job.nanotron['general']['run']}-{Path(job.folder).parent.name}"
