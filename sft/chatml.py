"""ChatML: the template, its two tokens, and where they live in a tokenizer.

A tokenizer that Duetto trained has ``<|im_start|>`` and ``<|im_end|>`` as single tokens. Another one (Llama's) gets
them on two reserved ids, through Axolotl's ``added_tokens_overrides``: the vocabulary and the model's shape stay.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from duetto.errors import UserError

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
TEMPLATE_FILE = Path(__file__).with_name("chatml.jinja")
"""The only place where the format is written down; Axolotl reads this file and the tokenizer is saved with it."""

RESERVED = re.compile(r"reserved|unused|extra_id", re.IGNORECASE)
"""What model makers call the entries that nobody uses."""


def template() -> str:
    return TEMPLATE_FILE.read_text(encoding="utf-8")


@functools.cache
def _compiled() -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(template())


def render(messages: Sequence[Mapping[str, Any]], tools: Any = None, add_generation_prompt: bool = False) -> str:
    """The conversation as text, equal to what ``tokenizer.apply_chat_template`` renders (a test compares).

    It does without transformers, whose import takes longer than preparing the demo's conversations.
    """
    return str(_compiled().render(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt))


def fast_tokenizer(folder: Path) -> Any:
    """The ``tokenizers`` object of a model folder, with the ChatML tokens on their reserved ids."""
    from tokenizers import Tokenizer

    content = read_tokenizer(folder)
    overrides = token_overrides(folder)
    for token in content.get("added_tokens", []):
        token["content"] = overrides.get(token["id"], token["content"])
    vocabulary = content.get("model", {}).get("vocab")
    if isinstance(vocabulary, dict):
        names = {i: text for text, i in vocabulary.items() if i in overrides}
        for i, text in names.items():
            del vocabulary[text]
            vocabulary[overrides[i]] = i
    return Tokenizer.from_str(json.dumps(content))


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """The parsed ``tokenizer.json`` of a Hugging Face folder.

    Raises:
        UserError: missing or torn.
    """
    path = folder / "tokenizer.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} has no tokenizer.json; the chat format needs a fast tokenizer there") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not valid JSON ({e}); run the stage that made it again") from None


def token_overrides(folder: Path) -> dict[int, str]:
    """Which reserved ids become the ChatML tokens: empty when the tokenizer has both already.

    Args:
        folder: Hugging Face folder with ``tokenizer.json``.

    Raises:
        UserError: one or both tokens are missing and fewer reserved entries than needed are free.
    """
    added = read_tokenizer(folder).get("added_tokens", [])
    present = {t["content"] for t in added}
    missing = [t for t in (IM_START, IM_END) if t not in present]
    free = sorted(t["id"] for t in added if RESERVED.search(t["content"]))
    if len(free) < len(missing):
        raise UserError(
            f"{folder / 'tokenizer.json'} has no {' and no '.join(missing)} and {len(free)} reserved tokens to put "
            "them on; use a tokenizer with ChatML tokens (Duetto trains one) or with reserved ones"
        )
    return dict(zip(free, missing))


def check_base(folder: Path) -> None:
    """A base model must be there, with a tokenizer of its own vocabulary.

    Raises:
        UserError: no such folder, or the tokenizer has more entries than the model's embedding table.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f'base_model {folder}: no model there; the model of this run is "{{run}}/base"')
    try:
        entries = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"])
    except (ValueError, KeyError):
        raise UserError(f"{folder / 'config.json'}: no readable vocab_size; run the stage that made it again") from None
    tokens = fast_tokenizer(folder).get_vocab_size()
    if tokens > entries:
        raise UserError(
            f"{folder}: the tokenizer has {tokens:,} entries and the model {entries:,}; they do not belong together"
        )


def chat_token_ids(folder: Path) -> tuple[int, int]:
    """Ids of ``<|im_start|>`` and ``<|im_end|>`` in a tokenizer that has them (after overrides)."""
    ids = {t["content"]: t["id"] for t in read_tokenizer(folder).get("added_tokens", [])}
    if IM_START not in ids or IM_END not in ids:
        raise UserError(f"{folder}: {IM_START} or {IM_END} is not a single token of this tokenizer; run sft first")
    return ids[IM_START], ids[IM_END]
