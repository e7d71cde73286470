"""Fetch a checkpoint, or a published bundle, from the Hub into its own cache.

Only configuration, weights and tokenizer of a model are fetched, never code; safetensors rather
than pickles. Credentials are those of `hf auth login` or HF_TOKEN.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from serve.bundle.contents import CONFIG, is_tokenizer_file
from serve.bundle.manifest import MANIFEST
from serve.language.lines import first_line
from train.importing.refusal import ImportRefused, require_torch

_OTHER_FILES = (CONFIG, "adapter_config.json", "model_head.pkl", "generation_config.json")


def fetch(model: str, *, max_weights_gb: float) -> tuple[Path, str]:
    """Return the directory and commit of OWNER/NAME[@REVISION]; a published bundle comes whole.

    A Hub that cannot be reached is no failure where an earlier download has the revision.
    Raises ValueError for a model that cannot be had, ImportRefused for one that is too large.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ValueError(
            f"`hub:{model}`: fetching from the Hub needs huggingface_hub; pip install "
            "'textloop[serve]', or download the model and name its directory"
        )
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import OfflineModeIsEnabled

    name, _, revision = model.partition("@")
    if name.count("/") != 1:
        raise ValueError(f"`hub:{model}`: expected hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    try:
        info = HfApi().model_info(name, revision=revision or None, files_metadata=True)
    except (OfflineModeIsEnabled, OSError) as error:
        cached = try_to_load_from_cache(name, CONFIG, revision=revision or "main")
        if not isinstance(cached, str):
            raise _unavailable(model, error) from error
        found = Path(cached).parent
        return found, found.name
    if MANIFEST not in {each.rfilename for each in info.siblings or []}:
        require_torch(f"hub:{model}")
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or []}
    names = wanted_files(sizes)
    total = sum(sizes[each] for each in names)
    if total > max_weights_gb * 1e9:
        raise ImportRefused(
            f"`hub:{model}` has {total / 1e9:.1f} GB, over the limit of {max_weights_gb:g}; raise "
            "it with --max-weights-gb"
        )
    try:
        path = snapshot_download(name, revision=revision or None, allow_patterns=names)
    except (OSError, ValueError) as error:
        raise _unavailable(model, error) from error
    return Path(path), Path(path).name  # the folder of a snapshot has the name of its commit


def wanted_files(names: Any) -> list[str]:
    """Return the files of a repository that are fetched, given the names of all."""
    names = list(names)
    if MANIFEST in names:
        return [each for each in names if not each.endswith((".py", ".bin", ".pt", ".pkl"))]
    top = [each for each in names if "/" not in each]
    weights = [e for e in top if e.startswith("model") and e.endswith((".safetensors", ".json"))]
    if not any(each.endswith(".safetensors") for each in weights):
        weights = [
            e for e in top if e.startswith("pytorch_model") and e.endswith((".bin", ".json"))
        ]
    return [e for e in top if e in _OTHER_FILES or e in weights or is_tokenizer_file(e)]


def _unavailable(model: str, error: Exception) -> ValueError:
    """Return the error for a model that cannot be had, with what the Hub said."""
    return ValueError(
        f"`hub:{model}` cannot be fetched: {first_line(error)}; check the id and the network, log "
        "in with `hf auth login` for a private model, or download it and name the directory"
    )
