"""Verb ``push``: upload the release folders to the Hub, private unless ``--public``.

    duetto push --dry-run               # what would be sent, and how it differs from what is there
    duetto push                         # private repositories, one commit each, tagged last
    duetto push --public --tag v1.0

The endpoint is ``$HF_ENDPOINT``, the token ``$HF_TOKEN`` or the Hub's own login. Nothing is uploaded before every
gate is passed, and the tag is set only after the Hub shows exactly the local files. GGUF files (``duetto export``) go
to a repository of their own, chosen checkpoints to revisions ``step-N`` of the base model, and all of them into the
collection that the recipe names.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duetto.console import log
from duetto.errors import UserError
from duetto.files import read_json, sha256_json
from duetto.run import Run
from release.checkpoints import chosen_steps, release_checkpoint
from release.config import KINDS, ModelKind
from release.gates import check_release, check_scan
from release.hub import OWN_FILES, Difference, again, clear_errors, client, compare, remote_files, upload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--public", action="store_true", help="make the repositories public (default: private)")
    parser.add_argument("--dry-run", action="store_true", help="show files and differences, change nothing")
    parser.add_argument("--tag", help="name of the tag (default: r- and a hash of the files)")
    parser.add_argument("--models", nargs="+", choices=KINDS, metavar="MODEL", help="base, instruct (default: all)")


@dataclass(frozen=True)
class Parcel:
    """One folder and where it goes."""

    label: str
    folder: Path
    repo: str
    paths: list[str]
    tag: str | None
    """Set last; None for a branch, whose name is enough."""
    branch: str = "main"


def run(run: Run, args: argparse.Namespace) -> None:
    """Check everything, then upload repository by repository.

    Raises:
        UserError: a gate refuses, or the Hub does; the revision is then not tagged.
    """
    run.require("card")
    kinds: list[ModelKind] = args.models or [k for k in KINDS if run.path("release", k).is_dir()]
    parcels = [p for kind in kinds for p in parcels_of(run, kind, args.tag)]
    if not parcels:
        raise UserError(f"{run.path('release')}: holds no release; run: duetto card --recipe {run.recipe.file}")
    api = client()
    sent = []
    for p in parcels:
        with clear_errors(api, p.repo):
            full = owned_name(api, p.repo)
            there = check_content(api, full, p, args.force)
            difference = compare(p.folder, p.paths, there)
            show(p, full, difference, api.endpoint)
            if not args.dry_run:
                send(api, full, p, difference, public=args.public, force=args.force)
                sent.append(full)
    if args.dry_run:
        log("push: dry run, nothing was changed")
    elif run.recipe.release.collection:
        with clear_errors(api, run.recipe.release.collection):
            collect(api, run.recipe.release.collection, list(dict.fromkeys(sent)), private=not args.public)


def parcels_of(run: Run, kind: ModelKind, tag: str | None) -> list[Parcel]:
    """The model, its GGUF files and its checkpoints, each through its gates."""
    folder, repo = run.path("release", kind), run.recipe.release.repo_of(kind)
    if repo is None:
        raise UserError(f"{run.recipe.file}: release.hub_repo is not set for {kind}; give it as owner/name")
    paths = files_of(folder)
    recorded = outputs_below(run, "card", folder)
    missing = sorted(set(recorded) - set(paths))
    if missing or not recorded:
        raise UserError(f"{folder}: {missing[0] if missing else 'the model'} is missing; run: duetto card --force")
    check_release(run, folder, kind, paths)
    found = [Parcel(kind, folder, repo, paths, tag or "r-" + sha256_json(recorded)[:12])]
    edge = run.path("release", "gguf", kind)
    if run.manifest("export") is not None and edge.is_dir():
        check_scan(run, edge, files_of(edge))
        edge_tag = tag or "r-" + sha256_json(outputs_below(run, "export", edge))[:12]
        found.append(Parcel(f"{kind} GGUF", edge, f"{repo}-GGUF", files_of(edge), edge_tag))
    for step in chosen_steps(run) if kind == "base" else ():
        checkpoint, files = release_checkpoint(run, step)
        check_scan(run, checkpoint, files)
        found.append(Parcel(f"step {step}", checkpoint, repo, files, None, f"step-{step}"))
    return found


def files_of(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def outputs_below(run: Run, stage: str, folder: Path) -> dict[str, str]:
    """Path in the folder to sha256, from a manifest."""
    prefix = folder.relative_to(run.root).as_posix() + "/"
    outputs = run.require(stage)["outputs"]
    return {k.removeprefix(prefix): v["sha256"] for k, v in outputs.items() if k.startswith(prefix)}


def owned_name(api: Any, repo: str) -> str:
    """``owner/name``, after checking that somebody is logged in who may write."""
    me = again(lambda: api.whoami())
    role = me.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise UserError(
            f"{repo}: the token of {me['name']} can only read; make one with write permission at "
            f"{api.endpoint}/settings/tokens"
        )
    return repo if "/" in repo else f"{me['name']}/{repo}"


def check_content(api: Any, repo: str, p: Parcel, force: bool) -> dict[str, str] | None:
    """Files of the revision, refused when they are somebody else's."""
    there = remote_files(api, repo, p.branch)
    if there is None or force or p.branch != "main" or not set(there) - OWN_FILES - {"README.md"}:
        return there
    if "card.json" in there:
        from huggingface_hub import hf_hub_download

        about = read_json(again(lambda: hf_hub_download(repo, "card.json", endpoint=api.endpoint)))
        name = read_json(p.folder / "card.json")["model"]["name"]
        if about.get("generator") == "duetto" and about["model"]["name"] == name:
            return there
        other = f"the model {about.get('model', {}).get('name')!r}"
    else:
        other = f"other content ({', '.join(sorted(set(there) - OWN_FILES)[:3])}, ...)"
    raise UserError(f"{repo}: exists with {other}; change release.hub_repo, or replace it with --force")


def show(p: Parcel, repo: str, difference: Difference, endpoint: str) -> None:
    size = sum((p.folder / path).stat().st_size for path in difference.upload)
    where = f"{endpoint}/{repo}" + (f"@{p.branch}" if p.branch != "main" else "")
    log(
        f"push: {p.label} -> {where}: {len(difference.upload)} files to send ({size / 1e6:.1f} MB), "
        f"{len(difference.unchanged)} unchanged, {len(difference.removed)} to remove"
    )
    marks = (("+", difference.added), ("~", difference.changed), ("=", difference.unchanged), ("-", difference.removed))
    for mark, paths in marks:
        for path in paths:
            log(f"  {mark} {path}")


def send(api: Any, repo: str, p: Parcel, difference: Difference, public: bool, force: bool) -> None:
    """Create, upload, verify, set the visibility, tag; in this order."""
    again(lambda: api.create_repo(repo, private=True, exist_ok=True))
    if p.branch != "main":
        again(lambda: api.create_branch(repo, branch=p.branch, exist_ok=True))
        difference = compare(p.folder, p.paths, remote_files(api, repo, p.branch))
    tags = {t.name: t.target_commit for t in again(lambda: api.list_repo_refs(repo)).tags}
    commit = upload(api, repo, p.folder, difference, f"{p.label}: {p.tag or p.branch}", p.branch)
    left = compare(p.folder, p.paths, remote_files(api, repo, p.branch))
    if not left.empty:
        raise UserError(
            f"{repo}: the Hub shows other files than were sent ({(left.upload + left.removed)[0]}); "
            "the revision is not tagged; run duetto push again"
        )
    if public:
        again(lambda: api.update_repo_settings(repo, private=False))
    if p.tag is not None:
        if tags.get(p.tag, commit) != commit:
            if not force:
                raise UserError(f"{repo}: tag {p.tag} exists for another revision; choose another --tag, or --force")
            again(lambda: api.delete_tag(repo, tag=p.tag))
        again(lambda: api.create_tag(repo, tag=p.tag, revision=commit, exist_ok=True))
    seen = "public" if public else "private, unless it was public before"
    log(f"push: {repo}@{p.tag or p.branch} is there ({seen})")


def collect(api: Any, title: str, repos: list[str], private: bool) -> None:
    """Group the repositories in one collection."""
    owner = repos[0].split("/")[0]
    found = again(lambda: api.create_collection(title, namespace=owner, private=private, exists_ok=True))
    for repo in repos:
        again(lambda repo=repo: api.add_collection_item(found.slug, item_id=repo, item_type="model", exists_ok=True))  # type: ignore[misc]
    log(f"push: collection {found.slug}: {len(repos)} models")
