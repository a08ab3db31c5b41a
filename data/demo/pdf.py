"""Real PDF booklets: a title, a running header, page numbers, headings, paragraphs, words hyphenated at line ends.

Lines are broken here, from a table of character widths: fpdf2's own breaking takes ten times as long.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from fpdf import FPDF

from data.demo.morphology import syllables
from duetto.files import atomic_write

# fpdf2 derives the document's id from this date and the content, so equal text gives equal bytes.
_DATE = datetime(2024, 1, 1, tzinfo=UTC)
_PAGE = (148, 210)
_MARGIN = 18
_TEXT_WIDTH = _PAGE[0] - 2 * _MARGIN
_LINE_HEIGHT = 5.5
_POINT = 25.4 / 72
_BODY_SIZE = 11


class Booklet(FPDF):
    """A5 pages in Times with the title above and the page number below the text; lengths in millimetres."""

    def __init__(self, title: str) -> None:
        super().__init__(format=_PAGE)
        self.running_title = title
        self.set_creation_date(_DATE)
        self.set_title(title)
        self.set_lang("it")
        self.set_margin(_MARGIN)
        self.set_auto_page_break(True, margin=_MARGIN)

    def header(self) -> None:
        self.set_xy(_MARGIN, 9)
        self.set_font("Times", "I", 8)
        self.cell(_TEXT_WIDTH, 5, self.running_title, align="C")
        self.set_xy(_MARGIN, _MARGIN)

    def footer(self) -> None:
        self.set_xy(_MARGIN, -13)
        self.set_font("Times", "", 8)
        self.cell(_TEXT_WIDTH, 5, f"Pagina {self.page_no()}", align="C")

    def heading(self, text: str, size: int) -> None:
        # A heading never stays alone at the foot of a page.
        if self.get_y() > _PAGE[1] - _MARGIN - 4 * _LINE_HEIGHT:
            self.add_page()
        self.set_font("Times", "B", size)
        self.cell(_TEXT_WIDTH, 1.5 * size * _POINT, text, new_x="LMARGIN", new_y="NEXT")
        self.ln(1)

    def paragraph(self, text: str) -> None:
        self.set_font("Times", "", _BODY_SIZE)
        for line in break_lines(text, _TEXT_WIDTH - 2 * self.c_margin):
            self.cell(_TEXT_WIDTH, _LINE_HEIGHT, line, new_x="LMARGIN", new_y="NEXT")
        self.ln(2.5)


def write_booklet(path: Path, title: str, sections: Sequence[tuple[str, str]]) -> int:
    """Write one PDF and return its size in bytes.

    Args:
        sections: (heading, text); each line of the text becomes a paragraph.
    """
    pdf = Booklet(title)
    pdf.add_page()
    pdf.heading(title, 17)
    for heading, text in sections:
        pdf.heading(heading, 13)
        for paragraph in text.split("\n"):
            pdf.paragraph(paragraph)
    content = bytes(pdf.output())
    with atomic_write(path, "wb") as f:
        f.write(content)
    return len(content)


@cache
def _widths() -> dict[str, float]:
    """Width of each Latin-1 character in body text, in millimetres; Times has no kerning in fpdf2."""
    pdf = FPDF()
    pdf.set_font("Times", "", _BODY_SIZE)
    return {chr(code): pdf.get_string_width(chr(code)) for code in (*range(0x20, 0x7F), *range(0xA0, 0x100))}


@cache
def _pieces(word: str) -> list[tuple[str, str, float, float]]:
    """Ways to cut a word, longest head first: (head with hyphen, rest, width of head, width of rest)."""
    parts, cuts = syllables(word), []
    for i in range(len(parts) - 1, 0, -1):
        head, rest = "".join(parts[:i]), "".join(parts[i:])
        if len(head) >= 2 and sum(c.isalpha() for c in rest) >= 3:
            cuts.append((head + "-", rest, _width(head + "-"), _width(rest)))
    return cuts


@cache
def _width(word: str) -> float:
    widths = _widths()
    return sum(widths[character] for character in word)


def break_lines(text: str, width: float) -> Iterator[str]:
    """Greedy line breaking; a word is hyphenated where at least a tenth of the line would stay empty."""
    space = _widths()[" "]
    line, used = "", 0.0
    for word in text.split(" "):
        needed = _width(word)
        if line and used + space + needed > width:
            room = width - used - space
            cut = next((c for c in _pieces(word) if c[2] <= room), None) if room > 0.1 * width else None
            if cut:
                yield f"{line} {cut[0]}"
                line, used = cut[1], cut[3]
            else:
                yield line
                line, used = word, needed
        elif line:
            line, used = f"{line} {word}", used + space + needed
        else:
            line, used = word, needed
    yield line
