"""The graph of jobs behind ``duetto submit``, as plain data.

    tokenize -> pretrain (a chain of jobs) -> convert -> sft (-> dpo) -> eval-instruct -> eval (-> progress) -> card
                                                     \\-> eval-base --------------------/

A job is one script in slurm/ with its size from the cluster file. Which verbs there are, and what each needs, stands
here and nowhere else.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from duetto.errors import UserError
from duetto.recipe import Recipe, nearest
from slurm.config import ClusterConfig, minutes


@dataclass(frozen=True)
class EvalPart:
    """One array task of an evaluation."""

    model: str
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    name: str
    """Unique in the graph."""
    stage: str
    """Key of its size in the cluster file; what --from and --to name."""
    template: str
    """Script in slurm/ without ``.sh``."""
    verb: tuple[str, ...]
    """``duetto`` arguments."""
    needs: tuple[str, ...] = ()
    """Names of jobs that must have ended well."""
    manifest: str | None = None
    """Stage whose manifest says that the job is done; None for jobs without one."""
    links_left: int = 0
    """Jobs of the same chain behind this one."""
    parts: tuple[EvalPart, ...] = ()
    """Array tasks of an evaluation."""


def links(cluster: ClusterConfig, hours: float | None) -> int:
    """Jobs that one pretraining needs.

    Args:
        cluster: its ``jobs.pretrain.links`` wins.
        hours: the planner's upper estimate; None when it has none: then one job, which requeues itself.
    """
    size = cluster.size("pretrain")
    if size.links:
        return size.links
    if hours is None:
        return 1
    # What the warning takes away from each job; start-up is minutes in a day.
    usable = minutes(str(size.time)) / 60 - cluster.warning_seconds / 3600
    return max(1, math.ceil(hours / usable))


def eval_parts(recipe: Recipe, model: str) -> tuple[EvalPart, ...]:
    """Task groups of one model: one for each language of the suite."""
    by_language: dict[str, list[str]] = {}
    for entry in recipe.eval.selected:
        by_language.setdefault(entry.language, []).append(entry.task)
    return tuple(EvalPart(model, tuple(tasks)) for tasks in by_language.values())


def build(recipe: Recipe, chain: int = 1, fan_out: bool = False, progress: str | None = None) -> list[Job]:
    """Every job of a run, in an order in which each comes after what it needs.

    Args:
        recipe: decides whether there is post-training, and what is evaluated.
        chain: jobs in the chain of the pretraining, see ``links``.
        fan_out: evaluations are arrays, one for each model, and the last job only collects.
        progress: evaluate the checkpoints too, on this suite (a file; "" for the recipe's own).
    """
    jobs = [Job("tokenize", "tokenize", "tokenize", ("tokenize",), manifest="tokenize")]
    for i in range(chain):
        name = "pretrain" if chain == 1 else f"pretrain-{i + 1}"
        jobs.append(
            Job(name, "pretrain", "pretrain", ("pretrain",), (jobs[-1].name,), "pretrain", links_left=chain - 1 - i)
        )
    jobs.append(Job("convert", "convert", "stage", ("convert",), (jobs[-1].name,), "convert"))
    tuned = "convert"
    if recipe.sft is not None:
        jobs.append(Job("sft", "sft", "sft", ("sft",), ("convert",), "sft"))
        tuned = "sft"
    if recipe.dpo is not None:
        jobs.append(Job("dpo", "dpo", "sft", ("dpo",), (tuned,), "dpo"))
        tuned = "dpo"
    before: list[str] = [tuned]
    if fan_out:
        before = []
        for model, ready in (("base", "convert"), ("instruct", tuned)):
            if model in recipe.eval.models and (model == "base" or recipe.sft is not None):
                parts = eval_parts(recipe, model)
                jobs.append(Job(f"eval-{model}", "eval", "eval", ("eval",), (ready,), "eval", parts=parts))
                before.append(f"eval-{model}")
    jobs.append(Job("eval", "eval", "stage", ("eval",), tuple(before or [tuned]), "eval"))
    if progress is not None:
        suite = (f"eval={progress}",) if progress else ()
        # Last before the card: on a full cluster the chat model must not wait for the curves' job.
        jobs.append(Job("progress", "progress", "stage", ("eval", "--checkpoints", *suite), ("eval",)))
    jobs.append(Job("card", "card", "stage", ("card",), (jobs[-1].name,), "card"))
    return jobs


def select(
    jobs: Sequence[Job],
    done: Collection[str],
    present: Collection[str],
    first: str | None = None,
    last: str | None = None,
    force: bool = False,
) -> list[Job]:
    """The jobs to submit now, with dependencies among them only.

    Args:
        jobs: the graph.
        done: stages with a manifest of this very recipe; they are left out.
        present: stages with any manifest; enough for a stage before ``first``, as each stage checks its own inputs.
        first, last: stage names that bound the selection, both included.
        force: submit finished stages too.

    Raises:
        UserError: no such stage, an empty range, or something before ``first`` is not done.
    """
    stages = list(dict.fromkeys(j.stage for j in jobs))
    for option, stage in (("--from", first), ("--to", last)):
        if stage is not None and stage not in stages:
            raise UserError(f"{option} {stage}: this run has no such stage{nearest(stage, stages)}")
    start = stages.index(first) if first else 0
    end = stages.index(last) if last else len(stages) - 1
    if start > end:
        raise UserError(f"--from {first} comes after --to {last}; the order is {', '.join(stages)}")
    wanted = [j for j in jobs if start <= stages.index(j.stage) <= end]
    chosen: list[Job] = []
    for job in wanted:
        stale = any(n in {c.name for c in chosen} for n in job.needs)
        if force or stale or job.manifest is None or job.manifest not in done:
            chosen.append(job)
    # A checkpoint progress without anything new to look at is no reason for a job.
    chosen = [j for j in chosen if j.manifest or force or any(n in {c.name for c in chosen} for n in j.needs) or first]
    names = {j.name for j in chosen}
    by_name = {j.name: j for j in jobs}
    for job in chosen:
        for need in job.needs:
            other = by_name[need]
            if need not in names and other.manifest is not None and other.manifest not in present:
                raise UserError(f"--from {first}: {job.name} needs {need}, which is not done; start from {other.stage}")
    return [replace(j, needs=tuple(n for n in j.needs if n in names)) for j in chosen]


def drawing(jobs: Sequence[Job], done: Collection[str] = ()) -> list[str]:
    """One line a job: what it is, and what it waits for."""
    width = max((len(j.name) for j in jobs), default=0)
    lines = []
    for job in jobs:
        what = f"{len(job.parts)} array tasks" if job.parts else f"duetto {' '.join(job.verb)}"
        after = f"after {', '.join(job.needs)}" if job.needs else "at once"
        lines.append(f"{job.name:{width}}  {what:28}  {after}")
    return lines
