"""Counts that follow from a configuration alone: parameters, FLOPs, bytes.

All formulas are for nanotron's Llama with our options. Nothing here needs torch, so the planner and the tests of the
engine share it.
"""

from dataclasses import dataclass

from pretrain.config import PretrainConfig
from pretrain.schema_model import LlamaShape

MICRO = 256 * 2**20
"""Bytes of float32 logits in one slice of the fused head and loss (pretrain.linear_cross_entropy)."""


def layer_parameters(m: LlamaShape) -> int:
    """One decoder layer: q, k, v, o; gate, up, down; two norms."""
    kv = m.num_key_value_heads * m.head_dim
    return m.hidden_size * (2 * m.hidden_size + 2 * kv) + 3 * m.hidden_size * m.intermediate_size + 2 * m.hidden_size


def parameters(m: LlamaShape) -> int:
    """All of them; a tied head counts once."""
    embedding = m.vocab_size * m.hidden_size
    return embedding * (1 if m.tie_word_embeddings else 2) + m.num_hidden_layers * layer_parameters(m) + m.hidden_size


def matrix_parameters(m: LlamaShape) -> int:
    """Those of the layers' matrices: what Muon updates."""
    return m.num_hidden_layers * (layer_parameters(m) - 2 * m.hidden_size)


def flops_per_token(m: LlamaShape, sequence_length: int, causal: bool = False) -> float:
    """Forward and backward, without recompute.

    6 x parameters (Kaplan et al., 2020; the embedding's table counts once, as the head's product) + 12 x layers x
    hidden x sequence for attention scores over the full square (PaLM, arXiv:2204.02311, appendix B), or half of that
    when only the causal triangle counts.
    """
    products = parameters(m) - (0 if m.tie_word_embeddings else m.vocab_size * m.hidden_size)
    attention = 12 * m.num_hidden_layers * m.hidden_size * sequence_length
    return 6 * products + attention / (2 if causal else 1)


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank at the peak of a step, by part."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    reserve: float
    """Runtime, NCCL buffers and fragmentation: an allowance (GPU only), not a measurement."""

    @property
    def total(self) -> float:
        return self.state + self.activations + self.logits + self.reserve

    @property
    def state(self) -> float:
        """What does not depend on the batch."""
        return self.weights + self.gradients + self.optimizer


def rank_parameters(config: PretrainConfig) -> float:
    """Parameters on the fullest rank. Layers go to pp groups by compute, so groups are nearly even; a tied embedding
    lives on the first group and again on the last."""
    m, p = config.model.shape, config.parallelism
    if p.pp == 1:
        return parameters(m) / p.tp
    layers = -(-m.num_hidden_layers // p.pp)
    return (layers * layer_parameters(m) + m.vocab_size * m.hidden_size) / p.tp


def state_bytes(config: PretrainConfig) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimizer on the fullest rank.

    bf16 with float32 accumulation: 2 weights; 2 gradients of the backward pass and 4 accumulated; 4 master weights and
    8 of Adam's moments. Muon keeps one moment (4) for the layers' matrices. ZeRO-1 shards master weights and moments
    over dp; our Muon shards the moments by matrix and every rank keeps the master weights.
    """
    n, o, dp = rank_parameters(config), config.optimizer, config.parallelism.dp
    moments = 8.0 * n
    muon = o.optimizer_factory.name == "muon"
    if muon:
        moments -= 4.0 * n * matrix_parameters(config.model.shape) / parameters(config.model.shape)
    shard = dp if o.zero_stage else 1
    if config.model.dtype == "float32":
        return 4 * n, 4 * n, moments / shard
    if not o.accumulate_grad_in_fp32:
        return 2 * n, 2 * n, moments / 2 / shard
    master = 4 * n / (1 if muon else shard)
    return 2 * n, 6 * n, master + moments / shard


def activation_bytes(config: PretrainConfig, micro_batch_size: int | None = None) -> float:
    """Bytes kept for the backward pass on the fullest rank.

    A layer keeps, for each token, in elements: its input, the first norm's output, q, k, v, the attention's output, the
    sum before the second norm, that norm's output (6 hidden + 2 kv), and gate and up, SiLU of gate, and their product
    (4 x ffn). Flash attention keeps no scores. tp divides what is sharded; recompute keeps the inputs and one layer.
    """
    m, p, t = config.model.shape, config.parallelism, config.tokens
    width = 2 if config.model.dtype == "bfloat16" else 4
    tokens = (micro_batch_size or t.micro_batch_size) * t.sequence_length
    kv = m.num_key_value_heads * m.head_dim
    norms = 4 * m.hidden_size / (p.tp if p.tp_mode == "REDUCE_SCATTER" else 1)
    layer = tokens * width * (norms + (2 * m.hidden_size + 2 * kv + 4 * m.intermediate_size) / p.tp)
    layers = -(-m.num_hidden_layers // p.pp)
    whole = layers * tokens * width * m.hidden_size + layer if config.parallelism.recompute_layer else layers * layer
    in_flight = 1
    if p.pp > 1:
        in_flight = (
            t.batch_accumulation_per_replica if p.pp_engine == "afab" else min(p.pp, t.batch_accumulation_per_replica)
        )
    ends = 4 * tokens * width * m.hidden_size  # embedding out, last norm in and out, gradient on its way back
    return whole * in_flight + ends


def logit_bytes(config: PretrainConfig, micro_batch_size: int | None = None, gpu: bool = True) -> float:
    """Bytes of logits and what is computed from them at the peak.

    Plain (nanotron's own): bf16 logits, their float32 copy and the softmax over the whole micro batch, 10 bytes a
    token and word. Fused: the same of one slice (6 bytes on a GPU, whose softmax widens in its kernel), and the head's
    gradient in float32 beside a product of its size in bf16.
    """
    m, t = config.model.shape, config.tokens
    tokens = (micro_batch_size or t.micro_batch_size) * t.sequence_length
    words = m.vocab_size / config.parallelism.tp
    if not config.duetto.fused_cross_entropy:
        return 10 * tokens * words
    chunk = min(config.duetto.cross_entropy_chunk or max(1, int(MICRO // (4 * words))), tokens)
    return (6 if gpu else 10) * chunk * words + (6 if chunk < tokens else 2) * words * m.hidden_size


def memory(config: PretrainConfig, micro_batch_size: int | None = None, gpu: bool = True) -> Memory:
    """Peak of one rank, by part."""
    weights, gradients, optimizer = state_bytes(config)
    activations, logits = activation_bytes(config, micro_batch_size), logit_bytes(config, micro_batch_size, gpu)
    reserve = 1.5e9 + 0.05 * (activations + logits) if gpu else 0.0
    return Memory(weights, gradients, optimizer, activations, logits, reserve)


def largest_micro_batch(config: PretrainConfig, device_memory: float) -> int:
    """Most windows whose peak stays within 92 % of the device; 0 when not even one does."""
    best = 0
    while memory(config, best + 1).total <= 0.92 * device_memory and best < 4096:
        best += 1
    return best


def checkpoint_bytes(config: PretrainConfig) -> float:
    """One checkpoint of all ranks on disk: weights, master weights and moments."""
    n, o, m = parameters(config.model.shape), config.optimizer, config.model
    if m.shape.tie_word_embeddings and config.parallelism.pp > 1:
        n += m.shape.vocab_size * m.shape.hidden_size
    moments = 8.0 * n - (4.0 * matrix_parameters(m.shape) if o.optimizer_factory.name == "muon" else 0.0)
    if m.dtype == "float32":
        return 4 * n + moments
    return 2 * n + (4 * n + moments if o.accumulate_grad_in_fp32 else moments / 2)


def all_reduce_bytes(config: PretrainConfig) -> float:
    """Bytes a rank sends in a step to sum float32 gradients over dp with a ring: 2 (dp - 1) / dp of them."""
    width = 4 if config.optimizer.accumulate_grad_in_fp32 or config.model.dtype == "float32" else 2
    dp = config.parallelism.dp
    return 2 * (dp - 1) / dp * width * rank_parameters(config)
