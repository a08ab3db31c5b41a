"""A Hugging Face Llama with a byte-level BPE as a GGUF file, and back.

gguf-py writes the format; what is ours is the mapping: names, the rotary layout (llama.cpp's Llama keeps the two
halves of each head interleaved), the tokenizer's split rule, and which tensors stay in more bits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.files import read_json

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
TOP["lm_head.weight"] = "output.weight"


@dataclass(frozen=True)
class Kind:
    """One kind of file: the type of the matrices, and of embedding and head, which suffer most from few bits."""

    matrices: str
    embedding: str
    file_type: str


KINDS = {
    "f16": Kind("F16", "F16", "MOSTLY_F16"),
    "q8_0": Kind("Q8_0", "Q8_0", "MOSTLY_Q8_0"),
    "q4_0": Kind("Q4_0", "Q8_0", "MOSTLY_Q4_0"),
}


def split_rule(tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name for the pre-tokenizer of a tokenizer.json.

    Raises:
        UserError: llama.cpp would split text differently.
    """
    rule = tokenizer.get("pre_tokenizer") or {}
    parts = rule.get("pretokenizers", [rule])
    splits = [p for p in parts if p.get("type") == "Split"]
    levels = [p for p in parts if p.get("type") == "ByteLevel"]
    bpe = (tokenizer.get("model") or {}).get("type") == "BPE"
    if bpe and len(levels) == 1 and not levels[0].get("add_prefix_space"):
        if not splits and len(parts) == 1 and levels[0].get("use_regex", True):
            return "gpt-2"
        if len(splits) == 1 and len(parts) == 2 and splits[0]["pattern"].get("Regex") == LLAMA3_SPLIT:
            return "llama-bpe"
    raise UserError(
        "tokenizer.json: llama.cpp has no name for this pre-tokenizer; GGUF export takes byte-level BPE with "
        "GPT-2's or Llama 3's split rule"
    )


def rotary_to_interleaved(weight: Any, heads: int) -> Any:
    """``[heads * d, hidden]``: from two halves a head to pairs, as llama.cpp's Llama reads them."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def rotary_to_halves(weight: Any, heads: int) -> Any:
    """The inverse of :func:`rotary_to_interleaved`."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, half, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    """Name and fp32 array of each tensor, one at a time."""
    import torch
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as f:
            for name in f.keys():  # noqa: SIM118 (not a mapping)
                yield name, f.get_tensor(name).to(torch.float32).numpy()


def gguf_name(name: str) -> str:
    """``model.layers.3.mlp.up_proj.weight`` -> ``blk.3.ffn_up.weight``.

    Raises:
        UserError: a tensor that a plain Llama does not have.
    """
    if name in TOP:
        return TOP[name]
    parts = name.split(".", 3)
    inner = parts[3].removesuffix(".weight") if len(parts) == 4 else ""
    if parts[:2] != ["model", "layers"] or inner not in BLOCK:
        raise UserError(f"{name}: no tensor of a plain Llama; GGUF export takes nothing else")
    return f"blk.{parts[2]}.{BLOCK[inner]}.weight"


def hf_name(name: str) -> str:
    """The inverse of :func:`gguf_name`."""
    back = {v: k for k, v in TOP.items()}
    if name in back:
        return back[name]
    _, layer, inner, _ = name.split(".")
    return f"model.layers.{layer}.{ {v: k for k, v in BLOCK.items()}[inner] }.weight"


def write_gguf(folder: Path, target: Path, kind: str, name: str) -> None:
    """Write one file.

    Raises:
        UserError: the model or its tokenizer has no GGUF counterpart.
    """
    import gguf
    import numpy as np

    config = read_json(folder / "config.json")
    if config.get("model_type") != "llama" or config.get("attention_bias") or config.get("mlp_bias"):
        raise UserError(f"{folder}: GGUF export takes Llama models without biases, not {config.get('model_type')}")
    chosen = KINDS[kind]
    writer = gguf.GGUFWriter(str(target), "llama")
    write_header(writer, config, name)
    writer.add_file_type(gguf.LlamaFileType[chosen.file_type])
    write_tokenizer(writer, folder, config)
    for key, weight in tensors(folder):
        to = gguf_name(key)
        if key == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        if to.endswith("attn_q.weight"):
            weight = rotary_to_interleaved(weight, config["num_attention_heads"])
        elif to.endswith("attn_k.weight"):
            weight = rotary_to_interleaved(weight, config["num_key_value_heads"])
        wanted = chosen.embedding if to in ("token_embd.weight", "output.weight") else chosen.matrices
        if weight.ndim == 1:
            writer.add_tensor(to, weight.astype(np.float32))
        elif wanted == "F16" or weight.shape[-1] % 32:  # blocks of 32 columns, or none
            writer.add_tensor(to, weight.astype(np.float16))
        else:
            quantized = gguf.GGMLQuantizationType[wanted]
            writer.add_tensor(to, gguf.quants.quantize(weight, quantized), raw_dtype=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_header(writer: Any, config: dict[str, Any], name: str) -> None:
    theta = (config.get("rope_parameters") or {}).get("rope_theta") or config.get("rope_theta") or 10_000.0
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_name(name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(float(theta))
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(config["vocab_size"])


def write_tokenizer(writer: Any, folder: Path, config: dict[str, Any]) -> None:
    """Vocabulary, merges, special tokens and chat template; the model's spare rows become unused tokens."""
    import gguf
    from transformers import AutoTokenizer

    content = read_json(folder / "tokenizer.json")
    pre = split_rule(content)
    added = {t["id"]: t for t in content["added_tokens"]}
    names = {i: t for t, i in content["model"]["vocab"].items()} | {i: t["content"] for i, t in added.items()}
    kinds, texts = [], []
    for i in range(config["vocab_size"]):
        texts.append(names.get(i, f"[PAD{i}]"))
        special = i in added and added[i].get("special")
        plain = gguf.TokenType.USER_DEFINED if i in added else gguf.TokenType.NORMAL
        kinds.append(gguf.TokenType.CONTROL if special else plain if i in names else gguf.TokenType.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]])
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    ends = config.get("eos_token_id")
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else ends[0] if isinstance(ends, list) else ends
    writer.add_eos_token_id(end)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id])
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def read_weights(file: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The weights that a GGUF file stands for, as fp32 arrays under their Hugging Face names."""
    import gguf

    out = {}
    for tensor in gguf.GGUFReader(str(file)).tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        weight = weight.reshape([int(n) for n in reversed(tensor.shape)])
        name = hf_name(tensor.name)
        if name.endswith("q_proj.weight"):
            weight = rotary_to_halves(weight, config["num_attention_heads"])
        elif name.endswith("k_proj.weight"):
            weight = rotary_to_halves(weight, config["num_key_value_heads"])
        out[name] = weight
    return out


def metadata(file: Path) -> dict[str, Any]:
    """Scalar fields of a GGUF file, for tests and the curious."""
    import gguf

    fields = gguf.GGUFReader(str(file)).fields
    return {name: json.loads(json.dumps(field.contents(), default=str)) for name, field in fields.items()}
