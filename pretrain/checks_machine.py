"""Checks of where training runs: disks, signals, processes, checkpoints that are there."""

import os
import shutil
from pathlib import Path

from duetto.errors import UserError
from duetto.files import read_json
from pretrain.arithmetic import checkpoint_bytes
from pretrain.checkpoints import steps_on_disk, verify
from pretrain.checks import SHAPE, Facts, Finding, fail, ok, skip, warn, worst
from pretrain.mapping import checkpoints_folder
from pretrain.plan import size, token_bytes
from pretrain.start import local_folder

SHARED = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph", "wekafs", "panfs", "cifs", "orangefs", "daos"}
"""File systems that all nodes of a cluster see."""

WRITE_RATE = 5e8
"""Bytes a second that a checkpoint is written at, on the safe side for a shared file system."""


def local_gpus() -> int:
    """GPUs of this machine, without loading torch."""
    return sum(1 for p in Path("/dev").glob("nvidia[0-9]*"))


def shared_flag(facts: Facts) -> Finding:
    """checkpoints_path_is_shared_file_system says what the disk is."""
    nodes = facts.cluster.size("pretrain").nodes if facts.cluster else 1
    findings = []
    for i, config in enumerate(facts.configs):
        folder = checkpoints_folder(config, facts.run_root)
        flag, kind = config.checkpoints.checkpoints_path_is_shared_file_system, file_system(folder)
        shared = kind in SHARED
        if nodes > 1 and not flag and shared:
            findings.append(
                warn(
                    f"{facts.name(i)}{folder} is on {kind}, which all {nodes} nodes see, but "
                    "checkpoints_path_is_shared_file_system is false",
                    "set checkpoints.checkpoints_path_is_shared_file_system to true",
                )
            )
        elif nodes > 1 and not flag:
            findings.append(
                fail(
                    f"{facts.name(i)}checkpoints_path_is_shared_file_system is false on {nodes} nodes: each keeps its "
                    "own part, and a restart on other nodes finds no complete checkpoint",
                    "put the run folder (DUETTO_HOME) on a shared disk and set the flag to true",
                )
            )
        elif nodes > 1 and not shared:
            findings.append(
                warn(
                    f"{facts.name(i)}{folder} is on {kind} here, which {nodes} nodes may not share",
                    "put the run folder (DUETTO_HOME) on the cluster's shared disk",
                )
            )
        else:
            findings.append(ok(f"{facts.name(i)}{folder} is on {kind}, {nodes} node{'s' if nodes > 1 else ''}"))
    return worst(findings)


def file_system(path: Path) -> str:
    """Type of the file system that holds ``path`` (or would), as in /proc/mounts."""
    at = _existing(path).resolve()
    best, kind = "", "an unknown file system"
    for line in Path("/proc/mounts").read_text().splitlines() if Path("/proc/mounts").exists() else []:
        mount, found = line.split()[1:3]
        inside = at == Path(mount) or Path(mount) in at.parents
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def complete_checkpoints(facts: Facts) -> Finding:
    """What a restart would continue from is complete: the COMMIT marker lists its files with their sizes."""
    findings = []
    for i, config in enumerate(facts.configs):
        folder = checkpoints_folder(config, facts.run_root)
        steps = steps_on_disk(folder)
        if not steps:
            findings.append(ok(f"{facts.name(i)}no checkpoint yet: training starts at step 0"))
            continue
        torn = []
        for step in reversed(steps):
            try:
                verify(folder / str(step), hashes=False)
            except UserError as e:
                torn.append(str(e))
                continue
            break
        else:
            findings.append(
                fail(f"{facts.name(i)}{torn[0]}", "delete the torn checkpoints, or start again with --force")
            )
            continue
        if torn:
            findings.append(warn(f"{facts.name(i)}{torn[0]}", f"nothing to do: training continues from step {step}"))
        else:
            findings.append(ok(f"{facts.name(i)}step {step} is complete, of {len(steps)} checkpoints"))
    return worst(findings)


def resume_paths_exist(facts: Facts) -> Finding:
    """A path to continue or start from that is missing is an error, never a fresh start."""
    named = []
    for i, config in enumerate(facts.configs):
        resume, start = config.checkpoints.resume_checkpoint_path, config.model.init_method.path
        if resume is not None:
            named.append(resume)
            try:
                verify(Path(resume), hashes=False)
            except UserError as e:
                return fail(
                    f"{facts.name(i)}checkpoints.resume_checkpoint_path: {e}", "name a complete checkpoint, or null"
                )
        if start is not None:
            named.append(start)
            folder = local_folder(start)
            if not any((folder / f).exists() for f in ("config.json", "model_config.json")):
                return fail(
                    f"{facts.name(i)}model.init_method.path: {start} holds no model (config.json or model_config.json)",
                    "run the recipe that makes it, duetto fetch it, or name another folder",
                )
    return ok(", ".join(named) if named else "nothing is continued from elsewhere")


def preemption(facts: Facts) -> Finding:
    """The warning before the end of a job leaves time to save a checkpoint."""
    largest = max(checkpoint_bytes(c) for c in facts.configs)
    seconds = largest / WRITE_RATE
    text = f"SIGTERM and SIGUSR1 save a checkpoint of {size(largest)}, {seconds:.0f} s at {size(WRITE_RATE)}/s"
    if facts.cluster is None:
        return ok(text)
    given, needed = facts.cluster.warning_seconds, 2 * seconds + 60  # SLURM may be 60 s late, a step must end first
    if given < needed:
        return fail(
            f"{text}, but the job is warned only {given} s before its end", f"set warning_seconds to {needed:.0f}"
        )
    return ok(f"{text}; the job is warned {given} s before its end")


def processes_fit(facts: Facts) -> Finding:
    """dp x tp x pp is what the machines have, and a continued run keeps its batch."""
    for i, config in enumerate(facts.configs):
        p, world = config.parallelism, config.parallelism.world_size
        text = f"{facts.name(i)}dp {p.dp} x tp {p.tp} x pp {p.pp} = {world} processes"
        if facts.cluster is not None and config.duetto.device != "cpu":
            job = facts.cluster.size("pretrain")
            have = job.nodes * job.gpus_per_node
            if have != world:
                return fail(
                    f"{text}, the job has {job.nodes} nodes x {job.gpus_per_node} GPUs = {have}",
                    f"set parallelism.dp to {have / (p.tp * p.pp):g}, or change jobs.pretrain in the cluster file",
                )
        elif facts.cluster is None:
            gpus = local_gpus() if config.duetto.device != "cpu" else 0
            if config.duetto.device == "cuda" and gpus < world:
                return fail(
                    f"{text}, this machine has {gpus} GPUs", "lower parallelism.dp, or set duetto.device to cpu"
                )
            if gpus == 0 and world > 4 * (os.cpu_count() or 1):
                return fail(
                    f"{text} on {os.cpu_count()} cores of a machine without a GPU",
                    "lower parallelism.dp, or name a cluster (cluster=configs/clusters/NAME.yaml)",
                )
        changed = _changed_batch(facts, i)
        if changed and facts.accept_change:
            return warn(facts.name(i) + changed, "nothing to do: the change was accepted")
        if changed:
            return fail(facts.name(i) + changed, "restore it, start again with --force, or give --accept-change")
    return ok(
        "; ".join(f"dp {c.parallelism.dp} x tp {c.parallelism.tp} x pp {c.parallelism.pp}" for c in facts.configs)
    )


def _changed_batch(facts: Facts, i: int) -> str | None:
    config = facts.configs[i]
    folder = checkpoints_folder(config, facts.run_root)
    for step in reversed(steps_on_disk(folder)):
        try:
            found = verify(folder / str(step), hashes=False)
        except UserError:
            continue
        if found.commit.get("stage", i) != i:
            return None
        now = {"samples_per_step": config.samples_per_step, "sequence_length": config.tokens.sequence_length}
        for key, value in now.items():
            before = found.identity.get(key, value)
            if before != value:
                return f"the checkpoint of step {step} was trained with {key} {before}, now it is {value}"
        return None
    return None


def converts(facts: Facts) -> Finding:
    """What training starts from has the model's shape, and what was converted agreed with it."""
    for i, config in enumerate(facts.configs):
        start = config.model.init_method.path
        if start is None or not (hf := _start_folder(start) / "config.json").exists():
            continue
        theirs, ours = read_json(hf), config.model.shape
        for key in SHAPE:
            if key in theirs and theirs[key] != getattr(ours, key):
                return fail(
                    f"{facts.name(i)}{hf} has {key} {theirs[key]}, model.model_config has {getattr(ours, key)}",
                    "copy the shape of the model you start from",
                )
    parity = facts.run_root / "base" / "parity.json"
    if not parity.exists():
        return skip("logits are compared when the checkpoint is converted")
    worst_logit = read_json(parity).get("max_abs_logit_difference")
    if worst_logit is None or not worst_logit <= 1e-4:
        return fail(f"{parity}: logits differ by {worst_logit}", "duetto convert --force; do not publish this model")
    return ok(f"the converted model's logits agree within {worst_logit:.1e}")


def _start_folder(path: str) -> Path:
    """Where the start model is, or would be; that it is there is another check's concern."""
    try:
        return local_folder(path)
    except UserError:
        return Path(path)


def disk_space(facts: Facts) -> Finding:
    """The disk holds every checkpoint that will stay, one being written, and the tokens."""
    need: dict[int, float] = {}
    where: dict[int, Path] = {}
    for config in facts.configs:
        folder = checkpoints_folder(config, facts.run_root)
        each, keep = checkpoint_bytes(config), config.duetto.keep
        written = -(-config.tokens.train_steps // config.checkpoints.checkpoint_interval)
        kept = min(written, keep.last + (config.tokens.train_steps // keep.every if keep.every else 0)) + 1
        there = sum(1 for s in steps_on_disk(folder))
        device = _existing(folder).stat().st_dev
        need[device] = need.get(device, 0) + max(kept - there, 1) * each
        where[device] = folder
    if facts.mixture is None:
        tokens = token_bytes(facts.recipe, facts.run_root, facts.configs[0].model.shape.vocab_size) or 0
        device = _existing(facts.run_root).stat().st_dev
        need[device], where[device] = need.get(device, 0) + tokens, facts.run_root
    lines = []
    for device, amount in need.items():
        free = shutil.disk_usage(_existing(where[device])).free
        if free < 1.05 * amount:
            return fail(
                f"{where[device]}: {size(amount)} are still to be written, {size(free)} are free",
                "free space, keep fewer checkpoints (duetto.keep), or set DUETTO_HOME to another disk",
            )
        lines.append(f"{size(amount)} still to be written, {size(free)} free")
    return ok("; ".join(lines))
