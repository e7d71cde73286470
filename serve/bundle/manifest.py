"""The manifest: what a bundle states about itself.

A bundle is a standard Hugging Face model directory plus `manifest.json`, which holds the
SHA-256 of every other file and of itself. `serve.bundle.seal` writes, reads and verifies it;
`serve.inference.predictor` runs the model.

A published bundle also holds card files: `README.md`, the model card, and the plots that it
shows, `evaluation/*.png`. They are for people, no program here reads them, and they are written
after sealing; so they are outside the manifest and the version, and may change or be missing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from serve.config import FrozenModel

MANIFEST = "manifest.json"
SCHEMA_VERSION = 3
CARD = "README.md"
PLOTS = "evaluation"


class BundleError(ValueError):
    """A directory that is not a whole, unaltered bundle; the message names the file."""


class Measured(FrozenModel):
    """A metric's value with its two-sided 95 % interval."""

    value: float
    """Point estimate."""

    low: float | None = None
    """Lower end of the interval; None where no interval is known."""

    high: float | None = None
    """Upper end of the interval; None where no interval is known."""

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        """`value [low, high]`, each number formatted by `spec`, by default `.4f`."""
        spec = spec or ".4f"
        if self.low is None or self.high is None:
            return format(self.value, spec)
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


class Int8Export(FrozenModel):
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


class Abstention(FrozenModel):
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


class Calibration(FrozenModel):
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


class TokenizerRules(FrozenModel):
    """What a text encoder needs to know beside `tokenizer.json`."""

    fast: bool
    """Whether the tokenizer is all in that file, so that transformers is not needed."""

    columns: tuple[str, ...]
    """What an encoding holds, input_ids first."""

    fill: dict[str, int]
    """What each column is padded with."""

    truncation_side: Literal["left", "right"]
    """The side at which long texts are cut."""


class Manifest(FrozenModel):
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
        return digest_of(self.model_dump(mode="json", exclude={"metrics"}))[:12]


def digest_of(values: dict[str, Any]) -> str:
    """SHA-256 of values in canonical JSON: sorted keys, no white space."""
    canonical = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def is_card_file(name: str) -> bool:
    """Whether a path in a bundle is that of the model card or of one of its plots."""
    path = PurePosixPath(name)
    return name == CARD or (str(path.parent) == PLOTS and path.suffix == ".png")
