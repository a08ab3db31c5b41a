"""From Axolotl's output to a chat model: the folder that ``transformers`` loads, chats with, and stops in time."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.files import read_json, write_json
from sft import chatml

GENERATION = {"do_sample": True, "temperature": 0.7, "top_p": 0.9}
"""For chatting (Axolotl writes do_sample alone, at temperature 1.0); checks and benchmarks ask for greedy decoding."""


def export(output: Path, base: Path, target: Path) -> dict[str, Any]:
    """Write ``target`` from the finished run in ``output``.

    Args:
        output: Axolotl's output folder.
        base: the model that the run started from.
        target: folder of the chat model; replaced as a whole.

    Returns:
        ``{"tensors": ..., "end_of_turn": id}``.

    Raises:
        UserError: the weights do not have the base model's tensors and shapes, or the template is not the trained one.
    """
    config = read_json(output / "config.json")
    _, im_end = chatml.chat_token_ids(output)
    beside = target.with_name(f".{target.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for path in sorted(output.iterdir()):
        if path.suffix == ".safetensors" or path.name in COPIED:
            shutil.copy2(path, beside / path.name)
    wanted = tensor_shapes(base)
    if config.get("tie_word_embeddings") and HEAD not in wanted:
        drop_tied_head(beside)
    tensors = tensor_shapes(beside)
    if tensors != wanted:
        different = sorted(set(tensors.items()) ^ set(wanted.items()))[:3]
        raise UserError(f"{output}: tensors differ from those of {base}: {different}; the run did not finish well")
    config |= {"eos_token_id": im_end, "pad_token_id": im_end, "use_cache": True}
    write_json(beside / "config.json", config)
    limit = {"bos_token_id": config.get("bos_token_id"), "eos_token_id": im_end, "pad_token_id": im_end}
    write_json(beside / "generation_config.json", {**GENERATION, **limit})
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)
    return {"tensors": len(tensors), "end_of_turn": im_end}


HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"


def drop_tied_head(folder: Path) -> None:
    """Remove the second copy of tied embeddings that FSDP2's full state dict holds.

    Raises:
        UserError: the two copies differ, so the run trained them apart.
    """
    import torch
    from safetensors.torch import load_file, save_file

    files = {path: load_file(path) for path in sorted(folder.glob("*.safetensors")) if HEAD in _header(path)}
    for path, tensors in files.items():
        tables = [tensors] if TABLE in tensors else [load_file(p) for p in sorted(folder.glob("*.safetensors"))]
        table = next(t[TABLE] for t in tables if TABLE in t)
        if not torch.equal(tensors.pop(HEAD), table):
            raise UserError(f"{path}: {HEAD} differs from the embeddings it is tied to; the run trained them apart")
        save_file(tensors, path, metadata={"format": "pt"})
        index = folder / "model.safetensors.index.json"
        if index.exists():
            content = read_json(index)
            content["weight_map"].pop(HEAD, None)
            write_json(index, content)


COPIED = {
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
}


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model folder, from the headers of its safetensors files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        shapes |= {k: tuple(v["shape"]) for k, v in _header(path).items() if k != "__metadata__"}
    if not shapes:
        raise UserError(f"{folder} holds no model.safetensors")
    return shapes


def _header(path: Path) -> dict[str, Any]:
    """Raises UserError when the file is shorter than its header says."""
    with open(path, "rb") as f:
        try:
            (size,) = struct.unpack("<Q", f.read(8))
            found = dict(json.loads(f.read(size)))
        except (struct.error, ValueError, MemoryError, OverflowError):
            found, size = {}, 0
    ends = [v["data_offsets"][1] for k, v in found.items() if k != "__metadata__"]
    if not ends or path.stat().st_size < 8 + size + max(ends):
        raise UserError(f"{path}: torn, or no safetensors file; run the stage that made it again")
    return found
