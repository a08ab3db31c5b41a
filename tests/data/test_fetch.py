"""`duetto fetch` against a local Hub over HTTP, and what cleaning then finds without a network."""

import io
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from data.hub import HubPath, parse
from duetto.errors import UserError
from tests.support.hub import LocalHub, Repo

DRIVER = """
import argparse, sys, yaml
from pathlib import Path
from types import SimpleNamespace as Any
from data import fetch, stage
from data.config import DataConfig
from duetto.errors import UserError
from duetto.recipe import Recipe, TokenizerTraining
from duetto.run import Run
root, verb = Path(sys.argv[1]), sys.argv[3]
recipe = Recipe(file=root, name="run", languages=["it"], data=DataConfig.model_validate(yaml.safe_load(Path(sys.argv[2]).read_text())),
    pretrain=[Any(model=Any(init_method=Any(path="tester/start")))], sft={"datasets": [{"path": "tester/chats"}, {"path": "/local/x.jsonl"}]}, dpo=None, eval=None, release=None, cluster=None, run_root=root, resolved={}, tokenizer="tester/tok")
try:
    with Run(recipe) as run:
        if verb in ("fetch", "again", "newest"):
            only = None if verb == "fetch" else "tokenizer"
            fetch.run(run, argparse.Namespace(only=only, dry_run=False, force=verb == "newest"))
        elif verb == "find":
            from huggingface_hub import snapshot_download
            print(stage.find_tokenizer(run, "tester/tok").name)
            print(Path(snapshot_download("tester/start", local_files_only=True)).name)
        else:
            stage.run(run, argparse.Namespace(force=False, only="clean"))
except UserError as e:
    sys.exit(f"error: {e}")
"""


def parquet(rows: list[dict]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


@pytest.fixture
def duetto(tmp_path):
    data = {
        "sources": {
            "web_it": {
                "kind": "hub",
                "path": "tester/web/data/it",
                "language": "it",
                "exclude": ["*skip*"],
                "clean": [],
            }
        },
        "stages": [{"name": "s", "tokens": {"web_it": 10}}],
        "decontaminate": {"enabled": False},
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    (tmp_path / "driver.py").write_text(DRIVER)

    def call(verb: str, **env: str) -> subprocess.CompletedProcess:
        command = [sys.executable, tmp_path / "driver.py", tmp_path / "run", tmp_path / "data.yaml", verb]
        clean = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
        full = {**clean, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "TRANSFORMERS_OFFLINE": "1", **env}
        return subprocess.run(command, capture_output=True, text=True, env=full, timeout=120)

    return call


def test_fetch_then_clean_offline(tmp_path, duetto):
    rows = [{"id": f"r{i}", "text": f"riga numero {i} del testo"} for i in range(20)]
    with LocalHub(tmp_path / "hub") as hub:
        files = {
            "data/it/0.parquet": parquet(rows[:12]),
            "data/it/1.parquet": parquet(rows[12:]),
            "data/it/skip.parquet": b"not wanted",
            "data/en/0.parquet": parquet(rows),
            "README.md": b"# web",
        }
        hub.repos["dataset", "tester/web"] = Repo(private=False)
        hub.repos["dataset", "tester/web"].commit("main", {k: hub.store(v) for k, v in files.items()}, "data")
        hub.repos["dataset", "tester/chats"] = Repo(private=False)
        chats = b'{"messages": []}\n'
        hub.repos["dataset", "tester/chats"].commit("main", {"train.jsonl": hub.store(chats)}, "data")
        hub.seed("tester/tok", {"tokenizer.json": b"{}", "model.safetensors": b"weights"})
        hub.seed("tester/start", {"config.json": b"{}", "model.safetensors": b"weights", "old.bin": b"weights"})
        missing = duetto("clean", HF_HUB_OFFLINE="1")
        assert missing.returncode == 1 and "run `duetto fetch" in missing.stderr
        for verb in ("fetch", "again"):  # the second finds everything here
            done = duetto(verb, HF_ENDPOINT=hub.url, HF_TOKEN=hub.read_token)
            assert done.returncode == 0, done.stderr
            # A branch that moves on: what was begun with one commit stays with it.
            hub.repos["model", "tester/tok"].commit("main", {"tokenizer.json": hub.store(b'{"new": 1}')}, "newer")
        first = json.loads((tmp_path / "run" / "fetch.json").read_text())["tokenizer"]["tester/tok"]["commit"]
        assert first == hub.repos["model", "tester/tok"].log[0][0]
        found = duetto("find", HF_HUB_OFFLINE="1")
        assert found.returncode == 0, found.stderr
        assert found.stdout.split() == [first, hub.repos["model", "tester/start"].log[0][0]]
        assert not list((tmp_path / "hf").rglob("old.bin"))
        newest = duetto("newest", HF_ENDPOINT=hub.url, HF_TOKEN=hub.read_token)
        assert newest.returncode == 0, newest.stderr
    manifest = json.loads((tmp_path / "run" / "fetch.json").read_text())
    assert manifest["tokenizer"]["tester/tok"]["commit"] == hub.repos["model", "tester/tok"].log[-1][0]
    assert manifest["sources"]["web_it"]["files"] == 2
    assert manifest["tokenizer"]["tester/tok"]["files"] == manifest["sft"]["tester/chats"]["files"] == 1
    # Without a network a data set is asked for by its branch.
    commit = (tmp_path / "hf/hub/datasets--tester--chats/refs/main").read_text()
    assert (tmp_path / "hf/hub/datasets--tester--chats/snapshots" / commit / "train.jsonl").read_bytes() == chats
    assert hub.write_token not in json.dumps(manifest)
    clean = duetto("clean", HF_HUB_OFFLINE="1")
    assert clean.returncode == 0, clean.stderr
    made = json.loads((tmp_path / "run" / "manifests" / "clean-web_it.json").read_text())
    assert manifest["sources"]["web_it"]["commit"] in json.dumps(made)
    stats = json.loads((tmp_path / "run" / "data" / "web_it" / "stats.json").read_text())
    assert stats["counts"]["documents_out"] == 20 and stats["counts"]["files_in"] == 2
    next((tmp_path / "hf").rglob("data/it/1.parquet")).unlink()
    torn = duetto("clean", HF_HUB_OFFLINE="1")
    assert torn.returncode == 1 and "run `duetto fetch` again" in torn.stderr


def test_a_repository_that_is_not_there(tmp_path, duetto):
    with LocalHub(tmp_path / "hub") as hub:
        hub.seed("tester/tok", {"tokenizer.json": b"{}"})
        done = duetto("fetch", HF_ENDPOINT=hub.url, HF_TOKEN=hub.read_token)
    assert done.returncode == 1 and "error: web_it: tester/web@main: RepositoryNotFoundError" in done.stderr, (
        done.stderr
    )


def test_ifeval_brings_its_sentence_splitter(monkeypatch):
    from types import SimpleNamespace as Names

    import nltk

    from data.fetch import fetch_punkt

    def run(task):
        return Names(recipe=Names(eval=Names(tasks=[Names(task=task)])))

    asked = []
    monkeypatch.setattr(nltk.data, "path", ["/nowhere"])
    monkeypatch.setattr(nltk, "download", lambda name, quiet: bool(asked.append(name)))
    fetch_punkt(run("hellaswag"))
    assert asked == []
    with pytest.raises(UserError, match="punkt_tab could not be downloaded"):
        fetch_punkt(run("ifeval-ita"))
    assert asked == ["punkt_tab"]


def test_hub_paths():
    assert parse("HuggingFaceFW/fineweb/sample/350BT") == HubPath("HuggingFaceFW/fineweb", None, "sample/350BT")
    assert parse("a/b@v1.0/x/").url == "hf://datasets/a/b@v1.0/x"
    assert parse("bigcode/starcoderdata").folder == ""
    with pytest.raises(UserError, match="namespace/name"):
        parse("just-a-name")
