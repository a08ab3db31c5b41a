"""Verb ``push``: upload the release folders to the Hub, private unless ``--public``.

    duetto push --dry-run               # what would be sent, and how it differs from what is there
    duetto push                         # private repositories, one commit each, tagged last
    duetto push --public --tag v1.0

The endpoint is ``$HF_ENDPOINT``, the token ``$HF_TOKEN`` or the Hub's own login. Nothing is uploaded before every
gate is passed, and the tag is set only after the Hub shows exactly the local files.
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
from release.config import KINDS, ModelKind
from release.gates import check_release
from release.hub import OWN_FILES, Difference, again, clear_errors, client, compare, remote_files, upload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--public", action="store_true", help="make the repositories public (default: private)")
    parser.add_argument("--dry-run", action="store_true", help="show files and differences, change nothing")
    parser.add_argument("--tag", help="name of the tag (default: r- and a hash of the files)")
    parser.add_argument("--models", nargs="+", choices=KINDS, metavar="MODEL", help="base, instruct (default: all)")


@dataclass(frozen=True)
class Parcel:
    """One release folder and where it goes."""

    kind: ModelKind
    folder: Path
    repo: str
    paths: list[str]
    tag: str


def run(run: Run, args: argparse.Namespace) -> None:
    """Check everything, then upload model by model.

    Raises:
        UserError: a gate refuses, or the Hub does; nothing is then tagged.
    """
    kinds: list[ModelKind] = args.models or [k for k in KINDS if run.path("release", k).is_dir()]
    card = run.require("card")
    parcels = [parcel(run, kind, card, args.tag) for kind in kinds]
    if not parcels:
        raise UserError(f"{run.path('release')}: holds no release; run: duetto card --recipe {run.recipe.file}")
    for p in parcels:
        check_release(run, p.folder, p.kind, p.paths)
    api = client()
    repos = {}
    for p in parcels:
        with clear_errors(api, p.repo):
            full = owned_name(api, p.repo)
            difference = compare(p.folder, p.paths, check_content(api, full, p, args.force))
            show(p, full, difference, api.endpoint)
            if args.dry_run:
                continue
            repos[p.kind] = send(api, full, p, difference, public=args.public, force=args.force)
    if args.dry_run:
        log("push: dry run, nothing was changed")


def parcel(run: Run, kind: ModelKind, card: dict[str, Any], tag: str | None) -> Parcel:
    folder = run.path("release", kind)
    repo = run.recipe.release.repo_of(kind)
    if repo is None:
        raise UserError(f"{run.recipe.file}: release.hub_repo is not set for {kind}; give it as owner/name")
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    known = {
        name.removeprefix(f"release/{kind}/"): entry["sha256"]
        for name, entry in card["outputs"].items()
        if name.startswith(f"release/{kind}/")
    }
    missing = sorted(set(known) - set(paths))
    if missing or not known:
        raise UserError(f"{folder}: {missing[0] if missing else 'the model'} is missing; run: duetto card --force")
    return Parcel(kind, folder, repo, paths, tag or "r-" + sha256_json(known)[:12])


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
    """Files of the repository, refused when they are somebody else's."""
    there = remote_files(api, repo)
    if there is None or force or not set(there) - OWN_FILES - {"README.md"}:
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
    log(
        f"push: {p.kind} -> {endpoint}/{repo}: {len(difference.upload)} files to send ({size / 1e6:.1f} MB), "
        f"{len(difference.unchanged)} unchanged, {len(difference.removed)} to remove, tag {p.tag}"
    )
    marks = (("+", difference.added), ("~", difference.changed), ("=", difference.unchanged), ("-", difference.removed))
    for mark, paths in marks:
        for path in paths:
            log(f"  {mark} {path}")


def send(api: Any, repo: str, p: Parcel, difference: Difference, public: bool, force: bool) -> str:
    """Create, upload, verify, set the visibility, tag; in this order."""
    again(lambda: api.create_repo(repo, private=True, exist_ok=True))
    tags = {t.name: t.target_commit for t in again(lambda: api.list_repo_refs(repo)).tags}
    commit = upload(api, repo, p.folder, difference, f"{p.kind}: {p.tag}")
    left = compare(p.folder, p.paths, remote_files(api, repo))
    if not left.empty:
        raise UserError(
            f"{repo}: the Hub shows other files than were sent ({(left.upload + left.removed)[0]}); "
            "the revision is not tagged; run duetto push again"
        )
    if public:
        again(lambda: api.update_repo_settings(repo, private=False))
    if tags.get(p.tag, commit) != commit:
        if not force:
            raise UserError(f"{repo}: tag {p.tag} exists for another revision; choose another --tag, or --force")
        again(lambda: api.delete_tag(repo, tag=p.tag))
    again(lambda: api.create_tag(repo, tag=p.tag, revision=commit, exist_ok=True))
    log(f"push: {repo}@{p.tag} {'public' if public else 'private unless it was public before'}")
    return repo
