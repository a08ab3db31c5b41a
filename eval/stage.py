"""``duetto eval``: measure the models of a run on its suite, then write the tables.

    duetto eval                       # every task that has no current result, then the tables
    duetto eval --tables-only         # tables again from the result files
    duetto eval --models base         # one model
    duetto eval --checkpoints         # curves over training instead (eval/checkpoints.py)

One JSON file per model and task is written as soon as it is known, so an interrupted run continues with the rest.
"""

import argparse
import functools
import importlib.metadata
import json
import socket
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path
from typing import Any

from duetto.console import console, log, progress
from duetto.errors import UserError
from duetto.files import atomic_write, files_under, read_json, sha256_file, sha256_json
from duetto.recipe import nearest
from duetto.run import Run
from duetto.stage import Job, Stage, engine_versions, git_commit
from eval.chat import chat_metrics, read_prompts, run_chat_checks
from eval.config import EvalConfig, ModelEntry, TaskEntry
from eval.data import datasets_of
from eval.models import LocalModel, run_models, upstream
from eval.plots import plot_tables
from eval.published import load_published
from eval.results import ModelFacts, Result, is_current, read_result, write_result
from eval.tables import build, load_results, write_tables

VERSION = 1
WATCH_SECONDS = 60.0
"""Between two looks for new checkpoints."""
TASK_FILES = Path(__file__).parent / "tasks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tables-only", action="store_true", help="write the tables again from the result files")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="of the suite's models, only these")
    parser.add_argument("--checkpoints", action="store_true", help="the committed checkpoints instead, as curves")
    parser.add_argument("--watch", action="store_true", help="with --checkpoints: go on until pretraining is finished")


def run(run: Run, args: argparse.Namespace) -> None:
    config = select(run.recipe.eval, args.models)
    if args.checkpoints:
        content = follow_training(run, config, WATCH_SECONDS if args.watch else None)
    elif args.tables_only:
        content = make_tables(run, config)
    else:
        Stage(
            name="eval",
            version=VERSION,
            config=config.model_dump(mode="json"),
            inputs=upstream(run, config),
            files=config.data_files()
            + ([Path(config.chat.file)] if config.chat and "instruct" in config.models else []),
            outputs=[run.path("eval")],
            work=lambda job: work(job, config),
            keeps_partial=True,  # each result file knows what it was made from
        ).execute(run, force=args.force)
        tables = run.path("eval", "tables.json")
        content = read_json(tables) if tables.exists() else {}
    if args.json:
        console.print_json(json.dumps(content))


def chat_suites(config: EvalConfig, instruct: LocalModel | None, folder: Path) -> dict[str, Any]:
    """The agentic and conversation suites, on the configured endpoint or on the chat model."""
    from eval.agentic.suite import run_agentic
    from eval.conversation.suite import run_conversation
    from eval.harness import pick_device
    from eval.speakers import endpoint_speaker, local_speaker

    if config.endpoint:
        speak, who = endpoint_speaker(config.endpoint), {"endpoint": config.endpoint.url, "name": config.endpoint.model}
    elif instruct:
        speak = local_speaker(instruct.path, pick_device(config))
        who = {"name": instruct.name, "sha256": instruct.digest()}
    else:
        raise UserError("eval.agentic and eval.conversation need the chat model: a recipe with sft, or eval.endpoint")
    out: dict[str, Any] = {}
    if config.agentic:
        found = run_agentic(speak, folder / "agentic.json", who)
        out["agentic"] = {k: found[k] for k in ("overall", "languages")}
    if config.conversation:
        judge = endpoint_speaker(config.judge) if config.judge else None
        out["conversation"] = run_conversation(speak, folder / "conversation.json", who, judge)["languages"]
    return out


def follow_training(run: Run, config: EvalConfig, watch: float | None) -> dict[str, Any]:
    """Curves of the committed checkpoints."""
    from eval.checkpoints import follow

    tasks = [t for t in config.selected if not config.progress.tasks or t.task in config.progress.tasks]
    config = config.model_copy(update={"tasks": tasks, "models": ["base"]})
    loader = functools.cache(lambda: _loader(config))
    run.logs.mkdir(parents=True, exist_ok=True)
    with open(run.logs / "eval.log", "a", encoding="utf-8") as engine_log, redirect_stderr(engine_log):
        content = follow(run, config, lambda model, folder: measure(config, model, folder, loader), watch)
    for curve in content["curves"]:
        last = curve["points"][-1]
        where = f"{curve['metric']} {last['value']:.3f} at step {last['step']:,}"
        log(f"eval: {curve['label']}: {where}, {curve['verdict']}")
    log(f"eval: choose step {content['choice']['step']:,}: {content['choice']['reason']}")
    return content


def select(config: EvalConfig, models: list[str] | None) -> EvalConfig:
    """The suite with only the named models."""
    if not models:
        return config
    known = {m.name if isinstance(m, ModelEntry) else m: m for m in config.models}
    for name in models:
        if name not in known:
            raise UserError(f"--models {name}: the suite has no such model{nearest(name, list(known))}")
    return config.model_copy(update={"models": [m for name, m in known.items() if name in models]})


def work(job: Job, config: EvalConfig) -> dict[str, Any]:
    """Measure what is missing; write tables; return the metrics of the manifest."""
    run = job.run
    models = run_models(run, config)
    folder = run.path("eval")
    _remove_strays(folder, models, config)
    if config.chat:
        read_prompts(config.chat)  # a wrong file is told before the first task, not after the last
    metrics: dict[str, Any] = {"chat": {}, "samples": {}}
    run.logs.mkdir(parents=True, exist_ok=True)
    # The engines report every batch on stderr; that goes to the log.
    with open(run.logs / "eval.log", "a", encoding="utf-8") as engine_log, redirect_stderr(engine_log):
        loader = functools.cache(lambda: _loader(config))  # indexing lm-eval's tasks takes seconds: once, if at all
        for model in models:
            measure(config, model, folder / model.name, loader)
        instruct = next((m for m in models if m.name == "instruct"), None)
        if config.chat and instruct:
            metrics |= chat_metrics(run_chat_checks(instruct, config, folder / "chat.json"))
        if config.agentic or config.conversation:
            metrics |= chat_suites(config, instruct, folder)
    if config.limit is not None:
        log(f"eval: no tables: they take full runs only, and this one has eval.limit={config.limit}")
    else:
        make_tables(run, config)
    return metrics | summary(folder, models, config)


def _loader(config: EvalConfig) -> Any:
    from eval.harness import TaskLoader

    loader = TaskLoader(config)
    loader.check(config.selected)
    return loader


def measure(config: EvalConfig, model: LocalModel, folder: Path, loader: Callable[[], Any]) -> None:
    """Every task of the suite on one model, except those whose result is current."""
    digest = model.digest()
    fingerprints = {t.task: fingerprint(config, model, digest, t) for t in config.selected}
    todo = [t for t in config.selected if not is_current(folder / f"{t.task}.json", fingerprints[t.task])]
    if len(todo) < len(config.selected):
        log(f"eval: {model.name}: kept {len(config.selected) - len(todo)} of {len(config.selected)} current results")
    if not todo:
        return
    from eval.harness import load_lm

    tasks = loader()
    lm = load_lm(model, config)
    with progress(f"eval {model.name}", total=len(todo), unit="task") as bar:
        for n, entry in enumerate(todo):
            bar.update(n, entry.task)
            result = run_task(lm, tasks, config, model, digest, entry, folder, fingerprints[entry.task])
            log(f"eval: {model.name} {entry.task} {result.metric} {result.value:.3f} ({result.seconds:.1f} s)")


def run_task(
    lm: Any,
    loader: Any,
    config: EvalConfig,
    model: LocalModel,
    digest: str,
    entry: TaskEntry,
    folder: Path,
    fingerprint: str,
) -> Result:
    """One task on one model, written as its result file and sample log."""
    from eval.baselines import no_context, word_overlap
    from eval.fast_lm import Gate
    from eval.harness import SEEDS, run_entry

    began, clock = time.strftime("%Y-%m-%dT%H:%M:%S%z"), time.monotonic()
    tasks = loader.load(entry)
    lm.truncated, lm.gate = 0, Gate()
    outcome = run_entry(lm, tasks, entry, config.limit, model.chat_template)
    truncated = lm.truncated if config.backend != "vllm" else None
    gate = asdict(lm.gate) if lm.gate.requests else None
    alone = overlap = None
    if entry.baselines:
        (task,) = outcome.tasks.values()
        docs = [doc for _, doc in task.doc_iterator(rank=0, limit=config.limit, world_size=1)]
        alone, overlap = no_context(lm, task, docs, entry.metric), word_overlap(task, docs)
    samples = folder / f"{entry.task}.samples.jsonl"
    with atomic_write(samples) as f:
        for line in outcome.samples:
            f.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
    value = outcome.metrics[entry.metric]
    assert value is not None
    result = Result(
        model=ModelFacts(
            name=model.name,
            path=str(model.path),
            sha256=digest,
            revision=model.revision,
            step=model.step,
            tokens=model.tokens,
            parameters=sum(p.numel() for p in lm.model.parameters()) if hasattr(lm.model, "parameters") else None,
            languages=list(model.languages),
        ),
        task=entry.task,
        label=entry.title,
        language=entry.language,
        metric=entry.metric,
        value=value,
        stderr=outcome.metrics.get(f"{entry.metric}_stderr"),
        chance=entry.chance,
        metrics=outcome.metrics,
        subtasks=outcome.subtasks,
        no_context=alone,
        word_overlap=overlap,
        samples=len(outcome.samples),
        limit=config.limit,
        truncated=truncated,
        shots=outcome.shots,
        chat_template=model.chat_template,
        task_version=outcome.version,
        task_sha256=outcome.task_sha256,
        data=_data(entry, loader.data),
        backend=config.backend,
        gate=gate,
        batch_size=config.batch_size,
        dtype=config.dtype,
        device=str(getattr(lm, "device", "cuda")),  # lm-eval's vllm class does not say
        seeds=SEEDS,
        versions=engine_versions(),
        host=socket.gethostname(),
        git_commit=git_commit(),
        started=began,
        seconds=round(time.monotonic() - clock, 3),
        sample_log=samples.name,
        sample_log_sha256=sha256_file(samples),
        fingerprint=fingerprint,
    )
    write_result(folder / f"{entry.task}.json", result)
    return result


def fingerprint(config: EvalConfig, model: LocalModel, digest: str, entry: TaskEntry) -> str:
    """What decides a score, as a hash; cheap, so that an unchanged suite is skipped without loading an engine."""
    own = [sha256_file(p) for p in files_under(TASK_FILES) if p.suffix != ".pyc"]
    settings = config.model_dump(
        include={"backend", "batch_size", "batch_tokens", "dtype", "device", "max_length", "limit"}
    )
    return sha256_json(
        {
            "version": VERSION,
            "model": [model.name, digest, model.languages, model.chat_template],
            "task": entry.model_dump(exclude={"optional", "data"}),
            "data": _data(entry, {}) or {d.repo: d.revision for d in datasets_of(entry.task)},
            "settings": settings,
            "own_tasks": own,
            "lm_eval": importlib.metadata.version("lm_eval"),
        }
    )


def _data(entry: TaskEntry, fetched: dict[str, str]) -> dict[str, str]:
    return {Path(path).name: sha256_file(path) for path in entry.data.values()} or dict(fetched)


def make_tables(run: Run, config: EvalConfig) -> dict[str, Any]:
    """Write the tables from the result files."""
    names = [m.name if isinstance(m, ModelEntry) else m for m in config.models]
    loaded = load_results(run.path("eval"), names)
    if not loaded:
        raise UserError(f"{run.path('eval')}: no results to make tables of; run duetto eval")
    for item in loaded:
        if not item.intact:
            log(f"eval: {item.path} was changed after it was written (hash mismatch); it is marked in the tables")
    wanted = {t.task for t in config.selected}
    content = build(config.selected, [x for x in loaded if x.result.task in wanted], load_published(config.published))
    write_tables(run.path("eval"), content)
    plot_tables(run.path("eval", "plots"), content)
    return content


def summary(folder: Path, models: list[LocalModel], config: EvalConfig) -> dict[str, Any]:
    """Scores and baselines for the manifest."""
    scores: dict[str, dict[str, Any]] = {}
    baselines: dict[str, dict[str, float]] = {}
    for model in models:
        for entry in config.selected:
            result, _ = read_result(folder / model.name / f"{entry.task}.json")
            scores.setdefault(model.name, {})[entry.task] = {
                "value": result.value,
                "stderr": result.stderr,
                "metric": result.metric,
                "chance": result.chance,
            }
            beside = {"no_context": result.no_context, "word_overlap": result.word_overlap}
            known = {k: v for k, v in beside.items() if v is not None}
            if known:  # without context the models differ little; the first one stands for all
                baselines.setdefault(entry.task, known)
    return {"scores": scores, "baselines": baselines}


def _remove_strays(folder: Path, models: list[LocalModel], config: EvalConfig) -> None:
    """Results of tasks that the suite no longer holds would otherwise stay in the digests of this stage."""
    wanted = {t.task for t in config.selected}
    for model in models:
        for path in sorted((folder / model.name).glob("*.json")):
            if path.stem not in wanted:
                log(f"eval: {path} is of a task that the suite no longer holds, removed")
                path.unlink()
                path.with_suffix(".samples.jsonl").unlink(missing_ok=True)
