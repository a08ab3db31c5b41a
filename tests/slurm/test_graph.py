"""The graph of jobs: what waits for what, and what a second submit still has to do."""

import math

import pytest

from duetto.errors import UserError
from duetto.recipe import ROOT, load_recipe
from slurm import checks
from slurm.config import find
from slurm.environment import at_home
from slurm.graph import build, drawing, eval_parts, links, select


@pytest.fixture(scope="module")
def loaded(recipe):
    return load_recipe(recipe)


@pytest.fixture(scope="module")
def graph(loaded):
    return build(loaded, chain=links(find("a100-8x8"), hours=60), fan_out=True)


def names(jobs):
    return [j.name for j in jobs]


def test_every_job_comes_after_what_it_needs(graph):
    for i, job in enumerate(graph):
        assert set(job.needs) <= set(names(graph[:i])), job.name
    assert names(graph) == ["tokenize", "pretrain-1", "pretrain-2", "pretrain-3", "convert", "sft", "eval-base", "eval-instruct", "eval", "card"]  # fmt: skip


def test_the_chain_has_as_many_links_as_the_time_limit_needs(graph):
    cluster = find("a100-8x8")
    assert links(cluster, None) == 1, "unknown: one job that requeues itself"
    assert links(cluster, 23) == 1 and links(cluster, 24) == 2, "the warning takes its part of each day"
    assert [j.links_left for j in graph if j.stage == "pretrain"] == [2, 1, 0]
    assert next(j for j in graph if j.name == "convert").needs == ("pretrain-3",)


def test_the_base_model_is_evaluated_while_the_other_is_tuned(graph):
    by_name = {j.name: j for j in graph}
    assert by_name["eval-base"].needs == ("convert",) and by_name["eval-instruct"].needs == ("sft",)
    assert set(by_name["eval"].needs) == {"eval-base", "eval-instruct"}


def test_parts_cover_every_task_once(loaded):
    parts = eval_parts(loaded, "base")
    tasks = [t for p in parts for t in p.tasks]
    assert sorted(tasks) == sorted(t.task for t in loaded.eval.selected) and len(parts) == 2


def test_checkpoints_are_evaluated_when_nobody_else_writes(loaded):
    by_name = {j.name: j for j in build(loaded, progress="configs/eval/base-progress.yaml")}
    assert by_name["progress"].verb == ("eval", "--checkpoints", "eval=configs/eval/base-progress.yaml")
    assert by_name["progress"].needs == ("eval",) and by_name["card"].needs == ("progress",)


def test_the_flagship_s_chain_follows_from_the_plan():
    """64 A100: the planner's upper estimate over jobs of 24 hours."""
    recipe, cluster = load_recipe(ROOT / "configs/recipes/zagreus-0.4b-ita.yaml"), find("a100-8x8")
    hours = checks.planned_hours(recipe, cluster, [])
    assert hours is not None and 5 * 24 < hours < 20 * 24
    assert links(cluster, hours) == math.ceil(hours / (24 - 300 / 3600))


def test_without_post_training_the_graph_ends_with_the_base_model(loaded):
    plain = loaded.model_copy(update={"sft": None})
    assert names(build(plain)) == ["tokenize", "pretrain", "convert", "eval", "card"]


def test_a_second_submit_continues_with_what_is_missing(graph):
    done = {"tokenize", "pretrain", "convert"}
    chosen = select(graph, done, done)
    assert names(chosen) == ["sft", "eval-base", "eval-instruct", "eval", "card"]
    assert chosen[0].needs == (), "what is done is no dependency"
    everything = {"tokenize", "pretrain", "convert", "sft", "eval", "card"}
    assert select(graph, everything, everything) == []
    assert len(select(graph, everything, everything, force=True)) == len(graph)


def test_what_follows_a_missing_stage_is_done_again(graph):
    done = {"tokenize", "convert", "sft", "eval", "card"}
    assert "convert" in names(select(graph, done, done))


def test_a_part_of_the_graph(graph):
    chosen = select(graph, set(), {"convert"}, first="sft", last="eval")
    assert names(chosen) == ["sft", "eval-base", "eval-instruct", "eval"]


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        ("stf", None, "--from stf: this run has no such stage; did you mean 'sft'"),
        ("card", "sft", "--from card comes after --to sft"),
        ("sft", None, "sft needs convert, which is not done; start from convert"),
    ],
)
def test_parts_that_cannot_be(graph, first, last, message):
    with pytest.raises(UserError, match=message):
        select(graph, set(), set(), first, last)


def test_the_run_lies_where_the_cluster_file_says(recipe, tmp_path, monkeypatch):
    """On a login node nobody has set DUETTO_HOME: submit and status look where the jobs write."""
    monkeypatch.delenv("DUETTO_HOME", raising=False)
    overrides = [f"cluster.runs={tmp_path}/$PLACE"]
    monkeypatch.setenv("PLACE", "runs")
    loaded = load_recipe(recipe, overrides)
    assert at_home(loaded, overrides, loaded.cluster).run_root == tmp_path / "runs" / "tiny"
    monkeypatch.setenv("DUETTO_HOME", str(tmp_path / "own"))
    loaded = load_recipe(recipe, overrides)
    assert at_home(loaded, overrides, loaded.cluster).run_root == tmp_path / "own" / "tiny"


def test_the_drawing_names_every_job(graph):
    lines = drawing(graph)
    assert len(lines) == len(graph) and "after eval-base, eval-instruct" in lines[-2]
