"""``duetto sft``: the base model learns to chat, with Axolotl.

    duetto sft --recipe configs/recipes/demo.yaml
    make sft RECIPE=configs/recipes/demo.yaml

Prepares the conversations, writes the YAML that Axolotl gets, runs it (resuming from its last whole checkpoint),
and exports ``instruct/``. The checks before the first step are in ``sft/gate.py``.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from duetto.console import log
from duetto.errors import UserError
from duetto.files import sha256_file
from duetto.run import Run
from duetto.stage import Job, Stage
from sft import chatml, launch, preferences, toolbox
from sft.config import findings, preparation, resolve
from sft.conversations import prepare
from sft.export import export, tensor_shapes


def run(run: Run, args: argparse.Namespace) -> None:
    section = run.recipe.sft
    if section is None:
        raise UserError(f"{run.recipe.file}: the recipe has no 'sft'; name an Axolotl YAML there")
    synthesize(section)
    Stage(
        name="sft",
        version=1,
        config={"axolotl": launch.plain(section), "template": sha256_file(chatml.TEMPLATE_FILE)},
        inputs=["convert"],
        files=local_files(section),
        outputs=[run.path("sft"), run.path("instruct")],
        unhashed=["sft/prepared/*", "sft/checkpoint-*", "sft/*.log"],
        work=work,
    ).execute(run, force=args.force)


def local_files(section: dict[str, Any]) -> list[Path]:
    """Dataset files of the section that lie on this machine."""
    entries = [*(section.get("datasets") or []), *(section.get("test_datasets") or [])]
    return sorted({Path(d["path"]) for d in entries if Path(d["path"]).is_file()})


def synthesize(section: dict[str, Any]) -> None:
    """Write the synthetic data that the ``duetto:`` block asks for; a function of its seed, so once is enough."""
    rules = preparation(section)
    if rules.toolbox and not (rules.toolbox.folder / "tools.jsonl").exists():
        toolbox.write(rules.toolbox.folder, rules.toolbox.rows, rules.toolbox.seed)
    for made in rules.pairs:
        if not made.target.exists():
            preferences.write(made.source, made.target, made.rows, made.seed)


TRAIN, HELD_OUT = "conversations.jsonl", "heldout.jsonl"
"""What Axolotl reads: the prepared conversations, in the run's ``sft/``."""


def prepared_entry(path: Path) -> dict[str, Any]:
    """The Axolotl dataset entry of a prepared file: one shape, only the assistant's turns trained."""
    return {
        "path": str(path),
        "ds_type": "json",
        "split": "train",
        "type": "chat_template",
        "field_messages": "messages",
        "field_tools": "tools",
        "message_property_mappings": {"role": "role", "content": "content"},
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }


def prepare_all(run: Run, section: dict[str, Any], base: Path, output: Path, pairs: bool = False) -> dict[str, Any]:
    """Prepare the training file and, where the section names one, the held-out file; the training file's report."""
    files = {TRAIN: section["datasets"], HELD_OUT: section.get("test_datasets") or []}
    reports = {
        name: prepare(
            entries,
            output / name,
            tokenizer_folder=base,
            context=section.get("sequence_len") or 512,
            languages=run.recipe.languages,
            rules=preparation(section),
            pairs=pairs,
        )
        for name, entries in files.items()
        if entries
    }
    return reports[TRAIN]


def train(
    run: Run, name: str, section: dict[str, Any], entry: Callable[[Path], dict[str, Any]], pairs: bool = False
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Prepare the data, resolve the YAML and run Axolotl to its end: what ``sft`` and ``dpo`` have in common.

    Args:
        name: of the stage, its section and its folder in the run.
        entry: makes the Axolotl dataset entry of a prepared file.
        pairs: whether the data are preference pairs.

    Returns:
        The lines of ``metrics.jsonl``, and what the manifest says about any such run.
    """
    base, output = Path(section["base_model"]), run.path(name)
    chatml.check_base(base)
    tensor_shapes(base)  # a torn file is told here, not by a traceback of every rank
    output.mkdir(parents=True, exist_ok=True)
    for line in findings(section):
        log(f"{name}: {line}")
    report = prepare_all(run, section, base, output, pairs)
    config, notes = resolve(
        section,
        output=output,
        datasets=[entry(output / TRAIN)],
        test_datasets=[entry(output / HELD_OUT)] if section.get("test_datasets") else [],
        overrides=chatml.token_overrides(base),
        cuda=launch.has_cuda(),
    )
    for line in notes:
        log(f"{name}: {line}")
    resume = launch.resume_point(output)
    if resume:
        log(f"{name}: continues from {resume.name}")
        config["resume_from_checkpoint"] = str(resume)
    launch.write_config(output / "axolotl.yaml", config, f"Resolved from {run.recipe.file}; run by duetto {name}")
    processes = launch.processes(preparation(section, name).processes)
    lines = launch.run(output / "axolotl.yaml", output, processes, run.logs / f"{name}.log", name)
    return lines, {
        "steps": lines[-1]["of"],
        "pairs" if pairs else "conversations": report["kept"],
        "rejected": {reason: found["count"] for reason, found in report["rejected"].items()},
        **launch.loss_summary(lines),
        "processes": processes,
    }


def work(job: Job) -> dict[str, Any]:
    run, section = job.run, job.run.recipe.sft
    assert section is not None
    lines, metrics = train(run, "sft", section, prepared_entry)
    evaluations = [x["eval_loss"] for x in lines if "eval_loss" in x]
    if evaluations:
        metrics |= {"heldout_loss_first": evaluations[0], "heldout_loss_last": evaluations[-1]}
    return metrics | export(run.path("sft"), Path(section["base_model"]), run.path("instruct"))
