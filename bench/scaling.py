"""Bytes that data parallelism moves in a step, against the formula, on 1, 2, 4 and 8 gloo ranks; and what 64 GPUs need.

    python -m bench.scaling [--ranks 1 2 4 8] [--steps 6] [--json FILE]

The ranks run the real trainer on the demo's model. What a rank sends is read from the kernel (bytes written by the
process); the formula is that of a ring all-reduce of float32 gradients, 2 (n - 1) / n x 4 x parameters. The prediction
for 8 x 8 A100 takes the same formula, the planner's compute time, and a bus bandwidth.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import finish, parser
from duetto.process import engine_env, run_logged
from duetto.recipe import ROOT, read_yaml, validate
from pretrain import arithmetic
from pretrain.config import PretrainConfig
from pretrain.devices import find
from pretrain.job import CheckpointOptions, DataStage, Job
from pretrain.mapping import model_options, optimizer_options, to_nanotron
from pretrain.plan import MFU

TOLERANCE = 1.05
"""Most that a rank may send, as a multiple of the formula; headers and the loss's own all-reduce are in it."""

BANDWIDTHS = (25e9, 100e9, 180e9)
"""Bus bandwidths of a 64-GPU all-reduce, bytes a second: one HDR card a node, four, and eight."""


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        return worker(Path(sys.argv[2]))
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    p.add_argument("--steps", type=int, default=6, help="the first two are left out of the averages")
    p.add_argument("--compute", type=float, help="measured seconds of a step's compute on one A100, for the prediction")
    args = p.parse_args()
    figures: dict[str, Any] = {}
    worst = 0.0
    print(f"{'ranks':>5} {'sent a rank and step':>22} {'formula':>12} {'ratio':>7} {'step':>9}")
    with tempfile.TemporaryDirectory() as scratch:
        for n in args.ranks:
            sent, formula, seconds = measure(n, args.steps, Path(scratch) / str(n))
            ratio = sent / formula if formula else None
            worst = max(worst, ratio or 0.0)
            shown = f"{ratio:.3f}" if ratio else "-"
            print(f"{n:>5} {sent / 1e6:>19.2f} MB {formula / 1e6:>9.2f} MB {shown:>7} {1000 * seconds:>6.0f} ms")
            figures[f"ranks_{n}"] = {"bytes": sent, "formula": formula, "ratio": ratio, "step_seconds": seconds}
    figures["prediction"] = predict(args.compute)
    finish("scaling", figures, {"worst_ratio": ("<=", TOLERANCE, worst)}, args.json)


def demo(dp: int) -> PretrainConfig:
    raw = read_yaml(ROOT / "configs" / "pretrain" / "demo.yaml")
    raw["parallelism"]["dp"] = dp
    found: PretrainConfig = validate(PretrainConfig, raw, "pretrain")
    return found


def measure(ranks: int, steps: int, folder: Path) -> tuple[float, float, float]:
    """Bytes sent by a rank in a step (mean over ranks and steps), the formula's, and the step's seconds."""
    job = make_job(demo(ranks), steps, folder)
    folder.mkdir(parents=True, exist_ok=True)
    job.save(folder / "job.json")
    command = [sys.executable, "-m", "pretrain.launch", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["-m", "bench.scaling", "--worker", str(folder / "job.json")]
    run_logged(command, folder / "log", env=engine_env() | {"DUETTO_DEVICE": "cpu"})
    told = [json.loads(p.read_text()) for p in sorted(folder.glob("sent-*.json"))]
    sent = [float(np.mean(np.diff(t["sent"][1:]))) for t in told]
    seconds = float(np.median(told[0]["seconds"][2:]))
    return float(np.mean(sent)), arithmetic.all_reduce_bytes(demo(ranks)), seconds


def make_job(config: PretrainConfig, steps: int, folder: Path) -> Job:
    tokens = folder / "tokens"
    tokens.mkdir(parents=True)
    generator = np.random.default_rng(0)
    generator.integers(4, config.model.shape.vocab_size, 200_000).astype("<u2").tofile(tokens / "000.ds")
    given = to_nanotron(config, checkpoints=folder / "pretrain" / "checkpoints", run_name="scaling")
    given["tokens"]["train_steps"] = steps
    return Job(
        folder=str(folder / "pretrain"),
        nanotron=given,
        model=model_options(config),
        # One all-gather of Muon would be added to what the formula counts.
        optimizer=optimizer_options(config).model_copy(update={"name": "adamW"}),
        schedule=config.optimizer.learning_rate_scheduler,
        data=[DataStage(name="random", folders=[str(tokens)], weights=[1.0])],
        checkpoints=CheckpointOptions(interval=10**6, keep_last=1, background=False),
        device="cpu",
    )


def worker(path: Path) -> None:
    """One rank: the trainer, with the kernel's count of written bytes noted after every step."""
    from duetto.process import worker_main

    def train() -> None:
        import torch

        from pretrain import compat

        torch.set_num_threads(1)
        compat.install()
        torch.distributed.init_process_group("gloo")
        from pretrain.trainer import Trainer

        class Counting(Trainer):
            sent: list[int]
            seconds: list[float]

            def _report(self, *args: Any, **kwargs: Any) -> None:
                self.sent.append(written())
                self.seconds.append(self.clock.elapsed)

            def save(self, step: int, wait: bool = False) -> None:
                """No checkpoint: its bytes are not the network's."""

        trainer = Counting(Job.load(path), None)
        trainer.sent, trainer.seconds = [], []
        trainer.run()
        trainer.close()
        told = {"sent": trainer.sent, "seconds": trainer.seconds}
        path.with_name(f"sent-{trainer.rank}.json").write_text(json.dumps(told))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()

    worker_main(train)


def written() -> int:
    """Bytes this process has handed to write calls, sockets included (gloo sends with writev)."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise RuntimeError("/proc/self/io has no wchar")


def predict(measured: float | None = None) -> dict[str, Any]:
    """Step of the flagship on 8 x 8 A100: compute at the planner's range, all-reduce at a range of bandwidths.

    Buckets are reduced during the backward pass, which is two thirds of the compute; what does not fit there is
    exposed, and so is the last bucket.

    Args:
        measured: seconds of forward and backward of one GPU's micro batch, in place of the planner's range.
    """
    raw = read_yaml(ROOT / "configs" / "pretrain" / "zagreus-0.4b-ita.yaml")
    config: PretrainConfig = validate(PretrainConfig, raw, "pretrain")
    device = find("A100-80GB")
    assert device is not None
    tokens = config.tokens_per_step / config.parallelism.world_size
    flops = arithmetic.flops_per_token(config.model.shape, config.tokens.sequence_length) * tokens
    moved = arithmetic.all_reduce_bytes(config)
    bucket = 2 * config.model.ddp_bucket_cap_mb * 2**20  # bf16 buckets, reduced in float32
    rows = []
    print(f"\nflagship on 8 x 8 {device.name}: {tokens:,.0f} tokens a GPU, {moved / 1e9:.2f} GB sent a rank and step")
    print(
        f"{'MFU':>5} {'compute':>9} {'bandwidth':>12} {'all-reduce':>11} {'exposed':>9} {'step':>8} {'tok/s/GPU':>10}"
    )
    for mfu in MFU if measured is None else [flops / device.peak_flops / measured]:
        compute = flops / device.peak_flops / mfu
        for bandwidth in BANDWIDTHS:
            reduce = moved / bandwidth
            exposed = max(reduce - compute * 2 / 3, min(reduce, 2 * bucket / bandwidth))
            step = compute + exposed
            print(
                f"{mfu:>5.0%} {compute:>7.3f} s {bandwidth / 1e9:>7.0f} GB/s {reduce:>9.3f} s {exposed:>7.3f} s "
                f"{step:>6.3f} s {tokens / step:>10,.0f}"
            )
            rows.append({"mfu": mfu, "bandwidth": bandwidth, "compute": compute, "exposed": exposed, "step": step})
    return {"bytes": moved, "rows": rows}


if __name__ == "__main__":
    main()
