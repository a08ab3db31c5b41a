"""What must never leave this machine: secrets, local paths, optimizer states, pickles.

Runs over every file of a release folder before a push. Weights are looked at by their header only.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from duetto.recipe import ROOT

ALLOWED = {".safetensors", ".json", ".md", ".yaml", ".jinja", ".txt", ".model", ".gguf", ".png"}
"""Kinds of file a release is made of; everything else (pickles, optimizer states, logs) is refused."""

FORBIDDEN_NAMES = re.compile(r"(optimizer|scheduler|rng_state|trainer_state|training_args|scaler|\.env|events\.out)")

SECRETS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "an OpenAI-style key": r"\bsk-[A-Za-z0-9_\-]{20,}\b",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})\b",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9\-]{10,}",
    "a Google key": r"\bAIza[0-9A-Za-z_\-]{35}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a JSON web token": r"\beyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\.",
    "a password": r"(?i)\b(?:api[_-]?key|passw(?:or)?d|secret|access[_-]?token)[\"']?\s*[:=]\s*[\"']?[\w\-+/]{8,}",
    "a login in a URL": r"\b[a-z]{3,6}://[^/\s:@\"']+:[^/\s:@\"']+@",
}
PATHS = r"(?<![\w.~:/\-])/(?:home|Users|root|scratch|work|mnt|data|tmp|var|opt|lustre|gpfs|leonardo\w*)/[\w.\-]+"
WINDOWS_PATH = r"\b[A-Z]:\\\\?(?:Users|Documents)\b"

VOCABULARY = {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model"}
"""Files whose entries are pieces of training text: paths in them are vocabulary, not ours."""


def scan(folder: Path, paths: list[str], run_root: Path) -> Iterator[str]:
    """Reasons not to upload, one line each: file, what, and where in it; a secret itself is never shown."""
    for path in paths:
        file = folder / path
        if file.suffix not in ALLOWED or FORBIDDEN_NAMES.search(file.name.lower()):
            yield f"{path}: is no file of a release (weights are safetensors; states, pickles and logs stay here)"
            continue
        if file.is_symlink() and not file.resolve().is_relative_to(run_root.resolve()):
            yield f"{path}: is a link out of the run folder"
            continue
        text = header(file) if file.suffix == ".safetensors" else "" if file.suffix in (".gguf", ".png") else None
        if text is None:
            text = file.read_text(encoding="utf-8", errors="replace")
        yield from (f"{path}:{line}: {what}" for what, line in findings(text, run_root, file.name in VOCABULARY))


def findings(text: str, run_root: Path, vocabulary: bool = False) -> Iterator[tuple[str, int]]:
    """What was found, and in which line."""
    patterns = dict(SECRETS)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY"):
        if len(os.environ.get(name, "")) >= 8:
            patterns[f"the value of {name}"] = re.escape(os.environ[name])
    if not vocabulary:
        patterns |= {"a local path": PATHS, "a Windows path": WINDOWS_PATH}
        own = {"the run folder": str(run_root), "the checkout": str(ROOT), "the home folder": os.path.expanduser("~")}
        patterns |= {f"the path of {k}": re.escape(v) + r"(?![\w\-])" for k, v in own.items() if len(v) > 4}
        host = socket.gethostname()
        if len(host) > 5 and host != "localhost":
            patterns["the name of this machine"] = rf"\b{re.escape(host)}\b"
    for what, pattern in patterns.items():
        if match := re.search(pattern, text):
            yield what, text.count("\n", 0, match.start()) + 1


def header(file: Path) -> str:
    """The metadata of a weight file as text."""
    with file.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        raw = f.read(min(length, 100 << 20))
    return json.dumps(json.loads(raw).get("__metadata__", {}))
