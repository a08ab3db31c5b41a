"""Verb ``card``: the release folders of base and chat model, each with its card.

    duetto card --recipe configs/recipes/demo.yaml
    duetto card --check                 # only the lint: does every number of the card still follow from the run?

A release folder holds what is pushed and nothing else: weights in safetensors, tokenizer, chat template, generation
config, README.md and README.it.md, card.json (where each number came from), the evaluation results and the training
configuration without this machine's paths.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from duetto.console import log
from duetto.errors import UserError
from duetto.files import atomic_write, read_json, sha256_json, write_json
from duetto.run import Run
from duetto.stage import Job, Stage
from release.card import README, chat_example, render_card
from release.config import KINDS, ModelKind
from release.facts import CardFacts, neutral
from release.lint import lint

MODEL_FILES = (
    *("*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "vocab.json"),
    *("merges.txt", "added_tokens.json", "chat_template.jinja"),
)
"""What a model folder may give to a release; optimizer states, training arguments and logs have no place in it."""

VERSION = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="lint the cards that are there, make nothing")


def run(run: Run, args: argparse.Namespace) -> None:
    """Make ``release/<model>/`` for every model that the run has made, or only lint what is there.

    Raises:
        UserError: the lint finds something; every problem is logged.
    """
    kinds = [kind for kind in KINDS if kind == "base" or run.recipe.sft]
    if getattr(args, "check", False):
        check(run, kinds)
        return
    evaluated = run.manifest("eval") is not None
    if not evaluated:
        log("card: no evaluation results in this run; the card will say so")
    inputs = ["tokenize", "pretrain", "convert", *(["sft"] if "instruct" in kinds else [])]
    inputs += [s for s in ("dpo", "eval") if run.manifest(s) is not None]
    stage = Stage(
        name="card",
        version=VERSION,
        config={"recipe": sha256_json(neutral(run.recipe.resolved, run))},
        inputs=inputs,
        # The card quotes the manifests themselves (seconds, losses, versions), not only what their outputs are.
        files=[path for s in inputs if (path := run.path("manifests", f"{s}.json")).is_file()],
        outputs=[run.path("release", kind) for kind in kinds],
        work=lambda job: make_releases(job, kinds),
    )
    stage.execute(run, force=args.force)


def check(run: Run, kinds: list[ModelKind]) -> None:
    """Lint the cards; raises UserError when there are problems."""
    run.require("card")
    problems = [f"release/{kind}/{problem}" for kind in kinds for problem in lint(run, kind)]
    for problem in problems:
        log(problem)
    if problems:
        raise UserError(f"{run.path('release')}: {len(problems)} problem(s) in the cards, listed above")
    log(f"card: {len(kinds)} model(s): every number leads to its source")


def make_releases(job: Job, kinds: list[ModelKind]) -> dict[str, Any]:
    files: list[str] = []
    for kind in kinds:
        folder = make_release(job.run, kind)
        files += sorted(p.relative_to(job.run.root).as_posix() for p in folder.rglob("*") if p.is_file())
        for problem in (found := lint(job.run, kind)):
            log(f"release/{kind}/{problem}")
        if found:
            raise UserError(f"{folder}: {len(found)} problem(s) in the card, listed above; mend release in the recipe")
        log(f"card: {folder / 'README.md'}")
    return {"files": files}


def make_release(run: Run, kind: ModelKind) -> Path:
    """Fill ``release/<kind>/`` and return it."""
    facts = CardFacts(run, kind)
    folder = run.path("release", kind)
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in MODEL_FILES:
        for file in sorted(facts.model_folder.glob(pattern)):
            place(file, folder / file.name)
    if kind == "instruct":
        write_generation_config(facts, folder)
    copy_results(run, kind, folder)
    with atomic_write(folder / "training_config.yaml") as f:
        f.write("# The resolved recipe of the run that made this model; {run} and {root} stand for local folders.\n")
        yaml.safe_dump(neutral(run.recipe.resolved, run), f, sort_keys=False, allow_unicode=True)
    write_cards(facts, folder)
    return folder


def write_cards(facts: CardFacts, folder: Path) -> None:
    """README.md, README.it.md and card.json."""
    example = chat_example(folder) if facts.kind == "instruct" else None
    cards = {language: render_card(facts, language, example) for language in README}
    for language, card in cards.items():
        with atomic_write(folder / README[language]) as f:
            f.write(card.text)
    claims = {
        README[language]: [
            {"line": c.line, "text": c.text, "value": c.value, "sources": list(c.sources)} for c in card.claims
        ]
        for language, card in cards.items()
    }
    model = {"name": facts.release.name_of(facts.kind), "kind": facts.kind}
    documents = {"recipe.yaml": facts.run.recipe.hash, **facts.digests}
    write_json(folder / "card.json", {"generator": "duetto", "model": model, "documents": documents, "claims": claims})


def place(source: Path, target: Path) -> None:
    """A hard link where the disk allows one (a release needs no second copy of the weights), else a copy."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_generation_config(facts: CardFacts, folder: Path) -> None:
    """The recipe's generation settings, on purpose, with the model's own special tokens."""
    chosen = facts.release.generation
    file = folder / "generation_config.json"
    if chosen is None:
        if not file.is_file():
            raise UserError(
                f"{facts.model_folder}: has no generation_config.json; set release.generation in the recipe"
            )
        return
    before = read_json(file) if file.is_file() else {}
    kept = {
        k: before[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version") if k in before
    }
    file.unlink(missing_ok=True)  # a hard link: writing through it would change the model folder
    write_json(file, {**kept, **chosen.model_dump(exclude_none=True)})


def copy_results(run: Run, kind: ModelKind, folder: Path) -> None:
    """The evaluation JSON of this model, without this machine's paths."""
    target = folder / "eval"
    if target.exists():
        shutil.rmtree(target)
    for file in sorted(run.path("eval", kind).glob("*.json")):
        content = neutral(read_json(file), run)
        # The machine's name and where the run lay there are nobody's business.
        content |= {"host": "", "model": {**content["model"], "path": kind}}
        if "sha256" in content:  # the result's hash of itself, over the text without local paths
            content["sha256"] = sha256_json({k: v for k, v in content.items() if k != "sha256"})
        write_json(target / file.name, content)
