"""The chat template: the same text in training, in the saved tokenizer and in our own renderer; tokens stay single."""

import json
from pathlib import Path
from typing import Any

import pytest

from duetto.errors import UserError
from sft import chatml, toolbox
from sft.export import tensor_shapes
from tests.sft.support import SPECIAL, make_base

CHATS: dict[str, list[dict[str, Any]]] = {
    "single": [{"role": "user", "content": "Ciao"}, {"role": "assistant", "content": "Ciao!"}],
    "multi-turn": [{"role": r, "content": c} for r, c in zip(["user", "assistant"] * 3, "abcdef")],
    "system": [{"role": "system", "content": "Sii breve."}, {"role": "user", "content": "Perché?"}],
    "odd characters": [{"role": "user", "content": "«è» {{ x }} \\n <b> ' \" \u2028 🐟"}],
}


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(base)
    found.chat_template = chatml.template()
    return found


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("generate", [False, True])
def test_our_renderer_is_transformers(tokenizer: Any, name: str, generate: bool) -> None:
    theirs = tokenizer.apply_chat_template(CHATS[name], tokenize=False, add_generation_prompt=generate)
    assert chatml.render(CHATS[name], add_generation_prompt=generate) == theirs


def test_tools_render_alike(tokenizer: Any) -> None:
    for row in toolbox.dialogues(60, seed=1):
        for messages in (row["messages"], [{"role": "system", "content": "Sii breve."}, *row["messages"]]):
            theirs = tokenizer.apply_chat_template(messages, tools=row["tools"], tokenize=False)
            assert chatml.render(messages, row["tools"]) == theirs


def test_arguments_as_text_and_as_structure_render_alike() -> None:
    call = {"name": "f", "arguments": {"città": "Forlì", "n": 3}}
    text = {**call, "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
    one, other = (
        chatml.render([{"role": "assistant", "content": "", "tool_calls": [{"function": f}]}]) for f in (call, text)
    )
    assert one == other and '{"name": "f", "arguments": {"città": "Forlì", "n": 3}}' in one


def test_ids_are_those_of_transformers(tokenizer: Any, base: Path, conversations: list[Any]) -> None:
    fast = chatml.fast_tokenizer(base)
    for row in conversations[:50]:
        ours = fast.encode(chatml.render(row["messages"]), add_special_tokens=False).ids
        assert ours == tokenizer.apply_chat_template(row["messages"])["input_ids"]


def test_reserved_tokens_become_chat_tokens(reserved_base: Path) -> None:
    assert chatml.token_overrides(reserved_base) == {2: chatml.IM_START, 3: chatml.IM_END}
    fast = chatml.fast_tokenizer(reserved_base)
    assert fast.encode("<|im_start|>user\nx<|im_end|>").ids[::3][0] == 2
    assert fast.get_vocab_size() == 1024


def test_a_tokenizer_without_room_is_refused(tmp_path: Path, texts: list[str]) -> None:
    folder = make_base(tmp_path, texts[:50], SPECIAL[:2], vocab=300)
    with pytest.raises(UserError, match=r"has no <\|im_start\|> and no <\|im_end\|> and 0 reserved tokens"):
        chatml.token_overrides(folder)


def test_a_base_of_another_vocabulary_is_refused(base: Path, tmp_path: Path) -> None:
    chatml.check_base(base)
    with pytest.raises(UserError, match=r'no model there; the model of this run is "\{run\}/base"'):
        chatml.check_base(tmp_path)
    for name in ("tokenizer.json", "config.json"):
        (tmp_path / name).write_text((base / name).read_text().replace('"vocab_size": 1024', '"vocab_size": 1000'))
    with pytest.raises(UserError, match="the tokenizer has 1,024 entries and the model 1,000"):
        chatml.check_base(tmp_path)


def test_a_torn_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no tokenizer.json"):
        chatml.token_overrides(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": [')
    with pytest.raises(UserError, match="not valid JSON"):
        chatml.token_overrides(tmp_path)


def test_torn_weights_are_told_before_anything_starts(base: Path, tmp_path: Path) -> None:
    whole = (base / "model.safetensors").read_bytes()
    for part in (len(whole) - 1, 1000, 3):
        (tmp_path / "model.safetensors").write_bytes(whole[:part])
        with pytest.raises(UserError, match="model.safetensors: torn"):
            tensor_shapes(tmp_path)
