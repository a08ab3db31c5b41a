"""Muon for matrices, AdamW for the rest, in one torch optimizer.

Muon (Jordan et al., 2024) replaces the momentum of a matrix by its nearest semi-orthogonal matrix, found with a few
Newton-Schulz iterations. Three things make it cheap here: matrices of one shape are iterated as one batch, the data
parallel ranks share the matrices out and exchange the results (one all-gather a step), and the iteration runs in bf16
(2.3 times faster than fp32 here, batched). ``sharded`` (ZeRO-1) also keeps each optimizer state on one rank only.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as td
from torch.optim.adamw import adamw

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of the quintic, chosen for slope at zero; singular values end in about [0.7, 1.2] (same as torch.optim.Muon)."""


@torch.no_grad()
def orthogonalize(g: torch.Tensor, steps: int, eps: float = 1e-7) -> torch.Tensor:
    """Nearest semi-orthogonal matrices of ``g`` ``[batch, rows, columns]`` with rows <= columns."""
    a, b, c = COEFFICIENTS
    x = g / g.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Groups with ``algorithm: muon`` hold matrices and ``rows`` (how each splits); the others are AdamW's."""

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        fused: bool,
        dp_pg: Any,
        sharded: bool = False,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "algorithm": "adamw"}
        )
        self.fused, self.dp_pg, self.sharded = fused, dp_pg, sharded
        self.size, self.rank = dp_pg.size(), td.get_rank(dp_pg)
        matrices = [p for g in self.param_groups if g["algorithm"] == "muon" for p in g["params"]]
        others = [p for g in self.param_groups if g["algorithm"] != "muon" for p in g["params"]]
        # bf16 as in torch.optim.Muon; on a CPU without bf16 instructions it would be emulated, slowly.
        fast_bf16 = bool(matrices) and (matrices[0].is_cuda or torch.ops.mkldnn._is_mkldnn_bf16_supported())
        self.compute_dtype = torch.bfloat16 if fast_bf16 else torch.float32
        # Largest first to the least loaded: Newton-Schulz costs rows^2 x columns.
        self.owner = _share_out(matrices, [min(p.shape) * p.numel() for p in matrices], self.size)
        if sharded:
            self.owner |= _share_out(others, [p.numel() for p in others], self.size)

    def mine(self, p: torch.Tensor) -> bool:
        return self.owner.get(p, self.rank) == self.rank

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            if group["algorithm"] == "muon":
                self._muon(group)
            else:
                self._adamw(group)

    def _muon(self, group: dict[str, Any]) -> None:
        owned, parts = [], []
        for p, rows in zip(group["params"], group["rows"]):
            if self.sharded and not self.mine(p):
                continue
            state = self.state[p]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(p)
            buffer = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
            if self.mine(p):
                update = p.grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer.clone()
                owned.append(update)
                parts += update.split(rows)
        _orthogonalize_in_place(parts, group["ns_steps"], self.compute_dtype)
        updates = self._exchange(group["params"], owned)
        for p, rows in zip(group["params"], group["rows"]):
            if group["weight_decay"]:
                p.mul_(1 - group["lr"] * group["weight_decay"])
            for w, u in zip(p.split(rows), updates[p].split(rows)):
                w.add_(u, alpha=-group["lr"] * _scale(w.shape, group["adjust_lr"]))

    def _exchange(self, params: Sequence[torch.Tensor], own: list[torch.Tensor]) -> dict[torch.Tensor, torch.Tensor]:
        """The update of every matrix, from the rank that computed it."""
        if self.size == 1:
            return dict(zip(params, own))
        by_rank: list[list[torch.Tensor]] = [[p for p in params if self.owner[p] == r] for r in range(self.size)]
        length = max(sum(p.numel() for p in ps) for ps in by_rank)
        sent = torch.zeros(length, dtype=self.compute_dtype, device=params[0].device)
        if own:
            flat = torch.cat([u.flatten() for u in own])
            sent[: flat.numel()] = flat
        received = torch.empty(self.size * length, dtype=sent.dtype, device=sent.device)
        td.all_gather_into_tensor(received, sent, group=self.dp_pg)
        updates = {}
        for r, ps in enumerate(by_rank):
            at = r * length
            for p in ps:
                updates[p] = received[at : at + p.numel()].view_as(p)
                at += p.numel()
        return updates

    def _adamw(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        mine = [p for p in params if not self.sharded or self.mine(p)]
        for p in mine:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
        if mine:
            adamw(
                mine,
                [p.grad for p in mine],  # type: ignore[misc]
                [self.state[p]["exp_avg"] for p in mine],
                [self.state[p]["exp_avg_sq"] for p in mine],
                [],
                [self.state[p]["step"] for p in mine],
                foreach=False,
                fused=self.fused,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
        if self.sharded:
            for p in params:
                td.broadcast(p, src=td.get_global_rank(self.dp_pg, self.owner[p]), group=self.dp_pg)

    def drop_foreign_state(self) -> None:
        """After loading a whole state into a sharded optimizer."""
        if self.sharded:
            for p in [p for p in self.state if not self.mine(p)]:
                del self.state[p]

    @torch.no_grad()
    def gather_state(self) -> None:
        """Bring every state to every rank (all ranks call this), so that one rank can save the whole;
        `drop_foreign_state` undoes it."""
        if not self.sharded:
            return
        for group in self.param_groups:
            keys = ["momentum_buffer"] if group["algorithm"] == "muon" else ["step", "exp_avg", "exp_avg_sq"]
            for p in group["params"]:
                for key in keys:
                    if key not in self.state[p]:
                        shape = () if key == "step" else p.shape
                        dtype = torch.float32 if key == "step" else p.dtype
                        self.state[p][key] = torch.empty(shape, dtype=dtype, device=p.device)
                    td.broadcast(self.state[p][key], td.get_global_rank(self.dp_pg, self.owner[p]), group=self.dp_pg)


def _orthogonalize_in_place(parts: Sequence[torch.Tensor], steps: int, dtype: torch.dtype) -> None:
    """Batch by shape (lying, so that a matrix and a transposed one share a batch) and write the result back."""
    batches: dict[tuple[int, int], list[torch.Tensor]] = defaultdict(list)
    for part in parts:
        lying = part if part.shape[0] <= part.shape[1] else part.mT
        batches[lying.shape[0], lying.shape[1]].append(lying)
    for batch in batches.values():
        done = orthogonalize(torch.stack(batch).to(dtype), steps)
        for into, result in zip(batch, done):
            into.copy_(result)


def _scale(shape: torch.Size, rule: str) -> float:
    rows, columns = shape
    if rule == "match_rms_adamw":
        return 0.2 * max(rows, columns) ** 0.5
    return max(1.0, rows / columns) ** 0.5


def _share_out(params: Sequence[torch.Tensor], costs: Sequence[float], size: int) -> dict[torch.Tensor, int]:
    load = [0.0] * size
    owner = {}
    for i in sorted(range(len(params)), key=lambda i: (-costs[i], i)):
        rank = load.index(min(load))
        owner[params[i]] = rank
        load[rank] += costs[i]
    return owner
