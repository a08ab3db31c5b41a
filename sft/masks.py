"""``duetto masks``: which tokens of a conversation are trained, in colour.

    duetto masks --recipe configs/recipes/demo.yaml --samples 3
    duetto masks --html masks.html --samples 50
    duetto masks --json

Shows the data that Axolotl prepared for the run, packed as it is trained, when the sft stage has run; before that, the
conversations of the recipe, labelled by the gate's own rule.
"""

import argparse
import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duetto.console import console, log
from duetto.errors import UserError
from duetto.files import atomic_write
from duetto.run import Run
from sft import chatml, gate, launch
from sft.rules import stored, validated
from sft.shapes import Rejected, canonical
from sft.sources import BROKEN, rows
from sft.stage import synthesize


@dataclass(frozen=True)
class Piece:
    """A run of neighbouring tokens with one label state."""

    text: str
    trained: bool
    sample: int
    """Which of the packed samples it belongs to, from 0."""


@dataclass(frozen=True)
class Shown:
    """One packed row (or one conversation)."""

    pieces: list[Piece]
    tokens: int
    trained: int
    samples: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=3, metavar="N", help="packed rows to show (default 3)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one HTML page instead of the terminal")


def run(run: Run, args: argparse.Namespace) -> None:
    section = run.recipe.sft
    if section is None:
        raise UserError(f"{run.recipe.file}: the recipe has no 'sft'; there is nothing to train on")
    if args.samples < 1:
        raise UserError(f"--samples {args.samples}: at least 1")
    if args.html and args.html.is_dir():
        raise UserError(f"--html {args.html}: a folder; name a file")
    prepared = sorted(run.path("sft", "prepared").glob("*/dataset_info.json")) if _current(run, section) else []
    context = section.get("sequence_len") or 512
    if prepared:
        source, found = "as Axolotl prepared it", _prepared(prepared[-1].parent, context, args.samples)
        tokenizer = chatml.fast_tokenizer(run.path("sft"))
    else:
        synthesize(section)
        tokenizer = chatml.fast_tokenizer(_tokenizer_folder(run, section))
        source, found = "by the gate's rule (sft has not run on this data)", _raw(section, tokenizer, args.samples)
    shown = [_shown(rows_of, tokenizer) for rows_of in found]
    if args.html:
        with atomic_write(args.html) as f:
            f.write(page(shown, f"{run.recipe.name}: what is trained, {source}"))
        log(f"masks: {len(shown)} rows written to {args.html}")
    elif getattr(args, "json", False):
        log(json.dumps({"source": source, "rows": [_as_json(s) for s in shown]}, ensure_ascii=False))
    else:
        log(f"Trained tokens are highlighted; {source}.")
        for number, s in enumerate(shown):
            _print(number, s)


Row = tuple[list[int], list[int]]
"""Token ids and labels of one conversation."""


def _current(run: Run, section: dict[str, Any]) -> bool:
    """Whether the finished sft stage prepared the data that the recipe names now."""
    manifest = run.manifest("sft")
    done, asked = (manifest["config"]["axolotl"] if manifest else {}), launch.plain(section)
    return all(done.get(k) == asked.get(k) for k in ("datasets", "sequence_len", "duetto"))


def _tokenizer_folder(run: Run, section: dict[str, Any]) -> Path:
    for folder in (Path(section["base_model"]), run.path("tokenizer")):
        if (folder / "tokenizer.json").exists():
            return folder
    raise UserError(f"{run.root}: no base model and no tokenizer yet; run: duetto tokenize")


def _prepared(folder: Path, context: int, count: int) -> list[list[Row]]:
    """The first conversations of the prepared data, put together into rows of ``context`` tokens."""
    import datasets

    table = datasets.load_from_disk(str(folder))
    packed: list[list[Row]] = [[]]
    used = 0
    for row in table:
        if used + len(row["input_ids"]) > context:
            if len(packed) == count:
                break
            packed.append([])
            used = 0
        packed[-1].append((row["input_ids"], row["labels"]))
        used += len(row["input_ids"])
    return packed


def _raw(section: dict[str, Any], tokenizer: Any, count: int) -> list[list[Row]]:
    out: list[list[Row]] = []
    for conversation in _conversations(section["datasets"]):
        text = chatml.render(conversation["messages"], conversation.get("tools"))
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        out.append([(ids, labels_of(ids, tokenizer))])
        if len(out) == count:
            break
    if not out:
        raise UserError("no conversation of sft.datasets is usable; run duetto sft for the reasons")
    return out


def _conversations(entries: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    from collections import Counter

    for entry in entries:
        for _, raw in rows(entry):
            try:
                if raw is not BROKEN:
                    row = validated(canonical(raw, entry), Counter())
                    yield {**stored(row), "tools": row.get("tools")}
            except Rejected:
                continue  # the viewer shows what is kept; the preparation counts what is not


def labels_of(ids: Sequence[int], tokenizer: Any) -> list[int]:
    """Labels of one conversation by the gate's rule."""
    flat = np.asarray(ids, dtype=np.int64)
    header = np.asarray(tokenizer.encode("assistant\n", add_special_tokens=False).ids, dtype=np.int64)
    start, end = tokenizer.token_to_id(chatml.IM_START), tokenizer.token_to_id(chatml.IM_END)
    mask = gate.trained(flat, np.zeros(1, dtype=np.int64), start, end, header)
    return [int(x) for x in np.where(mask, flat, gate.IGNORED)]


def _shown(found: list[Row], tokenizer: Any) -> Shown:
    pieces: list[Piece] = []
    for sample, (ids, labels) in enumerate(found):
        start = 0
        for i in range(1, len(ids) + 1):
            if i == len(ids) or (labels[i] == gate.IGNORED) != (labels[start] == gate.IGNORED):
                text = tokenizer.decode(ids[start:i], skip_special_tokens=False)
                pieces.append(Piece(text, labels[start] != gate.IGNORED, sample))
                start = i
    tokens = sum(len(ids) for ids, _ in found)
    return Shown(pieces, tokens, sum(x != gate.IGNORED for _, labels in found for x in labels), len(found))


def _headline(number: int, s: Shown) -> str:
    share = 100 * s.trained / max(s.tokens, 1)
    many = "conversation" if s.samples == 1 else "conversations"
    return f"row {number}: {s.samples} {many}, {s.tokens} tokens, {s.trained} trained ({share:.0f} %)"


def _print(number: int, s: Shown) -> None:
    from rich.text import Text

    log(f"\n{_headline(number, s)}")
    line = Text()
    for i, piece in enumerate(s.pieces):
        if i and piece.sample != s.pieces[i - 1].sample:
            line.append("-" * 60 + "\n", style="dim")
        if console.is_terminal or not piece.trained:
            line.append(piece.text, style="black on green" if piece.trained else "dim")
        else:
            line.append(f"[[{piece.text}]]")  # colours do not survive a pipe
    console.print(line)


def _as_json(s: Shown) -> dict[str, Any]:
    pieces = [{"text": p.text, "trained": p.trained, "sample": p.sample} for p in s.pieces]
    return {"conversations": s.samples, "tokens": s.tokens, "trained": s.trained, "pieces": pieces}


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;border-left:4px solid #ccc;padding:.4em .8em;margin:.3em 0}"
    "pre.odd{border-color:#4a7dbd}.t{background:#bfe8c4}.u{color:#777}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}.t{background:#1f5a2c}.u{color:#999}}"
)


def page(shown: Sequence[Shown], title: str) -> str:
    """One HTML page without scripts; every packed conversation is a block of its own."""
    parts = [f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"]
    parts.append(f"<h1>{html.escape(title)}</h1><p><span class=t>trained</span> <span class=u>not trained</span></p>")
    for number, s in enumerate(shown):
        parts.append(f"<h2>{html.escape(_headline(number, s))}</h2>")
        for sample in range(s.samples):
            spans = "".join(
                f"<span class={'t' if p.trained else 'u'}>{html.escape(p.text)}</span>"
                for p in s.pieces
                if p.sample == sample
            )
            parts.append(f"<pre class={'odd' if sample % 2 else 'even'}>{spans}</pre>")
    return "\n".join(parts) + "\n"
