"""Synthetic dialogues with tools: valid, reproducible, and held out by their arguments."""

import json
from collections import Counter
from pathlib import Path

from duetto.chat_checks import parse_tool_calls
from sft import chatml, toolbox
from sft.rules import validated
from sft.shapes import canonical


def test_every_dialogue_is_valid_and_both_languages_have_every_kind() -> None:
    rows = list(toolbox.dialogues(1200, seed=1))
    for row in rows:
        repairs: Counter[str] = Counter()
        validated(canonical(row), repairs)
        assert not repairs
    assert {(r["language"], r["kind"]) for r in rows} == {(a, k) for a in ("en", "it") for k in toolbox.KINDS}
    assert not any("True" in json.dumps(r, ensure_ascii=False) for r in rows)


def test_the_same_seed_gives_the_same_rows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        toolbox.write(tmp_path / name, rows=50, seed=4, held_out=10)
    assert (tmp_path / "a/tools.jsonl").read_bytes() == (tmp_path / "b/tools.jsonl").read_bytes()
    assert list(toolbox.dialogues(5, seed=1)) != list(toolbox.dialogues(5, seed=2))


def test_held_out_calls_never_occur_in_training() -> None:
    def made(rows: list[toolbox.Dialogue]) -> set[str]:
        turns = [t for r in rows for t in r["messages"]]
        return {json.dumps(c["function"], sort_keys=True) for t in turns for c in t.get("tool_calls", [])}

    trained = made(list(toolbox.dialogues(4000, seed=8)))
    held_out = made(list(toolbox.single_call_prompts(400, seed=8)))
    assert held_out and trained and not held_out & trained


def test_what_the_template_writes_is_what_the_parser_reads() -> None:
    for row in toolbox.dialogues(200, seed=2):
        for turn in row["messages"]:
            if turn["role"] == "assistant":
                said = chatml.render([turn]).removeprefix("<|im_start|>assistant\n").removesuffix("<|im_end|>\n")
                assert parse_tool_calls(said) == [c["function"] for c in turn.get("tool_calls", [])]
