"""Tables: golden files, and each reason for which two numbers are kept out of one table."""

import json
from pathlib import Path

import pytest

from duetto.errors import UserError
from duetto.recipe import ROOT, read_yaml
from eval.config import TaskEntry
from eval.published import Published, load_published
from eval.results import ModelFacts, Result, write_result
from eval.tables import Loaded, build, load_results, write_tables

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = Published.model_validate(
    {
        "settings": {"m_mmlu_it": {"shots": 5, "metric": "acc"}, "hellaswag": {"shots": 0, "metric": "acc_norm"}},
        "models": [
            {"name": "org/other", "source": "its card", "languages": ["en"], "scores": {"hellaswag": 0.4742}},
            {"name": "org/two", "source": "a paper", "languages": ["en", "it"], "scores": {"m_mmlu_it": 0.4025}},
        ],
    }
)
ENTRIES = [
    TaskEntry(task="hellaswag", language="en", metric="acc_norm", label="HellaSwag", chance=0.25),
    TaskEntry(task="cloze_en", language="en", metric="acc_bytes", chance=0.25, baselines=True),
    TaskEntry(task="m_mmlu_it", language="it", metric="acc", shots=5, label="MMLU", chance=0.25),
    TaskEntry(task="ifeval-ita", language="it", metric="prompt_level_strict_acc", label="IFEval"),
]


SUITE = [
    TaskEntry.model_validate(t) for t in read_yaml(ROOT / "configs/eval/en-it.yaml")["tasks"] if "optional" not in t
]
"""The eight cells of the published table."""


def make(model: str, task: str, value: float, stderr: float = 0.01, **changes) -> Result:
    entry = next(e for e in [*ENTRIES, *SUITE] if e.task == task)
    facts = {"name": model, "path": "/m", "sha256": model * 3, "parameters": 7, "languages": ["en", "it"]}
    facts |= changes.pop("facts", {})
    content = {
        "model": ModelFacts(**facts),
        "task": task,
        "label": entry.title,
        "language": entry.language,
        "metric": entry.metric,
        "value": value,
        "stderr": stderr,
        "chance": entry.chance,
        "metrics": {entry.metric: value},
        "no_context": 0.24 if entry.baselines else None,
        "word_overlap": 0.55 if entry.baselines else None,
        "samples": 1000,
        "limit": None,
        "shots": entry.shots,
        "chat_template": False,
        "task_version": "1.0",
        "task_sha256": "t",
        "data": {"x": "1"},
        "backend": "hf",
        "batch_size": 1,
        "dtype": "float32",
        "device": "cpu",
        "seeds": {"random": 0},
        "versions": {"lm_eval": "0.4.11"},
        "host": "h",
        "git_commit": "c",
        "started": "2026-01-01",
        "seconds": 1.0,
        "sample_log": "x.jsonl",
        "sample_log_sha256": "s",
        "fingerprint": "f",
    }
    return Result(**(content | changes))


def store(folder: Path, *results: Result) -> Path:
    for r in results:
        write_result(folder / r.model.name / f"{r.task}.json", r)
    return folder


@pytest.fixture
def folder(tmp_path):
    return store(
        tmp_path,
        make("base", "hellaswag", 0.41),
        make("base", "cloze_en", 0.80),
        make("base", "m_mmlu_it", 0.26),
        make("base", "ifeval-ita", 0.10),
        make("instruct", "hellaswag", 0.46),
        make("instruct", "cloze_en", 0.79),
        make("instruct", "ifeval-ita", 0.30, stderr=0.02),
    )


def against_golden(paths: list[Path], golden: Path) -> None:
    """Whoever changes tables or plots looks at them: rm -r tests/eval/golden, run the tests twice, open the files."""
    if not golden.exists():
        golden.mkdir(parents=True)
        for path in paths:
            (golden / path.name).write_bytes(path.read_bytes())
        pytest.fail(f"{golden} was missing and is now written; look at it and run again")
    assert {p.name for p in paths} == {p.name for p in golden.iterdir()}
    for path in paths:
        assert path.read_text() == (golden / path.name).read_text(), path.name


def two_models() -> list[Loaded]:
    """Invented scores of two models on the eight cells; the fourth digit tells them apart."""
    found = []
    for n, entry in enumerate(SUITE):
        for model, lead in (("base", 0), ("instruct", 0.03)):
            found.append(make(model, entry.task, round(0.2501 + 0.02 * n + lead * (n % 3), 4), samples=1000 + n))
    return [Loaded(Path("x"), r, True) for r in found]


def test_golden_files(folder, tmp_path):
    edited = folder / "instruct" / "ifeval-ita.json"
    edited.write_text(edited.read_text().replace('"value": 0.3,', '"value": 0.9,'))
    content = build(ENTRIES, load_results(folder), PUBLISHED)
    assert content["edited"] == ["ifeval-ita.json"]
    against_golden(write_tables(tmp_path / "out", content), GOLDEN / "tables")


def test_golden_tables_of_two_models_beside_the_published_figures(tmp_path):
    content = build(SUITE, two_models(), load_published("configs/eval/published.yaml"))
    against_golden(write_tables(tmp_path, content), GOLDEN / "published-tables")


def test_best_is_marked_only_outside_the_error(folder):
    rows = {
        r["task"]: r for t in build(ENTRIES, load_results(folder), PUBLISHED)["languages"].values() for r in t["rows"]
    }
    assert not rows["cloze_en"]["cells"]["base"]["best"]  # 0.80 against 0.79, each +- 0.01
    assert rows["ifeval-ita"]["cells"]["instruct"]["best"]
    assert not rows["ifeval-ita"]["cells"]["base"]["best"]
    # 0.4742 published leads 0.46 by 0.014, less than the error of the difference of two proportions over 1,000 items
    assert not any(c and c["best"] for c in rows["hellaswag"]["cells"].values())
    assert rows["m_mmlu_it"]["cells"]["org/two"]["best"]
    assert rows["m_mmlu_it"]["cells"]["instruct"] is None


def test_no_mean_over_fewer_tasks_than_the_others(folder):
    content = build(ENTRIES, load_results(folder), PUBLISHED)
    assert content["languages"]["en"]["mean"]["base"] == pytest.approx(0.605)
    assert content["languages"]["it"]["mean"]["instruct"] is None
    assert content["overall"]["mean"]["base"] == pytest.approx((0.605 + 0.18) / 2)
    assert content["overall"]["mean"]["instruct"] is None


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (make("x", "cloze_en", 0.5, limit=10), "run with limit=10; a table takes full runs only"),
        (make("x", "m_mmlu_it", 0.5, shots=0), "differ in shots"),
        (make("x", "cloze_en", 0.5, chat_template=True), "differ in chat template"),
        (make("x", "cloze_en", 0.5, metric="acc"), "differ in metric"),
        (make("x", "cloze_en", 0.5, task_sha256="other"), "differ in version of the task"),
        (make("x", "cloze_en", 0.5, data={"x": "2"}), "differ in data"),
        (make("x", "m_mmlu_it", 0.5, facts={"languages": ["fr"]}), "x was trained for fr, the task is in it"),
    ],
)
def test_incomparable_results_are_refused(folder, result, message):
    store(folder, result)
    with pytest.raises(UserError, match=message):
        build(ENTRIES, load_results(folder), PUBLISHED)


def test_published_figures_with_other_settings_are_refused(folder):
    store(folder, make("base", "m_mmlu_it", 0.26, shots=0))
    with pytest.raises(UserError, match="0 shots here, 5 in the published figures"):
        build(ENTRIES, load_results(folder), PUBLISHED)


def test_duplicate_and_moved_results_are_refused(folder):
    loaded = load_results(folder)
    with pytest.raises(UserError, match="two results for base on cloze_en"):
        build(ENTRIES, [*loaded, loaded[0]], PUBLISHED)
    (folder / "base" / "cloze_en.json").rename(folder / "base" / "hellaswag.json")
    with pytest.raises(UserError, match="it was moved or renamed"):
        load_results(folder)


def test_torn_result_is_named(folder):
    path = folder / "base" / "cloze_en.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match="cloze_en.json: not valid JSON"):
        load_results(folder)
    path.write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(UserError, match="not a result of schema"):
        load_results(folder)


def test_published_score_needs_its_setting(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(
        "settings: {}\nmodels:\n- {name: a, source: b, languages: [en], scores: {mmlu: 0.5}}\n", encoding="utf-8"
    )
    with pytest.raises(UserError, match="a: 'mmlu' has a score but no entry in settings"):
        load_published(file)
