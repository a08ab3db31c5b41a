"""Text of PDF files: reading order, columns, running headers and footers, hyphenation, paragraphs.

Extraction runs in a child process (``python -m data.pdf`` speaks frames on its standard streams) because a broken file
can hang or crash the parser: the child is killed after a time limit and the next file gets a new one.
"""

import json
import os
import re
import select
import struct
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

MARGIN = 0.12
"""Share of the page height, above and below, where running headers and footers are looked for."""

HYPHENS = "-\u00ad\u0002\ufffe"
"""What stands at a line end when a word goes on: PDFium reports a hyphenation as U+0002 or U+FFFE."""


SENTENCE_ENDS = (".", "!", "?", ":", "»", "”", '"')


@dataclass
class Line:
    left: float
    bottom: float
    right: float
    top: float
    text: str

    @property
    def height(self) -> float:
        return self.top - self.bottom


def extract(content: bytes) -> tuple[str, str | None]:
    """Text of a PDF and None, or "" and the reason why there is none."""
    import pypdfium2 as pdfium

    try:
        document = pdfium.PdfDocument(content)
    except pdfium.PdfiumError as e:
        return "", "pdf_encrypted" if "assword" in str(e) else "pdf_unreadable"
    pages, images = [], 0
    try:
        for page in document:
            height = page.get_height()
            lines = _page_lines(page)
            if not lines:
                images += 1
            pages.append((height, lines))
    except pdfium.PdfiumError:
        return "", "pdf_unreadable"
    finally:
        document.close()
    if not any(lines for _, lines in pages):
        return "", "pdf_scanned" if images else "pdf_empty"
    running = _running_lines(pages)
    paragraphs: list[str] = []
    for height, lines in pages:
        body = [x for x in lines if not (_in_margin(x, height) and _shape(x.text) in running)]
        _append_paragraphs(paragraphs, _reading_order(body))
    text = "\n\n".join(paragraphs)
    return (text, None) if text.strip() else ("", "pdf_empty")


def _page_lines(page: Any) -> list[Line]:
    """Pieces of text with their boxes, joined into lines where they touch on the same height."""
    textpage = page.get_textpage()
    pieces = []
    for i in range(textpage.count_rects()):
        left, bottom, right, top = textpage.get_rect(i)
        text = textpage.get_text_bounded(left, bottom, right, top).replace("\r", "").strip("\n")
        if text.strip():
            # The font's own box, not the ink: lines without ascenders or descenders keep their place.
            index = textpage.get_index(left + 0.5, (bottom + top) / 2, 1.0, 1.0)
            if index is not None:
                _, low, _, high = textpage.get_charbox(index, loose=True)
                if high > low:
                    bottom, top = low, high
            pieces.append(Line(left, bottom, right, top, text.strip()))
    lines: list[Line] = []
    for piece in pieces:
        last = lines[-1] if lines else None
        if last is not None and _same_line(last, piece):
            gap = piece.left - last.right
            joint = " " if gap > 0.15 * max(last.height, piece.height) else ""
            lines[-1] = Line(
                last.left, min(last.bottom, piece.bottom), piece.right, max(last.top, piece.top),
                last.text + joint + piece.text,
            )  # fmt: skip
        else:
            lines.append(piece)
    return lines


def _same_line(a: Line, b: Line) -> bool:
    overlap = min(a.top, b.top) - max(a.bottom, b.bottom)
    return overlap > 0.5 * min(a.height, b.height) and -1 <= b.left - a.right < 2.0 * max(a.height, b.height)


def _reading_order(lines: list[Line]) -> list[Line]:
    """Top to bottom; where a vertical gutter splits the page, its left column before its right one."""
    if len(lines) < 6:
        return sorted(lines, key=lambda x: (-x.top, x.left))
    gutter = _gutter(lines)
    if gutter is None:
        return sorted(lines, key=lambda x: (-round(x.top), x.left))
    ordered: list[Line] = []
    left: list[Line] = []
    right: list[Line] = []
    for line in sorted(lines, key=lambda x: -x.top):
        if line.left < gutter < line.right:  # a title across both columns ends what stands above it
            ordered += left + right + [line]
            left, right = [], []
        else:
            (left if line.right <= gutter else right).append(line)
    return ordered + left + right


def _gutter(lines: list[Line]) -> float | None:
    """Middle of a vertical strip that at most a tenth of the lines cross, with a quarter of them on either side."""
    low, high = min(x.left for x in lines), max(x.right for x in lines)
    for step in range(14, 27):  # from 35 % to 65 % of the text's width
        x = low + (high - low) * step / 40
        crossing = sum(a.left < x < a.right for a in lines)
        on_left = sum(a.right <= x for a in lines)
        if crossing <= len(lines) // 10 and min(on_left, len(lines) - crossing - on_left) >= len(lines) // 4:
            return x
    return None


def _shape(text: str) -> str:
    """A running line with its number taken out: ``Pagina 12`` -> ``pagina #``."""
    return re.sub(r"\d+|\b[ivxlc]+\b", "#", text.lower()).strip()


def _in_margin(line: Line, height: float) -> bool:
    return line.top > height * (1 - MARGIN) or line.bottom < height * MARGIN


def _running_lines(pages: list[tuple[float, list[Line]]]) -> set[str]:
    """Shapes of lines that stand in the margin of at least half of the pages (and of two)."""
    seen: Counter[str] = Counter()
    for height, lines in pages:
        seen.update({_shape(x.text) for x in lines if _in_margin(x, height)})
    running = {shape for shape, n in seen.items() if n >= max(2, len(pages) / 2)}
    return running | {"#", "- # -", "pagina #", "page #", "# / #", "pagina # di #", "page # of #"}


def _append_paragraphs(paragraphs: list[str], lines: list[Line]) -> None:
    """Join lines into paragraphs; a page or column break inside a sentence does not end one."""
    if not lines:
        return
    pitches = sorted(a.bottom - b.bottom for a, b in pairwise(lines) if a.bottom > b.bottom)
    pitch = pitches[len(pitches) // 2] if pitches else lines[0].height
    width = max(x.right for x in lines)
    previous: Line | None = None
    for line in lines:
        if previous is None:
            new = not paragraphs or paragraphs[-1].endswith(SENTENCE_ENDS) or not line.text[:1].islower()
        else:
            down = previous.bottom - line.bottom
            ended = previous.text.endswith(SENTENCE_ENDS)
            if abs(previous.height - line.height) > 0.2 * line.height:
                new = True  # a title is set larger
            elif down <= 0:
                new = ended or not line.text[:1].islower()  # on to the next column
            else:
                new = down > 1.2 * pitch or (ended and previous.right < width - 4 * line.height)
        if new:
            paragraphs.append(_clean(line.text))
        else:
            paragraphs[-1] = _join(paragraphs[-1], _clean(line.text))
        previous = line


def _clean(text: str) -> str:
    """A mark of hyphenation at the end becomes a plain hyphen; elsewhere it is invisible and goes."""
    if text[-1:] in HYPHENS:
        text = text[:-1] + "-"
    for mark in HYPHENS[1:]:
        text = text.replace(mark, "")
    return text.replace("\n", " ")


def _join(text: str, line: str) -> str:
    """``compu-`` + ``ter`` -> ``computer``; ``anglo-`` + ``Americano`` keeps its hyphen."""
    if text.endswith("-") and len(text) > 1 and text[-2].isalpha():
        return text[:-1] + line if line[:1].islower() else text + line
    return f"{text} {line}"


COMMAND = [sys.executable, "-m", "data.pdf"]


class PdfPool:
    """One child process, replaced when it hangs or dies."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None

    def extract(self, content: bytes, seconds: float) -> tuple[str, str | None]:
        """As :func:`extract`, with ``pdf_timeout`` and ``pdf_crash`` for what the parser could not finish."""
        if self.child is None:
            self.child = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child = self.child
        assert child.stdin and child.stdout
        try:
            child.stdin.write(_frame(content))
            child.stdin.flush()
            answer = _receive(child.stdout.fileno(), time.monotonic() + seconds)
        except TimeoutError:
            self.close()
            return "", "pdf_timeout"
        except (BrokenPipeError, EOFError):
            self.close()
            return "", "pdf_crash"
        text, reason = json.loads(answer)
        return text, reason

    def close(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None

    def __del__(self) -> None:
        if "child" in self.__dict__:
            self.close()


def _frame(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def _receive(fd: int, deadline: float) -> bytes:
    """One frame from a pipe. Raises TimeoutError at the deadline, EOFError when the writer is gone."""

    def exactly(length: int) -> bytes:
        out = bytearray()
        while len(out) < length:
            ready, _, _ = select.select([fd], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise TimeoutError
            block = os.read(fd, length - len(out))
            if not block:
                raise EOFError
            out += block
        return bytes(out)

    (length,) = struct.unpack("<Q", exactly(8))
    return exactly(length)


def _serve() -> None:
    from duetto.process import die_with_parent

    die_with_parent()
    while head := sys.stdin.buffer.read(8):
        content = sys.stdin.buffer.read(struct.unpack("<Q", head)[0])
        sys.stdout.buffer.write(_frame(json.dumps(extract(content)).encode()))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
