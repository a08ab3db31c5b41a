"""The gate before training: exactly the assistant's text and its terminator carry labels, and packed samples are alone.

The expected labels are derived from the token ids alone (a scan for ChatML turns), not from the template or from
Axolotl's code. Isolation is tried, not trusted: change the tokens of one sample of the first real batch, and the
logits of its neighbours must not move.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from duetto.errors import UserError

IGNORED = -100
"""Label of a token that is not trained."""

Ids = npt.NDArray[np.int64]


def trained(ids: Ids, row_starts: Ids, im_start: int, im_end: int, header: Ids) -> npt.NDArray[np.bool_]:
    """Which tokens the loss may see: after ``<|im_start|>assistant\\n`` up to and including ``<|im_end|>``.

    Args:
        ids: token ids of rows one after the other, [tokens].
        row_starts: index of each row's first token, [rows].
        header: ids of ``assistant\\n``.

    Returns:
        [tokens]; a turn cut off by the end of its row is trained up to there.
    """
    starts = np.flatnonzero(ids == im_start)
    ends = np.append(np.flatnonzero(ids == im_end), len(ids))
    body = starts + 1 + len(header)
    padded = np.append(ids, np.full(len(header) + 1, -1))
    speaks = np.all(padded[starts[:, None] + 1 + np.arange(len(header))] == header, axis=1)
    starts, body = starts[speaks], body[speaks]
    row_end = np.append(row_starts, len(ids))[np.searchsorted(row_starts, starts, side="right")]
    stop = np.minimum(ends[np.searchsorted(ends, starts)] + 1, row_end)
    edges = np.zeros(len(ids) + 1, dtype=np.int64)
    np.add.at(edges, np.minimum(body, row_end), 1)
    np.add.at(edges, stop, -1)
    return np.cumsum(edges[:-1]) > 0


def batches(dataset: Any, rows: int = 4096) -> Iterator[tuple[Ids, Ids, Ids]]:
    """``(ids, labels, row_starts)`` of a prepared dataset, some thousand rows at a time."""
    table = dataset.with_format("arrow")
    for start in range(0, len(dataset), rows):
        part = table[start : start + rows]
        ids, labels = part["input_ids"].combine_chunks(), part["labels"].combine_chunks()
        offsets = np.asarray(ids.offsets, dtype=np.int64)
        yield (
            np.asarray(ids.flatten(), dtype=np.int64),
            np.asarray(labels.flatten(), dtype=np.int64),
            offsets[:-1] - offsets[0],
        )


def check_labels(dataset: Any, tokenizer: Any) -> dict[str, int]:
    """Compare every label of a prepared dataset with the independent derivation.

    Returns:
        Counts: rows, tokens, trained_tokens.

    Raises:
        UserError: the first row that differs, with the tokens around the difference; or nothing to train on.
    """
    im_start, im_end = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>"))
    header = np.asarray(tokenizer.encode("assistant\n", add_special_tokens=False), dtype=np.int64)
    total = {"rows": 0, "tokens": 0, "trained_tokens": 0}
    for ids, labels, row_starts in batches(dataset):
        expected = np.where(trained(ids, row_starts, im_start, im_end, header), ids, IGNORED)
        wrong = np.flatnonzero(expected != labels)
        if len(wrong):
            raise UserError(_difference(tokenizer, ids, labels, expected, row_starts, int(wrong[0]), total["rows"]))
        total["rows"] += len(row_starts)
        total["tokens"] += len(ids)
        total["trained_tokens"] += int((labels != IGNORED).sum())
    if not total["trained_tokens"]:
        raise UserError("no token of the prepared data carries a label: no conversation has an assistant turn")
    return total


def _difference(tok: Any, ids: Ids, labels: Ids, expected: Ids, row_starts: Ids, at: int, rows_before: int) -> str:
    row = int(np.searchsorted(row_starts, at, side="right")) - 1
    around = tok.decode(ids[max(at - 8, row_starts[row]) : at + 5])
    says = "is trained but is not assistant text" if expected[at] == IGNORED else "is assistant text but is not trained"
    return (
        f"label mask: row {rows_before + row}, token {at - row_starts[row]} ({tok.decode([ids[at]])!r}, in {around!r}) "
        f"{says}; look at the chat template, roles_to_train and train_on_eos, or run: duetto masks"
    )


def check_isolation(model: Any, inputs: dict[str, Any]) -> int:
    """Change the first sample of each packed row and watch the others.

    Args:
        model: as it will be trained (wrapped or not); called on every rank, forward only.
        inputs: the first batch as the trainer got it: input_ids and position_ids, [rows, sequence].

    Returns:
        Number of samples that were watched (0 when no row of this batch holds two).

    Raises:
        UserError: a sample saw its neighbour.
    """
    import torch

    ids, positions = inputs["input_ids"], inputs["position_ids"]
    sample = (positions == 0).cumsum(dim=1)
    first = sample == 1
    changed = torch.where(first, (ids + 1) % int(ids.max() + 1), ids)
    asked = {k: v for k, v in inputs.items() if k in ("position_ids", "attention_mask")}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        before = model(input_ids=ids, **asked).logits.float()
        after = model(input_ids=changed, **asked).logits.float()
    model.train(was_training)
    moved = (before - after).abs().amax(dim=-1)
    if not (moved[first] > 0).any():
        raise UserError("packed samples: a changed sample kept its own logits; the isolation check proves nothing")
    others = ~first
    watched = int((sample.amax(dim=1) - 1).clamp(min=0).sum())
    if watched and float(moved[others].max()) > 0:
        row, column = (int(x[0]) for x in torch.nonzero((moved > 0) & others, as_tuple=True))
        raise UserError(
            f"packed samples see each other: changing sample 1 of row {row} moved the logits of sample "
            f"{int(sample[row, column])} by {float(moved[row, column]):.3g}; use attn_implementation flash_attention_2 "
            "or sdpa without an attention mask, or set sample_packing: false"
        )
    return watched
