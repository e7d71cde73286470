"""The publish targets, and the directory target.

Every target keeps two promises. Tags are immutable: other sealed files under an existing tag
are refused. Publishing is idempotent: it compares with what is there and adds what is missing,
so that a rerun after an interruption resumes, and one after a success does nothing.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from serve.files import replace_directory, sha256_of, write_atomic
from serve.language.credentials import hide
from train.publish.delivery import LATEST, Delivery, Package, refuse_other_content

_HUB = re.compile(r"hub:[\w.-]+/[\w.-]+")
_S3 = re.compile(r"s3://[^/\s]+(/\S*)?")


def deliver(target: str, package: Package, *, private: bool) -> Delivery:
    """Publish to hub:OWNER/NAME, s3://BUCKET/PREFIX, dir:PATH or PATH.

    private: whether a new Hub repository is private; the other targets have their own rules.
    Raises ValueError for a target that is not one of these or cannot be used, and
    PublishRefused for one that holds other content or cannot be reached.
    """
    check_target(target)
    if target.startswith("hub:"):
        from train.publish.hub import push

        return push(target.removeprefix("hub:"), package, private=private)
    if target.startswith("s3:"):
        from train.publish.object_store import upload

        return upload(target.rstrip("/"), package)
    return copy(Path(target.removeprefix("dir:")), package)


def check_target(target: str) -> None:
    """Raise ValueError unless the target has a known form, without credentials."""
    if (hidden := hide(target)) != target:
        raise ValueError(
            f"publish.to `{hidden}` contains a password, token or key; remove it and set HF_TOKEN "
            "for the Hub, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for S3"
        )
    if not target.isprintable():
        raise ValueError(f"publish.to {target!r} contains a control character; remove it")
    form = _HUB if target.startswith("hub:") else _S3 if target.startswith("s3:") else None
    if form is None and not re.match(r"\w+://", target) and target not in ("", "dir:"):
        return
    if form is None or not form.fullmatch(target):
        raise ValueError(
            f"publish.to `{target}`: expected hub:OWNER/NAME, s3://BUCKET/PREFIX or a directory"
        )


def append_suffix(target: str, suffix: str) -> str:
    """Append a suffix to the name of the target."""
    return target.rstrip("/") + suffix


def copy(root: Path, package: Package) -> Delivery:
    """Publish to the directory `root`/TAG and write the tag to `root`/latest.

    A reader sees the old or the new content of the directory, never a mixture.
    """
    destination = root / package.tag
    there = {
        str(file.relative_to(destination)): sha256_of(file)
        for file in destination.rglob("*")
        if file.is_file()
    }
    if there:
        refuse_other_content(
            f"`{destination}`", package, {name: there.get(name) for name in package.sealed}
        )
    changed = there != {name: sha256_of(path) for name, path in package.files.items()}
    if changed:
        root.mkdir(parents=True, exist_ok=True)
        staging = root / f".{package.tag}.staging"
        shutil.rmtree(staging, ignore_errors=True)
        try:
            for name, path in package.files.items():
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, staging / name)
            replace_directory(staging, destination)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    pointer = f"{package.tag}\n".encode()
    latest = root / LATEST
    moved = not latest.is_file() or latest.read_bytes() != pointer
    if moved:
        write_atomic(latest, pointer)
    return Delivery(place=str(destination), changed=changed or moved)
