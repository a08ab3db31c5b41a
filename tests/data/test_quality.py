"""Each quality block on hand-checked documents, alone and through the configuration that names it."""

import json

import pytest
from datatrove.data import Document

from data import stage
from data.block_config import parse_block
from data.blocks import Sanitize, build_blocks, mend
from data.config import DataConfig, Source
from data.fertility import compare, flops_per_token
from data.ledger import EXAMPLES, Ledger, merge
from data.train_tokenizer import train
from data.words import STOP_WORDS, FastWords
from duetto.errors import UserError
from duetto.files import read_json
from duetto.recipe import validate

ITALIAN = (
    "Il vecchio faro del porto si accende ogni sera quando il sole scende dietro le colline. La sua luce gira piano "
    "sopra le barche che tornano a casa, e i pescatori la salutano come si saluta un amico. Nelle notti di tempesta il "
    "guardiano non dorme: conta le navi, scrive nel registro e aspetta che il vento cali. Al mattino scende in paese, "
    "compra il pane e racconta quello che ha visto. I bambini lo ascoltano con gli occhi aperti e gli chiedono sempre "
    "la stessa storia, quella della balena bianca che una volta passò davanti alla scogliera."
)
ENGLISH = (
    "The old lighthouse of the harbour is lit every evening when the sun goes down behind the hills. Its light turns "
    "slowly over the boats that come home, and the fishermen greet it as one greets a friend. On stormy nights the "
    "keeper does not sleep: he counts the ships, writes in his book and waits for the wind to fall. In the morning he "
    "walks to the village, buys bread and tells what he has seen. The children listen with wide eyes and ask him for "
    "the same story, the one about the white whale that once passed before the cliff."
)


def verdict(block, text: str, language: str = "it", **metadata) -> tuple[str | None, str | None]:
    """Text that came out, or None and the reason."""
    ledger = Ledger(None)  # type: ignore[arg-type]
    source = Source(kind="jsonl", path="x", language=language, clean=[block])
    data = iter([Document(text=text, id="d", metadata=metadata)])
    for step in build_blocks(source, ledger, frozenset()):
        data = step.run(data)
    out = list(data)
    return (out[0].text if out else None), next(iter(ledger.dropped), None)


@pytest.mark.parametrize(
    "name", ["repair", "language", "gopher_quality", "gopher_repetition", "c4", "fineweb", "url", "pii"]
)
def test_a_good_page_passes_every_block(name):
    assert verdict(name, ITALIAN) == (ITALIAN, None)
    assert verdict(name, ENGLISH, "en") == (ENGLISH, None)


@pytest.mark.parametrize(
    "block, text, reason",
    [
        ("language", ENGLISH, "language:en"),
        ({"language": {"min_score": 1.0}}, "ciao mondo hello world", "language:"),
        ("gopher_quality", "Troppo corto per essere una pagina.", "gopher_quality:gopher_short_doc"),
        ("gopher_quality", "cane gatto sedia tavolo " * 30, "gopher_quality:gopher_enough_stop_words"),
        ("gopher_quality", "12 34 56 il 78 90 che 11 " * 20, "gopher_quality:gopher_below"),
        (
            "gopher_quality",
            "\n".join(f"- questo punto {i} che riguarda la nota" for i in range(40)),
            "gopher_quality:gopher_too_many_bullets",
        ),
        ("gopher_repetition", "La stessa riga che torna.\n" * 30, "gopher_repetition:dup_line_frac"),
        ("gopher_repetition", "sempre le stesse cinque parole " * 60, "gopher_repetition:top_"),
        ("c4", "Lorem ipsum dolor sit amet. " + ITALIAN, "c4:lorem_ipsum"),
        ("c4", ITALIAN + " { codice }", "c4:curly_bracket"),
        ("c4", "Una frase sola.", "c4:too_few_sentences"),
        ("fineweb", "\n".join(["riga senza punto finale numero"] * 30 + ["fine."]), "fineweb:line_punct_ratio"),
        ("fineweb", "\n".join(["Breve."] * 9 + [ITALIAN]), "fineweb:short_line_ratio"),
        ({"length": {"min_characters": 10}}, "corto", "too_short"),
        ({"length": {"max_characters": 10}}, "troppo lungo", "too_long"),
    ],
)
def test_what_each_block_drops(block, text, reason):
    text_out, why = verdict(block, text)
    assert text_out is None and why.startswith(reason), why


def test_addresses():
    block = {"url": {"domains": ["example.org"]}}
    assert verdict(block, ITALIAN, url="https://www.faro.example/pagina")[0] == ITALIAN
    assert verdict(block, ITALIAN, url="https://www.example.org/faro")[1] == "url:domain"
    assert verdict(block, ITALIAN, url="https://xxx-porn.faro.example/")[1].startswith("url:")
    assert verdict(block, ITALIAN) == (ITALIAN, None)  # no address, no verdict


def test_technical_text_may_keep_its_brackets():
    text = ITALIAN + " { codice }"
    assert verdict({"c4": {"drop_curly_brackets": False}}, text)[0] == text


def test_unicode_is_mended_and_nothing_else_moves():
    assert mend("perchÃ© Ã¨ cosÃ¬") == "perché è così"
    assert mend("l’acqua è «chiara» & <b>pulita</b>") == "l’acqua è «chiara» & <b>pulita</b>"
    assert mend("ﬁne del ﬂusso") == "fine del flusso"
    assert verdict("repair", "e\u0301 vero")[0] == "é vero"
    assert verdict({"repair": {"mojibake": False}}, "perchÃ©")[0] == "perchÃ©"


def test_sanitize_removes_what_would_break_an_engine():
    def clean(text):
        document = Document(text=text, id="d")
        Sanitize(Ledger(None)).apply(document)  # type: ignore[arg-type]
        return document.text

    assert clean("a\0b\x07c\ufeffd") == "abcd"
    assert clean("tab\tand\r\nline\rends") == "tab\tand\nline\nends"
    assert clean("lone \ud800 and a pair \ud83d\ude00") == "lone \ufffd and a pair 😀"
    assert clean("è già così 😀") == "è già così 😀"
    assert clean(" " * 1_000_000) == " " * 1_000_000


def test_masking_is_counted():
    ledger = Ledger(None)  # type: ignore[arg-type]
    source = Source(kind="jsonl", path="x", language="it", clean=[{"pii": {"phone": False}}])
    steps = build_blocks(source, ledger, frozenset())
    data = iter([Document(text="a@example.org +39 06 6982 1234", id="d")])
    for step in steps:
        data = step.run(data)
    assert [d.text for d in data] == ["<EMAIL> +39 06 6982 1234"]
    assert ledger.counts["pii_email"] == 1


def test_configuration_errors_name_the_nearest_block_or_option():
    with pytest.raises(ValueError, match="did you mean 'gopher_quality'"):
        parse_block("gopher_qualty")
    with pytest.raises(ValueError, match="did you mean 'min_words'"):
        parse_block({"gopher_quality": {"min_word": 5}})
    with pytest.raises(UserError, match=r"sources\.web\.clean.*no cleaning block 'piii'.*did you mean 'pii'"):
        validate(
            DataConfig,
            {
                "sources": {"web": {"kind": "jsonl", "path": "x", "language": "en", "clean": ["piii"]}},
                "stages": [{"name": "s", "tokens": {"web": 1}}],
            },
            "data",
        )
    with pytest.raises(UserError, match="no source 'wbe'; did you mean 'web'"):
        validate(
            DataConfig,
            {
                "sources": {"web": {"kind": "jsonl", "path": "x", "language": "en"}},
                "stages": [{"name": "s", "tokens": {"wbe": 1}}],
            },
            "data",
        )


def test_a_language_without_stop_words_says_what_to_add():
    with pytest.raises(UserError, match=r"no stop words for language 'fi'.*data/words\.py"):
        verdict("gopher_quality", "x", "fi")
    assert all(len(set(words.split())) >= 15 for words in STOP_WORDS.values())


def test_words_and_sentences():
    words = FastWords()
    assert words.word_tokenize("L'acqua, è\nchiara.") == ["L'acqua,", "è", "chiara."]
    assert words.sent_tokenize("Uno. Due! «Tre?» Quattro") == ["Uno.", "Due!", "«Tre?»", "Quattro"]
    assert words.span_tokenize("Uno. Due") == [(0, 4), (4, 8)]


def test_ledgers_merge_to_the_same_whatever_the_split():
    def ledger(documents):
        made = Ledger(None)  # type: ignore[arg-type]
        for d in documents:
            made.entered("text")
            made.drop("why", d, f"text of {d}")
        return made.as_dict()

    names = [f"d{i}" for i in range(100)]
    whole = merge([ledger(names)])
    assert merge([ledger(names[:13]), ledger(names[13:60]), ledger(names[60:])]) == whole
    assert whole["dropped"]["why"]["documents"] == 100 and len(whole["dropped"]["why"]["examples"]) == EXAMPLES


def test_every_document_is_kept_or_has_a_reason(make_run, args, two_sources):
    for source in two_sources["sources"].values():
        with open(f"{source['path']}/0.jsonl", "a") as f:
            f.writelines(json.dumps({"id": f"s{i}", "text": "Too short."}) + "\n" for i in range(5))
        source["clean"] = ["repair", "gopher_quality"]
        source["tasks"] = 3
    with make_run(two_sources) as run:
        args.only = "clean"
        stage.run(run, args)
        for name in ("en", "it"):
            stats = read_json(run.path("data", name, "stats.json"))
            dropped = sum(e["documents"] for e in stats["dropped"].values())
            assert stats["counts"]["documents_in"] == 305 == stats["counts"]["documents_out"] + dropped
            assert stats["dropped"]["gopher_quality:gopher_short_doc"]["documents"] == 5
            costs = read_json(run.path("data", name, "costs.json"))
            assert costs["sanitize"]["documents"] == 305 and costs["gopher_quality"]["cpu_seconds"] > 0


def test_fertility_and_the_share_of_the_head(tmp_path):
    flagship = {"hidden": 960, "layers": 32, "ffn": 2560, "kv_heads": 5, "heads": 15, "seq": 4096}
    cost = flops_per_token(128_256, **flagship)
    assert cost["total"] == pytest.approx(4.14e9, rel=0.005) and cost["head_share"] == pytest.approx(0.18, abs=0.005)
    texts = {"it": [ITALIAN], "en": [ENGLISH]}
    for size in (300, 400):
        train([ITALIAN, ENGLISH] * 20, size, tmp_path / str(size))
    small, large = compare([str(tmp_path / "300"), str(tmp_path / "400")], texts, flagship)
    assert large["it"]["tokens_per_word"] < small["it"]["tokens_per_word"]
    assert large["head_share"] > small["head_share"] and small["it"]["relative_cost"] == 1.0
