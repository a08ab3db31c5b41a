"""Templates whose numbers keep their origin, in English or Italian notation.

Every value that enters a template is ``Traced`` and leaves through one of the filters below, which mark its place in
the output with private-use characters. ``Renderer.render`` removes the marks and returns the text together with a
list of claims: which characters of which line came from where.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from release.traced import Traced, plain

TEMPLATES = Path(__file__).parent / "templates"

OPEN, MIDDLE, CLOSE = "\ue000", "\ue001", "\ue002"
MARK = re.compile(f"{OPEN}(\\d+){MIDDLE}(.*?){CLOSE}", re.DOTALL)


@dataclass(frozen=True)
class Claim:
    """One traced value in a rendered text."""

    line: int
    """Counted from 1."""
    start: int
    """First character in the line."""
    text: str
    value: Any
    sources: tuple[str, ...]


def localised(text: str, language: str) -> str:
    """``1,234.5`` -> ``1.234,5`` where the language writes it so."""
    return text.translate(str.maketrans(",.", ".,")) if language == "it" else text


class Renderer:
    """One rendering in one language."""

    def __init__(self, language: str):
        self.language = language
        self.words: dict[str, Any] = yaml.safe_load((TEMPLATES / "words.yaml").read_text(encoding="utf-8"))[language]
        self.marked: list[Traced] = []
        self.env = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        filters = {
            "int": self.integer,
            "big": self.big,
            "num": self.number,
            "pct": self.percent,
            "size": self.size,
            "duration": self.duration,
            "sci": self.scientific,
            "txt": self.text,
            "cell": self.cell,
        }
        self.env.filters.update(filters)

    def mark(self, value: Any, text: str) -> str:
        """Text that stands for a traced value; a plain value is a mistake of the template."""
        if not isinstance(value, Traced):
            raise TypeError(f"{value!r} in a template comes from no document")
        self.marked.append(value)
        return f"{OPEN}{len(self.marked) - 1}{MIDDLE}{text}{CLOSE}"

    # Filters

    def integer(self, value: Traced) -> str:
        return self.mark(value, localised(f"{round(plain(value)):,}", self.language))

    def big(self, value: Traced) -> str:
        """Three significant digits with a word: ``2.6 million``."""
        number = plain(value)
        for word, size in (("trillion", 1e12), ("billion", 1e9), ("million", 1e6)):
            if number >= size:
                return self.mark(value, f"{localised(f'{number / size:.3g}', self.language)} {self.words[word]}")
        return self.integer(value)

    def number(self, value: Traced, digits: int = 3) -> str:
        return self.mark(value, localised(f"{plain(value):,.{digits}f}", self.language))

    def percent(self, value: Traced, digits: int = 1) -> str:
        return self.mark(value, localised(f"{100 * plain(value):.{digits}f}", self.language) + " %")

    def size(self, value: Traced) -> str:
        number = float(plain(value))
        for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
            if number >= size:
                return self.mark(value, f"{localised(f'{number / size:.3g}', self.language)} {unit}")
        return self.mark(value, f"{localised(f'{number / 1e3:,.0f}', self.language)} kB")

    def duration(self, value: Traced) -> str:
        seconds = float(plain(value))
        if seconds < 100:
            text = f"{localised(f'{seconds:.1f}', self.language)} s"
        elif seconds < 6000:
            text = f"{seconds / 60:.0f} min"
        elif seconds < 172_800:
            text = f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
        else:
            text = f"{localised(f'{seconds / 86_400:.1f}', self.language)} {self.words['days']}"
        return self.mark(value, text)

    def scientific(self, value: Traced) -> str:
        """As short as it stays exact: ``0.003``, ``1e-05``; yes and no for switches."""
        raw = plain(value)
        if isinstance(raw, bool):
            return self.mark(value, self.words["yes" if raw else "no"])
        text = f"{raw:.6g}" if isinstance(raw, float) else f"{raw:,}" if isinstance(raw, int) else str(raw)
        return self.mark(value, localised(text, self.language))

    def text(self, value: Traced) -> str:
        return self.mark(value, str(plain(value)))

    def cell(self, value: Traced) -> str:
        """Text inside a table: one line, no bars."""
        return self.mark(value, " ".join(str(plain(value)).split()).replace("|", "\\|"))

    # Output

    def render(self, template: str, **context: Any) -> tuple[str, list[Claim]]:
        marked = self.env.get_template(template).render(language=self.language, **context)
        return self.unmark(marked)

    def unmark(self, marked: str) -> tuple[str, list[Claim]]:
        claims: list[Claim] = []
        out: list[str] = []
        line, column, at = 1, 0, 0

        def advance(piece: str) -> None:
            nonlocal line, column
            out.append(piece)
            breaks = piece.count("\n")
            line += breaks
            column = len(piece) - piece.rfind("\n") - 1 if breaks else column + len(piece)

        for match in MARK.finditer(marked):
            advance(marked[at : match.start()])
            traced = self.marked[int(match[1])]
            claims.append(Claim(line, column, match[2], traced.value, traced.sources))
            advance(match[2])
            at = match.end()
        advance(marked[at:])
        return "".join(out), claims
