"""The bundle: a model directory that is whole, unaltered and says where it came from.

A bundle is a standard Hugging Face model directory plus `manifest.json`, which holds the
SHA-256 of every other file and of itself. This module decides what the manifest says and
when a directory is refused. It knows nothing of tensors; `serve.predictor` runs the model.

A published bundle also holds card files: `README.md`, the model card, and the plots that it
shows, `evaluation/*.png`. They are for people, no program here reads them, and they are written
after sealing; so they are outside the manifest and the version, and may change or be missing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from serve.config import Config
from serve.files import replace_directory, sha256_of, write_atomic
from serve.text import TokenizerRules

MANIFEST = "manifest.json"
SCHEMA_VERSION = 3
CARD = "README.md"
PLOTS = "evaluation"


class BundleError(ValueError):
    """A directory that is not a whole, unaltered bundle; the message names the file."""


class Measured(Config):
    """A metric's value with its two-sided 95 % interval."""

    value: float
    """Point estimate."""

    low: float | None = None
    """Lower end of the interval; None where no interval is known."""

    high: float | None = None
    """Upper end of the interval; None where no interval is known."""


class Int8Export(Config):
    """How the int8 export compares with full precision on the validation split."""

    shipped: bool
    """Whether the bundle holds the export."""

    reason: str
    """Why, in one sentence with the figures."""

    texts: int = 0
    """Number of texts compared."""

    agreement: float | None = None
    """Share of texts with the same predicted labels."""

    accuracy_fp32: float | None = None
    """Accuracy of the full-precision model."""

    accuracy_int8: float | None = None
    """Accuracy of the export."""

    difference: Measured | None = None
    """Accuracy of the export minus that of full precision, paired."""

    max_logit_difference: float | None = None
    """Largest absolute difference of a logit."""


class Abstention(Config):
    """When to give no answer, so that few of the answers that are given are wrong."""

    max_risk: float
    """Share of wrong ones among the answers that the user accepts."""

    risk_confidence: float
    """Probability with which the threshold keeps to it."""

    abstain_below: float | None
    """Confidence under which to abstain; None where no threshold kept to the risk."""

    reason: str
    """How the threshold was found, or why there is none, with the figures."""

    rows: int
    """Validation rows that it was chosen on."""

    answered: int = 0
    """Those of them that get an answer."""

    errors: int = 0
    """Those answered wrong."""


class Calibration(Config):
    """What was fitted on the validation split after training."""

    temperature: float = 1.0
    """Divisor of the trained logits; it is folded into the weights of the last layer."""

    thresholds: tuple[float, ...] | None = None
    """Least probability of each label, in label order, of a multi-label model; None for 0.5."""

    abstention: dict[str, Abstention] = Field(default_factory=dict)
    """By backend (torch, onnx); empty where no risk was asked for."""

    rows: int
    """Validation rows."""

    log_loss_before: float
    """Of the trained model on them, in nats."""

    log_loss_after: float
    """The same after calibration."""

    ece_before: float
    """Expected calibration error of the trained model on them."""

    ece_after: float
    """The same after calibration."""

    notes: tuple[str, ...] = ()
    """What was done and what to bear in mind, in sentences."""


class Manifest(Config):
    """What a bundle says of itself."""

    schema_version: Literal[3] = 3
    """Version of this layout."""

    task: Literal["single_label", "multi_label"]
    """One label per text, or any number of them."""

    labels: tuple[str, ...]
    """Label names in the order of the model's outputs."""

    text_columns: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)]
    """Names of the input columns; two for a model of text pairs."""

    max_length: int
    """Tokens per input, special tokens included; longer inputs are cut."""

    tokenizer: TokenizerRules
    """How texts are prepared, beside what `tokenizer.json` says."""

    base_model: dict[str, Any]
    """The pretrained model: its name, revision and the SHA-256 of its weights."""

    config: dict[str, Any]
    """The run's resolved configuration."""

    data: dict[str, Any]
    """For each split the number of rows and the SHA-256 over its rows."""

    parity: dict[str, float]
    """Largest absolute difference of logits between adapter, merged and reloaded model."""

    int8: Int8Export | None = None
    """The int8 export for CPUs, or why there is none; None if none was asked for."""

    calibration: Calibration | None = None
    """Temperature, label thresholds and abstention; None if nothing was asked for."""

    metrics: dict[str, dict[str, Measured]] = Field(default_factory=dict)
    """For each evaluated split, its metrics."""

    code_revision: str | None
    """Commit of the code that made the bundle; None outside a git checkout."""

    versions: dict[str, str]
    """Versions of the libraries that made the bundle."""

    created: str
    """Time of sealing, ISO 8601, UTC."""

    files: dict[str, str]
    """SHA-256 of every other file, by its path in the bundle."""

    @property
    def is_pair(self) -> bool:
        """Whether the model classifies pairs of texts."""
        return len(self.text_columns) == 2

    @property
    def version(self) -> str:
        """Twelve hex digits that name these weights and their provenance, not their metrics."""
        return _digest(self.model_dump(mode="json", exclude={"metrics"}))[:12]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A directory whose manifest was read and, unless told otherwise, verified."""

    path: Path
    manifest: Manifest


def seal(staging: Path, destination: Path, **fields: Any) -> Bundle:
    """Turn the model directory `staging` into the bundle `destination`.

    fields: every field of `Manifest` except `files`. `staging` is consumed. A bundle that
    stands at `destination` is replaced.
    """
    names = [name for name in _file_names(staging) if not is_card_file(name)]
    files = {name: sha256_of(staging / name) for name in names}
    manifest = Manifest(files=files, **fields)
    write_atomic(staging / MANIFEST, _to_bytes(manifest))
    replace_directory(staging, destination)
    return Bundle(path=destination, manifest=manifest)


def open_bundle(path: str | Path, *, verify: bool = True) -> Bundle:
    """Read a bundle's manifest and check every file against it.

    verify False skips reading the weights; only for a process whose parent has verified.
    Raises BundleError that names the missing, altered or unlisted file.
    """
    path = Path(path)
    file = path / MANIFEST
    if not path.is_dir():
        raise BundleError(f"no bundle at `{path}`: not a directory")
    if not file.is_file():
        raise BundleError(f"`{path}` has no `{MANIFEST}`; create it with `python -m train merge`")
    manifest = _from_bytes(file.read_bytes(), file)
    if verify:
        _verify(path, manifest)
    return Bundle(path=path, manifest=manifest)


def record_metrics(bundle: Bundle, split: str, metrics: dict[str, Measured]) -> Bundle:
    """Write a split's metrics into the manifest; the bundle's version stays the same."""
    merged = {**bundle.manifest.metrics, split: metrics}
    manifest = bundle.manifest.model_copy(update={"metrics": merged})
    write_atomic(bundle.path / MANIFEST, _to_bytes(manifest))
    return Bundle(path=bundle.path, manifest=manifest)


def is_card_file(name: str) -> bool:
    """Whether a path in a bundle is that of the model card or of one of its plots."""
    path = PurePosixPath(name)
    return name == CARD or (str(path.parent) == PLOTS and path.suffix == ".png")


def _verify(path: Path, manifest: Manifest) -> None:
    present = set(_file_names(path))
    for name, expected in manifest.files.items():
        if name not in present:
            raise BundleError(f"bundle `{path}`: file `{name}` is missing")
        if sha256_of(path / name) != expected:
            raise BundleError(
                f"bundle `{path}`: file `{name}` was altered or cut short "
                "(its SHA-256 differs from the manifest); fetch or merge the bundle again"
            )
    strange = present - set(manifest.files) - {MANIFEST}
    if unlisted := sorted(name for name in strange if not is_card_file(name)):
        raise BundleError(
            f"bundle `{path}`: file `{unlisted[0]}` is not listed in the manifest; "
            "remove it, a sealed bundle holds nothing else"
        )


def _file_names(path: Path) -> list[str]:
    """Relative POSIX paths of all files but the hidden ones that git and the Hub add."""
    names = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    return sorted(
        str(PurePosixPath(name)) for name in names if not any(p.startswith(".") for p in name.parts)
    )


def _digest(values: dict[str, Any]) -> str:
    canonical = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _to_bytes(manifest: Manifest) -> bytes:
    values = manifest.model_dump(mode="json")
    values["manifest_sha256"] = _digest(values)
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _from_bytes(data: bytes, file: Path) -> Manifest:
    altered = BundleError(f"`{file}` was altered or cut short; fetch or merge the bundle again")
    try:
        values = json.loads(data)
        version = values.pop("schema_version")
        digest = values.pop("manifest_sha256")
    except (ValueError, KeyError, AttributeError) as error:
        raise altered from error
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"`{file}` has schema version {version!r}, this Textloop reads {SCHEMA_VERSION}; "
            "merge the run again, or use the version of Textloop that made the bundle"
        )
    try:
        manifest = Manifest(schema_version=version, **values)
    except ValidationError as error:
        raise altered from error
    # Compared as bytes, so that no altered byte passes, white space included.
    if digest != _digest(manifest.model_dump(mode="json")) or _to_bytes(manifest) != data:
        raise altered
    return manifest
