"""One training process, started by torchrun on every rank.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m pretrain.worker <run>/pretrain/job.json

A worker that is restarted (torchrun --max-restarts, or the command given again) continues from the newest complete
checkpoint by itself.
"""

import os
import shutil
import sys
import warnings
from datetime import timedelta
from pathlib import Path

from duetto.errors import Preempted, UserError
from duetto.files import read_json, write_json
from duetto.process import MARK, worker_main
from pretrain.checkpoints import Checkpoint, complete, steps_on_disk, verify
from pretrain.guards import Preemption
from pretrain.job import Job
from pretrain.launch import STOP


def main() -> None:
    job = Job.load(sys.argv[1])
    told = job.root / ".progress" / f"outcome-{os.environ.get('TORCHELASTIC_RUN_ID', 'none')}.json"
    _raise_again(told)
    Preemption()
    try:
        _train(job)
    except (UserError, Preempted) as e:
        write_json(told, {"kind": type(e).__name__, "message": str(e)})
        raise


def _raise_again(told: Path) -> None:
    """torchrun restarts a worker whatever it died of. A lost one is what the restart is for; one that ended on
    purpose (wrong input, a guard, a request to stop) ends again, before anything is imported."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        told.unlink(missing_ok=True)
    elif STOP in os.environ and not told.exists():
        raise Preempted("stopped before training began; run the same command again")
    elif told.exists():
        outcome = read_json(told)
        raise (Preempted if outcome["kind"] == "Preempted" else UserError)(outcome["message"])


def _train(job: Job) -> None:
    warnings.filterwarnings("ignore")
    import torch

    from pretrain import compat

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    compat.install()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    _check_world(job)
    _init_process_group()
    _check_muon(job)
    checkpoint = _agree_on_checkpoint(job)
    if checkpoint is None and job.init_from:
        _check_start(job, Path(job.init_from))
    if checkpoint is not None and checkpoint.step >= job.last_step:
        torch.distributed.destroy_process_group()
        return
    from pretrain.trainer import Trainer

    trainer = Trainer(job, checkpoint)
    try:
        trainer.run()
    finally:
        trainer.close()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _init_process_group() -> None:
    """nanotron takes the group that exists.

    The store outlives a restart by torchrun, and with it the addresses of the workers that died: without a prefix of
    its own a restarted rank calls a closed port and the restart fails.
    """
    import torch.distributed as td

    backend = "nccl" if torch_sees_gpu() else "gloo"
    store, rank, world = next(td.rendezvous("env://"))
    attempt = td.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    td.init_process_group(backend, store=attempt, rank=rank, world_size=world, timeout=timedelta(minutes=10))


def torch_sees_gpu() -> bool:
    from pretrain.compat import on_cpu

    return not on_cpu()


def _check_world(job: Job) -> None:
    p, world = job.nanotron["parallelism"], int(os.environ["WORLD_SIZE"])
    if p["dp"] * p["tp"] * p["pp"] != world:
        raise UserError(
            f"dp {p['dp']} x tp {p['tp']} x pp {p['pp']} = {p['dp'] * p['tp'] * p['pp']} processes are configured, "
            f"{world} were started; make parallelism and the number of processes (nodes x GPUs) equal"
        )


def _check_muon(job: Job) -> None:
    if job.optimizer.name == "muon" and job.nanotron["parallelism"]["tp"] > 1:
        raise UserError("optimizer_factory.name: muon needs whole matrices; set parallelism.tp to 1 or use adamW")


def _check_start(job: Job, folder: Path) -> None:
    """Weights trained with one rotary layout mean something else under the other."""
    layout = verify(folder, hashes=False).commit["model_options"]["rope_interleaved"]
    if layout != job.model.rope_interleaved:
        raise UserError(
            f"{folder} was made with rope_interleaved: {str(layout).lower()}, this training has "
            f"{str(job.model.rope_interleaved).lower()}; set model_config.rope_interleaved to the checkpoint's"
        )


def _agree_on_checkpoint(job: Job) -> Checkpoint | None:
    """The newest checkpoint of this job that every node has whole; younger remains are removed."""
    import torch.distributed as td

    root, leader = job.root / "checkpoints", _leader(job)
    found: Checkpoint | None = None
    told: list[int | None] = [None] * td.get_world_size()
    limit = job.last_step
    while True:
        if leader:
            found, torn = complete(root, up_to=limit)
            for line in torn:
                sys.stderr.write(f"{MARK}note: {line}\n")
        # Not a collective of tensors: the device is not set up for all backends yet, and this happens once.
        td.all_gather_object(told, found.step if found else -1 if leader else None)
        steps = [s for s in told if s is not None]
        limit = min(steps)
        if max(steps) == limit:
            break
    if limit <= job.offset and job.offset > 0:
        limit = -1  # the last checkpoint of the stage before: its weights are job.init_from
    if leader:
        _remove_after(root, limit)
    td.barrier()
    if limit < 0:
        return verify(Path(job.resume_from)) if job.resume_from else None
    return complete(root, up_to=limit, hashes=False)[0]


def _leader(job: Job) -> bool:
    shared = job.checkpoints.shared_filesystem
    return int(os.environ["RANK" if shared else "LOCAL_RANK"]) == 0


def _remove_after(root: Path, step: int) -> None:
    """Folders beyond the one that is continued are torn; a new attempt must not mix with their files."""
    for other in steps_on_disk(root):
        if other > step and not (root / str(other) / "COMMIT").exists():
            shutil.rmtree(root / str(other))


if __name__ == "__main__":
    worker_main(main)
