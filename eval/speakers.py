"""Who answers in the agentic and conversation suites: a chat model in this process, or an OpenAI-compatible server."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from eval.config import Endpoint

Conversation = dict[str, Any]
"""``{"messages": [...], "tools": [...]}``; tools may be missing."""
Speaker = Callable[[Sequence[Conversation], int], list[str]]
"""Greedy next turns of some conversations, with calls in Hermes format; the second argument is the most new tokens."""


def local_speaker(folder: Path, device: str) -> Speaker:
    """A Hugging Face chat model folder."""
    from duetto.chat_checks import generate
    from eval.chat import load_chat

    model, tokenizer = load_chat(folder, device)

    def speak(rows: Sequence[Conversation], max_new_tokens: int) -> list[str]:
        return [text for text, _ in generate(model, tokenizer, rows, max_new_tokens)]

    return speak


def endpoint_speaker(endpoint: Endpoint, timeout: float = 120.0) -> Speaker:
    """An OpenAI-compatible server, one request a conversation, temperature 0.

    Raises (when it speaks):
        UserError: the server does not answer, or answers with an error.
    """

    def speak(rows: Sequence[Conversation], max_new_tokens: int) -> list[str]:
        return [_ask(endpoint, row, max_new_tokens, timeout) for row in rows]

    return speak


def _ask(endpoint: Endpoint, row: Conversation, max_new_tokens: int, timeout: float) -> str:
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages": [_as_openai(m) for m in row["messages"]],
        "max_tokens": max_new_tokens,
        "temperature": 0,
    }
    if row.get("tools"):
        body["tools"] = row["tools"]
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(endpoint.key_variable):
        headers["Authorization"] = f"Bearer {key}"
    url = f"{endpoint.url.rstrip('/')}/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            message = json.load(response)["choices"][0]["message"]
    except urllib.error.HTTPError as e:
        raise UserError(f"{url}: {e.code} {e.reason}; check eval.endpoint and ${endpoint.key_variable}") from None
    except (urllib.error.URLError, TimeoutError) as e:
        raise UserError(f"{url}: no answer ({e}); is the server of eval.endpoint running?") from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise UserError(f"{url}: the answer is not a chat completion") from None
    return _as_hermes(message)


def _as_openai(message: dict[str, Any]) -> dict[str, Any]:
    """Arguments of calls as JSON text and with an id, as the protocol wants them."""
    if not message.get("tool_calls"):
        return message
    calls = [
        {
            "id": f"call_{n}",
            "type": "function",
            "function": {**c["function"], "arguments": json.dumps(c["function"]["arguments"], ensure_ascii=False)},
        }
        for n, c in enumerate(message["tool_calls"])
    ]
    return {**message, "tool_calls": calls}


def _as_hermes(message: dict[str, Any]) -> str:
    """Text and calls of a completion in one string; arguments that are no JSON stay as they are, a parse error."""
    parts = [message["content"]] if message.get("content") else []
    for call in message.get("tool_calls") or []:
        name, arguments = json.dumps(call["function"]["name"]), call["function"]["arguments"]
        parts.append(f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>')
    return "\n".join(parts)
