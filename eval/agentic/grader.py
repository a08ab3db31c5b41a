"""Deterministic grading: were the right calls made, and does the answer say what it must?

Strings are compared without case, accents and outer spaces; numbers by value; calls of one turn in any order. A turn
that does not parse as calls is counted apart: a format error is not a wrong decision.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from duetto.chat_checks import parse_tool_calls
from eval.agentic.cases import Call, Case

VERDICTS = ("right", "wrong_call", "missing_call", "needless_call", "wrong_answer", "parse_error")


@dataclass(frozen=True)
class Turn:
    """What the model said: its text, and its calls (None where they do not parse)."""

    text: str
    calls: list[Call] | None


def read_turn(text: str) -> Turn:
    """Hermes calls (``<tool_call>{...}</tool_call>``) and the text around them."""
    rest = re.sub(r"<tool_call>.*?</tool_call>", "", text, flags=re.DOTALL)
    return Turn(rest.strip(), parse_tool_calls(text))


def grade_calls(turn: Turn, expected: Sequence[Call], tools: Sequence[Mapping[str, Any]]) -> str:
    """``right`` or the kind of mistake, for one turn."""
    if turn.calls is None:
        return "parse_error"
    if not expected:
        return "needless_call" if turn.calls else "right"
    if not turn.calls:
        return "missing_call"
    if len(turn.calls) < len(expected):
        return "missing_call"
    left = list(expected)
    for call in turn.calls:
        match = next((e for e in left if same_call(call, e, tools)), None)
        if match is None:
            return "wrong_call"
        left.remove(match)
    return "right" if not left else "missing_call"


def same_call(call: Call, expected: Call, tools: Sequence[Mapping[str, Any]]) -> bool:
    """Same tool; every expected argument with an accepted value; no argument that the tool does not have."""
    if call["name"] != expected["name"]:
        return False
    schema = next(t["function"]["parameters"] for t in tools if t["function"]["name"] == call["name"])
    given = call["arguments"]
    if any(name not in schema["properties"] for name in given):
        return False
    return all(
        name in given and _accepted(given[name], value) for name, value in expected["arguments"].items()
    ) and all(name in expected["arguments"] or name not in schema["required"] for name in given)


def _accepted(value: Any, expected: Any) -> bool:
    options = expected if isinstance(expected, list) else [expected]
    return any(_fold(value) == _fold(option) for option in options)


def _fold(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return float(value)
    text = unicodedata.normalize("NFKD", str(value).casefold())
    text = "".join(c for c in text if not unicodedata.combining(c)).strip().rstrip(".")
    try:
        return float(text)  # "20" for 20 is a matter of quotes, not of understanding
    except ValueError:
        return text


def grade_answer(text: str, case: Case) -> str:
    """``right``, or ``wrong_answer`` when a needed word is missing or a forbidden one is there."""
    said = f" {text.casefold()} "

    def any_of(words: str) -> bool:
        return any(word.casefold() in said for word in words.split("|"))

    fine = bool(said.strip()) and all(any_of(w) for w in case.says) and not any(any_of(w) for w in case.avoid)
    return "right" if fine else "wrong_answer"


def call_message(calls: Sequence[Call], text: str = "") -> dict[str, Any]:
    """The assistant message that stands for these calls in the next prompt."""
    functions = [{"type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}} for c in calls]
    return {"role": "assistant", "content": text, "tool_calls": functions}


def first_options(calls: Sequence[Call]) -> list[Call]:
    """Concrete calls from expected ones: the first accepted value of each argument."""
    return [
        {
            "name": c["name"],
            "arguments": {k: v[0] if isinstance(v, list) else v for k, v in c["arguments"].items()},
        }
        for c in calls
    ]


def rates(verdicts: Sequence[tuple[Case, str]]) -> dict[str, Any]:
    """Shares of right cases by category and language, and the counts of each mistake."""
    import math

    def table(chosen: Sequence[tuple[Case, str]]) -> dict[str, Any]:
        right, parse = sum(v == "right" for _, v in chosen), sum(v == "parse_error" for _, v in chosen)
        share = right / len(chosen)
        return {
            "cases": len(chosen),
            "right": share,
            "stderr": math.sqrt(share * (1 - share) / max(1, len(chosen) - 1)),
            "parse_errors": parse,
            "mistakes": {k: n for k in VERDICTS[1:] if (n := sum(v == k for _, v in chosen))},
        }

    categories = dict.fromkeys(c.category for c, _ in verdicts)
    languages = dict.fromkeys(c.language for c, _ in verdicts)
    return {
        "overall": table(verdicts),
        "languages": {x: table([p for p in verdicts if p[0].language == x]) for x in languages},
        "categories": {
            x: {y: table([p for p in verdicts if (p[0].category, p[0].language) == (x, y)]) for y in languages}
            for x in categories
        },
    }


def to_hermes(calls: Sequence[Call]) -> str:
    """Calls in the format that ``read_turn`` reads; what an endpoint returns as ``tool_calls`` is put into it."""
    return "\n".join(f"<tool_call>\n{json.dumps(c, ensure_ascii=False)}\n</tool_call>" for c in calls)
