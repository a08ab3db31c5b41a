"""Which requests are computed together: questions with their choices, families with a common beginning, batches.

Plain integer work without tensors, so that the plan can be tested alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

MIN_PREFIX = 32
"""Tokens in common below which a separate pass over the prefix costs more than it saves."""
MIN_CHOICE_ROOM = 128
"""Tokens of choices that may stand beside each other after a short prompt."""
MIN_SAVING = 256
"""Tokens that a family must save to be worth its own batches."""


@dataclass
class Question:
    """One prompt and the choices scored after it."""

    context: tuple[int, ...]
    choices: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    """Tokens of a choice to the requests that ask for it."""

    def add(self, choice: tuple[int, ...], request: int) -> None:
        self.choices.setdefault(choice, []).append(request)

    @property
    def length(self) -> int:
        """Tokens of its row when nothing is shared."""
        return len(self.context) + sum(len(c) - 1 for c in self.choices)

    def split(self) -> "Iterator[Question]":
        """Questions with the same prompt and fewer choices each.

        Attention costs the square of a row: choices go beside each other only while they stay short beside their
        prompt. (Choices without any context all share one prompt of one token.)
        """
        room = max(4 * len(self.context), MIN_CHOICE_ROOM)
        part, used = Question(self.context), 0
        for choice, requests in self.choices.items():
            if part.choices and used + len(choice) > room:
                yield part
                part, used = Question(self.context), 0
            part.choices[choice] = requests
            used += len(choice)
        yield part


@dataclass
class Family:
    """Questions whose contexts begin with the same ``prefix`` tokens."""

    questions: list[Question]
    prefix: int


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    low, high = 0, n  # a[:low] agree, a[:high] do not
    while high - low > 1:
        middle = (low + high) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle
    return low


def families(questions: Sequence[Question]) -> list[Family]:
    """Split the questions so that much is shared; those that share too little come last, as one family without prefix.

    Sorted by tokens, neighbours share most; a run of neighbours shares the smallest overlap between two of them.
    """
    if not questions:
        return []
    ordered = sorted((part for q in questions for part in q.split()), key=lambda q: q.context)
    # At least one token of a prompt stays outside the prefix: it predicts the first token of the choices.
    overlap = [
        min(common_length(a.context, b.context), len(a.context) - 1, len(b.context) - 1) for a, b in pairwise(ordered)
    ]
    found, alone = [], []
    stack = _runs(overlap)
    while stack:
        start, stop = stack.pop()
        inner = overlap[start : stop - 1]
        prefix = min(inner, default=0)
        typical = sorted(inner)[len(inner) // 2] if inner else 0
        if prefix < typical / 2:  # the run holds several headers that begin alike
            cut = start + inner.index(prefix) + 1
            stack += [(start, cut), (cut, stop)]
        elif (stop - start - 1) * prefix >= MIN_SAVING:
            found.append(Family(ordered[start:stop], prefix))
        else:
            alone += ordered[start:stop]
    return found + ([Family(alone, 0)] if alone else [])


def _runs(overlap: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges of neighbours that share at least MIN_PREFIX tokens, one after the other."""
    cuts = [0, *(i + 1 for i, shared in enumerate(overlap) if shared < MIN_PREFIX), len(overlap) + 1]
    return list(pairwise(cuts))


def pack(family: Family, batch_tokens: int) -> Iterator[list[Question]]:
    """Batches of similar length, longest first (what does not fit in memory fails at once), by padded tokens."""
    batch: list[Question] = []
    width = 0
    for question in sorted(family.questions, key=lambda q: -q.length):
        length = question.length - family.prefix
        width = width or length
        if batch and width * (len(batch) + 1) > batch_tokens:
            yield batch
            batch, width = [], length
        batch.append(question)
    if batch:
        yield batch
