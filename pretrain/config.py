"""A pretraining file: nanotron's published YAML plus one section of our own, checked before any process starts.

    config = load_recipe("configs/recipes/demo.yaml").pretrain[0]

The sections are in pretrain.schema*, the learning rate in pretrain.schedule, our own keys in pretrain.options; the
mapping to nanotron 0.4 is pretrain.mapping.
"""

from typing import Any

from pydantic import model_validator

from pretrain.options import DuettoOptions
from pretrain.schema import Checkpoints, General, Logging, MetricsLogging, Parallelism, Section, Tokenizer, Tokens
from pretrain.schema_data import DataStage
from pretrain.schema_model import Model
from pretrain.schema_optimizer import Optimizer

MOVED_UP = ("resume_checkpoint_path", "save_initial_state", "save_final_state", "load_optimizer", "load_lr_scheduler")
"""Keys of ``checkpoints`` that the published Zagreus file has one level too high."""


class PretrainConfig(Section):
    """One pretraining file."""

    general: General
    checkpoints: Checkpoints
    model: Model
    optimizer: Optimizer
    parallelism: Parallelism
    tokens: Tokens
    tokenizer: Tokenizer = Tokenizer()
    logging: Logging = Logging()
    metrics_logging: MetricsLogging | None = None
    data_stages: list[DataStage] | None = None
    """Null: the run's own mixture."""
    duetto: DuettoOptions = DuettoOptions()
    profiler: None = None
    lighteval: None = None
    s3_upload: None = None

    only = {
        "profiler": ((None,), "it would stop the run after a few steps; profile with: python -m bench.pretrain"),
        "lighteval": ((None,), "evaluate with: duetto eval --checkpoints"),
        "s3_upload": ((None,), "upload with: duetto push, or copy the run folder"),
    }

    @model_validator(mode="before")
    @classmethod
    def _move_down(cls, value: Any) -> Any:
        """The published file has some keys of ``checkpoints`` one level too high."""
        if not isinstance(value, dict) or not isinstance(value.get("checkpoints"), dict):
            return value
        moved = {k: value[k] for k in MOVED_UP if k in value}
        both = sorted(moved.keys() & value["checkpoints"].keys())
        if both:
            raise ValueError(f"{both[0]} stands both at the top and under checkpoints; keep the latter")
        rest = {k: v for k, v in value.items() if k not in moved}
        return {**rest, "checkpoints": {**value["checkpoints"], **moved}} if moved else value

    @model_validator(mode="after")
    def _fits_together(self) -> "PretrainConfig":
        for problem in (self._shape(), self._precision(), self._stages(), self._schedule(), self._last_step()):
            if problem:
                raise ValueError(problem)
        return self

    def _shape(self) -> str | None:
        m, p, t = self.model.shape, self.parallelism, self.tokens
        if t.sequence_length > m.max_position_embeddings:
            return (
                f"tokens.sequence_length {t.sequence_length:,} is longer than model.model_config."
                f"max_position_embeddings {m.max_position_embeddings:,}"
            )
        for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
            if getattr(m, name) % p.tp:
                return f"model.model_config.{name} {getattr(m, name)} is not a multiple of parallelism.tp {p.tp}"
        if p.tp > 1 and p.tp_mode == "REDUCE_SCATTER" and t.sequence_length % p.tp:
            return f"tokens.sequence_length {t.sequence_length} is not a multiple of parallelism.tp {p.tp}"
        unit = self.model.make_vocab_size_divisible_by * p.tp
        if m.vocab_size != -1 and m.vocab_size % unit:
            return (
                f"model.model_config.vocab_size {m.vocab_size:,} is not a multiple of make_vocab_size_divisible_by x "
                f"tp = {unit}: nanotron would pad it with rows that no token uses; add tokens or change tp"
            )
        if p.pp > m.num_hidden_layers:
            return f"parallelism.pp {p.pp} is more than the {m.num_hidden_layers} layers"
        if p.pp > 1 and p.pp_engine == "1f1b" and t.batch_accumulation_per_replica < p.pp - 1:
            return (
                f"parallelism.pp_engine 1f1b with pp {p.pp} needs at least {p.pp - 1} micro batches a step; "
                "raise tokens.batch_accumulation_per_replica"
            )
        if self.duetto.copying_init and p.tp > 1:
            return "duetto.copying_init needs whole matrices: set parallelism.tp to 1 or remove it"
        if self.duetto.copying_init and self.duetto.zero_init_output_projections:
            return "duetto.copying_init and zero_init_output_projections set the same matrices: keep one"
        if m.z_loss_enabled and p.tp > 1 and not self.duetto.fused_cross_entropy:
            return "model.model_config.z_loss_enabled with tp > 1 needs duetto.fused_cross_entropy: true"
        if self.optimizer.optimizer_factory.name == "muon" and p.tp > 1:
            return "optimizer_factory.name muon needs whole matrices: set parallelism.tp to 1 or use adamW"
        return None

    def _precision(self) -> str | None:
        if self.model.dtype == "float32" and self.optimizer.accumulate_grad_in_fp32:
            return "optimizer.accumulate_grad_in_fp32 is for model.dtype bfloat16; nanotron refuses it with float32"
        return None

    def _stages(self) -> str | None:
        stages = self.data_stages
        if stages is None:
            return None
        starts, names = [s.start_training_step for s in stages], [s.name for s in stages]
        if not starts or min(starts) != 1:
            return "data_stages: one stage must have start_training_step 1"
        if len(set(starts)) < len(starts) or len(set(names)) < len(names):
            return "data_stages: two stages have the same start_training_step or the same name"
        if max(starts) > self.tokens.train_steps:
            return f"data_stages: a stage starts at step {max(starts):,}, after the last of {self.tokens.train_steps:,}"
        for s in stages:
            if s.sequence_length not in (None, self.tokens.sequence_length):
                return (
                    f"data_stages: stage {s.name!r} has sequence_length {s.sequence_length}, tokens has "
                    f"{self.tokens.sequence_length}; put the other length into a second file of the recipe's pretrain "
                    "list"
                )
            if self.duetto.document_masking and not s.data.dataset.return_positions:
                return f"data_stages: stage {s.name!r}: document masking needs return_positions: true"
            size = s.data.dataset.vocab_size
            if size is not None and self.model.shape.vocab_size not in (-1, size):
                return f"data_stages: stage {s.name!r} has vocab_size {size}, the model {self.model.shape.vocab_size}"
        return None

    def _last_step(self) -> str | None:
        interval, steps = self.checkpoints.checkpoint_interval, self.tokens.train_steps
        if not self.checkpoints.save_final_state and steps % interval:
            return (
                f"checkpoints.save_final_state is false and checkpoint_interval {interval:,} does not divide "
                f"train_steps {steps:,}: the trained model would not be saved; set save_final_state to true"
            )
        return None

    def _schedule(self) -> str | None:
        return self.optimizer.learning_rate_scheduler.problem(self.tokens.train_steps)

    @property
    def stages(self) -> list[DataStage]:
        """data_stages in the order of training; empty when the run's mixture feeds this file."""
        return sorted(self.data_stages or [], key=lambda s: s.start_training_step)

    @property
    def samples_per_step(self) -> int:
        """Windows in a step over all replicas (nanotron's global batch size)."""
        return self.tokens.micro_batch_size * self.tokens.batch_accumulation_per_replica * self.parallelism.dp

    @property
    def tokens_per_step(self) -> int:
        return self.samples_per_step * self.tokens.sequence_length

    @property
    def total_tokens(self) -> int:
        return self.tokens_per_step * self.tokens.train_steps
