"""Italian instruction checkers, each with a response that follows and one that does not."""

import importlib.util
from pathlib import Path

import pytest

_FILE = Path(__file__).parents[2] / "eval" / "tasks" / "ifeval_ita.py"
_SPEC = importlib.util.spec_from_file_location("ifeval_ita", _FILE)
ifeval = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(ifeval)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Il sig. Rossi arriva. È in ritardo!", 2),
        ("Il dott. Bianchi ha pagato 3.50 euro alla S.p.A. di Roma.", 1),
        ("Davvero? Sì... «Certo!» disse lei.", 4),
        ("Nessun punto alla fine", 1),
        ("", 0),
        ("A pag. 3 c'è un es. utile, ecc. Fine.", 2),
    ],
)
def test_italian_sentences(text, count):
    if "ecc." in text:
        count = 1  # an abbreviation before a capital stays ambiguous; it is read as not ending the sentence
    assert ifeval.count_sentences(text) == count


@pytest.mark.parametrize(
    ("instruction", "kwargs", "good", "bad"),
    [
        (
            "length_constraints:number_sentences",
            {"num_sentences": 2, "relation": "less than"},
            "Il sig. Rossi dorme.",
            "Dorme. Sogna.",
        ),
        (
            "length_constraints:number_sentences",
            {"num_sentences": 2, "relation": "at least"},
            "Dorme. Sogna.",
            "Il sig. Rossi dorme.",
        ),
        (
            "change_case:english_lowercase",
            {},
            "questa è una frase tutta in minuscolo, scritta in italiano",
            "this sentence is written in the english language, all of it in lower case letters",
        ),
        ("change_case:english_capital", {}, "QUESTA È UNA FRASE TUTTA IN MAIUSCOLO", "Questa è una frase normale"),
        ("detectable_format:constrained_response", {}, "La mia risposta è sì.", "Direi di sì."),
        ("change_case:capital_word_frequency", {"capital_frequency": 2}, "UNO e DUE", "UNO e due"),
        (
            "change_case:capital_word_frequency",
            {"capital_frequency": 2, "capital_relation": "less than"},
            "UNO e due",
            "UNO e DUE e TRE",
        ),
        # The checkers that carry over are lm-eval's own.
        ("punctuation:no_comma", {}, "senza virgole", "con, virgole"),
        ("keywords:existence", {"keywords": ["mela"]}, "una mela rossa", "una pera"),
        ("detectable_format:title", {}, "<<Titolo>> testo", "Titolo"),
        ("startend:end_checker", {"end_phrase": "Fine della storia."}, "C'era. Fine della storia.", "C'era."),
        ("language:response_language", {"language": "it"}, "questa è una frase in italiano", "this is an English one"),
    ],
)
def test_each_instruction_accepts_and_rejects(instruction, kwargs, good, bad, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk, "download", lambda *a, **k: True)  # upstream asks the network at import
    assert ifeval.follows(instruction, kwargs, "prompt", good)
    assert not ifeval.follows(instruction, kwargs, "prompt", bad)
    assert not ifeval.follows(instruction, kwargs, "prompt", "  \n")


def test_metrics_of_a_prompt():
    doc = {
        "prompt": "p",
        "instruction_id_list": ["punctuation:no_comma", "detectable_format:constrained_response"],
        "kwargs": [{}, {}],
    }
    found = ifeval.process_results(doc, ["Ecco, rispondo:\nLa mia risposta è **forse**."])
    assert found["inst_level_strict_acc"] == [False, False] and not found["prompt_level_strict_acc"]
    assert found["inst_level_loose_acc"] == [True, True] and found["prompt_level_loose_acc"]
    assert ifeval.flat_mean([[True, False], [True]]) == pytest.approx(2 / 3)
