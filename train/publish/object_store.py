"""Publish to S3: the files of a tag under one prefix, its marker last.

A reader that finds the marker finds all other files: the marker is uploaded after them, and
`latest` after the marker. Each object has the SHA-256 of its bytes as metadata, so that a rerun
uploads only what is missing.

Credentials, region and endpoint come from the environment, as in AWS's own tools.
"""

from __future__ import annotations

from typing import Any

from serve.files import sha256_of
from train.data.addresses import presentable
from train.publish.delivery import LATEST, Delivery, Package, PublishRefused, refuse_other_content

DIGEST = "sha256"
"""Metadata key of an object's digest."""


def upload(url: str, package: Package) -> Delivery:
    """Upload the package to `url`/TAG and write the tag to `url`/latest.

    Raises ValueError for missing credentials, permissions or buckets, and PublishRefused if
    the tag holds other content or the upload fails.
    """
    try:
        import s3fs
        from botocore.exceptions import BotoCoreError, NoCredentialsError
    except ImportError as error:
        raise ValueError(
            f"publish.to `{url}` needs s3fs: pip install 'textloop[s3]' ({error})"
        ) from error
    store = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    try:
        return _converge(store, url, package)
    except (NoCredentialsError, PermissionError) as error:
        raise ValueError(
            f"`{url}`: {presentable(str(error))}; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, of an account with write access"
        ) from error
    except FileNotFoundError as error:
        raise ValueError(f"`{url}`: {presentable(str(error))}; create the bucket first") from error
    except (OSError, BotoCoreError) as error:
        raise PublishRefused(
            f"upload to `{url}` failed ({type(error).__name__}: {presentable(str(error))}); rerun "
            "the command to resume"
        ) from error


def _converge(store: Any, url: str, package: Package) -> Delivery:
    prefix = f"{url}/{package.tag}"
    there = {
        path.removeprefix(prefix.removeprefix("s3://") + "/"): _digest(store, path)
        for path in store.find(prefix)
    }
    if package.marker in there:
        refuse_other_content(
            f"`{prefix}`",
            package,
            # A missing file, as after an interrupted update of the card, is uploaded again.
            {name: there.get(name, digest) for name, digest in package.sealed.items()},
        )
    wanted = {name: sha256_of(path) for name, path in package.files.items()}
    changed = [name for name in wanted if wanted[name] != there.get(name)]
    stale = [name for name in there if name not in wanted]
    for name in sorted(changed, key=lambda name: name == package.marker):
        store.put_file(
            str(package.files[name]), f"{prefix}/{name}", Metadata={DIGEST: wanted[name]}
        )
    for name in stale:
        store.rm_file(f"{prefix}/{name}")
    latest = f"{url}/{LATEST}"
    pointer = f"{package.tag}\n".encode()
    moved = not store.exists(latest) or store.cat_file(latest) != pointer
    if moved:
        store.pipe_file(latest, pointer)
    return Delivery(place=prefix, changed=bool(changed or stale or moved))


def _digest(store: Any, path: str) -> str | None:
    digest: str | None = store.metadata(path).get(DIGEST)
    return digest
