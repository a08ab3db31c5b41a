"""The pretraining engine's speed and memory, against plain loops of the same model.

    python -m bench.pretrain --device cpu  [--json FILE]
    python -m bench.pretrain --device cuda [--sequence 4096] [--micro-batches 1 2 4 8 16 32] [--json FILE]

cpu: our trainer against a Hugging Face loop, step by step in turn, in tokens a CPU second; and the fused head and loss
against whole logits at 128,256 words. cuda: stock nanotron, Hugging Face compiled, and ours, in the flagship's shape,
each at its best micro batch. MFU is against the matmul rate measured here, full attention counted, and causal beside.
"""

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import finish, parser
from duetto.process import engine_env, run_logged
from duetto.recipe import ROOT, read_yaml, validate
from pretrain.arithmetic import flops_per_token
from pretrain.config import PretrainConfig

CPU_RATIO, MEMORY_RATIO, CPU_EXTRA = 0.95, 4.0, 1.10
STOCK_RATIO, MFU = 1.5, 0.45


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        return CHILDREN[sys.argv[2]](Path(sys.argv[3]))
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--sequence", type=int, default=4096, help="cuda: tokens of a window")
    p.add_argument("--micro-batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="cuda: tried in order")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if args.device == "cpu":
            on_cpu(Path(scratch), args.steps, args.json)
        else:
            config = load("zagreus-0.4b-ita", tokens__sequence_length=args.sequence)
            on_gpu(Path(scratch), config, "cuda", args.micro_batches, args.steps, args.json)


def load(name: str, **changes: Any) -> PretrainConfig:
    """A pretraining file with values changed: ``tokens__sequence_length=512``; dp 1, whatever the file says."""
    raw = read_yaml(ROOT / "configs" / "pretrain" / f"{name}.yaml")
    for path, value in {"parallelism__dp": 1, **changes}.items():
        *parents, last = path.split("__")
        at = raw
        for key in parents:
            at = at[key]
        at[last] = value
    found: PretrainConfig = validate(PretrainConfig, raw, "pretrain")
    return found


def child(name: str, folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Run one of CHILDREN in a process of its own."""
    path = folder / f"{name}-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(request))
    command = [sys.executable, "-m", "bench.pretrain", "--child", name, str(path)]
    run_logged(command, folder / "log", env=engine_env() | {"DUETTO_DEVICE": "cpu"})
    return dict(json.loads(path.with_suffix(".out").read_text()))


def on_cpu(folder: Path, steps: int, file: Path | None) -> None:
    pair = child("trainer", folder, {"steps": steps})
    print(f"{'':<24} {'tokens/CPU s':>14}")
    for name in ("plain", "ours"):
        print(f"{name:<24} {pair[name]:>14,.0f}")
    loss = {fused: child("head", folder, {"fused": fused, "steps": 3}) for fused in (False, True)}
    print(f"\n{'head and loss':<24} {'peak memory':>14} {'CPU s a step':>13}")
    for fused, label in ((False, "whole logits"), (True, "a slice at a time")):
        print(f"{label:<24} {loss[fused]['bytes'] / 1e9:>11.2f} GB {loss[fused]['seconds']:>13.2f}")
    ratio = pair["ratio"]
    memory, extra = loss[False]["bytes"] / loss[True]["bytes"], loss[True]["seconds"] / loss[False]["seconds"]
    finish(
        "pretrain-cpu",
        {"tokens_per_cpu_second": pair, "head_and_loss": {"whole": loss[False], "sliced": loss[True]}},
        {
            "tokens_per_cpu_second_ratio": (">=", CPU_RATIO, ratio),
            "peak_memory_ratio": (">=", MEMORY_RATIO, memory),
            "cpu_time_ratio": ("<=", CPU_EXTRA, extra),
        },
        file,
    )


def trainer(path: Path) -> None:
    """Our trainer and a Hugging Face loop on the same batch size and shape, one step of each in turn."""
    import torch

    torch.set_num_threads(1)
    from bench.scaling import make_job
    from bench.variants import hugging_face, plain_step
    from pretrain import compat

    compat.install()
    steps = json.loads(path.read_text())["steps"]
    config = load("demo", **MIDDLE)
    job = make_job(config, steps + 3, path.with_suffix(""))
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    store = torch.distributed.FileStore(str(path.with_suffix(".store")), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    from pretrain.trainer import Trainer

    model = hugging_face(config)
    plain = plain_step(model, model, config.model.dtype, "cpu", 1e-3)
    generator = np.random.default_rng(0)
    shape = (config.tokens.micro_batch_size, config.tokens.sequence_length + 1)
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}

    class InTurn(Trainer):
        def _set_learning_rate(self, updates: int) -> None:
            """The first thing of a step."""
            ids = torch.from_numpy(generator.integers(4, config.model.shape.vocab_size, shape))
            began = time.process_time()
            float(plain(ids))
            seconds["plain"].append(time.process_time() - began)
            self.began = time.process_time()
            super()._set_learning_rate(updates)

        def _report(self, step: int, loss: float, *args: Any, **kwargs: Any) -> None:
            super()._report(step, loss, *args, **kwargs)
            seconds["ours"].append(time.process_time() - self.began)

        def save(self, step: int, wait: bool = False) -> None:
            """No checkpoint: the plain loop writes none."""

    run = InTurn(job, None)
    run.run()
    run.close()
    torch.distributed.destroy_process_group()
    tokens = config.tokens_per_step
    told: dict[str, Any] = {k: tokens / statistics.median(v[3:]) for k, v in seconds.items()}
    # Neighbours in time are compared: what else runs on the machine touches both alike.
    told["ratio"] = statistics.median(p / o for p, o in zip(seconds["plain"][3:], seconds["ours"][3:]))
    path.with_suffix(".out").write_text(json.dumps(told))


MIDDLE = {
    # 5.9 M parameters, float32: large enough that products and not Python take the time.
    "model__model_config__hidden_size": 256,
    "model__model_config__num_hidden_layers": 6,
    "model__model_config__num_key_value_heads": 4,
    "model__model_config__intermediate_size": 704,
    "model__dtype": "float32",
    "optimizer__accumulate_grad_in_fp32": False,
    "optimizer__weight_decay_exclude_named_params": [],
    "tokens__micro_batch_size": 4,
}


def head(path: Path) -> None:
    """One 4 x 1024-token step of head and loss at 128,256 words: peak resident memory above the start, CPU seconds."""
    import torch

    torch.set_num_threads(1)
    from pretrain.linear_cross_entropy import linear_cross_entropy

    request = json.loads(path.read_text())
    tokens, width, words = request.get("tokens", 4096), 128, request.get("words", 128_256)
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = (0.02 * torch.randn(words, width)).requires_grad_()
    labels = torch.randint(0, words, (tokens,))
    average = torch.full((tokens,), 1 / tokens)
    seconds = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(request["steps"]):
        hidden.grad = weight.grad = None
        began = time.process_time()
        if request["fused"]:
            loss = linear_cross_entropy(hidden, weight, labels, average)
        else:
            loss = torch.nn.functional.cross_entropy(hidden @ weight.t(), labels)
        loss.backward()
        seconds.append(time.process_time() - began)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    told = {"bytes": peak, "seconds": min(seconds), "loss": float(loss.detach())}
    path.with_suffix(".out").write_text(json.dumps(told))


CHILDREN = {"trainer": trainer, "head": head}


def on_gpu(
    folder: Path, config: PretrainConfig, device: str, micro_batches: list[int], steps: int, file: Path | None
) -> None:
    """The three variants, each in a process of its own; also run on the CPU by the tests, in a tiny shape."""
    peak = matmul_rate(device)
    full = flops_per_token(config.model.shape, config.tokens.sequence_length)
    causal = flops_per_token(config.model.shape, config.tokens.sequence_length, causal=True)
    request = {"config": config.model_dump(mode="json", by_alias=True), "device": device, "steps": steps}
    request |= {"micro_batches": micro_batches, "warmup": 10 if device == "cuda" else 1}
    (folder / "request.json").write_text(json.dumps(request))
    print(f"{name_of(device)}: {peak / 1e12:.1f} TFLOP/s in a bf16 product; sequence {config.tokens.sequence_length}")
    print(f"{'':<7} {'micro batch':>11} {'tokens/s':>10} {'MFU full':>9} {'causal':>7} {'memory':>10}")
    best: dict[str, dict[str, Any]] = {}
    figures: dict[str, Any] = {"device": name_of(device), "matmul_flops": peak}
    environment = engine_env() | ({"DUETTO_DEVICE": "cpu"} if device == "cpu" else {})
    for name in ("stock", "hf", "ours"):
        run_logged(
            [sys.executable, "-m", "bench.variants", name, str(folder / "request.json")], folder / "log", environment
        )
        rows = json.loads((folder / f"{name}.json").read_text())
        for row in rows:
            row |= {
                "mfu_full": row["tokens_per_second"] * full / peak,
                "mfu_causal": row["tokens_per_second"] * causal / peak,
            }
            memory = f"{row['peak_bytes'] / 1e9:.1f} GB" if row["peak_bytes"] else "n/a"
            print(
                f"{name:<7} {row['micro_batch']:>11} {row['tokens_per_second']:>10,.0f} {row['mfu_full']:>9.1%} "
                f"{row['mfu_causal']:>7.1%} {memory:>10}"
            )
        figures[name], best[name] = rows, max(rows, key=lambda r: r["tokens_per_second"])
    ratio = best["ours"]["tokens_per_second"] / best["stock"]["tokens_per_second"]
    goals = {"against_stock": (">=", STOCK_RATIO, ratio), "mfu_full": (">=", MFU, best["ours"]["mfu_full"])}
    finish(f"pretrain-{device}", figures | {"best": best}, goals, file)


def matmul_rate(device: str) -> float:
    """FLOP/s of a bf16 product, 8192 cubed on a GPU."""
    import torch

    n = 8192 if device == "cuda" else 256
    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device=device) for _ in range(2))
    seconds = []
    for _ in range(12):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return float(2 * n**3 / min(seconds))


def name_of(device: str) -> str:
    import torch

    return str(torch.cuda.get_device_name()) if device == "cuda" else "CPU"


if __name__ == "__main__":
    main()
