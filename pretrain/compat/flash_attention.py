"""A ``flash_attn`` made of torch operations, registered only where the real one is not installed.

nanotron imports flash_attn at module level. This covers what it imports: attention (torch's own fused kernels behind
scaled_dot_product_attention), rotary embedding and RMSNorm. The measured cost against plain code is nil on the CPU.
"""

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float | None) -> torch.Tensor:
    """``[batch, seq, heads, dim]`` each; grouped queries follow from the head counts."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out.transpose(1, 2)


def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    **_: object,
) -> torch.Tensor:
    if dropout_p:
        raise NotImplementedError("attention dropout needs the real flash-attn")
    return _attend(q, k, v, causal, softmax_scale)


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    **_: object,
) -> torch.Tensor:
    """``q`` is ``[tokens, heads, dim]``; ``cu_seqlens`` are the starts of the sequences in it, and the end."""
    if dropout_p:
        raise NotImplementedError("attention dropout needs the real flash-attn")
    n = cu_seqlens_q.numel() - 1
    if q.shape[0] == n * max_seqlen_q and k.shape[0] == n * max_seqlen_k:
        # Every sequence has the full length, the usual case in pretraining: one batched call.
        bq, bk, bv = (t.reshape(n, -1, *t.shape[1:]) for t in (q, k, v))
        return _attend(bq, bk, bv, causal, softmax_scale).reshape(q.shape)
    # Documents of many lengths: one call each, O(length^2), never a [tokens, tokens] mask.
    qs, ks = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    parts = [
        _attend(q[None, a:b], k[None, c:d], v[None, c:d], causal, softmax_scale)[0]
        for a, b, c, d in zip(qs, qs[1:], ks, ks[1:])
        if b > a
    ]
    return torch.cat(parts, 0)


def apply_rotary_emb(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool = False, **_: object
) -> torch.Tensor:
    """``x``: ``[batch, seq, heads, dim]``; ``cos``, ``sin``: ``[seq, dim / 2]`` in fp32, as is the arithmetic."""
    cos, sin = (t[: x.shape[1], None, :] for t in (cos, sin))
    wide = x.float()
    if interleaved:
        a, b = wide[..., 0::2], wide[..., 1::2]
        return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2).to(x.dtype)
    a, b = wide.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class RotaryEmbedding(nn.Module):
    """flash_attn.layers.rotary.RotaryEmbedding for ``forward(q, kv)`` with kv ``[batch, seq, 2, heads, dim]``."""

    tables: dict[tuple[int, float, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}
    """Shared by all layers; not buffers, because nanotron casts buffers to the model's dtype."""

    def __init__(self, dim: int, base: float = 10000.0, interleaved: bool = False, **_: object) -> None:
        super().__init__()
        self.dim, self.base, self.interleaved = dim, float(base), interleaved

    def table(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        key = (self.dim, self.base, device)
        found = self.tables.get(key)
        if found is None or found[0].shape[0] < length:
            inverse = 1.0 / (self.base ** (torch.arange(0, self.dim, 2, dtype=torch.float32, device=device) / self.dim))
            angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), inverse)
            found = self.tables[key] = (angles.cos(), angles.sin())
        return found

    def forward(
        self, qkv: torch.Tensor, kv: torch.Tensor | None = None, seqlen_offset: int = 0, max_seqlen: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if kv is None or seqlen_offset:
            raise NotImplementedError("packed qkv and offsets need the real flash-attn")
        cos, sin = self.table(qkv.shape[1], qkv.device)
        q = apply_rotary_emb(qkv, cos, sin, self.interleaved)
        k = apply_rotary_emb(kv[:, :, 0], cos, sin, self.interleaved)
        return q, torch.stack((k, kv[:, :, 1]), dim=2)


def layer_norm_fn(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    is_rms_norm: bool = False,
    **_: object,
) -> torch.Tensor:
    """RMSNorm in fp32, cast back: the arithmetic of the Triton kernel."""
    if not is_rms_norm or bias is not None or residual is not None or dropout_p:
        raise NotImplementedError("only plain RMSNorm is covered; the rest needs the real flash-attn")
    return F.rms_norm(x.float(), (x.shape[-1],), weight.float(), eps).to(x.dtype)


def _absent(name: str) -> Callable[..., None]:
    def call(*_a: object, **_k: object) -> None:
        raise NotImplementedError(f"flash_attn.{name} is not needed for pretraining; install flash-attn to use it")

    return call


def _module(name: str, **attributes: object) -> None:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)  # find_spec() must not raise
    module.__path__ = []
    module.__dict__.update(attributes)
    sys.modules[name] = module
    parent, _, leaf = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], leaf, module)


def register_if_missing() -> None:
    """Put the stand-in under the names that nanotron imports (0.4, then the further ones of main)."""
    if "flash_attn" in sys.modules or importlib.util.find_spec("flash_attn") is not None:
        return
    unused = ("flash_attn_with_kvcache", "_flash_attn_varlen_forward", "_flash_attn_varlen_backward",
              "_flash_attn_forward", "_flash_attn_backward", "flash_attn_varlen_kvpacked_func",
              "flash_attn_varlen_qkvpacked_func", "flash_attn_kvpacked_func")  # fmt: skip
    interface: dict[str, Any] = {name: _absent(name) for name in unused}
    interface |= {"flash_attn_func": flash_attn_func, "flash_attn_varlen_func": flash_attn_varlen_func}
    padding = {name: _absent(name) for name in ("unpad_input", "pad_input", "index_first_axis")}
    _module("flash_attn", __version__="2.5.0", **interface)
    _module("flash_attn.flash_attn_interface", **interface)
    _module("flash_attn.bert_padding", **padding)
    _module("flash_attn.layers")
    _module("flash_attn.layers.rotary", RotaryEmbedding=RotaryEmbedding, apply_rotary_emb=apply_rotary_emb)
    _module("flash_attn.modules")
    _module("flash_attn.modules.mha", **interface)
    _module("flash_attn.ops")
    _module("flash_attn.ops.triton")
    _module("flash_attn.ops.triton.layer_norm", layer_norm_fn=layer_norm_fn)
