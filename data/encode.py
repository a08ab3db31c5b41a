"""Text to token ids, fast: fastokens, gigatoken, or Hugging Face tokenizers, which is the reference for both.

Special tokens of the tokenizer that stand literally in a document (``<|end_of_text|>`` in a page about tokenizers) are
encoded as the text they are. datatrove's own tokenizer turns them into the real token, which would end the document in
the middle; for documents without such text the ids are the same.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duetto.errors import UserError

Ids = NDArray[np.uint32]
Offsets = NDArray[np.int64]
Encode = Callable[[Sequence[str]], tuple[Ids, Offsets]]
"""Texts to all their ids in one buffer, and where each text begins in it (one more entry than texts)."""

END_OF_TEXT = ("<|end_of_text|>", "<|endoftext|>", "</s>", "<eos>", "<|end|>")
"""Names of the end-of-text token, tried in order when tokenizer_config.json names none."""


class TokenizerFile:
    """A tokenizer.json: what the stages need to know of it, and its encoders."""

    def __init__(self, path: Path | str) -> None:
        """
        Args:
            path: a tokenizer.json, or a folder that holds one.

        Raises:
            UserError: there is none, or it is none.
        """
        path = Path(path)
        self.path = path / "tokenizer.json" if path.is_dir() else path
        try:
            self.raw = self.path.read_bytes()
            self.definition: dict[str, Any] = json.loads(self.raw)
            self.definition["model"]["type"]
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such tokenizer file") from None
        except (ValueError, KeyError, TypeError) as e:
            raise UserError(f"{self.path}: not a tokenizer.json of Hugging Face tokenizers ({e})") from None

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()

    @cached_property
    def config(self) -> dict[str, Any]:
        beside = self.path.with_name("tokenizer_config.json")
        return json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}

    @cached_property
    def added(self) -> dict[str, int]:
        return {t["content"]: t["id"] for t in self.definition.get("added_tokens", [])}

    @cached_property
    def specials(self) -> list[str]:
        return [t["content"] for t in self.definition.get("added_tokens", []) if t["special"]]

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest id: what an embedding matrix needs."""
        vocab = self.definition["model"]["vocab"]
        ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
        return max([*ids, *self.added.values()]) + 1

    @property
    def token_size(self) -> int:
        """Bytes a token in ``.ds`` files."""
        return 2 if self.vocab_size <= 65536 else 4

    @cached_property
    def eos(self) -> str:
        """The end-of-text token, as tokenizer_config.json names it or by its usual names."""
        named = self.config.get("eos_token")
        named = named.get("content") if isinstance(named, dict) else named
        for token in (*END_OF_TEXT, named) if named not in self.added else (named,):
            if token in self.added:
                return str(token)
        raise UserError(
            f"{self.path}: no end-of-text token: none of {', '.join(END_OF_TEXT)} is among its added tokens; name it "
            "as eos_token in tokenizer_config.json beside the file"
        )

    @property
    def eos_id(self) -> int:
        return self.added[self.eos]

    def encoder(self, engine: str) -> Encode:
        """Built once in a process: a large vocabulary takes seconds to load.

        gigatoken is built anew for every caller: its cache grows without bound, and goes with it.
        """
        if engine == "gigatoken":
            return self._gigatoken()
        key = (self.sha256, engine)
        if key not in _encoders:
            _encoders[key] = self._hf() if engine == "hf" else self._fastokens()
        return _encoders[key]

    def _hf(self) -> Encode:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.raw.decode())
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()

        def encode(texts: Sequence[str]) -> tuple[Ids, Offsets]:
            ids = [e.ids for e in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
            offsets = np.zeros(len(ids) + 1, np.int64)
            np.cumsum([len(x) for x in ids], out=offsets[1:])
            flat = np.fromiter((i for x in ids for i in x), np.uint32, count=int(offsets[-1]))
            return flat, offsets

        return encode

    def _fastokens(self) -> Encode:
        import fastokens

        tokenizer = fastokens.Tokenizer.from_json_str(self.raw.decode())

        def encode(texts: Sequence[str]) -> tuple[Ids, Offsets]:
            ids, offsets = tokenizer.encode_batch_flat(list(texts), split_special_tokens=True)
            return np.frombuffer(ids, np.uint32), np.frombuffer(offsets, np.uint64).astype(np.int64)

        return encode

    def _gigatoken(self) -> Encode:
        import gigatoken

        # It always matches added tokens, so those that are special are taken out of its copy of the definition.
        plain = dict(self.definition)
        plain["added_tokens"] = [t for t in self.definition.get("added_tokens", []) if not t["special"]]
        plain["post_processor"] = None
        tokenizer = gigatoken.Tokenizer.from_json(json.dumps(plain))

        def encode(texts: Sequence[str]) -> tuple[Ids, Offsets]:
            layout = tokenizer.encode_batch(list(texts), parallel=False).layout
            offsets, ids = np.asarray(layout.offsets), np.asarray(layout.content.data)
            return ids[offsets[0] : offsets[-1]], (offsets - offsets[0]).astype(np.int64)

        return encode


_encoders: dict[tuple[str, str], Encode] = {}


@lru_cache(maxsize=4)
def _load(path: str, modified: int) -> TokenizerFile:
    return TokenizerFile(path)


def load_tokenizer(path: Path | str) -> TokenizerFile:
    """``TokenizerFile(path)``, read once in a process as long as the file does not change."""
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    return _load(str(file), file.stat().st_mtime_ns if file.exists() else 0)
