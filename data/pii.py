"""Personal data that identifies a person, found by its form and, where it has one, by its check digit.

What is found is replaced by its kind in angle brackets (``<EMAIL>``), so that the sentence stays readable and the model
learns a placeholder rather than a false address.
"""

import ipaddress
import re
from collections.abc import Callable, Collection

EMAIL = re.compile(r"\b[\w.+%-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}\b")
IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![\w:])")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
# Omocodia: digits may be replaced by the letters LMNPQRSTUV.
CODICE_FISCALE = re.compile(
    r"\b[A-Z]{6}[0-9LMNPQRSTUV]{2}[ABCDEHLMPRST][0-9LMNPQRSTUV]{2}[A-Z][0-9LMNPQRSTUV]{3}[A-Z]\b", re.IGNORECASE
)
PHONE = re.compile(r"(?<![\w.,/+-])(?:\+|00)\d{1,3}[ ./-]?(?:\(?\d{1,5}\)?[ ./-]?){1,5}\d{2,4}(?![\w-])")
PHONE_IT = re.compile(r"(?<![\w.,/+-])3[2-9]\d[ ./-]?\d{3}[ ./-]?\d{3,4}(?![\w./,-]*\d)")
PHONE_NANP = re.compile(r"(?<![\w.,/+-])\(?[2-9]\d{2}\)?[ .-][2-9]\d{2}[ .-]\d{4}(?![\w-])")

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
    """Private, loopback and documentation addresses identify nobody; neither does a version number like 1.2.3.400."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _phone_is_plausible(text: str) -> bool:
    return 9 <= sum(c.isdigit() for c in text) <= 15


Rule = tuple[re.Pattern[str], Callable[[str], bool], str]

RULES: dict[str, tuple[Rule, ...]] = {
    # Order matters: an IBAN holds what looks like a phone number.
    "email": ((EMAIL, lambda _: True, "<EMAIL>"),),
    "iban": ((IBAN, iban_is_valid, "<IBAN>"),),
    "codice_fiscale": ((CODICE_FISCALE, codice_fiscale_is_valid, "<CODICE_FISCALE>"),),
    "ip": ((IPV4, ip_is_public, "<IP>"), (IPV6, ip_is_public, "<IP>")),
    "phone": (
        (PHONE, _phone_is_plausible, "<PHONE>"),
        (PHONE_IT, _phone_is_plausible, "<PHONE>"),
        (PHONE_NANP, _phone_is_plausible, "<PHONE>"),
    ),
}


def mask(text: str, kinds: Collection[str]) -> tuple[str, dict[str, int]]:
    """Text with personal data replaced, and how many of each kind were."""
    found: dict[str, int] = {}
    for kind, rules in RULES.items():
        if kind not in kinds or (kind == "email" and "@" not in text):
            continue
        for pattern, is_valid, placeholder in rules:

            def replace(
                match: re.Match[str],
                kind: str = kind,
                is_valid: Callable[[str], bool] = is_valid,
                placeholder: str = placeholder,
            ) -> str:
                if not is_valid(match.group(0)):
                    return match.group(0)
                found[kind] = found.get(kind, 0) + 1
                return placeholder

            text = pattern.sub(replace, text)
    return text, found
