"""A small Hugging Face Hub on 127.0.0.1, for the real `huggingface_hub` client to talk to.

Standard library only (and PyYAML, which the client brings). It keeps repositories in memory, as commits of files, and
speaks the part of the protocol that pushing and pulling models needs, over plain HTTP:

- small files travel inside the commit; large ones (`LARGE_SUFFIXES`, or over 10 MB) go beforehand to the large file
  storage, either by Git LFS (batch, PUT, verify) or by xet: the server then answers the token requests with a
  `local://` storage address, which makes `hf_xet` store into a folder instead of a remote service;
- downloads of large files are redirected to a second port, as the Hub redirects to its CDN.

`HubServer.requests` records what was asked, `HubServer.fault` makes chosen requests fail.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".onnx")
LARGE_BYTES = 10_000_000
REPO = r"(?P<repo>[^/]+/[^/]+)"
API = rf"/api/(?:models|datasets)/{REPO}"
JSON = dict[str, Any]


class HubError(Exception):
    """What the handler turns into an error response with the Hub's headers."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers


@dataclass(frozen=True)
class File:
    """One version of one file; `sha256` is set where the large file storage holds it, `xet` where xet does."""

    oid: str
    size: int
    data: bytes | None = None
    sha256: str | None = None
    xet: str | None = None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid

    def describe(self, path: str) -> JSON:
        info: JSON = {"type": "file", "path": path, "size": self.size, "oid": self.oid}
        if self.sha256:
            info["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        if self.xet:
            info["xetHash"] = self.xet
        return info


@dataclass(frozen=True)
class Commit:
    sha: str
    title: str
    parent: str | None
    files: dict[str, File]


@dataclass
class Repo:
    """A repository: its commits, and the branches, tags and pull requests that point at them."""

    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, files: dict[str, File], title: str, parent: str | None) -> Commit:
        listing = {path: version.etag for path, version in files.items()}
        sha = hashlib.sha1(json.dumps([listing, title, parent, len(self.commits)]).encode()).hexdigest()
        self.commits[sha] = Commit(sha, title, parent, files)
        (self.pulls if ref.startswith("refs/pr/") else self.branches)[ref] = sha
        return self.commits[sha]

    def at(self, revision: str) -> Commit:
        for refs in (self.branches, self.tags, self.pulls):
            if revision in refs:
                return self.commits[refs[revision]]
        if revision in self.commits:
            return self.commits[revision]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, revision: str) -> Iterator[Commit]:
        sha: str | None = self.at(revision).sha
        while sha:
            yield self.commits[sha]
            sha = self.commits[sha].parent


@dataclass
class Fault:
    """Make the next `times` matching requests fail: by `status`, or by hanging up after `after_bytes` of the body."""

    method: str
    path: re.Pattern[str]
    status: int | None
    after_bytes: int
    times: int
    kill: bool


class HubServer:
    """`with HubServer(folder) as hub:` serves at `hub.url`; `tokens` says whose token is whose."""

    def __init__(self, folder: Path, tokens: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.tokens = tokens or {"hf_alice": "alice", "hf_bob": "bob"}
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self.received: list[str] = []  # sha256 of each large file that was sent over LFS, repeats included
        self.cdn_saw_a_token = False
        self.mode = "xet"  # the client's, for tests to branch on; the server speaks both
        self.down = False
        self.lock = threading.RLock()
        self._faults: list[Fault] = []
        (folder / "lfs").mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> HubServer:
        self._servers = [_start(self, Handler), _start(self, CdnHandler)]
        self.url, self.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        return self

    def __exit__(self, *exc: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    # What tests set up and look at

    def fault(
        self,
        method: str,
        path: str,
        *,
        status: int | None = None,
        after_bytes: int = 0,
        times: int = 1,
        kill: bool = False,
    ) -> None:
        """Make matching requests fail; with `kill` every later connection is dropped too, until `revive`."""
        self._faults.append(Fault(method, re.compile(path), status, after_bytes, times, kill))

    def revive(self) -> None:
        self.down = False
        self._faults.clear()

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self._faults:
                if fault.times and fault.method == method and fault.path.search(path):
                    fault.times -= 1
                    self.down = self.down or fault.kill
                    return fault
        return None

    def create(self, repo: str, files: dict[str, bytes] | None = None, private: bool = False) -> str:
        """Create a repository as its web page would, and return the commit's hash."""
        if repo not in self.repos:
            self.repos[repo] = Repo(private)
            attributes = small_file(b"*.safetensors filter=lfs\n")
            self.repos[repo].commit("main", {".gitattributes": attributes}, "initial commit", None)
        return self.add(repo, files) if files else self.repos[repo].branches["main"]

    def add(self, repo: str, files: dict[str, bytes], title: str = "Add files", branch: str = "main") -> str:
        """Commit files as someone else would, past the protocol."""
        held = self.repos[repo]
        head = held.at(branch)
        new = {path: self._store(path, data) for path, data in files.items()}
        return held.commit(branch, {**head.files, **new}, title, head.sha).sha

    def files(self, repo: str, revision: str = "main") -> dict[str, File]:
        return dict(self.repos[repo].at(revision).files)

    def titles(self, repo: str, revision: str = "main") -> list[str]:
        return [commit.title for commit in self.repos[repo].history(revision)]

    def count(self, method: str, path: str) -> int:
        return sum(method == seen and re.search(path, where) is not None for seen, where in self.requests)

    @property
    def xet_folder(self) -> Path:
        return self.folder / "xet"

    def stored_bytes(self) -> int:
        """Bytes of large files held, by either storage."""
        places = [*(self.folder / "lfs").iterdir(), *self.xet_folder.glob("xet/xorbs/xorbs/*")]
        return sum(path.stat().st_size for path in places)

    # Storage

    def _store(self, path: str, data: bytes) -> File:
        if not is_large(path, len(data)):
            return small_file(data)
        sha = hashlib.sha256(data).hexdigest()
        (self.folder / "lfs" / sha).write_bytes(data)
        return large_file(sha, len(data))

    def find_large(self, sha: str, size: int | None) -> File:
        stored = self.folder / "lfs" / sha
        if stored.is_file():
            return large_file(sha, stored.stat().st_size)
        for shard in self.xet_folder.glob("xet/xorbs/shards/*.mdb"):
            if found := xet_files(shard.read_bytes()).get(sha):
                xet, length = found
                return large_file(sha, length, xet)
        raise HubError(400, f"LFS pointer pointed to a file that does not exist: {sha} ({size} bytes)")


def small_file(data: bytes) -> File:
    return File(git_oid(data), len(data), data)


def large_file(sha: str, size: int, xet: str | None = None) -> File:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {size}\n".encode()
    return File(git_oid(pointer), size, sha256=sha, xet=xet)


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(path: str, size: int) -> bool:
    return path.endswith(LARGE_SUFFIXES) or size > LARGE_BYTES


def xet_files(shard: bytes) -> dict[str, tuple[str, int]]:
    """Read a xet shard: sha256 of each file -> its xet hash and length.

    After a header of 48 bytes come records of 48 bytes: for each file one head (hash, flags, number of segments), its
    segments, as many verification records (flag bit 31) and one with the sha256 (flag bit 30). A hash of ones ends it.
    """

    def hex_of(raw: bytes) -> str:  # hashes are kept as four little-endian words
        return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))

    found, at = {}, 48
    while shard[at : at + 32] != b"\xff" * 32:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        segments = range(at + 48, at + 48 * (1 + count), 48)
        length = sum(struct.unpack_from("<I", shard, segment + 36)[0] for segment in segments)
        end = at + 48 * (1 + count * (2 if flags >> 31 & 1 else 1))
        if flags >> 30 & 1:
            found[hex_of(shard[end : end + 32])] = (hex_of(shard[at : at + 32]), length)
            end += 48
        at = end
    return found


def check_card(content: str) -> list[str]:
    """What is wrong with the metadata block of a README, as the Hub would say it."""
    match = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", content, re.DOTALL)
    if not match:
        return []
    try:
        data = yaml.safe_load(match.group(1))
    except yaml.YAMLError as error:
        return [f"YAML metadata is not valid: {error}"]
    if not isinstance(data, dict):
        return ["metadata must be a mapping"]
    kinds = {"license": str, "pipeline_tag": str, "library_name": str, "tags": list, "metrics": list}
    wrong = [
        f'"{key}" must be a {kind.__name__}'
        for key, kind in kinds.items()
        if not isinstance(data.get(key, kind()), kind)
    ]
    for entry in data.get("model-index", []):
        if not isinstance(entry.get("name"), str):
            wrong.append('"model-index[0].name" is required')
        for result in entry.get("results", []):
            for part, key in (("task", "type"), ("dataset", "type"), ("dataset", "name")):
                if not isinstance(result.get(part, {}).get(key), str):
                    wrong.append(f'"model-index[0].results[0].{part}.{key}" is required')
            if not all("type" in metric and "value" in metric for metric in result.get("metrics", [{}])):
                wrong.append('"model-index[0].results[0].metrics" need a type and a value')
    return wrong


def _start(hub: HubServer, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type(handler.__name__, (handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


class _BaseHandler(BaseHTTPRequestHandler):
    """Bodies, replies and faults; what to do with a request is in `routes`."""

    hub: HubServer
    routes: list[tuple[str, re.Pattern[str], Callable[..., None]]]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if self.hub.down:
            return self._hang_up()
        self.hub.requests.append((self.command, parts.path))
        if (fault := self.hub.take_fault(self.command, parts.path)) is not None and fault.status is None:
            self.rfile.read(fault.after_bytes)
            return self._hang_up()
        self.body = b"" if self.command in ("GET", "HEAD") else self._read_body()
        try:
            if fault is not None:
                raise HubError(fault.status or 500, "as the test wished")
            self._route(parts.path)
        except HubError as error:
            self._reply_error(error)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _route(self, path: str) -> None:
        for method, pattern, serve in self.routes:
            if method == self.command.replace("HEAD", "GET") and (match := pattern.fullmatch(path)):
                with self.hub.lock:
                    return serve(self, **{key: unquote(value or "") for key, value in match.groupdict().items()})
        raise HubError(404, f"no such endpoint: {self.command} {path}")

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def reply(self, data: bytes = b"", status: int = 200, **headers: str) -> None:
        """Send `data`, or the part of it that a Range header asks for. `A_B` in `headers` becomes `A-B`."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "") if status == 200 else None
        if wanted:
            start, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            headers["Content_Range"] = f"bytes {start}-{end}/{len(data)}"
            data, status = data[start : end + 1], 206
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def reply_json(self, data: Any, status: int = 200, **headers: str) -> None:
        self.reply(json.dumps(data).encode(), status, Content_Type="application/json", **headers)

    def _reply_error(self, error: HubError) -> None:
        headers = {"X_Error_Message": error.message, **error.headers}
        if error.code:
            headers["X_Error_Code"] = error.code
        self.reply_json({"error": error.message}, error.status, **headers)


def route(routes: list[Any], method: str, pattern: str) -> Callable[[Any], Any]:
    def add(serve: Any) -> Any:
        routes.append((method, re.compile(pattern), serve))
        return serve

    return add


class CdnHandler(_BaseHandler):
    """Where large files are read from and, by LFS, written to: addresses are secrets, so no token belongs here."""

    routes: list[Any] = []  # noqa: RUF012

    def _handle(self) -> None:
        self.hub.cdn_saw_a_token |= "authorization" in self.headers
        super()._handle()

    do_GET = do_HEAD = do_PUT = _handle

    @route(routes, "PUT", "/lfs/(?P<sha>[0-9a-f]{64})")
    def put(self, sha: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != sha:
            raise HubError(400, "the content does not have the announced sha256")
        (self.hub.folder / "lfs" / sha).write_bytes(self.body)
        self.hub.received.append(sha)
        self.reply()

    @route(routes, "GET", "/lfs/(?P<sha>[0-9a-f]{64})")
    def get(self, sha: str) -> None:
        stored = self.hub.folder / "lfs" / sha
        if not stored.is_file():
            raise HubError(501, "kept by xet only: this server has no bridge from xet to plain HTTP")
        self.reply(stored.read_bytes(), ETag=f'"{sha}"')


class Handler(_BaseHandler):
    """The Hub itself."""

    routes: list[Any] = []  # noqa: RUF012

    # Who may do what

    def user(self) -> str | None:
        """Name behind the request's token, `None` without one."""
        header = self.headers.get("authorization")
        if header is None:
            return None
        if header.removeprefix("Bearer ") not in self.hub.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[header.removeprefix("Bearer ")]

    def readable(self, repo: str) -> Repo:
        user, held = self.user(), self.hub.repos.get(repo)
        if held is None or (held.private and user != repo.split("/")[0]):
            raise HubError(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return held

    def writable(self, repo: str) -> Repo:
        held = self.readable(repo)
        if self.user() is None:
            raise HubError(401, "Invalid username or password.")
        if self.user() != repo.split("/")[0] and "create_pr" not in self.query:
            raise HubError(403, "Forbidden: you must use a write token with access to this repository")
        return held

    # Account and repositories

    @route(routes, "GET", "/api/whoami-v2")
    def whoami(self) -> None:
        if (name := self.user()) is None:
            raise HubError(401, "Invalid username or password.")
        access = {"accessToken": {"displayName": "test", "role": "write"}}
        self.reply_json({"type": "user", "name": name, "orgs": [], "auth": {"type": "access_token", **access}})

    @route(routes, "POST", "/api/repos/create")
    def create_repo(self) -> None:
        user, asked = self.user(), json.loads(self.body)
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if (asked.get("organization") or user) != user:
            raise HubError(403, f"You don't have the rights to create a model under {asked['organization']}")
        repo = f"{user}/{asked['name']}"
        answer = {"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo}
        if repo in self.hub.repos:
            return self.reply_json({"error": "You already created this model repo", **answer}, 409)
        self.hub.create(repo, private=asked.get("private") or asked.get("visibility") == "private")
        self.reply_json(answer)

    @route(routes, "GET", rf"{API}/auth-check(?P<write>/write)?")
    def auth_check(self, repo: str, write: str) -> None:
        (self.writable if write else self.readable)(repo)
        self.reply_json({})

    @route(routes, "POST", "/api/validate-yaml")
    def validate_yaml(self) -> None:
        wrong = [{"message": message} for message in check_card(json.loads(self.body)["content"])]
        self.reply_json({"errors": wrong, "warnings": []}, 400 if wrong else 200)

    # Reading

    @route(routes, "GET", rf"{API}(/revision/(?P<revision>[^/]+))?")
    def model_info(self, repo: str, revision: str) -> None:
        held = self.readable(repo)
        commit = held.at(revision or "main")
        siblings: list[JSON] = [{"rfilename": path} for path in commit.files]
        answer = {"_id": repo, "id": repo, "modelId": repo, "author": repo.split("/")[0], "sha": commit.sha}
        self.reply_json({**answer, "private": held.private, "siblings": siblings, "tags": [], "downloads": 0})

    @route(routes, "GET", rf"{API}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?")
    def tree(self, repo: str, revision: str, path: str) -> None:
        files = self.readable(repo).at(revision).files
        inside = {name: version for name, version in files.items() if not path or name.startswith(f"{path}/")}
        if path and not inside:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        depth = path.count("/") + 1 if path else 0
        folders = {"/".join(name.split("/")[: depth + 1]) for name in inside if name.count("/") > depth}
        deep = self.query.get("recursive", "").lower() in ("1", "true")
        listing = [v.describe(name) for name, v in inside.items() if deep or name.count("/") == depth]
        listing += [{"type": "directory", "path": name, "oid": git_oid(name.encode()), "size": 0} for name in folders]
        self.reply_json(listing)

    @route(routes, "POST", rf"{API}/paths-info/(?P<revision>[^/]+)")
    def paths_info(self, repo: str, revision: str) -> None:
        files = self.readable(repo).at(revision).files
        paths = parse_qs(self.body.decode()).get("paths", [])
        self.reply_json([files[path].describe(path) for path in paths if path in files])

    @route(routes, "GET", rf"(?:/datasets)?/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def resolve(self, repo: str, revision: str, path: str) -> None:
        commit = self.readable(repo).at(revision)
        headers = {"X_Repo_Commit": commit.sha}
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", **headers)
        version = commit.files[path]
        headers |= {"ETag": f'"{version.etag}"', "Accept_Ranges": "bytes"}
        if version.data is not None:
            return self.reply(version.data, **headers)
        headers |= {"X_Linked_Etag": f'"{version.sha256}"', "X_Linked_Size": str(version.size)}
        if version.xet:
            tokens = f"{self.hub.url}/api/models/{repo}/xet-read-token/{commit.sha}"
            headers |= {"X_Xet_Hash": version.xet, "Link": f'<{tokens}>; rel="xet-auth"'}
        self.reply(b"", 302, Location=f"{self.hub.cdn_url}/lfs/{version.sha256}", **headers)

    @route(routes, "GET", rf"{API}/commits/(?P<revision>[^/]+)")
    def commits(self, repo: str, revision: str) -> None:
        entry = {"authors": [], "message": "", "date": "2026-01-01T00:00:00.000Z"}
        history = self.readable(repo).history(revision)
        self.reply_json([{**entry, "id": commit.sha, "title": commit.title} for commit in history])

    # Branches and tags

    @route(routes, "GET", rf"{API}/refs")
    def refs(self, repo: str) -> None:
        held = self.readable(repo)
        listed = {"branches": (held.branches, "refs/heads/"), "tags": (held.tags, "refs/tags/")}
        listed |= {"converts": ({}, ""), "pullRequests": (held.pulls, "")}
        self.reply_json(
            {
                kind: [{"name": name, "ref": prefix + name, "targetCommit": sha} for name, sha in refs.items()]
                for kind, (refs, prefix) in listed.items()
            }
        )

    @route(routes, "POST", rf"{API}/branch/(?P<name>[^/]+)")
    def create_branch(self, repo: str, name: str) -> None:
        held = self.writable(repo)
        start = held.at(json.loads(self.body or b"{}").get("startingPoint") or "main")
        if name in held.branches:
            raise HubError(409, f"Reference refs/heads/{name} already exists")
        held.branches[name] = start.sha
        self.reply_json({})

    @route(routes, "DELETE", rf"{API}/branch/(?P<name>[^/]+)")
    def delete_branch(self, repo: str, name: str) -> None:
        if self.writable(repo).branches.pop(name, None) is None:
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        self.reply_json({})

    @route(routes, "POST", rf"{API}/tag/(?P<revision>[^/]+)")
    def create_tag(self, repo: str, revision: str) -> None:
        held, tag = self.writable(repo), json.loads(self.body)["tag"]
        if tag in held.tags:
            raise HubError(409, f"Reference refs/tags/{tag} already exists")
        held.tags[tag] = held.at(revision).sha
        self.reply_json({})

    @route(routes, "DELETE", rf"{API}/tag/(?P<name>[^/]+)")
    def delete_tag(self, repo: str, name: str) -> None:
        if self.writable(repo).tags.pop(name, None) is None:
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        self.reply_json({})

    # Writing

    @route(routes, "POST", rf"{API}/preupload/(?P<revision>[^/]+)")
    def preupload(self, repo: str, revision: str) -> None:
        files = self.writable(repo).at(revision).files
        answer = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            mode = "lfs" if is_large(path, asked["size"]) else "regular"
            entry = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            answer.append({**entry, "oid": files[path].etag} if path in files else entry)
        self.reply_json({"files": answer})

    @route(routes, "POST", rf"/{REPO}\.git/info/lfs/objects/batch")
    def lfs_batch(self, repo: str) -> None:
        self.readable(repo)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            if not (self.hub.folder / "lfs" / asked["oid"]).is_file():
                upload = {"href": f"{self.hub.cdn_url}/lfs/{asked['oid']}"}
                verify = {"href": f"{self.hub.url}/api/models/{repo}/lfs-verify"}
                asked = {**asked, "actions": {"upload": upload, "verify": verify}}
            objects.append(asked)
        self.reply_json({"transfer": "basic", "objects": objects})

    @route(routes, "POST", rf"{API}/lfs-verify")
    def lfs_verify(self, repo: str) -> None:
        self.readable(repo)
        asked = json.loads(self.body)
        if self.hub.find_large(asked["oid"], asked["size"]).size != asked["size"]:
            raise HubError(400, "the stored file has another size")
        self.reply_json({})

    @route(routes, "GET", rf"{API}/xet-(?P<access>read|write)-token/(?P<revision>[^/]+)")
    def xet_token(self, repo: str, access: str, revision: str) -> None:
        (self.writable if access == "write" else self.readable)(repo)
        storage, token, expiry = f"local://{self.hub.xet_folder}", "xet", int(time.time()) + 3600
        headers = {"X_Xet_Cas_Url": storage, "X_Xet_Access_Token": token, "X_Xet_Token_Expiration": str(expiry)}
        self.reply_json({"casUrl": storage, "accessToken": token, "exp": expiry}, **headers)

    @route(routes, "POST", rf"{API}/commit/(?P<revision>[^/]+)")
    def commit(self, repo: str, revision: str) -> None:
        held = self.writable(repo)
        head = held.at(revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit", head.sha) != head.sha:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for line in lines[1:]:
            self._apply(line["key"], line["value"], files)
        pull = f"refs/pr/{len(held.pulls) + 1}" if "create_pr" in self.query else None
        made = held.commit(pull or revision, files, header["summary"], head.sha)
        answer = {"success": True, "commitOid": made.sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{made.sha}"}
        if pull:
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo}/discussions/{pull.split('/')[-1]}"
        self.reply_json(answer)

    def _apply(self, key: str, value: JSON, files: dict[str, File]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = small_file(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            files[path] = self.hub.find_large(value["oid"], value.get("size"))
        elif key in ("deletedFile", "deletedFolder"):
            gone = [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]
            if not gone:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise HubError(400, f"unknown operation {key}")
