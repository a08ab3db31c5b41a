"""Quality rules of Gopher, C4 and FineWeb, language identification and address filter, behind the ledger.

The rules are datatrove's filters as they are; here they get the source's language (stop words, word splitting) and
their verdicts become reasons in the ledger.
"""

from collections.abc import Callable
from typing import Any

from datatrove.data import Document

from data import block_config as config
from data.blocks import CleanBlock
from data.ledger import Ledger
from data.words import STOP_WORDS, FastWords
from duetto.errors import UserError


class DatatroveFilter(CleanBlock):
    """One of datatrove's filters. It is built in the task, not pickled to it."""

    def __init__(self, name: str, options: Any, language: str, ledger: Ledger) -> None:
        super().__init__(name, ledger)
        self.options, self.language = options, language
        self._filter: Any = None
        if name == "gopher_quality":
            stop_words(language)  # refused before any work is done

    def apply(self, document: Document) -> str | None:
        if self._filter is None:
            key = (str(self.name), self.language, repr(self.options))
            if key not in _built:
                _built[key] = BUILDERS[key[0]](self.options, self.language)
            self._filter = _built[key]
        verdict = self._filter.filter(document)
        keep, reason = verdict if isinstance(verdict, tuple) else (verdict, None)
        return None if keep else f"{self.name}:{reason or 'dropped'}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_filter": None}


def stop_words(language: str) -> list[str]:
    """Raises UserError for a language without a list."""
    if language not in STOP_WORDS:
        raise UserError(
            f"no stop words for language {language!r} (there are: {', '.join(sorted(STOP_WORDS))}); add a line to "
            "STOP_WORDS in data/words.py, or leave gopher_quality out of the source's `clean` list"
        )
    return STOP_WORDS[language].split()


def _gopher_quality(options: config.GopherQuality, language: str) -> Any:
    from datatrove.pipeline.filters import GopherQualityFilter

    return GopherQualityFilter(
        min_doc_words=options.min_words,
        max_doc_words=options.max_words,
        min_avg_word_length=options.min_average_word_length,  # type: ignore[arg-type]
        max_avg_word_length=options.max_average_word_length,  # type: ignore[arg-type]
        max_symbol_word_ratio=options.max_symbol_ratio,
        max_bullet_lines_ratio=options.max_bullet_lines,
        max_ellipsis_lines_ratio=options.max_ellipsis_lines,
        max_non_alpha_words_ratio=options.max_non_alpha_words,
        min_stop_words=options.min_stop_words,
        stop_words=stop_words(language),
        language=FastWords(),  # type: ignore[arg-type]
    )


def _gopher_repetition(options: config.GopherRepetition, language: str) -> Any:
    from datatrove.pipeline.filters import GopherRepetitionFilter

    return GopherRepetitionFilter(
        dup_line_frac=options.duplicate_lines,
        dup_para_frac=options.duplicate_paragraphs,
        dup_line_char_frac=options.duplicate_line_characters,
        dup_para_char_frac=options.duplicate_paragraph_characters,
        language=FastWords(),  # type: ignore[arg-type]
    )


def _c4(options: config.C4, language: str) -> Any:
    from datatrove.pipeline.filters import C4QualityFilter

    return C4QualityFilter(
        filter_no_terminal_punct=options.require_terminal_punctuation,
        filter_curly_bracket=options.drop_curly_brackets,
        min_num_sentences=options.min_sentences,
        min_words_per_line=options.min_words_per_line,
        language=FastWords(),  # type: ignore[arg-type]
    )


def _fineweb(options: config.FineWeb, language: str) -> Any:
    from datatrove.pipeline.filters import FineWebQualityFilter

    return FineWebQualityFilter(
        line_punct_thr=options.min_lines_ending_in_punctuation,
        short_line_thr=options.max_short_lines,
        short_line_length=options.short_line_characters,
        char_duplicates_ratio=options.max_duplicate_characters,
        new_line_ratio=options.max_newline_ratio,
        language=FastWords(),  # type: ignore[arg-type]
    )


def _url(options: config.Url, language: str) -> Any:
    from datatrove.pipeline.filters import URLFilter
    from tldextract import TLDExtract

    block = URLFilter(extra_domains=options.domains or None)
    block.tldextractor = TLDExtract(suffix_list_urls=())  # the list that comes with it: compute nodes are offline
    return block


BUILDERS: dict[str, Callable[[Any, str], Any]] = {
    "gopher_quality": _gopher_quality,
    "gopher_repetition": _gopher_repetition,
    "c4": _c4,
    "fineweb": _fineweb,
    "url": _url,
}


_built: dict[tuple[str, str, str], Any] = {}
"""One of a kind in a process: the address lists take seconds to load."""


class UrlBlock(DatatroveFilter):
    """The address filter, which asserts an address: a document without one passes and is counted."""

    def apply(self, document: Document) -> str | None:
        url = document.metadata.get(self.options.key)
        if not url:
            self.ledger.count("documents_without_url")
            return None
        return super().apply(Document(text=document.text, id=document.id, metadata={"url": str(url)}))


CANDIDATES = ("en", "it", "es", "fr", "pt", "de", "ca", "ro", "la", "nl")
"""Languages among which the detector chooses, besides the source's own: what European web text is confused with."""


class LanguageBlock(CleanBlock):
    """lingua on a window from the middle of the document: menus and notices stand at its ends."""

    def __init__(self, options: config.Language, language: str, ledger: Ledger) -> None:
        super().__init__("language", ledger)
        self.options, self.language = options, language
        self._detector: Any = None

    def apply(self, document: Document) -> str | None:
        if self._detector is None:
            self._detector = language_detector(self.language)
        start = max(len(document.text) // 2 - self.options.characters // 2, 0)
        best = self._detector.compute_language_confidence_values(
            document.text[start : start + self.options.characters]
        )[0]
        code = best.language.iso_code_639_1.name.lower()
        if code != self.language:
            return f"language:{code}"
        return None if best.value >= self.options.min_score else "language:uncertain"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_detector": None}


_detectors: dict[str, Any] = {}


def language_detector(language: str) -> Any:
    """One a process and language (about 300 MB of models).

    Raises:
        UserError: lingua does not know the language.
    """
    if language not in _detectors:
        from lingua import IsoCode639_1, LanguageDetectorBuilder

        codes = sorted({*CANDIDATES, language})
        try:
            chosen = [getattr(IsoCode639_1, c.upper()) for c in codes]
        except AttributeError:
            raise UserError(
                f"language {language!r} is not known to the language detector; take the block `language` out of the "
                "source's `clean` list"
            ) from None
        _detectors[language] = LanguageDetectorBuilder.from_iso_codes_639_1(*chosen).build()
    return _detectors[language]


def quality_block(name: str, options: Any, language: str, ledger: Ledger) -> CleanBlock:
    """A block of this module by the name it has in a ``clean`` list."""
    if name == "language":
        return LanguageBlock(options, language, ledger)
    if name == "url":
        return UrlBlock(name, options, language, ledger)
    return DatatroveFilter(name, options, language, ledger)
