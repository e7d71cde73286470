"""Configuration sections that do not affect training, and the list of all such keys of a run."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from serve.config import Config
from train.config.names import Label, Names, free_in_predictions

NOT_TRAINING = frozenset(
    {
        "output_dir",
        "cpu_threads",
        "export_int8",
        "gate",
        "calibration",
        "evaluation",
        "audit",
        "publish",
        "tune",
        *(
            f"trainer.{name}"
            for name in (
                "logging_steps",
                "logging_strategy",
                "logging_first_step",
                "log_level",
                "log_level_replica",
                "log_on_each_node",
                "disable_tqdm",
                "report_to",
                "run_name",
                "project",
                "trackio_space_id",
                "trackio_bucket_id",
                "trackio_static_space_id",
                "include_num_input_tokens_seen",
                "skip_memory_metrics",
                "save_total_limit",
                "save_on_each_node",
                "enable_jit_checkpoint",
                "push_to_hub",
                "hub_model_id",
                "hub_strategy",
                "hub_private_repo",
                "hub_always_push",
                "hub_revision",
                "dataloader_num_workers",
                "dataloader_pin_memory",
                "dataloader_persistent_workers",
                "dataloader_prefetch_factor",
                "dataloader_multiprocessing_context",
                "ddp_timeout",
            )
        ),
    }
)
"""Keys and sections of a run that do not affect the trained weights."""

UNUSED = {
    "auto": (),
    "lora": ("auto",),
    "full": ("lora", "auto"),
    "probe": (
        "auto",
        "lora",
        "trainer",
        "early_stopping_patience",
        "model.quantize",
        "model.trained_layers",
        "model.head_init",
        "model.head_learning_rate",
    ),
}
"""Keys and sections that do not affect the weights under each `method`. A run may set them, so
that the method is an override of any configuration; `fit` says which it does not use."""


def without(settings: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return settings without these dotted keys; those that are not there are no mistake."""
    kept = copy.deepcopy(settings)
    for key in keys:
        *sections, last = key.split(".")
        inner: Any = kept
        for section in sections:
            inner = inner.get(section, {})
        inner.pop(last, None)
    return kept


class GateSection(Config):
    """Requirements that a candidate must meet to replace the champion (`textloop gate`)."""

    require: Literal["superior", "non_inferior"] = "superior"
    """Whether accuracy must be better than the champion's, or only not worse by margin."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Significance level: maximum probability of passing a candidate that fails `require`."""

    margin: Annotated[float, Field(gt=0, lt=1)] = 0.005
    """Non-inferiority margin: accuracy loss (fraction) at or above which a candidate is worse."""

    f1_margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Macro-F1 loss (fraction) that must be ruled out at significance level alpha."""

    max_recall_drop: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Maximum drop of a label's recall (fraction); only a significantly larger one is refused."""

    min_new_recall: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Lowest recall (fraction), on the test rows, of a label that only the candidate knows."""

    min_new_precision: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Lowest precision (fraction), on the test rows, of a label that only the candidate knows."""

    max_ece: Annotated[float, Field(gt=0, le=1)] | None = None
    """Expected calibration error that a candidate is refused for if shown to exceed; null: none."""

    max_ece_increase: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Increase of that error over the champion's; only one shown to be larger is refused."""

    max_latency_ratio: Annotated[float, Field(gt=0)] | None = 1.25
    """Maximum median single-text latency relative to the champion's; null skips the check."""

    latency_samples: Annotated[int, Field(ge=10)] = 200
    """Number of texts that both models are timed on, one by one and in turns."""

    min_test_rows: Annotated[int, Field(ge=1)] = 200
    """Minimum number of test rows; with fewer the gate decides nothing."""

    resamples: Annotated[int, Field(ge=200)] = 2000
    """Bootstrap resamples of the test rows for the intervals of macro-F1 and calibration error."""


Target = Literal["objective", "min_precision", "min_recall", "costs"]
TARGETS: tuple[Target, ...] = get_args(Target)
"""Keys of `calibration` that a decision threshold is chosen for; one of them at most is set."""


class CostsSection(Config):
    """Costs of the two errors of a binary task, in any unit."""

    false_positive: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Cost of predicting the positive label where it is not the true one."""

    false_negative: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Cost of not predicting the positive label where it is the true one."""


class CalibrationSection(Config):
    """What `merge` fits on the validation split in addition to the weights."""

    temperature: bool = True
    """Apply temperature scaling, if it lowers the log-loss by more than chance does."""

    thresholds: bool = True
    """Multi-label: tune one decision threshold per label for F1 instead of 0.5."""

    max_risk: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Maximum selective risk (error rate on answered texts); null disables abstention."""

    risk_confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Confidence level at which the abstention threshold guarantees `max_risk`."""

    positive_label: Label | None = None
    """Binary tasks: the label that precision, recall and the decision threshold are about."""

    objective: Literal["f1"] | None = None
    """Choose the probability from which `positive_label` is predicted for the best F1."""

    min_precision: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Choose it to guarantee this precision; of the thresholds that do, the best recall."""

    min_recall: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Choose it to guarantee this recall; of the thresholds that do, the best precision."""

    costs: CostsSection | None = None
    """Choose it for the least total cost of errors."""

    threshold_confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Confidence level at which the threshold guarantees `min_precision` or `min_recall`."""

    @property
    def target(self) -> Target | None:
        """The key that a decision threshold is chosen for; None: there is none."""
        return next((name for name in TARGETS if getattr(self, name) is not None), None)

    @model_validator(mode="after")
    def _check_threshold(self) -> Self:
        wished = [f"`{name}`" for name in TARGETS if getattr(self, name) is not None]
        if len(wished) > 1:
            raise ValueError(
                f"{' and '.join(wished)} are set; a threshold is chosen for one of them: remove "
                "the others"
            )
        if wished and self.positive_label is None:
            raise ValueError(
                f"{wished[0]} is set but `positive_label` is not; set it to the label that is meant"
            )
        guaranteed = self.min_precision is not None or self.min_recall is not None
        if self.threshold_confidence != 0.95 and not guaranteed:
            raise ValueError(
                "`threshold_confidence` is set but neither `min_precision` nor `min_recall` is; "
                "set one of them as well"
            )
        return self

    @model_validator(mode="after")
    def _check_risk(self) -> Self:
        if self.risk_confidence != 0.95 and self.max_risk is None:
            raise ValueError("`risk_confidence` is set but `max_risk` is not; set it as well")
        return self


class EvaluationSection(Config):
    """What `evaluate` reports in addition to the overall metrics."""

    slice_columns: Names = ()
    """Columns of the test data, such as language or channel, to evaluate separately by value."""

    id_columns: Annotated[Names, AfterValidator(free_in_predictions)] = ()
    """Columns of the test data to copy into predictions.parquet, such as the key of a record."""


Normalization = Literal["unicode", "html", "case", "punctuation", "whitespace"]


class AuditSection(Config):
    """What `prepare` looks for; no setting changes a text or a label."""

    normalize: Annotated[tuple[Normalization, ...], Field(min_length=1)] = (
        "unicode",
        "case",
        "punctuation",
        "whitespace",
    )
    """Differences ignored between duplicates: unicode, html, case, punctuation, whitespace."""

    near_duplicate_threshold: Annotated[float, Field(ge=0.5, lt=1)] | None = 0.8
    """Jaccard similarity of character 5-grams from which texts are near duplicates; null: off."""

    rare_label_threshold: Annotated[int, Field(ge=2)] = 10
    """Labels with fewer training rows than this are reported as rare."""

    label_errors: bool = True
    """Look for label errors with the frozen base; takes a forward pass over all rows."""

    folds: Annotated[int, Field(ge=2)] = 5
    """Number of cross-validation folds for label-error detection."""

    rows_shown: Annotated[int, Field(ge=1)] = 50
    """Maximum number of rows shown per finding, worst first; all are counted."""


class PublishSection(Config):
    """Where `publish` puts the sealed bundle, and what to add to its model card."""

    to: Annotated[str, Field(min_length=1)] | None = None
    """hub:OWNER/NAME, s3://BUCKET/PREFIX or a directory; null requires `publish --to`."""

    private: bool = True
    """Create a new Hub repository as private; an existing one keeps its visibility."""

    tag: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None
    """Name of the published version; null uses the bundle's version, a hash of its content."""

    @field_validator("tag")
    @classmethod
    def _refuse_pointers(cls, tag: str | None) -> str | None:
        if tag in ("latest", "main"):
            raise ValueError("reserved for the newest version; tags are immutable, choose another")
        return tag

    adapter: bool = False
    """Publish the adapter as well, at the same target with -adapter appended."""

    license: str | None = None
    """License identifier for the card, such as apache-2.0; null omits it."""

    language: Names = ()
    """Language codes of the texts for the card, such as [en]."""

    base_model: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")] | None = None
    """Hub id of the base model for the card; null uses model.base if that is a Hub id."""

    description: str | None = None
    """Purpose of the model, in Markdown; the card's first paragraph."""
