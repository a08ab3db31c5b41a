"""A model card from the run's own files: every number is read, none is typed.

render_card(CardFacts(run, "base"), "en") -> Card(text, claims, metadata)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.files import read_json
from release.config import text_in
from release.facts import CardFacts
from release.render import Claim, Renderer
from release.scores import Score, findings, scores_of
from release.tables import Tables
from release.traced import Document, Traced, plain

README = {"en": "README.md", "it": "README.it.md"}
"""File of a card by language."""

USAGE_PROMPTS = {
    "en": {"base": "Once upon a time", "instruct": "Tell me a short story about a dog and a river."},
    "it": {"base": "C'era una volta", "instruct": "Raccontami una breve storia su un cane e un fiume."},
}


@dataclass(frozen=True)
class Card:
    """A rendered card: the file's text, its claims and its metadata as a mapping."""

    language: str
    text: str
    claims: list[Claim]
    metadata: dict[str, Any]


def metadata_of(facts: CardFacts, rows: Sequence[Score]) -> Any:
    """The YAML block as huggingface_hub's ModelCardData, model-index included."""
    from huggingface_hub import EvalResult, ModelCardData

    release, kind = facts.release, facts.kind
    tags = ["duetto", "llama", "small-language-model", *(["bilingual"] if len(facts.languages) == 2 else [])]
    tags += (["conversational", "chatml"] if kind == "instruct" else []) + release.tags
    results = [
        EvalResult(
            task_type="text-generation",
            task_name=str(plain(row.task)),
            dataset_type=str(plain(row.task)),
            dataset_name=str(plain(row.task)),
            dataset_args={"language": row.language},
            metric_type=metric_type(str(plain(row.metric))),
            metric_name=str(plain(row.metric)),
            metric_value=round(float(plain(row.value)), 6),
            metric_args={"num_fewshot": plain(row.shots)} if row.shots is not None else None,
        )
        for row in rows
    ]
    return ModelCardData(
        language=list(facts.languages),
        license=release.license,
        license_name=release.license_name,
        license_link=release.license_link,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys(tags)),
        datasets=release.datasets or None,
        base_model=release.repo_of("base") if kind == "instruct" else None,
        base_model_relation="finetune" if kind == "instruct" and release.repo_of("base") else None,
        model_name=release.name_of(kind),
        eval_results=results or None,
    )


def metric_type(metric: str) -> str:
    """The Hub's name of an lm-eval metric."""
    return "accuracy" if metric.split(",")[0] in ("acc", "acc_norm", "acc_bytes", "accuracy") else metric.split(",")[0]


def render_card(facts: CardFacts, language: str, chat_example: str | None = None) -> Card:
    """Render one card.

    Args:
        chat_example: what the chat template makes of a short conversation; None for a base model.
    """
    renderer = Renderer(language)
    rows = scores_of(facts)
    metadata = metadata_of(facts, rows)
    release = facts.release
    other_kind = "base" if facts.kind == "instruct" else "instruct"

    def free(name: str, below: str | None = None) -> Traced | None:
        """A free text of the recipe, or None when it is empty."""
        holder = getattr(release, below) if below else release
        text = text_in(getattr(holder, name), language)
        pointer = f"recipe.yaml#/release/{below + '/' if below else ''}{name}"
        return Traced(text, (pointer,)) if text else None

    by_language: dict[str, list[Score]] = {}
    for row in rows:
        by_language.setdefault(row.language, []).append(row)
    text, claims = renderer.render(
        f"card.{language}.md.j2",
        f=facts,
        t=Tables(renderer, facts),
        free=free,
        kind=facts.kind,
        repo=_traced_repo(facts, facts.kind),
        other_repo=_traced_repo(facts, other_kind),
        rows=rows,
        by_language=by_language,
        averages={lang: mean([r.value for r in found]) for lang, found in by_language.items()},
        limited=next((r.limit for r in rows if r.limit is not None), None),
        average=mean([r.value for r in rows]),
        found=findings(rows),
        prompt=USAGE_PROMPTS[language if language in facts.languages else "en"][facts.kind],
        chat_example=Traced(chat_example, (f"{facts.kind}/chat_template.jinja",)) if chat_example else None,
        samples=_samples(facts),
        chat=facts.m["eval"].at("metrics", "chat") if "eval" in facts.m and facts.kind == "instruct" else None,
        contamination=contamination(facts),
        compared=plain(facts.recipe.at("data", "decontaminate", "enabled")),
        metadata=metadata.to_yaml(),
        citation=Traced(release.citation.strip(), ("recipe.yaml#/release/citation",)) if release.citation else None,
        related=[Traced(r, ("recipe.yaml#/release/related_models",)) for r in release.related_models],
        year=facts.m["pretrain"].at("started"),
    )
    return Card(language, text, claims, metadata.to_dict())


def _traced_repo(facts: CardFacts, kind: Any) -> Traced:
    repo = facts.release.repo_of(kind)
    if repo:
        return Traced(repo, ("recipe.yaml#/release/hub_repo",))
    return Traced(facts.release.name_of(kind), ("recipe.yaml#/release/model_name",))


def mean(values: Sequence[Traced]) -> Traced | None:
    """Unweighted mean of scores; None of none."""
    if not values:
        return None
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total / len(values)


def _samples(facts: CardFacts) -> Document | None:
    found = facts.m["eval"].at("metrics", "samples") if "eval" in facts.m else None
    return found if isinstance(found, Document) and facts.kind == "instruct" else None


def contamination(facts: CardFacts) -> dict[str, Any] | None:
    """Source x benchmark: items of a benchmark that a source's documents held (those documents were dropped)."""
    table: dict[str, dict[str, Traced]] = {}
    for row in facts.sources:
        name = str(plain(row["name"]))
        stats = facts.open("data", name, "stats.json")
        items = stats.at("contaminated_items") if stats else None
        if not isinstance(items, Document):
            continue
        for benchmark in items:
            found = items[benchmark]
            count = Traced(len(plain(found)), (f"{items.source}/{benchmark}",))
            table.setdefault(name, {})[benchmark] = count
    benchmarks = list(dict.fromkeys(b for row in table.values() for b in row))
    return {"table": table, "benchmarks": benchmarks} if benchmarks else None


def chat_example(folder: Path) -> str:
    """A short conversation as the model's own template renders it.

    Raises:
        UserError: the chat model has no template.
    """
    # Not the tokenizer's own method, which imports torch: seconds for one string.
    from transformers.utils.chat_template_utils import render_jinja_template

    file = folder / "chat_template.jinja"
    if not file.is_file():
        raise UserError(f"{folder}: the chat model's tokenizer has no chat template; run: duetto sft")
    names = {k: v for k, v in read_json(folder / "tokenizer_config.json").items() if k.endswith("_token")}
    turns = [{"role": "user", "content": "Ciao!"}, {"role": "assistant", "content": "Ciao, come posso aiutarti?"}]
    rendered = render_jinja_template([turns], chat_template=file.read_text(encoding="utf-8"), **names)[0][0]
    return rendered.rstrip("\n")
