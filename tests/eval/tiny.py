"""A throwaway model: byte-level BPE trained on a few sentences, and a random Llama. Deterministic, well under a second."""

from pathlib import Path
from typing import Any

TEXTS = [
    "Once upon a time there was a girl named Ada who had a red kite and a small dog.",
    "C'era una volta una bambina di nome Ada che aveva un aquilone rosso e un piccolo cane.",
    "Question: Where was the kite? Answer: The kite was in the tree near the river.",
    "Domanda: Dove era l'aquilone? Risposta: L'aquilone era nell'albero vicino al fiume.",
    "user assistant system tool A B C D 0 1 2 3 4 5 6 7 8 9 the and della perché città",
]
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(vocab_size: int = 400) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[1], additional_special_tokens=SPECIAL[2:]
    )


def make_model(folder: Path, seed: int = 0, chat: bool = False, vocab_size: int = 400, **overrides: Any) -> Path:
    """Write a random Llama with its tokenizer (and chat template) as a Hugging Face folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(vocab_size)
    if chat:
        tokenizer.chat_template = CHATML
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.2,  # a sharper distribution than a fresh model's, so that choices differ clearly
        "tie_word_embeddings": True,
    }
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=3 if chat else 1, **{**shape, **overrides}
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bigram_model(folder: Path, seed: int = 0) -> Any:
    """A Llama whose next-token logits are a known function of the current token only: ``table[current, next]``.

    Attention and MLP write nothing into the residual stream (their output matrices are zero) and the embeddings are
    one-hot, so the final norm scales a one-hot row to sqrt(hidden) and the head reads the logits from a table.

    Returns:
        Tensor of logits [vocab, vocab].
    """
    import torch
    from transformers import LlamaForCausalLM

    tokenizer = make_tokenizer()
    vocab = len(tokenizer)
    make_model(
        folder,
        hidden_size=vocab,
        tie_word_embeddings=False,
        num_attention_heads=4,
        num_hidden_layers=1,
        rms_norm_eps=1e-12,
    )
    model = LlamaForCausalLM.from_pretrained(folder)
    table = torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(seed)) * 2
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(vocab))
        model.model.norm.weight.fill_(1.0)
        model.lm_head.weight.copy_(table.T / vocab**0.5)
    model.save_pretrained(folder)
    return table
