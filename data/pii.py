"""Personal data that identifies a person, found by its form and, where it has one, by its check digit.

What is found is replaced by its kind in angle brackets (``<EMAIL>``), so that the sentence stays readable and the model
learns a placeholder rather than a false address. Patterns begin with the rarest thing they hold (``@``, two capitals,
a digit) and look around from there: Python's engine then skips through text instead of trying every word.
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Iterator

Span = tuple[int, int]

AT = re.compile(r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}\b")
LOCAL_PART = re.compile(r"[\w.+%-]{1,64}\Z")
IPV4 = re.compile(r"[0-9](?<![0-9.][0-9])[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![\d.]|\.\d)")
IPV6 = re.compile(r":(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:])")
IPV6_HEAD = re.compile(r"[0-9A-Fa-f]{0,4}\Z")
IBAN_HEAD = re.compile(r"[A-Z](?<!\w[A-Z])[A-Z][0-9]{2}(?= ?[A-Z0-9]{4})")
# Omocodia: any of its digits may be replaced by one of the letters LMNPQRSTUV.
FISCAL_TAIL = re.compile(r"[0-9LMNP-Vlmnp-v][A-Za-z][0-9LMNP-Vlmnp-v]{3}[A-Za-z](?!\w)")
FISCAL_CODE = re.compile(r"[A-Z]{6}[0-9LMNP-V]{2}[ABCDEHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]")
PHONE = re.compile(
    r"[+0](?<![\w.,/+-][+0])(?:(?<=\+)|0)[1-9]\d{0,2}[ ./-]?(?:\(?\d{1,5}\)?[ ./-]?){1,5}\d{2,4}(?![\w-])"
)
PHONE_IT = re.compile(r"3(?<![\w.,/+-]3)[2-9]\d[ ./-]?\d{3}[ ./-]?\d{4}(?![\w-]|[./,]\d)")
PHONE_NANP = re.compile(r"[2-9](?<![\w.,/+-][2-9])\d{2}\)?[ .-][2-9]\d{2}[ .-]\d{4}(?![\w-])")

IBAN_LENGTHS = {
    "AD": 24, "AT": 20, "BE": 16, "BG": 22, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "EE": 20, "ES": 24,
    "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IS": 26, "IT": 27, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "MC": 27, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24, "SE": 24, "SI": 19,
    "SK": 24, "SM": 27, "VA": 22,
}  # fmt: skip
"""Characters of an IBAN by country (SWIFT IBAN registry): Europe, where the languages of the recipes are spoken."""

_ODD = {
    **dict(zip("0123456789", (1, 0, 5, 7, 9, 13, 15, 17, 19, 21))),
    **dict(zip("ABCDEFGHIJKLM", (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18))),
    **dict(zip("NOPQRSTUVWXYZ", (20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23))),
}
"""Values of the characters in odd places (the first is odd), decree of the Ministry of Finance of 23/12/1976."""


def codice_fiscale_is_valid(code: str) -> bool:
    """The 16th character is the sum of the others modulo 26."""
    code = code.upper()
    if not FISCAL_CODE.fullmatch(code):
        return False
    total = sum(
        _ODD[c] if i % 2 == 0 else (int(c) if c.isdigit() else ord(c) - ord("A")) for i, c in enumerate(code[:15])
    )
    return code[15] == chr(ord("A") + total % 26)


def iban_is_valid(text: str) -> bool:
    """Length of the country and remainder 1 modulo 97 (ISO 13616, ISO 7064)."""
    iban = text.replace(" ", "")
    if IBAN_LENGTHS.get(iban[:2]) != len(iban):
        return False
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def ip_is_public(text: str) -> bool:
    """Private, loopback and documentation addresses identify nobody; 1.2.3.400 is no address."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _emails(text: str) -> Iterator[Span]:
    for match in AT.finditer(text):
        local = LOCAL_PART.search(text, max(0, match.start() - 64), match.start())
        if local:
            yield local.start(), match.end()


def _ipv4(text: str) -> Iterator[Span]:
    return (m.span() for m in IPV4.finditer(text) if ip_is_public(m.group()))


def _ipv6(text: str) -> Iterator[Span]:
    for match in IPV6.finditer(text):
        if sum(map(bool, match.group().split(":"))) < 2:
            continue  # a scope of C++ or a slice of Python rather than an address
        head = IPV6_HEAD.search(text, max(0, match.start() - 4), match.start())
        start = head.start() if head else match.start()
        if (start == 0 or not (text[start - 1].isalnum() or text[start - 1] in ":.")) and ip_is_public(
            text[start : match.end()]
        ):
            yield start, match.end()


def _ibans(text: str) -> Iterator[Span]:
    for match in IBAN_HEAD.finditer(text):
        left, end = IBAN_LENGTHS.get(match.group()[:2], 0), match.start()
        while left and end < len(text) and (text[end].isalnum() or text[end] == " "):
            left -= text[end] != " "
            end += 1
        found = text[match.start() : end]
        if (
            left == 0
            and found.isascii()
            and found.isupper()
            and not text[end : end + 1].isalnum()
            and iban_is_valid(found)
        ):
            yield match.start(), end


def _fiscal_codes(text: str) -> Iterator[Span]:
    for match in FISCAL_TAIL.finditer(text):
        start = match.end() - 16
        if start < 0 or (start and (text[start - 1].isalnum() or text[start - 1] == "_")):
            continue
        if codice_fiscale_is_valid(text[start : match.end()]):
            yield start, match.end()


def _phones(text: str) -> Iterator[Span]:
    spans: list[Span] = []
    for pattern in (PHONE, PHONE_IT, PHONE_NANP):
        for match in pattern.finditer(text):
            start = match.start() - (text[match.start() - 1 : match.start()] == "(")
            if 9 <= sum(map(str.isdigit, match.group())) <= 15 and not any(
                a < match.end() and start < b for a, b in spans
            ):
                spans.append((start, match.end()))
    return iter(sorted(spans))


FINDERS: dict[str, tuple[Callable[[str], Iterator[Span]], ...]] = {
    # Order matters: an IBAN holds what looks like a phone number.
    "email": (_emails,),
    "iban": (_ibans,),
    "codice_fiscale": (_fiscal_codes,),
    "ip": (_ipv4, _ipv6),
    "phone": (_phones,),
}


def mask(text: str, kinds: Collection[str]) -> tuple[str, dict[str, int]]:
    """Text with personal data replaced, and how many of each kind were."""
    found: dict[str, int] = {}
    for kind, finders in FINDERS.items():
        if kind not in kinds:
            continue
        for finder in finders:
            pieces, at = [], 0
            for start, end in finder(text):
                if start < at:
                    continue
                pieces += [text[at:start], f"<{kind.upper()}>"]
                at = end
                found[kind] = found.get(kind, 0) + 1
            if pieces:
                text = "".join([*pieces, text[at:]])
    return text, found
