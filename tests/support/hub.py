"""A Hugging Face Hub on loopback for the tests: the real huggingface_hub client talks to it over HTTP.

    with LocalHub(tmp_path) as hub:
        os.environ.update(HF_ENDPOINT=hub.url, HF_TOKEN=hub.write_token)

Implements what a model repository needs (create, settings, preupload, LFS basic transfer, commits, branches, tags,
trees, downloads with ranges, collections) with the Hub's own status codes. Contents live in files below the given
folder and are streamed in both directions, so memory does not grow with what is pushed. `drop()` cuts connections at
a chosen point; `requests` records what was asked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import socket
import struct
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.parquet", "*.arrow", "*.gguf", "*.zip", "*.png")
REGULAR_LIMIT = 10 << 20
DATE = "2026-01-01T00:00:00.000Z"
CHUNK = 1 << 20


class Refused(Exception):
    """An answer other than 2xx: status and the Hub's error code."""

    def __init__(self, status: int, code: str, **body: Any):
        super().__init__(code)
        self.status, self.code, self.body = status, code, body


class Dropped(Exception):
    """The connection was cut on purpose."""


@dataclass
class Entry:
    """One file of a commit."""

    sha256: str
    git_oid: str
    size: int
    lfs: bool


@dataclass
class Repo:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Entry]] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, Entry], summary: str) -> str:
        identity = json.dumps([sorted((k, v.sha256) for k, v in files.items()), summary, len(self.log)])
        sha = hashlib.sha1(identity.encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        self.log.append((sha, summary))
        return sha

    def resolve(self, revision: str) -> str:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Refused(404, "RevisionNotFound")
        return sha


@dataclass
class Fault:
    """Cut the connection of requests that match, after so many body bytes (None: once answered is due)."""

    method: str
    path: re.Pattern[str]
    after_bytes: int | None
    times: int


class LocalHub:
    """The server and its state; use as a context manager."""

    write_token = "hf_" + "w" * 34
    read_token = "hf_" + "r" * 34
    user = "tester"

    def __init__(self, folder: Path):
        self.blobs = Path(folder) / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.uploaded: list[tuple[str, int]] = []
        """(sha256, bytes) of every large file that arrived whole."""
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> LocalHub:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    # What tests ask

    def drop(self, method: str, path: str, after_bytes: int | None = 0, times: int = 1) -> None:
        """Cut the next ``times`` connections whose request matches.

        Args:
            after_bytes: body bytes to read first; None does the work and cuts before the answer is sent.
        """
        self.faults.append(Fault(method, re.compile(path), after_bytes, times))

    def files(self, repo_id: str, revision: str = "main") -> dict[str, Entry]:
        repo = self.repos["model", repo_id]
        return repo.commits[repo.resolve(revision)]

    def content(self, repo_id: str, path: str, revision: str = "main") -> bytes:
        return self.blob(self.files(repo_id, revision)[path].sha256).read_bytes()

    def seed(self, repo_id: str, files: dict[str, bytes], private: bool = False) -> None:
        """Make a repository as somebody else would have left it."""
        repo = self.repos["model", repo_id] = Repo(private=private)
        repo.commit("main", {k: self.store(v) for k, v in files.items()}, "seed")

    # Storage

    def blob(self, sha256: str) -> Path:
        return self.blobs / sha256

    def store(self, data: bytes) -> Entry:
        sha256 = hashlib.sha256(data).hexdigest()
        self.blob(sha256).write_bytes(data)
        git_oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return Entry(sha256, git_oid, len(data), lfs=False)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the tests read `hub.requests`."""

    # Plumbing

    def _chunks(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):  # create_commit streams its ndjson
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            data = self.rfile.read(min(CHUNK, left))
            if not data:
                raise Dropped
            left -= len(data)
            yield data

    def body(self) -> Iterator[bytes]:
        """The request body in pieces; raises Dropped where a fault says so."""
        limit = self.fault.after_bytes if self.fault else None
        seen = 0
        for data in self._chunks():
            seen += len(data)
            if limit is not None and seen >= limit:
                raise Dropped
            self.unread = False
            yield data
        self.unread = False

    def answer(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode() if body is not None else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def cut(self) -> None:
        """Reset the connection (linger 0), as a failing network does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path).rstrip("/")
        self.fault = None
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
            for fault in self.hub.faults:
                if fault.times and fault.method == self.command and fault.path.search(path):
                    fault.times -= 1
                    self.fault = fault
                    break
        try:
            if self.fault and self.fault.after_bytes == 0:
                raise Dropped
            # Bodies of storage requests are streamed by their handler, outside the lock.
            if match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
                result = self.storage(match[1])
            elif match := re.fullmatch(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self.download(match[1] or "model", match[2], match[3], match[4])
                return
            else:
                data = b"".join(self.body())
                with self.hub.lock:
                    result = self.route(path, parse_qs(url.query), data)
            if self.fault:
                raise Dropped
            self.answer(*result)
        except Refused as refused:
            for _ in self._chunks() if self.command == "PUT" and "/lfs/" in path else ():
                pass
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.code}
            self.answer(refused.status, {"error": refused.code, **refused.body}, headers)
        except (Dropped, ConnectionError):
            self.cut()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    # Rights

    def token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def need_write(self) -> None:
        if self.token() is None:
            raise Refused(401, "Unauthorized")
        if self.token() != self.hub.write_token:
            raise Refused(403, "Forbidden: this token has no write permission")

    def repo(self, kind: str, repo_id: str) -> Repo:
        repo = self.hub.repos.get((kind, repo_id))
        known = self.token() in (self.hub.write_token, self.hub.read_token)
        if repo is None or (repo.private and not known):
            # The Hub does not tell a stranger whether a private repository exists.
            raise Refused(404 if known else 401, "RepoNotFound")
        return repo

    # Content

    def storage(self, oid: str) -> tuple[int, Any]:
        target = self.hub.blob(oid)
        if self.command == "POST":
            b"".join(self.body())
            return (200, {}) if target.exists() else (404, {})
        partial = target.with_suffix(f".{uuid.uuid4().hex}")
        digest, size = hashlib.sha256(), 0
        try:
            with partial.open("wb") as file:
                for data in self.body():
                    file.write(data)
                    digest.update(data)
                    size += len(data)
            if digest.hexdigest() != oid:
                raise Refused(400, "BadOid")
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)
        with self.hub.lock:
            self.hub.uploaded.append((oid, size))
        return 200, {}

    def download(self, kind: str, repo_id: str, revision: str, path: str) -> None:
        with self.hub.lock:
            repo = self.repo(kind, repo_id)
            sha = repo.resolve(revision)
            entry = repo.commits[sha].get(path)
        if entry is None:
            return self.answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        headers = {"X-Repo-Commit": sha, "ETag": f'"{entry.sha256}"', "Accept-Ranges": "bytes"}
        if entry.lfs:
            headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
        start, stop, status = 0, entry.size, 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop, status = int(wanted[1]), min(int(wanted[2] or entry.size - 1) + 1, entry.size), 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{entry.size}"
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        with self.hub.blob(entry.sha256).open("rb") as file:
            file.seek(start)
            if self.fault and self.fault.after_bytes is not None:
                self.wfile.write(file.read(self.fault.after_bytes))
                raise Dropped
            if (start, stop) == (0, entry.size):
                shutil.copyfileobj(file, self.wfile, CHUNK)
            else:
                self.wfile.write(file.read(stop - start))

    # The API

    def route(self, path: str, query: dict[str, list[str]], data: bytes) -> tuple[int, Any]:
        if path == "/api/whoami-v2":
            if self.token() not in (self.hub.write_token, self.hub.read_token):
                raise Refused(401, "Unauthorized")
            role = "write" if self.token() == self.hub.write_token else "read"
            access = {"displayName": "test", "role": role}
            name = self.hub.user
            return 200, {
                "type": "user",
                "name": name,
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": access},
            }
        if path == "/api/repos/create":
            return self.create(json.loads(data))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.startswith("/api/collections"):
            return self.collection(path, json.loads(data or b"{}"))
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self.need_write()
            return 200, {"transfer": "basic", "objects": [self.lfs_object(o) for o in json.loads(data)["objects"]]}
        verbs = "revision|tree|paths-info|preupload|commit|commits|refs|branch|tag|settings|auth-check"
        pattern = rf"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/({verbs})(?:/([^/]+))?(?:/(.+))?)?"
        match = re.fullmatch(pattern, path)
        if not match:
            raise Refused(404, "NotFound")
        repo = self.repo(match[1], match[2])
        verb, revision, below = match[3] or "revision", match[4] or "main", match[5] or ""
        if verb in ("branch", "tag", "settings"):
            self.need_write()
            return self.manage(repo, verb, match[4] or "", json.loads(data or b"{}"))
        if verb == "refs":
            refs = {"branches": repo.branches, "tags": repo.tags}
            kinds = {"branches": "heads", "tags": "tags"}
            listed = {
                k: [{"name": n, "ref": f"refs/{kinds[k]}/{n}", "targetCommit": c} for n, c in refs[k].items()]
                for k in refs
            }
            return 200, {**listed, "converts": []}
        if verb == "preupload":
            self.need_write()
            repo.resolve(revision)
            return 200, {"files": [self.upload_mode(f) for f in json.loads(data)["files"]]}
        sha = repo.resolve(revision)
        files = repo.commits[sha]
        if verb == "commit":
            self.need_write()
            return self.commit(repo, match[2], revision, sha, data)
        if verb == "commits":
            entries = [{"id": s, "title": t, "message": "", "authors": [], "date": DATE} for s, t in reversed(repo.log)]
            return 200, entries
        if verb == "paths-info":
            paths = json.loads(data)["paths"] if data[:1] == b"{" else parse_qs(data.decode()).get("paths", [])
            return 200, [self.entry(p, files[p]) for p in paths if p in files]
        if verb == "tree":
            return 200, self.tree(files, below, query.get("recursive", ["false"])[0].lower() in ("true", "1"))
        return 200, self.info(repo, match[2], sha, files)

    def create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        self.need_write()
        kind, name = wanted.get("type") or "model", wanted["name"]
        repo_id = f"{wanted.get('organization') or self.hub.user}/{name}"
        if not re.fullmatch(r"[A-Za-z0-9][\w.\-]{0,95}", name) or "--" in name or ".." in name:
            raise Refused(400, "InvalidRepoName")
        if wanted.get("organization") not in (None, self.hub.user):
            raise Refused(
                403, f"Forbidden: you don't have the rights to create a model under {repo_id.split('/')[0]!r}"
            )
        url = f"{self.hub.url}/{repo_id}"
        if (kind, repo_id) in self.hub.repos:
            raise Refused(409, "RepoExists", url=url)
        private = wanted.get("private") or wanted.get("visibility") == "private"
        repo = self.hub.repos[kind, repo_id] = Repo(private=bool(private))
        repo.commit("main", {".gitattributes": self.hub.store(b"*.safetensors filter=lfs\n")}, "initial commit")
        return 200, {"url": url, "name": repo_id, "id": repo_id}

    def lfs_object(self, wanted: dict[str, Any]) -> dict[str, Any]:
        here = self.hub.blob(wanted["oid"]).exists()
        href = {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}
        return wanted if here else {**wanted, "actions": {"upload": href, "verify": href}}

    def upload_mode(self, wanted: dict[str, Any]) -> dict[str, Any]:
        path, size = wanted["path"], wanted["size"]
        large = size > REGULAR_LIMIT or any(fnmatch(path, pattern) for pattern in LFS_PATTERNS)
        return {"path": path, "shouldIgnore": False, "uploadMode": "lfs" if large else "regular"}

    def commit(self, repo: Repo, repo_id: str, branch: str, parent: str, data: bytes) -> tuple[int, Any]:
        if branch not in repo.branches:
            raise Refused(404, "RevisionNotFound")
        files, summary = dict(repo.commits[parent]), ""
        for line in filter(None, data.splitlines()):
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                summary = value["summary"]
                if value.get("parentCommit", parent) != parent:
                    raise Refused(412, "PreconditionFailed")
            elif key == "file":
                files[value["path"]] = self.hub.store(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if not self.hub.blob(value["oid"]).exists():
                    raise Refused(400, "LfsMissing")
                files[value["path"]] = Entry(value["oid"], value["oid"][:40], value["size"], lfs=True)
            elif key == "deletedFile":
                files.pop(value["path"], None)
            elif key == "deletedFolder":
                files = {k: v for k, v in files.items() if not k.startswith(value["path"].rstrip("/") + "/")}
        sha = repo.commit(branch, files, summary)
        url = f"{self.hub.url}/{repo_id}/commit/{sha}"
        return 200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""}

    def manage(self, repo: Repo, verb: str, name: str, wanted: dict[str, Any]) -> tuple[int, Any]:
        if verb == "settings":
            if "visibility" in wanted or "private" in wanted:
                repo.private = wanted.get("private", wanted.get("visibility") == "private")
            return 200, {}
        refs = repo.branches if verb == "branch" else repo.tags
        if self.command == "DELETE":
            if refs.pop(name, None) is None:
                raise Refused(404, "RevisionNotFound")
            return 200, {}
        # POST .../branch/NAME {"startingPoint": REV} and .../tag/REV {"tag": NAME}
        new, start = (name, wanted.get("startingPoint", "main")) if verb == "branch" else (wanted["tag"], name)
        if new in refs:
            raise Refused(409, "RefExists")
        refs[new] = repo.resolve(start)
        return 201, {}

    def entry(self, path: str, entry: Entry) -> dict[str, Any]:
        listed = {"type": "file", "path": path, "oid": entry.git_oid, "size": entry.size}
        if entry.lfs:
            listed["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": 134}
        return listed

    def tree(self, files: dict[str, Entry], below: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = below + "/" if below else ""
        inside = {k: v for k, v in sorted(files.items()) if k.startswith(prefix)}
        if below and not inside:
            raise Refused(404, "EntryNotFound")
        folders = {
            prefix + "/".join(k[len(prefix) :].split("/")[:i]) for k in inside for i in range(1, k.count("/") + 1)
        }
        folders = {f for f in folders if f not in inside and f.rstrip("/") != below}
        if not recursive:
            inside = {k: v for k, v in inside.items() if "/" not in k[len(prefix) :]}
            folders = {f for f in folders if "/" not in f[len(prefix) :]}
        listed = [{"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in sorted(folders)]
        return listed + [self.entry(k, v) for k, v in inside.items()]

    def info(self, repo: Repo, repo_id: str, sha: str, files: dict[str, Entry]) -> dict[str, Any]:
        siblings = []
        for path, entry in sorted(files.items()):
            sibling: dict[str, Any] = {"rfilename": path, "size": entry.size, "blobId": entry.git_oid}
            if entry.lfs:
                sibling["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": 134}
            siblings.append(sibling)
        about = {"_id": "0" * 24, "id": repo_id, "modelId": repo_id, "author": repo_id.split("/")[0], "sha": sha}
        state = {"private": repo.private, "disabled": False, "gated": False, "downloads": 0, "likes": 0}
        return {**about, **state, "tags": [], "siblings": siblings, "createdAt": DATE, "lastModified": DATE}

    def collection(self, path: str, wanted: dict[str, Any]) -> tuple[int, Any]:
        if self.command == "GET":
            found = self.hub.collections.get(path.removeprefix("/api/collections/"))
            if found is None:
                raise Refused(404, "CollectionNotFound")
            return 200, found
        self.need_write()
        if path == "/api/collections":
            slug = f"{wanted['namespace']}/{re.sub(r'[^a-z0-9]+', '-', wanted['title'].lower())}-" + "0" * 24
            if slug in self.hub.collections:
                raise Refused(409, "CollectionExists", slug=slug)
            owner = {"type": "user", "name": wanted["namespace"]}
            self.hub.collections[slug] = {
                "slug": slug,
                "title": wanted["title"],
                "owner": owner,
                "items": [],
                "lastUpdated": DATE,
                "position": 0,
                "private": wanted.get("private", False),
                "theme": "blue",
                "upvotes": 0,
                "description": wanted.get("description"),
            }
            return 200, self.hub.collections[slug]
        found = self.hub.collections[path.removeprefix("/api/collections/").removesuffix("/items")]
        item = wanted["item"]
        if item["id"] in [i["id"] for i in found["items"]]:
            raise Refused(409, "ItemExists")
        self.repo(item["type"], item["id"])
        place = len(found["items"])
        note = {"text": wanted["note"]} if wanted.get("note") else None
        found["items"].append({"_id": f"{place:024d}", **item, "position": place, "note": note})
        return 200, found
