"""The ``release:`` section of a recipe: names, licence, and the free text that only a person can write.

Everything else in a card comes from manifests and results. A free text is one string, or one a language:
``{en: ..., it: ...}``; a language without its own gets the English one.
"""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from duetto.recipe import StrictModel

ModelKind = Literal["base", "instruct"]
KINDS: tuple[ModelKind, ...] = ("base", "instruct")

Text = str | dict[str, str]

REPO_PATTERN = r"^([A-Za-z0-9][\w.\-]*/)?[A-Za-z0-9][\w.\-]*$"


class Energy(StrictModel):
    """What energy is computed from where no meter was read: devices x watts x hours x PUE."""

    watts_per_device: float = Field(gt=0)
    """Mean draw of one device (GPU, or the whole machine on CPU) during training, in watts."""
    pue: float = Field(1.0, ge=1.0)
    """Power usage effectiveness of the site: total draw over computing draw."""
    grams_co2_per_kwh: float | None = Field(None, ge=0)
    """Carbon intensity of the grid; without it the card gives kWh only."""
    price_per_kwh: float | None = Field(None, ge=0)
    """Price of one kWh in ``currency``; the report's cost when the cluster gives no price per GPU hour."""
    currency: str = "EUR"


class Generation(StrictModel):
    """Written to generation_config.json of the chat model; set on purpose rather than inherited from the trainer."""

    do_sample: bool = False
    """Greedy by default: small models drift when sampled, and a repetition penalty corrupts tool JSON."""
    temperature: float | None = Field(None, gt=0)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, gt=0)
    max_new_tokens: int = Field(256, gt=0)
    """Tokens of one answer, unless the caller says otherwise."""

    @model_validator(mode="after")
    def _sampling_only_when_sampling(self) -> "Generation":
        if not self.do_sample and any(v is not None for v in (self.temperature, self.top_p, self.top_k)):
            raise ValueError("temperature, top_p and top_k have no effect with do_sample: false; remove them")
        return self


class DataSummary(StrictModel):
    """What the public summary of training content asks and no manifest knows (EU AI Act, article 53(1)(d))."""

    provider: Text = ""
    """Name and contact of who places the model on the market."""
    collected: Text = ""
    """When the content was collected, and the last date it may come from."""
    rights: Text = ""
    """How reservations of rights (robots.txt, opt-outs) were respected."""
    personal_data: Text = ""
    """What was done about personal data and illegal content."""


class ReleaseConfig(StrictModel):
    model_name: str | dict[ModelKind, str] = Field(min_length=1)
    """Name in the card; one string gives ``NAME`` to the base model and ``NAME-instruct`` to the chat model."""
    hub_repo: str | dict[ModelKind, str] | None = None
    """``owner/name`` on the Hub (or ``name`` under your own account); named like ``model_name`` for the chat model."""
    license: str = "apache-2.0"
    """Identifier of the Hub's list, or ``other`` with license_name and license_link."""
    license_name: str | None = None
    license_link: str | None = None
    tags: list[str] = []
    """Tags besides those that follow from the run."""
    datasets: list[str] = []
    """Hub ids of the training data, for the metadata."""
    collection: str | None = None
    """Title of the Hub collection that groups base, chat and quantized models."""
    checkpoints: Literal["none", "all"] | list[int] = "none"
    """Pretraining steps that ``push`` uploads as revisions ``step-N`` of the base model's repository."""
    developers: str = ""
    """Who made the model."""
    description: Text = ""
    """One paragraph that opens the card."""
    intended_use: Text = ""
    out_of_scope: Text = ""
    limits: Text = ""
    """Limits and risks known to a person, added to those that follow from the numbers."""
    acknowledgements: Text = ""
    related_models: list[str] = []
    """Hub ids of models to point to."""
    citation: str = ""
    """BibTeX; a minimal entry is made when empty."""
    energy: Energy | None = None
    generation: Generation | None = None
    data_summary: DataSummary = DataSummary()

    @field_validator("hub_repo")
    @classmethod
    def _valid_repo(cls, value: str | dict[ModelKind, str] | None) -> str | dict[ModelKind, str] | None:
        import re

        for repo in value.values() if isinstance(value, dict) else [value] if value else []:
            name = repo.split("/")[-1]
            if not re.match(REPO_PATTERN, repo) or "--" in repo or ".." in repo or len(name) > 96:
                raise ValueError(
                    f"{repo!r} is no Hub name: owner/name, letters, digits, - _ . (no -- or .., 96 at most)"
                )
            if name.endswith((".git", ".ipynb", "-", ".")):
                raise ValueError(f"{repo!r} is no Hub name: it may not end in '-', '.', '.git' or '.ipynb'")
        return value

    @model_validator(mode="after")
    def _other_license_is_named(self) -> "ReleaseConfig":
        if self.license == "other" and not (self.license_name and self.license_link):
            raise ValueError("license: other needs license_name and license_link")
        return self

    def name_of(self, kind: ModelKind) -> str:
        if isinstance(self.model_name, dict):
            return self.model_name.get(kind) or next(iter(self.model_name.values()))
        return self.model_name + ("-instruct" if kind == "instruct" else "")

    def repo_of(self, kind: ModelKind) -> str | None:
        """Hub id of one model; None when the recipe names none."""
        if isinstance(self.hub_repo, dict):
            return self.hub_repo.get(kind)
        return self.hub_repo + ("-instruct" if kind == "instruct" else "") if self.hub_repo else None


def text_in(text: Text, language: str) -> str:
    """The free text in a language, English otherwise."""
    if isinstance(text, str):
        return text.strip()
    return (text.get(language) or text.get("en") or next(iter(text.values()), "")).strip()
