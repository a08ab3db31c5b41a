"""The scripts: readable, literal, valid, and exactly these (golden files; UPDATE_GOLDEN=1 writes them anew)."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from duetto.recipe import ROOT, load_recipe
from slurm.config import find
from slurm.graph import build
from slurm.scripts import render
from slurm.submit import array_script

GOLDEN = Path(__file__).parent / "golden"
SCRIPTS = sorted((ROOT / "slurm").glob("*.sh"))
JOBS = [p for p in SCRIPTS if p.name != "common.sh"]
RUN = Path("/shared/runs/tiny")


def directives(text):
    return re.findall(r"^#SBATCH (.*)$", text, re.M)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_bash_reads_it(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.name)
def test_sbatch_lines_are_literal_and_stand_before_the_first_command(path):
    text = path.read_text()
    found = directives(text)
    # a variable in an #SBATCH line is never expanded: SLURM would read its name
    assert found and not [x for x in found if "$" in x or "`" in x]
    lines = text.splitlines()
    first_command = next(i for i, x in enumerate(lines) if x and not x.startswith("#"))
    assert all(i < first_command for i, x in enumerate(lines) if x.startswith("#SBATCH"))
    options = dict(re.match(r"--([\w-]+)=?(.*)", x).groups() for x in found)
    assert options["ntasks-per-node"] == "1", "one task a node, torchrun starts the rest"
    assert "requeue" in options and options["open-mode"] == "append"
    assert "--error" not in text


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.name)
def test_slurm_accepts_it_as_it_is(path, cluster):
    cluster.client("sbatch", "--test-only", str(path))


def rendered(recipe, cluster_name):
    loaded, cluster = load_recipe(recipe), find(cluster_name)
    arguments = ["--recipe", "/shared/duetto/configs/recipes/tiny.yaml", "pretrain.general.seed=7"]
    out = {}
    for job in build(loaded, chain=3 if cluster.gpu else 1, fan_out=cluster.eval_parallel > 1):
        text = array_script(job, cluster, RUN, arguments) if job.parts else render(job, cluster, RUN, arguments)
        out[job.name] = re.sub(r"\S*/bin/python\d?", "python", text).replace(str(ROOT), "/shared/duetto")
    return out


@pytest.mark.parametrize(
    ("cluster_name", "job"),
    [
        *(("a100-8x8", job) for job in ("tokenize", "pretrain-1", "sft", "eval-base", "card")),
        ("leonardo", "pretrain-1"),
        ("mini", "pretrain"),
    ],
)
def test_the_generated_script_is_this_one(recipe, cluster_name, job):
    found = rendered(recipe, cluster_name)[job]
    path = GOLDEN / f"{cluster_name}.{job}.sh"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text()
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0


def test_only_header_and_cluster_lines_differ_from_the_script_by_hand(recipe):
    """What is submitted for you is the script that you can read in slurm/."""
    found = rendered(recipe, "a100-8x8")["pretrain-1"]
    tail = "# end of cluster lines\n"
    assert found.split(tail)[1] == (ROOT / "slurm/pretrain.sh").read_text().split(tail)[1]


def test_no_number_of_gpus_or_nodes_is_in_the_body():
    for path in JOBS:
        body = path.read_text().split("set -uo pipefail")[1]
        assert not re.search(r"nproc|GPUS_PER_NODE|MASTER_|nnodes", body), path
