"""lm-eval behind one function: load a model, run one entry of a suite, return what happened.

Everything slow is imported here, inside functions. lm-eval's ``evaluate`` is called directly: ``simple_evaluate`` adds
a model loader and an environment report of 4 s a call around it; seeds and few-shot settings are applied the same way.
"""

import json
import logging
import os
import random
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.files import sha256_json
from duetto.recipe import nearest
from eval.config import EvalConfig, TaskEntry
from eval.data import check_punkt, datasets_of, local_folder, missing
from eval.models import LocalModel

OWN_TASKS = Path(__file__).parent / "tasks"
SEEDS = {"random": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
"""lm-eval's defaults."""
BOOTSTRAP = 1000
"""Resamples for metrics without a closed-form standard error."""


@dataclass
class Outcome:
    """What lm-eval said about one entry."""

    metrics: dict[str, float | None]
    subtasks: dict[str, float]
    samples: list[dict[str, Any]]
    version: str
    task_sha256: str
    shots: int
    tasks: dict[str, Any] = field(repr=False, default_factory=dict)
    """Leaf name to lm-eval task object."""


def prepare_engine() -> None:
    """Keep lm-eval and tqdm quiet; must run before they are imported."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    for name in ("lm_eval", "transformers", "datasets", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)


def use_threads(config: EvalConfig) -> None:
    """The engines' environment says one thread a process; evaluation is one process alone."""
    import torch

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(config.threads or available or 1)


def pick_device(config: EvalConfig) -> str:
    if config.device != "auto":
        return config.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_lm(model: LocalModel, config: EvalConfig) -> Any:
    """The model as an lm-eval LM of the configured backend.

    Raises:
        UserError: the weights or the tokenizer cannot be loaded.
    """
    prepare_engine()
    use_threads(config)
    arguments: dict[str, Any] = {
        "pretrained": str(model.path),
        "device": pick_device(config),
        "dtype": config.dtype,
        "batch_size": config.batch_size,
        "max_length": config.max_length,
    }
    from safetensors import SafetensorError

    try:
        if config.backend == "vllm":
            return _load_vllm(arguments)
        if config.backend == "hf-prefix":
            from eval.fast_lm import PrefixLM

            return PrefixLM(batch_tokens=config.batch_tokens, gate=config.gate, **arguments)
        from eval.stock_lm import StockLM

        return StockLM(**arguments)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as e:
        first = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise UserError(f"model {model.name!r}: {model.path} does not load: {first}") from e


def _load_vllm(arguments: dict[str, Any]) -> Any:
    try:
        from lm_eval.models.vllm_causallms import VLLM

        return VLLM(
            pretrained=arguments["pretrained"],
            dtype=arguments["dtype"],
            batch_size="auto",
            max_model_len=arguments["max_length"],
        )
    except ImportError:  # lm-eval's module imports without vllm; its class does not start
        raise UserError("eval.backend=vllm needs the vllm package and a GPU; use hf-prefix") from None


class TaskLoader:
    """Finds tasks by name, ours before lm-eval's, and points them at data on this machine."""

    def __init__(self, config: EvalConfig) -> None:
        prepare_engine()
        from lm_eval.tasks import TaskManager

        own = {p.stem for p in OWN_TASKS.glob("*.yaml")}
        # Indexing the 13,000 files of lm-eval takes 3 s; a suite of our own tasks does not pay that.
        everything = any(t.task not in own or not t.data for t in config.selected)
        loader = self

        class LocalTasks(TaskManager):
            def _get_config(self, name: str) -> dict[str, Any]:
                return loader.localize(name, super()._get_config(name))

        self.config = config
        self.entry: TaskEntry | None = None
        self.data: dict[str, str] = {}
        """Data set to revision, or file to sha256, of the entry loaded last."""
        # The datasets cache does not notice changed local files: give each evaluation its own.
        self.cache = tempfile.TemporaryDirectory(prefix="duetto-eval-")
        self.manager = LocalTasks(include_path=str(OWN_TASKS), include_defaults=everything)

    def localize(self, name: str, task: dict[str, Any]) -> dict[str, Any]:
        """Point a task's configuration at files of this machine."""
        if "dataset_path" not in task or task["dataset_path"] is None:
            return task
        assert self.entry is not None
        keywords = {k: v for k, v in (task.get("dataset_kwargs") or {}).items() if k not in ("trust_remote_code",)}
        if self.entry.data:
            keywords["data_files"] = dict(self.entry.data)
            task |= {"dataset_path": "json", "dataset_name": None}
        else:
            repo = task["dataset_path"]
            pinned = {d.repo: d.revision for d in datasets_of(self.entry.task)}
            found = local_folder(repo, pinned.get(repo, "main"), self.config.datasets)
            if found is None:
                raise missing(repo, name, self.config.datasets)
            task["dataset_path"], self.data[repo] = str(found[0]), found[1]
        task["dataset_kwargs"] = {**keywords, "cache_dir": self.cache.name}
        return task

    def check(self, entries: Sequence[TaskEntry]) -> None:
        """Raises UserError for an unknown task, with the nearest name, before any model is loaded."""
        for entry in entries:
            if entry.task not in self.manager.all_tasks:
                raise UserError(f"eval.tasks: {entry.task!r} is no task{nearest(entry.task, self.manager.all_tasks)}")
            if entry.task.startswith("ifeval"):
                check_punkt(entry.task)

    def load(self, entry: TaskEntry) -> dict[Any, Any]:
        """The task dictionary that lm-eval's ``evaluate`` takes.

        Raises:
            UserError: its data is not on this machine, cannot be read, or has no examples for the shots asked for.
        """
        from datasets.exceptions import DatasetsError
        from jinja2 import UndefinedError
        from lm_eval.tasks import get_task_dict

        self.entry, self.data = entry, {}
        try:
            tasks: dict[Any, Any] = get_task_dict([entry.task], self.manager)
        except (DatasetsError, UndefinedError, KeyError, IndexError, ValueError) as e:  # it builds the first question
            where = ", ".join(entry.data.values()) or ", ".join(self.data) or "its data"
            reason = str(e.__cause__ or e).splitlines()[0]
            raise UserError(f"task {entry.task!r}: {where} does not have the format of the task: {reason}") from e
        for name, task in leaves(tasks).items():
            if entry.shots and not _has_examples(task):
                raise UserError(f"task {name!r} has no examples to take shots from; set shots: 0")
            if task.get_config("num_fewshot") != 0:
                task.set_config(key="num_fewshot", value=entry.shots)
            task.set_fewshot_seed(seed=SEEDS["fewshot"])
        return tasks


def _has_examples(task: Any) -> bool:
    """Whether shots can come from anywhere but the questions themselves (lm-eval would take them from there)."""
    config = task.config
    listed = config.fewshot_config is not None and getattr(task.fewshot_cfg, "samples", None)
    apart = config.training_split or (config.validation_split and config.test_split)
    return bool(config.fewshot_split or apart or listed)


def leaves(tasks: Mapping[Any, Any]) -> dict[str, Any]:
    """Task objects of a nested dictionary of groups, by name."""
    out: dict[str, Any] = {}
    for name, item in tasks.items():
        out |= leaves(item) if isinstance(item, dict) else {str(name): item}
    return out


def run_entry(lm: Any, tasks: dict[Any, Any], entry: TaskEntry, limit: int | None, chat_template: bool) -> Outcome:
    """Evaluate one entry.

    Raises:
        UserError: the task does not compute the entry's metric, or takes another number of shots.
    """
    import numpy as np
    import torch
    from lm_eval.evaluator import evaluate

    random.seed(SEEDS["random"])
    np.random.seed(SEEDS["numpy"])
    torch.manual_seed(SEEDS["torch"])
    found = evaluate(
        lm=lm,
        task_dict=tasks,
        limit=limit,
        bootstrap_iters=BOOTSTRAP,
        log_samples=True,
        apply_chat_template=chat_template,
        fewshot_as_multiturn=chat_template,
    )
    assert found is not None
    metrics = plain_metrics(found["results"][entry.task])
    if entry.metric not in metrics:
        names = [m for m in metrics if not m.endswith("_stderr")]
        raise UserError(f"task {entry.task!r} has no metric {entry.metric!r}{nearest(entry.metric, names)}")
    members = leaves(tasks)
    shots = {int(found["n-shot"][name]) for name in members}
    if shots != {entry.shots}:
        raise UserError(f"task {entry.task!r} runs with {sorted(shots)} shots, the suite asks for {entry.shots}")
    configs = dict(found["configs"])
    for config in configs.values():  # where the data lies is not part of what is asked
        for key in ("dataset_path", "dataset_kwargs"):
            config.pop(key, None)
    versions = sorted({str(found["versions"].get(name)) for name in members})
    return Outcome(
        metrics=metrics,
        subtasks={
            name: value
            for name in members
            if len(members) > 1 and (value := plain_metrics(found["results"][name]).get(entry.metric)) is not None
        },
        samples=[_sample_line(name, s) for name in members for s in found["samples"][name]],
        version=str(found["versions"].get(entry.task) or ", ".join(versions)),
        task_sha256=sha256_json(_without_addresses(configs)),
        shots=entry.shots,
        tasks=members,
    )


def _without_addresses(configs: Any) -> Any:
    """lm-eval shows a function without readable source as ``<function f at 0x7f..>``, another one in each process."""
    return json.loads(re.sub(r" at 0x[0-9a-f]+", "", json.dumps(configs, sort_keys=True, default=str)))


def plain_metrics(results: Mapping[str, Any]) -> dict[str, float | None]:
    """``{"acc,none": 0.5, "acc_stderr,none": "N/A"}`` -> ``{"acc": 0.5, "acc_stderr": None}``; first filter wins."""
    out: dict[str, float | None] = {}
    for key, value in results.items():
        name, _, _ = key.partition(",")
        if "," in key and name not in out:
            out[name] = float(value) if isinstance(value, int | float) else None
    return out


def _sample_line(task: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    """One item as the sample log keeps it: what was asked, what came back, how it scored."""
    arguments: Sequence[Sequence[Any]] = sample["arguments"]
    line: dict[str, Any] = {"task": task, "doc_id": sample["doc_id"], "prompt": arguments[0][0]}
    if isinstance(arguments[0][-1], str):
        line["choices"] = [a[1] for a in arguments]
        line["loglikelihoods"] = [r[0][0] for r in sample["resps"]]
    else:
        line["response"] = sample["filtered_resps"][0]
    line["target"] = sample["target"]
    return line | {m: sample[m] for m in sample["metrics"]} | {"doc_hash": sample["doc_hash"]}
