"""The data configuration (configs/data/*.yaml), typed. Light: no engine is imported here."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from data.block_config import BLOCKS, parse_block
from duetto.recipe import StrictModel, nearest

Kind = Literal["jsonl", "parquet", "warc", "pdf", "code", "hub"]

DEFAULT_BLOCKS: dict[str, list[Any]] = {
    "jsonl": ["repair", "pii"],
    "parquet": ["repair", "pii"],
    "warc": ["url", "repair", "language", "gopher_repetition", "gopher_quality", "c4", "fineweb", "pii"],
    "pdf": ["repair", "language", "pii"],
    "code": [{"repair": {"mojibake": False}}],
    "hub": [],  # FineWeb, FineWeb-2, FinePDFs and StarCoderData were filtered by their makers
}
"""What is done to a source that names no ``clean`` list, by kind."""


class Source(StrictModel):
    """Where one part of the mix comes from, and what is done to it."""

    kind: Kind
    """jsonl (also .gz, .zst), parquet, warc; a folder of pdf files; a folder of source code; a Hub dataset."""
    path: str
    """File, folder, glob or fsspec URL; for ``hub``: ``namespace/name[@revision]/folder/of/parquet/files``."""
    stream: bool = False
    """``hub`` only: read over the network instead of from what ``duetto fetch`` brought (export HF_HUB_OFFLINE=0)."""
    language: str
    """ISO 639-1 code; ``code`` for programs."""
    text_key: str = "text"
    """Column or key of the text."""
    id_key: str = "id"
    """Column or key of the document's id; ``file:number`` where a document has none."""
    clean: list[Any] | None = None
    """Cleaning blocks in order, each ``name`` or ``{name: {option: value}}``; without it the defaults of the kind."""
    dedup: bool = True
    """Whether the documents take part in deduplication (see ``dedup``)."""
    decontaminate: bool = True
    """Whether documents that overlap a benchmark are dropped (see ``decontaminate``)."""
    max_epochs: float | None = Field(default=None, gt=0)
    """Bound on the passes over this source, instead of the mix's own."""
    limit: int | None = Field(default=None, gt=0)
    """Read at most this many documents of each task: for trials."""
    tasks: int | None = Field(default=None, gt=0)
    """Parallel parts, each of whole files; by default one for 32 MB of input, at most ``executor.tasks``."""
    include: list[str] = []
    """Glob patterns of relative paths to read; empty means all of the kind."""
    exclude: list[str] = []
    """Glob patterns of relative paths to leave out."""
    licenses: list[str] | None = None
    """``code`` only: SPDX identifiers to keep, as found in file headers and LICENSE files; None keeps all."""
    seconds_per_file: float = Field(default=60.0, gt=0)
    """``pdf`` only: a file that takes longer is skipped and counted."""

    @field_validator("clean")
    @classmethod
    def _known_blocks(cls, value: list[Any] | None) -> list[Any] | None:
        for entry in value or []:
            parse_block(entry)
        return value

    @property
    def blocks(self) -> list[Any]:
        if self.clean is not None:
            return self.clean
        own = self.language == "code" and self.kind in ("jsonl", "parquet")
        return DEFAULT_BLOCKS["code" if own else self.kind]


class Generate(StrictModel):
    """The project's own bilingual corpus, made on the spot (data/demo)."""

    seed: int = 8
    """Of the generator."""
    scale: float = Field(default=1.0, gt=0)
    """Size against the demo's own (1.0 is about 10 MB)."""


class Dedup(StrictModel):
    """Exact, then MinHash, across the sources of one language.

    The survivor of a group is its first document in the order of ``sources``, then files, then lines.
    """

    exact: bool = True
    """Drop documents whose normalised text was seen before."""
    minhash: bool = False
    """Drop near duplicates (datatrove's MinHash)."""
    ngram: int = Field(default=5, gt=0)
    """Words in a shingle."""
    buckets: int = Field(default=14, gt=0)
    """With hashes_per_bucket 8: half of the pairs at Jaccard 0.72 are found (FineWeb's setting)."""
    hashes_per_bucket: int = Field(default=8, gt=0)
    seed: int = 1
    """Of the hash functions."""


class Decontaminate(StrictModel):
    """Drop documents that share n-grams with the evaluation sets named by the recipe's eval configuration."""

    enabled: bool = True
    ngram: int = Field(default=13, ge=5)
    """Words; 13 is the field's habit (Brown et al., 2020)."""
    min_overlap: float = Field(default=0.0, ge=0, le=1)
    """Share of an item's n-grams that must be found in one document; 0 means one n-gram is enough."""
    files: list[str] = []
    """More benchmark files (jsonl, parquet) than those of the eval configuration."""


class Validation(StrictModel):
    """Held-out text: measured in pretraining, never trained on."""

    files: dict[str, str] = {}
    """jsonl files by language (or any name); their texts are dropped from every source."""
    holdout: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of each source's documents set aside, chosen by a hash of the text, and measured source by source; not for
    languages that have a file."""
    max_documents: int = Field(default=2000, gt=0)
    """Held-out documents kept for each language, shared by its sources; more would only cost time."""


class Tokenization(StrictModel):
    """How text becomes ``.ds`` shards."""

    engine: Literal["fastokens", "gigatoken", "hf"] = "fastokens"
    """All give the same ids; ``hf`` is the reference."""
    oracle_documents: int = Field(default=64, ge=0)
    """Documents of every shard that Hugging Face tokenizers encodes too; one difference stops the job."""
    batch_documents: int = Field(default=1000, gt=0)
    """Documents handed to the engine at once."""
    batch_bytes: int = Field(default=16_000_000, gt=0)
    """... and at most about so much text: bounds memory when documents are long."""
    tokens_per_shard: int = Field(default=200_000_000, gt=0)
    """A shard is closed when it exceeds this."""
    seed: int = 8
    """Of the shuffle inside a shard."""


class Slurm(StrictModel):
    """datatrove's SlurmPipelineExecutor: one array job for each step."""

    partition: str
    time: str = "20:00:00"
    """Limit of one task."""
    cpus_per_task: int = Field(default=1, gt=0)
    mem_per_cpu_gb: int = Field(default=4, gt=0)
    workers: int = Field(default=-1)
    """Tasks that run at once; -1 for no bound."""
    max_array_size: int = Field(default=1001, gt=0)
    """The cluster's own bound on one array (MaxArraySize)."""
    sbatch: dict[str, Any] = {}
    """More sbatch options: account, qos, ..."""
    env_command: str | None = None
    """Shell line that activates the environment in a job."""


class Executor(StrictModel):
    """Where the tasks run."""

    tasks: int = Field(default=64, gt=0)
    """Most parallel parts of a source."""
    workers: int = Field(default=0, ge=0)
    """Local processes; 0 is one a core, and a single one for inputs under 64 MB."""
    slurm: Slurm | None = None
    """Run as SLURM arrays instead of local processes."""


class StageBudget(StrictModel):
    """What one pretraining stage draws from the mix."""

    name: str
    tokens: dict[str, int]
    """Tokens to draw by source (not unique tokens: epochs follow)."""


class DataConfig(StrictModel):
    """Sources -> cleaning -> dedup -> decontamination -> tokens -> mixture."""

    sources: dict[str, Source] = Field(min_length=1)
    """By name, in the order that decides which duplicate survives."""
    stages: list[StageBudget] = Field(min_length=1)
    """Token budgets, one entry a pretraining stage."""
    max_epochs: float = Field(default=4.0, gt=0)
    """Refuse the mixture above this many passes over a source (repetition past about 4 hurts: Muennighoff et al.,
    2023, arXiv:2305.16264)."""
    bad_files: Literal["stop", "skip"] = "stop"
    """A torn or unreadable input file ends the job, or is skipped and counted."""
    generate: Generate | None = None
    validation: Validation = Validation()
    dedup: Dedup = Dedup()
    decontaminate: Decontaminate = Decontaminate()
    tokenization: Tokenization = Tokenization()
    executor: Executor = Executor()

    @model_validator(mode="after")
    def _budgets_name_sources(self) -> "DataConfig":
        for stage in self.stages:
            for name in stage.tokens:
                if name not in self.sources:
                    raise ValueError(f"stage {stage.name!r}: no source {name!r}{nearest(name, list(self.sources))}")
        names = [s.name for s in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"two stages have the same name: {names}")
        for name in self.sources:
            if not name.replace("_", "").replace("-", "").isalnum() or name == "validation":
                raise ValueError(f"source name {name!r}: letters, digits, - and _ only, and not 'validation'")
        return self


__all__ = ["BLOCKS", "DEFAULT_BLOCKS", "DataConfig", "Source"]
