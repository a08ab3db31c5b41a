"""A killed job, a full disk: nothing is lost, nothing is doubled, nothing is torn."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from data.encode import load_tokenizer
from data.writer import FastDocumentTokenizer

DRIVER = """
import argparse, sys, yaml
from pathlib import Path
from data import stage, writer
from data.config import DataConfig
from duetto.errors import UserError
from duetto.recipe import Recipe, TokenizerTraining
from duetto.run import Run
if __name__ == "__main__":  # worker processes import this file
    root, data = Path(sys.argv[1]), yaml.safe_load(Path(sys.argv[2]).read_text())
    writer.JOURNAL_TOKENS = 2000
    recipe = Recipe(file=root, name="run", languages=["en"], data=DataConfig.model_validate(data), pretrain=[], sft=None, dpo=None,
        eval=None, release=None, cluster=None, run_root=root, resolved={},
        tokenizer=TokenizerTraining.model_validate({"train": {"vocab_size": 400}}))
    try:
        with Run(recipe) as run:
            stage.run(run, argparse.Namespace(force=False, only=None))
    except UserError as e:
        sys.exit(f"error: {e}")
"""


def wait_for(condition, seconds: float, step: float = 0.05) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(step)
    return False


def start(tmp_path: Path, root: Path, data: dict) -> subprocess.Popen:
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    return subprocess.Popen(
        [sys.executable, tmp_path / "driver.py", root, tmp_path / "data.yaml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def digest(root: Path) -> dict[str, str]:
    """Hashes of everything under data/, tokens/ and tokenizer/ but what holds times."""
    out = {}
    for part in ("data", "tokens", "tokenizer"):
        for p in sorted((root / part).rglob("*")):
            if p.is_file() and p.name != "costs.json":
                if p.name.startswith("costs."):
                    continue  # CPU seconds: what varies from run to run is kept apart
                out[str(p.relative_to(root))] = hashlib.sha256(p.read_bytes()).hexdigest()
    return out


def test_killed_and_run_again_gives_the_same_bytes(tmp_path, two_sources):
    whole = start(tmp_path, tmp_path / "whole", two_sources)
    assert whole.wait(timeout=120) == 0, whole.stdout.read()
    expected = digest(tmp_path / "whole")
    root = tmp_path / "killed"
    # Three kills at three places; the folder of each appears when the step before it is done.
    for sign in ("data/it/.tasks", "tokenizer", "tokens/it/.00000.part"):
        child = start(tmp_path, root, two_sources)
        wait_for(lambda sign=sign, child=child: (root / sign).exists() or child.poll() is not None, 60, step=0.001)
        child.send_signal(signal.SIGKILL)
        child.wait()
    last = start(tmp_path, root, two_sources)
    assert last.wait(timeout=120) == 0, last.stdout.read()
    assert digest(root) == expected
    assert not list(root.rglob("*.part")) and not list(root.rglob(".tasks"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    from data.train_tokenizer import train

    folder = tmp_path_factory.mktemp("tokenizer")
    train((f"the quick brown fox {i} jumps over the lazy dog" for i in range(200)), 300, folder)
    return folder


def test_a_task_goes_on_from_its_journal(tmp_path, tokenizer, monkeypatch):
    """Ids are counted through a failure half-way: each document is encoded and written once."""
    from datatrove.data import Document

    from data import writer

    monkeypatch.setattr(writer, "JOURNAL_TOKENS", 500)
    documents = [Document(text=f"document number {i} of the test", id=str(i)) for i in range(400)]

    def tokenize(folder: Path, stop_at: int | None) -> int:
        read = 0

        def feed():
            nonlocal read
            for i, d in enumerate(documents):
                if i == stop_at:
                    raise RuntimeError("killed")
                read += 1
                yield d

        step = FastDocumentTokenizer(str(folder), str(tokenizer), label="t", batch_size=16, seed=3)
        step.run(feed())
        return read

    tokenize(tmp_path / "whole", None)
    with pytest.raises(RuntimeError):
        tokenize(tmp_path / "killed", 300)
    saved = json.loads((tmp_path / "killed" / ".00000.part" / "journal.json").read_text())
    assert 0 < saved["documents"] <= 300
    encoded = []
    encoder = load_tokenizer(tokenizer).encoder("fastokens")
    monkeypatch.setattr(
        "data.encode.TokenizerFile.encoder",
        lambda self, engine: lambda texts: (encoded.extend(texts), encoder(texts))[1],
    )
    step = FastDocumentTokenizer(
        str(tmp_path / "killed"), str(tokenizer), label="t", batch_size=16, seed=3, oracle_documents=0
    )
    step.run(iter(documents))
    assert len(encoded) == 400 - saved["documents"]
    for name in ("ds", "ds.index", "ds.metadata"):
        file = f"00000_00000_doc_shuffled.{name}"
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    ends = np.fromfile(tmp_path / "whole" / "00000_00000_doc_shuffled.ds.index", "<u8")
    assert len(ends) == 400


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare for a private tmpfs")
def test_full_disk_tears_nothing_and_says_what_to_free(tmp_path, two_sources):
    small = tmp_path / "small"
    small.mkdir()
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(two_sources))
    script = (
        f"mount -t tmpfs -o size=120k tmpfs {small} || exit 77; "
        f"{sys.executable} {tmp_path}/driver.py {small}/run {tmp_path}/data.yaml; code=$?; "
        f"find {small} -name '*.ds' -o -name '*.parquet' -o -name 'mixture.json' > {tmp_path}/left; exit $code"
    )
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, timeout=120)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("no private mounts here")
    assert done.returncode == 1 and "error: the disk is full" in done.stderr, done.stderr
    assert "free some space" in done.stderr
    assert "mixture.json" not in (tmp_path / "left").read_text()


def test_workers_die_with_their_parent(tmp_path, two_sources):
    """A SIGKILL of the verb leaves no process that keeps the lock of the run folder."""
    two_sources["executor"] = {"workers": 2}
    for source in two_sources["sources"].values():
        source["tasks"] = 3
    root = tmp_path / "root"
    child = start(tmp_path, root, two_sources)
    assert wait_for(lambda: (root / "data" / "en" / ".tasks" / "logs").exists() or child.poll() is not None, 60)
    child.send_signal(signal.SIGKILL)
    child.wait()
    mine = str(tmp_path).encode()

    def alive() -> list[str]:
        found = []
        for p in Path("/proc").glob("[0-9]*"):
            try:
                if int(p.name) != os.getpid() and mine in (p / "cmdline").read_bytes():
                    found.append(p.name)
            except OSError:
                continue
        return found

    assert wait_for(lambda: not alive(), 30), alive()  # a fork server first ends its imports
    began = time.monotonic()
    again = start(tmp_path, root, two_sources)
    assert again.wait(timeout=120) == 0, again.stdout.read()
    assert time.monotonic() - began < 110
