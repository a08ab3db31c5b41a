"""Train the stages of a recipe; resumes by itself.

    duetto pretrain [--recipe FILE] [--dry-run] [--accept-change] [key=value ...]

The parent checks everything, starts torchrun with one process a rank, and shows metrics.jsonl as a progress bar. It
ends with 3 when a signal asked for an early end: the checkpoint is saved and the same command continues.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from duetto.console import log
from duetto.errors import Preempted, UserError
from duetto.process import run_logged
from duetto.run import Run
from duetto.stage import Job as Work
from duetto.stage import Stage
from pretrain import metrics, placement, plots
from pretrain.checkpoints import Checkpoint, complete, refuse_changes, verify
from pretrain.describe import describe
from pretrain.doctor import preflight
from pretrain.follow import Follower
from pretrain.job import Job
from pretrain.start import in_engine_format


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="check and print what would be trained, and stop")
    parser.add_argument(
        "--accept-change",
        action="store_true",
        help="continue a checkpoint although batch, data, seed or schedule changed",
    )


def run(run: Run, args: argparse.Namespace) -> None:
    from pretrain.prepare import jobs

    if getattr(args, "dry_run", False):
        log(describe(run.recipe))
        return
    run.require("tokenize")
    if args.force:
        placement.remove(run.root)
    planned = jobs(run)
    accept = getattr(args, "accept_change", False)
    root = run.path("pretrain")

    def work(_: Work) -> Mapping[str, Any]:
        preflight(run.recipe, run.root, accept)
        placement.place(run.recipe.pretrain, run.root)
        for job in planned:
            train(in_engine_format(job, run.logs / "convert.log"), run.logs / "pretrain.log", accept)
        plots.draw(root)
        return summary(planned)

    Stage(
        "pretrain",
        version=1,
        config=[{"identity": j.identity, "model": j.model.model_dump(mode="json")} for j in planned],
        inputs=["tokenize"],
        outputs=[root / "checkpoints", root / "metrics.jsonl", root / "validation.jsonl", root / "plots"],
        unhashed=["*.safetensors", "*.pt"],  # COMMIT has their hashes, and is hashed itself
        keeps_partial=True,
        work=work,
    ).execute(run, args.force)


def train(job: Job, log_file: Path, accept_change: bool = False) -> None:
    """Train one job to its last step, from its newest complete checkpoint.

    Raises:
        UserError: the input is wrong, a guard stopped the run, or what must not change has changed.
        Preempted: a signal asked for an early end; the checkpoint is saved.
    """
    found = continue_from(job, accept_change)
    if found is not None and found.step >= job.last_step:
        log(f"pretrain: step {job.last_step:,} is complete")
        return
    job_file = job.root / f"job-{job.stage}.json"
    job.save(job_file)
    done = found.step if found else job.offset
    if found is not None:
        log(f"pretrain: continues from the checkpoint of step {done:,}")
    with Follower(job) as follower:
        run_logged(command(job, job_file), log_file, env=environment(job), poll=follower.poll)
    outcome = complete(job.root / "checkpoints", hashes=False)[0]
    if outcome is None or outcome.step < job.last_step:
        at = outcome.step if outcome else 0
        raise Preempted(f"training ended at step {at:,} of {job.last_step:,}; run the same command again to continue")


def continue_from(job: Job, accept_change: bool) -> Checkpoint | None:
    """The checkpoint that the workers will continue, checked against the job; torn ones are named.

    A checkpoint of a later file of the recipe stands for this one's end, whose own may be pruned by now.
    """
    found, torn = complete(job.root / "checkpoints")
    for line in torn:
        log(f"pretrain: {line}")
    if found is not None and found.commit["stage"] > job.stage:
        return found
    if found is not None and found.step > job.last_step:
        beyond, (found, _) = found, complete(job.root / "checkpoints", up_to=job.last_step)
        if found is None or found.step <= job.offset:
            raise UserError(
                f"{beyond.path} is beyond the last step now asked for, {job.last_step:,}, and no earlier checkpoint is "
                "left: restore tokens.train_steps, or start afresh with --force"
            )
    if found is None or found.step <= job.offset:
        if found is None and torn:
            log("pretrain: no complete checkpoint, starts from the beginning")
        return verify(Path(job.resume_from)) if job.resume_from else None
    for line in refuse_changes(found, job.identity, accept_change):
        log(f"pretrain: accepted change: {line}")
    return found


def command(job: Job, job_file: Path) -> list[str]:
    """torchrun for one machine."""
    p = job.nanotron["parallelism"]
    world = p["dp"] * p["tp"] * p["pp"]
    torchrun = ["--standalone", "--nproc-per-node", str(world), "--max-restarts", str(job.max_restarts)]
    return [sys.executable, "-m", "pretrain.launch", *torchrun, "-m", "pretrain.worker", str(job_file)]


def environment(job: Job) -> dict[str, str]:
    out = {"OMP_NUM_THREADS": str(job.threads)}
    return out | ({"DUETTO_DEVICE": "cpu"} if job.device == "cpu" else {})


def summary(planned: list[Job]) -> dict[str, Any]:
    """What the manifest says of the whole training, from its journals."""
    root, last = planned[0].root, planned[-1]
    records = [r for r in metrics.read(root / "metrics.jsonl") if r["step"] <= last.last_step]
    if len(records) != last.last_step:
        raise UserError(f"{root / 'metrics.jsonl'}: {len(records)} records for {last.last_step} steps; it was edited")
    tail = records[-50:]
    measured = [r for r in metrics.read(root / "validation.jsonl") if r["step"] == last.last_step]
    seconds = sum(r["step_seconds"] for r in records)
    return {
        "steps": last.last_step,
        "tokens": records[-1]["tokens"],
        "parameters": parameters(last),
        "loss_first": records[0]["loss"],
        # One batch is noise; the mean of the last ones is what was reached.
        "loss_last": sum(r["loss"] for r in tail) / len(tail),
        "tokens_per_second": round(records[-1]["tokens"] / seconds, 1),
        "goodput": records[-1]["goodput"],
        "spikes": sum(1 for r in records if r.get("spike")),
        "peak_memory_bytes": max(r["memory_bytes"] for r in records),
        "validation": {r["source"]: {"loss": r["loss"], "bits_per_byte": r["bits_per_byte"]} for r in measured},
        "checkpoint": f"pretrain/checkpoints/{last.last_step}",
    }


def parameters(job: Job) -> int:
    from pretrain.arithmetic import parameters as count
    from pretrain.schema_model import LlamaShape

    known = {k: v for k, v in job.nanotron["model"]["model_config"].items() if k in LlamaShape.model_fields}
    return count(LlamaShape.model_validate(known))
