"""``duetto eval --checkpoints``: every committed checkpoint on the suite, curves over tokens, and a choice.

    duetto eval --checkpoints eval=configs/eval/base-progress.yaml
    duetto eval --checkpoints --watch      # goes on until pretraining is finished

Checkpoints are converted on the fly (in a process of the pretraining stage) and the converted copy is removed after
use. Results are in ``progress/step-<n>/``, curves in ``progress/curves.json`` and ``plots/``, the choice in
``choice.json``. The folder has a lock of its own: pretraining, which holds the run's, may be running.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from duetto.console import log
from duetto.errors import UserError
from duetto.files import write_json
from duetto.process import run_logged
from duetto.run import Run
from eval.config import EvalConfig
from eval.models import LocalModel
from eval.plots import progress_curve
from eval.progress import choose, curves
from eval.results import is_current, read_result

Measure = Callable[[LocalModel, Path], None]
"""Evaluates a model into a folder: given by the stage."""
Convert = Callable[[Run, int, Path], None]


def committed(run: Run, every: int) -> list[int]:
    """Steps of the checkpoints that were written to the end: every n-th, and the last."""
    found = sorted(int(p.parent.name) for p in run.path("pretrain", "checkpoints").glob("*/COMMIT"))
    return [step for i, step in enumerate(found) if (i + 1) % every == 0 or i == len(found) - 1]


def tokens_seen(run: Run) -> dict[int, int]:
    """Step to tokens, from the training metrics."""
    path = run.path("pretrain", "metrics.jsonl")
    if not path.exists():
        raise UserError(f"{path}: no such file; checkpoints are placed by the tokens that it records")
    out = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that is being written
        out[int(record["step"])] = int(record["tokens"])
    return out


def convert(run: Run, step: int, folder: Path) -> None:
    """A checkpoint as a Hugging Face folder, with the parity gate of the pretraining stage."""
    checkpoint = run.path("pretrain", "checkpoints", str(step))
    command = [sys.executable, "-m", "pretrain.convert", "to-hf", str(checkpoint), str(folder)]
    run_logged([*command, "--tokenizer", str(run.path("tokenizer"))], log=run.logs / "eval-checkpoints.log")


def average(folders: Sequence[Path], out: Path) -> None:
    """Write the mean of the weights of several models, summed in fp32 (or wider), stored in their own precision."""
    import torch
    from safetensors.torch import load_file, save_file

    total: dict[str, Any] = {}
    types: dict[str, Any] = {}
    for folder in folders:
        weights = {k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}
        if total and weights.keys() != total.keys():
            raise UserError(f"{folder}: other tensors than {folders[0]}; only checkpoints of one model can be averaged")
        for name, tensor in weights.items():
            wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
            types[name] = tensor.dtype
            total[name] = wide if name not in total else total[name] + wide
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folders[-1], out, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    mean = {name: (tensor / len(folders)).to(types[name]).contiguous() for name, tensor in total.items()}
    save_file(mean, out / "model.safetensors", metadata={"format": "pt"})


def follow(
    run: Run, config: EvalConfig, measure: Measure, watch: float | None = None, to_hf: Convert = convert
) -> dict[str, Any]:
    """Evaluate the committed checkpoints, then write curves and choice.

    Args:
        measure: evaluates a model into a folder, skipping what is current.
        watch: seconds between two looks for new checkpoints, until pretraining is finished; None looks once.
    """
    root = run.path("progress")
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(root / ".lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{root} is in use by another duetto eval --checkpoints; wait for it") from None
    with lock:
        content: dict[str, Any] = {}
        done: set[int] = set()
        while True:
            finished = watch is None or run.manifest("pretrain") is not None
            for step in (s for s in committed(run, config.progress.every) if s not in done):
                _evaluate(run, config, step, measure, to_hf)
                done.add(step)
                content = report(root, config)
            if finished:
                break
            time.sleep(watch or 0)
        if not done:
            raise UserError(f"{run.path('pretrain', 'checkpoints')}: no committed checkpoint to evaluate yet")
        if config.progress.average_last:
            content |= {"average": _average_last(run, config, sorted(done), measure, to_hf)}
            write_json(root / "curves.json", content)
        return content


def _evaluate(run: Run, config: EvalConfig, step: int, measure: Measure, to_hf: Convert) -> None:
    folder = run.path("progress", f"step-{step}")
    commit = run.path("pretrain", "checkpoints", str(step), "COMMIT")
    if all(_is_of(folder / f"{t.task}.json", commit) for t in config.selected):
        log(f"eval: step {step:,} is evaluated, kept")
        return
    model = run.path("progress", "models", str(step))
    shutil.rmtree(model, ignore_errors=True)
    to_hf(run, step, model)
    measure(_local(run, step, model), folder)
    (folder / "COMMIT").write_text(commit.read_text(encoding="utf-8"), encoding="utf-8")
    shutil.rmtree(model)


def _is_of(path: Path, commit: Path) -> bool:
    """Whether a result is intact and of the checkpoint that is on disk now (a run that began anew has other ones)."""
    copy = path.parent / "COMMIT"
    if not path.exists() or not copy.exists() or copy.read_text() != commit.read_text():
        return False
    return is_current(path, read_result(path)[0].fingerprint)


def _local(run: Run, step: int, folder: Path) -> LocalModel:
    tokens = tokens_seen(run).get(step)
    return LocalModel(f"step-{step}", folder, tuple(run.recipe.languages), step=step, tokens=tokens)


def report(root: Path, config: EvalConfig) -> dict[str, Any]:
    """Write curves, plots and choice from the results on disk."""
    wanted = {t.task for t in config.selected}
    results = [read_result(p)[0] for p in sorted(root.glob("step-*/*.json")) if p.stem in wanted]
    found = curves(config.selected, results)
    choice = choose(found)
    for curve in found:
        if curve["points"]:
            progress_curve(root / "plots" / f"{curve['task']}.svg", {**curve, "chosen": choice["step"]})
    content = {"curves": found, "choice": choice}
    write_json(root / "curves.json", content)
    write_json(root / "choice.json", choice)
    return content


def _average_last(
    run: Run, config: EvalConfig, steps: Sequence[int], measure: Measure, to_hf: Convert
) -> dict[str, Any]:
    """Scores of the mean of the last k checkpoints, beside the curves."""
    last = list(steps[-config.progress.average_last :])
    if len(last) < 2:
        raise UserError(
            f"progress.average_last={config.progress.average_last} needs two checkpoints; there is {len(last)}"
        )
    folders = []
    for step in last:
        folders.append(run.path("progress", "models", str(step)))
        if not (folders[-1] / "config.json").exists():
            to_hf(run, step, folders[-1])
    name = f"average-of-last-{len(last)}"
    out = run.path("progress", name, "model")
    average(folders, out)
    folder = run.path("progress", name)
    measure(LocalModel(name, out, tuple(run.recipe.languages), tokens=tokens_seen(run).get(last[-1])), folder)
    shutil.rmtree(run.path("progress", "models"))
    scores = {t.task: read_result(folder / f"{t.task}.json")[0].value for t in config.selected}
    return {"name": name, "steps": last, "scores": scores, "model": str(out)}
