"""The ``duetto:`` section of a pretraining file: what nanotron's format has no key for."""

from typing import Literal

from pydantic import Field

from pretrain.schema import Section


class Retention(Section):
    """Which checkpoints stay; those that were converted to a model (base/, base-<step>/) always do."""

    last: int = Field(default=3, ge=1)
    """The newest ones."""
    every: int | None = Field(default=None, ge=1)
    """Also those whose step is a multiple of this."""


class Watch(Section):
    """Guards during training. A non-finite loss or gradient always stops before the optimizer step."""

    spike_sigma: float | None = Field(default=6.0, gt=0)
    """A loss this many standard deviations above its running mean is recorded as a spike; null: never."""
    skip_spikes: bool = False
    """Drop the batch of a spike (no optimizer step) instead of only recording it."""
    stall_seconds: float = Field(default=1800.0, gt=0)
    """A step that takes longer ends the run with the name of the silent rank."""
    slow_rank_factor: float = Field(default=1.5, gt=1)
    """A rank whose compute takes this many times the median is named."""
    max_restarts: int = Field(default=2, ge=0)
    """Restarts from the last complete checkpoint after a lost worker."""


class DuettoOptions(Section):
    """Our own keys, all optional."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where torch sees a GPU."""
    threads: int = Field(default=1, ge=1)
    """Threads of a CPU process; one a rank is fastest for small models."""
    mixture_stage: str | None = None
    """Stage of tokens/mixture.json that feeds this file when it has no data_stages; null: the one of the same
    position in the recipe."""
    loader_workers: int = Field(default=1, ge=0)
    """As data_stages' num_loading_workers, for a file that is fed by the run's mixture."""
    data_seed: int | None = None
    """As data_stages' seed, for a file that is fed by the run's mixture; null: general.seed."""
    document_masking: bool | None = None
    """No attention across documents of one window. Null is false, and the doctor asks to state it."""
    zero_init_output_projections: bool = False
    """Attention-output and down projections start at zero (11 % fewer tokens at tiny scale; still a plain Llama)."""
    copying_init: float | None = Field(default=None, gt=0)
    """Attention starts as a copier: tokens look at their like and add this much of it to the residual stream ("mimetic"
    initialization, arXiv:2305.09828). Null: random, as published."""
    fused_cross_entropy: bool = True
    """Head and loss in one, a slice of tokens at a time: [tokens, vocab] logits are never held."""
    cross_entropy_chunk: int = Field(default=0, ge=0)
    """Tokens a slice; 0 chooses so that a slice of logits takes at most 256 MB in float32."""
    compile_layers: bool | None = None
    """torch.compile for each decoder layer; null: on a GPU, without tensor parallelism and document masking."""
    max_epochs: float = Field(default=4.0, gt=0)
    """Refuse data_stages that pass over a folder more often (repetition past ~4 hurts: arXiv:2305.16264)."""
    keep: Retention = Retention()
    watch: Watch = Watch()
    trackers: list[Literal["trackio", "wandb", "tensorboard"]] = []
    """Beside metrics.jsonl, which is always written."""
    compare_before: bool = False
    """Validate by source before the first step too, and write pretrain/forgetting.json at the end (continued
    pretraining: what was forgotten, what was learned)."""
