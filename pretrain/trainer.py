"""The training loop: nanotron's model, parallelism, pipeline engines and optimizers, in a loop that can be read.

nanotron's own loop has no place between the backward pass and the optimizer step, where the guards belong, writes
checkpoints in the foreground, and logs to wandb; the rest of its trainer is used as it is.
"""

import functools
import os
import tempfile
from typing import Any

import torch
import yaml
from nanotron import distributed as dist
from nanotron.optim.clip_grads import clip_grad_norm
from nanotron.parallel.data_parallel.utils import sync_gradients_across_dp
from nanotron.parallel.tied_parameters import sync_tied_weights_gradients
from nanotron.sanity_checks import (
    after_optim_step_sanity_checks,
    after_tbi_sanity_checks,
    before_optim_step_sanity_checks,
    before_tbi_sanity_checks,
)
from nanotron.trainer import DistributedTrainer
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from duetto.errors import Preempted
from pretrain import devices, optimizer
from pretrain.batches import Feed
from pretrain.capture import capture
from pretrain.checkpoints import Checkpoint, Writer
from pretrain.compat import device_mode, fixes
from pretrain.faults import Fault
from pretrain.guards import Preemption, SpikeWatch, StallWatch, refuse_non_finite, slow_ranks
from pretrain.job import Job
from pretrain.metrics import Clock, ForwardSeconds, Journal, memory_bytes, truncate_after
from pretrain.model_options import Llama
from pretrain.schedule import multiplier
from pretrain.validation import Validator


class Trainer(DistributedTrainer):
    """Trains one Job. Steps inside are the job's own, from 1; ``job.offset`` is added in all that is written."""

    def __init__(self, job: Job, checkpoint: Checkpoint | None) -> None:
        """``checkpoint``: complete, to continue from; None starts the job."""
        self.job, self.checkpoint = job, checkpoint
        fixes.supply_optimizer(functools.partial(optimizer.build, job.optimizer), optimizer.load)
        fixes.supply_scheduler(self._schedule)
        config = {**job.nanotron}
        config["checkpoints"] = config["checkpoints"] | {
            "checkpoints_path": str(job.root / "checkpoints"),
            "resume_checkpoint_path": str(checkpoint.path) if checkpoint else None,
        }
        if checkpoint is None and job.init_from:
            config["model"] = config["model"] | {"init_method": {"path": job.init_from}}
        with device_mode(), tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
            yaml.safe_dump(config, f)
            f.flush()
            super().__init__(f.name, model_class=functools.partial(Llama, job.model))  # type: ignore[arg-type]

    def _schedule(self, optimizer: Any, lr_scheduler_args: Any, total_training_steps: int) -> LambdaLR:
        """In place of nanotron's lr_scheduler_builder: our curve, a pure function of the step."""
        return LambdaLR(optimizer.get_base_optimizer(), functools.partial(multiplier, self.job.schedule))

    def post_init(self) -> None:
        job, context = self.job, self.parallel_context
        self.rank, self.world = dist.get_rank(context.world_pg), context.world_pg.size()
        self.ddp = isinstance(self.model, DistributedDataParallel)
        self.pipeline_engine = self.config.parallelism.pp_engine
        self.pipeline_engine.nb_microbatches = self.n_micro_batches_per_batch
        model = self.unwrapped_model
        model.module_id_to_prefix = {id(m): f"{name}." for name, m in model.named_modules()} | {id(model): ""}
        self.named_parameters = [
            (
                p.get_tied_info().get_full_name_from_module_id_to_prefix(model.module_id_to_prefix)
                if p.is_tied
                else name,
                p,
            )
            for name, p in model.named_parameters()
            if p.requires_grad
        ]
        self.feed = Feed(job, self)
        self.validator = Validator(self, self.feed)
        self.preemption = Preemption()
        self.spikes = SpikeWatch(job.guards, self.checkpoint.commit.get("spikes") if self.checkpoint else None)
        self.writer = Writer(job.root / "checkpoints", job.checkpoints, self.rank, self.world, _local_ranks())
        self.stall = StallWatch(job.root / ".progress", self.rank, self.world, job.guards.stall_seconds)
        self.last_good = self.checkpoint.step if self.checkpoint else None
        self.tokens_per_step = job.tokens_per_step
        self.peak = devices.find(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
        self.forward_seconds = ForwardSeconds(self.pipeline_engine)
        self.fault = Fault.from_environment()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def run(self) -> None:
        """Train to the last step.

        Raises:
            Preempted: a signal asked for it; a checkpoint is saved.
            UserError: a guard stopped the run; the last good checkpoint is intact.
        """
        self._open_journals()
        if self.start_iteration_step == 0 and self.config.checkpoints.save_initial_state:
            self.save(0)
        if self.start_iteration_step == 0 and self.job.compare_before and self.validator.sets:
            self._validate(0)
        clock = self.clock
        for step in range(self.start_iteration_step + 1, self.job.steps + 1):
            clock.start()
            self._set_learning_rate(step - 1)
            batch = self.feed.step(step)
            clock.lap("data")
            replica_loss = self._forward_backward(batch)
            if self.fault:
                replica_loss = self.fault.apply(step, self.rank, replica_loss)
                self.forward_seconds.seconds += self.fault.delay(step, self.rank)
            clock.lap("compute")
            self.stall.arrive(step)
            self._reduce_gradients()
            grad_norm = self._clip()
            loss, stop, compute = self._agree(replica_loss, self.forward_seconds.read())
            clock.lap("reduce")
            skipped = self._judge(step, loss, grad_norm)
            if not skipped:
                self.optimizer.step()
            self.optimizer.zero_grad()
            clock.lap("optimizer")
            self.consumed_train_samples += self.global_batch_size
            after_optim_step_sanity_checks(
                self.config, self.parallel_context, self.unwrapped_model, self.grad_accumulator
            )
            if self.validator.due(step, self.job.steps):
                self._validate(step)
                clock.lap("validation")
            # The journals come before the checkpoint: what a complete checkpoint has seen is in them.
            self._report(step, loss, grad_norm, skipped, compute)
            last = step == self.job.steps
            if last or step % self.job.checkpoints.interval == 0 or stop:
                self.save(step, wait=last or stop)
                clock.carry("checkpoint")
            self.writer.check()
            if stop and not last:
                raise Preempted(
                    f"saved the checkpoint of step {self.job.offset + step}; run the same command again to continue"
                )

    def close(self) -> None:
        """Join what runs beside; the checkpoint under way is finished."""
        self.stall.stop()
        self.feed.close()
        if self.rank == 0 and hasattr(self, "metrics"):
            self.metrics.close()
            self.validations.close()
        self.writer.wait()

    def _forward_backward(self, batch: list[dict[str, Any]]) -> torch.Tensor | None:
        """Accumulate the gradients of a step. Returns the mean loss of this replica, on the last pipeline stage."""
        before_tbi_sanity_checks(self.config, self.parallel_context, self.unwrapped_model, self.grad_accumulator)
        outputs = self.pipeline_engine.train_batch_iter(
            model=self.model,
            pg=self.parallel_context.pp_pg,
            batch=iter(batch),
            nb_microbatches=self.n_micro_batches_per_batch,
            grad_accumulator=self.grad_accumulator,
        )
        losses = [o["loss"] for o in outputs if isinstance(o["loss"], torch.Tensor)]
        return torch.stack(losses).sum() if losses else None  # each is divided by the number of micro-batches

    def _reduce_gradients(self) -> None:
        """Average over the replicas (DDP has done it during the backward pass), sum over tied copies."""
        after_tbi_sanity_checks(self.config, self.parallel_context, self.unwrapped_model, self.grad_accumulator)
        if self.ddp and self.grad_accumulator is not None:
            self.grad_accumulator.fp32_grads_allreduce_handle.wait()
        if not self.ddp:
            sync_gradients_across_dp(
                module=self.model,
                dp_pg=self.parallel_context.dp_pg,
                reduce_op=dist.ReduceOp.AVG,
                reduce_scatter=False,  # clipping needs the whole gradient on every rank
                grad_accumulator=self.grad_accumulator,
            )
        sync_tied_weights_gradients(
            module=self.unwrapped_model, parallel_context=self.parallel_context, grad_accumulator=self.grad_accumulator
        )

    def _clip(self) -> torch.Tensor:
        """Clip to clip_grad (none: measure only). Returns the norm before clipping."""
        limit = self.config.optimizer.clip_grad
        with device_mode():  # a rank that shares all it has with others builds its zero on the GPU
            norm = clip_grad_norm(
                mp_pg=self.parallel_context.mp_pg,
                named_parameters=self.named_parameters,
                grad_accumulator=self.grad_accumulator,
                max_norm=float("inf") if limit is None else limit,
            )
        before_optim_step_sanity_checks(self.config, self.parallel_context, self.unwrapped_model, self.grad_accumulator)
        return norm

    def _agree(self, loss: torch.Tensor | None, forward: float) -> tuple[float, bool, list[float]]:
        """One small all-reduce: the mean loss, whether any rank was asked to stop, everyone's forward seconds."""
        told = torch.zeros(2 + self.world, dtype=torch.float32, device=self.device)
        if loss is not None and dist.get_rank(self.parallel_context.tp_pg) == 0:
            told[0] = loss / self.parallel_context.dp_pg.size()
        told[1] = float(self.preemption.asked)
        told[2 + self.rank] = forward
        if self.world > 1:
            torch.distributed.all_reduce(told, group=self.parallel_context.world_pg)
        mean, asked, *seconds = told.tolist()
        return mean, asked > 0, seconds

    def _judge(self, step: int, loss: float, grad_norm: torch.Tensor) -> bool:
        """Whether to leave the optimizer step out; every rank comes to the same verdict.

        Raises:
            NonFinite: before the optimizer has seen the gradient.
        """
        refuse_non_finite(self.job.offset + step, loss, float(grad_norm), self.last_good)
        self.spiked = self.spikes.spiking(loss)
        return self.spiked and self.spikes.skip

    def _set_learning_rate(self, updates: int) -> None:
        scheduler, part = self.lr_scheduler, multiplier(self.job.schedule, updates)
        rates = [base * part for base in scheduler.base_lrs]
        for group, rate in zip(scheduler.optimizer.param_groups, rates):
            group["lr"] = rate
        # What a checkpoint stores of the scheduler: as if nanotron had stepped it.
        scheduler.last_epoch, scheduler._last_lr = updates, rates

    def _open_journals(self) -> None:
        self.clock = Clock()
        if self.rank != 0:
            return
        position = self.job.offset + self.start_iteration_step
        paths = [self.job.root / name for name in ("metrics.jsonl", "validation.jsonl")]
        for path in paths:
            truncate_after(path, position)
        self.metrics, self.validations = (Journal(path) for path in paths)

    def _validate(self, step: int) -> None:
        records = self.validator.measure()
        if self.rank == 0:
            for record in records:
                self.validations.write({"step": self.job.offset + step, **record})

    def _report(self, step: int, loss: float, grad_norm: torch.Tensor, skipped: bool, compute: list[float]) -> None:
        if self.rank != 0:
            return
        job, parts = self.job, self.clock.parts
        seconds = sum(v for k, v in parts.items() if k not in ("validation", "checkpoint"))
        rate = self.tokens_per_step / seconds
        record: dict[str, Any] = {
            "step": job.offset + step,
            "stage": job.stage,
            "tokens": job.tokens_before + step * self.tokens_per_step,
            "loss": loss,
            "lr": self.lr_scheduler._last_lr[-1],
            "grad_norm": float(grad_norm),
            "tokens_per_second": round(rate, 1),
            "step_seconds": round(self.clock.elapsed, 5),
            "seconds": {k: round(v, 5) for k, v in parts.items()},
            "memory_bytes": memory_bytes(),
            "goodput": round(self.clock.goodput(seconds), 4),
            # Of the data sheet's dense bf16 peak; None where the device is unknown (a CPU is).
            "mfu": self._mfu(rate, job.flops_per_token),
            "mfu_causal": self._mfu(rate, job.flops_per_token_causal),
        }
        if self.spiked:
            record |= {"spike": True, "skipped": skipped}
        slow = slow_ranks(compute, job.guards.slow_rank_factor)
        if slow:
            record["slow_ranks"] = slow
        self.metrics.write(record)

    def _mfu(self, tokens_per_second: float, flops_per_token: float) -> float | None:
        if self.peak is None:
            return None
        return round(tokens_per_second * flops_per_token / self.world / self.peak.peak_flops, 4)

    def save(self, step: int, wait: bool = False) -> None:
        """Copy the state to host memory and let the writer write it; `step` counts inside the job."""
        self.writer.wait()
        shown = self.job.offset + step
        folder = self.job.root / "checkpoints" / str(shown)
        writes = capture(self, folder, step)
        commit = {
            "stage": self.job.stage,
            "identity": self.job.identity,
            "topology": {k: self.job.nanotron["parallelism"][k] for k in ("dp", "tp", "pp")},
            "model_options": self.job.model.model_dump(mode="json"),
            "spikes": self.spikes.state,
        }
        self.writer.start(shown, writes, commit, wait=wait)
        self.last_good = shown


def _local_ranks() -> tuple[int, int]:
    return int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
