"""One ``.ds`` file of tokens: where it is, what it must contain, and whether it still does.

A shard is recorded in mixture.json by its size, its sha256, and a sample hash over a few blocks. The sample hash is
what makes it possible to check 5,000 shards and 4 TB at the start of a job in a second; the full one checks small
mixtures, and anything when asked.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duetto.errors import UserError

SAMPLE_BLOCKS, BLOCK = 8, 4096
"""Sampled blocks a shard and their size in bytes: spread evenly, first and last included."""


@dataclass(frozen=True)
class Shard:
    path: str
    """Local path or fsspec URL."""
    tokens: int
    token_size: int
    """Bytes a token: 2 for vocabularies up to 65,536, else 4."""
    documents: int | None = None
    sha256: str | None = None
    sample_sha256: str | None = None

    @property
    def remote(self) -> bool:
        return "://" in self.path

    def identity(self) -> tuple[int, str | None]:
        return self.tokens, self.sha256 or self.sample_sha256

    @classmethod
    def from_record(cls, folder: str, record: dict[str, Any], token_size: int) -> "Shard":
        return cls(
            join(folder, record["path"]),
            record["tokens"],
            token_size,
            record["documents"],
            record["sha256"],
            record["sample_sha256"],
        )

    @classmethod
    def of_file(cls, path: Path, token_size: int) -> "Shard":
        """A shard that was just written, with its index beside it."""
        documents = path.with_name(path.name + ".index").stat().st_size // 8
        return cls(str(path), path.stat().st_size // token_size, token_size, documents)

    def size(self) -> int:
        """Bytes on disk. Raises FileNotFoundError."""
        if self.remote:
            fs, path = _filesystem(self.path)
            return int(fs.size(path))
        return os.stat(self.path).st_size

    def read(self, offset: int, length: int) -> bytes:
        if self.remote:
            fs, path = _filesystem(self.path)
            return fs.cat_file(path, start=offset, end=offset + length)
        fd = os.open(self.path, os.O_RDONLY)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def sample_hash(self) -> str:
        """sha256 over the size and a few blocks. The blocks are read sparsely: microseconds from a page cache."""
        size = self.tokens * self.token_size
        digest = hashlib.sha256(str(size).encode())
        if self.remote:
            for offset in _offsets(size):
                digest.update(self.read(offset, BLOCK))
            return digest.hexdigest()
        fd = os.open(self.path, os.O_RDONLY)
        try:
            for offset in _offsets(size):
                digest.update(os.pread(fd, BLOCK, offset))
        finally:
            os.close(fd)
        return digest.hexdigest()

    def full_hash(self) -> str:
        if not self.remote:
            with open(self.path, "rb") as f:
                return hashlib.file_digest(f, "sha256").hexdigest()
        digest, at = hashlib.sha256(), 0
        while block := self.read(at, 2**22):
            digest.update(block)
            at += len(block)
        return digest.hexdigest()

    def record(self, folder: str) -> dict[str, Any]:
        """What mixture.json says about it; the path is relative to ``folder``."""
        return {
            "path": os.path.relpath(self.path, folder),
            "tokens": self.tokens,
            "documents": self.documents,
            "sha256": self.full_hash(),
            "sample_sha256": self.sample_hash(),
        }


def _offsets(size: int) -> list[int]:
    if size <= SAMPLE_BLOCKS * BLOCK:
        return list(range(0, size, BLOCK))
    return [(size - BLOCK) * i // (SAMPLE_BLOCKS - 1) for i in range(SAMPLE_BLOCKS)]


def check_shards(shards: Sequence[Shard], full: bool) -> None:
    """Raises UserError that names the first shard that is missing, of another size, or of other content."""
    for shard in shards:
        try:
            size = shard.size()
        except FileNotFoundError:
            raise UserError(f"{shard.path}: the token shard is missing; run `duetto tokenize` again") from None
        if size != shard.tokens * shard.token_size:
            raise UserError(
                f"{shard.path}: the token shard has {size:,} bytes instead of {shard.tokens * shard.token_size:,}; it "
                "was truncated or replaced; run `duetto tokenize --force`"
            )
        if full and shard.sha256:
            same = shard.full_hash() == shard.sha256
        elif shard.sample_sha256:
            same = shard.sample_hash() == shard.sample_sha256
        else:
            same = True  # a folder that is not ours carries no hashes; its size was checked
        if not same:
            raise UserError(
                f"{shard.path}: the token shard's content changed since it was written (its hash differs); run "
                "`duetto tokenize --force`"
            )


def folder_shards(folder: str, token_size: int | None, tokenizer_sha256: str | None) -> list[Shard]:
    """All ``.ds`` files below a folder of datatrove's format, sizes from the ``.metadata`` when there is one.

    Raises:
        UserError: no shards, a torn shard, or one of another tokenizer.
    """
    shards = []
    for path in _list(folder):
        count, size, documents = None, token_size, None
        try:
            name, tokens, *_ = read_text(path + ".metadata").splitlines()
            label, _, recorded = name.rpartition("|")
            if token_size is not None and recorded.isdigit() and int(recorded) != token_size:
                raise UserError(
                    f"{path}: {recorded} bytes a token, but this run's vocabulary needs {token_size}: it was written "
                    "with another tokenizer; tokenize it again"
                )
            size, count = int(recorded) if recorded.isdigit() else size, int(tokens)
            theirs = label.partition("@sha256:")[2]
            if theirs and tokenizer_sha256 and not tokenizer_sha256.startswith(theirs):
                raise UserError(
                    f"{path}: written with another tokenizer ({label}); this run's tokenizer.json has sha256 "
                    f"{tokenizer_sha256[: len(theirs)]}; tokenize it again or use its tokenizer"
                )
        except FileNotFoundError:
            pass  # written without final metadata: the size alone must do
        if size is None:
            raise UserError(f"{path}: no .metadata beside it says how many bytes a token has; give vocab_size")
        shard = Shard(path, 0, size)
        on_disk = shard.size()
        if on_disk % size or (count is not None and on_disk != count * size):
            raise UserError(
                f"{path}: {on_disk:,} bytes do not hold {count or 'whole'} tokens of {size} bytes: truncated?"
            )
        shards.append(Shard(path, on_disk // size, size, documents))
    if not shards:
        raise UserError(f"{folder}: no .ds files here; check the dataset folder or run `duetto tokenize`")
    return shards


def join(folder: str, name: str) -> str:
    return name if name.startswith("/") or "://" in name else f"{folder.rstrip('/')}/{name}"


def read_text(path: str) -> str:
    if "://" in path:
        fs, inner = _filesystem(path)
        return fs.cat_file(inner).decode()
    with open(path, encoding="utf-8") as f:
        return f.read()


def _list(folder: str) -> list[str]:
    if "://" in folder:
        fs, inner = _filesystem(folder)
        return sorted(fs.unstrip_protocol(p) for p in fs.find(inner) if p.endswith(".ds"))
    found = [os.path.join(d, f) for d, _, files in os.walk(folder) for f in files if f.endswith(".ds")]
    return sorted(found)


def _filesystem(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    return url_to_fs(url)
