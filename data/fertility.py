"""Compares tokenizers on the languages of a mix: what a word costs in tokens, and what the vocabulary costs in FLOPs.

    python -m data.fertility --tokenizer A.json --tokenizer B.json --text en=DIR --text it=DIR --text code=DIR

A larger vocabulary makes shorter texts and a larger head: the last columns say what a byte of each text costs to train
on with a model of the given shape (by default the 0.44 B flagship), relative to the first tokenizer.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from data.config import Source
from data.encode import TokenizerFile
from data.ledger import Ledger, byte_length
from data.sources import SourceReader, list_files
from duetto.errors import UserError


def flops_per_token(vocab_size: int, hidden: int, layers: int, ffn: int, kv_heads: int, heads: int, seq: int) -> dict:
    """Training FLOP of one token, forward and backward, full attention counted: total and the head's share.

    6 FLOP a weight of every matrix, and 12 x layers x hidden x seq for the attention scores (Kaplan et al., 2020;
    PaLM, appendix B).
    """
    head_size = hidden // heads
    block = hidden * hidden * 2 + 2 * hidden * kv_heads * head_size + 3 * hidden * ffn
    head = 6 * vocab_size * hidden
    total = 6 * layers * block + 12 * layers * hidden * seq + head
    return {"total": total, "head_share": head / total}


def measure(tokenizer: TokenizerFile, texts: Sequence[str]) -> dict[str, float]:
    """Tokens per word (white space) and UTF-8 bytes per token."""
    ids, _ = tokenizer.encoder("fastokens")(texts)
    words, size = sum(len(t.split()) for t in texts), sum(map(byte_length, texts))
    return {"tokens_per_word": len(ids) / max(words, 1), "bytes_per_token": size / max(len(ids), 1)}


def read_texts(path: str, documents: int) -> list[str]:
    """The first documents of a folder or file of jsonl, parquet or source code."""
    for kind in ("parquet", "jsonl", "code"):
        source = Source(kind=kind, path=path, language="any")  # type: ignore[arg-type]
        try:
            files = list_files(source, path)
        except UserError:
            continue
        reader = SourceReader(path, source, files, Ledger(Path()), "skip")
        return [d.text[:50_000] for d in islice(reader.run(), documents)]
    raise UserError(f"{path}: no parquet, jsonl or source files there")


def compare(tokenizers: Sequence[str], texts: dict[str, list[str]], shape: dict[str, int]) -> list[dict[str, Any]]:
    """One row a tokenizer."""
    rows: list[dict[str, Any]] = []
    for path in tokenizers:
        file = TokenizerFile(path)
        cost = flops_per_token(file.vocab_size, **shape)
        row: dict[str, Any] = {
            "tokenizer": path,
            "vocab_size": file.vocab_size,
            "head_share": round(cost["head_share"], 4),
        }
        for name, sample in texts.items():
            found = measure(file, sample)
            row[name] = {k: round(v, 4) for k, v in found.items()}
            row[name]["flops_per_byte"] = round(cost["total"] / found["bytes_per_token"])
        rows.append(row)
    for row in rows:
        for name in texts:
            row[name]["relative_cost"] = round(row[name]["flops_per_byte"] / rows[0][name]["flops_per_byte"], 4)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--tokenizer", action="append", required=True, metavar="FILE", help="tokenizer.json; give several")
    p.add_argument("--text", action="append", required=True, metavar="NAME=DIR", help="text to measure on")
    p.add_argument("--documents", type=int, default=500, help="of each text (default: %(default)s)")
    for name, default in (
        ("hidden", 960),
        ("layers", 32),
        ("ffn", 2560),
        ("kv-heads", 5),
        ("heads", 15),
        ("seq", 4096),
    ):
        p.add_argument(f"--{name}", type=int, default=default, help="of the model (default: %(default)s)")
    p.add_argument("--json", type=Path, metavar="FILE")
    args = p.parse_args(argv)
    shape = {k: getattr(args, k) for k in ("hidden", "layers", "ffn", "kv_heads", "heads", "seq")}
    texts = {}
    for entry in args.text:
        name, eq, path = entry.partition("=")
        if not eq:
            raise UserError(f"--text {entry}: expected NAME=DIR")
        texts[name] = read_texts(path, args.documents)
    rows = compare(args.tokenizer, texts, shape)
    _show(rows, list(texts))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def _show(rows: list[dict[str, Any]], names: list[str]) -> None:
    from rich.table import Table

    from duetto.console import console

    table = Table(
        "tokenizer", "vocabulary", "head FLOP", *(f"{n}: {c}" for n in names for c in ("tok/word", "B/tok", "cost"))
    )
    for row in rows:
        cells = [f"{row[n][key]:.3f}" for n in names for key in ("tokens_per_word", "bytes_per_token", "relative_cost")]
        table.add_row(Path(row["tokenizer"]).name, f"{row['vocab_size']:,}", f"{100 * row['head_share']:.1f} %", *cells)
    console.print(table)


if __name__ == "__main__":
    try:
        main()
    except UserError as e:
        sys.exit(f"error: {e}")
