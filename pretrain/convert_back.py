"""A Hugging Face Llama as a nanotron checkpoint, so that continued pretraining can start from a Hub model.

Written whole, one tensor at a time; nanotron's loader cuts it for any tp and pp. The folder has a COMMIT marker, and
is refused unless the logits agree, as in the other direction.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.files import read_json, sha256_file, write_json
from pretrain.checkpoints import COMMIT, FORMAT
from pretrain.layout import Layout, rotary_to_pairs

NANOTRON_VERSION = "1.2"
"""Of the checkpoint format that nanotron 0.4 writes and later ones read."""


class HuggingFaceTensors:
    """Tensors of a model folder (one file or an index of several), one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
        if index.exists():
            self.where: dict[str, str] = read_json(index)["weight_map"]
        elif single.exists():
            from safetensors import safe_open

            with safe_open(single, "pt") as f:
                self.where = dict.fromkeys(f.keys(), single.name)
        else:
            raise UserError(
                f"{folder}: no model.safetensors and no index; pickled weights are not read, convert them first"
            )
        self.left = set(self.where)

    def take(self, name: str) -> Any:
        from safetensors import safe_open

        if name not in self.where:
            raise UserError(f"{self.folder}: no tensor {name}; it is not a Llama, or a file is missing")
        path = self.folder / self.where[name]
        if not path.exists():
            raise UserError(f"{path}: a shard is missing; download the model again")
        self.left.discard(name)
        with safe_open(path, "pt") as f:
            return f.get_tensor(name)


def model_config(folder: Path) -> tuple[dict[str, Any], float]:
    """nanotron's model_config.json for a Hugging Face config.json, and its rope theta.

    Raises:
        UserError: it is not a plain Llama.
    """
    given = read_json(folder / "config.json")
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
    refused = {
        "model_type": given.get("model_type") != "llama",
        "attention_bias": bool(given.get("attention_bias")),
        "mlp_bias": bool(given.get("mlp_bias")),
        "hidden_act": given.get("hidden_act", "silu") != "silu",
        "rope_scaling": rope.get("rope_type", "default") != "default",
        "head_dim": given.get("head_dim") not in (None, given["hidden_size"] // given["num_attention_heads"]),
    }
    wrong = [f"{k} {given.get(k, rope)!r}" for k, bad in refused.items() if bad]
    if wrong:
        raise UserError(f"{folder / 'config.json'}: {', '.join(wrong)}: nanotron 0.4 trains plain Llamas only")
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "max_position_embeddings", "rms_norm_eps", "bos_token_id", "eos_token_id", "pad_token_id")  # fmt: skip
    out = {k: given.get(k) for k in same}
    out |= {
        "num_key_value_heads": given.get("num_key_value_heads") or given["num_attention_heads"],
        "tie_word_embeddings": bool(given.get("tie_word_embeddings", False)),
        "initializer_range": given.get("initializer_range", 0.02),
        "hidden_act": "silu",
        "is_llama_config": True,
        "use_cache": True,
    }
    theta = rope.get("rope_theta") or given.get("rope_theta") or 10000.0
    return out, float(theta)


def to_nanotron(model: Path, out: Path, *, interleaved: bool = False, fault: str | None = None) -> dict[str, Any]:
    """Write ``out``. Returns the parity record (also in COMMIT).

    Args:
        model: Hugging Face folder with safetensors.
        interleaved: rotary layout that training will use (model_config.rope_interleaved).
        fault: "rotary" leaves the layout as it is, for the tests of the gate.

    Raises:
        UserError: not a plain Llama, a tensor is missing or left over, or the logits differ.
    """
    import torch
    from transformers import LlamaForCausalLM

    from pretrain.convert import TOLERANCE, compare

    shape, theta = model_config(model)
    layout, tensors = Layout.of(shape), HuggingFaceTensors(model)
    beside = out.with_name(f".{out.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    write(beside, _converted(tensors, layout, interleaved and fault != "rotary"), shape)
    left = {n for n in tensors.left if not (layout.tied and n == "lm_head.weight") and "rotary_emb" not in n}
    if left:
        raise UserError(f"{model}: tensors that a Llama does not have: {', '.join(sorted(left)[:5])}")
    options = {"rope_theta": theta, "rope_interleaved": interleaved}
    reference = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True).eval()
    worst, largest = compare(beside, shape, options, reference)
    if not worst <= TOLERANCE:
        shutil.rmtree(beside)
        raise UserError(
            f"{model}: the checkpoint's logits differ from the model's by {worst:.2e} (limit {TOLERANCE:g}): refused"
        )
    parity = {"max_abs_logit_difference": worst, "max_abs_logit": largest, "from": str(model)}
    files = {
        p.relative_to(beside).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256_file(p)}
        for p in sorted(beside.rglob("*"))
        if p.is_file()
    }
    commit = {"format": FORMAT, "step": 0, "stage": 0, "identity": {}, "topology": {"dp": 1, "tp": 1, "pp": 1}}
    write_json(beside / COMMIT, commit | {"model_options": options, "parity": parity, "files": files})
    shutil.rmtree(out, ignore_errors=True)
    beside.rename(out)
    return parity


def _converted(tensors: HuggingFaceTensors, layout: Layout, to_pairs: bool) -> Iterator[tuple[str, Any]]:
    import torch

    for target, sources in layout.pairs():
        parts = []
        for source in sources:
            part, heads = tensors.take(source), layout.rotary_heads(source)
            parts.append(rotary_to_pairs(part, heads) if heads and to_pairs else part)
        yield target, torch.cat(parts) if len(parts) > 1 else parts[0]


def write(folder: Path, named: Iterator[tuple[str, Any]], shape: dict[str, Any]) -> None:
    """The model part of a checkpoint, in nanotron's files: one a parameter, with its place in the whole."""
    from safetensors.torch import save_file

    for name, tensor in named:
        *path, last = name.split(".")
        sharded = tensor.dim() == 2
        file = f"model_{last}{'_pp-rank-0-of-1_tp-rank-0-of-1' if sharded else ''}.safetensors"
        into = folder.joinpath("model", *path)
        into.mkdir(parents=True, exist_ok=True)
        everything = "|".join(f"0,{n},None" for n in tensor.shape)
        about = {
            "version": NANOTRON_VERSION,
            "local_global_slices_pairs": f"{everything}#{everything}",
            "unsharded_shape": str(tuple(tensor.shape)),
        }
        save_file({"data": tensor.contiguous()}, into / file, about if sharded else {})
    (folder / "model_config.json").write_text(json.dumps(shape))
    metas = {
        "version": NANOTRON_VERSION,
        "tp": 1,
        "dp": 1,
        "metas": {"last_train_step": 0, "consumed_train_samples": 0},
    }
    write_json(folder / "checkpoint_metadata.json", metas)
