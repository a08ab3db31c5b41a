"""``optimizer``: AdamW, or Muon with AdamW, their decay and their schedule."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pretrain.schedule import LRScheduler
from pretrain.schema import Section


class OptimizerFactory(Section):
    """AdamW for all parameters, or Muon for the hidden matrices and AdamW for the rest."""

    name: Literal["adamW", "muon"]
    adam_eps: float = Field(gt=0)
    adam_beta1: float = Field(ge=0, lt=1)
    adam_beta2: float = Field(ge=0, lt=1)
    torch_adam_is_fused: bool
    """torch's fused AdamW kernel."""
    muon_learning_rate: float | None = Field(default=None, gt=0)
    """Top of Muon's own curve, which has the shape of learning_rate_scheduler's. Sensitive: twice the best cost 4 %."""
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    muon_nesterov: bool = True
    muon_weight_decay: float | None = Field(default=None, ge=0)
    """Of the hidden matrices; null: optimizer.weight_decay."""
    muon_adjust_lr: Literal["original", "match_rms_adamw"] = "original"
    """Size of an update: original is sqrt(max(1, rows / columns)), for rates near 0.02; match_rms_adamw is 0.2
    sqrt(max(rows, columns)), so that AdamW's rates carry over (arXiv:2502.16982). torch.optim.Muon's names."""
    muon_ns_steps: int = Field(default=5, ge=1, le=10)
    """Newton-Schulz iterations."""

    @field_validator("name", mode="before")
    @classmethod
    def _name(cls, value: Any) -> Any:
        if isinstance(value, str) and value.lower() == "sgd":
            raise ValueError("sgd is not offered: nanotron 0.4 builds AdamW; use adamW or muon")
        return {"adamw": "adamW", "muon": "muon"}.get(value.lower(), value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _muon(self) -> "OptimizerFactory":
        defaults = {k: f.default for k, f in type(self).model_fields.items() if k.startswith("muon_")}
        own = {k for k, default in defaults.items() if getattr(self, k) != default}
        if self.name == "muon" and self.muon_learning_rate is None:
            raise ValueError(
                "muon_learning_rate is missing (0.02 with muon_adjust_lr original, 0.003 with match_rms_adamw)"
            )
        if self.name != "muon" and own:
            raise ValueError(f"{', '.join(sorted(own))} would have no effect: name is {self.name}")
        return self


class Optimizer(Section):
    optimizer_factory: OptimizerFactory
    zero_stage: Literal[0, 1]
    """1 shards the optimizer's state over dp."""
    weight_decay: float = Field(ge=0)
    weight_decay_exclude_named_params: list[str] = []
    """Regular expressions matched from the start of a parameter's name; empty decays everything, as published.
    [".*norm.*", ".*token_embedding.*"] spares norms and embedding."""
    clip_grad: float | None = Field(gt=0)
    """Largest gradient norm, over all parameters; null does not clip."""
    accumulate_grad_in_fp32: bool
    """Sum and reduce gradients in float32 and keep float32 master weights (bf16 without it ends 0.08 nats worse)."""
    learning_rate_scheduler: LRScheduler
