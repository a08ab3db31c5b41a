"""One full corpus for all tests of the folder: what is promised of it must hold at its real size."""

import json
from pathlib import Path
from typing import Any

import pytest

from data.demo.corpus import write_corpus


class Corpus:
    """A generated corpus, its JSON Lines read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = write_corpus(folder)
        self._rows: dict[str, list[dict[str, Any]]] = {}

    def rows(self, name: str) -> list[dict[str, Any]]:
        if name not in self._rows:
            with open(self.folder / name, encoding="utf-8") as f:
                self._rows[name] = [json.loads(line) for line in f]
        return self._rows[name]

    def training_texts(self, language: str) -> list[str]:
        files = sorted((self.folder / f"web_{language}").glob("*.jsonl"))
        return [row["text"] for f in files for row in self.rows(f"web_{language}/{f.name}")]

    def benchmarks(self) -> list[str]:
        return sorted(f"benchmarks/{f.name}" for f in (self.folder / "benchmarks").iterdir())


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("demo") / "corpus")
