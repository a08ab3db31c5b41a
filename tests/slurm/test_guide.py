"""The commands of docs/cluster-guide.md are those that the tests of this folder run."""

import re

import pytest

from duetto.recipe import ROOT

GUIDE = (ROOT / "docs" / "cluster-guide.md").read_text()
BLOCKS = [x.strip() for block in re.findall(r"^```text\n(.*?)^```", GUIDE, re.M | re.S) for x in block.splitlines()]


def test_every_command_of_the_guide_has_its_test():
    """A command that stands in no test (or in the install step) may rot."""
    tests = "\n".join(p.read_text() for p in sorted((ROOT / "tests" / "slurm").glob("test_*.py")))
    tests = re.sub(r'"duetto", |duetto\("|ready\("', "duetto ", tests)
    by_test = {
        "duetto submit": "duetto submit",
        "duetto submit --from pretrain --to pretrain": '"--from", "pretrain", "--to", "pretrain"',
        "duetto submit --to tokenize": '"--to", "tokenize"',
        "duetto submit --executor local": '"--executor", "local"',
        "sbatch slurm/tokenize.sh --recipe configs/recipes/demo.yaml": '"slurm/tokenize.sh", "--recipe"',
        "scancel --batch --signal=USR1 JOB": '"scancel", "--batch", "--signal=USR1"',
    }
    install = ("git clone", "UV_TORCH_BACKEND", "duetto fetch", "python -m tests.support.slurm_cluster")
    for command in BLOCKS:
        if not command.startswith(install):
            assert by_test[command] in tests, command


def test_every_file_that_the_guide_names_is_there():
    for name in re.findall(r"`((?:configs|slurm)/[\w./-]+\.(?:yaml|sh))`", GUIDE):
        assert "NAME" in name or (ROOT / name).is_file(), name


@pytest.mark.parametrize("key", re.findall(r"^\| (`.*?`) \|", GUIDE, re.M))
def test_every_key_of_the_table_is_a_key_of_cluster_files(key):
    from slurm.config import ClusterConfig

    for name in re.findall(r"`(\w+)`", key):
        assert name in ClusterConfig.model_fields, name


def test_the_local_executor_runs_the_same_graph(tmp_path, recipe):
    """As far as its order and what a failure does; the stages themselves have their tests."""
    from tests.slurm.conftest import Duetto

    duetto = Duetto(tmp_path / "home", recipe)
    said = duetto("submit", "--executor", "local", "--dry-run")
    assert [x.split()[0] for x in said.splitlines()] == ["tokenize", "pretrain", "convert", "sft", "eval", "card"]
    said = duetto("submit", "--executor", "local", "--to", "convert", "data.sources.code.path=/nowhere/code", code=1)
    assert "pretrain is left out: it needs tokenize" in said and "convert is left out" in said
    assert "tokenize failed (see above); mend it and run duetto submit again" in said
    duetto("submit", "--executor", "local", "--to", "tokenize")
    assert (duetto.run / "manifests" / "tokenize.json").exists()
