"""Does the chat model close its turn, and does it answer in the language of the prompt?

On conversations that were held out of training; written to ``eval/chat.json``.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from duetto.console import log
from duetto.errors import UserError
from duetto.files import read_json, sha256_file, sha256_json, write_json
from eval.config import ChatChecks, EvalConfig
from eval.models import LocalModel, has_chat_template


def run_chat_checks(model: LocalModel, config: EvalConfig, path: Path) -> dict[str, Any]:
    """The content of ``eval/chat.json``; measured unless the file already holds this very measurement."""
    assert config.chat is not None
    key = sha256_json([model.digest(), config.chat.model_dump(exclude={"file"}), sha256_file(config.chat.file)])
    if path.exists() and (found := read_json(path)).get("fingerprint") == key:
        log("eval: chat checks are current, kept")
        return dict(found)
    if not has_chat_template(model.path):
        raise UserError(f"model {model.name!r}: {model.path} has no chat template; chat checks need one")
    from eval.harness import pick_device, prepare_engine, use_threads

    prepare_engine()
    use_threads(config)
    from duetto.chat_checks import check_chat

    asked = read_prompts(config.chat)
    languages = list(dict.fromkeys(row["language"] for row in asked))
    found = check_chat(*load_chat(model.path, pick_device(config)), asked, languages, config.chat.max_new_tokens)
    content: dict[str, Any] = {"fingerprint": key, "model_sha256": model.digest(), "languages": found}
    write_json(path, content)
    return content


def load_chat(folder: Path, device: str) -> tuple[Any, Any]:
    """The chat model and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return model.to(device).eval(), tokenizer
    except (OSError, ValueError, RuntimeError, KeyError) as e:
        raise UserError(f"{folder} does not load: {str(e).strip().splitlines()[0]}") from e


def read_prompts(checks: ChatChecks) -> list[dict[str, Any]]:
    """The first ``prompts`` conversations of each language that end with an assistant turn."""
    chosen: list[dict[str, Any]] = []
    count: Counter[str] = Counter()
    for number, line in enumerate(Path(checks.file).read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            language, role = row["language"], row["messages"][-1]["role"]
        except (json.JSONDecodeError, KeyError, IndexError, TypeError):
            raise UserError(f"{checks.file}:{number}: not a conversation with language and messages") from None
        if role == "assistant" and count[language] < checks.prompts:
            count[language] += 1
            chosen.append(row)
    if not chosen:
        raise UserError(f"{checks.file}: no conversation that ends with an assistant turn")
    return chosen


def chat_metrics(content: dict[str, Any]) -> dict[str, Any]:
    """What the manifest keeps: the rates and one sample answer a language."""
    rates, samples = {}, {}
    for language, found in content["languages"].items():
        rates[language] = {k: v for k, v in found.items() if k != "samples"}
        samples[language] = {k: found["samples"][0][k] for k in ("prompt", "answer")}
    return {"chat": rates, "samples": samples}
