"""Shared by the tests of eval/: a tiny run folder with two random models and small benchmark files."""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import pytest

from duetto.recipe import Recipe, validate
from duetto.run import Run
from eval.config import EvalConfig
from tests.eval import tiny

WORDS = {
    "en": ["kite", "river", "house", "dog", "tree", "girl", "apple", "boat"],
    "it": ["aquilone", "fiume", "casa", "cane", "albero", "bambina", "mela", "barca"],
}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def cloze_rows(language: str, count: int, seed: int = 1) -> list[dict[str, Any]]:
    rng, words = random.Random(f"{language}{seed}"), WORDS[language]
    rows = []
    for i in range(count):
        a, b, c = rng.sample(words, 3)
        endings = [f"the {w} was red." if language == "en" else f"il {w} era rosso." for w in rng.sample(words, 4)]
        context = f"There was a {a} and a {b} near the {c}." if language == "en" else f"C'era un {a} con {b} e {c}."
        rows.append({"ind": i, "ctx": context, "endings": endings, "label": str(rng.randrange(4))})
    return rows


def make_recipe(root: Path, suite: dict[str, Any], sft: bool = True) -> Recipe:
    """A recipe with only what the eval stage reads."""
    config = validate(EvalConfig, suite, "eval")
    return Recipe(
        file=root / "recipe.yaml",
        name=root.name,
        languages=["en", "it"],
        tokenizer="none",
        data=None,
        pretrain=[],
        sft={"rl": None} if sft else None,
        dpo=None,
        eval=config,
        release=None,
        cluster=None,
        run_root=root,
        resolved={},
    )


def finish(root: Path, *stages: str) -> None:
    """Pretend that upstream stages are done."""
    for stage in stages:
        path = root / "manifests" / f"{stage}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"stage": stage, "outputs": {}}))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``base`` and ``instruct`` (with a chat template), random and tiny."""
    folder = tmp_path_factory.mktemp("models")
    tiny.make_model(folder / "base", seed=0)
    tiny.make_model(folder / "instruct", seed=1, chat=True)
    return folder


def demo_suite(root: Path, items: int = 6) -> dict[str, Any]:
    """Two tasks of the demo over small files, with chat checks."""
    tasks = []
    for language in ("en", "it"):
        file = write_lines(root / "corpus" / f"cloze_{language}.jsonl", cloze_rows(language, items))
        tasks.append(
            {
                "task": f"story_cloze_effect_{language}",
                "language": language,
                "label": "Cloze",
                "metric": "acc_bytes",
                "chance": 0.25,
                "baselines": True,
                "data": {"test": str(file)},
            }
        )
    asked = {"en": "Where is the kite?", "it": "Dove è la mela?"}
    told = {"en": "It is in the tree.", "it": "È nella casa."}
    rows = [
        {"language": x, "messages": [{"role": "user", "content": asked[x]}, {"role": "assistant", "content": told[x]}]}
        for x in ("en", "it")
        for _ in range(2)
    ]
    chat = write_lines(root / "corpus" / "heldout.jsonl", rows)
    return {
        "tasks": tasks,
        "published": None,
        "batch_size": 4,
        "threads": 1,
        "chat": {"file": str(chat), "prompts": 2, "max_new_tokens": 8},
    }


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Run:
    """A run whose eval stage is done, with stock lm-eval."""
    root = tmp_path_factory.mktemp("run") / "tiny"
    root.mkdir()
    for name in ("base", "instruct"):
        (root / name).symlink_to(models / name)
    finish(root, "convert", "sft")
    run = Run(make_recipe(root, demo_suite(root)))
    with run:
        evaluate(run)
    return run


def evaluate(run: Run, **options: Any) -> None:
    from eval import stage

    defaults = {
        "force": False,
        "json": False,
        "tables_only": False,
        "models": None,
        "checkpoints": False,
        "watch": False,
    }
    stage.run(run, argparse.Namespace(**{**defaults, **options}))
