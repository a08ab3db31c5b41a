"""The usual shapes of conversation data, brought to one.

    {"messages": [{"role", "content", "tool_calls"?}, ...], "tools"?: [...], "chosen"?: turn, "rejected"?: turn}

Known: messages and conversation(s) with role/content or ShareGPT's from/value, Alpaca's instruction/input/output,
preference pairs (prompt + chosen + rejected; or two whole conversations), OpenAI and ShareGPT tool calls, and calls
written out as ``<tool_call>`` text.
"""

import json
import re
from collections.abc import Mapping
from typing import Any


class Rejected(Exception):
    """A row that cannot be used; the message is the reason it is counted under."""


ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
"""Role names in the wild, and ours."""

LISTS = ("messages", "conversation", "conversations", "dialogue", "turns")
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


def canonical(row: Any, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One row of any known shape in the canonical one; not yet validated.

    Args:
        row: the row as read.
        fields: the Axolotl dataset entry, for its field_messages, field_tools, message_property_mappings, roles.

    Raises:
        Rejected: no known shape, an unknown role, a call that does not parse.
    """
    if not isinstance(row, Mapping):
        raise Rejected("not a mapping")
    fields = fields or {}
    out: dict[str, Any] = {k: row[k] for k in ("id", "language", "kind", "facts") if row.get(k) is not None}
    if "chosen" in row and "rejected" in row:
        out |= _preference(row, fields)
    else:
        out["messages"] = _messages(row, fields)
    tools = _tools(row.get(fields.get("field_tools") or "tools"))
    if tools:
        out["tools"] = tools
    return out


def _messages(row: Mapping[str, Any], fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = (fields["field_messages"], *LISTS) if fields.get("field_messages") else LISTS
    for name in names:
        if row.get(name) is not None:
            return _system(row) + _turns(row[name], fields)
    if row.get("instruction") and "output" in row:
        return _system(row) + _alpaca(row)
    raise Rejected("no conversation in any known field")


def _system(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    text = row.get("system") or row.get("system_prompt")
    return [{"role": "system", "content": str(text)}] if text else []


def _alpaca(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    asked = "\n\n".join(str(row[k]) for k in ("instruction", "input") if row.get(k))
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": _text(row["output"])}]


def _turns(value: Any, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise Rejected("messages are a string that is not JSON") from None
    if not isinstance(value, list) or not value or not all(isinstance(t, Mapping) for t in value):
        raise Rejected("messages are not a list of turns")
    return [turn(t, fields) for t in value]


def turn(value: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """One turn: role, content, and its tool calls as structures."""
    mapping = fields.get("message_property_mappings") or {}
    named = value.get(mapping.get("role", "role"), value.get("from"))
    roles = {old: new for new, olds in (fields.get("roles") or {}).items() for old in olds}
    role = roles.get(str(named)) or ROLES.get(str(named).lower())
    if role is None:
        raise Rejected(f"unknown role {str(named)!r}")
    content = _text(value.get(mapping.get("content", "content"), value.get("value")))
    out: dict[str, Any] = {"role": role, "content": content}
    if role != "assistant":
        return out
    calls = [_call(c) for c in value.get("tool_calls") or []]
    if str(named).lower() == "function_call":
        calls, out["content"] = [_call(_json(content))], ""
    elif "<tool_call>" in content or "</tool_call>" in content:
        if content.count("<tool_call>") != content.count("</tool_call>"):
            raise Rejected("a tool call does not parse")
        calls += [_call(_json(c)) for c in _CALL.findall(content)]
        out["content"] = _CALL.sub("", content)
    if calls:
        out["tool_calls"] = calls
    return out


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in value):
        return "".join(p["text"] for p in value)
    if isinstance(value, Mapping | list | int | float):
        return json.dumps(value, ensure_ascii=False)
    raise Rejected("content is not text")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise Rejected("a tool call does not parse") from None


def _call(value: Any) -> dict[str, Any]:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Rejected("a tool call does not parse")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _json(arguments)
    if not isinstance(arguments, Mapping):
        raise Rejected("a tool call does not parse")
    # Parquet readers fill absent struct fields with null.
    arguments = {k: v for k, v in arguments.items() if v is not None}
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _tools(value: Any) -> list[dict[str, Any]]:
    if value is None or value == "" or value == []:
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise Rejected("tools do not parse") from None
    if not isinstance(value, list) or not all(isinstance(t, Mapping) for t in value):
        raise Rejected("tools do not parse")
    out = []
    for tool in value:
        function = dict(tool.get("function", tool))
        if isinstance(function.get("parameters"), str):
            try:
                function["parameters"] = json.loads(function["parameters"])
            except json.JSONDecodeError:
                raise Rejected("tools do not parse") from None
        out.append({"type": "function", "function": function})
    return out


def _preference(row: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    chosen, rejected = (_answer(row[k], fields) for k in ("chosen", "rejected"))
    before = chosen[:-1]
    if not before:
        prompt = row.get("prompt", row.get("question", row.get("instruction")))
        if isinstance(prompt, str):
            before = [*_system(row), {"role": "user", "content": prompt}]
        else:
            before = _messages({**row, "messages": prompt} if isinstance(prompt, list) else row, fields)
    if len(rejected) > 1 and rejected[:-1] != before:
        raise Rejected("chosen and rejected answer different prompts")
    return {"messages": before, "chosen": chosen[-1], "rejected": rejected[-1]}


def _answer(value: Any, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    turns = _turns([value] if isinstance(value, Mapping) else value, fields)
    if turns[-1]["role"] != "assistant":
        raise Rejected("a preferred or rejected answer is not the assistant's")
    return turns
