"""Head and cross-entropy in one: [tokens, vocab] logits exist for a slice of tokens only.

At a vocabulary of 128,256 the logits of 4 x 1024 tokens are 2.1 GB in fp32, several times over in the backward pass.
The gradient of a slice is known as soon as its logits are, so the forward pass computes it at once and nothing is
computed twice (the idea of Liger and of Wijmans et al., 2024, arXiv:2411.09009).
"""

from typing import Any

import torch
import torch.distributed as td

SLICE_BYTES = 256 * 2**20
"""Of fp32 logits a slice. Smaller slices add the head's gradient more often, which costs time: 32 MB took 1.9 times
as long at 128,256 words."""


def slice_tokens(vocabulary: int, tokens: int) -> int:
    """Tokens a slice, when none are configured."""
    return max(1, min(tokens, SLICE_BYTES // (4 * vocabulary)))


class LinearCrossEntropy(torch.autograd.Function):
    """Sum over tokens of ``weights * (cross-entropy + z_loss * log(Z)^2)``."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        z_loss: float,
        chunk: int,
        group: Any,
    ) -> torch.Tensor:
        """
        Args:
            hidden: ``[tokens, width]``.
            head: ``[vocab, width]``, or this rank's rows of it when ``group`` has several ranks.
            labels: ``[tokens]``, ids of the whole vocabulary.
            weights: ``[tokens]`` in fp32; 1 / count for a mean, 0 for what is masked.
            chunk: tokens a slice; 0 chooses.
            group: tensor parallel group, or None.
        """
        tokens, vocabulary = hidden.shape[0], head.shape[0]
        chunk = chunk or slice_tokens(vocabulary, tokens)
        sharded = group is not None and group.size() > 1
        first = td.get_rank(group) * vocabulary if sharded else 0
        need_hidden, need_head = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        one = chunk >= tokens
        grad_head = torch.zeros_like(head, dtype=torch.float32) if need_head and not one else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, tokens, chunk):
            h, y, w = hidden[start : start + chunk], labels[start : start + chunk], weights[start : start + chunk]
            logits = h @ head.t()
            if sharded:
                p, total, log_z, at_label, here = _sharded_softmax(logits.float(), y - first, group)
            else:
                at_label = logits.gather(-1, y[:, None])[:, 0].float()
                p = torch.softmax(logits, -1, dtype=torch.float32)
                total, here = None, None
                # A label whose probability underflows costs 87 nats, which clipping would have hidden anyway.
                log_z = at_label - p.gather(-1, y[:, None])[:, 0].clamp_min(1e-38).log()
            del logits
            loss += (w * (log_z - at_label)).sum()
            if z_loss:
                loss += z_loss * (w * log_z.square()).sum()
            if not (need_hidden or need_head):
                continue
            # d/dlogits of w (log_z - at_label + z log_z^2) = w (p (1 + 2 z log_z) - onehot)
            scale = w * (1 + 2 * z_loss * log_z) if z_loss else w
            p.mul_((scale if total is None else scale / total)[:, None])
            label = y if here is None else (y - first).clamp(0, vocabulary - 1)
            p.scatter_add_(-1, label[:, None], -(w if here is None else w * here)[:, None])
            gradient = p.to(head.dtype)
            if grad_hidden is not None:
                torch.mm(gradient, head, out=grad_hidden[start : start + chunk])
            if need_head:
                if grad_head is None:
                    grad_head = gradient.t() @ h
                elif grad_head.dtype == gradient.dtype:
                    grad_head.addmm_(gradient.t(), h)
                else:
                    grad_head += gradient.t() @ h
            del p, gradient  # or the next slice is computed beside this one
        ctx.save_for_backward(grad_hidden, grad_head.to(head.dtype) if grad_head is not None else None)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        grad_hidden, grad_head = ctx.saved_tensors
        grads = [None if g is None else g.mul_(grad.to(g.dtype)) for g in (grad_hidden, grad_head)]
        return grads[0], grads[1], None, None, None, None, None


def _sharded_softmax(logits: torch.Tensor, local: torch.Tensor, group: Any) -> tuple[torch.Tensor, ...]:
    """Softmax over columns that several ranks share; ``local`` counts from this rank's first one.

    Returns this rank's columns of exp(logits - max) (in place of ``logits``), and for every row: the sum over all
    columns, log Z, the logit at the label (on every rank), and whether the label is this rank's.
    """
    highest = logits.amax(-1)
    td.all_reduce(highest, td.ReduceOp.MAX, group)
    here = (local >= 0) & (local < logits.shape[1])
    at_label = logits.gather(-1, local.clamp(0, logits.shape[1] - 1)[:, None])[:, 0] * here
    p = logits.sub_(highest[:, None]).exp_()
    both = torch.stack([p.sum(-1), at_label])
    td.all_reduce(both, td.ReduceOp.SUM, group)
    return p, both[0], both[0].log() + highest, both[1], here


def linear_cross_entropy(
    hidden: torch.Tensor,
    head: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    *,
    z_loss: float = 0.0,
    chunk: int = 0,
    group: Any = None,
) -> torch.Tensor:
    """Scalar fp32 loss; see `LinearCrossEntropy.forward`. Equal to the plain path up to the order of fp32 sums."""
    return LinearCrossEntropy.apply(hidden, head, labels, weights, z_loss, chunk, group)  # type: ignore[no-any-return]
