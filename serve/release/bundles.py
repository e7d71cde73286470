"""The bundles of a deployment directory: put there by `deploy`, verified, removed when asked.

A bundle is copied under another name, synced, verified as it lies there, and renamed. A copy that
was interrupted is removed by a later command, which knows it by a lock that nobody holds.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serve.bundle.manifest import BundleError
from serve.bundle.seal import Bundle, open_bundle
from serve.command.priority import aside
from serve.files import replace_directory, sync_directory
from serve.release.directory import LOCK, is_deployment, locked, try_lock
from serve.release.gate import gate_path, read_gate, write_gate
from serve.release.pointer import BUNDLES, VERSION, ReleaseError, bundle_path
from serve.release.servers import SERVERS
from serve.release.sources import Source, find_source

SPARE_BYTES = 64_000_000
"""Bytes that stay free on the disk after a bundle was copied."""

INCOMING, REMOVED = ".incoming-", ".removed-"
_OWNED = re.compile(rf"({re.escape(INCOMING)}|{re.escape(REMOVED)})[0-9a-f]{{32}}")
_REPLACED = re.compile(r"\.([0-9a-f]{12})\.[0-9a-f]{32}\.old")
"""Names, in the folder of the bundles, of what is being copied, removed or replaced."""


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A bundle in a deployment directory, as it is listed."""

    version: str
    bytes: int
    deployed: float
    """Time, seconds since 1970."""
    has_gate_report: bool


def deploy(directory: Path, source: str, *, gate_report: Path | None = None) -> str:
    """Copy a bundle into the deployment directory, verify the copy, and return its version.

    source: a directory, a run, hub:OWNER/NAME[@REVISION], or a URL. A version that is there
    already is verified and stays; an altered one is replaced. gate_report: the JSON file of
    `textloop gate`, stored beside the bundle. The directory is made if it does not exist.
    Raises ValueError for a source that is no bundle, BundleError for an altered one, OSError.
    """
    _check_place(directory)
    found = find_source(source)
    gate = None if gate_report is None else read_gate(gate_report, version=found.version)
    for folder in (directory / BUNDLES, directory / SERVERS):
        folder.mkdir(parents=True, exist_ok=True)
    sync_directory(directory)
    with locked(directory):
        sweep(directory)
    if not _is_whole(directory, found.version):
        aside(lambda: _receive(directory, found))
    if gate is not None:
        with locked(directory):
            write_gate(directory, found.version, gate)
    return found.version


def open_deployed(directory: Path, version: str, *, verify: bool = True) -> Bundle:
    """Open a deployed bundle, which is read whole at the lowest priority unless `verify` is False.

    Raises ReleaseError if it is not there, BundleError if it was altered.
    """
    path = bundle_path(directory, version)
    if path.is_symlink():
        raise ReleaseError(
            f"`{path}` is a link, and a deployment directory has its own copies; remove it, and "
            "deploy the bundle"
        )
    if not path.is_dir():
        raise ReleaseError(
            f"version {version} is not deployed in `{directory}`; `textloop deploy {directory} "
            "BUNDLE` copies it there"
        )
    try:
        bundle = aside(lambda: open_bundle(path)) if verify else open_bundle(path, verify=False)
    except BundleError as error:
        raise BundleError(f"{error}; deploying it to `{directory}` again replaces it") from None
    if bundle.path != path or bundle.manifest.version != version:
        raise BundleError(
            f"`{path}` holds version {bundle.manifest.version}; deploy {version} again, which "
            "replaces it"
        )
    return bundle


def list_deployed(directory: Path) -> list[Deployed]:
    """Return the bundles that are there, newest first, without opening them."""
    found = []
    for path in _entries(directory):
        if re.fullmatch(VERSION, path.name) and path.is_dir() and not path.is_symlink():
            files = [each for each in path.rglob("*") if each.is_file()]
            one = Deployed(
                version=path.name,
                bytes=sum(each.stat().st_size for each in files),
                deployed=path.stat().st_mtime,
                has_gate_report=gate_path(directory, path.name).is_file(),
            )
            found.append(one)
    return sorted(found, key=lambda each: (-each.deployed, each.version))


def find_version(directory: Path, prefix: str) -> str:
    """Return the deployed version that begins with `prefix`. Raises ReleaseError without one."""
    if not re.fullmatch("[0-9a-f]{1,12}", prefix):
        bundle_path(directory, prefix)  # says what a version is
        raise AssertionError("a prefix is no version")
    known = [path.name for path in _entries(directory) if re.fullmatch(VERSION, path.name)]
    matching = [name for name in known if name.startswith(prefix)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise ReleaseError(f"{prefix} begins {len(matching)} versions: {', '.join(matching[:5])}")
    there = f"; there are {', '.join(known[:10])}" if known else ""
    raise ReleaseError(f"version {prefix} is not deployed in `{directory}`{there}")


def sweep(directory: Path) -> None:
    """Remove what interrupted commands left, but not what a running one copies.

    The caller holds the lock.
    """
    for file in (
        *directory.glob(".pointer.*.tmp.json"),
        *(directory / BUNDLES).glob(".*.tmp.json"),
    ):
        file.unlink(missing_ok=True)  # written under the lock only
    for path in _entries(directory):
        if found := _REPLACED.fullmatch(path.name):
            if os.path.lexists(bundle_path(directory, found[1])):
                shutil.rmtree(path, ignore_errors=True)
            else:  # killed before the new one had its name
                path.rename(bundle_path(directory, found[1]))
        if not _OWNED.fullmatch(path.name) or path.is_symlink():
            continue
        try:
            descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            shutil.rmtree(path, ignore_errors=True)
            continue
        try:
            if try_lock(descriptor):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def _check_place(directory: Path) -> None:
    """Raise ReleaseError for a directory with something else in it."""
    if directory.exists() and not is_deployment(directory):
        others = [each.name for each in directory.iterdir() if not each.name.startswith(".")]
        if set(others) - {LOCK}:
            raise ReleaseError(
                f"`{directory}` is not a deployment directory, it holds `{min(others)}`; name a "
                "new directory first, then the bundle: textloop deploy DIR BUNDLE"
            )


def _is_whole(directory: Path, version: str, *, quiet: bool = False) -> bool:
    """Whether a version is deployed and unaltered; says so if an altered one is replaced."""
    if not os.path.lexists(bundle_path(directory, version)):
        return False
    try:
        open_deployed(directory, version)
    except ValueError as error:
        if not quiet:
            print(f"note: replacing the copy that is there: {error}", file=sys.stderr)
        return False
    return True


def _receive(directory: Path, source: Source) -> None:
    """Copy a source into the deployment directory."""
    free = shutil.disk_usage(directory / BUNDLES).free
    if source.num_bytes + SPARE_BYTES > free:
        needed = f"{source.num_bytes / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free"
        raise OSError(errno.ENOSPC, f"no space left for `{source.name}`: {needed}", str(directory))
    with _incoming(directory) as copy:
        source.copy_to(copy)
        try:
            version = open_bundle(copy).manifest.version
        except BundleError as error:
            raise BundleError(str(error).replace(str(copy), source.name)) from None
        if version != source.version:
            raise BundleError(f"bundle `{source.name}` changed while it was copied; deploy again")
        for each in copy.rglob("*"):  # here, because others wait for the lock
            _sync_file(each)
        destination = bundle_path(directory, version)
        with locked(directory):
            if _is_whole(directory, version, quiet=True):  # somebody else has just deployed it
                return
            if destination.is_symlink() or destination.is_file():
                destination.unlink()
            replace_directory(copy, destination)


def _sync_file(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


@contextmanager
def _incoming(directory: Path) -> Iterator[Path]:
    """Give a folder that `sweep` leaves alone as long as this process runs."""
    path = directory / BUNDLES / f"{INCOMING}{uuid.uuid4().hex}"
    with locked(directory):  # `sweep` sees it with its lock, or not at all
        path.mkdir()
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        assert try_lock(descriptor)
    try:
        (path / "bundle").mkdir()
        yield path / "bundle"
    finally:
        os.close(descriptor)
        shutil.rmtree(path, ignore_errors=True)


def _entries(directory: Path) -> list[Path]:
    folder = directory / BUNDLES
    return sorted(folder.iterdir()) if folder.is_dir() else []
