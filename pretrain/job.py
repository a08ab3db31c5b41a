"""What the parent hands to the workers: one JSON file, checked on both sides.

``pretrain.stage`` resolves recipe, data and configuration into a Job; ``pretrain.worker`` trains it and knows nothing
of recipes. ``nanotron`` holds what nanotron 0.4 understands, in its own words; the rest is what 0.4 lacks.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from duetto.files import read_json, write_json
from duetto.recipe import StrictModel
from pretrain.schedule import LRScheduler


class ModelOptions(StrictModel):
    """Options of the Llama that nanotron 0.4 hard-codes or lacks."""

    rope_theta: float = 10000.0
    """Base of the rotary embedding."""
    rope_interleaved: bool = True
    """Pairs (2i, 2i+1) as nanotron trains by default, or halves (i, i + dim/2) as transformers does."""
    document_masking: bool = False
    """No attention across documents of one window."""
    recompute_layer: bool = False
    """Keep only the input of each decoder layer and compute it again in the backward pass."""
    z_loss: float = 0.0
    """Coefficient of log(Z)^2 added to the loss; 0 switches it off."""
    zero_init_output: bool = False
    """Attention-output and down projections start at zero (11 % fewer tokens at tiny scale, docs/lab-notes.md)."""
    copying_init: float | None = None
    """Attention starts as a copier: queries equal keys, output projections are this many times the transposed values
    (pretrain/model_options.py)."""
    fused_cross_entropy: bool = True
    """Head and loss in one, a slice of tokens at a time: [tokens, vocab] logits are never held."""
    cross_entropy_chunk: int = Field(default=0, ge=0)
    """Tokens a slice; 0 chooses so that a slice of logits takes at most 256 MB in fp32 (smaller slices cost time)."""
    compile_layers: bool | None = None
    """torch.compile for each decoder layer; None: on a GPU, without tensor parallelism and document masking."""


class OptimizerOptions(StrictModel):
    """AdamW for all, or Muon for the hidden matrices and AdamW for the rest."""

    name: Literal["adamW", "muon"] = "adamW"
    weight_decay_exclude: list[str] = []
    """Regular expressions over parameter names; what matches is not decayed (nanotron main's
    weight_decay_exclude_named_params)."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of the hidden matrices; the schedule scales it like the other."""
    muon_momentum: float = 0.95
    muon_nesterov: bool = True
    muon_ns_steps: int = 5
    """Newton-Schulz iterations."""
    muon_weight_decay: float = 0.0
    muon_adjust_lr: Literal["original", "match_rms_adamw"] = "original"
    """``original``: times sqrt(max(1, rows / columns)); ``match_rms_adamw``: times 0.2 sqrt(max(rows, columns)), so
    that AdamW's learning rates carry over (arXiv:2502.16982). The names are torch.optim.Muon's."""


class DataStage(StrictModel):
    """Where the samples of a stretch of steps come from: a stage of the run's mixture, or folders with weights."""

    name: str
    start_step: int = 1
    """First step, counted within this job."""
    mixture: str | None = None
    """tokens/mixture.json."""
    mixture_stage: int = 0
    folders: list[str] = []
    weights: list[float] | None = None
    seed: int = 0
    loader_workers: int = 1
    """Threads that read ahead on each rank of a GPU run; 0 reads in the training loop."""


class ValidationSet(StrictModel):
    """Held-out text of one language or source."""

    name: str
    file: str
    """A .ds file."""
    tokens: int
    bytes: int
    """UTF-8 bytes of the text, the denominator of bits per byte."""
    token_size: Literal[2, 4]
    """Bytes a token in the file."""


class Validation(StrictModel):
    every: int = 0
    """Steps between two measurements; the last step is always measured; 0: only the last."""
    max_sequences: int = 64
    """Windows per set and measurement."""
    sets: list[ValidationSet] = []


class CheckpointOptions(StrictModel):
    interval: int = Field(gt=0)
    """Steps."""
    keep_last: int = Field(3, ge=1)
    """Complete checkpoints to keep beside those of the other rules."""
    keep_every: int = 0
    """Keep every checkpoint whose step is a multiple of it; 0: none."""
    keep_steps: list[int] = []
    """Steps to keep for good: what was converted to a model."""
    background: bool = True
    """Write while training goes on; it stops only for the copy to host memory."""
    shared_filesystem: bool = True
    """All ranks see one checkpoints folder."""


class GuardOptions(StrictModel):
    spike_factor: float = 0.0
    """A loss this many standard deviations above its running mean is recorded as a spike; 0: no watch."""
    skip_spikes: bool = False
    """Leave the optimizer step of a spiking batch out."""
    stall_seconds: float = 1800.0
    """A step that takes longer ends the run with the name of the silent rank."""
    slow_rank_factor: float = 1.5
    """A rank whose compute takes this many times the median is named."""


class Job(StrictModel):
    folder: str
    """<run>/pretrain: checkpoints/, metrics.jsonl and validation.jsonl live there."""
    stage: int = 0
    """Index of the pretraining file in the recipe."""
    offset: int = 0
    """Steps that earlier files of the recipe have trained; checkpoints and metrics count on from there."""
    tokens_before: int = 0
    """Tokens of those steps."""
    nanotron: dict[str, Any]
    """Configuration of nanotron 0.4."""
    model: ModelOptions = ModelOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    schedule: LRScheduler
    """The learning rate as a function of the step, in place of nanotron's scheduler."""
    data: list[DataStage]
    validation: Validation = Validation()
    checkpoints: CheckpointOptions
    guards: GuardOptions = GuardOptions()
    eos_id: int | None = None
    """Ends a document; needed for document masking."""
    init_from: str | None = None
    """Checkpoint whose weights (nothing else) the first step starts from."""
    resume_from: str | None = None
    """Complete checkpoint, with optimizer and position, to continue when the run has none of its own."""
    identity: dict[str, Any] = {}
    """What must not change between a checkpoint and its continuation: batch, data, tokenizer, seed, shape."""
    flops_per_token: float = 0.0
    """6 x parameters plus attention over the full square (pretrain.arithmetic)."""
    flops_per_token_causal: float = 0.0
    """The same with the causal triangle only."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    """Threads of a CPU process."""
    max_restarts: int = 2
    """Restarts after a lost worker."""
    trackers: list[str] = []
    """trackio, wandb, tensorboard."""
    compare_before: bool = False
    """Measure validation before the first step too."""

    @property
    def root(self) -> Path:
        return Path(self.folder)

    @property
    def steps(self) -> int:
        return int(self.nanotron["tokens"]["train_steps"])

    @property
    def tokens_per_step(self) -> int:
        t, p = self.nanotron["tokens"], self.nanotron["parallelism"]
        return int(t["micro_batch_size"] * t["batch_accumulation_per_replica"] * p["dp"] * t["sequence_length"])

    @property
    def last_step(self) -> int:
        return self.offset + self.steps

    def save(self, path: Path) -> None:
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path | str) -> "Job":
        return cls.model_validate(read_json(path))
