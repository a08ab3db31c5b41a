"""What a conversation must be like to be trained on; each broken rule is a counted reason."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sft.chatml import IM_END, IM_START
from sft.shapes import Rejected

AFTER = {
    "": {"system", "user"},
    "system": {"user"},
    "user": {"assistant"},
    "call": {"tool"},
    "tool": {"tool", "assistant"},
    "assistant": {"user"},
}
"""Who may speak after whom; ``call`` is an assistant turn that calls tools, "" the start."""
SPOKEN = {"": "first", "call": "before the tool's result"}


def validated(row: dict[str, Any], repairs: Counter[str]) -> dict[str, Any]:
    """The row with small faults mended (and counted in ``repairs``).

    Raises:
        Rejected: a rule is broken.
    """
    turns = [_clean(t, repairs) for t in row["messages"]]
    pair: dict[str, Any] = {k: _clean(row[k], repairs) for k in ("chosen", "rejected") if k in row}
    if pair:
        if pair["chosen"] == pair["rejected"]:
            raise Rejected("chosen and rejected are the same")
        _alternate([*turns, pair["chosen"]])
        _alternate([*turns, pair["rejected"]])
    else:
        while turns and turns[-1]["role"] in ("user", "tool"):
            turns.pop()
            repairs["unanswered last turn removed"] += 1
        if not any(t["role"] == "assistant" for t in turns):
            raise Rejected("no assistant turn")
        _alternate(turns)
    tools = check_tools(row.get("tools") or [])
    for t in [*turns, *pair.values()]:
        for call in t.get("tool_calls", []):
            check_call(call, tools)
    return {**row, "messages": turns, **pair}


def _clean(turn: dict[str, Any], repairs: Counter[str]) -> dict[str, Any]:
    text = turn["content"]
    if IM_START in text or IM_END in text:
        raise Rejected("a control token stands in the text")
    stripped = text.strip()
    if stripped != text:
        # A newline at the edge would merge with the template's own into one token, and blur what is trained.
        repairs["space around a turn removed"] += 1
    if not stripped and not turn.get("tool_calls"):
        raise Rejected("an empty turn")
    return {**turn, "content": stripped}


def _alternate(turns: list[dict[str, Any]]) -> None:
    before = ""
    for turn in turns:
        role = turn["role"]
        if role not in AFTER[before]:
            if role == "tool":
                raise Rejected("a tool result without a call")
            raise Rejected(f"{role} speaks {SPOKEN.get(before, 'after ' + before)}")
        before = "call" if turn.get("tool_calls") else role


def check_tools(tools: list[dict[str, Any]]) -> dict[str, Any]:
    """Validator of each tool's arguments, by name.

    Raises:
        Rejected: a tool without a name, or whose parameters are not a JSON schema of an object.
    """
    if not tools:
        return {}
    import jsonschema

    out: dict[str, Any] = {}
    for tool in tools:
        function = tool["function"]
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        if not isinstance(function.get("name"), str) or not isinstance(schema, Mapping):
            raise Rejected("tools are not valid JSON schema")
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError:
            raise Rejected("tools are not valid JSON schema") from None
        if schema.get("type", "object") != "object":
            raise Rejected("tools are not valid JSON schema")
        out[function["name"]] = jsonschema.Draft202012Validator(schema)
    return out


def check_call(call: Mapping[str, Any], tools: Mapping[str, Any]) -> None:
    """A call must name one of the row's tools, with arguments that its schema accepts."""
    function = call["function"]
    if function["name"] not in tools:
        raise Rejected("a call of a tool that is not offered")
    if not tools[function["name"]].is_valid(function["arguments"]):
        raise Rejected("a call's arguments do not match its tool")
    known = tools[function["name"]].schema.get("properties")
    if known is not None and set(function["arguments"]) - set(known):
        raise Rejected("a call's arguments do not match its tool")


def stored(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as one JSON line: tools and arguments as JSON strings, because Arrow would merge their fields."""
    out = {k: v for k, v in row.items() if k not in ("tools", "facts")}
    out["messages"] = [_stored_turn(t) for t in row["messages"]]
    for key in ("chosen", "rejected"):
        if key in row:
            out[key] = _stored_turn(row[key])
    if row.get("tools"):
        out["tools"] = json.dumps(row["tools"], ensure_ascii=False)
    return out


def _stored_turn(turn: Mapping[str, Any]) -> dict[str, Any]:
    if "tool_calls" not in turn:
        return dict(turn)
    calls = [
        {
            "type": "function",
            "function": {
                "name": c["function"]["name"],
                "arguments": json.dumps(c["function"]["arguments"], ensure_ascii=False),
            },
        }
        for c in turn["tool_calls"]
    ]
    return {**turn, "tool_calls": calls}
