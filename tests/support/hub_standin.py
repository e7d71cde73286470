"""A stand-in for the Hub on a real socket: the API that publishing and downloading use.

It stores repositories in memory, commit by commit, checks tokens, and fails on request: with a
status, by closing the connection in the middle of a request, or by closing it after the work is
done and before the response.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_of_the_standin"
LARGE = (".safetensors", ".onnx")
"""Suffixes that the Hub's .gitattributes stores in LFS."""


@dataclass
class Repository:
    private: bool
    commits: list[tuple[str, str, dict[str, bytes]]] = field(default_factory=list)
    """Hash, message and files of each commit on main, oldest first."""
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, message: str, files: dict[str, bytes]) -> str:
        parts = [f"{len(self.commits)}", message, *(f"{n}{len(d)}" for n, d in files.items())]
        oid = hashlib.sha1("\n".join(parts).encode()).hexdigest()
        self.commits.append((oid, message, files))
        return oid

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][2]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        oid = self.head if revision == "main" else self.tags.get(revision, revision)
        return next(((name, files) for name, _, files in self.commits if name == oid), None)


@dataclass
class Fault:
    """A failure instead of a response, for the next `times` matching requests."""

    method: str
    path: str
    kind: str | int
    """A status, `cut` (half the request is read) or `lost` (all is done, no response)."""
    times: int = 1


class Hub:
    """The state of the stand-in, and the requests it received."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self.lfs = True

    def fail(self, method: str, path: str, kind: str | int, times: int = 1) -> None:
        self.faults.append(Fault(method, path, kind, times))

    def fault_for(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None

    def asked(self, method: str, path: str) -> int:
        """Count the matching requests."""
        return sum(
            one.startswith(f"{method} ") and bool(re.search(path, one)) for one in self.requests
        )

    def environment(self, home: Any, *, token: str | None = TOKEN) -> dict[str, str]:
        """Environment variables with which a process uses the stand-in only."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(home),
            "HF_TOKEN": token or "",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


class Response(Exception):
    def __init__(self, status: int, body: Any = None, **headers: str) -> None:
        self.status, self.body, self.headers = status, body, headers


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: Any) -> None:
        pass

    def handle_any(self) -> None:
        hub: Hub = self.server.hub
        path = urlsplit(self.path).path
        length = int(self.headers.get("Content-Length") or 0)
        hub.requests.append(f"{self.command} {unquote(path)}")
        fault = hub.fault_for(self.command, unquote(path))
        if fault and fault.kind == "cut":
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        try:
            if fault and isinstance(fault.kind, int):
                raise Response(fault.kind, {"error": f"requested failure {fault.kind}"})
            with hub.lock:
                response = self.route(hub, [unquote(part) for part in path[1:].split("/")], body)
        except Response as raised:
            response = raised
        if fault and fault.kind == "lost":
            self.close_connection = True
            return
        data = response.body
        if not isinstance(data, bytes):
            data = json.dumps(data if data is not None else {}).encode()
            response.headers.setdefault("Content-Type", "application/json")
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_HEAD = handle_any

    def route(self, hub: Hub, parts: list[str], body: bytes) -> Response:
        match [self.command, *parts]:
            case ["POST", "api", "repos", "create"]:
                return self.create(hub, json.loads(body))
            case ["POST", "api", "validate-yaml"]:
                return self.validate(json.loads(body)["content"])
            case ["PUT", "lfs", digest]:
                if hashlib.sha256(body).hexdigest() != digest:
                    raise Response(400, {"error": "wrong digest"})
                hub.objects[digest] = body
                return Response(200)
            case ["POST", owner, name, "info", "lfs", "objects", "batch"]:
                self.repository(hub, f"{owner}/{name.removesuffix('.git')}")
                return self.batch(hub, json.loads(body)["objects"])
            case ["GET", "api", "models", owner, name, *rest]:
                return self.look(self.repository(hub, f"{owner}/{name}"), f"{owner}/{name}", rest)
            case ["POST", "api", "models", owner, name, verb, revision]:
                self.must_write()
                repository = self.repository(hub, f"{owner}/{name}")
                handlers: dict[str, Callable[..., Response]] = {
                    "preupload": self.preupload,
                    "commit": self.commit,
                    "tag": self.tag,
                }
                return handlers[verb](hub, repository, revision, body)
            case ["GET" | "HEAD", owner, name, "resolve", revision, *file]:
                repository = self.repository(hub, f"{owner}/{name}")
                return self.resolve(repository, revision, "/".join(file))
        raise Response(404, {"error": f"the stand-in has no {self.command} {self.path}"})

    def must_write(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Response(401, {"error": "Invalid username or password."})

    def repository(self, hub: Hub, name: str) -> Repository:
        repository = hub.repositories.get(name)
        if repository is None:
            raise Response(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if repository.private:
            self.must_write()
        return repository

    def create(self, hub: Hub, wanted: dict[str, Any]) -> Response:
        self.must_write()
        name = f"{wanted['organization'] or 'somebody'}/{wanted['name']}"
        url = f"{hub.url}/{name}"
        if name in hub.repositories:
            raise Response(409, {"error": "You already created this model repo", "url": url})
        repository = Repository(private=wanted.get("visibility") == "private")
        repository.commit("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        hub.repositories[name] = repository
        return Response(200, {"url": url})

    def validate(self, content: str) -> Response:
        match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            facts = yaml.safe_load(match[1]) if match else None
        except yaml.YAMLError as error:
            raise Response(400, {"errors": [{"message": str(error)}], "warnings": []}) from error
        if not isinstance(facts, dict):
            raise Response(400, {"errors": [{"message": "no metadata"}], "warnings": []})
        return Response(200, {"errors": [], "warnings": []})

    def batch(self, hub: Hub, objects: list[dict[str, Any]]) -> Response:
        self.must_write()
        responses: list[dict[str, Any]] = []
        for one in objects:
            responses.append(dict(one))
            if one["oid"] not in hub.objects:  # objects already there are not uploaded again
                href = f"{hub.url}/lfs/{one['oid']}"
                responses[-1]["actions"] = {"upload": {"href": href, "header": {}}}
        return Response(200, {"transfer": "basic", "objects": responses})

    def look(self, repository: Repository, name: str, rest: list[str]) -> Response:
        if rest == ["refs"]:
            tags = [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid}
                for tag, oid in repository.tags.items()
            ]
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head}
            return Response(200, {"branches": [main], "converts": [], "tags": tags})
        revision = rest[1] if len(rest) > 1 else "main"
        found = repository.at(revision)
        if found is None:
            raise Response(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        oid, files = found
        if rest and rest[0] == "tree":
            return Response(200, [self.entry(path, data) for path, data in sorted(files.items())])
        siblings = [{"rfilename": path} for path in files]
        facts = {"id": name, "sha": oid, "private": repository.private, "siblings": siblings}
        return Response(200, {**facts, "tags": [], "downloads": 0})

    def entry(self, path: str, data: bytes) -> dict[str, Any]:
        facts: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
        if self.is_large(path):
            digest = hashlib.sha256(data).hexdigest()
            pointer = {"oid": digest, "size": len(data), "pointerSize": 130}
            return {**facts, "oid": hashlib.sha1(digest.encode()).hexdigest(), "lfs": pointer}
        return {**facts, "oid": git_name(data)}

    def is_large(self, path: str) -> bool:
        return bool(self.server.hub.lfs and path.endswith(LARGE))

    def preupload(self, hub: Hub, repository: Repository, revision: str, body: bytes) -> Response:
        files = []
        for one in json.loads(body)["files"]:
            mode = "lfs" if self.is_large(one["path"]) else "regular"
            files.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False})
        return Response(200, {"files": files})

    def commit(self, hub: Hub, repository: Repository, revision: str, body: bytes) -> Response:
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(repository.files)
        header = lines[0]["value"]
        if header.get("parentCommit", repository.head) != repository.head:
            raise Response(412, {"error": "A commit has happened since."})
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise Response(400, {"error": f"unknown operation {line['key']}"})
        oid = repository.commit(header["summary"], files)
        name = next(name for name, each in hub.repositories.items() if each is repository)
        return Response(200, {"commitUrl": f"{hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def tag(self, hub: Hub, repository: Repository, revision: str, body: bytes) -> Response:
        tag = json.loads(body)["tag"]
        if tag in repository.tags:
            raise Response(409, {"error": "Tag reference exists already"})
        found = repository.at(revision)
        if found is None:
            raise Response(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        repository.tags[tag] = found[0]
        return Response(200)

    def resolve(self, repository: Repository, revision: str, file: str) -> Response:
        found = repository.at(revision)
        if found is None or file not in found[1]:
            code = "EntryNotFound" if found else "RevisionNotFound"
            commit = {"X_Repo_Commit": found[0]} if found else {}
            raise Response(404, {"error": "Entry not found"}, X_Error_Code=code, **commit)
        data = found[1][file]
        digest = hashlib.sha256(data).hexdigest() if self.is_large(file) else git_name(data)
        return Response(200, data, ETag=f'"{digest}"', X_Repo_Commit=found[0])


def git_name(data: bytes) -> str:
    """Git's object name of a file's bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.hub = hub = Hub()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
