"""Does a release folder generate? Run in a process of its own, so that its memory is gone before the upload.

python -m release.sample FOLDER en it     # prints {"texts": {...}, "problem": "..." or null} as JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.process import engine_env
from duetto.recipe import ROOT

PROMPTS = {
    "en": "Once upon a time",
    "it": "C'era una volta",
    "es": "Había una vez",
    "fr": "Il était une fois",
    "pt": "Era uma vez",
    "de": "Es war einmal",
}
"""Beginning of a text in each language; a language without one is not sampled."""
TOKENS = 24


def check_samples(folder: Path, languages: Sequence[str]) -> dict[str, str]:
    """Short greedy continuations by language.

    Raises:
        UserError: the model does not load, computes no finite numbers, or says nothing.
    """
    answer = ask(folder, languages)
    if answer["problem"]:
        raise UserError(f"{folder}: sample generation failed: {answer['problem']}")
    return dict(answer["texts"])


def ask(folder: Path, languages: Sequence[str]) -> dict[str, Any]:
    """What ``generate`` finds, from a process of its own.

    Raises:
        UserError: it did not end well.
    """
    environment = {**os.environ, **engine_env(), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    command = [sys.executable, "-m", "release.sample", str(folder), *languages]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"{folder}: sample generation failed ({last}); a model that does not generate is not published")
    return dict(json.loads(lines[-1]))


def generate(folder: Path, languages: Sequence[str]) -> dict[str, Any]:
    """Sample and judge: texts by language as far as they could be made, and the first problem or None."""
    from release.generation import LoadedModel

    model = LoadedModel(folder)
    import torch

    ends = model.model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    problems, texts = [], {}
    if model.tokenizer.eos_token_id not in ends:
        problems.append(f"generation ends at token {ends}, the tokenizer's end is {model.tokenizer.eos_token_id}")
    for language, prompt in ((k, p) for k, p in PROMPTS.items() if k in languages):
        ids, _ = model.encode([{"role": "user", "content": prompt}], TOKENS)
        inputs = torch.tensor([ids], device=model.model.device)
        with torch.no_grad():
            if not torch.isfinite(model.model(inputs).logits).all():
                problems.append(f"the logits of {prompt!r} are not finite")
                break
            out = model.model.generate(inputs, max_new_tokens=TOKENS, do_sample=False)[0, len(ids) :].tolist()
        texts[language] = model.tokenizer.decode(out, skip_special_tokens=True)
        if len(out) == TOKENS and len(set(out)) == 1:
            problems.append(f"the answer to {prompt!r} is one token over and over")
        elif not texts[language].strip():
            problems.append(f"the answer to {prompt!r} is empty")
    return {"texts": texts, "problem": problems[0] if problems else None}


if __name__ == "__main__":
    try:
        outcome = generate(Path(sys.argv[1]), sys.argv[2:])
    except UserError as e:
        outcome = {"texts": {}, "problem": str(e)}
    sys.stdout.write(json.dumps(outcome) + "\n")
