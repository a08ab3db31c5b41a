"""The Hub as push needs it: what is there, what differs, uploads that survive broken connections, clear errors."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from duetto.console import console, log
from duetto.errors import UserError
from duetto.files import sha256_file

T = TypeVar("T")

ATTEMPTS = 4
"""Tries of a request that changes nothing when it is repeated."""

REGULAR_LIMIT = 10 << 20
"""Bytes beyond which the Hub takes a file into large-file storage only."""

HASHERS = 4
"""Files hashed at once; hashing leaves Python's lock."""

OWN_FILES = {".gitattributes"}
"""Files that the Hub itself puts into a new repository."""


@dataclass(frozen=True)
class Difference:
    """Local folder against what is on the Hub."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    """On the Hub, not in the release; a push deletes them."""

    @property
    def upload(self) -> list[str]:
        return self.added + self.changed

    @property
    def empty(self) -> bool:
        return not (self.upload or self.removed)


def client() -> Any:
    """HfApi for ``$HF_ENDPOINT`` (read now: the library reads it only once, when it is imported)."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    if not console.is_terminal:
        disable_progress_bars()
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


@contextmanager
def clear_errors(api: Any, repo: str) -> Iterator[None]:
    """Turn what the Hub and the network raise into one line that says what to do."""
    import httpx
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except LocalTokenNotFoundError:
        raise UserError(
            "no login to the Hub: run `hf auth login`, or set HF_TOKEN to a token with write permission"
        ) from None
    except HFValidationError as e:
        raise UserError(f"{repo}: the Hub refuses this name ({_first_line(e)}); change release.hub_repo") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{repo}: not on {api.endpoint}, or this token may not see it; check release.hub_repo"
        ) from None
    except HfHubHTTPError as e:
        status = e.response.status_code if e.response is not None else 0
        raise UserError(_explain(status, repo, api.endpoint, e)) from None
    except (httpx.HTTPError, ConnectionError, TimeoutError) as e:
        raise _broken(repo, api.endpoint, e) from None
    except RuntimeError as e:  # the library wraps failures of its upload threads
        cause = e.__cause__
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code if cause.response is not None else 0
            raise UserError(_explain(status, repo, api.endpoint, cause)) from None
        if isinstance(cause, httpx.HTTPError | ConnectionError | TimeoutError):
            raise _broken(repo, api.endpoint, cause) from None
        raise


def _explain(status: int, repo: str, endpoint: str, error: Exception) -> str:
    known = {
        400: f"{repo}: the Hub refuses the request ({_first_line(error)}); check release.hub_repo",
        401: f"{endpoint} does not accept the token: run `hf auth login` again, or set a valid HF_TOKEN",
        403: f"{repo}: no permission to write there; use a token with write permission for this account, or change "
        "release.hub_repo",
        412: f"{repo}: somebody else pushed meanwhile; look at it, then run duetto push again",
        429: f"{endpoint}: too many requests; wait some minutes, then run duetto push again (nothing is sent twice)",
    }
    return known.get(status, f"{repo}: the Hub answered {status} ({_first_line(error)}); run duetto push again later")


def _broken(repo: str, endpoint: str, error: BaseException) -> UserError:
    what = type(error).__name__ + (f": {error}" if str(error) else "")
    return UserError(
        f"{repo}: the connection to {endpoint} broke ({what}); nothing is published half: run duetto push "
        "again, what has arrived is not sent twice"
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def again(request: Callable[[], T]) -> T:
    """Repeat a harmless request while the network fails; an answer of the Hub is final."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(ATTEMPTS):
        try:
            return request()
        except (httpx.HTTPError, ConnectionError, RuntimeError) as e:
            # The library wraps failures of its upload threads into a RuntimeError.
            cause = e.__cause__ if isinstance(e, RuntimeError) and not isinstance(e, httpx.HTTPError) else e
            network = isinstance(cause, httpx.HTTPError | ConnectionError) and not isinstance(cause, HfHubHTTPError)
            if not network or attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.2 * 2**attempt)
    raise AssertionError("unreachable")


def remote_files(api: Any, repo: str, revision: str | None = None) -> dict[str, str] | None:
    """Path to content hash (sha256 of large files, git's sha1 of small ones); None where there is no repository."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = again(lambda: api.repo_info(repo, revision=revision, files_metadata=True))
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None
    return {s.rfilename: s.lfs.sha256 if s.lfs else s.blob_id for s in info.siblings}


_hashes: dict[tuple[str, int, int], str] = {}
"""sha256 of large files by path, size and time of change: a gigabyte is read once, not once a question."""


def _identity(file: Path) -> tuple[str, int, int]:
    stat = file.stat()
    return str(file), stat.st_size, stat.st_mtime_ns


def local_hashes(folder: Path, path: str) -> set[str]:
    """Both hashes by which the Hub may know a file."""
    file = folder / path
    identity = _identity(file)
    if identity[1] > REGULAR_LIMIT:
        if identity not in _hashes:
            _hashes[identity] = sha256_file(file)
        return {_hashes[identity]}
    data = file.read_bytes()
    return {hashlib.sha256(data).hexdigest(), hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}


def compare(folder: Path, paths: list[str], remote: dict[str, str] | None) -> Difference:
    """What a push would change."""
    there = remote or {}
    added = [p for p in paths if p not in there]
    known = [p for p in paths if p in there]
    changed = [p for p in known if there[p] not in local_hashes(folder, p)]
    unchanged = [p for p in known if p not in changed]
    removed = sorted(p for p in there if p not in paths and p not in OWN_FILES)
    return Difference(added, changed, unchanged, removed)


def upload(api: Any, repo: str, folder: Path, difference: Difference, message: str, branch: str = "main") -> str:
    """Send large files, then one commit of everything; returns the commit.

    Until the commit nothing is visible; large files that arrived before a broken connection are not sent again.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    head = again(lambda: api.repo_info(repo, revision=branch)).sha
    if difference.empty:
        return str(head)
    size = sum((folder / path).stat().st_size for path in difference.upload)
    started = time.monotonic()

    def addition(path: str) -> Any:
        operation = CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(folder / path))
        _hashes[_identity(folder / path)] = operation.upload_info.sha256.hex()
        return operation

    with ThreadPoolExecutor(HASHERS) as pool:
        operations: list[Any] = list(pool.map(addition, difference.upload))
    # Sends what the Hub does not have yet; after a broken connection that is only what had not arrived.
    again(lambda: api.preupload_lfs_files(repo, additions=operations, revision=branch))
    log(f"push: {repo}: {size / 1e6:.1f} MB hashed and sent in {time.monotonic() - started:.1f} s")
    operations += [CommitOperationDelete(path_in_repo=path, is_folder=False) for path in difference.removed]

    def commit() -> str:
        # A commit whose answer was lost has landed: the head moved and holds exactly these files.
        now = again(lambda: api.repo_info(repo, revision=branch)).sha
        paths = difference.upload + difference.unchanged
        if now != head and compare(folder, paths, remote_files(api, repo, branch)).empty:
            return str(now)
        done = api.create_commit(repo, operations, commit_message=message, revision=branch, parent_commit=head)
        return str(done.oid)

    return str(again(commit))
