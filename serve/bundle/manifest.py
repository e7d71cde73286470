"""The manifest of a bundle: its schema and version.

A bundle is a standard Hugging Face model directory plus `manifest.json`, which contains
the SHA-256 of every other file and of itself. `serve.bundle.seal` writes, reads and verifies
it; `serve.inference.predictor` runs the model.

A published bundle also contains card files: `README.md`, the model card, and its plots,
`evaluation/*.png`. They are for people, no program here reads them, and they are written
after sealing; so they are outside the manifest and the version, and may change or be missing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from serve.bundle.binary import DecisionThreshold
from serve.config import FrozenModel
from serve.language.lines import one_line

MANIFEST = "manifest.json"
SCHEMA_VERSIONS = (3, 4)
"""Schemas that are read. Bundles of schema 3 have no golden cases."""
CARD = "README.md"
PLOTS = "evaluation"


# A field that is added to a manifest is left out of its JSON at its default (`exclude_if`), so
# that the digest of an older manifest stays the one that it states.


class BundleError(ValueError):
    """The directory is not a complete, unaltered bundle; the message names the file.

    The message is one line, whatever names and values of the bundle it repeats.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Measured(FrozenModel):
    """The value of a metric with its two-sided 95 % interval."""

    value: float
    """Point estimate."""

    low: float | None = None
    """Lower bound; null if there is no interval."""

    high: float | None = None
    """Upper bound; null if there is no interval."""

    by_chance: float | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of a calibration error: what a calibrated model exceeds on 5 % of test sets of this size."""

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        """`value [low, high]`, each number formatted by `spec`, by default `.4f`."""
        spec = spec or ".4f"
        text = format(self.value, spec)
        if self.low is not None and self.high is not None:
            text += f" [{self.low:{spec}}, {self.high:{spec}}]"
        if self.by_chance is not None:
            text += f"; a calibrated model shows up to {self.by_chance:{spec}} on as many rows"
        return text


class Int8Export(FrozenModel):
    """Comparison of the int8 export with full precision on the validation split."""

    shipped: bool
    """Whether the bundle contains the export."""

    reason: str
    """The reason, in one sentence with the figures."""

    texts: int = 0
    """Number of texts compared."""

    agreement: float | None = None
    """Fraction of texts with the same predicted labels."""

    accuracy_fp32: float | None = None
    """Accuracy of the full-precision model."""

    accuracy_int8: float | None = None
    """Accuracy of the export."""

    difference: Measured | None = None
    """Accuracy of the export minus that of full precision, with a paired interval."""

    max_logit_difference: float | None = None
    """Largest absolute difference between two logits."""


class Abstention(FrozenModel):
    """The confidence threshold for abstention, chosen to limit the selective risk."""

    max_risk: float
    """Maximum selective risk: the error rate on answered texts."""

    risk_confidence: float
    """Probability with which the threshold satisfies `max_risk`."""

    abstain_below: float | None
    """Confidence below which to abstain; null if no threshold satisfies `max_risk`."""

    reason: str
    """How the threshold was chosen, or why there is none, with the figures."""

    rows: int
    """Number of validation rows that tested it; they chose nothing else but the checkpoint."""

    checkpoints: int = Field(default=1, exclude_if=lambda value: value == 1)
    """Number of checkpoints that these rows chose among; the guarantee covers all of them."""

    answered: int = 0
    """Number of those rows that are answered."""

    errors: int = 0
    """Number of answered rows that are wrong."""


class Calibration(FrozenModel):
    """Parameters fitted on the validation split after training."""

    temperature: float = 1.0
    """Divisor of the trained logits; it is folded into the weights of the last layer."""

    thresholds: tuple[float, ...] | None = None
    """Decision thresholds of a multi-label model, in label order; null: 0.5."""

    decision: dict[str, DecisionThreshold] = Field(
        default_factory=dict, exclude_if=lambda value: not value
    )
    """Thresholds of a binary model by backend (torch, onnx); empty: the best label is predicted."""

    abstention: dict[str, Abstention] = Field(default_factory=dict)
    """Thresholds by backend (torch, onnx); empty if no maximum risk was configured."""

    rows: int
    """Number of validation rows that temperature and thresholds were fitted on."""

    log_loss_before: float
    """Log loss of the trained model on these rows, in nats."""

    log_loss_after: float
    """Log loss after calibration."""

    ece_before: float
    """Expected calibration error of the trained model on these rows."""

    ece_after: float
    """Expected calibration error after calibration."""

    notes: tuple[str, ...] = ()
    """Sentences on what was done, and caveats."""


class TokenizerRules(FrozenModel):
    """Tokenizer settings that `tokenizer.json` does not contain."""

    fast: bool
    """Whether `tokenizer.json` is sufficient, so that transformers is not needed."""

    columns: tuple[str, ...]
    """Names of the arrays in an encoding, input_ids first."""

    fill: dict[str, int]
    """Padding value of each column."""

    truncation_side: Literal["left", "right"]
    """Side on which long texts are truncated."""


class Manifest(FrozenModel):
    """The manifest of a bundle."""

    schema_version: Literal[3, 4] = 4
    """Version of this layout; new bundles have 4."""

    task: Literal["single_label", "multi_label"]
    """One label per text, or any number of them."""

    labels: tuple[str, ...]
    """Label names in the order of the model's outputs."""

    text_columns: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)]
    """Names of the input columns; two for a model of text pairs."""

    max_length: int
    """Maximum tokens per input, special tokens included; longer inputs are truncated."""

    tokenizer: TokenizerRules
    """Tokenizer settings that `tokenizer.json` does not contain."""

    base_model: dict[str, Any]
    """Name and revision of the pretrained model, and the SHA-256 of its weights; with `imported`
    true, of the classifier itself."""

    config: dict[str, Any]
    """The run's resolved configuration."""

    choice: dict[str, Any] | None = Field(default=None, exclude_if=lambda value: value is None)
    """What `method: auto` chose, with its reason and the figures; null for another method."""

    data: dict[str, Any]
    """Number of rows and SHA-256 over the rows of each split."""

    parity: dict[str, float]
    """Largest absolute logit differences between the adapter, merged and reloaded models, and on
    the golden cases between each precision and fp32."""

    int8: Int8Export | None = None
    """The int8 export for CPUs, or why there is none; null if it was not requested."""

    calibration: Calibration | None = None
    """Temperature, label thresholds and abstention; null if none was requested."""

    metrics: dict[str, dict[str, Measured]] = Field(default_factory=dict)
    """Metrics of each evaluated split."""

    code_revision: str | None
    """Commit of the code that made the bundle; null outside a git checkout."""

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
    def is_imported(self) -> bool:
        """Whether the model was trained elsewhere, on rows that nobody here knows."""
        return self.base_model.get("imported") is True

    @property
    def version(self) -> str:
        """Twelve hex digits that identify the weights and their provenance, not their metrics."""
        return digest_of(self.model_dump(mode="json", exclude={"metrics"}))[:12]


def digest_of(values: dict[str, Any]) -> str:
    """Return the SHA-256 of values in canonical JSON: sorted keys, no whitespace."""
    canonical = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def is_card_file(name: str) -> bool:
    """Return whether a path in a bundle is the model card or one of its plots."""
    path = PurePosixPath(name)
    return name == CARD or (str(path.parent) == PLOTS and path.suffix == ".png")
