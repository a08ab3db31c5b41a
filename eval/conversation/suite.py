"""The conversation suite: 20 short tasks a language, checked without a judge, graded by one where an endpoint is set.

A task is passed when every answer is in the language of the user and does not loop, and the last one holds the task's
checks. The judge's grade (1 to 5) is recorded beside it and decides nothing.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from duetto.chat_checks import is_repetitive, language_of
from duetto.console import log
from duetto.files import read_json, sha256_file, sha256_json, write_json
from duetto.recipe import read_yaml
from eval.speakers import Speaker

TASKS = Path(__file__).parent / "tasks.yaml"
MAX_NEW_TOKENS = 256
_SENTENCE = re.compile(r"[.!?…]+(?=\s|$)")
JUDGE = (
    "Grade the last answer of the assistant from 1 (useless) to 5 (excellent): is it correct, does it do what the user "
    "asked, is it well written in the user's language? Reply with the number only.\n\n{dialogue}"
)


def says(text: str, words: str) -> bool:
    """One of the words stands in the text as a word of its own (or its beginning)."""
    return any(re.search(rf"(?<!\w){re.escape(w)}", text.casefold()) for w in words.casefold().split("|"))


def _json_with(text: str, keys: Sequence[str]) -> bool:
    try:
        value = json.loads(re.sub(r"^```(json)?|```$", "", text.strip(), flags=re.MULTILINE))
    except json.JSONDecodeError:
        return False
    return isinstance(value, dict) and set(keys) <= set(value)


def _in_order(text: str, items: Sequence[str]) -> bool:
    return re.search(r"\D+".join(map(re.escape, items)), text) is not None


CHECKS: dict[str, Callable[[str, Any], bool]] = {
    "says": says,
    "avoid": lambda text, words: not says(text, words),
    "words": lambda text, bounds: bounds[0] <= len(re.findall(r"\w+", text)) <= bounds[1],
    "sentences": lambda text, bounds: bounds[0] <= len([s for s in _SENTENCE.split(text) if s.strip()]) <= bounds[1],
    "bullets": lambda text, count: len(re.findall(r"^\s*[-–•*]\s+\S", text, re.MULTILINE)) == count,
    "case": lambda text, kind: text.isupper() if kind == "upper" else text.islower(),
    "json": _json_with,
    "sequence": _in_order,
    "ends": lambda text, words: text.casefold().rstrip(" .!\"'»”").endswith(tuple(words.casefold().split("|"))),
}
"""Name in tasks.yaml to a function of the last answer and the argument."""

NO_LANGUAGE = frozenset({"json", "sequence", "bullets"})
"""Checks whose answers may hold no words to tell a language by."""


@functools.cache
def load_tasks() -> tuple[dict[str, Any], ...]:
    """Every task in both languages: id, language, turns, checks."""
    rows = read_yaml(TASKS)["tasks"]
    return tuple(
        {"id": f"{r['id']}-{x}", "language": x, "turns": list(r[x]), "checks": dict(r["checks"])}
        for x in ("en", "it")
        for r in rows
    )


def run_conversation(
    speak: Speaker, path: Path, who: Mapping[str, Any], judge: Speaker | None = None
) -> dict[str, Any]:
    """The content of ``conversation.json``; asked again only when model, suite or judge changed."""
    fingerprint = sha256_json([sha256_file(TASKS), MAX_NEW_TOKENS, dict(who), judge is not None])
    if path.exists() and (found := read_json(path)).get("fingerprint") == fingerprint:
        log("eval: conversation suite is current, kept")
        return dict(found)
    rows = [{**task, "answers": []} for task in load_tasks()]
    while speaking := [r for r in rows if len(r["answers"]) < len(r["turns"])]:
        answers = speak([{"messages": _messages(r)} for r in speaking], MAX_NEW_TOKENS)
        for row, answer in zip(speaking, answers):
            row["answers"].append(answer)
    for row in rows:
        row["failed"] = failed(row)
        if judge is not None:
            row["grade"] = _grade(judge, row)
    content: dict[str, Any] = {
        "fingerprint": fingerprint,
        "model": dict(who),
        "languages": {
            x: _summary([r for r in rows if r["language"] == x]) for x in dict.fromkeys(r["language"] for r in rows)
        },
        "tasks": rows,
    }
    write_json(path, content)
    return content


def _messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The dialogue so far, up to the next turn of the user."""
    out = []
    for n, turn in enumerate(row["turns"][: len(row["answers"]) + 1]):
        out.append({"role": "user", "content": turn})
        if n < len(row["answers"]):
            out.append({"role": "assistant", "content": row["answers"][n]})
    return out


def failed(row: Mapping[str, Any]) -> list[str]:
    """Names of the checks that do not hold; empty when the task is passed."""
    out = [name for name, argument in row["checks"].items() if not CHECKS[name](row["answers"][-1], argument)]
    if any(is_repetitive(a) for a in row["answers"]):
        out.append("repetition")
    spoken = [] if NO_LANGUAGE & set(row["checks"]) else row["answers"]
    if any(language_of(a) != row["language"] for a in spoken if len(a.split()) > 2):
        out.append("language")
    if any(not a.strip() for a in row["answers"]):
        out.append("empty")
    return out


def _grade(judge: Speaker, row: Mapping[str, Any]) -> int | None:
    """The judge's grade; None where its answer holds no number from 1 to 5."""
    pairs = zip(row["turns"], row["answers"])
    dialogue = "\n".join(f"User: {turn}\nAssistant: {answer}" for turn, answer in pairs)
    (said,) = judge([{"messages": [{"role": "user", "content": JUDGE.format(dialogue=dialogue)}]}], 8)
    found = re.search(r"[1-5]", said)
    return int(found.group()) if found else None


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    passed = sum(not r["failed"] for r in rows)
    out: dict[str, Any] = {"tasks": len(rows), "passed": passed, "rate": passed / len(rows)}
    grades = [r["grade"] for r in rows if r.get("grade") is not None]
    if any("grade" in r for r in rows):
        out |= {"graded": len(grades), "mean_grade": sum(grades) / len(grades) if grades else None}
    return out
