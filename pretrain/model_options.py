"""nanotron's Llama with the options that 0.4 hard-codes or lacks. Parameters, names and sharding stay nanotron's own,
so that checkpoints do too.

Everything goes through nanotron's seams: the class of the model is an argument of its trainer, and a pipeline block
builds whatever module it is told to. Import after ``compat.install()``.
"""

from typing import Any

import torch
from nanotron.models import llama
from nanotron.parallel.pipeline_parallel.block import PipelineBlock, TensorPointer
from nanotron.parallel.tensor_parallel.distributed_differentiable_primitives import (
    differentiable_all_gather,
    differentiable_identity,
)
from nanotron.parallel.tensor_parallel.nn import TensorParallelColumnLinear, TensorParallelLinearMode
from torch import nn
from torch.utils.checkpoint import checkpoint

from pretrain.job import ModelOptions
from pretrain.linear_cross_entropy import linear_cross_entropy

Tensors = dict[str, Any]


class DocumentAttention(llama.CoreAttention):
    """Causal attention inside documents. ``input_mask`` holds each token's position in its document (int32).

    nanotron carries the mask untouched through every layer and pipeline stage, so the loader can send positions in its
    place. Rotary embeddings need no reset: they only see distances, and those stay inside one document.
    """

    _last: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
    """Mask of the current micro batch and the document starts found in it, shared by the layers of a stage."""

    def forward(  # type: ignore[override]
        self,
        query_states: torch.Tensor,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        q_sequence_mask: torch.Tensor,
        kv_sequence_mask: torch.Tensor,
    ) -> torch.Tensor:
        batch, length = q_sequence_mask.shape
        if DocumentAttention._last[0] is not q_sequence_mask:
            start = q_sequence_mask == 0
            start[:, 0] = True
            end = torch.tensor([batch * length], device=start.device)
            DocumentAttention._last = (
                q_sequence_mask,
                torch.cat([start.flatten().nonzero()[:, 0], end]).to(torch.int32),
            )
        starts = DocumentAttention._last[1]
        return llama.flash_attn_varlen_func(
            q=query_states,
            k=key_states,
            v=value_states,
            cu_seqlens_q=starts,
            cu_seqlens_k=starts,
            max_seqlen_q=length,
            max_seqlen_k=length,
            dropout_p=0.0,
            softmax_scale=None,
            causal=True,
            return_attn_probs=False,
        )


class DecoderLayer(llama.LlamaDecoderLayer):
    """nanotron's layer with our rotary embedding, document masking and recompute."""

    def __init__(self, options: ModelOptions, config: Any, parallel_config: Any, tp_pg: Any, layer_idx: int) -> None:
        super().__init__(config, parallel_config, tp_pg, layer_idx)
        self.recompute = options.recompute_layer
        self.attn.flash_rotary_embedding = llama.FlashRotaryEmbedding(
            dim=self.attn.d_qk, base=options.rope_theta, interleaved=options.rope_interleaved
        )
        if options.document_masking:
            self.attn.attention = DocumentAttention(config, parallel_config=parallel_config, layer_idx=layer_idx)
        self.whole = torch.compile(super().forward) if _compiles(options, tp_pg) else super().forward

    def forward(self, hidden_states: torch.Tensor, sequence_mask: torch.Tensor) -> Tensors:  # type: ignore[override]
        if not (self.recompute and torch.is_grad_enabled()):
            return self.whole(hidden_states, sequence_mask)
        out = checkpoint(lambda x: self.whole(x, sequence_mask)["hidden_states"], hidden_states, use_reentrant=False)
        return {"hidden_states": out, "sequence_mask": sequence_mask}


def _compiles(options: ModelOptions, tp_pg: Any) -> bool:
    """By default on one GPU a replica: Inductor fuses norm, SwiGLU and rotary embedding of a layer. Tensor parallel
    collectives and the document starts, which depend on the data, break the graph, so there it is off unless asked."""
    if options.compile_layers is not None:
        return options.compile_layers
    return torch.cuda.is_available() and tp_pg.size() == 1 and not options.document_masking


class HeadLoss(TensorParallelColumnLinear):
    """The language-model head and the loss in one module, under the head's name."""

    def __init__(self, options: ModelOptions, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.options = options

    def forward(self, x: torch.Tensor, label_ids: torch.Tensor, label_mask: torch.Tensor) -> Tensors:  # type: ignore[override]
        """``x`` ``[seq, batch, width]`` (its shard of seq under REDUCE_SCATTER), labels ``[batch, seq]``."""
        if self.mode is TensorParallelLinearMode.REDUCE_SCATTER:
            x = differentiable_all_gather(x, group=self.pg)
        else:
            x = differentiable_identity(x, group=self.pg)
        mask = label_mask.transpose(0, 1).flatten()
        loss = linear_cross_entropy(
            x.flatten(0, 1),
            self.weight,
            label_ids.transpose(0, 1).flatten(),
            mask.float() / mask.sum(),
            z_loss=self.options.z_loss,
            chunk=self.options.cross_entropy_chunk,
            group=self.pg if self.world_size > 1 else None,
        )
        return {"loss": loss}


class Loss(llama.Loss):
    """nanotron's loss on whole logits, with z-loss."""

    def __init__(self, options: ModelOptions, tp_pg: Any) -> None:
        super().__init__(tp_pg)
        self.z_loss = options.z_loss

    def forward(self, sharded_logits: torch.Tensor, label_ids: torch.Tensor, label_mask: torch.Tensor) -> Tensors:  # type: ignore[override]
        # nanotron's kernel overwrites the logits in its forward pass; z-loss needs them as they were.
        z = self._z(sharded_logits, label_mask) if self.z_loss else 0.0
        return {"loss": super().forward(sharded_logits, label_ids, label_mask)["loss"] + z}

    def _z(self, sharded_logits: torch.Tensor, label_mask: torch.Tensor) -> torch.Tensor:
        log_z = sharded_logits.logsumexp(-1).transpose(0, 1)
        return self.z_loss * (log_z.square() * label_mask).sum() / label_mask.sum()


def start_as_copier(attention: Any, strength: float, seed: int) -> None:
    """Attention that looks at its like and repeats it: "mimetic" initialization (Trockman and Kolter, 2023,
    arXiv:2305.09828), with the sign of the values that copies.

    Queries and keys get the same orthonormal rows, so before RoPE a token scores sqrt(head_dim) on its equals and about
    0 on others. The output projection is ``strength`` times the transposed value projection, so what is looked at is
    added to the residual stream as it is. Query heads that share keys and values share the copy.

    Args:
        attention: nanotron's CausalSelfAttention, whole (tp 1); ``qkv_proj`` is [(heads + 2 kv_heads) * dim, hidden].
        seed: of the orthonormal rows; the same in every process and topology.
    """
    random = torch.Generator().manual_seed(seed)
    heads, groups, dim = attention.n_local_q_heads, attention.n_local_kv_heads, attention.d_qk
    hidden = attention.o_proj.weight.shape[0]
    keys, values = (
        torch.linalg.qr(torch.randn(hidden, hidden, generator=random))[0][: groups * dim].view(groups, dim, hidden)
        for _ in range(2)
    )
    shared = heads // groups
    queries = keys.repeat_interleave(shared, 0)
    output = values.repeat_interleave(shared, 0) * (strength / shared)
    qkv = torch.cat([part.reshape(-1, hidden) for part in (queries, keys, values)])
    attention.qkv_proj.weight.copy_(qkv)
    attention.o_proj.weight.copy_(output.reshape(-1, hidden).T)


class Llama(llama.LlamaForTraining):
    """Pass ``functools.partial(Llama, options)`` to nanotron's trainer as the class of the model."""

    def __init__(
        self, options: ModelOptions, config: Any, parallel_context: Any, parallel_config: Any, random_states: Any = None
    ) -> None:
        super().__init__(config, parallel_context, parallel_config, random_states)
        self.options = options
        for block in self.model.decoder:
            block.module_builder = DecoderLayer
            block.module_kwargs = {"options": options, **block.module_kwargs}
        if options.fused_cross_entropy:
            head = self.model.lm_head
            self.model.lm_head = PipelineBlock(
                p2p=self.model.p2p,
                module_builder=HeadLoss,
                module_kwargs={"options": options, **head.module_kwargs},
                module_input_keys={"x", "label_ids", "label_mask"},
                module_output_keys={"loss"},
            )
            del self.model.cast_to_fp32, self.loss
        else:
            self.loss.module_builder = Loss
            self.loss.module_kwargs = {"options": options, **self.loss.module_kwargs}

    def forward(
        self,
        input_ids: torch.Tensor | TensorPointer,
        input_mask: torch.Tensor | TensorPointer,
        label_ids: torch.Tensor | TensorPointer,
        label_mask: torch.Tensor | TensorPointer,
    ) -> Tensors:
        if not self.options.fused_cross_entropy:
            return super().forward(input_ids, input_mask, label_ids, label_mask)
        m = self.model
        states = {
            "hidden_states": m.token_position_embeddings(input_ids=input_ids, input_mask=input_mask)["input_embeds"],
            "sequence_mask": input_mask,
        }
        for layer in m.decoder:
            states = layer(**states)
        normed = m.final_layer_norm(input=states["hidden_states"])["hidden_states"]
        return {"loss": m.lm_head(x=normed, label_ids=label_ids, label_mask=label_mask)["loss"]}

    @torch.no_grad()
    def init_model_randomly(self, config: Any) -> None:
        super().init_model_randomly(config)
        if self.options.zero_init_output:
            for name, parameter in self.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    parameter.zero_()
        if self.options.copying_init:
            for number, block in enumerate(self.model.decoder):
                if hasattr(block, "pp_block"):  # the layers of this pipeline stage
                    start_as_copier(block.pp_block.attn, self.options.copying_init, seed=number)

    def get_block_compute_costs(self) -> dict[type[nn.Module], int]:
        costs = super().get_block_compute_costs()
        costs[DecoderLayer] = costs[llama.LlamaDecoderLayer]
        costs[HeadLoss] = costs[TensorParallelColumnLinear]
        return costs
