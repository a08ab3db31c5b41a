"""FastDocumentTokenizer against datatrove's own writer, byte for byte, and what it does with hostile text."""

import json

import numpy as np
import pytest
from datatrove.data import Document
from datatrove.pipeline.tokens import DocumentTokenizer

from data import writer
from data.encode import TokenizerFile, load_tokenizer
from data.train_tokenizer import END_OF_TEXT, SPECIALS, adopt, train
from data.writer import FastDocumentTokenizer
from duetto.errors import StageFailed, UserError

ENGINES = ("fastokens", "gigatoken", "hf")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    text = "Nel mezzo del cammin di nostra vita mi ritrovai per una selva oscura. It was the best of times, 1859."
    train([text] * 50 + [f"{i} numeri e parole, words and numbers" for i in range(300)], 400, folder)
    return folder / "tokenizer.json"


def documents(n: int = 250) -> list[Document]:
    r = np.random.default_rng(5)
    odd = [
        "",
        " ",
        "\n\n",
        "è così 😀👩‍👩‍👧 d'\u017f",
        "a" * 5000,
        " " * 3000,
        "\0\0x",
        "1234567" * 50,
        "\ufeffa\u200b",
    ]
    texts = [" ".join(f"parola{int(x)}" for x in r.integers(0, 500, int(r.integers(1, 60)))) for _ in range(n)]
    return [Document(text=t, id=str(i)) for i, t in enumerate(texts + odd)]


def files(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.startswith(".")}


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("engine", ENGINES)
def test_same_bytes_as_datatrove(tmp_path, tokenizer, engine, shuffle):
    options = {
        "shuffle_documents": shuffle,
        "seed": 11,
        "batch_size": 32,
        "max_tokens_per_file": 4000 if shuffle else None,
    }
    reference = DocumentTokenizer(str(tmp_path / "a"), str(tokenizer), eos_token=END_OF_TEXT, **options)
    reference.run(iter(documents()), rank=3)
    fast = FastDocumentTokenizer(str(tmp_path / "b"), str(tokenizer), engine=engine, **options)
    fast.run(iter(documents()), rank=3)
    expected = files(tmp_path / "a")
    assert len(expected) == (9 if shuffle else 3) or len(expected) % 3 == 0
    assert files(tmp_path / "b") == expected
    records = json.loads((tmp_path / "b" / ".records" / "00003.json").read_text())
    assert sum(r["tokens"] for r in records) * 2 == sum(len(v) for k, v in expected.items() if k.endswith(".ds"))
    assert sum(r["documents"] for r in records) == len(documents())


@pytest.mark.parametrize("engine", ENGINES)
def test_literal_special_tokens_stay_text(tokenizer, engine):
    file = load_tokenizer(tokenizer)
    text = "prima <|end_of_text|> dopo <|im_start|>user\nciao<|im_end|>"
    ids, offsets = file.encoder(engine)([text, "ciao"])
    assert not set(file.added.values()) & set(ids.tolist())
    from tokenizers import Tokenizer

    assert Tokenizer.from_file(str(tokenizer)).decode(ids[: offsets[1]].tolist(), skip_special_tokens=False) == text


def test_only_documents_with_literal_specials_differ_from_datatrove(tmp_path, tokenizer):
    batch = [*documents(20), Document(text="a <|end_of_text|> b", id="x")]
    options = {"shuffle_documents": False, "batch_size": 8}
    DocumentTokenizer(str(tmp_path / "a"), str(tokenizer), eos_token=END_OF_TEXT, **options).run(iter(batch))
    FastDocumentTokenizer(str(tmp_path / "b"), str(tokenizer), **options).run(iter(batch))
    split = []
    for side in "ab":
        tokens = np.fromfile(tmp_path / side / "00000_unshuffled.ds", "<u2")
        ends = np.fromfile(tmp_path / side / "00000_unshuffled.ds.index", "<u8").astype(int)
        split.append(np.split(tokens, ends[:-1]))
    same = [np.array_equal(x, y) for x, y in zip(*split)]
    assert same == [True] * (len(batch) - 1) + [False]
    eos = load_tokenizer(tokenizer).eos_id
    assert (split[0][-1] == eos).sum() == 2 and (split[1][-1] == eos).sum() == 1


def test_the_oracle_stops_the_job_and_names_the_document(tmp_path, tokenizer, monkeypatch):
    real = TokenizerFile.encoder

    def broken(self, engine):
        encode = real(self, engine)
        if engine == "hf":
            return encode

        def wrong(texts):
            ids, offsets = encode(texts)
            ids = ids.copy()
            ids[offsets[5]] ^= 1
            return ids, offsets

        return wrong

    monkeypatch.setattr(TokenizerFile, "encoder", broken)
    with pytest.raises(StageFailed, match=r"differs from Hugging Face tokenizers on document '5' at token 0"):
        FastDocumentTokenizer(str(tmp_path), str(tokenizer)).run(iter(documents(20)))
    assert not list(tmp_path.glob("*.ds"))


def test_no_documents_leave_no_shard(tmp_path, tokenizer):
    FastDocumentTokenizer(str(tmp_path), str(tokenizer)).run(iter([]))
    assert files(tmp_path) == {}


def test_batches_are_bounded_by_bytes(tmp_path, tokenizer):
    step = FastDocumentTokenizer(str(tmp_path), str(tokenizer), batch_size=100, batch_bytes=1000)
    sizes = [len(b) for b in step._batches(iter([Document(text="x" * 400, id=str(i)) for i in range(7)]))]
    assert sizes == [3, 3, 1]
    assert writer.JOURNAL_TOKENS > 1_000_000


def test_trained_tokenizer_is_deterministic_and_has_its_specials(tmp_path):
    texts = [f"testo numero {i} di prova" for i in range(100)]
    for name in ("a", "b"):
        train(texts, 320, tmp_path / name)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()
    file = TokenizerFile(tmp_path / "a")
    assert [file.added[s] for s in SPECIALS] == [0, 1, 2, 3]
    assert file.vocab_size == 320 and file.token_size == 2 and file.eos == END_OF_TEXT
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert loaded.eos_token == END_OF_TEXT and loaded.chat_template is None
    assert loaded("testo <|im_end|>").input_ids[-1] == 3
    assert loaded.decode(loaded("numero 12, così").input_ids) == "numero 12, così"


def test_adopting_a_tokenizer_drops_its_chat_template(tmp_path, tokenizer):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    (theirs / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": "x"}))
    adopt(theirs, tmp_path / "ours")
    file = TokenizerFile(tmp_path / "ours")
    assert file.eos == "<|im_end|>" and "chat_template" not in file.config
    assert file.sha256 == load_tokenizer(tokenizer).sha256


def test_files_that_are_no_tokenizer(tmp_path):
    with pytest.raises(UserError, match="no such tokenizer"):
        TokenizerFile(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(UserError, match=r"not a tokenizer\.json"):
        TokenizerFile(tmp_path)
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}}, "added_tokens": []})
    )
    with pytest.raises(UserError, match="no end-of-text token"):
        _ = TokenizerFile(tmp_path).eos


def test_gigatoken_is_replaced_when_its_cache_has_grown(tmp_path, tokenizer, monkeypatch):
    built = []
    monkeypatch.setattr(writer, "JOURNAL_TOKENS", 100)
    real = TokenizerFile.encoder
    monkeypatch.setattr(TokenizerFile, "encoder", lambda self, engine: (built.append(engine), real(self, engine))[1])
    for name, limit in (("small", 1e9), ("large", 0)):
        monkeypatch.setattr(writer, "GIGATOKEN_MB", limit)
        step = FastDocumentTokenizer(str(tmp_path / name), str(tokenizer), label="t", engine="gigatoken", batch_size=10)
        step.run(iter(documents(60)))
        assert (built.count("gigatoken") > 1) == (name == "large")
        built.clear()
    assert files(tmp_path / "small") == files(tmp_path / "large")
