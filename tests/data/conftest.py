"""Small runs for the data stage: a recipe around a data configuration, without the other sections."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from data.config import DataConfig
from duetto.recipe import Recipe, TokenizerTraining, validate
from duetto.run import Run

SENTENCES = {
    "en": "the river was wide and the old boat had no sail so they walked along the bank until dark",
    "it": "il fiume era largo e la vecchia barca non aveva vela così camminarono lungo la riva fino a sera",
}


def text_of(language: str, i: int, words: int = 60) -> str:
    """A document that differs from its neighbours; no real sentence, but real words."""
    pool = SENTENCES[language].split()
    picked = [pool[(i * 7 + j * (3 + i % 5)) % len(pool)] for j in range(words)]
    return f"{language} document {i}. " + " ".join(picked) + "."


def _write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture
def write_jsonl() -> Callable[..., Path]:
    return _write_jsonl


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """``make_run(data, tokenizer=..., name=...)`` -> a Run in the test's folder."""

    def make(
        data: dict[str, Any], tokenizer: Any = None, name: str = "run", languages: Sequence[str] = ("en", "it")
    ) -> Run:
        recipe = Recipe(
            file=tmp_path / "recipe.yaml",
            name=name,
            languages=list(languages),
            tokenizer=tokenizer or TokenizerTraining.model_validate({"train": {"vocab_size": 400}}),
            data=validate(DataConfig, data, "data"),
            pretrain=[],
            sft=None,
            dpo=None,
            eval=None,
            release=None,
            cluster=None,
            run_root=tmp_path / "runs" / name,
            resolved={"name": name, "data": data},
        )
        return Run(recipe)

    return make


@pytest.fixture
def args() -> argparse.Namespace:
    return argparse.Namespace(force=False, only=None)


@pytest.fixture
def two_sources(tmp_path: Path) -> dict[str, Any]:
    """A data configuration over 2 x 300 generated documents and a validation file."""
    for language in ("en", "it"):
        rows = [{"id": f"{language}-{i}", "text": text_of(language, i)} for i in range(300)]
        for part in range(3):
            _write_jsonl(tmp_path / "in" / language / f"{part}.jsonl", rows[part::3])
    held = [{"id": f"v{i}", "text": text_of("en", 1000 + i)} for i in range(20)]
    _write_jsonl(tmp_path / "in" / "validation.jsonl", held)
    return {
        "sources": {
            lang: {"kind": "jsonl", "path": str(tmp_path / "in" / lang), "language": lang, "clean": ["repair"]}
            for lang in ("en", "it")
        },
        "stages": [{"name": "main", "tokens": {"en": 3000, "it": 3000}}],
        "validation": {"files": {"en": str(tmp_path / "in" / "validation.jsonl")}},
        "decontaminate": {"enabled": False},
        "executor": {"workers": 1},
    }
