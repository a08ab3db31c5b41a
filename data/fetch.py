"""Brings what a recipe needs from the Hub to this machine, for nodes without internet.

    duetto fetch [--recipe FILE] [--only tokenizer|data|start|sft|eval]

Tokenizer, sources of kind ``hub``, the model that pretraining starts from, conversations, evaluation sets and foreign
models go to the Hub's own cache (``$HF_HOME``), file by file: an interrupted fetch goes on where it stopped.
``fetch.json`` in the run folder says what was brought: commit, files, bytes. A branch is resolved to its commit once;
later calls and the later stages stay with that commit until ``duetto fetch --force``.
"""

import argparse
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from data import hub
from duetto.console import log, progress
from duetto.errors import UserError
from duetto.files import read_json, write_json
from duetto.recipe import ROOT, TokenizerTraining, read_yaml
from duetto.run import Run

PARTS = ("tokenizer", "data", "start", "sft", "eval")

AT_ONCE = 4
"""The Hub limits requests an address; more only wait."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.gguf")
"""Copies of a model that nothing here reads."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""namespace/name"""


@dataclass(frozen=True)
class Wanted:
    """Files of one repository."""

    part: str
    name: str
    repo: str
    kind: str
    """dataset or model."""
    revision: str | None = None
    folder: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=PARTS, help="fetch this part alone")
    parser.add_argument("--dry-run", action="store_true", help="list repositories and bytes, fetch nothing")


def run(run: Run, args: argparse.Namespace) -> None:
    # The client heeds TRANSFORMERS_OFFLINE too, which every verb sets; this verb is the one that goes out.
    os.environ.setdefault("HF_HUB_OFFLINE", "0")
    wanted = list(dict.fromkeys(w for w in plan(run) if args.only in (None, w.part)))
    if args.only in (None, "eval") and not args.dry_run:
        fetch_punkt(run)
    if not wanted:
        log("fetch: this recipe needs nothing from the Hub")
        return
    manifest_file = run.path("fetch.json")
    manifest: dict[str, Any] = read_json(manifest_file) if manifest_file.exists() else {}
    for w in wanted:
        path = run.recipe.data.sources[w.name].path if w.part == "data" else w.repo
        section = manifest.setdefault("sources" if w.part == "data" else w.part, {})
        known = section.get(w.name, {})
        same = (known.get("path"), known.get("revision")) == (path, w.revision)
        pinned = known["commit"] if same and not args.force else None
        commit, files = list_repository(w, pinned)
        size = sum(files.values())
        log(f"fetch: {w.name}: {w.repo}@{commit[:8]}: {len(files)} files, {size / 1e9:.2f} GB")
        if args.dry_run:
            continue
        entry: dict[str, Any] = {"repo": w.repo, "kind": w.kind, "revision": w.revision, "commit": commit, "path": path}
        entry |= {"files": len(files), "bytes": size}
        section[w.name] = entry  # without a folder: begun, and going on with this commit
        write_json(manifest_file, manifest)
        folder = download(w, commit, files)
        section[w.name] = {**entry, "folder": str(folder / w.folder) if w.folder else str(folder)}
        write_json(manifest_file, manifest)


def plan(run: Run) -> list[Wanted]:
    """What the recipe names that is not local."""
    recipe = run.recipe
    wanted = []
    if not isinstance(recipe.tokenizer, TokenizerTraining) and not any(
        (p / recipe.tokenizer).exists() for p in (Path(), ROOT)
    ):
        wanted.append(Wanted("tokenizer", recipe.tokenizer, recipe.tokenizer, "model", include=TOKENIZER_FILES))
    for name, source in recipe.data.sources.items():
        if source.kind == "hub" and not source.stream:
            where = hub.parse(source.path)
            include = tuple(source.include) or ("*.parquet", "*.jsonl", "*.jsonl.gz", "*.jsonl.zst")
            wanted.append(
                Wanted(
                    "data", name, where.repo, "dataset", where.revision, where.folder, include, tuple(source.exclude)
                )
            )
    for stage in recipe.pretrain:
        start = stage.model.init_method.path
        if start and HUB_ID.fullmatch(start) and not Path(start).exists():
            wanted.append(Wanted("start", start, start, "model", exclude=OTHER_WEIGHTS))
    return wanted + list(_conversations(run)) + list(_evaluation(run))


def _conversations(run: Run) -> Iterable[Wanted]:
    for section in (run.recipe.sft, run.recipe.dpo):
        for entry in [*((section or {}).get("datasets") or []), *((section or {}).get("test_datasets") or [])]:
            name = str(entry["path"])
            if name.count("/") == 1 and not Path(name).exists() and not Path(name).suffix and name[0] not in "./":
                yield Wanted("sft", name, name, "dataset", entry.get("revision"))


def _evaluation(run: Run) -> Iterable[Wanted]:
    suite = run.recipe.eval
    if suite is None:
        return
    table = read_yaml(ROOT / "configs" / "eval" / "datasets.yaml")
    names = [t.task for t in suite.tasks if not t.data]
    for dataset, entry in table.items():
        if suite.datasets is None and any(n == t or n.startswith(f"{t}_") for n in names for t in entry["tasks"]):
            yield Wanted("eval", dataset, dataset, "dataset", entry.get("revision"))
    for model in suite.models:
        if not isinstance(model, str) and not Path(model.path).exists() and HUB_ID.fullmatch(model.path):
            yield Wanted("eval", model.path, model.path, "model", model.revision, exclude=OTHER_WEIGHTS)


def fetch_punkt(run: Run) -> None:
    """Bring nltk's sentence splitter, which lm-eval's IFEval loads; ``$NLTK_DATA`` says where it goes.

    Raises:
        UserError: it is neither here nor to be had.
    """
    if run.recipe.eval is None or not any(t.task.startswith("ifeval") for t in run.recipe.eval.tasks):
        return
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        log("fetch: nltk: punkt_tab, for IFEval")
        if not nltk.download("punkt_tab", quiet=True):
            raise UserError(
                "nltk's punkt_tab could not be downloaded; check the network, or copy it to $NLTK_DATA"
            ) from None


def list_repository(w: Wanted, commit: str | None) -> tuple[str, dict[str, int]]:
    """Commit (the one given, or what the revision is at now) and the sizes of the wanted files.

    Raises:
        UserError: no such repository, no access, no network, or no file that fits.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    api = HfApi()
    try:
        info = api.repo_info(w.repo, repo_type=w.kind, revision=commit or w.revision)
        tree = api.list_repo_tree(w.repo, w.folder or None, recursive=True, repo_type=w.kind, revision=info.sha)
        files = {f.path: f.size for f in tree if hasattr(f, "size") and f.size is not None}
    except GatedRepoError:
        raise UserError(
            f"{w.name}: {w.repo} is gated: accept its terms at https://huggingface.co/{w.repo}, then log in with "
            "`hf auth login` or export HF_TOKEN"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError) as e:
        raise UserError(f"{w.name}: {w.repo}@{w.revision or 'main'}: {type(e).__name__}; check the name") from None
    except (HfHubHTTPError, OSError) as e:
        raise UserError(f"{w.name}: {w.repo}: the Hub cannot be reached ({' '.join(str(e).split())[:120]})") from None
    below = f"{w.folder}/" if w.folder else ""
    wanted = {
        path: size
        for path, size in files.items()
        if (not w.include or any(_fits(path, below, p) for p in w.include))
        and not any(_fits(path, below, p) for p in w.exclude)
    }
    if not wanted:
        raise UserError(f"{w.name}: {w.repo}/{w.folder}: no file fits {list(w.include)}; check folder and `include`")
    return str(info.sha), wanted


def _fits(path: str, below: str, pattern: str) -> bool:
    return fnmatch(path.removeprefix(below), pattern) or fnmatch(path, pattern)


def download(w: Wanted, commit: str, files: dict[str, int]) -> Path:
    """Files into the Hub's cache; those that are there already are not fetched again. Returns the snapshot folder.

    Raises:
        UserError: the connection broke for good, or a file came with another size.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    def fetch(path: str) -> tuple[str, Path]:
        return path, Path(hf_hub_download(w.repo, path, repo_type=w.kind, revision=commit))

    done, folder = 0, Path()
    with progress(f"fetch {w.name}", total=sum(files.values()), unit="B") as bar, ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for path, local in pool.map(fetch, sorted(files)):
                size = local.stat().st_size
                if size != files[path]:
                    raise UserError(f"{local}: {size} bytes instead of {files[path]}; remove it and fetch again")
                done += size
                bar.update(done)
                folder = local.parents[path.count("/")]
        except (HfHubHTTPError, OSError) as e:
            raise UserError(
                f"{w.name}: fetching {w.repo} stopped ({' '.join(str(e).split())[:120]}); run the same command again, "
                "what is here stays"
            ) from None
    _name_revision(folder, w.revision or "main", commit)
    return folder


def _name_revision(snapshot: Path, revision: str, commit: str) -> None:
    """Remember which commit a branch was: fetched by commit, nothing would be found under its name offline."""
    ref = snapshot.parent.parent / "refs" / revision
    if revision != commit:
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit, encoding="utf-8")
