"""What a manifest states about the making of a bundle: code, libraries, tokenizer rules."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serve.bundle.manifest import TokenizerRules
from serve.inference.text import Text, TextEncoder

LIBRARIES = ("textloop", "torch", "transformers", "peft", "tokenizers", "onnxruntime")
"""Libraries whose versions go into the manifest."""


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # peft, where nothing is trained
            continue
    return found


def tokenizer_rules(staging: Path, encoder: TextEncoder, texts: Sequence[Text]) -> TokenizerRules:
    """Return the tokenizer rules; `fast` only if `tokenizer.json` alone gives the same ids."""
    rules = encoder.rules
    if not rules.fast:
        return rules
    alone = TextEncoder.from_rules(
        staging, rules, max_length=encoder.max_length, is_pair=encoder.is_pair
    )
    same = alone.encode_each(texts) == encoder.encode_each(texts)
    return rules if same else rules.model_copy(update={"fast": False})


def code_revision() -> str | None:
    """Return the commit of this code, with `+changes` if the checkout has uncommitted changes."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None
