"""What a release must pass before anything is uploaded: parity, card lint, secrets scan, sample generation."""

from __future__ import annotations

from pathlib import Path

from duetto.console import log
from duetto.errors import UserError
from duetto.run import Run
from release.config import ModelKind
from release.lint import Problem, lint
from release.sample import check_samples
from release.scan import scan

PARITY_TOLERANCE = 1e-4
"""Largest absolute difference of fp32 logits between the trained checkpoint and the converted model."""


def check_release(run: Run, folder: Path, kind: ModelKind, paths: list[str]) -> None:
    """All gates for one release folder, the quick ones first.

    Raises:
        UserError: the first gate that refuses, with what to do.
    """
    check_parity(run)
    check_lint(run, kind)
    check_scan(run, folder, paths)
    check_samples(folder, run.recipe.languages)
    log(f"push: {kind}: parity, card, scan and sample generation are in order")


def check_parity(run: Run) -> None:
    """The converted base model computes what the checkpoint computes.

    Raises:
        UserError: it does not, or nobody measured it.
    """
    difference = run.require("convert")["metrics"].get("max_abs_logit_difference")
    if difference is None:
        raise UserError(f"{run.path('base')}: logits parity was never measured; run: duetto convert --force")
    if not difference <= PARITY_TOLERANCE:
        raise UserError(
            f"{run.path('base')}: logits differ from the checkpoint by {difference:g} (bound {PARITY_TOLERANCE:g}); "
            "a model that computes something else is not published; run: duetto convert --force"
        )


def check_lint(run: Run, kind: ModelKind) -> None:
    """Raises UserError with every problem of the card, the first in the message, the others logged."""
    refuse(lint(run, kind), f"{run.path('release', kind)}: the card does not pass its lint")


def check_scan(run: Run, folder: Path, paths: list[str]) -> None:
    """Raises UserError where a file holds what must not leave this machine."""
    refuse(list(scan(folder, paths, run.root)), f"{folder}: not uploaded")


def refuse(problems: list[Problem] | list[str], what: str) -> None:
    """Raise for the first problem, with the others before it."""
    for problem in problems[1:]:
        log(f"  {problem}")
    if problems:
        more = f" (and {len(problems) - 1} more above)" if len(problems) > 1 else ""
        raise UserError(f"{what}: {problems[0]}{more}")
