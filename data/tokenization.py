"""Cleaned documents to token shards: the training part of a source, and the validation files."""

import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from datatrove.data import Document

from data.clean import validation_documents
from data.config import DataConfig
from data.encode import TokenizerFile, load_tokenizer
from data.executor import run_tasks
from data.ledger import Ledger, byte_length, read_ledgers
from data.reader import CleanReader, clean_files
from data.shards import Shard
from data.writer import FastDocumentTokenizer
from duetto.console import log, progress
from duetto.errors import UserError
from duetto.files import read_json, write_json
from duetto.run import Run


def tokenizer_label(tokenizer: TokenizerFile) -> str:
    """What ``.metadata`` says: the same in every folder, and enough to refuse shards of another tokenizer."""
    return f"tokenizer.json@sha256:{tokenizer.sha256[:16]}"


def tokenize_source(run: Run, name: str, config: DataConfig) -> dict[str, Any]:
    """Write ``tokens/<source>/*.ds`` and ``shards.json``. Completed tasks of a killed attempt are not done again."""
    clean, folder = run.path("data", name), run.path("tokens", name)
    tokenizer, options = load_tokenizer(run.path("tokenizer")), config.tokenization
    summary, work = folder / "shards.json", folder / ".tasks"
    if not summary.exists():
        files = clean_files(clean)
        ledger = Ledger(work / "ledger")
        reader = CleanReader(name, clean, run.path("data", "dedup", name), config.validation.holdout, ledger=ledger)
        writer = FastDocumentTokenizer(
            str(folder),
            str(tokenizer.path),
            engine=options.engine,
            label=tokenizer_label(tokenizer),
            oracle_documents=options.oracle_documents,
            batch_size=options.batch_documents,
            batch_bytes=options.batch_bytes,
            max_tokens_per_file=options.tokens_per_shard,
            seed=options.seed,
        )
        text = read_json(clean / "stats.json")["counts"]["bytes_out"]
        with progress(f"tokenize {name}", total=text / bytes_per_token(tokenizer, clean), unit="tok") as bar:
            run_tasks(
                [reader, writer], f"tokens-{name}", len(files), work, config.executor, text,
                poll=lambda: bar.update(tokens_on_disk(folder, tokenizer.token_size)),
            )  # fmt: skip
        counts = read_ledgers(work / "ledger")["counts"]
        shards = [read_json(p) for p in sorted((folder / ".records").glob("*.json"))]
        records = [record for part in shards for record in part]
        tokens = sum(r["tokens"] for r in records)
        if not tokens:
            raise UserError(f"source {name}: no document is left after deduplication and hold-out")
        write_json(
            summary,
            {
                "tokenizer_sha256": tokenizer.sha256,
                "documents": counts["documents"],
                "tokens": tokens,
                "bytes": counts["bytes"],
                "shards": records,
            },
        )
    for leftover in (work, folder / ".records"):
        shutil.rmtree(leftover, ignore_errors=True)
    made = read_json(summary)
    return {k: made[k] for k in ("documents", "tokens", "bytes")} | {"shards": len(made["shards"])}


def tokens_on_disk(folder: Path, token_size: int) -> int:
    """Tokens written so far: finished shards and, once, what running tasks have."""
    finished = sum(p.stat().st_size for p in folder.glob("*.ds"))
    running = 0
    for p in folder.glob(".*.part/*_unshuffled.ds"):
        try:
            running += p.stat().st_size
        except FileNotFoundError:
            continue  # finished between the listing and the look
    return (finished + running) // token_size


def bytes_per_token(tokenizer: TokenizerFile, clean: Path) -> float:
    """From the first documents: good enough for an estimate of the time left."""
    encode = tokenizer.encoder("fastokens")
    sample = [d.text[:20_000] for d in islice(CleanReader("sample", clean).run(), 50)]
    ids, _ = encode(sample)
    return sum(map(byte_length, sample)) / max(len(ids), 1)


def tokenize_validation(run: Run, config: DataConfig, sources: list[str]) -> dict[str, Any]:
    """Write ``tokens/validation/<name>.ds``: one for each validation file, one for each source's held-out text."""
    folder = run.path("tokens", "validation")
    index: dict[str, Any] = {}
    for name, path in config.validation.files.items():
        index[name] = _validation_file(run, name, validation_documents(name, path), folder)
    if config.validation.holdout:
        languages = [config.sources[source].language for source in sources]
        for source, language in zip(sources, languages):
            if language in config.validation.files:
                continue
            most = config.validation.max_documents // languages.count(language)
            documents = list(islice(_held_out(run, config, source), most))
            if documents:
                index[source] = _validation_file(run, source, documents, folder)
            else:
                log(f"  validation {source}: no document was held out of so few; raise data.validation.holdout")
    if config.validation.holdout and not index:
        raise UserError("no document was held out of so few; raise data.validation.holdout")
    write_json(folder / "index.json", index)
    return {name: {k: entry[k] for k in ("documents", "tokens", "bytes")} for name, entry in index.items()}


def _held_out(run: Run, config: DataConfig, source: str) -> Iterator[Document]:
    removed = run.path("data", "dedup", source)
    reader = CleanReader(source, run.path("data", source), removed, config.validation.holdout, held_out=True)
    yield from reader.run()


def _validation_file(run: Run, name: str, documents: Iterable[Document], folder: Path) -> dict[str, Any]:
    from data.blocks import Sanitize

    tokenizer = load_tokenizer(run.path("tokenizer"))
    work = folder / f".{name}"
    shutil.rmtree(work, ignore_errors=True)
    size = 0

    def counted() -> Iterator[Document]:
        nonlocal size
        for document in Sanitize(Ledger(work)).run(documents):
            size += byte_length(document.text)
            yield document

    writer = FastDocumentTokenizer(
        str(work), str(tokenizer.path), label=tokenizer_label(tokenizer), shuffle_documents=False, save_filename=name
    )
    writer.run(counted())
    (made,) = work.glob("*.ds")
    for suffix in (".index", ".metadata", ""):
        made.with_name(made.name + suffix).replace(folder / f"{name}.ds{suffix}")
    shutil.rmtree(work)
    shard = Shard.of_file(folder / f"{name}.ds", tokenizer.token_size)
    if not shard.tokens:
        raise UserError(f"validation {name}: the file holds no document; give it one with text, or remove it")
    return {**shard.record(str(folder)), "path": f"validation/{name}.ds", "bytes": size}
