"""The shipped suites: valid, complete in the fetch list, and the published commands run offline on the real schemas."""

import json

import pytest

from duetto.errors import UserError
from duetto.recipe import ROOT, read_yaml, validate
from duetto.run import Run
from eval.config import EvalConfig
from eval.data import datasets_of, required_datasets
from eval.results import read_result
from tests.eval import conftest as shared
from tests.eval import mirror, tiny

SUITES = sorted(p for p in (ROOT / "configs" / "eval").glob("*.yaml") if p.stem not in ("datasets", "published"))
CELLS = ("mmlu", "hellaswag", "arc", "ifeval", "m_mmlu_it", "hellaswag_it", "arc_it", "ifeval-ita")


@pytest.mark.parametrize("path", SUITES, ids=lambda p: p.stem)
def test_suite_is_valid_and_its_data_is_in_the_fetch_list(path):
    config = validate(EvalConfig, read_yaml(path), "eval")
    for entry in config.tasks:
        assert entry.data or datasets_of(entry.task), entry.task


def test_required_data_sets_follow_the_suite():
    suite = dict(read_yaml(ROOT / "configs" / "eval" / "en-it.yaml"))
    repos = [d.repo for d in required_datasets(EvalConfig.model_validate(suite))]
    assert "cais/mmlu" in repos and "mii-llm/ifeval-ita" in repos and len(repos) == len(set(repos)) == 8
    wider = [d.repo for d in required_datasets(EvalConfig.model_validate({**suite, "optional": True}))]
    assert "CohereForAI/Global-MMLU-Lite" in wider and sum(r.startswith("evalitahf/") for r in wider) == 10
    demo = validate(EvalConfig, read_yaml(ROOT / "configs" / "eval" / "demo.yaml"), "eval")
    assert required_datasets(demo) == []


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The published table's suite, run offline with a tiny model over data in the original schemas."""
    root = tmp_path_factory.mktemp("published")
    data = mirror.write_mirror(root / "data")
    tiny.make_model(root / "base", num_hidden_layers=1, hidden_size=16)
    shared.finish(root, "convert")
    suite = {**read_yaml(ROOT / "configs" / "eval" / "en-it.yaml"), "datasets": str(data), "gate": 8, "threads": 1}
    with pytest.MonkeyPatch.context() as patch, Run(shared.make_recipe(root, suite, sft=False)) as run:
        import nltk

        patch.setattr(nltk.data, "path", [str(data / "nltk_data")])
        shared.evaluate(run)
        yield run


def test_published_commands_run_offline_for_all_eight_cells(published):
    for task in CELLS:
        result, intact = read_result(published.path("eval", "base", f"{task}.json"))
        assert intact and result.shots == (5 if "mmlu" in task else 0)
        assert 0 <= result.value <= 1 and result.data and result.limit is None
        if not task.startswith("ifeval"):
            assert result.gate["requests"] >= 8 and result.gate["max_abs_difference"] < 1e-4
    mmlu, _ = read_result(published.path("eval", "base", "mmlu.json"))
    assert len(mmlu.subtasks) == 57 and mmlu.samples == 57
    lines = published.path("eval", "base", "m_mmlu_it.samples.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["prompt"].count("Answer:") == 6  # five worked examples and the question


def test_published_table_stands_beside_the_measured_columns(published):
    content = json.loads(published.path("eval", "tables.json").read_text())
    italian = content["languages"]["it"]
    names = [c["name"] for c in italian["columns"]]
    assert names[0] == "base" and "Qwen/Qwen3-0.6B" in names
    row = next(r for r in italian["rows"] if r["task"] == "hellaswag_it")
    assert row["cells"]["mii-llm/nesso-0.4B-instruct"] == {
        "value": 0.4076,
        "stderr": None,
        "published": True,
        "edited": False,
        "best": row["cells"]["mii-llm/nesso-0.4B-instruct"]["best"],
    }
    text = published.path("eval", "tables.md").read_text()
    assert "† published by others, not measured here" in text and "section 7" in text


def test_data_that_was_not_fetched_is_named(tmp_path, models):
    (tmp_path / "base").symlink_to(models / "base")
    shared.finish(tmp_path, "convert")
    suite = {
        "tasks": [{"task": "hellaswag_it", "language": "it", "metric": "acc_norm"}],
        "models": ["base"],
        "datasets": str(tmp_path / "nothing"),
    }
    told = "needs the data set alexandrainst/m_hellaswag.*duetto fetch"
    with Run(shared.make_recipe(tmp_path, suite, sft=False)) as run, pytest.raises(UserError, match=told):
        shared.evaluate(run)


def test_missing_sentence_splitter_is_named(monkeypatch):
    import nltk

    from eval.data import check_punkt

    monkeypatch.setattr(nltk.data, "path", ["/nowhere"])
    with pytest.raises(UserError, match="needs nltk's punkt_tab .*duetto fetch"):
        check_punkt("ifeval")
