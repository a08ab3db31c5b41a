"""What ``duetto submit`` refuses, and how a graph ends when a stage fails."""

import json
import os
import subprocess
import time

import pytest

from duetto.recipe import ROOT
from tests.support.slurm_cluster import MiniCluster


def test_the_fixture_is_up_in_seconds(cluster):
    assert cluster.up_seconds < 5
    assert len(cluster.states()) == 8


def test_nodes_without_namespaces(cluster, tmp_path):
    """Where namespaces are not allowed the nodes are plain daemons; jobs find each other by SLURM's addresses."""
    with MiniCluster(nodes=2, namespaces=False) as plain:
        script = tmp_path / "job.sh"
        script.write_text(
            f"#!/bin/bash\ncd {ROOT}\nsource slurm/common.sh\nacross_nodes\necho head $DUETTO_HEAD\nsrun -l echo here\n"
        )
        options = ("--wait", "--nodes=2", "--ntasks-per-node=1", f"--output={tmp_path}/out")
        plain.client("sbatch", *options, str(script), timeout=60)
        said = (tmp_path / "out").read_text()
        assert "head 127.0.1.1" in said and "0: here" in said and "1: here" in said
        plain.power_off("node2")
        plain.power_on("node2")
        plain.client("sbatch", *options, str(script), timeout=60)


def test_gpus_of_the_allocation_are_seen_in_the_job(cluster, tmp_path):
    out = tmp_path / "out"
    wrap = "srun -l bash -c 'echo $(hostname) $SLURM_GPUS_ON_NODE $CUDA_VISIBLE_DEVICES'"
    cluster.client("sbatch", "--wait", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=3", f"--output={out}", f"--wrap={wrap}")  # fmt: skip
    lines = sorted(x.split()[1:] for x in out.read_text().splitlines())
    assert [x[1:] for x in lines] == [["3", "0,1,2"]] * 2
    if cluster.namespaces:
        assert [x[0] for x in lines] == ["node1", "node2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cluster", "minni"], "no cluster 'minni'; did you mean 'mini'"),
        (["cluster.partition=bacht"], "partition 'bacht': this cluster has no such partition; did you mean 'batch'"),
        (
            ["cluster.nodes=64", "cluster.jobs.pretrain.nodes=64", "pretrain.parallelism.dp=64"],
            "pretrain: SLURM refuses the job",
        ),
        (["cluster.cpus_per_node=512", "cluster.jobs.tokenize.cpus=512"], "tokenize: SLURM refuses the job"),
        (
            ["pretrain.parallelism.dp=3"],
            "3 processes cannot be shared out over 4 nodes; set cluster.jobs.pretrain.nodes",
        ),
        (["cluster.time='2-00:00:00'"], "above the 60 minutes that partition"),
        (["cluster.venv=/nowhere/venv"], "/nowhere/venv/bin/activate: no such file; run make setup"),
        (["cluster.modules=[cuda/99]"], "modules: cuda/99 cannot be loaded here"),
        (["cluster.container={image: /nowhere/image.sif}"], "/nowhere/image.sif: no such image"),
        (["--from", "sft"], "sft needs convert, which is not done; start from convert"),
        (["data.sources.web_en.path=x", "cluster.nodez=3"], "unknown key 'cluster.nodez'; did you mean 'nodes'"),
    ],
)
def test_refused_at_once_with_what_to_change(duetto, cluster, arguments, message):
    said = duetto("submit", *arguments, code=2, timeout=60)
    assert message in said and "Traceback" not in said, said
    assert cluster.client("squeue", "-h", "-n", "tiny.tokenize") == "", "nothing stays in the queue"


def test_a_run_folder_that_cannot_be_written(duetto):
    duetto.env["DUETTO_HOME"] = "/proc/nowhere"  # read-only for root too
    assert "cannot write there" in duetto("submit", code=2)


def test_no_slurm_on_this_machine(duetto, tmp_path):
    duetto.env["PATH"] = str(tmp_path)
    assert "--executor local" in duetto("submit", code=2)


def test_a_time_limit_shorter_than_a_checkpoint_interval(duetto):
    """Known from an earlier attempt's metrics: 10 steps of 300 s in 28 minutes."""
    folder = duetto.run / "pretrain"
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": i + 1, "step_seconds": 300.0}) + "\n" for i in range(9)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    said = duetto("submit", code=2)
    assert "checkpoint_interval: 10 steps take about 50 min, but a job ends after 28 min" in said
    assert "lower the interval to 2" in said


def test_a_process_in_the_run_folder(duetto):
    from filelock import FileLock

    duetto.run.mkdir(parents=True)
    with FileLock(str(duetto.run / ".lock")):
        assert "a process works on" in duetto("submit", code=2)


def test_dry_run_prints_scripts_and_graph_and_submits_nothing(duetto, cluster):
    said = duetto("submit", "--dry-run", "pretrain.general.seed=9")
    assert said.count("tiny.yaml pretrain.general.seed=9\n") == 6, "every job gets the overrides"
    for text in (
        "#SBATCH --nodes=4",
        "supervised python -m slurm.driver pretrain",
        "after convert",
        "the graph on mini",
    ):
        assert text in said
    assert not duetto.run.exists() and cluster.client("squeue", "-h", "-n", "tiny.tokenize") == ""


def test_a_second_submit_while_the_first_is_in_the_queue(duetto, cluster):
    duetto("submit", "--to", "pretrain", "cluster.sbatch={begin: now+1hour}")
    jobs = duetto.jobs()
    try:
        said = duetto("submit", code=2)
        assert f"has jobs in the queue: {jobs['tokenize']} (tokenize, pending)" in said
        assert f"scancel {jobs['tokenize']} {jobs['pretrain']}" in said
        assert "pending (BeginTime)" in duetto("status")
    finally:
        cluster.client("scancel", *jobs.values())
    assert {cluster.wait_job(j, ("CANCELLED",), 20) for j in jobs.values()} == {"CANCELLED"}


def test_a_failed_stage_stops_the_graph_and_submit_continues_after_the_mend(duetto, cluster):
    duetto("submit", "data.sources.code.path=/nowhere/code", "--no-health")
    jobs = duetto.jobs()
    assert cluster.wait_job(jobs["tokenize"], ("FAILED",)) == "FAILED"
    for name in jobs.keys() - {"tokenize"}:
        assert cluster.wait_job(jobs[name], ("CANCELLED",), 30) == "CANCELLED", f"{name} waits for ever"
    said = duetto("status")
    assert "tokenize: job" in said and "failed; see" in said
    states = {s["stage"]: s["state"] for s in json.loads(duetto("status", "--json"))["stages"]}
    assert states["tokenize"] == "failed" and states["card"] == "cancelled"
    assert "/nowhere/code" in duetto.log("tokenize")
    # the mend
    duetto("submit", "--to", "tokenize")
    again = duetto.jobs()["tokenize"]
    assert cluster.wait_job(again, ("COMPLETED",)) == "COMPLETED", duetto.log("tokenize")
    assert "already done" not in duetto("status")
    assert "every stage of tiny is done" in duetto("submit", "--to", "tokenize")


def test_a_job_that_would_wait_for_ever_is_taken_back(cluster, tmp_path, monkeypatch):
    from duetto.errors import UserError
    from slurm import checks, clients

    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/bash\n#SBATCH --time=2-00:00:00\n#SBATCH --output=/dev/null\nsleep 1\n")
    job = clients.sbatch(script)
    try:
        with pytest.raises(
            UserError, match="pretrain: it would wait for ever: its time is above the partition's limit"
        ):
            checks.will_start({"pretrain": job}, seconds=10)
    finally:
        cluster.client("scancel", job)


def test_a_bad_node_is_excluded_and_the_job_starts_again(cluster, tmp_path):
    """The node check finds too few GPUs on one of two nodes; the same job id starts again on others."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    fake = bin_folder / "nvidia-smi"
    lines = "\\n".join(f"{i}, 81920, 81000, 0, Not Active, Not Active, 1410, 1410" for i in range(2))
    bad = "node1" if cluster.namespaces else os.uname().nodename
    fake.write_text(f'#!/bin/bash\nif [ "$SLURMD_NODENAME" = {bad} ]; then echo "0, 81920, 81000, 3, Not Active, Not Active, 1410, 1410"\nelse printf "{lines}\\n"; fi\n')  # fmt: skip
    fake.chmod(0o755)
    run = tmp_path / "runs" / "tiny"
    (run / "slurm").mkdir(parents=True)
    mini = (ROOT / "configs/clusters/mini.yaml").read_text()
    (run / "slurm/cluster.yaml").write_text(mini + "gpu: fake\n")
    script = tmp_path / "job.sh"
    script.write_text(f"""#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=2 --time=00:10:00 --requeue --open-mode=append
#SBATCH --output={tmp_path}/out
cd {ROOT} && source .venv/bin/activate
export DUETTO_RUN={run} DUETTO_CLUSTER={run}/slurm/cluster.yaml PATH={bin_folder}:$PATH GLOO_SOCKET_IFNAME=lo
source slurm/common.sh
across_nodes
check_nodes
say "starts on $SLURM_JOB_NODELIST"
""")
    job = cluster.client("sbatch", "--parsable", str(script))
    state = cluster.wait_job(job, ("COMPLETED",), 120)
    said = (tmp_path / "out").read_text()
    assert state == "COMPLETED", said
    assert "node1 is bad: 1 GPUs of 2; GPU 0: 3 uncorrected ECC errors" in said
    assert f"back to the queue as job {job}, without node1" in said
    assert "node1" not in said.split("starts on")[1]


def test_by_hand(ready, cluster, tmp_path):
    """A script of slurm/ without duetto submit; its log goes to the run folder."""
    command = ["sbatch", "--parsable", f"--output={tmp_path}/%x.out", "--time=10", "slurm/tokenize.sh", "--recipe", str(ready.recipe)]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=ready.env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    assert cluster.wait_job(job, ("COMPLETED",), 60) == "COMPLETED", (tmp_path / "tokenize.out").read_text()
    log = ready.run / "logs" / "slurm" / f"tokenize-{job}.log"
    assert f"log: {log}" in (tmp_path / "tokenize.out").read_text()
    assert "tokenize: unchanged, skipped" in log.read_text()


def test_two_submits_at_the_same_moment(duetto):
    from filelock import FileLock

    (duetto.run / "slurm").mkdir(parents=True)
    with FileLock(str(duetto.run / "slurm" / ".lock")):
        began = time.monotonic()
        assert "another duetto submit works on" in duetto("submit", code=2)
        assert time.monotonic() - began < 30


def test_tokenization_as_arrays(duetto, cluster):
    """datatrove's own SLURM executor, from inside the tokenize job: one array for each step."""
    one = "data.stages=[{name: demo, tokens: {code: 10240}}]"
    duetto("submit", "--to", "tokenize", one, "cluster.data_arrays={time: '00:10:00', mem_per_cpu_gb: 1}")
    job = duetto.jobs()["tokenize"]
    assert cluster.wait_job(job, ("COMPLETED",), 240) == "COMPLETED", duetto.log("tokenize")
    arrays = cluster.client("squeue", "-h", "-t", "all", "-o", "%j %T").splitlines()
    assert sum(x.startswith("duetto-") and x.endswith("COMPLETED") for x in arrays) >= 2, arrays
    assert (duetto.run / "manifests" / "tokenize.json").exists()
