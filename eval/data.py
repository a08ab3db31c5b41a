"""Benchmark data on this machine: which data sets a suite needs, at which revision, and where they are.

``duetto fetch`` brings what ``required_datasets`` lists (on a node with internet); evaluation itself is offline.
``datasets.yaml`` is the fetch list.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

from duetto.errors import UserError
from duetto.recipe import ROOT, read_yaml
from eval.config import EvalConfig

FETCH_LIST = ROOT / "configs" / "eval" / "datasets.yaml"
NLTK_PUNKT = "punkt_tab"
"""Sentence splitter that lm-eval's IFEval loads at import."""


@dataclass(frozen=True)
class Dataset:
    """A data set of the Hub, pinned."""

    repo: str
    """``<org>/<name>`` of a dataset repository."""
    revision: str
    """Commit; a branch name where no commit is pinned, and then the commit found at fetch is what results record."""
    tasks: tuple[str, ...]
    """Tasks and groups that read it."""


@functools.cache
def known_datasets() -> tuple[Dataset, ...]:
    table = read_yaml(FETCH_LIST)
    return tuple(Dataset(repo, str(e["revision"]), tuple(e["tasks"])) for repo, e in table.items())


def datasets_of(task: str) -> list[Dataset]:
    """Data sets that a Hub task (or group) reads; empty for tasks over local files and for unlisted tasks."""
    return [d for d in known_datasets() if task in d.tasks]


def required_datasets(config: EvalConfig) -> list[Dataset]:
    """What ``duetto fetch`` must bring for a suite, without repetition, in the order of its tasks."""
    found = [d for t in config.selected if not t.data for d in datasets_of(t.task)]
    return list(dict.fromkeys(found))


def check_punkt(task: str) -> None:
    """Raises UserError where IFEval's sentence splitter is missing: lm-eval would try the network at import."""
    import nltk

    try:
        nltk.data.find(f"tokenizers/{NLTK_PUNKT}")
    except LookupError:
        raise UserError(
            f"task {task!r} needs nltk's {NLTK_PUNKT} (looked in {', '.join(nltk.data.path[:2])}, ...); "
            "on a machine with internet run: duetto fetch --recipe FILE"
        ) from None


def local_folder(repo: str, revision: str, mirror: str | None) -> tuple[Path, str] | None:
    """Folder of a fetched data set and its exact revision, or None when it is not on this machine.

    Args:
        mirror: folder with data sets as ``<org>/<name>/``; the Hub cache when None.
    """
    if mirror is not None:
        folder = Path(mirror) / repo
        return (folder.resolve(), "local copy") if folder.is_dir() else None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = Path(snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return found, found.name


def missing(repo: str, task: str, mirror: str | None) -> UserError:
    where = str(Path(mirror) / repo) if mirror else "the Hub cache"
    return UserError(
        f"task {task!r} needs the data set {repo}, which is not in {where}; "
        "on a machine with internet run: duetto fetch --recipe FILE (same HF_HOME), then repeat"
    )
