"""datatrove's DocumentTokenizer with a fast engine, an oracle, resume inside a task, and atomic shards.

The ``.ds``, ``.index`` and ``.metadata`` it leaves are byte for byte those of datatrove's own writer (documents with
literal special tokens excepted, see data/encode.py). Ids go from the engine to disk as flat buffers: no Encoding
objects, no lists.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.io import get_datafolder
from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer, TokenizedFile
from numpy.typing import NDArray

from data.encode import Encode, TokenizerFile, load_tokenizer
from data.ledger import byte_length
from data.shards import Shard
from duetto.errors import StageFailed
from duetto.files import sync_folder, write_json

JOURNAL_TOKENS = 20_000_000
"""Tokens between two entries of the journal: what a killed task has to do again, about three seconds of work."""


GIGATOKEN_MB = 600
"""Resident memory above which a new gigatoken takes over (1 CPU second): its cache grows by 9 MB for every MB of random
words, and 20 M tokens of these are 36 MB."""


class FastDocumentTokenizer(DocumentTokenizer):
    """Drop-in for DocumentTokenizer on a local output folder; loss masks and chunk shuffling are not served.

    Everything is written in ``<output_folder>/.<rank>.part`` and renamed when the task is done. A killed task goes on
    from the last entry of its journal.
    """

    def __init__(
        self,
        output_folder: str,
        tokenizer_file: str,
        *,
        engine: str = "fastokens",
        label: str | None = None,
        oracle_documents: int = 64,
        batch_size: int = 1000,
        batch_bytes: int = 16_000_000,
        max_tokens_per_file: int | None = None,
        shuffle_documents: bool = True,
        seed: int = 8,
        save_filename: str | None = None,
    ) -> None:
        """
        Args:
            output_folder: local folder of the shards.
            tokenizer_file: a tokenizer.json, or a folder with one.
            engine: fastokens, gigatoken or hf.
            label: what ``.metadata`` names as the tokenizer; the file's path, as in datatrove, when not given.
            oracle_documents: documents of each task that the reference encodes too.
            batch_size: documents handed to the engine at once.
            batch_bytes: and at most about so much text.
        """
        self.tokenizer_file = tokenizer_file
        super().__init__(
            output_folder,
            label or tokenizer_file,
            eos_token=load_tokenizer(tokenizer_file).eos,
            batch_size=batch_size,
            max_tokens_per_file=max_tokens_per_file,
            shuffle_documents=shuffle_documents,
            seed=seed,
            save_filename=save_filename,
        )
        self.engine, self.oracle_documents, self.batch_bytes = engine, oracle_documents, batch_bytes
        self.final = Path(output_folder)

    @property
    def file(self) -> TokenizerFile:
        """Not kept in the object: steps are copied and pickled for every task."""
        return load_tokenizer(self.tokenizer_file)

    @property
    def token_size(self) -> int:  # type: ignore[override]  # a cached property there; here known without loading it
        return self.file.token_size

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Any:  # type: ignore[override]
        part = self.final / f".{rank:05d}.part"
        self.output_folder = get_datafolder(str(part))
        self.local_working_dir = None
        done = part / "finished.json"
        if not done.exists():
            for stale in part.glob("*_doc_shuffled.ds*"):
                stale.unlink()  # a shard whose shuffle was interrupted: made again from the unshuffled file
            super().run(data, rank, world_size)
            if self.shuffle_documents:  # left behind by datatrove when there was no document at all
                for empty in part.glob("*_unshuffled.ds*"):
                    empty.unlink()
            for path in part.glob("*.ds*"):
                with open(path, "rb") as f:
                    os.fsync(f.fileno())
            write_json(done, {"finished": True})
        # What mixture.json says of the shards: hashed here, in parallel, while they are in the page cache.
        shards = sorted([*part.glob("*.ds"), *self.final.glob(f"{rank:05d}_*.ds")], key=lambda p: p.name)
        records = [Shard.of_file(p, self.token_size).record(str(p.parent)) for p in shards]
        write_json(self.final / ".records" / f"{rank:05d}.json", records)
        # Each .ds comes last of its three files: where it is, its index and metadata are.
        for path in sorted(part.glob("*.ds*"), key=lambda p: p.suffix == ".ds"):
            path.replace(self.final / path.name)
        sync_folder(self.final)
        shutil.rmtree(part)
        return iter(())

    def write_unshuffled(self, data: Iterable[Document], filename: str) -> TokenizedFile:
        """Tokenize to one file in the order of the documents; called by ``DocumentTokenizer.run``."""
        out = _ResumableFile(
            self.output_folder,
            filename,
            tokenizer_name_or_path=self.tokenizer_name_or_path,
            save_index=True,
            save_final_metadata=self.save_final_metadata,
            token_size=self.token_size,
        )
        encode = self.file.encoder(self.engine)
        oracle = self.file.encoder("hf") if self.engine != "hf" and self.oracle_documents else None
        documents, since = iter(data), 0
        for _ in islice(documents, out.documents):
            pass  # what an earlier attempt tokenized already
        for batch in self._batches(documents):
            with self.track_time(unit="batch"):
                texts = [d.text for d in batch]
                ids, offsets = encode(texts)
                if oracle:
                    self._compare(oracle, batch, ids, offsets, out)
                tokens, ends = append_eos(ids, offsets, self.file.eos_id, self.token_size)
                out.append(tokens, ends)
                since += len(tokens)
                if since >= JOURNAL_TOKENS:
                    out.save()
                    since = 0
                    if self.engine == "gigatoken" and _resident_mb() > GIGATOKEN_MB:
                        del encode
                        encode = self.file.encoder(self.engine)
            self.stat_update("tokens", value=len(tokens))
        out.close()
        return out

    def _batches(self, documents: Iterator[Document]) -> Iterator[list[Document]]:
        batch: list[Document] = []
        size = 0
        for document in documents:
            batch.append(document)
            size += byte_length(document.text)
            if len(batch) == self.batch_size or size >= self.batch_bytes:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _compare(self, oracle: Encode, batch: list[Document], ids: Any, offsets: Any, out: "_ResumableFile") -> None:
        """The first documents of a task, then one of every batch, until the sample of this shard's length is full."""
        first = max(self.oracle_documents // 2 - out.documents, 0)
        shards = 1 + out.write_idx // self.max_tokens_per_file if self.max_tokens_per_file else 1
        left = self.oracle_documents * shards - self.stats["oracle"].total
        chosen = range(min(first, len(batch))) if first else ([out.documents % len(batch)] if left > 0 else [])
        chosen = [i for i in chosen if len(batch[i].text) < 2_000_000]  # the reference takes seconds a megabyte there
        if not chosen:
            return
        wanted, at = oracle([batch[i].text for i in chosen])
        for j, i in enumerate(chosen):
            self.stat_update("oracle")
            theirs, ours = wanted[at[j] : at[j + 1]], ids[offsets[i] : offsets[i + 1]]
            if not np.array_equal(theirs, ours):
                where = next((k for k, (a, b) in enumerate(zip(theirs, ours)) if a != b), min(len(theirs), len(ours)))
                raise StageFailed(
                    f"tokenization engine {self.engine} differs from Hugging Face tokenizers on document "
                    f"{batch[i].id!r} at token {where}; set data.tokenization.engine=hf and report the document"
                )


def _resident_mb() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def append_eos(
    ids: NDArray[Any], offsets: NDArray[Any], eos: int, token_size: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ids with the end-of-text token after each document, and where each document ends in them."""
    n = len(offsets) - 1
    ends = offsets[1:] - offsets[0] + np.arange(1, n + 1)
    out = np.empty(len(ids) + n, "<u4" if token_size == 4 else "<u2")
    is_text = np.ones(len(out), bool)
    is_text[ends - 1] = False
    out[is_text] = ids
    out[ends - 1] = eos
    return out, ends


class _ResumableFile(TokenizedFile):
    """A TokenizedFile that remembers how far it is: ``journal.json`` counts documents and tokens that are on disk."""

    tokens_file: Any

    def __init__(self, output_folder: Any, filename: str, **options: Any) -> None:
        folder = Path(output_folder.path)
        folder.mkdir(parents=True, exist_ok=True)
        self._tokens, self._ends = folder / filename, folder / "journal.ends"
        self._journal = folder / "journal.json"
        documents = tokens = 0
        if self._journal.exists():
            saved = json.loads(self._journal.read_text())
            documents, tokens = saved["documents"], saved["tokens"]
        kept = self._tokens.stat().st_size if self._tokens.exists() else 0
        size = options["token_size"]
        if kept < tokens * size:
            documents = tokens = 0
        keep = self._tokens.with_suffix(".resumed")
        if self._tokens.exists():
            self._tokens.replace(keep)
        super().__init__(output_folder, filename, **options)
        self.tokens_file.close()
        if keep.exists():
            keep.replace(self._tokens)
        self.tokens_file = open(self._tokens, "r+b", buffering=2**20)  # noqa: SIM115  # closed by close()
        self.tokens_file.truncate(tokens * size)
        self.tokens_file.seek(tokens * size)
        self._ends_file = open(self._ends, "r+b" if self._ends.exists() else "w+b")  # noqa: SIM115
        self._ends_file.truncate(documents * 8)
        self.ends = [np.fromfile(self._ends_file, "<u8")] if documents else []
        self._unsaved: list[NDArray[Any]] = []
        self._ends_file.seek(documents * 8)
        self.documents, self.write_idx = documents, tokens

    def append(self, tokens: NDArray[Any], ends: NDArray[Any]) -> None:
        self.tokens_file.write(tokens.data)
        absolute = (ends + self.write_idx).astype("<u8")
        self.ends.append(absolute)
        self._unsaved.append(absolute)
        self.documents += len(ends)
        self.write_idx += len(tokens)

    def save(self) -> None:
        """Make what was written so far the point to go on from."""
        for block in self._unsaved:
            self._ends_file.write(block.tobytes())
        self._unsaved.clear()
        for f in (self.tokens_file, self._ends_file):
            f.flush()
            os.fsync(f.fileno())
        write_json(self._journal, {"documents": self.documents, "tokens": self.write_idx})

    def close(self) -> None:
        self._ends_file.close()
        self.doc_ends = np.concatenate(self.ends).tolist() if self.ends else []
        super().close()
