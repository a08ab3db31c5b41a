"""A byte-level BPE trained on the run's own text, saved as a Hugging Face folder.

The split rule is Llama 3's, digits in groups of three, so that every engine has a fast path for it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data.reader import clean_files, is_held_out, iter_rows, removed_rows
from duetto.errors import UserError
from duetto.files import atomic_write, read_json, write_json
from duetto.run import Run

BEGIN_OF_TEXT, END_OF_TEXT, IM_START, IM_END = "<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"
SPECIALS = (BEGIN_OF_TEXT, END_OF_TEXT, IM_START, IM_END)

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Train on ``texts`` and write tokenizer.json and tokenizer_config.json; same texts, same bytes.

    Special tokens get the lowest ids, so that they stay where they are whatever the vocabulary's size.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(  # type: ignore[call-arg]
        vocab_size=vocab_size,
        special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "tokenizer.json") as f:
        f.write(tokenizer.to_str(pretty=True))
    write_json(folder / "tokenizer_config.json", tokenizer_config(BEGIN_OF_TEXT, END_OF_TEXT))


def train_on_run(run: Run, budgets: Mapping[str, int], vocab_size: int, size: int, holdout: float) -> dict[str, Any]:
    """Train on ``size`` bytes of a run's cleaned text, each source in proportion to its token budget.

    Raises:
        UserError: the text is too small for the vocabulary.
    """
    from data.encode import TokenizerFile

    total = sum(budgets.values())

    def texts() -> Iterator[str]:
        for name, budget in budgets.items():
            folder = run.path("data", name)
            available = read_json(folder / "stats.json")["counts"]["bytes_out"]
            share = size * budget / total / available
            for path in clean_files(folder):
                removed = removed_rows(run.path("data", "dedup", name), path)
                for number, row in enumerate(iter_rows(path, ["text", "text_hash"])):
                    if number in removed or (holdout and is_held_out(row["text_hash"], holdout)):
                        continue
                    # The other half of the hash than the hold-out uses: spread over the corpus, the same every time.
                    if int.from_bytes(row["text_hash"][8:], "little") < share * 2**64:
                        yield row["text"]

    train(texts(), vocab_size, run.path("tokenizer"))
    made = TokenizerFile(run.path("tokenizer"))
    if made.vocab_size < vocab_size:
        raise UserError(
            f"the corpus is too small to train a tokenizer of {vocab_size} tokens: it gave {made.vocab_size}; add text "
            f"or set tokenizer.train.vocab_size={made.vocab_size} (and the model's vocab_size with it)"
        )
    return {"vocab_size": made.vocab_size, "sha256": made.sha256}


def tokenizer_config(bos: str | None, eos: str) -> dict[str, object]:
    """What transformers needs beside tokenizer.json. No chat template: a base model has none."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": eos,
        "model_max_length": 1_000_000,
        "clean_up_tokenization_spaces": False,
    }


def adopt(source: Path, folder: Path) -> None:
    """Copy an external tokenizer (a file or a folder) so that the run owns what it was tokenized with."""
    from data.encode import TokenizerFile

    file = TokenizerFile(source)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "tokenizer.json", "wb") as f:
        f.write(file.raw)
    config = dict(file.config)
    config.pop("chat_template", None)
    if not config:
        bos = next((t for t in (BEGIN_OF_TEXT, "<s>") if t in file.added), None)
        config = tokenizer_config(bos, file.eos)
    write_json(folder / "tokenizer_config.json", config)
    beside = file.path.parent
    if source.is_dir() and (beside / "special_tokens_map.json").exists():
        with atomic_write(folder / "special_tokens_map.json") as f:
            json.dump(json.loads((beside / "special_tokens_map.json").read_text()), f, indent=1)
