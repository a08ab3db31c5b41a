"""From text to card: the demo's recipe, scaled down, through ``duetto submit`` on four virtual nodes."""

import json
import re

import pytest

from slurm.evaluation import all_parts


@pytest.fixture(scope="module")
def finished(tmp_path_factory, recipe, cluster):
    """The whole graph, run once for this file; evaluations fan out through submitit."""
    from tests.slurm.conftest import Duetto

    duetto = Duetto(tmp_path_factory.mktemp("pipeline") / "home", recipe, cluster)
    duetto("submit", "cluster.eval_parallel=2")
    jobs = duetto.jobs()
    for name, job in jobs.items():
        state = cluster.wait_job(job, ("COMPLETED",), 300)
        assert state == "COMPLETED", f"{name} is {state}\n{duetto.log(name)}"
    return duetto, jobs


def test_every_stage_is_done_and_the_card_is_there(finished):
    duetto, jobs = finished
    manifests = {p.stem for p in (duetto.run / "manifests").glob("*.json")}
    assert {"tokenize", "pretrain", "convert", "sft", "eval", "card"} <= manifests
    assert list((duetto.run / "release").glob("*/README.md"))
    assert list(jobs) == ["tokenize", "pretrain", "convert", "sft", "eval-base", "eval-instruct", "eval", "card"]


def test_pretraining_ran_on_four_nodes_after_a_look_at_each(finished):
    duetto, jobs = finished
    log = duetto.log("pretrain")
    assert re.search(r"node check: 4 nodes in [\d.]+ s, 0 bad", log) and "all-reduce" in log
    assert "GPU checks skipped (no gpu in the cluster file)" in log
    report = json.loads((duetto.run / "logs" / "slurm" / f"health-{jobs['pretrain']}.json").read_text())
    assert len(report["nodes"]) == 4 and report["all_reduce_gbs"] > 0


def test_evaluation_fanned_out_and_was_only_collected_at_the_end(finished):
    duetto, _ = finished
    from duetto.recipe import load_recipe

    assert len(all_parts(load_recipe(duetto.recipe))) == 4
    logs = sorted((duetto.run / "logs" / "slurm" / "eval").glob("*_log.out"))
    assert len(logs) == 4, "two models, two languages"
    collected = json.loads((duetto.run / "manifests" / "eval.json").read_text())["started"]
    results = [json.loads(p.read_text()) for p in (duetto.run / "eval").glob("*/reading_*.json")]
    assert len(results) == 4 and all(r["started"] < collected for r in results), "measured by the parts"


def test_status_shows_it_all_as_done(finished):
    duetto, jobs = finished
    stages = {s["stage"]: s for s in json.loads(duetto("status", "--json"))["stages"]}
    assert list(stages) == list(jobs)
    assert {s["state"] for s in stages.values()} == {"done"}
    pretrain = stages["pretrain"]
    assert pretrain["step"] == pretrain["steps"] == pretrain["checkpoint"] == 40 and pretrain["eta_seconds"] == 0
    assert "40/40" in duetto("status")


def test_a_second_submit_has_nothing_to_do(finished, cluster):
    duetto, _ = finished
    before = cluster.client("squeue", "-h", "-t", "all", "-o", "%A")
    assert "every stage of tiny is done" in duetto("submit", "cluster.eval_parallel=2")
    assert cluster.client("squeue", "-h", "-t", "all", "-o", "%A") == before
