"""Publish to the Hugging Face Hub: one commit and one tag per version.

Decides which changes make a repository hold a package, and what each response of the Hub means.
Every attempt starts by listing the repository. A commit whose response was lost is therefore not
repeated, and a rerun resumes; the Hub keeps large files uploaded before an interruption.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from serve.files import sha256_of
from train.data.addresses import presentable
from train.publish.delivery import Delivery, Package, PublishRefused, refuse_other_content

Result = TypeVar("Result")

WAITS_S = (1.0, 2.0, 4.0, 8.0)
"""Seconds to wait before each retry."""

_PASSING = {408, 409, 412, 429, 500, 502, 503, 504}
"""Status codes worth a retry; 409 and 412: someone else writes at the same time."""

_FAILURES = (
    httpx2.TransportError,
    HfHubHTTPError,
    json.JSONDecodeError,
    RuntimeError,  # raised by hf_xet, and wrapped around the failed upload of a file
    ConnectionError,
    TimeoutError,
)
"""Errors of the client for failed requests and connections."""


def push(repo: str, package: Package, *, private: bool) -> Delivery:
    """Commit the package to the repository's main branch and tag it.

    Raises ValueError for what the caller can fix, such as a missing token, and PublishRefused
    if the tag or the repository holds other content or the Hub fails.
    """
    return with_retries(lambda: _converge(HfApi(), repo, package, private), f"hub:{repo}")


def with_retries(attempt: Callable[[], Result], place: str) -> Result:
    """Call `attempt`, with retries and growing waits after transient failures.

    Raises ValueError with the remedy for a permanent failure, and PublishRefused if the last
    attempt fails too.
    """
    if constants.is_offline_mode():
        raise ValueError(f"cannot reach {place}: HF_HUB_OFFLINE is set; unset it")
    for wait_s in (*WAITS_S, None):
        try:
            return attempt()
        except _FAILURES as error:
            cause = _cause(error)
            if isinstance(cause, HfHubHTTPError) and cause.response.status_code not in _PASSING:
                raise ValueError(explain(cause, place)) from error
            if wait_s is None:
                raise PublishRefused(
                    f"upload to {place} failed after {len(WAITS_S) + 1} attempts "
                    f"({explain(cause, place)}); rerun the command to resume"
                ) from error
        print(f"note: {explain(cause, place)}; retrying in {wait_s:.0f} s")
        time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def explain(error: Exception, place: str) -> str:
    """Describe an error of the Hub's client, with the remedy, in one line."""
    if isinstance(error, json.JSONDecodeError):
        return f"{place} returned something other than the Hub's JSON: {without_token(str(error))}"
    if not isinstance(error, HfHubHTTPError):
        # Its text may hold a header, with the token, or the address of a proxy.
        return (
            f"the connection to {place} failed: {type(error).__name__}: {without_token(str(error))}"
        )
    status = error.response.status_code
    text = f"{place} returned HTTP {status}"
    if message := (error.server_message or "").strip():
        text += f" ({without_token(message):.200})"
    remedies = {
        401: "no valid token: set HF_TOKEN to one with write access, or run `hf auth login`",
        402: "the account's plan does not cover this",
        403: "the token has no write access: use one that may write to the owner's models",
        404: "the repository does not exist, or the token has no access to it",
        413: "the commit exceeds the Hub's size limit",
    }
    return f"{text}: {remedies[status]}" if status in remedies else text


def without_token(text: str) -> str:
    """Return a text of the Hub or its client without the token, which may come from a file."""
    token = get_token()
    return presentable(text, {token: "the token"} if token else {})


def _cause(error: Exception) -> Exception:
    """Find the failed request behind an error; the client wraps those of uploads."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, httpx2.TransportError | HfHubHTTPError | json.JSONDecodeError):
            return seen
        seen = seen.__cause__
    return error


def _converge(api: HfApi, repo: str, package: Package, private: bool) -> Delivery:
    api.create_repo(repo, private=private, exist_ok=True)
    refs = api.list_repo_refs(repo)
    place = f"hub:{repo}"
    tagged = any(tag.name == package.tag for tag in refs.tags)
    if tagged:
        under = _listing(api, repo, package.tag)
        there = {
            name: digest if _same(under.get(name), package.files[name], digest) else None
            for name, digest in package.sealed.items()
        }
        refuse_other_content(place, package, there)
    now = _listing(api, repo, constants.DEFAULT_REVISION)
    strange = sorted(name for name in now if not name.startswith(".") and name != "README.md")
    if strange and package.marker not in now:
        raise PublishRefused(
            f"{place} holds other files (`{strange[0]}`) and no `{package.marker}`, so it was not "
            "created by `publish`, which would delete them; choose another repository"
        )
    operations = list(_operations(now, package))
    head = next((b.target_commit for b in refs.branches if b.name == "main"), None)
    if operations:
        commit = api.create_commit(
            repo, operations, commit_message=f"Version {package.tag}", parent_commit=head
        )
        head = commit.oid
    if not tagged:
        api.create_tag(repo, tag=package.tag, revision=head)
    return Delivery(
        place=f"{place}, tag {package.tag}, commit {head}", changed=bool(operations) or not tagged
    )


def _listing(api: HfApi, repo: str, revision: str) -> dict[str, RepoFile]:
    tree = api.list_repo_tree(repo, recursive=True, revision=revision)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def _operations(now: dict[str, RepoFile], package: Package) -> Iterator[Any]:
    for name, path in package.files.items():
        if not _same(now.get(name), path, package.sealed.get(name)):
            yield CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))
    for name in now.keys() - package.files.keys():
        if not name.startswith("."):  # .gitattributes is the Hub's own
            yield CommitOperationDelete(path_in_repo=name)


def _same(there: RepoFile | None, path: Path, digest: str | None) -> bool:
    """Whether the Hub's file equals the local one, by the hash of Git or of LFS."""
    if there is None or there.size != path.stat().st_size:
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == (digest or sha256_of(path)))
    data = path.read_bytes()
    name = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return bool(there.blob_id == name.hexdigest())
