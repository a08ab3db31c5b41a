"""Does a release folder generate? Run in a process of its own, so that its memory is gone before the upload.

python -m release.sample FOLDER     # prints {"texts": {...}} or {"problem": "..."} as JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.process import engine_env
from duetto.recipe import ROOT

PROMPTS = {"en": "Once upon a time", "it": "C'era una volta"}
TOKENS = 24


def check_samples(folder: Path) -> dict[str, str]:
    """Short greedy continuations by language.

    Raises:
        UserError: the model does not load, computes no finite numbers, or says nothing.
    """
    environment = {**os.environ, **engine_env(), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    command = [sys.executable, "-m", "release.sample", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"{folder}: sample generation failed ({last}); a model that does not generate is not published")
    answer = json.loads(lines[-1])
    if "problem" in answer:
        raise UserError(f"{folder}: sample generation failed: {answer['problem']}")
    return dict(answer["texts"])


def generate(folder: Path) -> dict[str, Any]:
    """Sample and judge."""
    import torch

    from release.generation import LoadedModel

    model = LoadedModel(folder)
    ends = model.model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    if model.tokenizer.eos_token_id not in ends:
        return {"problem": f"generation ends at token {ends}, the tokenizer's end is {model.tokenizer.eos_token_id}"}
    texts = {}
    for language, prompt in PROMPTS.items():
        ids, _ = model.encode([{"role": "user", "content": prompt}], TOKENS)
        inputs = torch.tensor([ids], device=model.model.device)
        with torch.no_grad():
            if not torch.isfinite(model.model(inputs).logits).all():
                return {"problem": f"the logits of {prompt!r} are not finite"}
            out = model.model.generate(inputs, max_new_tokens=TOKENS, do_sample=False)[0, len(ids) :].tolist()
        text = model.tokenizer.decode(out, skip_special_tokens=True)
        if len(out) == TOKENS and len(set(out)) == 1:
            return {"problem": f"the answer to {prompt!r} is one token over and over"}
        if not text.strip():
            return {"problem": f"the answer to {prompt!r} is empty"}
        texts[language] = text
    return {"texts": texts}


if __name__ == "__main__":
    try:
        outcome = generate(Path(sys.argv[1]))
    except UserError as e:
        outcome = {"problem": str(e)}
    sys.stdout.write(json.dumps(outcome) + "\n")
