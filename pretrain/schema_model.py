"""``model``: the shape of a Llama, how it starts, and its number format."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from duetto.recipe import nearest
from pretrain.schema import Section

OTHER_FAMILIES = ("is_qwen2_config", "is_starcoder2_config", "is_mamba_config", "moe_config")
"""Keys by which nanotron tells other models from a Llama."""


class LlamaShape(Section):
    """``model.model_config``: the shape of a Llama."""

    is_llama_config: bool = True
    hidden_size: int = Field(gt=0)
    """Width of the residual stream."""
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    """Fewer than num_attention_heads is grouped-query attention."""
    intermediate_size: int = Field(gt=0)
    """Width of the SwiGLU."""
    vocab_size: int
    """Rows of the embedding; equals the tokenizer's length; -1 takes it from the tokenizer."""
    max_position_embeddings: int = Field(gt=0)
    """Longest context, in tokens; written to the Hugging Face configuration."""
    tie_word_embeddings: bool = False
    """The head shares the embedding's weights."""
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    rope_theta: float = Field(default=10000.0, gt=0)
    """Base of the rotary embedding."""
    rope_interleaved: bool = False
    """Pairs (0, 1), (2, 3), ... instead of halves; Hugging Face uses halves."""
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    pad_token_id: int | None = None
    initializer_range: float = Field(default=0.02, gt=0)
    """Written to the Hugging Face configuration; training starts from model.init_method.std."""
    z_loss_enabled: bool = False
    """Adds z_loss_coefficient x log(Z)^2 (PaLM, arXiv:2204.02311); off in the published recipe."""
    z_loss_coefficient: float = Field(default=1e-4, ge=0)
    hidden_act: str = "silu"
    attention_bias: bool = False
    rope_scaling: None = None
    pretraining_tp: int = 1
    use_cache: bool = True
    """Written to the Hugging Face configuration."""
    attn_implementation: str | None = Field(default=None, alias="_attn_implementation")
    """flash-attn where it is installed, torch's fused attention elsewhere: the same function."""

    only = {
        "is_llama_config": ((True,), "the engine and the converter are for Llama"),
        "hidden_act": (("silu",), "a Llama has a SwiGLU"),
        "attention_bias": ((False, None), "nanotron 0.4's Llama has no biases"),
        "rope_scaling": ((None,), "raise rope_theta instead (configs/pretrain/long-32k.yaml)"),
        "pretraining_tp": ((1, None), "set parallelism.tp"),
        "attn_implementation": (
            ("flash_attention_2", None),
            "flash-attn is used where it is installed, torch's fused attention elsewhere",
        ),
    }

    @model_validator(mode="before")
    @classmethod
    def _family(cls, value: Any) -> Any:
        if isinstance(value, dict):
            known = {f.alias or name for name, f in cls.model_fields.items()}
            for key in value.keys() - known - set(cls.model_fields) - set(OTHER_FAMILIES):
                raise ValueError(f"unknown key {key!r}{nearest(key, sorted(known))}")
            for key in OTHER_FAMILIES:
                if value.get(key):
                    raise ValueError(f"{key}: the engine and the converter are for Llama (is_llama_config: true)")
            if value.get("num_key_value_heads") is None and "num_attention_heads" in value:
                value = {**value, "num_key_value_heads": value["num_attention_heads"]}
        return value

    @model_validator(mode="after")
    def _divides(self) -> "LlamaShape":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"hidden_size / num_attention_heads is {self.head_dim}; rotary embeddings need an even number"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        if self.vocab_size < 2 and self.vocab_size != -1:
            raise ValueError(f"vocab_size {self.vocab_size}: write the tokenizer's length, or -1 to take it from there")
        return self

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


class InitMethod(Section):
    """Either ``std`` (random) or ``path`` (start from a model)."""

    std: float | None = Field(default=None, gt=0)
    """Standard deviation of the normal; nanotron divides it by sqrt(2 x layers) for the projections that write to
    the residual stream."""
    path: str | None = None
    """A Hugging Face folder or a nanotron checkpoint: weights only, step 0, fresh optimizer."""
    scaling_method: str = "NUM_LAYERS"

    only = {"scaling_method": (("NUM_LAYERS", "num_layers"), "nanotron 0.4 scales by the number of layers")}

    @model_validator(mode="before")
    @classmethod
    def _no_mup(cls, value: Any) -> Any:
        if isinstance(value, dict) and "use_mup" in value:
            raise ValueError("use_mup: nanotron 0.4 has no spectral muP; give std")
        return value

    @model_validator(mode="after")
    def _one(self) -> "InitMethod":
        if (self.std is None) == (self.path is None):
            raise ValueError("give either std (random weights) or path (a model to start from)")
        return self


class Model(Section):
    shape: LlamaShape = Field(alias="model_config")
    init_method: InitMethod
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of weights and activations; reductions, norms and the loss are float32."""
    make_vocab_size_divisible_by: int = Field(default=1, ge=1)
    """Refused when it would pad: padded rows would end up in the published model."""
    ddp_bucket_cap_mb: int = Field(default=25, gt=0)
    """MB (2**20 bytes) of gradients per all-reduce."""

    @field_validator("dtype", mode="before")
    @classmethod
    def _dtype(cls, value: Any) -> Any:
        if value in ("float16", "fp16", "half"):
            raise ValueError("float16 needs loss scaling, which the engine does not have; use bfloat16")
        return value
