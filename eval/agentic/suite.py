"""Run the frozen agentic suite on a speaker and write ``agentic.json`` with every answer.

Multi-step cases are free runs: the model's own calls go into the next prompt, the scripted result after them; the case
is over at the first mistake.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from duetto.console import log
from duetto.files import read_json, sha256_json, write_json
from eval.agentic.cases import Case, load_cases, suite_hash
from eval.agentic.grader import call_message, first_options, grade_answer, grade_calls, rates, read_turn
from eval.speakers import Speaker

MAX_NEW_TOKENS = 256
"""Enough for three calls and a sentence."""


def run_agentic(speak: Speaker, path: Path, who: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``agentic.json``; asked again only when model or suite changed.

    Args:
        who: what identifies the speaker (model digest, or endpoint and model name).
    """
    fingerprint = sha256_json([suite_hash(), MAX_NEW_TOKENS, dict(who)])
    if path.exists() and (found := read_json(path)).get("fingerprint") == fingerprint:
        log("eval: agentic suite is current, kept")
        return dict(found)
    cases = load_cases()
    played = play(speak, cases)
    content = {
        "fingerprint": fingerprint,
        "suite": suite_hash(),
        "model": dict(who),
        **rates([(case, verdict) for case, verdict, _ in played]),
        "cases": [
            {"id": c.id, "category": c.category, "language": c.language, "verdict": v, "said": said}
            for c, v, said in played
        ],
    }
    write_json(path, content)
    return content


def play(speak: Speaker, cases: tuple[Case, ...]) -> list[tuple[Case, str, list[str]]]:
    """Verdict and turns of each case; all open cases speak together, so that they share batches."""
    chats = {c.id: _opening(c) for c in cases}
    said: dict[str, list[str]] = {c.id: [] for c in cases}
    verdicts: dict[str, str] = {}
    while still := [c for c in cases if c.id not in verdicts]:
        answers = speak([{"messages": chats[c.id], "tools": list(c.tools)} for c in still], MAX_NEW_TOKENS)
        for case, answer in zip(still, answers):
            said[case.id].append(answer)
            verdict = _step(case, chats[case.id], len(said[case.id]) - 1, answer)
            if verdict:
                verdicts[case.id] = verdict
    return [(c, verdicts[c.id], said[c.id]) for c in cases]


def _opening(case: Case) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": case.prompt}]
    if case.before:
        messages += [call_message(first_options(case.before)), {"role": "tool", "content": case.results[0]}]
    return messages


def _step(case: Case, messages: list[dict[str, Any]], number: int, answer: str) -> str | None:
    """The verdict, or None when the case goes on; ``messages`` then holds the turn and the scripted results."""
    turn = read_turn(answer)
    expected = case.turns[number] if number < len(case.turns) else ()
    verdict = grade_calls(turn, expected, case.tools)
    if verdict != "right":
        return verdict
    if not expected:
        return grade_answer(turn.text, case)
    if not case.results:
        return "right"  # the calls are all that is asked for
    assert turn.calls is not None
    messages.append(call_message(turn.calls, turn.text))
    messages.append({"role": "tool", "content": case.results[number]})
    return None
