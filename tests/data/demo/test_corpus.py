"""The demo corpus as a whole: layout, schemas, size, determinism, interruption, PDFs, near-duplicates."""

import hashlib
import random
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2
import pytest

from data.demo.booklets import booklet
from data.demo.code_split import is_validation_file, source_files
from data.demo.conversations import KINDS
from data.demo.corpus import PAGE_KINDS, write_corpus
from duetto.errors import UserError

STDLIB = Path(sysconfig.get_path("stdlib"))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 8), ("b", 8), ("c", 9)):
        write_corpus(tmp_path / name, seed=seed, scale=0.01)
    first, again, other = (digests(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    same = {name for name in first if first[name] == other[name]}
    assert same == {"validation/code.jsonl"}


def test_a_finished_corpus_is_kept_and_a_different_one_replaces_it(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    index = write_corpus(folder, scale=0.01)
    (folder / "pdf_it" / "left-over.pdf").write_bytes(b"")
    assert write_corpus(folder, scale=0.01) == index
    assert (folder / "pdf_it" / "left-over.pdf").exists()
    write_corpus(folder, seed=9, scale=0.01)
    assert not (folder / "pdf_it" / "left-over.pdf").exists()


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not delete")
    with pytest.raises(UserError, match="not a demo corpus"):
        write_corpus(tmp_path, scale=0.01)
    assert (tmp_path / "thesis.txt").exists()


def test_a_killed_generation_starts_again(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from data.demo.corpus import write_corpus; "
    child = subprocess.Popen(
        [sys.executable, "-c", program + f"write_corpus(Path({str(tmp_path / 'k')!r}), scale=0.1)"]
    )
    while not (tmp_path / "k.part").exists():
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "k").exists()
    (tmp_path / "k.part" / "torn.jsonl").write_text('{"id": "to')
    write_corpus(tmp_path / "k", scale=0.01)
    write_corpus(tmp_path / "whole", scale=0.01)
    assert digests(tmp_path / "k") == digests(tmp_path / "whole")
    assert not (tmp_path / "k.part").exists()


def test_size_of_the_sources(corpus: Any) -> None:
    web = {language: sum(len(t.encode()) for t in corpus.training_texts(language)) for language in ("en", "it")}
    code = sum(f.stat().st_size for f in source_files(STDLIB) if not is_validation_file(f))
    pdf = sum(f.stat().st_size for f in (corpus.folder / "pdf_it").iterdir())
    assert web["en"] > 3.3e6
    assert web["it"] > 2.7e6
    assert pdf > 0.5e6
    assert code > 4e6
    assert sum(web.values()) + code > 8e6  # without counting the PDFs


def test_web_pages(corpus: Any) -> None:
    for language in ("en", "it"):
        rows = [row for part in (0, 1) for row in corpus.rows(f"web_{language}/pages-{part}.jsonl")]
        assert all(row.keys() == {"id", "text", "language"} and row["language"] == language for row in rows)
        assert len({row["id"] for row in rows}) == len(rows)
        assert {row["id"].split("/")[-1].split("-")[0] for row in rows} == set(PAGE_KINDS)
        for row in rows:
            assert not re.search(
                r"[{}]|  |None|True|[.?!] [a-z]|(?:Question|Answer|Domanda|Risposta): [a-z]", row["text"]
            ), row
            assert row["text"].rstrip().endswith((".", "?")), row


def test_benchmark_schemas(corpus: Any) -> None:
    assert len(corpus.benchmarks()) == 6
    for name in corpus.benchmarks():
        rows = corpus.rows(name)
        assert len(rows) == 200
        if "cloze" in name:
            assert all(set(row) == {"ind", "ctx", "endings", "label"} for row in rows)
            choices = [row["endings"] for row in rows]
            labels = [int(row["label"]) for row in rows]
        else:
            assert all(set(row) == {"id", "question", "choices", "answerKey"} for row in rows)
            assert all(row["choices"]["label"] == list("ABCD") for row in rows)
            assert all(row["question"].count("\n") == 1 and row["question"].endswith("?") for row in rows)
            choices = [row["choices"]["text"] for row in rows]
            labels = ["ABCD".index(row["answerKey"]) for row in rows]
        assert all(len(set(four)) == 4 for four in choices)
        assert min(Counter(labels).values()) > 30  # no place is favoured
        assert len(Counter(labels)) == 4


def test_counting_shared_words_does_not_solve_the_benchmarks(corpus: Any) -> None:
    """The heuristic that the tables print beside the models: share of the words of a choice that the context has."""

    def solved(context: str, choices: list[str], right: int) -> float:
        known = set(re.findall(r"\w+", context.lower()))
        words = [re.findall(r"\w+", choice.lower()) for choice in choices]
        scores = [sum(w in known for w in four) / len(four) for four in words]
        best = [i for i, score in enumerate(scores) if score == max(scores)]
        return (right in best) / len(best)

    for language in ("en", "it"):
        rows = corpus.rows(f"benchmarks/story_cloze_effect_{language}.jsonl")
        assert np.mean([solved(row["ctx"], row["endings"], int(row["label"])) for row in rows]) < 0.6
        scenes = corpus.rows(f"benchmarks/reading_{language}.jsonl")[1::2]
        right = [solved(r["question"], r["choices"]["text"], "ABCD".index(r["answerKey"])) for r in scenes]
        assert np.mean(right) < 0.3


def test_conversations(corpus: Any) -> None:
    for name, least in (("train", 3400), ("heldout", 100)):
        rows = corpus.rows(f"sft/{name}.jsonl")
        assert all(set(row) == {"id", "language", "kind", "messages", "facts"} for row in rows)
        assert Counter(row["language"] for row in rows)["en"] == Counter(row["language"] for row in rows)["it"] >= least
        assert {(row["language"], row["kind"]) for row in rows} == {
            (lang, kind) for lang in ("en", "it") for kind in KINDS
        }
        for row in rows:
            assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
            answer = row["messages"][1]["content"]
            assert all(fact in answer for fact in row["facts"].values()), row


def test_answers_are_in_the_language_of_the_prompt(corpus: Any) -> None:
    english = set(re.findall(r"\w+", "the an and was were had said you say to it"))
    italian = set(re.findall(r"\w+", "il lo la un una e era erano aveva disse si al gli le che di"))
    for row in corpus.rows("sft/train.jsonl"):
        for turn in row["messages"]:
            words = re.findall(r"[a-zàèéìòù]+", turn["content"].lower().replace("'", " "))
            english_words, italian_words = (sum(w in stop for w in words) for stop in (english, italian))
            if max(english_words, italian_words) > 2:
                assert (english_words > italian_words) == (row["language"] == "en"), row


def test_pdfs_are_read_back(corpus: Any) -> None:
    rng = random.Random("8/pdf_it")
    hyphens = pages = 0
    for number in range(1, 6):
        title, sections = booklet(rng, number)
        document = pypdfium2.PdfDocument(corpus.folder / "pdf_it" / f"quaderno-{number:04d}.pdf")
        texts = [page.get_textpage().get_text_range() for page in document]
        pages += len(texts)
        for page_number, text in enumerate(texts, 1):
            assert title in text
            assert f"Pagina {page_number}" in text
        # PDFium writes U+FFFE where a word is hyphenated, and joins the lines.
        body = "\n".join(texts)
        hyphens += body.count("\ufffe")
        body = re.sub(rf"{re.escape(title)}|Pagina \d+", "", body.replace("\ufffe", ""))
        body = "".join(body.split())
        for heading, text in sections:
            assert "".join(heading.split()) in body
            assert "".join(text.split()) in body
    assert pages > 15
    assert hyphens > 10


def test_validation_code_shares_no_file_with_training(corpus: Any) -> None:
    rows = corpus.rows("validation/code.jsonl")
    assert len(rows) >= 10
    training = {f.relative_to(STDLIB).as_posix() for f in source_files(STDLIB) if not is_validation_file(f)}
    assert not training & {row["id"] for row in rows}
    assert all((STDLIB / row["id"]).read_text(errors="replace") == row["text"] for row in rows)


def test_near_duplicates_are_rare(corpus: Any) -> None:
    """At most 0.1 % of the pages share four fifths of their five-word shingles with another page (it was 0.01 %)."""
    for language in ("en", "it"):
        assert near_duplicate_rate(corpus.training_texts(language), threshold=0.8) < 0.001


def near_duplicate_rate(texts: list[str], threshold: float) -> float:
    """MinHash with 10 bands of 4 rows finds the pairs, the exact Jaccard index decides."""
    vocabulary: dict[str, int] = {}
    shingles = []
    for text in texts:
        words = [vocabulary.setdefault(w, len(vocabulary)) for w in re.findall(r"\w+", text.lower())]
        shingles.append({hash(tuple(words[i : i + 5])) & 0xFFFFFFFF for i in range(max(1, len(words) - 4))})
    flat = np.fromiter((x for one in shingles for x in one), dtype=np.uint64)
    starts = np.cumsum([0, *(len(one) for one in shingles[:-1])])
    rng = np.random.default_rng(0)
    factors, offsets = rng.integers(1, 1 << 31, (2, 40), dtype=np.uint64)
    rows = [np.minimum.reduceat((flat * a + b) >> np.uint64(16), starts) for a, b in zip(factors, offsets)]
    signatures = np.stack(rows, axis=1)
    pairs: set[tuple[int, int]] = set()
    for band in range(0, 40, 4):
        groups: dict[bytes, list[int]] = defaultdict(list)
        for i, row in enumerate(np.ascontiguousarray(signatures[:, band : band + 4])):
            groups[row.tobytes()].append(i)
        pairs |= {(a, b) for group in groups.values() for a in group for b in group if a < b}
    doubles = {
        later
        for first, later in pairs
        if len(shingles[first] & shingles[later]) >= threshold * len(shingles[first] | shingles[later])
    }
    return len(doubles) / len(texts)
