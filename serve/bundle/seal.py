"""Seal and open a bundle: a model directory that is complete, unaltered and of known origin.

Defines which directories are rejected. The schema of the manifest is in
`serve.bundle.manifest`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.bundle.agreement import check_agreement
from serve.bundle.contents import (
    GOLDEN,
    MAX_JSON_BYTES,
    check_names,
    check_sizes,
    file_names,
    parse_object,
)
from serve.bundle.location import locate
from serve.bundle.manifest import (
    MANIFEST,
    SCHEMA_VERSIONS,
    BundleError,
    Manifest,
    Measured,
    digest_of,
    is_card_file,
)
from serve.files import replace_directory, sha256_of, write_atomic
from serve.language.spelling import shown


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A directory and its manifest, verified unless `open_bundle` was called with verify=False."""

    path: Path
    manifest: Manifest


def seal(staging: Path, destination: Path, **fields: Any) -> Bundle:
    """Turn the model directory `staging` into the bundle `destination`.

    fields: every field of `Manifest` except `files`. The directory holds its golden cases.
    `staging` is moved; an existing bundle at `destination` is replaced.
    """
    names = [name for name in file_names(staging) if not is_card_file(name)]
    files = {name: sha256_of(staging / name) for name in names}
    manifest = Manifest(files=files, **fields)
    assert GOLDEN in files or manifest.schema_version < 4
    write_atomic(staging / MANIFEST, _to_bytes(manifest))
    replace_directory(staging, destination)
    return Bundle(path=destination, manifest=manifest)


def open_bundle(path: str | Path, *, verify: bool = True) -> Bundle:
    """Read a bundle's manifest and check every file against it, and all parts for agreement.

    path: the bundle, or the directory of its run. verify False skips reading the files whole;
    only for a process whose parent has verified them. Runs no code from the bundle.
    Raises BundleError that names the missing, altered or unlisted file, or the contradiction.
    """
    try:
        path = locate(Path(path))
        manifest = read_manifest(path / MANIFEST)
        _check_files(path, manifest, verify=verify)
        check_agreement(path, manifest)
    except OSError as error:
        why = error.strerror or error
        raise BundleError(f"bundle `{shown(str(path))}` cannot be read: {why}") from None
    return Bundle(path=path, manifest=manifest)


def record_metrics(bundle: Bundle, split: str, metrics: dict[str, Measured]) -> Bundle:
    """Add the metrics of a split to the manifest; the version of the bundle does not change."""
    merged = {**bundle.manifest.metrics, split: metrics}
    manifest = bundle.manifest.model_copy(update={"metrics": merged})
    write_atomic(bundle.path / MANIFEST, _to_bytes(manifest))
    return Bundle(path=bundle.path, manifest=manifest)


def _check_files(path: Path, manifest: Manifest, *, verify: bool) -> None:
    present = set(file_names(path))
    for name in manifest.files:
        if name not in present:
            raise BundleError(f"bundle `{path}`: file `{name}` is missing")
    check_names(path, manifest.files)
    check_sizes(path, manifest.files)
    for name, expected in manifest.files.items():
        if verify and sha256_of(path / name) != expected:
            raise BundleError(
                f"bundle `{path}`: file `{name}` was altered or truncated "
                "(its SHA-256 differs from the manifest); download or merge the bundle again"
            )
    extra = present - set(manifest.files) - {MANIFEST}
    if unlisted := sorted(name for name in extra if not is_card_file(name)):
        raise BundleError(
            f"bundle `{path}`: file `{unlisted[0]}` is not listed in the manifest; "
            "remove it, a bundle contains only listed files"
        )


def _to_bytes(manifest: Manifest) -> bytes:
    values = manifest.model_dump(mode="json")
    values["manifest_sha256"] = digest_of(values)
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def read_manifest(file: Path) -> Manifest:
    """Read a manifest, which must be unaltered. Raises BundleError, OSError without the file."""
    altered = BundleError(f"`{file}` was altered or truncated; download or merge the bundle again")
    if file.stat().st_size > MAX_JSON_BYTES:
        raise altered
    data = file.read_bytes()
    try:
        values = parse_object(data)
        version = values["schema_version"]
        digest = values.pop("manifest_sha256")
    except (ValueError, KeyError):
        raise altered from None
    if version not in SCHEMA_VERSIONS:
        raise BundleError(
            f"`{file}` has schema version {version!r:.40}, this version of Textloop reads "
            f"{' and '.join(map(str, SCHEMA_VERSIONS))}; merge the run again, or use the version "
            "that created the bundle"
        )
    try:
        manifest = Manifest.model_validate(values)
        # Compared as bytes, so that any altered byte is detected, whitespace included.
        same = digest == digest_of(manifest.model_dump(mode="json")) and _to_bytes(manifest) == data
    except (ValueError, RecursionError):  # fields that are wrong, and text that is not Unicode
        raise altered from None
    if not same:
        raise altered
    return manifest
