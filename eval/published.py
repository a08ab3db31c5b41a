"""Figures that others published, for the tables: from a data file that names its source, never measured here."""

from pathlib import Path

from pydantic import Field

from duetto.recipe import ROOT, StrictModel, read_yaml, validate


class Setting(StrictModel):
    """How the published figures of one task were made."""

    shots: int
    """Worked examples before each question."""
    metric: str | None
    """None where the source does not say."""


class PublishedModel(StrictModel):
    name: str
    """Hub id."""
    source: str
    """Where the figures stand."""
    languages: list[str] = Field(min_length=1)
    """Languages the model is for."""
    scores: dict[str, float]
    """Task to score in [0, 1]."""


class Published(StrictModel):
    """The whole file."""

    settings: dict[str, Setting]
    """By task name; a score without one is refused."""
    models: list[PublishedModel]
    """In the order of the tables."""


def load_published(file: str | Path | None) -> Published:
    """Raises UserError for a file that does not fit, or a score whose setting is not given."""
    if file is None:
        return Published(settings={}, models=[])
    path = Path(file) if Path(file).is_absolute() else ROOT / file
    found: Published = validate(Published, read_yaml(path))
    for model in found.models:
        for task in model.scores:
            if task not in found.settings:
                from duetto.errors import UserError

                raise UserError(f"{path}: {model.name}: {task!r} has a score but no entry in settings")
    return found
