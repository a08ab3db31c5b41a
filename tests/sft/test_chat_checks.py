"""The checks tell good answers from bad ones, and count them by language."""

from pathlib import Path
from typing import Any

import pytest

from duetto.chat_checks import check_chat, generate, is_repetitive, language_of, parse_tool_calls, same_call
from sft import chatml


@pytest.mark.parametrize(
    "text, language",
    [
        ("In Italian you say guanto.", "en"),
        ("In inglese si dice clock.", "it"),
        ("Bianca had a blue basket.", "en"),
        ("Sam aveva lo zaino.", "it"),
        ("Once upon a time there was a girl.", "en"),
        ("", None),
        ("12 + 7 = 19", None),
    ],
)
def test_language_of_short_answers(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_language_among_more_than_two() -> None:
    assert language_of("El perro está en la casa y no quiere salir.", ("en", "es", "pt")) == "es"
    assert language_of("O cachorro não está em casa com você.", ("en", "es", "pt")) == "pt"


def test_every_reference_answer_of_the_demo_is_recognised(conversations: list[Any]) -> None:
    wrong = [c for c in conversations if language_of(c["messages"][-1]["content"]) != c["language"]]
    assert not wrong


def test_loops_are_found() -> None:
    assert is_repetitive("the cat sat down and " * 4)
    assert not is_repetitive("The cat sat down and slept, and then the dog sat down and slept too.")


@pytest.mark.parametrize(
    "text, calls",
    [
        ("Hello.", []),
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', [{"name": "f", "arguments": {"a": 1}}]),
        ('<tool_call>{"name": "f", "arguments": {}}', None),
        ("<tool_call>{'name': 'f'}</tool_call>", None),
        ('<tool_call>{"name": "f", "arguments": "x"}</tool_call>', None),
        ('<tool_call>{"name": 3, "arguments": {}}</tool_call>', None),
    ],
)
def test_tool_calls_parse_or_do_not(text: str, calls: list[Any] | None) -> None:
    assert parse_tool_calls(text) == calls


def test_calls_are_compared_without_case_and_accents() -> None:
    assert same_call({"name": "f", "arguments": {"c": "Forli"}}, {"name": "f", "arguments": {"c": "FORLÌ"}})
    assert not same_call({"name": "f", "arguments": {"c": "Roma"}}, {"name": "g", "arguments": {"c": "Roma"}})


class Scripted:
    """A model that says what it is told to, through the real tokenizer."""

    device = "cpu"

    def __init__(self, tokenizer: Any, answers: dict[str, str]) -> None:
        self.tokenizer, self.answers = tokenizer, answers

    def generate(self, input_ids: Any, attention_mask: Any, max_new_tokens: int, **_: Any) -> Any:
        import torch

        out = torch.full((len(input_ids), input_ids.shape[1] + max_new_tokens), 5)
        out[:, : input_ids.shape[1]] = input_ids
        for i, row in enumerate(input_ids):
            prompt = self.tokenizer.decode(row[attention_mask[i].bool()])
            assert prompt.startswith("<|im_start|>user") and prompt.endswith("<|im_start|>assistant\n")
            said = next(a for asked, a in self.answers.items() if asked in prompt)
            ids = self.tokenizer.encode(said, add_special_tokens=False)
            out[i, input_ids.shape[1] : input_ids.shape[1] + len(ids)] = torch.tensor(ids)
        return out


def test_rates_are_counted_by_language(base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = chatml.template()
    answers = {
        "Who is it?": "It is the king.<|im_end|>",
        "Who was there?": "Era il re.<|im_end|>",
        "Chi è?": "È il re.",
        "Che cosa dice il re alla figlia?": "Il re è qui e il re è qui e il re è qui e il re è qui.<|im_end|>",
    }
    rows = []
    for asked in answers:
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": "x"}]
        rows.append({"language": "en" if "Who" in asked else "it", "messages": turns})
    model = Scripted(tokenizer, answers)
    said = generate(model, tokenizer, [{"messages": r["messages"][:1]} for r in rows], 80)
    assert said[0] == ("It is the king.", True)
    found = check_chat(model, tokenizer, rows, max_new_tokens=80)
    assert (found["en"]["stop_rate"], found["en"]["language_rate"]) == (1.0, 0.5)
    assert found["it"]["stop_rate"] == 0.5 and found["it"]["repetition_rate"] >= 0.5
    assert found["en"]["samples"][0] == {"prompt": "Who is it?", "answer": "It is the king.", "reference": "x"}
