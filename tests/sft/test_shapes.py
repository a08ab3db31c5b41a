"""Every usual shape becomes the same conversation; whatever is wrong with a row is said and counted."""

import json
from collections import Counter
from typing import Any

import pytest

from sft.rules import stored, validated
from sft.shapes import Rejected, canonical

TURNS = [("user", "Che ore sono?"), ("assistant", "Le tre.")]
PLAIN = [{"role": r, "content": c} for r, c in TURNS]
SHAREGPT = [{"from": {"user": "human", "assistant": "gpt"}[r], "value": c} for r, c in TURNS]
WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = {"name": "get_weather", "arguments": {"city": "Roma"}}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": PLAIN},
        {"conversation": PLAIN},
        {"conversations": SHAREGPT},
        {"messages": json.dumps(PLAIN)},
        {"instruction": "Che ore sono?", "input": "", "output": "Le tre."},
        {"messages": [{"role": r, "content": [{"type": "text", "text": c}]} for r, c in TURNS]},
        {"messages": [{"role": {"user": "Human", "assistant": "model"}[r], "content": c} for r, c in TURNS]},
    ],
)
def test_shapes_of_one_conversation(row: dict[str, Any]) -> None:
    assert validated(canonical(row), Counter())["messages"] == PLAIN


def test_the_entry_names_the_fields() -> None:
    row = {"talk": [{"who": "q", "says": "Ciao?"}, {"who": "a", "says": "Ciao!"}]}
    entry = {
        "field_messages": "talk",
        "message_property_mappings": {"role": "who", "content": "says"},
        "roles": {"user": ["q"], "assistant": ["a"]},
    }
    assert [t["role"] for t in canonical(row, entry)["messages"]] == ["user", "assistant"]


def test_system_and_input_fields_are_kept() -> None:
    row = {"system": "Sii breve.", "instruction": "Traduci.", "input": "house", "output": "casa"}
    messages = canonical(row)["messages"]
    assert messages[0] == {"role": "system", "content": "Sii breve."}
    assert messages[1]["content"] == "Traduci.\n\nhouse"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Ciao?", "chosen": "Ciao!", "rejected": "Hello!"},
        {"messages": [{"role": "user", "content": "Ciao?"}], "chosen": {"role": "assistant", "content": "Ciao!"},
         "rejected": {"role": "assistant", "content": "Hello!"}},
        {"chosen": [{"role": "user", "content": "Ciao?"}, {"role": "assistant", "content": "Ciao!"}],
         "rejected": [{"role": "user", "content": "Ciao?"}, {"role": "assistant", "content": "Hello!"}]},
        {"conversations": [{"from": "human", "value": "Ciao?"}], "chosen": {"from": "gpt", "value": "Ciao!"},
         "rejected": {"from": "gpt", "value": "Hello!"}},
    ],
)  # fmt: skip
def test_shapes_of_a_preference_pair(row: dict[str, Any]) -> None:
    pair = validated(canonical(row), Counter())
    assert pair["messages"] == [{"role": "user", "content": "Ciao?"}]
    assert (pair["chosen"]["content"], pair["rejected"]["content"]) == ("Ciao!", "Hello!")


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]},
        {"role": "assistant", "tool_calls": [{"function": {**CALL, "arguments": '{"city": "Roma"}'}}]},
        {"role": "assistant", "content": f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>"},
        {"from": "function_call", "value": json.dumps(CALL)},
    ],
)
def test_shapes_of_a_tool_call(turn: dict[str, Any]) -> None:
    tools: Any
    for tools in ([WEATHER], [{"type": "function", "function": WEATHER}], json.dumps([WEATHER])):
        row = {"messages": [{"role": "user", "content": "Che tempo fa?"}, turn], "tools": tools}
        last = validated(canonical(row), Counter())["messages"][-1]
        assert last["content"] == "" and last["tool_calls"][0]["function"] == CALL


def chat(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": r, "content": c} for r, c in turns], **more}


def called(arguments: Any, name: str = "get_weather", **more: Any) -> dict[str, Any]:
    turn = {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}
    return {"messages": [{"role": "user", "content": "Che tempo fa?"}, turn], "tools": [WEATHER], **more}


@pytest.mark.parametrize(
    "row, reason",
    [
        ("text", "not a mapping"),
        ({"text": "x"}, "no conversation in any known field"),
        (chat(("user", "Ciao?")), "no assistant turn"),
        (chat(("wizard", "Ciao?"), ("assistant", "Ciao!")), "unknown role 'wizard'"),
        (chat(("user", "  "), ("assistant", "Ciao!")), "an empty turn"),
        (chat(("user", "Ciao?"), ("user", "Ci sei?"), ("assistant", "Sì.")), "user speaks after user"),
        (chat(("assistant", "Ciao!"), ("user", "Ciao?"), ("assistant", "Sì.")), "assistant speaks first"),
        (chat(("user", "Ciao?"), ("tool", "{}"), ("assistant", "Sì.")), "a tool result without a call"),
        (chat(("user", "a <|im_end|> b"), ("assistant", "Sì.")), "a control token stands in the text"),
        (chat(("user", "Ciao?"), ("assistant", "Sì."), tools="[{"), "tools do not parse"),
        (chat(("user", "Ciao?"), ("assistant", "Sì."), tools=[{"name": "x", "parameters": {"type": "objekt"}}]),
         "tools are not valid JSON schema"),
        (chat(("user", "Ciao?"), ("assistant", "<tool_call>{</tool_call>"), tools=[WEATHER]),
         "a tool call does not parse"),
        (chat(("user", "Ciao?"), ("assistant", "<tool_call>{}"), tools=[WEATHER]), "a tool call does not parse"),
        (called({"city": "Roma"}, name="get_time"), "a call of a tool that is not offered"),
        (called({"town": "Roma"}), "a call's arguments do not match its tool"),
        (called({"city": 3}), "a call's arguments do not match its tool"),
        (called({"city": "Roma", "day": "lunedì"}), "a call's arguments do not match its tool"),
        ({"prompt": "Ciao?", "chosen": "Ciao!", "rejected": "Ciao!"}, "chosen and rejected are the same"),
    ],
)  # fmt: skip
def test_a_bad_row_is_rejected_with_its_reason(row: Any, reason: str) -> None:
    with pytest.raises(Rejected) as e:
        validated(canonical(row), Counter())
    assert str(e.value) == reason


def test_small_faults_are_mended_and_counted() -> None:
    repairs: Counter[str] = Counter()
    row = chat(("user", " Ciao?\n"), ("assistant", "Ciao!"), ("user", "E poi?"))
    assert validated(canonical(row), repairs)["messages"] == chat(("user", "Ciao?"), ("assistant", "Ciao!"))["messages"]
    assert repairs == {"space around a turn removed": 1, "unanswered last turn removed": 1}


def test_stored_tools_survive_a_table_of_different_ones() -> None:
    """Arrow gives every row of a column the same fields: other tools' arguments would appear as nulls."""
    row = stored(validated(canonical(called({"city": "Roma"})), Counter()))
    assert isinstance(row["tools"], str)
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Roma"}'
    assert validated(canonical(row), Counter())["messages"][1]["tool_calls"][0]["function"] == CALL
