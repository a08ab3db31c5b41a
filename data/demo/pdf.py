"""Real PDF booklets: a title, a running header, page numbers, paragraphs, words hyphenated at line ends."""

from datetime import UTC, datetime
from pathlib import Path

from fpdf import FPDF

# fpdf2 derives the document id from this date and the content, so equal text gives equal bytes.
_DATE = datetime(2024, 1, 1, tzinfo=UTC)


class Booklet(FPDF):
    def __init__(self, title: str) -> None:
        super().__init__(format=(148, 210))
        self.title_line = title
        self.set_creation_date(_DATE)
        self.set_title(title)
        self.set_margins(18, 18)
        self.set_auto_page_break(True, margin=18)

    def header(self) -> None:
        self.set_font("Times", "I", 8)
        self.cell(0, 6, self.title_line, align="C", new_x="LMARGIN", new_y="NEXT")

    def footer(self) -> None:
        self.set_y(-14)
        self.set_font("Times", "", 8)
        self.cell(0, 6, f"Pagina {self.page_no()}", align="C")


def write_booklet(path: Path, title: str, paragraphs: list[str]) -> None:
    pdf = Booklet(title)
    pdf.add_page()
    pdf.set_font("Times", "B", 16)
    pdf.multi_cell(0, 9, title, align="C", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(4)
    pdf.set_font("Times", "", 11)
    for paragraph in paragraphs:
        pdf.multi_cell(0, 5.5, paragraph, new_x="LMARGIN", new_y="NEXT")
        pdf.ln(2)
    pdf.output(str(path))
