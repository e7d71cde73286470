"""Which directory is meant by a path to a bundle, and what else a path may lead to."""

from __future__ import annotations

import re
from pathlib import Path

from serve.bundle.manifest import MANIFEST, BundleError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def locate(path: Path) -> Path:
    """Return the bundle at `path`: the directory itself, or that of the run there.

    Raises BundleError that says what is there instead, and what to do.
    """
    if (path / MANIFEST).is_file():
        return path
    if (path / "bundle" / MANIFEST).is_file():
        return path / "bundle"
    raise BundleError(_explain(path))


def _explain(path: Path) -> str:
    if not path.is_dir():
        if path.exists():
            return f"no bundle at `{path}`: not a directory"
        hint = ""
        if _HUB_ID.fullmatch(str(path)):
            hint = (
                "; if this is a Hub id, download it first: "
                f"`hf download {path} --local-dir DIRECTORY`"
            )
        return f"no bundle at `{path}`: not a directory{hint}"
    beside = path.parent / "bundle"
    if (path / "adapter_config.json").is_file() or (path / "fit.json").is_file():
        if (beside / MANIFEST).is_file():
            return f"`{path}` is what `fit` trained, not a bundle; its bundle is `{beside}`"
        if (path / "fit.json").is_file():
            return (
                f"`{path}` is what `fit` trained, not a bundle; create that with "
                "`python -m train merge`"
            )
        return (
            f"`{path}` is an adapter of another program, without `{MANIFEST}`; Textloop serves "
            "only bundles that it trained: merge the adapter into its base there, and train a "
            "bundle with the result as `model.base`"
        )
    if (path / "adapter").is_dir() or (path / "run.json").is_file():
        return (
            f"`{path}` is a run without a bundle; create it with `python -m train merge` and the "
            "run's configuration"
        )
    if (path / "config.json").is_file():
        return (
            f"`{path}` is a Hugging Face model without `{MANIFEST}`, not a bundle, and Textloop "
            "has no import; it serves bundles that it trained, for example with this model as "
            "`model.base`"
        )
    return (
        f"`{path}` has no `{MANIFEST}`, so it is no bundle; bundles are made by "
        "`python -m train merge`"
    )
