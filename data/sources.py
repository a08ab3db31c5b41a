"""Sources as datatrove readers: jsonl (plain, gzip, zstd), parquet, WARC, folders of PDFs, folders of code.

Every reader counts what enters and what it had to leave out in the ledger. A record that cannot be read is dropped
and counted; a file that cannot be read (torn, not of its format, without the text column) ends the job or is skipped
and counted, as ``bad_files`` says. Nothing is read twice and nothing is silently lost.
"""

import glob
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from typing import IO, Any

from datatrove.data import Document
from datatrove.io import get_datafolder
from datatrove.pipeline.base import PipelineStep

from data.config import DataConfig, Source
from data.ledger import Ledger
from data.pdf import PdfPool
from data.source_code import is_generated, is_minified, language_of, license_of
from duetto.errors import UserError

SUFFIXES = {
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst", ".ndjson"),
    "parquet": (".parquet",),
    "hub": (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst"),
    "warc": (".warc", ".warc.gz"),
    "pdf": (".pdf",),
}

LONGEST_LINE = 256 * 2**20
"""A jsonl line above this many bytes is dropped unread: a zip bomb must not take the machine with it."""

BYTES_PER_TASK = 32 * 2**20
"""A task below this spends more on starting than on working."""
LARGEST_CODE_FILE = 1_000_000
"""Bytes; StarCoder's own bound. Longer source files are data or generated."""


class UnreadableFile(Exception):
    """A file that cannot be read on; the message says why."""


def list_files(source: Source, name: str) -> list[str]:
    """Paths of a source's input files relative to its folder, in a stable order.

    Raises:
        UserError: the path does not exist or holds no file of the kind.
    """
    folder = get_datafolder(_root(source.path))
    inner = source.path[len(_root(source.path)) :].lstrip("/")
    try:
        if not folder.exists(""):
            raise UserError(f"source {name}: {source.path}: no such file or folder")
        found = folder.list_files(recursive=True)
    except OSError as e:
        raise UserError(f"source {name}: {source.path}: cannot be listed ({e})") from None
    if inner:
        found = [f for f in found if f == inner or fnmatch(f, inner)]
    wanted = [f for f in found if _wanted(source, f)]
    if not wanted:
        kinds = ", ".join(SUFFIXES.get(source.kind, ("source code",)))
        raise UserError(f"source {name}: {source.path}: no file of kind {source.kind} there ({kinds})")
    return wanted


def listing_digest(source: Source, files: list[str]) -> dict[str, Any]:
    """Identity of the input by names, sizes and times: terabytes are not hashed to see that nothing changed."""
    folder = get_datafolder(_root(source.path))
    digest = hashlib.sha256()
    for f in files:
        info = folder.info(f)
        digest.update(
            f"{f}\0{info.get('size')}\0{info.get('mtime') or info.get('ETag') or info.get('etag')}\n".encode()
        )
    return {"files": len(files), "listing": digest.hexdigest()}


def input_bytes(source: Source, files: list[str]) -> int:
    folder = get_datafolder(_root(source.path))
    return sum(int(folder.size(f) or 0) for f in files[:1000]) * max(len(files) // 1000, 1)


def tasks_of(source: Source, files: list[str], config: DataConfig) -> int:
    """Parallel parts of a source: as many as it asks for, or by size, at most one a file."""
    by_size = -(-input_bytes(source, files) // BYTES_PER_TASK)
    return max(1, min(source.tasks or by_size, config.executor.tasks, len(files)))


def _root(path: str) -> str:
    """The folder that holds a path: itself, the parent of a file, or what stands before the first glob."""
    if glob.has_magic(path):
        fixed = path[: min(i for i in (path.find(c) for c in "*?[") if i >= 0)]
        return fixed.rsplit("/", 1)[0]
    if "://" not in path and os.path.isfile(path):
        return os.path.dirname(os.path.abspath(path))
    return path


def _wanted(source: Source, path: str) -> bool:
    if source.include and not any(fnmatch(path, p) for p in source.include):
        return False
    if any(fnmatch(path, p) or fnmatch("/" + path, p) for p in source.exclude):
        return False
    if source.kind == "code":
        return language_of(path) is not None
    return path.endswith(SUFFIXES[source.kind])


class SourceReader(PipelineStep):
    """Yields the documents of the files of one task: every ``world_size``-th, from ``rank`` on."""

    type = "📖 - READER"

    def __init__(self, name: str, source: Source, files: list[str], ledger: Ledger, bad_files: str) -> None:
        self.name = f"source {name}"
        super().__init__()
        self.source_name, self.source, self.files, self.ledger, self.bad_files = name, source, files, ledger, bad_files
        self.folder = get_datafolder(_root(source.path))

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # type: ignore[override]
        if data:
            yield from data
        read: Callable[[str], Iterator[Document]] = getattr(self, f"_read_{FORMATS[self.source.kind]}")
        left = self.source.limit or -1
        for path in self.files[rank::world_size]:
            self.ledger.count("files_in")
            if left == 0:
                return
            try:
                for document in read(path):
                    self.ledger.entered(document.text)
                    document.metadata["origin"] = path
                    yield document
                    left -= 1
                    if left == 0:
                        return
            except UnreadableFile as e:
                self._unreadable(path, str(e))

    def _unreadable(self, path: str, why: str) -> None:
        shown = self.folder.resolve_paths(path)
        if self.bad_files == "stop":
            raise UserError(
                f"source {self.source_name}: {shown}: {why}; mend or remove the file, or set data.bad_files=skip to "
                "go on without it"
            )
        self.ledger.count("files_unreadable")
        self.ledger.bad_file(path, why)

    def _document(self, record: dict[str, Any], path: str, number: int) -> Document | None:
        """None when the record has no text; the reason is counted."""
        text = record.pop(self.source.text_key, None)
        given = record.pop(self.source.id_key, None)
        name = str(given) if given not in (None, "") else f"{path}:{number}"
        if not isinstance(text, str):
            self._drop("no_text", name, "" if text is None else str(text))
            return None
        if not text.strip():
            self._drop("empty", name, text)
            return None
        inner = record.pop("metadata", None)
        metadata = {**record, **(inner if isinstance(inner, dict) else {})}
        return Document(text=text, id=name, metadata={k: v for k, v in metadata.items() if v is not None})

    def _drop(self, reason: str, name: str, text: str) -> None:
        self.ledger.entered(text)
        self.ledger.drop(reason, name, text)

    def _read_jsonl(self, path: str) -> Iterator[Document]:
        import orjson

        number = -1
        with self._open_lines(path) as f:
            while True:
                line = _read_line(f, number + 1)
                if not line:
                    return
                number += 1
                if len(line) >= LONGEST_LINE and not line.endswith(b"\n"):
                    self._drop("line_too_long", f"{path}:{number}", line[:1000].decode(errors="replace"))
                    while (line := _read_line(f, number)) and not line.endswith(b"\n"):
                        pass
                    continue
                if not line.strip():
                    continue
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError:
                    record = _decode_line(line)
                if not isinstance(record, dict):
                    if not line.endswith(b"\n") and number and self._is_torn(line):
                        raise UnreadableFile(f"the last line ({number + 1}) ends in the middle of a record: truncated")
                    reason = "bad_encoding" if _not_utf8(line) else "bad_json"
                    self._drop(reason, f"{path}:{number}", line.decode(errors="replace"))
                    continue
                document = self._document(record, path, number)
                if document:
                    yield document

    def _open_lines(self, path: str) -> IO[bytes]:
        """zstd through Arrow: the Python binding takes a truncated stream for a whole one."""
        if not path.endswith(".zst"):
            return self.folder.open(path, "rb", compression="infer")
        import pyarrow as pa

        stream: Any = pa.CompressedInputStream(self.folder.open(path, "rb"), "zstd")
        return io.BufferedReader(stream, 2**20)

    @staticmethod
    def _is_torn(line: bytes) -> bool:
        return line.lstrip().startswith(b"{") and not line.rstrip().endswith(b"}")

    def _read_parquet(self, path: str) -> Iterator[Document]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        number = 0
        with self.folder.open(path, "rb") as f:
            try:
                table = pq.ParquetFile(f, pre_buffer=False)
                names = table.schema_arrow.names
            except (pa.ArrowException, OSError) as e:
                raise UnreadableFile(f"not a whole parquet file ({_short(e)})") from None
            if self.source.text_key not in names:
                raise UnreadableFile(
                    f"has no column {self.source.text_key!r} (columns: {', '.join(names)}); set text_key of the source"
                )
            batches = table.iter_batches(batch_size=256, use_threads=False)
            while True:
                try:
                    batch = next(batches, None)
                except (pa.ArrowException, OSError) as e:
                    raise UnreadableFile(f"unreadable after {number} rows ({_short(e)})") from None
                if batch is None:
                    return
                for row in _rows(batch):
                    if row is None:
                        self._drop("bad_encoding", f"{path}:{number}", "")
                        document = None
                    else:
                        document = self._document(row, path, number)
                    number += 1
                    if document:
                        yield document

    def _read_any(self, path: str) -> Iterator[Document]:
        yield from self._read_parquet(path) if path.endswith(".parquet") else self._read_jsonl(path)

    def _read_warc(self, path: str) -> Iterator[Document]:
        from data.web import html_to_text, warc_pages

        with self.folder.open(path, "rb") as f:
            pages = warc_pages(f)
            number = 0
            while True:
                try:
                    page = next(pages, None)
                except (OSError, EOFError, ValueError) as e:
                    raise UnreadableFile(f"unreadable after {number} pages ({_short(e)})") from None
                if page is None:
                    return
                number += 1
                text = html_to_text(page.html)
                if not text:
                    self._drop("no_main_text", page.id, "")
                    continue
                document = self._document({"text": text, "id": page.id, "url": page.url}, path, number)
                if document:
                    yield document

    def _read_pdf(self, path: str) -> Iterator[Document]:
        with self.folder.open(path, "rb") as f:
            content = f.read()
        text, reason = self._pdf_pool().extract(content, self.source.seconds_per_file)
        if reason:
            self._drop(reason, path, "")
            if reason in ("pdf_unreadable", "pdf_timeout", "pdf_crash"):
                self.ledger.bad_file(path, reason)
            return
        document = self._document({self.source.text_key: text, self.source.id_key: path}, path, 0)
        if document:
            yield document

    def _pdf_pool(self) -> PdfPool:
        if not hasattr(self, "_pdf"):
            self._pdf = PdfPool()
        return self._pdf

    def _read_code(self, path: str) -> Iterator[Document]:
        with self.folder.open(path, "rb") as f:
            content = f.read(LARGEST_CODE_FILE + 1)
        if len(content) > LARGEST_CODE_FILE:
            self._drop("code_too_large", path, "")
            return
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            self._drop("bad_encoding", path, content[:2000].decode(errors="replace"))
            return
        if reason := is_generated(text) or is_minified(path, text):
            self._drop(reason, path, text)
            return
        license_id = None
        if self.source.licenses is not None:
            license_id = license_of(self.folder, path, text)
            if license_id not in self.source.licenses:
                self._drop(f"license_{license_id or 'unknown'}", path, text)
                return
        record = {self.source.text_key: text, self.source.id_key: path, "language": language_of(path)}
        document = self._document({**record, "license": license_id} if license_id else record, path, 0)
        if document:
            yield document


FORMATS = {"jsonl": "jsonl", "parquet": "parquet", "hub": "any", "warc": "warc", "pdf": "pdf", "code": "code"}


def _rows(batch: Any) -> Iterator[dict[str, Any] | None]:
    """Rows of an Arrow batch; None for one that is not UTF-8."""
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass
    for i in range(batch.num_rows):
        try:
            yield batch.slice(i, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield None


def _read_line(f: IO[bytes], number: int) -> bytes:
    try:
        return f.readline(LONGEST_LINE)
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise UnreadableFile(f"unreadable after {number} lines ({_short(e)})") from None


def _decode_line(line: bytes) -> Any:
    """JSON that orjson refuses but the standard library reads: lone surrogates in escapes, NaN."""
    import json

    try:
        return json.loads(line)
    except (UnicodeDecodeError, ValueError, RecursionError):
        return None


def _not_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return True
    return False


def _short(e: Exception) -> str:
    return " ".join(str(e).split())[:160] or type(e).__name__
