"""What an evaluation suite holds: tasks, models, backend. Read from ``configs/eval/*.yaml``; imports no engine."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from duetto.recipe import StrictModel

Backend = Literal["hf", "hf-prefix", "vllm"]


class TaskEntry(StrictModel):
    """One column of the result tables: an lm-eval task or group, and how it is run."""

    task: str
    """Name that lm-eval or ``eval/tasks/`` knows."""
    language: str
    """ISO 639-1 code of the questions."""
    metric: str
    """Metric shown in the tables (all that the task computes are recorded)."""
    label: str = ""
    """Short name for tables and plots; the task name when empty."""
    shots: int = Field(0, ge=0)
    """Worked examples before each question."""
    chance: float | None = Field(None, ge=0, le=1)
    """Score of blind guessing; none for generation."""
    data: dict[str, str] = {}
    """Split name to JSON-lines file, for tasks over local files; a Hub task leaves it empty."""
    baselines: bool = False
    """Also score the choices without their context and by word overlap (multiple choice with texts as choices)."""
    optional: bool = False
    """Left out unless ``eval.optional=true``."""

    @property
    def title(self) -> str:
        return self.label or self.task


class ModelEntry(StrictModel):
    """A model that the run did not make, measured beside its own."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Folder of its results below ``eval/``."""
    path: str
    """Local folder, or Hub id that ``duetto fetch`` has brought."""
    revision: str | None = None
    """Commit or tag of a Hub id."""
    languages: list[str] = Field(min_length=1)
    """Languages it was trained for: a table of another language refuses it."""
    chat_template: bool = False
    """Wrap every question in its chat template."""


class ChatChecks(StrictModel):
    """Checks of the chat model on held-out prompts: does it stop, does it answer in the language of the prompt?"""

    file: str
    """JSON lines of conversations (``messages``, ``language``)."""
    prompts: int = Field(100, gt=0)
    """Prompts a language."""
    max_new_tokens: int = Field(96, gt=0)
    """Tokens after which an answer that has not ended counts as not stopping."""


class Progress(StrictModel):
    """How ``duetto eval --checkpoints`` follows a training run."""

    tasks: list[str] = []
    """Task names of this suite to run on each checkpoint; all when empty."""
    every: int = Field(default=1, gt=0)
    """Evaluate every n-th committed checkpoint (the last one always)."""
    average_last: int = Field(default=0, ge=0)
    """Also evaluate the mean of the weights of the last k checkpoints; 0 leaves it out."""


class Endpoint(StrictModel):
    """An OpenAI-compatible server. Its key comes from the environment, never from a file."""

    url: str
    """Base URL, for example http://127.0.0.1:8000/v1."""
    model: str
    """Model name that the server expects."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; it may be unset for a local server."""


class EvalConfig(StrictModel):
    """An evaluation suite."""

    tasks: list[TaskEntry] = Field(min_length=1)
    """What to measure, in the order of the tables."""
    models: list[str | ModelEntry] = ["base", "instruct"]
    """``base`` and ``instruct`` are the run's own; ``instruct`` is left out when the recipe has no ``sft``."""
    optional: bool = False
    """Run the tasks marked optional too."""
    backend: Backend = "hf"
    """``hf`` is stock lm-eval; ``hf-prefix`` computes shared prompts once (same scores, faster); ``vllm``: a GPU."""
    gate: int = Field(64, ge=0)
    """Requests of each task that ``hf-prefix`` scores with the stock backend too; 0 turns the gate off."""
    batch_size: int = Field(16, gt=0)
    """Sequences a forward pass (``hf-prefix`` batches by tokens instead)."""
    batch_tokens: int = Field(2048, gt=0)
    """Tokens a forward pass of ``hf-prefix``. On a CPU 2,048 stay in its caches (4,096 took a quarter longer)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of weights and activations; scores move with it, so it is recorded."""
    device: str = "auto"
    """``auto`` is CUDA where there is one, else the CPU."""
    threads: int | None = Field(None, gt=0)
    """CPU threads; all cores that the process may use when not given (nothing else of the run computes meanwhile)."""
    max_length: int | None = Field(None, gt=0)
    """Context in tokens; the model's own when not given. Longer questions lose their beginning, and are counted."""
    limit: int | None = Field(None, gt=0)
    """First n items of each task. For trying things out: the tables refuse such runs."""
    chat_template: bool = False
    """Wrap the questions to ``instruct`` in its chat template (scores of multiple choice change: it is recorded)."""
    datasets: str | None = None
    """Folder with data sets as ``<org>/<name>/``; the Hub cache that ``duetto fetch`` fills when not given."""
    chat: ChatChecks | None = None
    """Checks of the chat model; none without this section."""
    published: str | None = "configs/eval/published.yaml"
    """Figures of other models, shown as published and not measured here."""
    progress: Progress = Field(default_factory=Progress)
    """Evaluation of checkpoints."""
    agentic: bool = False
    """Run the tool-calling suite (eval/agentic) on the chat model."""
    conversation: bool = False
    """Run the conversation suite (eval/conversation) on the chat model."""
    endpoint: Endpoint | None = None
    """Serve the agentic and conversation suites from here instead of loading ``instruct``."""
    judge: Endpoint | None = None
    """A model that grades the conversation suite, beside the deterministic checks."""

    @field_validator("models")
    @classmethod
    def _known_models(cls, value: list[str | ModelEntry]) -> list[str | ModelEntry]:
        names = [m if isinstance(m, str) else m.name for m in value]
        for m in value:
            if isinstance(m, str) and m not in ("base", "instruct"):
                raise ValueError(f"{m!r} is no model of a run; known: base, instruct, or {{name, path, languages}}")
        if len(set(names)) != len(names):
            raise ValueError("a model is named twice")
        return value

    @model_validator(mode="after")
    def _unique_tasks(self) -> "EvalConfig":
        names = [t.task for t in self.tasks]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"task {twice[0]!r} is listed twice")
        unknown = [t for t in self.progress.tasks if t not in names]
        if unknown:
            raise ValueError(f"progress.tasks names {unknown[0]!r}, which the suite does not hold")
        return self

    @property
    def selected(self) -> list[TaskEntry]:
        """The tasks of this run."""
        return [t for t in self.tasks if self.optional or not t.optional]

    def data_files(self) -> list[Path]:
        """Local files that the tasks read."""
        return [Path(p) for t in self.selected for p in t.data.values()]
