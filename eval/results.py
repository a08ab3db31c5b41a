"""One result: a score with everything needed to trust it, as one JSON file per model and task.

The file carries a hash of itself, so that a number edited by hand is noticed when a table is made.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from duetto.errors import UserError
from duetto.files import read_json, sha256_json, write_json
from duetto.recipe import validate

SCHEMA = 1


class ModelFacts(BaseModel):
    """Which weights were measured."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    name: str
    path: str
    sha256: str
    """Over the weight, configuration and tokenizer files."""
    revision: str | None = None
    step: int | None = None
    """Optimizer step of a checkpoint of this run."""
    tokens: int | None = None
    """Tokens seen at that step."""
    parameters: int | None = None
    languages: list[str]
    """Languages the model was trained for."""


class Result(BaseModel):
    """The content of ``eval/<model>/<task>.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    schema_version: int = SCHEMA
    model: ModelFacts
    task: str
    label: str
    language: str
    metric: str
    value: float
    stderr: float | None
    chance: float | None
    metrics: dict[str, float | None]
    """All metrics and their standard errors, as lm-eval names them."""
    subtasks: dict[str, float] = {}
    """The metric of each member of a group."""
    no_context: float | None = None
    """Same metric for the same choices without their context: what the choices alone give away."""
    word_overlap: float | None = None
    """Accuracy of picking the choice that shares most words with the context."""
    samples: int = Field(gt=0)
    limit: int | None
    truncated: int | None = 0
    """Requests that lost their beginning because they exceed the context; none where the backend does not tell."""
    shots: int
    chat_template: bool
    task_version: str
    task_sha256: str
    """Over the task's full configuration, functions included as source."""
    data: dict[str, str]
    """Data file to sha256, or data set to revision."""
    backend: str
    gate: dict[str, Any] | None = None
    """What the comparison of ``hf-prefix`` with the stock backend found."""
    batch_size: int
    dtype: str
    device: str
    seeds: dict[str, int]
    versions: dict[str, str]
    host: str
    git_commit: str
    started: str
    seconds: float
    """For requests and scoring of this task; loading excluded."""
    sample_log: str
    """File with one line per item, beside this one."""
    sample_log_sha256: str
    fingerprint: str
    """Of what decides the score; a run with the same one is not repeated."""


def write_result(path: Path, result: Result) -> None:
    content = result.model_dump(mode="json")
    write_json(path, {**content, "sha256": sha256_json(content)})


def read_result(path: Path) -> tuple[Result, bool]:
    """The result, and whether the file is as it was written.

    Raises:
        UserError: unreadable, torn, or of another schema.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA:
        raise UserError(f"{path}: not a result of schema {SCHEMA}; delete it and run duetto eval again")
    recorded = content.pop("sha256", None)
    try:
        result = validate(Result, content)
    except UserError as e:
        raise UserError(f"{path}: {e}; delete it and run duetto eval again") from None
    return result, recorded == sha256_json(content)


def is_current(path: Path, fingerprint: str) -> bool:
    """Whether this very measurement is on disk already, untouched."""
    if not path.exists():
        return False
    try:
        result, intact = read_result(path)
    except UserError:
        return False
    return intact and result.fingerprint == fingerprint
