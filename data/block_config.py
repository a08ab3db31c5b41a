"""Options of the cleaning blocks, as they stand in a ``clean`` list: ``[repair, {language: {min_score: 0.7}}]``."""

from typing import Any

from pydantic import Field, ValidationError

from duetto.recipe import StrictModel, nearest


class Repair(StrictModel):
    """Unicode: mojibake and odd spaces mended (ftfy), NFC, control characters removed."""

    mojibake: bool = True
    """Run ftfy; False leaves the text as it is but for control characters (code needs no more)."""


class Language(StrictModel):
    """Keep documents of the source's language (lingua, offline)."""

    min_score: float = Field(default=0.5, ge=0, le=1)
    """Confidence among the languages that the detector knows of."""
    characters: int = Field(default=1000, gt=0)
    """The detector sees at most so many, from the middle of the document."""


class GopherQuality(StrictModel):
    """Rae et al. (2021), with the source language's own stop words."""

    min_words: int = 50
    max_words: int = 100_000
    min_average_word_length: float = 3.0
    max_average_word_length: float = 10.0
    max_symbol_ratio: float = 0.1
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    max_non_alpha_words: float = 0.8
    min_stop_words: int = 2


class GopherRepetition(StrictModel):
    """Rae et al. (2021): repeated lines, paragraphs and n-grams."""

    duplicate_lines: float = 0.3
    duplicate_paragraphs: float = 0.3
    duplicate_line_characters: float = 0.2
    duplicate_paragraph_characters: float = 0.2


class C4(StrictModel):
    """Raffel et al. (2020): lines without closing punctuation, placeholders, cookie notices."""

    require_terminal_punctuation: bool = False
    """FineWeb drops this rule: it removes 30 % of the text for little."""
    drop_curly_brackets: bool = True
    """Documents with a ``{`` are programs or templates; False for technical text."""
    min_sentences: int = 5
    min_words_per_line: int = -1


class FineWeb(StrictModel):
    """Penedo et al. (2024): lines that do not end, short lines, repeated characters."""

    min_lines_ending_in_punctuation: float = 0.12
    max_short_lines: float = 0.67
    short_line_characters: int = 30
    max_duplicate_characters: float = 0.01
    max_newline_ratio: float = 0.3


class Url(StrictModel):
    """Drop documents by their address: block lists and words of adult sites."""

    key: str = "url"
    """Metadata key that holds the address; documents without one pass."""
    domains: list[str] = []
    """More domains to drop."""


class Pii(StrictModel):
    """Mask personal data that identifies: the kind stands where it was."""

    email: bool = True
    ip: bool = True
    """Public addresses only; 127.0.0.1 and the like identify nobody."""
    phone: bool = True
    iban: bool = True
    """With a valid check (ISO 13616)."""
    codice_fiscale: bool = True
    """With a valid check character (DM 23/12/1976)."""


class Length(StrictModel):
    """Drop documents that are too short or too long."""

    min_characters: int = Field(default=1, ge=0)
    max_characters: int | None = None


BLOCKS: dict[str, type[StrictModel]] = {
    "repair": Repair,
    "language": Language,
    "gopher_quality": GopherQuality,
    "gopher_repetition": GopherRepetition,
    "c4": C4,
    "fineweb": FineWeb,
    "url": Url,
    "pii": Pii,
    "length": Length,
}


def parse_block(entry: Any) -> tuple[str, Any]:
    """``"pii"`` or ``{"pii": {"phone": False}}`` to its name and options.

    Raises:
        ValueError: unknown block or option, with the nearest name.
    """
    if isinstance(entry, str):
        name: Any = entry
        options: Any = {}
    elif isinstance(entry, dict) and len(entry) == 1:
        ((name, options),) = entry.items()
    else:
        raise ValueError(f"a block is a name or {{name: {{option: value}}}}, not {entry!r}")
    if name not in BLOCKS:
        raise ValueError(f"no cleaning block {name!r}{nearest(str(name), list(BLOCKS))}")
    try:
        return name, BLOCKS[name].model_validate(options or {})
    except ValidationError as e:
        problem = e.errors()[0]
        key = ".".join(str(k) for k in problem["loc"])
        hint = nearest(key, list(BLOCKS[name].model_fields)) if problem["type"] == "extra_forbidden" else ""
        raise ValueError(f"block {name!r}: {key}: {problem['msg'].lower()}{hint}") from None
