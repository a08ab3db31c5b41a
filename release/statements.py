"""What a sentence claims about the model, in English or Italian, and whether the run agrees.

Generated lines need no such reading: their numbers carry their origin. Free text of the recipe and lines that
somebody edited do: "437M parameters", "contesto di 4096 token", "a cosine schedule", "cloze_it 0.81".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from release.facts import CardFacts
from release.scores import Score
from release.traced import Traced, plain

NUMBER = r"(?<![\w.,\-/])[-+]?\d(?:[\d.,]*\d)?(?:e[-+]?\d+)?"
"""A number that is not part of a name (``v1.0``, ``Llama-3``, ``bf16``)."""

SCALES = {
    **dict.fromkeys(("k",), 1e3),
    **dict.fromkeys(("m", "million", "millions", "milioni", "milione"), 1e6),
    **dict.fromkeys(("b", "g", "billion", "billions", "miliardi", "miliardo"), 1e9),
    **dict.fromkeys(("t", "trillion", "trillions", "bilioni", "bilione"), 1e12),
}
SCALE = r"(?:\s?-?(k|m|b|t|millions?|billions?|trillions?|milion[ei]|miliard[oi]|bilion[ei]))?\b"

SCHEDULES = {
    "cosine": r"cosine|coseno",
    "linear": r"linear|lineare",
    "constant": r"constant|costante",
    "wsd": r"wsd|warm-?up[- ]stable[- ]decay",
    "1-sqrt": r"1-sqrt",
}


@dataclass(frozen=True)
class Statement:
    """One claim found in a text."""

    about: str
    text: str
    truth: Traced


def read_number(text: str, scale: str | None, language: str) -> tuple[float, float]:
    """Value and half a unit of its last written digit: ``0.4`` with ``b`` is 0.4e9 give or take 0.05e9."""
    if language == "it":
        text = text.translate(str.maketrans(",.", ".,"))
    text = text.replace(",", "")
    factor = SCALES[scale.lower()] if scale else 1.0
    mantissa = text.lower().split("e")[0]
    decimals = len(mantissa.split(".")[1]) if "." in mantissa else 0
    exponent = int(text.lower().split("e")[1]) if "e" in text.lower() else 0
    return float(text) * factor, 0.5 * 10.0 ** (exponent - decimals) * factor


def contradictions(text: str, facts: CardFacts, rows: list[Score], language: str) -> Iterator[Statement]:
    """Claims in a text that the run does not bear out."""
    for about, pattern, truth in _numeric(facts):
        for match in re.finditer(pattern, text, re.IGNORECASE):
            scale = match.groupdict().get("scale")
            value, margin = read_number(match["n"], scale, language)
            true = float(plain(truth))
            binary = scale and scale.lower() == "k" and value * 1.024 == true
            # A bare round number is exact; a scaled or decimal one is as exact as it was written.
            margin = margin if scale or "." in match["n"] or "," in match["n"] or "e" in match["n"].lower() else 0.0
            if abs(value - true) > margin * 1.0000001 and not binary:
                yield Statement(about, match[0].strip(), truth)
    yield from _schedules(text, facts)
    yield from _scores(text, rows, language)


def _numeric(facts: CardFacts) -> Iterator[tuple[str, str, Traced]]:
    n, near = rf"(?P<n>{NUMBER}){SCALE.replace('(k', '(?P<scale>k')}", r"[^.\n;:|\d]{0,40}?"
    yield "parameters", rf"{n}\s*-?(?:di\s+)?(?:parameters?|params|parametri)\b", facts.weights["parameters"]
    context = facts.arch["max_position_embeddings"]
    yield "context length", rf"\b(?:context|contesto){near}{n}\s*(?:-?tokens?)?", context
    yield "context length", rf"{n}[\s-]*(?:tokens?\s+)?(?:of\s+|di\s+)?(?:context|contesto)\b", context
    yield "vocabulary", rf"\b(?:vocabulary|vocabolario){near}{n}", facts.arch["vocab_size"]
    yield "layers", rf"{n}\s*(?:layers|strati)\b", facts.arch["num_hidden_layers"]
    tokens = facts.m["pretrain"].at("metrics", "tokens")
    if tokens is not None:
        trained = r"\b(?:pre)?(?:trained|addestrat[oa]|preaddestrat[oa])\s+(?:on|with|for|su|con)\b"
        yield "training tokens", rf"{trained}{near}{n}\s*(?:di\s+)?tokens?\b", tokens
    steps = facts.m["pretrain"].at("metrics", "steps")
    if steps is not None:
        trained = r"\b(?:pre)?(?:trained|training|addestrat[oa]|addestramento)\b"
        yield "training steps", rf"{trained}{near}{n}\s*(?:steps|passi)\b", steps


def _schedules(text: str, facts: CardFacts) -> Iterator[Statement]:
    """A named schedule must be that of pretraining or of fine-tuning."""
    used: set[str] = set()
    truth = None
    for stage in facts.stages:
        if stage["decay"] is not None:
            used |= {str(plain(stage["decay"])), *(["wsd", "constant"] if stage["wsd"] else [])}
            truth = stage["decay"]
    tuned = facts.recipe.at("sft", "lr_scheduler")
    if isinstance(tuned, Traced):
        used.add(str(plain(tuned)).split("_")[0])
        truth = truth or tuned
    if truth is None:
        return
    near = r"(?:\W+\w+){0,3}?\W+(?:schedule|scheduler|decay|learning[- ]rate|decadimento|andamento)\b"
    for name, words in SCHEDULES.items():
        before = re.search(rf"\b(?:{words})\b{near}", text, re.IGNORECASE)
        after = re.search(
            rf"\b(?:schedule|scheduler|decadimento|andamento)\W+(?:\w+\W+){{0,2}}(?:{words})\b", text, re.I
        )
        found = before or after
        if found and name not in used:
            yield Statement("schedule", found[0], truth)


def _scores(text: str, rows: list[Score], language: str) -> Iterator[Statement]:
    for row in rows:
        task = re.escape(str(plain(row.task)))
        for match in re.finditer(
            rf"\b{task}\b[^.\n;|\d]{{0,40}}?(?P<n>{NUMBER})\s?(?P<percent>%)?", text, re.IGNORECASE
        ):
            value, margin = read_number(match["n"], None, language)
            factor = 0.01 if match["percent"] else 1.0
            known = [x for x in (row.value, row.other, row.chance, row.no_context, row.word_overlap) if x is not None]
            if all(abs(value * factor - float(plain(x))) > margin * factor * 1.0000001 for x in known):
                yield Statement(f"score of {plain(row.task)}", match[0], row.value)
