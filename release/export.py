"""Verb ``export``: GGUF files of base and chat model, proven with llama.cpp's own runtime.

    duetto export                       # F16, Q8_0 and Q4_0 below release/gguf/<model>/
    duetto export --types f16 q4_0

Each file is loaded by llama.cpp (xllamacpp) and continues held-out prompts; its tokens and log-probabilities are
compared with transformers'. The table says size, tokens per second on this CPU, and bits per byte beside the
original's; the latter from the file's own weights, read back and run in transformers.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from duetto.console import log
from duetto.errors import UserError
from duetto.files import atomic_write, write_json
from duetto.run import Run
from duetto.stage import Job, Stage
from release.config import KINDS as MODELS
from release.config import ModelKind
from release.gguf_file import KINDS, read_weights, write_gguf

PROMPTS = {
    "base": ("Once upon a time", "The weather in Rome", "C'era una volta", "L'acqua del fiume 123", "def main():\n"),
    "instruct": ("Tell me a story.", "What is 12 + 30?", "Racconta una storia.", "Com'è l'acqua?", "Ciao!"),
}
BOUNDS = {"f16": 0.05, "q8_0": 0.5, "q4_0": 4.0}
"""Nats by which the original may prefer its own token where the file's first differs; beyond it the file is wrong."""

WINDOWS = 24
"""Held-out windows a language for bits per byte."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--types", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="TYPE")


def run(run: Run, args: argparse.Namespace) -> None:
    """Export every model that the run has made.

    Raises:
        UserError: a model has no GGUF counterpart, or a file does not compute what the model computes.
    """
    kinds = [k for k in MODELS if run.path(k, "config.json").is_file()]
    if not kinds:
        raise UserError(f"{run.root}: there is no model to export; run: duetto convert --recipe {run.recipe.file}")
    Stage(
        name="export",
        version=1,
        config={"types": args.types, "names": [run.recipe.release.name_of(k) for k in kinds]},
        inputs=["convert", *(["sft"] if "instruct" in kinds else [])],
        outputs=[run.path("release", "gguf")],
        work=lambda job: work(job, kinds, args.types),
    ).execute(run, force=args.force)


def work(job: Job, kinds: Sequence[ModelKind], types: Sequence[str]) -> dict[str, Any]:
    metrics = {}
    for kind in kinds:
        metrics[kind] = export_model(job.run, kind, types)
        folder = job.run.path("release", "gguf", kind)
        write_json(folder / "export.json", metrics[kind])
        name = job.run.recipe.release.name_of(kind)
        write_json(folder / "card.json", {"generator": "duetto", "model": {"name": f"{name}-GGUF", "kind": "gguf"}})
        with atomic_write(folder / "README.md") as f:
            f.write(readme(job.run, kind, metrics[kind]))
    return {"models": metrics, "runtime": "xllamacpp" if has_runtime() else "absent"}


def has_runtime() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None


def export_model(run: Run, kind: ModelKind, types: Sequence[str]) -> dict[str, Any]:
    """Files of one model and what was measured on them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from release.edge import Runtime, bits_per_byte, compare

    source, folder = run.path(kind), run.path("release", "gguf", kind)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.eval()
    prompts = [rendered(tokenizer, p) for p in PROMPTS[kind]]
    held_out = held_out_windows(run, tokenizer, model.config.max_position_embeddings)
    original = {lang: bits_per_byte(model, *found) for lang, found in held_out.items()}
    weights = sum(f.stat().st_size for f in source.glob("*.safetensors"))
    out: dict[str, Any] = {"original": {"bytes": weights, "bits_per_byte": original}, "files": {}}
    for name in types:
        file = folder / f"{run.recipe.release.name_of(kind)}-{name.upper()}.gguf"
        write_gguf(source, file, name, run.recipe.release.name_of(kind))
        entry: dict[str, Any] = {"file": file.name, "bytes": file.stat().st_size}
        if has_runtime():
            found = compare(Runtime(file, model.config.max_position_embeddings), model, tokenizer, prompts)
            entry |= asdict(found)
            if found.max_gap > BOUNDS[name]:
                raise UserError(
                    f"{file}: llama.cpp chooses tokens that the model holds {found.max_gap:.2f} nats below its own "
                    f"(bound for {name}: {BOUNDS[name]}); the file is wrong and is not released"
                )
        exported: Any = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
        state = {k: torch.from_numpy(w.copy()) for k, w in read_weights(file, model.config.to_dict()).items()}
        exported.load_state_dict(state, strict=False)
        exported.tie_weights()
        exported.eval()
        entry["bits_per_byte"] = {lang: bits_per_byte(exported, *found) for lang, found in held_out.items()}
        out["files"][name] = entry
        log(f"export: {file.name}: {entry['bytes'] / 1e6:.2f} MB, " + described(entry))
    return out


def described(entry: dict[str, Any]) -> str:
    if "identical" not in entry:
        return "not run: xllamacpp is not installed"
    return (
        f"{entry['identical']} of {entry['prompts']} continuations identical, "
        f"log-probabilities within {entry['max_logprob_difference']:.1e}, {entry['tokens_per_second']:.0f} tokens/s"
    )


def rendered(tokenizer: Any, prompt: str) -> str:
    """The prompt as the model expects it."""
    if not tokenizer.chat_template:
        return prompt
    turns = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


def held_out_windows(run: Run, tokenizer: Any, context: int) -> dict[str, tuple[list[list[int]], int]]:
    """Validation tokens by source as windows, with the bytes that all but each window's first token stand for."""
    import numpy as np

    found = {}
    size = min(context, 256)
    dtype = np.uint16 if len(tokenizer) <= 65_535 else np.uint32
    for file in sorted(run.path("tokens", "validation").glob("*.ds")):
        tokens = np.fromfile(file, dtype=dtype, count=WINDOWS * size).astype(int).tolist()
        windows = [tokens[i : i + size] for i in range(0, len(tokens) - size + 1, size)]
        if windows:
            # Special tokens stand for no bytes.
            text = sum(len(tokenizer.decode(w[1:], skip_special_tokens=True).encode()) for w in windows)
            found[file.stem] = (windows, text)
    return found


def readme(run: Run, kind: ModelKind, measured: dict[str, Any]) -> str:
    """Card of the folder of quantized files."""
    release = run.recipe.release
    name, repo = release.name_of(kind), release.repo_of(kind)
    languages = "\n".join(f"- {c}" for c in run.recipe.languages)
    base = f"base_model: {repo}\nbase_model_relation: quantized\n" if repo else ""
    head = f"---\nlanguage:\n{languages}\nlicense: {release.license}\nlibrary_name: gguf\n{base}"
    head += "pipeline_tag: text-generation\ntags:\n- gguf\n- llama.cpp\n- duetto\n---\n"
    sources = list(measured["original"]["bits_per_byte"])
    header = ["File", "Size (MB)", "Tokens/s", "Identical continuations", *(f"Bits per byte, {s}" for s in sources)]
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    original = [f"{measured['original']['bits_per_byte'][s]:.4f}" for s in sources]
    row = ["original (safetensors)", f"{measured['original']['bytes'] / 1e6:.2f}", "–", "–", *original]
    lines.append("| " + " | ".join(row) + " |")
    for entry in measured["files"].values():
        proven = f"{entry['identical']} of {entry['prompts']}" if "identical" in entry else "not run"
        speed = f"{entry['tokens_per_second']:.0f}" if "tokens_per_second" in entry else "–"
        known = measured["original"]["bits_per_byte"]
        bits = [f"{b:.4f} ({b - known[s]:+.4f})" for s, b in entry["bits_per_byte"].items()]
        lines.append("| " + " | ".join([entry["file"], f"{entry['bytes'] / 1e6:.2f}", speed, proven, *bits]) + " |")
    return (
        f"{head}\n# {name}, GGUF\n\nFiles for llama.cpp and what runs on it, made from "
        f"[{repo or name}](https://huggingface.co/{repo or name}), whose card says everything else.\n\n"
        + "\n".join(lines)
        + "\n\nTokens per second are llama.cpp's on one thread of the CPU that made the files. A continuation is "
        "identical when llama.cpp and transformers choose the same greedy tokens. Bits per byte are those of the "
        "file's weights on held-out text.\n"
    )
