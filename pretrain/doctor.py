"""Named checks before any GPU is used, each with why and how to mend.

    duetto doctor --recipe configs/recipes/demo.yaml [--json]

pretrain and submit run the same checks by themselves and stop at a failure. Each guard answers something that went
wrong in a published run or in the engine (docs/pretraining.md).
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from duetto.console import console, log
from duetto.errors import UserError
from duetto.recipe import Recipe
from duetto.run import Run
from pretrain import checks_config, checks_data, checks_machine
from pretrain.checks import Check, Facts, Finding, fail

CHECKS = [
    Check(
        1,
        "engine versions",
        "nanotron's loader calls datatrove with arguments that other versions lack; our patches are for these",
        checks_config.engine_versions,
    ),
    Check(
        2,
        "weights and passes",
        "without weights every folder counts the same, whatever its size: 70/20/10 instead of 40/40/20",
        checks_data.weights_bounded,
    ),
    Check(
        3,
        "stages chained",
        "nanotron loads only the last data stage; a later file must continue the model of the one before",
        checks_config.stages_chained,
    ),
    Check(
        4,
        "schedule written out",
        "nanotron's defaults subtract the warm-up twice and never decay",
        checks_config.schedule_written,
    ),
    Check(
        5,
        "true horizon",
        "the published file trains 1.2 M of 2 M steps at a learning rate of 1e-7",
        checks_config.true_horizon,
    ),
    Check(
        6,
        "shared file system",
        "with the wrong flag each node keeps a part of the checkpoint that no other can read",
        checks_machine.shared_flag,
    ),
    Check(
        7,
        "complete checkpoints",
        "nanotron's latest.txt is written by every rank with no barrier and may name a torn checkpoint",
        checks_machine.complete_checkpoints,
    ),
    Check(8, "retention", "nanotron deletes nothing: 160 checkpoints of 6 GB", checks_config.retention),
    Check(
        9,
        "preemption",
        "without a signal handler the end of a job loses everything since the last checkpoint",
        checks_machine.preemption,
    ),
    Check(
        10,
        "watch on the loss",
        "a NaN or a stalled rank costs GPU hours until a person looks",
        checks_config.watches,
    ),
    Check(
        11,
        "tokenizer and vocabulary",
        "a wrong vocabulary trains on the wrong rows; compute nodes cannot download one",
        checks_data.tokenizer_fits,
    ),
    Check(
        12,
        "token files decode",
        "two-byte files of a four-byte vocabulary read as noise, and the loss still falls",
        checks_data.token_files_decode,
    ),
    Check(
        13,
        "processes and batch",
        "another world size changes the global batch, and with it the meaning of every step",
        checks_machine.processes_fit,
    ),
    Check(
        14,
        "no late compilation",
        "compute nodes often lack a compiler, and the job dies after it was billed",
        checks_config.no_late_compilation,
    ),
    Check(
        15,
        "resume paths exist",
        "a misspelt path must not become a silent fresh start",
        checks_machine.resume_paths_exist,
    ),
    Check(
        16,
        "schedule restarts",
        "restarting the learning rate must not start the data over",
        checks_config.schedule_restart,
    ),
    Check(17, "end of data", "repetition must be a decision, not a surprise", checks_data.end_of_data),
    Check(18, "loader keeps up", "a slow disk idles every GPU", checks_data.loader_keeps_up),
    Check(
        19,
        "document masking stated",
        "it changes what is learned and cannot be seen in the weights",
        checks_config.document_masking_stated,
    ),
    Check(
        20,
        "conversion parity",
        "a forgotten rotary permutation still gives the same argmax, with logits 0.15 off",
        checks_machine.converts,
    ),
    Check(
        21, "disk space", "a full disk tears the checkpoint that would have saved the run", checks_machine.disk_space
    ),
    Check(
        22,
        "chat tokens",
        "a turn that ends in six tokens instead of one is often not closed",
        checks_data.chat_tokens_single,
    ),
]

MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]", "skip": "[dim]skip[/]"}


def run(run: Run, args: argparse.Namespace) -> None:
    """Raises UserError (exit code 2) when a check fails, after showing all of them."""
    began = time.perf_counter()
    found = examine(run.recipe, run.root)
    if args.json:
        console.print_json(json.dumps(as_json(found)))
    else:
        show(found)
        log(f"{len(found)} checks in {time.perf_counter() - began:.1f} s")
    _stop_at_failures(found)


def examine(recipe: Recipe, run_root: Path, accept_change: bool = False) -> list[tuple[Check, Finding]]:
    """All checks, in order. A check that meets wrong input reports it as its own failure."""
    facts = Facts(recipe, run_root, accept_change)
    out = []
    for check in CHECKS:
        try:
            finding = check.test(facts)
        except UserError as e:
            finding = fail(str(e), "see the message")
        out.append((check, finding))
    return out


def preflight(recipe: Recipe, run_root: Path, accept_change: bool = False) -> None:
    """What pretrain and submit call: warnings are shown, failures stop.

    Raises:
        UserError: at least one check failed; the message has the first.
    """
    found = examine(recipe, run_root, accept_change)
    for check, finding in found:
        if finding.status == "warn":
            log(f"warning: {check.name}: {finding.detail}; {finding.remedy}")
    _stop_at_failures(found)


def _stop_at_failures(found: list[tuple[Check, Finding]]) -> None:
    failed = [(c, f) for c, f in found if f.status == "fail"]
    if failed:
        check, finding = failed[0]
        more = f" ({len(failed) - 1} more: duetto doctor)" if len(failed) > 1 else ""
        raise UserError(f"check {check.number}, {check.name}: {finding.detail}; {finding.remedy}{more}")


def as_json(found: list[tuple[Check, Finding]]) -> dict[str, Any]:
    checks = [
        {"number": c.number, "name": c.name, "why": c.why}
        | {"status": f.status, "detail": f.detail, "remedy": f.remedy}
        for c, f in found
    ]
    return {"checks": checks} | {
        status: sum(f.status == status for _, f in found) for status in ("ok", "warn", "fail", "skip")
    }


def show(found: list[tuple[Check, Finding]]) -> None:
    table = Table(box=None, padding=(0, 1))
    table.add_column("", justify="right")
    table.add_column("check", no_wrap=True)
    table.add_column("")
    table.add_column("found")
    for check, finding in found:
        detail = finding.detail.replace("[", "\\[")
        if finding.status in ("warn", "fail"):
            detail += f"\n[dim]why:[/] {check.why}\n[dim]mend:[/] {finding.remedy.replace('[', chr(92) + '[')}"
        table.add_row(str(check.number), check.name, MARKS[finding.status], detail)
    console.print(table)
