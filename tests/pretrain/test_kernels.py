"""The fused head and the optimizer's matrices, each against plain torch."""

import torch
import torch.nn.functional as F

from pretrain.linear_cross_entropy import linear_cross_entropy, slice_tokens
from pretrain.muon import orthogonalize

torch.set_num_threads(1)


def both(dtype: torch.dtype, z_loss: float, chunk: int) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Loss and gradients, ours and plain; a third of the tokens is masked."""
    torch.manual_seed(0)
    hidden, head = torch.randn(37, 16, dtype=dtype), 0.3 * torch.randn(101, 16, dtype=dtype)
    labels, mask = torch.randint(0, 101, (37,)), torch.rand(37) > 0.33
    weights = mask.float() / mask.sum()
    results = []
    for fused in (True, False):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        if fused:
            loss = linear_cross_entropy(h, w, labels, weights, z_loss=z_loss, chunk=chunk)
        else:
            logits = (h @ w.t()).float()
            loss = (weights * F.cross_entropy(logits, labels, reduction="none")).sum()
            loss = loss + z_loss * (weights * logits.logsumexp(-1).square()).sum()
        (3.0 * loss).backward()  # a factor from outside, as gradient accumulation brings one
        results.append((loss.detach(), h.grad, w.grad))
    return results[0], results[1]


def test_linear_cross_entropy_fp32() -> None:
    for z_loss in (0.0, 1e-2):
        for chunk in (0, 1, 10, 37, 1000):
            ours, plain = both(torch.float32, z_loss, chunk)
            for a, b in zip(ours, plain):
                torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_linear_cross_entropy_bf16() -> None:
    """Within bf16's resolution of the gradients' size."""
    for chunk in (0, 10):
        ours, plain = both(torch.bfloat16, 0.0, chunk)
        for a, b in zip(ours, plain):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a.float(), b.float(), atol=float(b.float().abs().max()) / 100, rtol=2e-2)


def test_slices_bound_the_logits() -> None:
    assert slice_tokens(128_256, 16_384) * 128_256 * 4 <= 256 * 2**20
    assert slice_tokens(4_096, 512) == 512


def test_orthogonalize_gives_singular_values_near_one() -> None:
    torch.manual_seed(0)
    out = orthogonalize(torch.randn(3, 24, 64), steps=5)
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.5 and values.max() < 1.3


def test_muon_is_torch_muon(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Step by step, both rules for the size of an update; our momentum is (1 - m) times torch's."""
    import torch.distributed as td

    from pretrain.muon import Muon

    store = td.FileStore(str(tmp_path / "store"), 1)
    td.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for rule in ("original", "match_rms_adamw"):
            torch.manual_seed(0)
            ours, theirs = (torch.nn.Parameter(torch.randn(48, 32)) for _ in range(2))
            with torch.no_grad():
                theirs.copy_(ours)
            group = {"params": [ours], "algorithm": "muon", "rows": [48], "lr": 0.02, "weight_decay": 0.1}
            group |= {"momentum": 0.95, "nesterov": True, "ns_steps": 5, "adjust_lr": rule}
            common = {"lr": 0.02, "weight_decay": 0.1}
            a = Muon([group], **common, betas=(0.9, 0.95), eps=1e-8, fused=False, dp_pg=td.group.WORLD)
            b = torch.optim.Muon([theirs], **common, momentum=0.95, nesterov=True, adjust_lr_fn=rule)
            for _ in range(5):
                gradient = torch.randn(48, 32)
                ours.grad, theirs.grad = gradient.clone(), gradient.clone()
                a.step()
                b.step()
            # Newton-Schulz runs in bf16 on both sides, in another order of operations.
            moved = float((theirs - torch.nn.Parameter(torch.zeros(48, 32))).abs().max())
            assert float((ours - theirs).abs().max()) < 0.01 * moved
    finally:
        td.destroy_process_group()
