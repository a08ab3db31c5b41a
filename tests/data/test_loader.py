"""The loader on real files: every token is a target once an epoch, and nothing that changed is read."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from data.loader import Mixture, document_positions, open_folders, open_mixture
from data.shards import Shard
from duetto.errors import UserError

SEQ = 16


@pytest.fixture
def folders(tmp_path):
    """Three sources of one to three shards; each token is unique, so a sample tells where it came from."""
    first = 0
    out = []
    for name, sizes in (("a", [500, 333, 17]), ("b", [1000]), ("c", [16, 250])):
        folder = tmp_path / name
        folder.mkdir()
        for i, size in enumerate(sizes):
            np.arange(first, first + size, dtype="<u2").tofile(folder / f"{i:05d}.ds")
            (folder / f"{i:05d}.ds.metadata").write_text(f"tokenizer.json@sha256:{'ab' * 8}|2\n{size}\n{size} T")
            first += size
        out.append(folder)
    return out


def open_three(folders, **options) -> Mixture:
    return open_folders(folders, [5, 3, 2], sequence_length=SEQ, seed=8, **options)


def test_a_sample_is_a_run_of_tokens_with_its_target(folders):
    dataset = open_three(folders)
    batch = dataset.batch(0, 40)
    assert batch.dtype == np.int64 and batch.shape == (40, SEQ + 1)
    assert (np.diff(batch, axis=1) == 1).all()  # inside one shard, never across two
    assert np.array_equal(dataset.sample(7), batch[7])


def test_every_token_is_a_target_exactly_once_an_epoch(folders):
    (folder,) = folders[:1]
    dataset = open_folders([folder], sequence_length=SEQ, seed=1)
    windows = dataset.sources[0].windows
    assert windows == 499 // SEQ + 332 // SEQ + 16 // SEQ
    for epoch in range(3):
        targets = np.concatenate([dataset.sample(k)[1:] for k in range(epoch * windows, (epoch + 1) * windows)])
        assert len(np.unique(targets)) == len(targets) == windows * SEQ
    first, second = dataset.batch(0, windows), dataset.batch(windows, windows)
    assert not np.array_equal(first, second)  # another order each time
    assert np.array_equal(np.sort(first, axis=0), np.sort(second, axis=0))
    assert dataset.unused_tokens == {str(folder): 850 - windows * SEQ}


def test_any_topology_gives_the_same_samples(folders):
    """4 ranks of 2 rows, 2 of 4, one of 8; and a jump to step 100 without the steps before."""
    whole = open_three(folders).batch(0, 8 * 101)
    for ranks, rows in ((4, 2), (2, 4), (1, 8)):
        parts = [open_three(folders).batch(step * 8 + r * rows, rows) for step in (0, 100) for r in range(ranks)]
        assert np.array_equal(np.concatenate(parts[:ranks]), whole[:8])
        assert np.array_equal(np.concatenate(parts[ranks:]), whole[800:808])


def test_another_process_gives_the_same_samples(folders):
    code = (
        "import sys, hashlib; from data.loader import open_folders;"
        f"d = open_folders(sys.argv[1:], [5, 3, 2], sequence_length={SEQ}, seed=8);"
        "print(d.fingerprint, hashlib.sha256(d.batch(1000, 64).tobytes()).hexdigest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    out = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True, env=env)
    import hashlib

    here = open_three(folders)
    assert out.stdout.split() == [here.fingerprint, hashlib.sha256(here.batch(1000, 64).tobytes()).hexdigest()]


def test_moved_folders_keep_their_order(folders, tmp_path):
    before = open_three(folders)
    moved = [f.rename(tmp_path / f"moved-{f.name}") for f in folders]
    after = open_three(moved)
    assert after.fingerprint == before.fingerprint
    assert np.array_equal(after.batch(10, 30), open_three(moved).batch(10, 30))


def test_weights_and_seed_decide(folders):
    dataset = open_three(folders)
    assert dataset.weights == dict(zip(map(str, folders), (0.5, 0.3, 0.2)))
    sizes = [850, 1850, 2116]
    drawn = np.bincount(np.searchsorted(sizes, dataset.batch(0, 1000)[:, 0], side="right"), minlength=3)
    assert drawn.tolist() == [500, 300, 200]
    other = open_folders(folders, [5, 3, 2], sequence_length=SEQ, seed=9)
    assert other.fingerprint != dataset.fingerprint and not np.array_equal(other.batch(0, 8), dataset.batch(0, 8))


def test_many_shards_do_not_keep_files_open(tmp_path):
    for i in range(400):
        np.full(40, i, "<u2").tofile(tmp_path / f"{i:05d}.ds")
    dataset = open_folders([tmp_path], sequence_length=SEQ, seed=1, token_size=2)
    for k in range(0, dataset.sources[0].windows, 10):
        dataset.batch(k, 10)
    assert len(dataset._files) <= 256
    again = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(again.batch(3, 4), dataset.batch(3, 4))


def test_document_positions():
    tokens = np.array([[5, 6, 0, 7, 0, 0, 8], [0, 1, 2, 3, 4, 5, 6]])
    expected = [[0, 1, 2, 0, 1, 0, 0], [0, 0, 1, 2, 3, 4, 5]]
    assert document_positions(tokens, eos_id=0).tolist() == expected
    assert document_positions(tokens[0], eos_id=0).tolist() == expected[0]


def test_fsspec_urls(folders):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for folder in folders:
        for file in folder.iterdir():
            memory.pipe_file(f"/mix/{folder.name}/{file.name}", file.read_bytes())
    local, remote = open_three(folders), open_three([f"memory://mix/{f.name}" for f in folders])
    named = {s.name: s.shards for s in remote.sources}
    assert [s.tokens for s in local.sources[0].shards] == [s.tokens for s in named["memory://mix/a"]]
    k = np.arange(50)
    source, shard, start = remote.locate(k)
    rows = remote.gather(k)
    for i in range(50):
        path = remote.sources[source[i]].shards[shard[i]].path
        stored = np.frombuffer(memory.cat_file(path), "<u2")
        assert np.array_equal(rows[i], stored[start[i] : start[i] + SEQ + 1])


def test_refuses_what_does_not_fit(folders, tmp_path):
    with pytest.raises(UserError, match="2 weights"):
        open_folders(folders, [1, 2], sequence_length=SEQ, seed=1)
    with pytest.raises(UserError, match=r"no \.ds files"):
        open_folders([tmp_path / "nothing"], sequence_length=SEQ, seed=1)
    with pytest.raises(UserError, match="no window of 4097 tokens"):
        open_folders(folders, [1, 1, 1], sequence_length=4096, seed=1)
    with pytest.raises(UserError, match="another tokenizer"):
        open_three(folders, tokenizer_sha256="cd" * 32)
    with pytest.raises(UserError, match="another tokenizer"):
        open_three(folders, vocab_size=128_256)
    with open(folders[1] / "00000.ds", "ab") as f:
        f.write(b"\x00")
    with pytest.raises(UserError, match="truncated"):
        open_three(folders)


@pytest.fixture
def mixture(folders, tmp_path):
    """A mixture.json as the tokenize verb writes it."""
    sources = {}
    for folder in folders:
        records = []
        for p in sorted(folder.glob("*.ds")):
            n = p.stat().st_size // 2
            records.append({**Shard(str(p), n, 2, 1).record(str(tmp_path))})
        sources[folder.name] = {"shards": records}
    draws = {"a": {"tokens": 1600}, "b": {"tokens": 960}, "c": {"tokens": 640}, "unused": {"tokens": 0}}
    path = tmp_path / "mixture.json"
    path.write_text(
        json.dumps(
            {
                "tokenizer": {"sha256": "ab" * 32, "vocab_size": 4000, "eos_id": 3, "eos": "x"},
                "token_size": 2,
                "max_epochs": {"a": 4, "b": 4, "c": 4},
                "stages": [{"name": "main", "sources": draws}],
                "sources": sources,
            }
        )
    )
    return path


@pytest.mark.parametrize("verify", ["full", "quick", "auto"])
def test_changed_and_missing_shards_are_found_at_open(mixture, folders, verify):
    dataset = open_mixture(mixture, sequence_length=SEQ, seed=1, verify=verify)
    assert dataset.total_samples == 200 and dataset.weights == {"a": 0.5, "b": 0.3, "c": 0.2}
    shard = folders[1] / "00000.ds"
    good = shard.read_bytes()
    shard.write_bytes(good[:-2])
    with pytest.raises(UserError, match=r"00000\.ds: the token shard has 1,998 bytes instead of 2,000"):
        open_mixture(mixture, sequence_length=SEQ, seed=1, verify=verify)
    shard.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
    with pytest.raises(UserError, match="hash differs"):
        open_mixture(mixture, sequence_length=SEQ, seed=1, verify=verify)
    shard.unlink()
    with pytest.raises(UserError, match="missing"):
        open_mixture(mixture, sequence_length=SEQ, seed=1, verify=verify)


def test_truncation_under_a_running_job_is_an_error_not_a_crash(mixture, folders):
    dataset = open_mixture(mixture, sequence_length=SEQ, seed=1)
    os.truncate(folders[1] / "00000.ds", 100)
    with pytest.raises(UserError, match="truncated during the run"):
        dataset.batch(0, 100)


def test_passes_beyond_the_bound_are_refused(mixture):
    dataset = open_mixture(mixture, sequence_length=SEQ, seed=1)
    dataset.require(200)
    with pytest.raises(UserError, match=r"passes over source a \(bound: 4\)"):
        dataset.require(2000)


def test_unknown_stage(mixture):
    with pytest.raises(UserError, match="stage 3 asked for"):
        open_mixture(mixture, stage=3, sequence_length=SEQ, seed=1)
