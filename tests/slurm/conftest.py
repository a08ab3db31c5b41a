"""A session's mini-cluster, and a recipe so small that a pretraining takes seconds once it has started."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support import slurm_cluster

ROOT = Path(__file__).resolve().parents[2]

STEPS, EVERY = 40, 10


def tiny_recipe(folder: Path) -> Path:
    """The demo recipe with everything scaled down, in one file."""

    def read(name):
        return yaml.safe_load((ROOT / "configs" / name).read_text())

    data, pretrain, sft, suite = read("data/demo.yaml"), read("pretrain/demo.yaml"), read("sft/demo.yaml"), read("eval/demo.yaml")  # fmt: skip
    data["generate"]["scale"] = 0.05
    data["max_epochs"] = 100
    data["stages"][0]["tokens"] = {"web_en": 4096, "web_it": 3072, "pdf_it": 1024, "code": 2048}
    tokens, schedule = pretrain["tokens"], pretrain["optimizer"]["learning_rate_scheduler"]
    tokens |= {"train_steps": STEPS, "sequence_length": 64, "micro_batch_size": 1, "val_check_interval": STEPS}
    tokens["limit_val_batches"] = 1
    schedule |= {"lr_warmup_steps": 4, "lr_decay_starting_step": 20, "lr_decay_steps": 20}
    pretrain["parallelism"]["dp"] = 4
    pretrain["checkpoints"]["checkpoint_interval"] = EVERY
    sft |= {"max_steps": 4, "save_steps": 100, "warmup_steps": 1}
    sft["duetto"]["processes"] = 1
    suite["tasks"] = [t for t in suite["tasks"] if t["task"].startswith("reading_")]
    suite["chat"]["prompts"] = 2
    recipe = copy.deepcopy(read("recipes/demo.yaml"))
    recipe |= {"name": "tiny", "data": data, "pretrain": [pretrain], "sft": sft, "eval": suite}
    recipe["cluster"] = "configs/clusters/mini.yaml"
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    return tiny_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="session")
def cluster():
    """Real SLURM daemons: eight virtual nodes with eight fake GPUs each."""
    lacking = ""
    if absent := slurm_cluster.missing():
        lacking = f"not installed: {', '.join(absent)} (Debian: slurmctld slurmd slurm-client munge)"
    elif os.geteuid() != 0:
        lacking = "slurmd runs jobs for other users, so it needs root"
    if lacking and os.environ.get("CI") == "true":
        pytest.fail(f"SLURM tests cannot run in CI: {lacking}")
    if lacking:
        pytest.skip(f"SLURM tests: {lacking}")
    with slurm_cluster.MiniCluster(nodes=8, cpus=128, memory_mb=1_100_000) as found:
        print(f"mini-cluster: 8 nodes idle after {found.up_seconds:.2f} s")
        yield found


class Duetto:
    """``duetto`` in its own process, on the mini-cluster, with a home of its own."""

    def __init__(self, home: Path, recipe: Path, cluster: slurm_cluster.MiniCluster | None = None) -> None:
        self.home, self.recipe, self.cluster = home, recipe, cluster
        self.run = home / "tiny"
        path = f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"
        self.env = {**(cluster.env if cluster else os.environ), "DUETTO_HOME": str(home)}
        self.env["PATH"] = f"{path}:{self.env['PATH']}"

    def __call__(self, verb: str, *args: str, code: int = 0, timeout: float = 120) -> str:
        command = [sys.executable, "-m", "duetto", verb, "--recipe", str(self.recipe), *args]
        done = subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == code, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def jobs(self) -> dict[str, str]:
        """Job ids of the last submission by name."""
        from slurm.submit import journal

        return {e["name"]: e["job"] for e in yaml.safe_load(journal(self.run).read_text())["jobs"]}

    def log(self, name: str) -> str:
        return "\n".join(p.read_text() for p in sorted((self.run / "logs" / "slurm").glob(f"tiny.{name}-*.log")))


@pytest.fixture(scope="session")
def tokenized(tmp_path_factory, recipe):
    """A home whose run is tokenized, for copying."""
    duetto = Duetto(tmp_path_factory.mktemp("tokenized"), recipe)
    duetto("tokenize")
    return duetto.home


@pytest.fixture
def duetto(tmp_path, recipe, cluster):
    return Duetto(tmp_path / "home", recipe, cluster)


@pytest.fixture
def ready(tmp_path, recipe, cluster, tokenized):
    """A run that is tokenized, on the mini-cluster."""
    home = tmp_path / "home"
    shutil.copytree(tokenized, home)
    return Duetto(home, recipe, cluster)


def pytest_collection_modifyitems(items):
    """Tests that share the mini-cluster stay on one worker."""
    for item in items:
        if "/slurm/" in str(item.path) and "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("slurm"))
