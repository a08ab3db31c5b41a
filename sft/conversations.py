"""Conversations in, one clean file out, and a report that accounts for every row.

Each row is brought to one shape, validated, tagged with its language, measured in tokens, fitted to the context,
deduplicated, checked against the evaluation's texts, and balanced between the languages. A row that is not kept is
counted under its reason, with examples; nothing is dropped silently.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from duetto.chat_checks import language_of
from duetto.console import log
from duetto.errors import UserError
from duetto.files import atomic_write, write_json
from sft import chatml
from sft.config import Preparation
from sft.overlap import HeldOut, fingerprint
from sft.rules import stored, validated
from sft.shapes import Rejected, canonical
from sft.sources import BROKEN, rows

EXAMPLES = 3
"""Rejected rows shown for each reason."""
EXPECTED = ("duplicate", "in excess of its language's share")
"""Reasons that say nothing against the file."""

Row = dict[str, Any]


@dataclass
class Ledger:
    """Where every row went."""

    read: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    repairs: Counter[str] = field(default_factory=Counter)

    def reject(self, reason: str, where: str) -> None:
        self.reasons[reason] += 1
        if len(self.examples[reason]) < EXAMPLES:
            self.examples[reason].append(where)

    def report(self) -> dict[str, Any]:
        rejected = {r: {"count": n, "examples": self.examples[r]} for r, n in self.reasons.most_common()}
        return {"read": self.read, "rejected": rejected, "repaired": dict(self.repairs)}


def prepare(
    entries: Sequence[Mapping[str, Any]],
    target: Path,
    *,
    tokenizer_folder: Path,
    context: int,
    languages: Sequence[str],
    rules: Preparation,
    pairs: bool = False,
) -> dict[str, Any]:
    """Write the kept conversations to ``target`` (jsonl) and the account of the others beside it (``.report.json``).

    Args:
        entries: Axolotl dataset entries.
        tokenizer_folder: the base model's folder.
        context: tokens that a conversation may have, ChatML included (``sequence_len``).
        languages: of the recipe; a row without a language tag gets the likeliest of them.
        pairs: whether the rows are preference pairs.

    Returns:
        The report: read, kept, rejected, repaired, and conversations and tokens by language.

    Raises:
        UserError: a file cannot be read, nothing is left, or more than ``rules.max_rejected`` was rejected.
    """
    ledger = Ledger()
    kept = list(_fitted(_valid(entries, ledger, languages, rules, pairs), tokenizer_folder, context, rules, ledger))
    if rules.balance:
        kept = balanced(kept, rules.balance, ledger)
    report = {**ledger.report(), "kept": len(kept), **_lengths(kept, context)}
    write_json(target.with_suffix(".report.json"), report)
    _judge(ledger, kept, entries, rules, target)
    with atomic_write(target) as f:
        for row, _ in kept:
            f.write(json.dumps(stored(row), ensure_ascii=False) + "\n")
    return report


def _valid(
    entries: Sequence[Mapping[str, Any]], ledger: Ledger, languages: Sequence[str], rules: Preparation, pairs: bool
) -> Iterator[tuple[str, Row]]:
    held_out, seen = HeldOut(rules.decontaminate), set[bytes]()
    for entry in entries:
        for where, raw in rows(entry):
            ledger.read += 1
            try:
                if raw is BROKEN:
                    raise Rejected("the line is not JSON")
                row = validated(canonical(raw, entry), ledger.repairs)
                if pairs != ("chosen" in row):
                    raise Rejected("not a preference pair" if pairs else "a preference pair, not a conversation")
                key = fingerprint(row)
                if rules.deduplicate and key in seen:
                    raise Rejected("duplicate")
                if held_out.leaks(row):
                    raise Rejected("repeats a held-out text")
            except Rejected as reason:
                ledger.reject(str(reason), where)
                continue
            seen.add(key)
            row.setdefault("id", key.hex())
            row["language"] = row.get("language") or _language(row, languages)
            yield where, row


def _language(row: Row, languages: Sequence[str]) -> str:
    answers = [t["content"] for t in [*row["messages"], row.get("chosen", {})] if t.get("role") == "assistant"]
    asked = [t["content"] for t in row["messages"] if t["role"] == "user"]
    return language_of(" ".join(answers), languages) or language_of(" ".join(asked), languages) or "und"


def _fitted(
    found: Iterator[tuple[str, Row]], tokenizer_folder: Path, context: int, rules: Preparation, ledger: Ledger
) -> Iterator[tuple[Row, int]]:
    """Rows that fit the context, with their tokens; too long ones by the rule."""
    tokenizer = chatml.fast_tokenizer(tokenizer_folder)

    def length(row: Row) -> int:
        whole = [[*row["messages"], row[k]] for k in ("chosen", "rejected") if k in row] or [row["messages"]]
        texts = [chatml.render(turns, row.get("tools")) for turns in whole]
        return max(len(x.ids) for x in tokenizer.encode_batch(texts, add_special_tokens=False))

    for where, row in found:
        tokens = length(row)
        if tokens <= context:
            yield row, tokens
            continue
        pieces = _shortened(row, context, rules.too_long, length)
        if not pieces:
            ledger.reject(f"longer than {context} tokens", where)
            continue
        ledger.repairs[f"longer than {context} tokens: {rules.too_long}"] += 1
        for number, piece in enumerate(pieces):
            yield {**piece, "id": f"{row['id']}/{number}"}, length(piece)


def _shortened(row: Row, context: int, rule: str, length: Any) -> list[Row]:
    """Pieces of whole exchanges that fit: the first (truncate) or all (split); none when even one exchange is too long.

    Each piece keeps the system prompt and the tools. Preference pairs are never cut: the answer is what is compared.
    """
    if rule == "drop" or "chosen" in row:
        return []
    system = [t for t in row["messages"] if t["role"] == "system"]
    exchanges: list[list[dict[str, Any]]] = []
    for turn in row["messages"][len(system) :]:
        if turn["role"] == "user":
            exchanges.append([])
        exchanges[-1].append(turn)
    pieces: list[Row] = []
    current: list[dict[str, Any]] = []
    for exchange in exchanges:
        longer = {**row, "messages": [*system, *current, *exchange]}
        if length(longer) <= context:
            current = [*current, *exchange]
            continue
        if current:
            pieces.append({**row, "messages": [*system, *current]})
        if rule == "truncate":
            return pieces[:1]
        alone = {**row, "messages": [*system, *exchange]}
        current = exchange if length(alone) <= context else []
    if current:
        pieces.append({**row, "messages": [*system, *current]})
    return pieces


def balanced(kept: list[tuple[Row, int]], shares: Mapping[str, float], ledger: Ledger) -> list[tuple[Row, int]]:
    """Cut the languages in excess so that tokens stand in the proportion of ``shares``; which rows go is by their id.

    Raises:
        UserError: a language with a share has no conversation.
    """
    by_language: dict[str, list[tuple[Row, int]]] = defaultdict(list)
    for row, tokens in kept:
        by_language[row["language"]].append((row, tokens))
    total = {lang: sum(n for _, n in by_language.get(lang, [])) for lang in shares}
    empty = [lang for lang, n in total.items() if n == 0]
    if empty:
        raise UserError(f"sft.duetto.balance asks for {empty[0]!r}, but no conversation is in that language")
    budget = min(total[lang] / share for lang, share in shares.items() if share > 0)
    chosen: set[int] = set()
    for lang, found in by_language.items():
        room = budget * shares.get(lang, 0.0)
        for row, tokens in sorted(found, key=lambda x: hashlib.blake2b(str(x[0]["id"]).encode()).digest()):
            if tokens <= room + 0.5:
                room -= tokens
                chosen.add(id(row))
            else:
                ledger.reject("in excess of its language's share", str(row["id"]))
    return [(row, tokens) for row, tokens in kept if id(row) in chosen]


def _lengths(kept: Sequence[tuple[Row, int]], context: int) -> dict[str, Any]:
    """Conversations and tokens before packing, by language, and how full packed rows can be at best."""
    by_language: dict[str, list[int]] = defaultdict(list)
    for row, tokens in kept:
        by_language[row["language"]].append(tokens)
    total = sum(sum(x) for x in by_language.values())
    return {
        "tokens": total,
        "languages": {lang: {"conversations": len(x), "tokens": sum(x)} for lang, x in sorted(by_language.items())},
        "lengths": {lang: _quantiles(x) for lang, x in sorted(by_language.items())},
        "packed_rows_at_least": -(-total // context),
    }


def _quantiles(values: list[int]) -> dict[str, int]:
    ordered = sorted(values)
    return {f"p{q}": ordered[min(len(ordered) - 1, len(ordered) * q // 100)] for q in (5, 25, 50, 75, 95, 100)}


def _judge(
    ledger: Ledger, kept: Sequence[Any], entries: Sequence[Mapping[str, Any]], rules: Preparation, target: Path
) -> None:
    names = ", ".join(str(e["path"]) for e in entries)
    for reason, count in ledger.reasons.most_common():
        first = ledger.examples[reason][0]
        log(f"{target.stem}: {count:,} of {ledger.read:,} rows rejected: {reason} (first: {first})")
    faults = sum(n for reason, n in ledger.reasons.items() if reason not in EXPECTED)
    worst = ", ".join(
        f"{reason} ({n}, first {ledger.examples[reason][0]})" for reason, n in ledger.reasons.most_common(2)
    )
    if not kept:
        raise UserError(f"{names}: no usable conversation: {worst or 'no rows'}")
    if ledger.read and faults / ledger.read > rules.max_rejected:
        raise UserError(
            f"{names}: {faults} of {ledger.read} rows rejected, more than sft.duetto.max_rejected "
            f"{rules.max_rejected:.0%} allows: {worst}"
        )
