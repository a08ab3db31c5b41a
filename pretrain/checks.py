"""What a preflight check is, and the facts that checks look at.

A check is a function from Facts to a Finding; the list of all 22 is pretrain.doctor's. Everything here is light: the
whole examination takes under three seconds, so that it can run before every training job and every submission.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from duetto.files import read_json
from duetto.recipe import Recipe
from pretrain.config import PretrainConfig
from pretrain.sources import Draw, draws

SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
"""Keys of a Llama's shape that nanotron's and Hugging Face's configurations share."""

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    status: Status
    """fail stops pretrain and submit; warn is shown; skip: not knowable yet."""
    detail: str
    """What was found, with the figures."""
    remedy: str = ""
    """What to do about it."""


def ok(detail: str) -> Finding:
    return Finding("ok", detail)


def skip(detail: str) -> Finding:
    return Finding("skip", detail)


def warn(detail: str, remedy: str) -> Finding:
    return Finding("warn", detail, remedy)


def fail(detail: str, remedy: str) -> Finding:
    return Finding("fail", detail, remedy)


@dataclass(frozen=True)
class Facts:
    """The recipe and the run folder, read once for all checks."""

    recipe: Recipe
    run_root: Path
    accept_change: bool = False
    """The user has said that a checkpoint may be continued although the batch changed."""

    @property
    def configs(self) -> list[PretrainConfig]:
        return self.recipe.pretrain

    @property
    def cluster(self) -> Any:
        """A slurm.config:ClusterConfig, or None for this machine alone."""
        return self.recipe.cluster

    @cached_property
    def mixture(self) -> dict[str, Any] | None:
        """tokens/mixture.json; None before tokenize."""
        path = self.run_root / "tokens" / "mixture.json"
        return read_json(path) if path.exists() else None

    @cached_property
    def tokenizer(self) -> Any:
        """The run's tokenizer (data.encode:TokenizerFile), or the recipe's local one; None before tokenize or fetch."""
        from data.encode import TokenizerFile

        own = self.run_root / "tokenizer"
        if (own / "tokenizer.json").exists():
            return TokenizerFile(own)
        named = self.recipe.tokenizer
        return TokenizerFile(named) if isinstance(named, str) and Path(named).exists() else None

    @cached_property
    def draws(self) -> list[list[Draw]]:
        """Draws of each pretraining file."""
        return [draws(c, i, self.recipe.data, self.run_root) for i, c in enumerate(self.configs)]

    def name(self, i: int) -> str:
        """How messages call pretraining file ``i``."""
        return "" if len(self.configs) == 1 else f"file {i + 1}: "


Test = Callable[[Facts], Finding]


@dataclass(frozen=True)
class Check:
    """A named guard."""

    number: int
    name: str
    why: str
    """What goes wrong without it."""
    test: Test


def worst(findings: list[Finding]) -> Finding:
    """The most severe of several findings about the same thing; the first of those."""
    order: list[Status] = ["fail", "warn", "ok", "skip"]
    return min(findings, key=lambda f: order.index(f.status))
