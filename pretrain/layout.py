"""Where each weight of a Llama is, in nanotron and in Hugging Face: one table for both directions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

EMBEDDING = "model.token_position_embeddings.pp_block.token_embedding.weight"
HEAD = "model.lm_head.pp_block.weight"


@dataclass(frozen=True)
class Layout:
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    tied: bool

    @classmethod
    def of(cls, shape: dict[str, Any]) -> "Layout":
        """From a nanotron model_config.json (or the same keys of a Hugging Face config.json)."""
        return cls(
            layers=shape["num_hidden_layers"],
            heads=shape["num_attention_heads"],
            kv_heads=shape["num_key_value_heads"],
            head_dim=shape["hidden_size"] // shape["num_attention_heads"],
            ffn=shape["intermediate_size"],
            tied=shape["tie_word_embeddings"],
        )

    def pairs(self) -> Iterator[tuple[str, list[str]]]:
        """nanotron's name, and the Hugging Face names of its rows, in the order of the model."""
        yield EMBEDDING, ["model.embed_tokens.weight"]
        for i in range(self.layers):
            a, b = f"model.decoder.{i}.pp_block", f"model.layers.{i}"
            yield f"{a}.input_layernorm.weight", [f"{b}.input_layernorm.weight"]
            yield f"{a}.attn.qkv_proj.weight", [f"{b}.self_attn.{x}_proj.weight" for x in "qkv"]
            yield f"{a}.attn.o_proj.weight", [f"{b}.self_attn.o_proj.weight"]
            yield f"{a}.post_attention_layernorm.weight", [f"{b}.post_attention_layernorm.weight"]
            yield f"{a}.mlp.gate_up_proj.weight", [f"{b}.mlp.{x}_proj.weight" for x in ("gate", "up")]
            yield f"{a}.mlp.down_proj.weight", [f"{b}.mlp.down_proj.weight"]
        yield "model.final_layer_norm.pp_block.weight", ["model.norm.weight"]
        if not self.tied:
            yield HEAD, ["lm_head.weight"]

    def rows(self, name: str, total: int) -> list[int]:
        """How the rows of a nanotron tensor split into Hugging Face tensors (and into tp chunks)."""
        if ".qkv_proj." in name:
            return [self.heads * self.head_dim, self.kv_heads * self.head_dim, self.kv_heads * self.head_dim]
        if ".gate_up_proj." in name:
            return [self.ffn, self.ffn]
        return [total]

    def rotary_heads(self, name: str) -> int:
        """Heads whose rows follow the rotary layout in a Hugging Face tensor; 0 for all others."""
        if name.endswith(".q_proj.weight"):
            return self.heads
        return self.kv_heads if name.endswith(".k_proj.weight") else 0


def rotary_to_halves(weight: Any, heads: int) -> Any:
    """Rows from pairs (2i, 2i + 1), nanotron's interleaved rotary, to halves (i, i + dim / 2), Hugging Face's."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def rotary_to_pairs(weight: Any, heads: int) -> Any:
    """The way back."""
    rows, width = weight.shape
    return weight.view(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width)
