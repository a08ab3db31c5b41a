"""The conversation suite: complete, its checks accept and reject, turns reach the model, a judge is only recorded."""

import pytest

from eval.conversation.suite import CHECKS, failed, load_tasks, run_conversation

GOOD = {
    "one_sentence-en": "The sea is wide and blue.",
    "json-it": '{"name": "Ada", "age": 30}',
    "reading-it": "Ha comprato delle pere.",
    "yes_no-it": "Sì.",
    "three_items-en": "- apple\n- pear\n- fig",
    "count-en": "1, 2, 3, 4, 5",
    "ends_with-it": "Ti saluto con affetto, a presto!",
    "sum-en": "That is 40.",
}
BAD = {
    "one_sentence-en": ("The sea is wide. It is blue.", "sentences"),
    "json-it": ("name: Ada", "json"),
    "reading-it": ("È andata al lago.", "says"),
    "yes_no-it": ("Sì, il sole è una stella.", "words"),
    "three_items-en": ("- apple\n- pear", "bullets"),
    "count-en": ("5, 4, 3, 2, 1", "sequence"),
    "ends_with-it": ("A presto, dice il gatto della nonna.", "ends"),
    "sum-en": ("That is 42.", "says"),
}


def task(name):
    return next(t for t in load_tasks() if t["id"] == name)


def test_twenty_tasks_a_language_with_known_checks():
    for language in ("en", "it"):
        assert sum(t["language"] == language for t in load_tasks()) == 20
    assert all(t["checks"] and set(t["checks"]) <= set(CHECKS) for t in load_tasks())
    assert {len(t["turns"]) for t in load_tasks()} == {1, 2, 3}


@pytest.mark.parametrize("name", sorted(GOOD))
def test_checks_accept_and_reject(name):
    row = task(name)
    turns = len(row["turns"])
    assert failed({**row, "answers": [GOOD[name]] * turns}) == []
    answer, check = BAD[name]
    assert check in failed({**row, "answers": [answer] * turns})


def test_wrong_language_loops_and_silence_fail():
    row = task("greeting-it")
    assert "language" in failed({**row, "answers": ["I am fine, thank you, and how are you?"]})
    assert "repetition" in failed({**row, "answers": ["sto bene oggi sai " * 5]})
    assert "empty" in failed({**row, "answers": [""]})


def test_dialogue_reaches_the_model_turn_by_turn(tmp_path):
    seen = []

    def speak(rows, n):
        seen.extend(r["messages"] for r in rows)
        return [f"echo {len(r['messages'])}" for r in rows]

    content = run_conversation(speak, tmp_path / "c.json", {"model": "x"})
    third = next(m for m in seen if m[0]["content"] == "Ho due gatti." and len(m) == 5)
    assert [m["role"] for m in third] == ["user", "assistant", "user", "assistant", "user"]
    assert third[1]["content"] == "echo 1" and third[4]["content"] == "Quanti gatti ho?"
    assert content["languages"]["it"]["tasks"] == 20 and "mean_grade" not in content["languages"]["it"]
    assert run_conversation(None, tmp_path / "c.json", {"model": "x"}) == content


def test_judge_is_recorded_and_decides_nothing(tmp_path):
    def judge(rows, n):
        assert "Assistant: ciao" in rows[0]["messages"][0]["content"]
        return ["Grade: 4"]

    content = run_conversation(lambda rows, n: ["ciao"] * len(rows), tmp_path / "c.json", {"model": "x"}, judge)
    plain = run_conversation(lambda rows, n: ["ciao"] * len(rows), tmp_path / "d.json", {"model": "x"})
    assert content["languages"]["en"]["mean_grade"] == 4 and content["languages"]["en"]["graded"] == 20
    assert content["languages"]["en"]["passed"] == plain["languages"]["en"]["passed"]
