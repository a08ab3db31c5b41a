"""torchrun over the nodes of an allocation, the watchdog, and what the clients' output means."""

import inspect
import json
import time

import pytest

from duetto.errors import Preempted, UserError
from slurm import clients
from slurm.across import across_nodes, ranks_of
from slurm.clients import JobState
from slurm.config import Container, find
from slurm.status import state_of
from slurm.watchdog import WINDOW, Watchdog, read_tail, slow_nodes

TORCHRUN = ["python", "-m", "pretrain.launch", "--standalone", "--nproc-per-node", "8", "--max-restarts", "2", "-m", "pretrain.worker", "job.json"]  # fmt: skip
JOB = {"SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "1", "DUETTO_HEAD": "node1", "DUETTO_PORT": "20077"}  # fmt: skip


def test_torchrun_goes_over_the_nodes_with_its_share_of_processes():
    found = across_nodes(TORCHRUN, JOB)
    at = found.index("python")
    assert found[0] == "srun" and {"--nodes=4", "--ntasks=4", "--ntasks-per-node=1"} <= set(found[:at])
    assert "--kill-on-bad-exit=0" in found, "a rank that ends first must not tear the others' checkpoint"
    rest = found[at:]
    assert "--standalone" not in rest and "--nproc-per-node=2" in rest and "--nnodes=4" in rest
    assert "--rdzv-endpoint=node1:20077" in rest and "--rdzv-id=77-1" in rest
    assert rest[rest.index("--max-restarts") + 1] == "0", "the queue restarts a job, not torchrun"
    assert rest[-3:] == ["-m", "pretrain.worker", "job.json"] and ranks_of(found) == 8


def test_what_is_no_torchrun_stays_as_it_is():
    for command in (
        ["python", "-m", "sft.worker", "x"],
        ["srun", "--nodes=2", "python", "-m", "torch.distributed.run"],
    ):
        assert across_nodes(command, JOB) == command


def test_one_node_keeps_standalone():
    found = across_nodes(TORCHRUN, {"SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "7"})
    assert "--standalone" in found and "--nproc-per-node=8" in found and "srun" not in found


def test_a_container_wraps_every_node_s_command(tmp_path):
    inside = Container(image="/images/duetto.sif", binds=["/scratch"]).command(tmp_path, tmp_path / "run")
    found = across_nodes(TORCHRUN, JOB, container=inside, python="/usr/bin/python3")
    at = found.index("apptainer")
    assert found[at : at + 3] == ["apptainer", "exec", "--nv"] and "/scratch" in found
    assert found[found.index("/images/duetto.sif") + 1] == "/usr/bin/python3"


@pytest.mark.parametrize(
    ("nodes", "gpus", "message"),
    [("3", 8, "8 processes .* cannot be shared out over 3 nodes"), ("1", 4, "8 processes a node on 4 allocated GPUs")],
)
def test_processes_that_do_not_fit(nodes, gpus, message):
    with pytest.raises(UserError, match=message):
        across_nodes(TORCHRUN, JOB | {"SLURM_JOB_NUM_NODES": nodes}, gpus=gpus)


# -- watchdog ---------------------------------------------------------------------------------------------------------


def watchdog(run, seconds):
    cluster = find("mini")
    return Watchdog(cluster.model_copy(update={"watchdog": cluster.watchdog.model_copy(update={"stall_seconds": seconds})}), run)  # fmt: skip


def write_steps(run, steps, **more):
    path = run / "pretrain" / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"step": s, **more}) + "\n" for s in steps))


def test_a_stall_ends_the_attempt_and_is_written_down(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    write_steps(tmp_path, range(1, 8))
    dog = watchdog(tmp_path, 0.4)
    end = time.monotonic() + 5
    with pytest.raises(Preempted, match="no step after 7 for"):
        while time.monotonic() < end:
            dog.look()
            time.sleep(0.02)
    (record,) = read_tail(tmp_path / "logs" / "slurm" / "watchdog.jsonl")
    assert record["event"] == "stall" and record["step"] == 7


def test_steps_keep_the_watchdog_quiet(tmp_path):
    dog = watchdog(tmp_path, 0.4)
    for step in range(30):
        write_steps(tmp_path, range(step + 1))
        dog.look()
        time.sleep(0.03)
    assert not (tmp_path / "logs").exists()


def test_a_node_that_is_slow_in_most_steps_is_named():
    nodes = ["node1", "node2"]
    slow = [{"step": i, "slow_ranks": [2, 3]} for i in range(WINDOW)]
    assert slow_nodes(slow, nodes, ranks=4) == {"node2": WINDOW}
    noise = [{"step": i, "slow_ranks": [i % 4]} for i in range(WINDOW)]
    assert slow_nodes(noise, nodes, ranks=4) == {}
    assert slow_nodes(slow[:10], nodes, ranks=4) == {}, "ten steps are no evidence"


def test_a_torn_last_line_is_left_out(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [r["step"] for r in read_tail(tmp_path / "x.jsonl")] == [1, 2]


# -- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("done", "state", "word"),
    [
        (True, None, "done"),
        (True, "COMPLETED", "done"),
        (False, None, "missing"),
        (False, "RUNNING", "running"),
        (True, "RUNNING", "running"),
        (False, "PENDING", "pending"),
        (False, "COMPLETED", "ended"),
        (False, "FAILED", "failed"),
        (False, "NODE_FAIL", "failed"),
        (False, "TIMEOUT", "failed"),
        (False, "CANCELLED", "cancelled"),
    ],
)
def test_one_word_for_each_state(done, state, word):
    assert state_of(done, JobState("1", state) if state else None) == word


def test_an_array_is_as_good_as_its_worst_task(monkeypatch):
    lines = "21|20|COMPLETED|None|node1|INVALID\n20|20|FAILED|NonZeroExitCode|node2|INVALID\n30|30|PENDING|Dependency||1:00\n"

    def ask(*command, timeout=60):
        import subprocess

        return subprocess.CompletedProcess(command, 0, lines if command[0] == "squeue" else "", "")

    monkeypatch.setattr(clients, "ask", ask)
    monkeypatch.setattr(clients, "has_slurm", lambda: True)
    found = clients.states(["20", "30", "40"])
    assert found["20"].state == "FAILED" and found["30"].reason == "Dependency" and "40" not in found


def test_accounting_knows_what_the_controller_has_forgotten(monkeypatch):
    def ask(*command, timeout=60):
        import subprocess

        said = "40|CANCELLED by 0|None|None assigned\n" if command[0] == "sacct" else ""
        return subprocess.CompletedProcess(command, 0, said, "")

    monkeypatch.setattr(clients, "ask", ask)
    monkeypatch.setattr(clients, "has_slurm", lambda: True)
    monkeypatch.setattr(clients.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert clients.states(["40"])["40"].state == "CANCELLED"


def test_the_evaluation_still_has_the_functions_that_parts_call():
    from eval import models, stage
    from eval.harness import TaskLoader

    inspect.signature(stage.measure).bind(config=None, model=None, folder=None, loader=None)
    inspect.signature(stage.select).bind(None, ["base"])
    inspect.signature(models.run_models).bind(None, None)
    inspect.signature(TaskLoader).bind(None)
