"""Data sets of the Hub as sources: where they are once fetched, or how to stream them."""

import re
from dataclasses import dataclass
from typing import Any

from duetto.errors import UserError
from duetto.files import read_json
from duetto.run import Run

HUB_PATH = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w.-]+))?(?:/(?P<folder>.+?))?/?$"
)  # namespace/name[@revision][/folder]


@dataclass(frozen=True)
class HubPath:
    repo: str
    revision: str | None
    folder: str

    @property
    def url(self) -> str:
        """For fsspec: files are read over the network as they are needed."""
        at = f"@{self.revision}" if self.revision else ""
        return "/".join(x for x in (f"hf://datasets/{self.repo}{at}", self.folder) if x)


def parse(path: str) -> HubPath:
    """``HuggingFaceFW/fineweb@v1.4.0/sample/350BT`` -> repository, revision, folder.

    Raises:
        UserError: not of that form.
    """
    match = HUB_PATH.fullmatch(path)
    if not match:
        raise UserError(f"{path!r}: a hub source is namespace/name[@revision][/folder]")
    return HubPath(match["repo"], match["revision"], match["folder"] or "")


def fetched(run: Run, part: str, name: str) -> dict[str, Any] | None:
    """What ``fetch.json`` says of something that was brought whole: its commit, folder, files and bytes."""
    manifest = run.path("fetch.json")
    entry = read_json(manifest).get(part, {}).get(name) if manifest.exists() else None
    return entry if entry and "folder" in entry else None


def fetched_source(run: Run, name: str, path: str) -> dict[str, Any]:
    """The entry of a fetched source.

    Raises:
        UserError: it was not fetched to the end.
    """
    entry = fetched(run, "sources", name)
    if entry is None or entry["path"] != path:
        raise UserError(
            f"source {name}: {path} is not on this machine; run `duetto fetch --recipe {run.recipe.file}` where there "
            f"is internet, or set data.sources.{name}.stream=true and export HF_HUB_OFFLINE=0"
        )
    return entry
