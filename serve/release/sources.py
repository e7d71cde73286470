"""Where a bundle is deployed from: a directory, a run, the Hub, or a URL that fsspec knows.

Only the files that a manifest lists are copied. Libraries are imported where their source is used;
credentials are those of their environment, never part of a URL.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

from serve.bundle.contents import MAX_JSON_BYTES, check_names
from serve.bundle.manifest import MANIFEST, BundleError, Manifest
from serve.bundle.seal import open_bundle, read_manifest
from serve.language.credentials import hide
from serve.language.lines import first_line
from serve.language.spelling import shown
from serve.release.pointer import ReleaseError

LATEST = "latest"
"""File beside the folders of published versions that names the newest."""

MAX_LISTED = 10
"""Names that a message lists of what is at a place without a bundle."""

CHUNK_BYTES = 8_000_000

INSTALLS = {
    "s3": "pip install 'textloop[s3]', or s3fs alone",
    "gs": "pip install gcsfs",
    "gcs": "pip install gcsfs",
    "az": "pip install adlfs",
    "abfs": "pip install adlfs",
    "http": "pip install 'fsspec[http]'",
    "https": "pip install 'fsspec[http]'",
}
"""How the library of a scheme is installed."""

_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_URL = re.compile(r"(?P<scheme>[a-z][\w+.-]*)(://|::)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A bundle that was found, and not verified."""

    name: str
    """As messages name it."""
    version: str
    num_bytes: int
    copy_to: Callable[[Path], None]
    """Copy its files into an empty directory. Raises ReleaseError or OSError."""


def find_source(given: str) -> Source:
    """Find a bundle and read its manifest. Raises ValueError that says what is there instead."""
    if hide(given) != given:
        raise ReleaseError(
            f"`{hide(given)}` contains a password, token or key; set those in the environment, as "
            "the tools of that store read them"
        )
    if given.startswith("hub:"):
        return _of_hub(given)
    if found := _URL.match(given):
        return _of_url(given, found["scheme"].lower())
    return _of_directory(Path(given), given)


def _of_directory(path: Path, name: str) -> Source:
    latest = path / LATEST
    if latest.is_file() and not (path / MANIFEST).exists():
        versions = sorted(each.parent.name for each in path.glob(f"*/{MANIFEST}"))
        newest = latest.read_bytes()[:60].decode(errors="replace").strip()
        raise ReleaseError(_says_versions(name, versions, newest))
    bundle = open_bundle(path, verify=False)
    names = [*bundle.manifest.files, MANIFEST]

    def copy_to(destination: Path) -> None:
        for each in names:
            (destination / each).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / each, destination / each)

    return Source(
        name=name,
        version=bundle.manifest.version,
        num_bytes=sum((bundle.path / each).stat().st_size for each in names),
        copy_to=copy_to,
    )


def _of_hub(given: str) -> Source:
    """Fetch a bundle into the cache of the Hub's client, which resumes what was interrupted."""
    found = _HUB.fullmatch(given.removeprefix("hub:"))
    if found is None:
        raise ReleaseError(f"`{given}`: expected hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        raise ReleaseError(
            f"`{given}` needs huggingface_hub: pip install 'textloop[cpu]', or download it and "
            "name its directory"
        ) from None
    name, revision = found["name"], found["revision"]
    try:
        file = Path(hf_hub_download(name, MANIFEST, revision=revision))
        wanted = [*_manifest_at(file, given).files, MANIFEST]
        path = snapshot_download(name, revision=revision, allow_patterns=wanted)
        return _of_directory(Path(path), given)
    except (ReleaseError, BundleError):
        raise
    except (OSError, ValueError, EntryNotFoundError) as error:
        # Without the network the client raises what is also an EntryNotFoundError.
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise ReleaseError(
                f"`{given}` has no `{MANIFEST}`, so it is no bundle; `textloop import {given} "
                "--output DIRECTORY` makes one of a classifier"
            ) from None
        raise ReleaseError(
            f"`{given}` cannot be fetched: {hide(first_line(error))}; check the name and the "
            "network, and log in with `hf auth login` for a private model"
        ) from None


def _of_url(given: str, scheme: str) -> Source:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ReleaseError(f"`{given}` needs fsspec: pip install 'textloop[cpu]'") from None
    try:
        store, path = url_to_fs(given, skip_instance_cache=scheme != "memory")
    except ImportError as error:
        install = INSTALLS.get(scheme, "install it")
        raise ReleaseError(f"`{given}` needs a library: {first_line(error)}; {install}") from None
    except Exception as error:
        _fail(given, error)
    root = str(path).rstrip("/")
    try:
        if not store.exists(f"{root}/{MANIFEST}"):
            if not store.exists(f"{root}/bundle/{MANIFEST}"):
                raise ReleaseError(_explain(store, root, given))
            root = f"{root}/bundle"
        manifest = _fetched_manifest(store, root, given)
        names = [*manifest.files, MANIFEST]
        sizes = {name: store.info(f"{root}/{name}").get("size") for name in names}
    except (ReleaseError, BundleError):
        raise
    except Exception as error:
        _fail(given, error)
    if unknown := [name for name, size in sizes.items() if size is None]:
        raise ReleaseError(f"`{given}` does not tell the size of `{unknown[0]}`; download it, and "
                           "name its directory")  # fmt: skip

    def copy_to(destination: Path) -> None:
        for name, size in sizes.items():
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            _download(store, f"{root}/{name}", destination / name, size, given)

    return Source(
        name=given, version=manifest.version, num_bytes=sum(sizes.values()), copy_to=copy_to
    )


def _fetched_manifest(store: Any, root: str, given: str) -> Manifest:
    with tempfile.TemporaryDirectory(prefix="textloop-") as directory:
        file = Path(directory) / MANIFEST
        _download(store, f"{root}/{MANIFEST}", file, MAX_JSON_BYTES, given)
        return _manifest_at(file, given)


def _manifest_at(file: Path, given: str) -> Manifest:
    """Read a manifest whose files are those of a bundle, so that their names may be paths."""
    try:
        manifest = read_manifest(file)
        check_names(Path(given), manifest.files)
    except BundleError as error:
        raise BundleError(str(error).replace(str(file), f"{given}/{MANIFEST}")) from None
    return manifest


def _download(store: Any, path: str, file: Path, limit: int, given: str) -> None:
    """Copy a file of a store. Raises ReleaseError for one of more than `limit` bytes."""
    with file.open("wb") as target:
        try:
            source = store.open(path, "rb")
        except Exception as error:
            _fail(given, error)
        with source:
            while chunk := _read(source, given):
                limit -= len(chunk)
                if limit < 0:
                    raise ReleaseError(f"`{given}`: `{file.name}` is larger than it should be")
                target.write(chunk)


def _read(source: Any, given: str) -> bytes:
    try:
        data: bytes = source.read(CHUNK_BYTES)
    except Exception as error:
        _fail(given, error)
    return data


def _fail(given: str, error: Exception) -> Never:
    """Raise ReleaseError for a failure of a store's library, each of which has its own types."""
    kind = type(error).__name__
    raise ReleaseError(
        f"`{given}` cannot be read: {kind}: {hide(first_line(error))}; check the address, the "
        "network and the credentials in the environment"
    ) from None


def _explain(store: Any, root: str, given: str) -> str:
    """Say what is at a place of a store that is no bundle."""
    if not store.exists(root):
        return f"there is nothing at `{given}`; check the address"
    if not store.isdir(root):
        return f"`{given}` is a file; name the folder of a bundle"
    names = sorted(str(each).rstrip("/").rpartition("/")[2] for each in store.ls(root, False))
    if LATEST in names:
        newest = store.cat_file(f"{root}/{LATEST}", end=60).decode(errors="replace").strip()
        return _says_versions(given, [each for each in names if each != LATEST], newest)
    listed = ", ".join(f"`{shown(each, 40)}`" for each in names[:MAX_LISTED])
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return (
        f"`{given}` has no `{MANIFEST}`, so it is no bundle; there is {listed or 'nothing'}{more}"
    )


def _says_versions(given: str, versions: list[str], newest: str) -> str:
    listed = ", ".join(f"`{shown(each, 40)}`" for each in versions[:MAX_LISTED]) or "none"
    example = newest if newest in versions else next(iter(versions), "VERSION")
    return (
        f"`{given}` is a place for published versions, not a bundle; there are {listed}, the "
        f"latest is {newest!r}; name one: {given.rstrip('/')}/{example}"
    )
