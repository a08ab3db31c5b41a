"""What a job makes of a warning, a crash and a chain (slurm/common.sh), with stand-ins for the engines."""

import time

import pytest

from duetto.recipe import ROOT

WAITS = "bash -c 'trap \"exit 3\" USR1; sleep 60 & wait'"


@pytest.fixture
def start(cluster, tmp_path):
    """Submit a job that supervises a command; returns its id and a reader of its log."""

    def submit(command, *options, **variables):
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        named = {"DUETTO_RUN": str(run), "DUETTO_HEALTH": "0", "DUETTO_WARNING": "60"} | variables
        script = tmp_path / "job.sh"
        script.write_text(
            "#!/bin/bash\nset -uo pipefail\n"
            + "".join(f"export {k}='{v}'\n" for k, v in named.items())
            + f"cd {ROOT}\nsource slurm/common.sh\nacross_nodes\nsupervised {command}\n"
        )
        options = ("--requeue", "--open-mode=append", f"--output={tmp_path}/log", *options)
        job = cluster.client("sbatch", "--parsable", *options, str(script))
        return job, lambda: (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""

    return submit


def warn(cluster, job, log, text="rendezvous"):
    end = time.monotonic() + 30
    while text not in log():
        assert time.monotonic() < end, log()
        time.sleep(0.1)
    time.sleep(0.5)
    cluster.client("scancel", "--batch", "--signal=USR1", job)


def test_near_its_limit_a_link_hands_over_to_the_next(start, cluster):
    job, log = start(WAITS, "--time=2", DUETTO_LINKS_LEFT="1")
    warn(cluster, job, log)
    assert cluster.wait_job(job, ("COMPLETED",), 30) == "COMPLETED", log()
    assert "handed over to the next job of the chain" in log()


def test_far_from_its_limit_a_link_is_requeued(start, cluster):
    """Preempted early: the next link must not start with most of this one's time unused."""
    job, log = start(WAITS, "--time=30", DUETTO_LINKS_LEFT="1")
    warn(cluster, job, log)
    warn(cluster, job, log, "start 2")
    assert f"back to the queue as job {job}" in log()
    cluster.client("scancel", job)


def test_where_requeueing_is_off_the_job_says_what_to_do(start, cluster):
    job, log = start(WAITS, DUETTO_REQUEUE="0")
    warn(cluster, job, log)
    assert cluster.wait_job(job, ("FAILED",), 30) == "FAILED"
    assert "requeue is off for this cluster" in log() and "duetto submit continues" in log()


def test_wrong_input_is_not_retried(start, cluster):
    job, log = start("bash -c 'exit 2'")
    assert cluster.wait_job(job, ("FAILED",), 30) == "FAILED"
    assert "nothing to retry" in log() and "start 2" not in log()


def test_a_crash_without_a_new_checkpoint_is_not_retried(start, cluster):
    job, log = start("bash -c 'exit 1'")
    assert cluster.wait_job(job, ("FAILED",), 30) == "FAILED"
    assert "no new checkpoint since the start, so no retry" in log()


def test_a_crash_after_a_new_checkpoint_is_tried_again(start, cluster):
    once = '[ "${SLURM_RESTART_COUNT:-0}" = 1 ] && exit 0; f=$DUETTO_RUN/pretrain/checkpoints/5; mkdir -p $f; touch $f/COMMIT; exit 1'
    job, log = start(f"bash -c '{once}'")
    assert cluster.wait_job(job, ("COMPLETED",), 60) == "COMPLETED", log()
    assert "failed with 1; looking at the nodes" in log() and f"job {job}, start 2" in log()


def test_a_warning_before_there_is_anything_to_save(start, cluster):
    """The driver has no handler yet: the signal ends it, and the job starts again."""
    job, log = start('bash -c "[ ${SLURM_RESTART_COUNT:-0} = 1 ] || exec sleep 60"')
    warn(cluster, job, log)
    assert cluster.wait_job(job, ("COMPLETED",), 60) == "COMPLETED", log()
    assert f"job {job}, start 2" in log()
