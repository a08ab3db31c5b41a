"""What a score has to beat besides chance: the choices without their context, and counting shared words.

A four-choice task whose right ending can be told from the endings alone, or from the words it repeats, measures the
test rather than the model (see the study in docs/evaluation.md).
"""

import re
from collections.abc import Sequence
from typing import Any

_WORD = re.compile(r"\w+")


def word_overlap_credit(context: str, choices: Sequence[str], target: int) -> float:
    """Credit in [0, 1] for picking the choice with the largest share of its words in the context; ties share it."""
    seen = set(_WORD.findall(context.lower()))
    shares = []
    for choice in choices:
        words = _WORD.findall(choice.lower())
        shares.append(sum(w in seen for w in words) / len(words) if words else 0.0)
    best = max(shares)
    winners = [i for i, share in enumerate(shares) if share == best]
    return 1 / len(winners) if target in winners else 0.0


def word_overlap(task: Any, docs: Sequence[Any]) -> float:
    """Mean credit of the heuristic over the items of an lm-eval multiple-choice task."""
    credits = [
        word_overlap_credit(task.doc_to_text(doc), task.doc_to_choice(doc), task.doc_to_target(doc)) for doc in docs
    ]
    return sum(credits) / len(credits)


def no_context(lm: Any, task: Any, docs: Sequence[Any], metric: str) -> float:
    """The task's metric when the model sees each choice without the context before it."""
    from lm_eval.api.instance import Instance

    requests = [
        Instance(
            request_type="loglikelihood",
            doc=doc,
            arguments=("", f"{task.config.target_delimiter}{choice}"),
            idx=i,
            metadata=(task.config.task, n, 1),
        )
        for n, doc in enumerate(docs)
        for i, choice in enumerate(task.doc_to_choice(doc))
    ]
    answers = iter(lm.loglikelihood(requests, disable_tqdm=True))
    values = []
    for doc in docs:
        scored = [next(answers) for _ in task.doc_to_choice(doc)]
        values.append(task.process_results(doc, scored)[metric])
    return float(sum(values) / len(values))
