"""nanotron's published YAML, section by section: which keys it has and which values can be honoured.

This is the format of nanotron's main branch (the one model cards print). Each key is a field with its unit; a key
that has one meaning here is listed in ``only`` with the reason why no other value can be honoured, so that nothing
is silently ignored. Data, model and optimizer have files of their own; checks across sections are in pretrain.config.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from duetto.recipe import StrictModel


class Section(StrictModel):
    """A section of the file. Numbers are finite: nan passes most comparisons, and would reach the weights."""

    model_config = ConfigDict(allow_inf_nan=False)

    only: ClassVar[Mapping[str, tuple[tuple[Any, ...], str]]] = {}
    """Field -> (the values it may have, why no other)."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, value: Any) -> Any:
        """nanotron writes null where a key was left out; where null has no meaning of its own, it is the default."""
        if not isinstance(value, dict):
            return value
        fields = {f.alias or name: f for name, f in cls.model_fields.items()}
        unset = {k for k, f in fields.items() if value.get(k, 0) is None and not f.is_required()}
        unset = {k for k in unset if type(None) not in (fields[k].annotation, *get_args(fields[k].annotation))}
        return {k: v for k, v in value.items() if k not in unset} if unset else value

    @field_validator("*", mode="before")
    @classmethod
    def _refuse(cls, value: Any, info: ValidationInfo) -> Any:
        allowed, reason = cls.only.get(info.field_name or "", ((value,), ""))
        if value not in allowed:
            raise ValueError(f"{value!r} cannot be honoured: {reason}")
        return value


class General(Section):
    project: str
    """Groups runs in the trackers."""
    run: str | None = None
    """Name in the trackers; the recipe's name when null (nanotron's %date and %jobid are filled in)."""
    seed: int = 42
    """Of the initial weights; the data order has its own seed in data_stages or in the mixture."""
    step: None = None
    consumed_train_samples: None = None
    benchmark_csv_path: None = None
    ignore_sanity_checks: bool = True
    """False makes the engine compare all replicas at every step (slow); our own guards run in both cases."""

    only = {
        "step": ((None,), "the position of a run is restored from its checkpoint"),
        "consumed_train_samples": ((None,), "the data position is restored from the checkpoint"),
        "benchmark_csv_path": ((None,), "measure with: python -m bench.pretrain"),
    }


class Logging(Section):
    log_level: str | None = "warning"
    """Of the engine's own log on rank 0."""
    log_level_replica: str | None = "error"
    """The same on the other ranks."""
    iteration_step_info_interval: int = Field(default=1, ge=1)
    """Steps between two lines of nanotron's own loop. Ours shows progress by time, and metrics.jsonl has every step."""

    @field_validator("log_level", "log_level_replica")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        known = ("debug", "info", "warning", "error", "critical", "passive", None)
        if value not in known:
            raise ValueError(f"{value!r} is none of {', '.join(str(k) for k in known[:-1])}")
        return value


class MetricsLogging(Section):
    log_level: int = 0
    log_detail_interval: int = Field(default=10, ge=1)
    """Only read by nanotron at log_level 1."""

    only = {"log_level": ((0,), "statistics of every parameter are not collected; metrics.jsonl has the step's")}


class Checkpoints(Section):
    checkpoints_path: str | None = None
    """Folder of the checkpoints: relative to <run>/pretrain, or absolute (another disk); <run>/pretrain/checkpoints
    when null, and a link there otherwise."""
    checkpoint_interval: int = Field(ge=1)
    """Steps."""
    save_initial_state: bool = False
    """Also save step 0."""
    save_final_state: bool = True
    """The last step is what is converted: false is only possible when checkpoint_interval divides train_steps."""
    resume_checkpoint_path: str | None = None
    """A complete checkpoint to start from when this run has none of its own; a missing path is an error."""
    load_optimizer: bool = True
    load_lr_scheduler: bool = True
    checkpoints_path_is_shared_file_system: bool = False
    """True: one rank makes the folders; false: each node writes to its own disk."""

    only = {
        "load_optimizer": ((True,), "weights with a fresh optimizer are model.init_method.path"),
        "load_lr_scheduler": ((True,), "a new schedule is a second file in the recipe's pretrain list"),
    }


class Parallelism(Section):
    dp: int = Field(ge=1)
    """Replicas. dp x tp x pp is the number of processes."""
    tp: int = Field(ge=1)
    """Shards of every matrix."""
    pp: int = Field(ge=1)
    """Groups of layers."""
    pp_engine: Literal["afab", "1f1b"] = "1f1b"
    tp_mode: Literal["ALL_REDUCE", "REDUCE_SCATTER"] = "ALL_REDUCE"
    tp_linear_async_communication: bool = False
    recompute_layer: bool = False
    """Keep only each layer's input and compute its activations again in the backward pass."""
    tp_recompute_allgather: bool | None = None
    expert_parallel_size: int = 1
    context_parallel_size: int = 1

    only = {
        "expert_parallel_size": ((1,), "the model is dense"),
        "context_parallel_size": ((1,), "nanotron 0.4 has no context parallelism"),
    }

    @field_validator("tp_mode", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _tp(self) -> "Parallelism":
        if self.tp > 1 and self.tp_linear_async_communication:
            raise ValueError(
                "tp > 1 with tp_linear_async_communication: nanotron 0.4 refuses it with ALL_REDUCE, and with "
                "REDUCE_SCATTER its backward pass is wrong (measured loss 3.79 instead of 3.47); set it to false"
            )
        if self.tp > 1 and self.tp_mode == "REDUCE_SCATTER" and self.tp_recompute_allgather:
            raise ValueError("tp_recompute_allgather: nanotron 0.4 keeps what it gathered; set it to false")
        return self

    @property
    def world_size(self) -> int:
        return self.dp * self.tp * self.pp


class Tokenizer(Section):
    tokenizer_name_or_path: str | None = None
    """Checked against the recipe's tokenizer, which is the one that counts; null takes it."""
    tokenizer_revision: None = None
    tokenizer_max_length: None = None

    only = {
        "tokenizer_revision": ((None,), "name a local folder that holds the revision as the recipe's tokenizer"),
        "tokenizer_max_length": ((None,), "token files are cut into windows of tokens.sequence_length"),
    }


class Tokens(Section):
    sequence_length: int = Field(gt=0)
    """Tokens in a window."""
    train_steps: int = Field(gt=0)
    """Optimizer steps: the true horizon, equal to the end of the decay."""
    micro_batch_size: int = Field(gt=0)
    """Windows in one forward pass of one replica."""
    batch_accumulation_per_replica: int = Field(gt=0)
    """Micro batches in a step."""
    val_check_interval: int = Field(default=-1, ge=-1)
    """Steps between two validations; -1: only after the last step."""
    limit_val_batches: int = Field(default=0, ge=0)
    """Micro batches of each held-out source in a validation; 0: all of it."""
    limit_test_batches: int = 0

    only = {"limit_test_batches": ((0,), "held-out tests belong to: duetto eval")}
