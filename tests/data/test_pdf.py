"""PDF files made by a real PDF writer, read back: running lines, hyphens, columns, and what cannot be read."""

import sys

import pytest
from fpdf import FPDF
from fpdf.enums import AccessPermission

from data.pdf import PdfPool, extract

BODY = (
    "Il faro del porto vecchio si accende ogni sera quando il sole scende dietro le colline, e la sua luce gira "
    "lentamente sopra le barche che tornano a casa cariche di pesce. "
)


class Page(FPDF):
    def header(self):
        self.set_font("Times", "I", 8)
        self.cell(0, 6, "Quaderni del porto", align="C", new_x="LMARGIN", new_y="NEXT")

    def footer(self):
        self.set_y(-14)
        self.set_font("Times", "", 8)
        self.cell(0, 6, f"Pagina {self.page_no()}", align="C")


def booklet(paragraphs: list[str]) -> bytes:
    pdf = Page(format=(148, 210))
    pdf.set_auto_page_break(True, margin=18)
    pdf.add_page()
    pdf.set_font("Times", "", 11)
    for p in paragraphs:
        pdf.multi_cell(0, 5.5, p, new_x="LMARGIN", new_y="NEXT")
        pdf.ln(2)
    return bytes(pdf.output())


def test_paragraphs_come_back_whole_without_running_lines():
    paragraphs = [f"Paragrafo {i}. {BODY * 3}".strip() for i in range(12)]
    text, reason = extract(booklet(paragraphs))
    assert reason is None
    assert text.split("\n\n") == paragraphs  # four pages: breaks inside sentences are mended, headers are gone


def test_hyphens_at_line_ends():
    lines = ["La compu-", "tazione anglo-", "Americana, e il caso-", "studio."]
    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("Times", "", 12)
    for line in lines:
        pdf.cell(0, 6, line, new_x="LMARGIN", new_y="NEXT")
    text, _ = extract(bytes(pdf.output()))
    assert text == "La computazione anglo-Americana, e il casostudio."


def test_two_columns_are_read_one_after_the_other():
    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("Times", "", 11)
    for column, word in ((10, "sinistra"), (110, "destra")):
        for i in range(20):
            pdf.set_xy(column, 30 + 6 * i)
            pdf.cell(80, 6, f"riga {word} {i} con altre parole di testo")
    text, _ = extract(bytes(pdf.output()))
    last_left, first_right = text.index("sinistra 19"), text.index("destra 0")
    assert last_left < first_right


def test_scanned_encrypted_and_broken_files():
    pdf = FPDF()
    pdf.add_page()
    pdf.rect(10, 10, 50, 50)
    assert extract(bytes(pdf.output())) == ("", "pdf_scanned")
    pdf = FPDF()
    pdf.set_encryption(owner_password="a", user_password="b", permissions=AccessPermission.none())
    pdf.add_page()
    pdf.set_font("Times", "", 12)
    pdf.cell(0, 6, "segreto")
    assert extract(bytes(pdf.output())) == ("", "pdf_encrypted")
    assert extract(b"%PDF-1.4 nothing here")[1] == "pdf_unreadable"
    assert extract(b"")[1] == "pdf_unreadable"
    assert extract(booklet([BODY])[:200])[1] == "pdf_unreadable"


def test_a_parser_that_hangs_or_dies_costs_one_file(monkeypatch):
    pool = PdfPool()
    good = booklet([BODY])
    try:
        assert pool.extract(good, 60)[1] is None
        first = pool.child.pid
        real = sys.executable

        def broken(body: str) -> None:
            pool.close()
            path = f"{real}"
            monkeypatch.setattr("data.pdf.COMMAND", [path, "-c", body])

        broken("import sys, time; sys.stdin.buffer.read(8); time.sleep(60)")
        assert pool.extract(good, 0.5) == ("", "pdf_timeout")
        broken("import os; os._exit(11)")
        assert pool.extract(good, 10) == ("", "pdf_crash")
        monkeypatch.undo()
        assert pool.extract(good, 60)[1] is None and pool.child.pid != first
    finally:
        pool.close()


@pytest.mark.parametrize("size", [10, 200_000])
def test_answers_longer_than_a_pipe(size):
    text = " ".join(f"parola{i}" for i in range(size // 11 + 1))  # equal lines at a page's end would be running lines
    pool = PdfPool()
    try:
        assert len(pool.extract(booklet([text]), 120)[0]) >= size * 0.9
    finally:
        pool.close()
