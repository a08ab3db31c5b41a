"""``duetto submit``: the whole graph of a run on SLURM, or here.

    duetto submit --recipe configs/recipes/zagreus-0.4b-ita.yaml --dry-run     # scripts and graph, nothing submitted
    duetto submit --recipe configs/recipes/zagreus-0.4b-ita.yaml
    duetto submit --from sft --to card                                        # a part of it
    duetto submit --executor local                                            # the same graph on this machine

A second submit continues with what is missing. Whatever would make a job wait for ever is refused before the first
job is submitted.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from duetto.console import log
from duetto.errors import Preempted, StageFailed, UserError
from duetto.files import read_json, write_json
from duetto.recipe import Recipe, load_recipe
from duetto.run import Run
from slurm import checks, clients
from slurm.config import ClusterConfig, find
from slurm.environment import at_home, cluster_of, freeze, lines, run_folder
from slurm.graph import Job, build, drawing, links, select
from slurm.scripts import options, render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="first", metavar="STAGE", help="first stage to submit")
    parser.add_argument("--to", dest="last", metavar="STAGE", help="last stage to submit")
    parser.add_argument("--dry-run", action="store_true", help="print scripts and graph, submit nothing")
    parser.add_argument("--executor", choices=("slurm", "local"), default="slurm", help="where (default: %(default)s)")
    parser.add_argument("--cluster", metavar="NAME", help="cluster file, instead of the recipe's or the detected one")
    parser.add_argument("--progress", metavar="SUITE", help="evaluate the checkpoints too, on this suite (a YAML file)")
    parser.add_argument("--no-health", action="store_true", help="do not check the nodes before a launch")


def run(run: Run, args: argparse.Namespace) -> None:
    recipe, overrides = run.recipe, list(args.overrides)
    # Curves over the checkpoints: of the suite named here, or of the recipe's own when that has a section for them.
    progress = args.progress or ("" if "progress" in recipe.eval.model_fields_set else None)
    if args.executor == "local":
        cluster, jobs = None, build(recipe, progress=progress)
    else:
        cluster = find(args.cluster) if args.cluster else cluster_of(recipe)
        if args.no_health:
            cluster = cluster.model_copy(update={"health": cluster.health.model_copy(update={"enabled": False})})
        if arrays := array_overrides(recipe, cluster):
            overrides += arrays
            recipe = load_recipe(args.recipe, overrides)
        recipe = at_home(recipe, overrides, cluster)
        run = Run(recipe, lock=False)
        chain = links(cluster, checks.planned_hours(recipe, cluster, overrides))
        jobs = build(recipe, chain, cluster.eval_parallel > 1, progress)
    present = manifests(run)
    # Made by this very recipe; the others are submitted too, and skip what is unchanged.
    done = {stage for stage, recipe_hash in present.items() if recipe_hash == recipe.hash}
    chosen = select(jobs, done, present, args.first, args.last, args.force)
    if not chosen:
        log(f"submit: every stage of {recipe.name} is done with this recipe; --force does them again")
        return
    arguments = ["--recipe", str(Path(args.recipe).resolve()), *overrides, *(["--force"] if args.force else [])]
    if cluster is None:
        local(chosen, arguments, dry_run=args.dry_run)
        return
    folder = run_folder(recipe, cluster)
    checks.sizes(recipe, cluster, chosen)
    if args.dry_run:
        show(chosen, cluster, folder, arguments)
        return
    checks.machine(cluster, folder)
    with lock(folder):
        refuse_second(folder)
        checks.time_limits(recipe, cluster, chosen, overrides, folder)
        if any(j.stage == "pretrain" for j in chosen):
            checks.doctor(recipe, overrides)
        steps = sum(c.tokens.train_steps for c in recipe.pretrain)
        send(chosen, cluster, folder, arguments, {"steps": steps, "arguments": arguments})


def array_overrides(recipe: Recipe, cluster: ClusterConfig) -> list[str]:
    """``data_arrays`` of the cluster file as what the data stage reads; a recipe that has its own keeps it."""
    arrays, size = cluster.data_arrays, cluster.size("tokenize")
    partition = (arrays.partition if arrays else None) or size.partition
    if arrays is None or recipe.data.executor.slurm is not None:
        return []
    if partition is None:
        raise UserError(f"{cluster.name}: data_arrays needs a partition; name one there or for the cluster")
    table = arrays.model_dump() | {"partition": partition}
    named = {k: v for k, v in (("account", size.account), ("qos", size.qos), ("constraint", size.constraint)) if v}
    table |= {"sbatch": {**named, **cluster.sbatch}} if named or cluster.sbatch else {}
    return [f"data.executor.slurm={json.dumps(table)}"]


def manifests(run: Run) -> dict[str, str]:
    """Finished stages, and the hash of the recipe that made each."""
    stages = [p.stem for p in run.path("manifests").glob("*.json") if not p.stem.endswith(".started")]
    return {s: m.get("recipe", "") for s in stages if (m := run.manifest(s))}


def show(jobs: Sequence[Job], cluster: ClusterConfig, folder: Path, arguments: Sequence[str]) -> None:
    for job in jobs:
        log(f"# ==== {folder}/slurm/{job.name}.sh")
        log(array_script(job, cluster, folder, arguments) if job.parts else render(job, cluster, folder, arguments))
    log(f"# ==== the graph on {cluster.name}: {len(jobs)} jobs")
    for line in drawing(jobs):
        log(line)


def local(jobs: Sequence[Job], arguments: Sequence[str], dry_run: bool = False) -> None:
    """The same graph on this machine, one job after the other; what needs a failed one is left out.

    Raises:
        StageFailed: a job failed; the others were done as far as they do not need it.
    """
    for line in drawing(jobs):
        log(line)
    if dry_run:
        return
    failed: list[str] = []
    for job in jobs:
        missing = [n for n in job.needs if n in failed]
        if missing:
            log(f"submit: {job.name} is left out: it needs {', '.join(missing)}")
            failed.append(job.name)
            continue
        log(f"submit: {job.name}")
        code = subprocess.run([sys.executable, "-m", "duetto", *job.verb, *arguments]).returncode
        if code == 3:
            raise Preempted(f"{job.name} saved and stopped; duetto submit continues")
        if code:
            failed.append(job.name)
    if failed:
        raise StageFailed(f"{failed[0]} failed (see above); mend it and run duetto submit again, it continues there")


# -- SLURM ------------------------------------------------------------------------------------------------------------


def journal(folder: Path) -> Path:
    """What was submitted for this run: one entry a job name, the newest."""
    return folder / "slurm" / "jobs.json"


def lock(folder: Path) -> FileLock:
    """Two submits of one run at the same moment: the second is refused."""
    held = FileLock(str(folder / "slurm" / ".lock"), timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise UserError(f"another duetto submit works on {folder}; wait for it") from None
    return held


def refuse_second(folder: Path) -> None:
    """Jobs of this run are in the queue already, or a process works on the run folder."""
    path = journal(folder)
    if path.exists():
        recorded = {e["job"]: e["name"] for e in read_json(path)["jobs"]}
        alive = [s for s in clients.states(list(recorded)).values() if s.alive]
        if alive:
            shown = ", ".join(f"{s.job} ({recorded[s.job]}, {s.state.lower()})" for s in alive[:4])
            raise UserError(
                f"{folder} has jobs in the queue: {shown}; wait for them (duetto status), or stop them with: "
                f"scancel {' '.join(s.job for s in alive)}"
            )
    free = FileLock(str(folder / ".lock"), timeout=0)
    try:
        free.acquire()
        free.release()
    except Timeout:
        raise UserError(f"a process works on {folder} (see {folder}/.lock.json); wait for it or stop it") from None


def send(
    jobs: Sequence[Job], cluster: ClusterConfig, folder: Path, arguments: Sequence[str], about: Mapping[str, Any]
) -> None:
    """Write the scripts, have SLURM judge all of them, then submit them with their dependencies.

    Raises:
        UserError: SLURM refuses one; none stays in the queue.
    """
    freeze(cluster, folder)
    scripts = {}
    for job in jobs:
        scripts[job.name] = folder / "slurm" / f"{job.name}.sh"
        text = array_script(job, cluster, folder, arguments) if job.parts else render(job, cluster, folder, arguments)
        scripts[job.name].write_text(text, encoding="utf-8")
    for job in jobs:
        checks.test_only(job, cluster, scripts[job.name])
    ids: dict[str, str] = {}
    try:
        for job in jobs:
            after = [ids[n] for n in job.needs]
            if job.parts:
                ids[job.name] = send_array(job, cluster, folder, arguments, after)
            else:
                ids[job.name] = clients.sbatch(scripts[job.name], dependency(after))
        checks.will_start(ids)
    except BaseException:
        if ids:
            clients.ask("scancel", *ids.values())
        raise
    record(jobs, ids, scripts, folder, about)
    for line, job in zip(drawing(jobs), jobs):
        log(f"{ids[job.name]:>8}  {line}")
    log(f"submitted {len(jobs)} jobs to {cluster.name}; watch them with: duetto status --watch")


def dependency(after: Sequence[str]) -> list[str]:
    """A job whose dependency failed is removed; by default SLURM would keep it for ever."""
    return [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []


def record(
    jobs: Sequence[Job], ids: Mapping[str, str], scripts: Mapping[str, Path], folder: Path, about: Mapping[str, Any]
) -> None:
    path = journal(folder)
    before = read_json(path)["jobs"] if path.exists() else []
    now = [
        {
            "name": job.name,
            "stage": job.stage,
            "job": ids[job.name],
            "needs": list(job.needs),
            "script": str(scripts[job.name]),
            "submitted": time.strftime("%Y-%m-%dT%H:%M:%S"),
        }
        for job in jobs
    ]
    write_json(path, {**about, "jobs": [e for e in before if e["name"] not in ids] + now})


# -- evaluation through submitit --------------------------------------------------------------------------------------


def array_parameters(job: Job, cluster: ClusterConfig, folder: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """submitit's names for what the other jobs say in #SBATCH lines."""
    table = options(job, cluster, folder)
    for name in ("signal", "output", "open-mode", "job-name", "time", "nodes", "ntasks-per-node"):
        del table[name]
    return {
        "job_name": f"{folder.name}.{job.name}",
        "time": int(checks.minutes(str(cluster.size(job.stage).time))),
        "nodes": 1,
        "ntasks_per_node": 1,
        "array_parallelism": cluster.eval_parallel,
        "signal_delay_s": cluster.warning_seconds,
        "stderr_to_stdout": True,
        "additional_parameters": table,
        # submitit's srun would give its task one core: it ignores --cpus-per-task of the job since SLURM 22.05.
        "setup": [*lines(cluster, folder), "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}"],
    }


def array_folder(folder: Path) -> Path:
    return folder / "logs" / "slurm" / "eval"


def array_script(job: Job, cluster: ClusterConfig, folder: Path, arguments: Sequence[str]) -> str:
    """What submitit will submit for this job, to look at."""
    from submitit.slurm.slurm import _make_sbatch_string

    parameters = array_parameters(job, cluster, folder, arguments)
    command = f"{sys.executable} -u -m submitit.core._submit {array_folder(folder)}"
    return str(_make_sbatch_string(command, array_folder(folder), map_count=len(job.parts), **parameters)) + "\n"


def send_array(job: Job, cluster: ClusterConfig, folder: Path, arguments: Sequence[str], after: Sequence[str]) -> str:
    import submitit

    from slurm.evaluation import evaluate

    executor = submitit.SlurmExecutor(folder=array_folder(folder))
    parameters = array_parameters(job, cluster, folder, arguments)
    flags = [f.removeprefix("--").split("=", 1) for f in dependency(after)]
    parameters["additional_parameters"] |= dict(flags)
    executor.update_parameters(**parameters)
    recipe, overrides = arguments[1], [a for a in arguments[2:] if a != "--force"]
    with executor.batch():
        sent = [executor.submit(evaluate, recipe, overrides, p.model, p.tasks) for p in job.parts]
    return str(sent[0].job_id).split("_")[0]
