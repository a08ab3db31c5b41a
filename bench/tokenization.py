"""Tokens per CPU second of FastDocumentTokenizer against datatrove's DocumentTokenizer, same files, same bytes.

    python -m bench.tokenization [--corpus DIR --tokenizer FILE] [--rounds N] [--repeat N] [--json FILE]

Each run is a process of its own that reads parquet and writes .ds, .index and .metadata, start-up included; A and B
alternate. ``--repeat`` reads the corpus several times: start-up (seconds for a 128k vocabulary) then weighs as little
as in a real shard. Without ``--corpus`` the demo corpus is generated and a tokenizer trained on it.
"""

import hashlib
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.common import finish, parser
from data.encode import load_tokenizer

ENGINES = ("datatrove", "fastokens", "gigatoken")


def tokenize(engine: str, corpus: Path, tokenizer: Path, out: Path, answer: Any) -> None:
    """One run, in a fresh process: CPU seconds, peak memory and tokens go to ``answer``."""
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from loguru import logger

    from data.writer import FastDocumentTokenizer

    logger.remove()
    began = time.monotonic()
    reader = ParquetReader(str(corpus))
    eos = load_tokenizer(tokenizer).eos
    if engine == "datatrove":
        step: Any = DocumentTokenizer(str(out), str(tokenizer), eos_token=eos, seed=8, batch_size=1000)
    else:
        step = FastDocumentTokenizer(str(out), str(tokenizer), engine=engine, seed=8)
    step.run(reader.run())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    size = load_tokenizer(tokenizer).token_size
    answer.put(
        {
            "cpu": usage.ru_utime + usage.ru_stime,
            "wall": time.monotonic() - began,
            "rss_mb": usage.ru_maxrss / 1024,
            "tokens": sum(p.stat().st_size for p in out.glob("*.ds")) // size,
        }
    )


def run_at_once(engine: str, corpora: list[Path], tokenizer: Path, outs: list[Path]) -> list[dict[str, float]]:
    """Several processes of one engine at the same time."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    children = [context.Process(target=tokenize, args=(engine, c, tokenizer, o, answer)) for c, o in zip(corpora, outs)]
    for child in children:
        child.start()
    results = [answer.get(timeout=3600) for _ in children]
    for child in children:
        child.join()
    return results


def plain_copy(corpus: Path, folder: Path, tokenizer: Path) -> int:
    """Copy the corpus without documents that hold a special token as text; returns how many those are.

    There the two differ on purpose: datatrove makes the text a real token, we leave it text.
    """
    import pyarrow.parquet as pq

    specials, left_out = load_tokenizer(tokenizer).specials, 0
    for file in sorted(corpus.rglob("*.parquet")):
        table = pq.read_table(file)
        plain = [not any(s in text for s in specials) for text in table["text"].to_pylist()]
        left_out += len(plain) - sum(plain)
        pq.write_table(table.filter(plain), folder / f"{file.parent.name}-{file.name}")
    return left_out


def digest(folder: Path) -> str:
    h = hashlib.sha256()
    for p in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        h.update(p.name.encode() + p.read_bytes())
    return h.hexdigest()


def demo_input(folder: Path) -> tuple[Path, Path]:
    """The demo corpus as parquet, and a tokenizer trained on it."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    from data.demo.corpus import write_corpus
    from data.train_tokenizer import train

    write_corpus(folder / "corpus")
    (folder / "parquet").mkdir()
    texts: list[str] = []
    for file in sorted((folder / "corpus").glob("web_*/*.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        table = pa.table({"id": [r["id"] for r in rows], "text": [r["text"] for r in rows]})
        pq.write_table(table, folder / "parquet" / f"{file.parent.name}-{file.stem}.parquet")
        texts += [r["text"] for r in rows[:3000]]
    train(texts, 4096, folder / "tokenizer")
    return folder / "parquet", folder / "tokenizer" / "tokenizer.json"


def main() -> None:
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--corpus", type=Path, metavar="DIR", help="folder of parquet files with id and text")
    p.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json")
    p.add_argument("--rounds", type=int, default=3, help="alternating runs of each engine (default: %(default)s)")
    p.add_argument(
        "--repeat", type=int, default=1, help="read the corpus so many times in a run (default: %(default)s)"
    )
    p.add_argument("--scratch", type=Path, help="folder for the output; a temporary one by default")
    args = p.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        scratch = Path(name)
        corpus, tokenizer = args.corpus, args.tokenizer
        if corpus is None or tokenizer is None:
            corpus, tokenizer = demo_input(scratch)
        repeated = scratch / "input"
        repeated.mkdir()
        (scratch / "plain").mkdir()
        left_out = plain_copy(corpus, scratch / "plain", tokenizer)
        for i in range(args.repeat):
            for file in sorted((scratch / "plain").iterdir()):
                (repeated / f"{i}-{file.name}").symlink_to(file.resolve())
        runs: dict[str, list[dict[str, float]]] = {e: [] for e in ENGINES}
        digests: dict[str, str] = {}
        for round_number in range(args.rounds):
            for engine in ENGINES:
                out = scratch / f"{engine}-{round_number}"
                runs[engine] += run_at_once(engine, [repeated], tokenizer, [out])
                digests.setdefault(engine, digest(out))
                last = runs[engine][-1]
                print(
                    f"{engine}: {last['tokens'] / last['cpu'] / 1e6:.2f} M tokens per CPU s, {last['rss_mb']:.0f} MB",
                    flush=True,
                )
        rate = {e: median(r["tokens"] / r["cpu"] for r in runs[e]) for e in ENGINES}
        both = run_at_once("fastokens", [repeated] * 2, tokenizer, [scratch / "two-a", scratch / "two-b"])
        alone = median(r["tokens"] / r["wall"] for r in runs["fastokens"])
        scaling = sum(r["tokens"] / r["wall"] for r in both) / alone
    ratio = {e: rate[e] / rate["datatrove"] for e in ENGINES[1:]}
    identical = len(set(digests.values())) == 1
    figures = {
        "tokens": int(runs["datatrove"][0]["tokens"]),
        "million_tokens_per_cpu_second": {e: round(r / 1e6, 3) for e, r in rate.items()},
        "ratio": {e: round(r, 2) for e, r in ratio.items()},
        "identical_bytes": identical,
        "documents_with_literal_special_tokens_left_out": left_out,
        "peak_mb": {e: round(max(r["rss_mb"] for r in runs[e])) for e in ENGINES},
        "two_processes_over_one": round(scaling, 2),
        "core_days_for_1T_tokens": {e: round(1e12 / r / 86400, 2) for e, r in rate.items()},
    }
    goals = {
        "ratio": (">=", 10.0, round(ratio["fastokens"], 2)),
        "identical_bytes": (">=", 1, int(identical)),
        "peak_mb": ("<=", 1000.0, figures["peak_mb"]["fastokens"]),  # type: ignore[index]
    }
    finish("tokenization", figures, goals, args.json)


if __name__ == "__main__":
    main()
