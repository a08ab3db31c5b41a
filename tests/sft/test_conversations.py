"""The preparation of whole files: nothing vanishes without a reason, and the rules do what they say."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from duetto.errors import UserError
from sft import chatml, sources
from sft.config import Preparation
from sft.conversations import prepare
from sft.overlap import HeldOut
from tests.sft.support import write_rows


def chat(ask: str, answer: str, language: str = "en", exchanges: int = 1) -> dict[str, Any]:
    turns = [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
    return {"language": language, "messages": turns * exchanges}


def go(tmp_path: Path, base: Path, rows: list[Any], context: int = 256, **rules: Any) -> tuple[list[Any], Any]:
    raw = write_rows(tmp_path / "raw.jsonl", rows)
    return run(tmp_path, base, raw, context, **rules)


def run(tmp_path: Path, base: Path, path: Path, context: int = 256, **rules: Any) -> tuple[list[Any], Any]:
    target = tmp_path / "kept.jsonl"
    report = prepare(
        [{"path": str(path)}],
        target,
        tokenizer_folder=base,
        context=context,
        languages=["en", "it"],
        rules=Preparation.model_validate({"max_rejected": 1.0, **rules}),
    )
    assert json.loads(target.with_suffix(".report.json").read_text()) == report
    return [json.loads(x) for x in target.read_text().splitlines()], report


def test_every_row_is_accounted_for(tmp_path: Path, base: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    good, bad = json.dumps(chat("Hello?", "Hello!")), json.dumps({"messages": [{"role": "user", "content": "x"}]})
    raw.write_text(f"{good}\n{good.upper()}\nnot json\n{bad}\n{good}\n")
    kept, report = run(tmp_path, base, raw)
    assert report["read"] == 5 == len(kept) + sum(r["count"] for r in report["rejected"].values())
    assert set(report["rejected"]) == {
        "duplicate", "the line is not JSON", "no assistant turn", "no conversation in any known field",
    }  # fmt: skip
    assert report["rejected"]["the line is not JSON"]["examples"] == [f"{raw}:3"]
    assert report["languages"]["en"]["conversations"] == len(kept) == 1


def test_formats_give_the_same_conversations(tmp_path: Path, base: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [chat(f"Question {i}?", f"Answer {i}.") for i in range(5)]
    expected, _ = go(tmp_path, base, rows)
    folder = tmp_path / "folder"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as f:
        f.writelines(json.dumps(r) + "\n" for r in rows)
    for path in (folder, tmp_path / "a.json", tmp_path / "a.jsonl.gz"):
        assert run(tmp_path, base, path)[0] == expected


@pytest.mark.parametrize("rule, pieces", [("drop", []), ("truncate", [2]), ("split", [2, 2, 2])])
def test_too_long_conversations_follow_the_rule(tmp_path: Path, base: Path, rule: str, pieces: list[int]) -> None:
    long = chat(
        "Tell me about the garden.", "The garden was near the lake, and the lake was near the park.", exchanges=6
    )
    one = len(chatml.fast_tokenizer(base).encode(chatml.render(long["messages"][:2])).ids)
    kept, report = go(tmp_path, base, [chat("Hi?", "Hi!"), long], context=2 * one + 1, too_long=rule)
    assert [len(r["messages"]) // 2 for r in kept if "/" in r["id"]] == pieces
    assert (report["rejected"] or report["repaired"]).keys() == {
        f"longer than {2 * one + 1} tokens" + ("" if rule == "drop" else f": {rule}")
    }


def test_an_exchange_that_never_fits_is_rejected_by_every_rule(tmp_path: Path, base: Path) -> None:
    for rule in ("drop", "truncate", "split"):
        _, report = go(tmp_path, base, [chat("Hi?", "Hi!"), chat("Hi?", "ho " * 500)], too_long=rule)
        assert report["rejected"]["longer than 256 tokens"]["count"] == 1


def test_balance_cuts_the_language_in_excess(tmp_path: Path, base: Path) -> None:
    rows = [chat(f"Where is the ball {i}?", "In the park.") for i in range(300)]
    rows += [chat(f"Dove sta la palla {i}?", "Nel parco.", "it") for i in range(50)]
    kept, report = go(tmp_path, base, rows, balance={"en": 0.5, "it": 0.5})
    tokens = {k: v["tokens"] for k, v in report["languages"].items()}
    assert tokens["en"] == pytest.approx(tokens["it"], rel=0.05)
    assert report["languages"]["it"]["conversations"] == 50
    assert report["rejected"]["in excess of its language's share"]["count"] == 350 - len(kept)
    assert kept == go(tmp_path, base, rows, balance={"en": 0.5, "it": 0.5})[0]
    with pytest.raises(UserError, match="asks for 'fr'"):
        go(tmp_path, base, rows, balance={"en": 0.5, "fr": 0.5})


def test_held_out_texts_are_not_trained_on(tmp_path: Path, base: Path) -> None:
    question = "Which of the four children carried the heavy yellow basket to the far end of the old garden?"
    held_out = write_rows(tmp_path / "bench.jsonl", [{"question": question, "choices": {"text": ["Anna"]}}])
    rows = [chat(f"Well: {question.upper()}", "Anna."), chat("Who carried the basket?", "Anna.")]
    kept, report = go(tmp_path, base, rows, decontaminate=[str(held_out)])
    assert len(kept) == 1
    assert report["rejected"]["repeats a held-out text"]["examples"] == [f"{tmp_path}/raw.jsonl:1"]


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of the Hub as ``duetto fetch`` leaves it in the cache."""
    folder = tmp_path / "hub/datasets--org--set"
    snapshot = folder / "snapshots" / ("a" * 40)
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("a" * 40)
    question = "Who of all the old fishermen in the harbour mended the long green net that winter?"
    write_rows(snapshot / "train.jsonl", [chat("Who mended it?", "Piero mended it in his small house by the sea.")])
    write_rows(snapshot / "test.jsonl", [chat(question, "Piero.")])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return snapshot


def test_a_fetched_data_set_is_read_and_kept_out_without_a_network(fetched: Path) -> None:
    found = list(sources.rows({"path": "org/set", "split": "test"}))
    assert [where for where, _ in found] == ["org/set[1]"]
    (_, train), *_ = sources.rows({"path": "org/set"})
    held_out = HeldOut(["org/set"])
    assert held_out.leaks(found[0][1]) and not held_out.leaks(train)  # its training split is nobody's test
    with pytest.raises(UserError, match="org/other: neither a file nor a data set that was fetched.*duetto fetch"):
        list(sources.rows({"path": "org/other"}))
    with pytest.raises(UserError, match="org/set: split 'dev' cannot be read"):
        list(sources.rows({"path": "org/set", "split": "dev"}))
    with pytest.raises(UserError, match="no such file .sft.duetto.decontaminate"):
        HeldOut(["/none.jsonl"])


def test_a_missing_language_tag_is_filled_in(tmp_path: Path, base: Path) -> None:
    rows = [chat("Che ore sono?", "Sono le tre."), chat("What time is it?", "It is three.")]
    kept, _ = go(tmp_path, base, [{"messages": r["messages"]} for r in rows])
    assert [r["language"] for r in kept] == ["it", "en"]


def test_wrong_files_are_told_in_one_line(tmp_path: Path, base: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        run(tmp_path, base, tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match="is empty"):
        run(tmp_path, base, tmp_path / "empty.jsonl")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match="unreadable or truncated"):
        run(tmp_path, base, tmp_path / "torn.parquet")
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(b'{"messages": []}\n' * 500)[:40])
    with pytest.raises(UserError, match="unreadable or truncated"):
        run(tmp_path, base, tmp_path / "torn.jsonl.gz")
    with pytest.raises(UserError, match="no usable conversation: no assistant turn"):
        go(tmp_path, base, [{"messages": [{"role": "user", "content": "x"}]}])
    rows = [chat("Hi?", "Hi!")] + [{"text": "x"}] * 9
    with pytest.raises(UserError, match="9 of 10 rows rejected, more than sft.duetto.max_rejected 20%"):
        go(tmp_path, base, rows, max_rejected=0.2)
