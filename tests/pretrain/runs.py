"""Run folders as ``duetto tokenize`` leaves them, and verbs whose processes start from the fork server."""

import runpy
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.shards import Shard
from duetto.files import sha256_file, write_json
from pretrain.job import Job
from tests.pretrain.ranks import in_engine, train

WORDS = ["la casa è grande", "the house is small", "def main(): return 1", "il cane dorme", "a dog sleeps"]


def train_tokenizer(folder: Path, vocab_size: int = 300) -> Path:
    """A byte-level BPE of the project's own kind."""
    from data.train_tokenizer import train as train_bpe

    train_bpe((f"{a} {i} {b}" for i in range(50) for a in WORDS for b in WORDS), vocab_size, folder)
    return folder


def write_tokens(path: Path, ids: NDArray[Any]) -> None:
    """One shard in datatrove's format, two bytes a token, one document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids.astype("<u2").tofile(path)
    path.with_name(path.name + ".index").write_bytes(np.array([len(ids)], dtype="<u8").tobytes())
    path.with_name(path.name + ".metadata").write_text(f"tok|2\n{len(ids)}\n")


def tokenized(
    run: Path,
    tokenizer: Path,
    vocab_size: int,
    sources: Mapping[str, NDArray[Any]],
    budgets: Mapping[str, int],
    stage: str = "demo",
    validation: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """tokenizer/, tokens/ and tokens/mixture.json of a run with one stage."""
    shutil.copytree(tokenizer, run / "tokenizer")
    table = {}
    for name, ids in sources.items():
        path = run / "tokens" / name / "000.ds"
        write_tokens(path, ids)
        table[name] = {"language": "en", "documents": 1, "tokens": len(ids), "bytes": 4 * len(ids)}
        table[name]["shards"] = [Shard.of_file(path, 2).record(str(run / "tokens"))]
    held = {}
    for name, ids in (validation or {}).items():
        write_tokens(run / "tokens" / "validation" / f"{name}.ds", ids)
        held[name] = {"path": f"validation/{name}.ds", "tokens": len(ids), "bytes": 4 * len(ids)}
    total = sum(budgets.values())
    drawn = {n: {"tokens": b, "weight": b / total, "epochs": b / len(sources[n])} for n, b in budgets.items()}
    sha = sha256_file(run / "tokenizer" / "tokenizer.json")
    write_json(
        run / "tokens" / "mixture.json",
        {
            "tokenizer": {"sha256": sha, "vocab_size": vocab_size, "eos": "<|end_of_text|>", "eos_id": 1},
            "token_size": 2,
            "max_epochs": dict.fromkeys(sources, 4.0),
            "stages": [{"name": stage, "tokens": total, "sources": drawn}],
            "sources": table,
            "validation": held,
        },
    )
    write_json(run / "manifests" / "tokenize.json", {"stage": "tokenize", "outputs": {}, "metrics": {}})


def forked(command: Sequence[str], *_: Any, **__: Any) -> None:
    """duetto.process.run_logged for the commands of this stage, without the ten seconds of importing the engine."""
    if "pretrain.worker" in command:
        train(Job.load(command[-1]))
    else:
        in_engine(_module, command[2], list(command[3:]))


def _module(name: str, arguments: list[str]) -> None:
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__")
