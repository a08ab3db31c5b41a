"""The cleaning blocks as datatrove steps, and the list of them that a source asks for."""

import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data import block_config as config
from data.config import Source
from data.ledger import Ledger, byte_length
from data.pii import mask


class CleanBlock(PipelineStep):
    """One rule: ``apply`` changes the document or names the reason to drop it; counts and costs go to the ledger."""

    type = "🔻 - FILTER"

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.name = name
        super().__init__()
        self.ledger = ledger

    def apply(self, document: Document) -> str | None:
        raise NotImplementedError

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # type: ignore[override]
        seconds, documents = 0.0, 0
        for document in data:
            began = time.thread_time()
            before = document.text
            reason = self.apply(document)
            if reason is None and not document.text.strip():
                reason = f"{self.name}_left_nothing"
            seconds += time.thread_time() - began
            documents += 1
            if reason is None:
                yield document
            else:
                self.ledger.drop(reason, document.id, before)
        self.ledger.cost(self.name, seconds, documents)


# What no text needs: C0 and C1 controls but tab, line feed and carriage return; NUL among them.
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufff9-\ufffb]")
SURROGATES = re.compile(r"[\ud800-\udfff]")


class Sanitize(CleanBlock):
    """Always first: what would break an engine or a format. Lone surrogates become U+FFFD; controls and BOMs go."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__("sanitize", ledger)

    def apply(self, document: Document) -> str | None:
        text = document.text
        if SURROGATES.search(text):
            # A pair that was escaped one by one is a character; a lone one is not.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            self.ledger.count("documents_with_lone_surrogates")
        if CONTROLS.search(text):
            text = CONTROLS.sub("", text)
            self.ledger.count("documents_with_control_characters")
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        document.text = text
        return None


class Repair(CleanBlock):
    def __init__(self, options: config.Repair, ledger: Ledger) -> None:
        super().__init__("repair", ledger)
        self.options = options

    def apply(self, document: Document) -> str | None:
        text = document.text
        if not text.isascii():
            if self.options.mojibake:
                text = mend(text)
            text = unicodedata.normalize("NFC", text)
        if text != document.text:
            self.ledger.count("documents_repaired")
            document.text = text
        return None


# Mojibake is UTF-8 read as something else: two neighbours outside ASCII, or a capital that stands before a lost space.
SUSPECT = re.compile(r"[^\x00-\x7f][^\x00-\x7f]|[ÃÂ]")
ODD_CHARACTERS = re.compile(r"[\ufb00-\ufb06\uff01-\uff5e\x80-\x9f\u2028\u2029]|\x1b\[")


def mend(text: str) -> str:
    """ftfy on the lines that may need it; its test for mojibake alone runs at 5 MB/s."""
    if not SUSPECT.search(text) and not ODD_CHARACTERS.search(text):
        return text
    import ftfy
    from ftfy.badness import is_bad

    lines = text.split("\n")
    for i, line in enumerate(lines):
        if line.isascii():
            continue
        if ODD_CHARACTERS.search(line) or (SUSPECT.search(line) and is_bad(line)):
            # Quotes and entities stay as the author set them.
            lines[i] = ftfy.fix_text(line, uncurl_quotes=False, unescape_html=False)
    return "\n".join(lines)


class Length(CleanBlock):
    def __init__(self, options: config.Length, ledger: Ledger) -> None:
        super().__init__("length", ledger)
        self.options = options

    def apply(self, document: Document) -> str | None:
        size = len(document.text)
        if size < self.options.min_characters:
            return "too_short"
        if self.options.max_characters is not None and size > self.options.max_characters:
            return "too_long"
        return None


class Pii(CleanBlock):
    def __init__(self, options: config.Pii, ledger: Ledger) -> None:
        super().__init__("pii", ledger)
        self.kinds = frozenset(name for name, wanted in options.model_dump().items() if wanted)

    def apply(self, document: Document) -> str | None:
        text, found = mask(document.text, self.kinds)
        for kind, n in found.items():
            self.ledger.count(f"pii_{kind}", n)
        document.text = text
        return None


class ValidationGuard(CleanBlock):
    """Drops documents that are, but for white space, a validation document."""

    def __init__(self, hashes: frozenset[bytes], ledger: Ledger) -> None:
        super().__init__("validation", ledger)
        self.hashes = hashes

    def apply(self, document: Document) -> str | None:
        return "is_validation_text" if text_hash(document.text) in self.hashes else None


def text_hash(text: str) -> bytes:
    """16 bytes that identify a text whatever its white space."""
    import hashlib

    return hashlib.blake2b("".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=16).digest()


class CleanWriter(PipelineStep):
    """Last step: documents to one parquet file a task, atomically, then the task's ledger.

    Row groups are bounded by bytes, so that a reader's memory is, whatever the length of the documents.
    """

    type = "💽 - WRITER"
    name = "clean documents"

    ROW_GROUP_BYTES = 8_000_000

    def __init__(self, folder: str, language: str, ledger: Ledger) -> None:
        super().__init__()
        self.folder, self.language, self.ledger = folder, language, ledger

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # type: ignore[override]
        from pathlib import Path

        import pyarrow as pa
        import pyarrow.parquet as pq

        from duetto.files import atomic_write

        schema = pa.schema(
            [(name, pa.string()) for name in ("id", "text", "language", "origin", "url")]
            + [("text_hash", pa.binary(16))]
        )
        path = Path(self.folder) / f"{rank:05d}.parquet"
        with atomic_write(path, "wb") as f, pq.ParquetWriter(f, schema, compression="zstd") as writer:
            rows: list[dict[str, Any]] = []
            size = 0

            def flush() -> None:
                nonlocal size
                if rows:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
                size = 0

            for document in data:
                self.ledger.kept(document.text)
                meta = document.metadata
                url = meta.get("url")
                rows.append(
                    {
                        "id": document.id,
                        "text": document.text,
                        "language": self.language,
                        "origin": meta.get("origin"),
                        "url": str(url) if url is not None else None,
                        "text_hash": text_hash(document.text),
                    }
                )
                size += byte_length(document.text)
                if size >= self.ROW_GROUP_BYTES or len(rows) >= 10_000:
                    flush()
            flush()
        self.ledger.write(rank)
        yield from ()


def build_blocks(source: Source, ledger: Ledger, validation: frozenset[bytes]) -> Sequence[PipelineStep]:
    """The steps between a source's reader and its writer."""
    steps: list[PipelineStep] = [Sanitize(ledger)]
    if validation:
        steps.append(ValidationGuard(validation, ledger))
    for entry in source.blocks:
        name, options = config.parse_block(entry)
        if name == "repair":
            steps.append(Repair(options, ledger))
        elif name == "pii":
            steps.append(Pii(options, ledger))
        elif name == "length":
            steps.append(Length(options, ledger))
        else:
            from data.quality import quality_block

            steps.append(quality_block(name, options, source.language, ledger))
    return steps
