"""WARC files to the main text of their pages."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO


@dataclass
class Page:
    id: str
    url: str
    html: str


def warc_pages(file: IO[bytes]) -> Iterator[Page]:
    """HTML responses of a WARC file (plain or gzip), decoded as their headers say, else as UTF-8 or Latin-1."""
    from warcio.archiveiterator import ArchiveIterator

    for record in ArchiveIterator(file):
        if record.rec_type != "response":
            continue
        kind = record.http_headers.get_header("Content-Type", "") if record.http_headers else ""
        if "html" not in kind:
            continue
        content = record.content_stream().read()
        yield Page(
            id=record.rec_headers.get_header("WARC-Record-ID", "").strip("<>"),
            url=record.rec_headers.get_header("WARC-Target-URI", ""),
            html=_decode(content, kind),
        )


def _decode(content: bytes, kind: str) -> str:
    declared = kind.partition("charset=")[2].split(";")[0].strip().strip('"')
    for encoding in (declared, "utf-8"):
        try:
            return content.decode(encoding) if encoding else content.decode()
        except (UnicodeDecodeError, LookupError):
            continue
    return content.decode("latin-1")


def html_to_text(html: str) -> str | None:
    """Main text without menus and notices (trafilatura, FineWeb's extractor)."""
    import trafilatura

    return trafilatura.extract(html, favor_precision=True, include_comments=False, deduplicate=True)
