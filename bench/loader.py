"""Tokens a second that the loader reads from the page cache, and what opening a trillion tokens costs.

    python -m bench.loader [--seconds N] [--json FILE]

The large mixture is 5,000 sparse shards of 200 M tokens: real files of the real size, with nothing on the disk.
"""

import json
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import finish, parser
from data.loader import open_folders, open_mixture
from data.shards import Shard

SEQUENCE = 4096
BATCH = 4
"""Micro-batch of the flagship, in samples of SEQUENCE + 1 tokens."""

SHARDS, SHARD_TOKENS = 5_000, 200_000_000

SAMPLES_A_STEP = 256
"""64 ranks x 4."""

STEP = 775_000


def read_speed(folder: Path, seconds: float, sequence: int) -> float:
    """Tokens a second of one process, shards in the page cache, int64 [batch, seq + 1] out."""
    rng = np.random.default_rng(0)
    for i in range(4):
        if not (folder / f"{i:05d}.ds").exists():
            rng.integers(0, 128_256, 16_000_000, dtype=np.uint32).tofile(folder / f"{i:05d}.ds")
    dataset = open_folders([folder], sequence_length=sequence, seed=8, token_size=4)
    count = BATCH * SEQUENCE // sequence
    for k in range(0, dataset.total_samples, count):  # warm the page cache
        dataset.batch(k, count)
    tokens, first, began = 0, 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        tokens += dataset.batch(first, count)[:, 1:].size
        first += count
    return tokens / (time.perf_counter() - began)


def sparse_mixture(folder: Path) -> Path:
    """mixture.json over 5,000 files of 800 MB that hold nothing."""
    sources: dict[str, Any] = {}
    for name, share in (("web_en", 40), ("web_it", 30), ("pdf_it", 10), ("code", 20)):
        (folder / name).mkdir()
        records = []
        for i in range(SHARDS * share // 100):
            path = folder / name / f"{i:05d}_00000_doc_shuffled.ds"
            with open(path, "wb") as f:
                os.truncate(f.fileno(), SHARD_TOKENS * 4)
            shard = Shard(str(path), SHARD_TOKENS, 4, 300_000)
            records.append(
                {
                    "path": f"{name}/{path.name}",
                    "tokens": SHARD_TOKENS,
                    "documents": 300_000,
                    "sha256": "0" * 64,
                    "sample_sha256": shard.sample_hash(),
                }
            )
        sources[name] = {"shards": records}
    total = SHARDS * SHARD_TOKENS
    draws = {n: {"tokens": len(s["shards"]) * SHARD_TOKENS} for n, s in sources.items()}
    mixture = {
        "tokenizer": {"sha256": "0" * 64, "vocab_size": 128_256, "eos_id": 128_001},
        "token_size": 4,
        "max_epochs": dict.fromkeys(sources, 4),
        "stages": [{"name": "pretrain", "tokens": total, "sources": draws}],
        "sources": sources,
    }
    path = folder / "mixture.json"
    path.write_text(json.dumps(mixture))
    return path


def open_and_jump(path: Path, answer: Any) -> None:
    """In a fresh process, imports not counted: open, verify, jump, read one micro-batch."""
    began = time.perf_counter()
    dataset = open_mixture(path, sequence_length=SEQUENCE, seed=8)
    opened = time.perf_counter()
    dataset.batch(STEP * SAMPLES_A_STEP, BATCH)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer.put(
        {
            "seconds": time.perf_counter() - began,
            "jump_ms": 1000 * (time.perf_counter() - opened),
            "peak_mb": peak / 1024,
            "samples": dataset.total_samples,
        }
    )


def main() -> None:
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--seconds", type=float, default=5.0, help="of reading (default: %(default)s)")
    p.add_argument("--scratch", type=Path, help="folder on a file system with sparse files; a temporary one by default")
    args = p.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        speed_folder = Path(name) / "speed"
        speed_folder.mkdir()
        speed = {seq: read_speed(speed_folder, args.seconds, seq) for seq in (SEQUENCE, 256)}
        path = sparse_mixture(Path(name))
        context = multiprocessing.get_context("spawn")
        answer = context.Queue()
        child = context.Process(target=open_and_jump, args=(path, answer))
        child.start()
        opened = answer.get(timeout=600)
        child.join()
    figures = {
        "million_tokens_per_second": {str(seq): round(v / 1e6, 1) for seq, v in speed.items()},
        "shards": SHARDS,
        "tokens": SHARDS * SHARD_TOKENS,
        "open_and_jump_seconds": round(opened["seconds"], 3),
        "jump_to_step_775000_ms": round(opened["jump_ms"], 2),
        "peak_mb": round(opened["peak_mb"]),
        "samples": opened["samples"],
    }
    goals = {
        "million_tokens_per_second": (">=", 20.0, round(speed[SEQUENCE] / 1e6, 1)),
        "open_and_jump_seconds": ("<=", 2.0, round(opened["seconds"], 3)),
        "peak_mb": ("<=", 300.0, round(opened["peak_mb"])),
    }
    finish("loader", figures, goals, args.json)


if __name__ == "__main__":
    main()
