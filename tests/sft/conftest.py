"""Fixtures of the post-training tests."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from duetto.run import Run
from sft import chatml, toolbox
from tests.sft.support import SPECIAL, Pool, make_base, make_recipe


@pytest.fixture(scope="session")
def conversations() -> list[dict[str, Any]]:
    """600 of the demo's own conversations, both languages."""
    from data.demo.conversations import conversation

    rng = random.Random(3)
    return [conversation(rng, ("en", "it")[i % 2], False, str(i)) for i in range(600)]


@pytest.fixture(scope="session")
def tool_dialogues() -> list[dict[str, Any]]:
    return list(toolbox.dialogues(120, seed=3))


@pytest.fixture(scope="session")
def texts(conversations: list[dict[str, Any]], tool_dialogues: list[dict[str, Any]]) -> list[str]:
    found = [m["content"] for c in conversations for m in c["messages"]]
    return found + [chatml.render(d["messages"], d["tools"]).replace("<|", "< |") for d in tool_dialogues[:60]]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "base", texts, SPECIAL)


@pytest.fixture(scope="session")
def reserved_base(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A base whose tokenizer, like Llama's, has reserved tokens and no ChatML."""
    special = [*SPECIAL[:2], "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"]
    return make_base(tmp_path_factory.mktemp("reserved") / "base", texts, special)


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    assert pool.process.stdin
    pool.process.stdin.close()
    pool.process.wait(timeout=30)


@pytest.fixture
def make_run(tmp_path: Path, base: Path) -> Callable[..., Run]:
    """A run folder in which convert is done."""

    def make(**parts: Any) -> Run:
        root = tmp_path / "run"
        if not (root / "base").exists():
            shutil.copytree(base, root / "base")
            (root / "manifests").mkdir()
            manifest = {"stage": "convert", "fingerprint": "x", "outputs": {"base": {"bytes": 1}}, "metrics": {}}
            (root / "manifests" / "convert.json").write_text(json.dumps(manifest))
        return Run(make_recipe(root, **parts))

    return make
