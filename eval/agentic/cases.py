"""The frozen agentic cases: 60 in English and the same 60 in Italian, in ten categories."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duetto.files import sha256_file
from duetto.recipe import read_yaml

CASES = Path(__file__).parent / "cases.yaml"
TOOLS = Path(__file__).parent / "tools.yaml"
CATEGORIES = (
    "single",
    "parallel_same",
    "parallel_different",
    "several_arguments",
    "disambiguation",
    "missing_argument",
    "unavailable_tool",
    "no_tool",
    "grounding",
    "multi_step",
)
Call = dict[str, Any]
"""``{"name", "arguments"}``; an argument that is a list means any of these."""


@dataclass(frozen=True)
class Case:
    """What is asked, what the tools answer, and what counts as right."""

    id: str
    category: str
    language: str
    tools: tuple[dict[str, Any], ...]
    """OpenAI function schemas."""
    prompt: str
    turns: tuple[tuple[Call, ...], ...]
    """Calls expected in each turn of the assistant, the last turn (an answer without calls) left out."""
    before: tuple[Call, ...]
    """Calls that were made before the model is asked (grounding)."""
    results: tuple[str, ...]
    """What the scripted tools return, in the order of the calls."""
    says: tuple[str, ...]
    avoid: tuple[str, ...]


@functools.cache
def load_cases() -> tuple[Case, ...]:
    """Every case in both languages; English first."""
    rows = read_yaml(CASES)["cases"]
    return tuple(_case(row, language) for language in ("en", "it") for row in rows)


def suite_hash() -> str:
    """Of the frozen files: results of different versions of the suite are not compared."""
    return sha256_file(CASES)[:16] + sha256_file(TOOLS)[:16]


def _case(row: dict[str, Any], language: str) -> Case:
    turns: list[tuple[Call, ...]] = []
    if "calls" in row:
        turns = [tuple(_calls(row["calls"]))]
    elif "steps" in row:
        turns = [(call,) for call in _calls(row["steps"])]
    return Case(
        id=f"{row['id']}-{language}",
        category=row["category"],
        language=language,
        tools=tuple(function_schema(name) for name in row["tools"]),
        prompt=row[language],
        turns=tuple(turns),
        before=tuple(_calls([row["after"]])) if "after" in row else (),
        results=tuple(row.get("results", ())),
        says=tuple(row.get("says", ())),
        avoid=tuple(row.get("avoid", ())),
    )


def _calls(rows: Sequence[dict[str, Any]]) -> list[Call]:
    return [{"name": name, "arguments": dict(arguments)} for row in rows for name, arguments in row.items()]


def function_schema(name: str) -> dict[str, Any]:
    """The OpenAI schema of a tool of ``tools.yaml``."""
    short = read_yaml(TOOLS)[name]
    properties = {
        key.rstrip("?"): {"type": kind} if isinstance(kind, str) else {"type": "string", "enum": list(kind)}
        for key, kind in short["parameters"].items()
    }
    required = [key for key in short["parameters"] if not key.endswith("?")]
    parameters = {"type": "object", "properties": properties, "required": required}
    return {
        "type": "function",
        "function": {"name": name, "description": short["description"], "parameters": parameters},
    }
