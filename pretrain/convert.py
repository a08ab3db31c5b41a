"""nanotron to Hugging Face and back, gated by logits.

    python -m pretrain.convert to-hf   <checkpoint> <folder> [--tokenizer <folder>]
    python -m pretrain.convert to-nanotron <HF folder> <checkpoint> [--interleaved]

To Hugging Face: any tp and pp, one tensor at a time. The result is refused unless its fp32 logits agree with those of
nanotron's own model on the same checkpoint (max |d| <= 1e-4), and every tensor was used exactly once. Logits, not
argmax: a model converted without de-interleaving its rotary layout agrees on every argmax with logits off by 0.15.
"""

import argparse
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.files import write_json
from duetto.process import worker_main
from pretrain.checkpoints import verify
from pretrain.layout import Layout, rotary_to_halves

TOLERANCE = 1e-4
"""Largest accepted difference of fp32 logits. Two correct implementations differ by about 2e-6."""


class CheckpointTensors:
    """The parameters of a nanotron checkpoint, whole, one at a time; counts what was taken."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "model"
        self.files: dict[str, list[Path]] = {}
        for path in sorted(self.root.rglob("*.safetensors")):
            name = re.sub(r"^model_(.*?)(_pp-rank-.*)?$", r"\1", path.stem)
            self.files.setdefault(".".join([*path.parent.relative_to(self.root).parts, name]), []).append(path)
        self.taken: dict[str, int] = dict.fromkeys(self.files, 0)

    def take(self, name: str) -> Any:
        """The whole tensor; its tp shards say which slices of it they hold.

        Raises:
            UserError: a shard is missing.
        """
        import torch
        from safetensors import safe_open

        if name not in self.files:
            raise UserError(f"{self.root}: no file for {name}; the checkpoint is of another model, or torn")
        self.taken[name] += 1
        whole: Any = None
        filled = 0
        for path in self.files[name]:
            with safe_open(path, "pt") as f:
                data, about = f.get_tensor("data"), f.metadata() or {}
            if "unsharded_shape" not in about:
                return data
            if whole is None:
                whole = torch.empty([int(n) for n in re.findall(r"\d+", about["unsharded_shape"])], dtype=data.dtype)
            for pair in about["local_global_slices_pairs"].split(";"):
                local, everywhere = (_slices(text) for text in pair.split("#"))
                whole[everywhere] = data[local]
                filled += data[local].numel()
        if filled != whole.numel():
            raise UserError(
                f"{self.root}: {name} has {filled} of {whole.numel()} elements: a tensor parallel shard is missing"
            )
        return whole

    @property
    def dtype(self) -> Any:
        from safetensors import safe_open

        with safe_open(next(iter(self.files.values()))[0], "pt") as f:
            return f.get_tensor("data").dtype

    def unused(self) -> list[str]:
        """Names that were not taken exactly once."""
        return [name for name, times in self.taken.items() if times != 1]


def _slices(text: str) -> tuple[slice, ...]:
    return tuple(slice(*(None if n == "None" else int(n) for n in part.split(","))) for part in text.split("|"))


def to_hugging_face(
    checkpoint: Path, out: Path, tokenizer: Path | None = None, fault: str | None = None
) -> dict[str, Any]:
    """Write ``out`` and compare it. Returns what parity.json says.

    Args:
        checkpoint: complete (COMMIT).
        out: appears only when parity holds.
        tokenizer: its files are copied beside the weights.
        fault: "rotary" leaves the rotary layout as it is: what the gate is for (tests).

    Raises:
        UserError: the checkpoint is torn, a tensor is missing or left over, or the logits differ.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    found = verify(checkpoint)
    shape = json.loads((checkpoint / "model_config.json").read_text())
    options = found.commit["model_options"]
    tensors, layout = CheckpointTensors(checkpoint), Layout.of(shape)
    config = LlamaConfig(**hugging_face_config(shape, options))
    beside = out.with_name(f".{out.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    interleaved = options["rope_interleaved"] and fault != "rotary"
    count = _write_shards(beside, _converted(tensors, layout, interleaved))
    if tensors.unused():
        raise UserError(
            f"{checkpoint}: not used exactly once: {', '.join(tensors.unused())}; the checkpoint has other parts"
        )
    config.architectures = ["LlamaForCausalLM"]
    config.dtype = tensors.dtype
    config.save_pretrained(beside)
    _generation_config(beside, shape)
    if tokenizer is not None:
        for path in sorted(tokenizer.iterdir()):
            if path.is_file():
                shutil.copyfile(path, beside / path.name)
    model = LlamaForCausalLM.from_pretrained(beside, dtype=torch.float32).eval()
    worst, largest = compare(checkpoint, shape, options, model)
    parity = {
        "max_abs_logit_difference": worst,
        "max_abs_logit": largest,
        "tolerance": TOLERANCE,
        "precision": "float32 on both sides",
        "tensors": count,
        "parameters": sum(p.numel() for p in model.parameters()),
        "step": found.step,
        "topology": found.commit["topology"],
    }
    if not worst <= TOLERANCE:
        shutil.rmtree(beside)
        raise UserError(
            f"{checkpoint}: the converted model's logits differ from nanotron's by {worst:.2e} (limit {TOLERANCE:g}): "
            "refused; the rotary layout or a weight's place is wrong, see pretrain/layout.py"
        )
    write_json(beside / "parity.json", parity)
    shutil.rmtree(out, ignore_errors=True)
    beside.rename(out)
    return parity


def _converted(tensors: CheckpointTensors, layout: Layout, interleaved: bool) -> Iterator[tuple[str, Any]]:
    """Hugging Face names and tensors, in the order of the model."""
    for source, targets in layout.pairs():
        whole = tensors.take(source)
        for target, part in zip(targets, whole.split(layout.rows(source, whole.shape[0]))):
            heads = layout.rotary_heads(target)
            yield target, rotary_to_halves(part, heads) if heads and interleaved else part


def _write_shards(folder: Path, named: Iterator[tuple[str, Any]], limit: int = 4 * 2**30) -> int:
    """safetensors files of at most ``limit`` bytes and, for several, their index. One file's tensors are held."""
    from safetensors.torch import save_file

    shards: list[dict[str, int]] = []
    current: dict[str, Any] = {}

    def flush() -> None:
        save_file(current, folder / f"part-{len(shards)}.safetensors", {"format": "pt"})
        shards.append({k: v.nbytes for k, v in current.items()})
        current.clear()

    for name, tensor in named:
        if current and sum(t.nbytes for t in current.values()) + tensor.nbytes > limit:
            flush()
        current[name] = tensor.contiguous().clone()
    flush()
    index: dict[str, str] = {}
    for i, shard in enumerate(shards):
        name = "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"part-{i}.safetensors").rename(folder / name)
        index |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        total = sum(sum(s.values()) for s in shards)
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})
    return len(index)


def hugging_face_config(shape: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """LlamaConfig's arguments for a nanotron model_config.json."""
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "hidden_act",
            "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "use_cache")  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": options["rope_theta"]}
    return {k: shape[k] for k in same} | {"rope_parameters": rope, "attention_bias": False, "mlp_bias": False}


def _generation_config(folder: Path, shape: dict[str, Any]) -> None:
    """A base model continues text: sampling as the field does it for small models, and it stops at end of text."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        bos_token_id=shape["bos_token_id"],
        eos_token_id=shape["eos_token_id"],
        pad_token_id=shape["eos_token_id"] if shape["pad_token_id"] is None else shape["pad_token_id"],
        do_sample=True,
        temperature=0.7,
        top_p=0.95,
        max_new_tokens=256,
    )
    config.save_pretrained(folder)


def compare(checkpoint: Path, shape: dict[str, Any], options: dict[str, Any], model: Any) -> tuple[float, float]:
    """Largest difference of logits between nanotron's own model, fp32, and ``model``; and the largest logit."""
    import torch

    from pretrain.reference import nanotron_logits

    length = min(int(shape["max_position_embeddings"]), 256)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, shape["vocab_size"], (2, length), generator=generator)
    theirs = nanotron_logits(checkpoint, shape, options, ids)
    with torch.no_grad():
        ours = model(input_ids=ids).logits.float()
    return float((ours - theirs).abs().max()), float(theirs.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pretrain.convert", description="nanotron <-> Hugging Face")
    commands = parser.add_subparsers(dest="direction", required=True)
    hf = commands.add_parser("to-hf")
    hf.add_argument("checkpoint", type=Path)
    hf.add_argument("out", type=Path)
    hf.add_argument("--tokenizer", type=Path)
    nt = commands.add_parser("to-nanotron")
    nt.add_argument("model", type=Path)
    nt.add_argument("out", type=Path)
    nt.add_argument("--interleaved", action="store_true", help="rope_interleaved of the training to come")
    args = parser.parse_args()
    os.environ["DUETTO_DEVICE"] = "cpu"  # parity is an fp32 comparison; it needs no GPU
    if args.direction == "to-hf":
        to_hugging_face(args.checkpoint, args.out, args.tokenizer)
    else:
        from pretrain.convert_back import to_nanotron

        to_nanotron(args.model, args.out, interleaved=args.interleaved)


if __name__ == "__main__":
    worker_main(main)
