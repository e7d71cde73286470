"""Sections of a run's configuration that do not affect training, and the list of all such keys."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from serve.config import Config

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
    }
)
"""Keys and sections of a run that do not affect the trained weights."""


class GateSection(Config):
    """What a candidate must show to take the champion's place (`train gate`)."""

    require: Literal["superior", "non_inferior"] = "superior"
    """Show that accuracy is better than the champion's, or that it is not worse by margin."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Highest probability of passing a candidate that is not what `require` asks."""

    margin: Annotated[float, Field(gt=0, lt=1)] = 0.005
    """Loss of accuracy, a fraction, from which on a candidate counts as worse."""

    f1_margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Loss of macro-F1, a fraction, that must be ruled out with error alpha."""

    max_recall_drop: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Loss of one label's recall, a fraction, over which a candidate is refused once shown."""

    max_ece: Annotated[float, Field(gt=0, le=1)] | None = None
    """Highest expected calibration error of a candidate; None sets no such limit."""

    max_ece_increase: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Highest rise of the expected calibration error over the champion's."""

    max_latency_ratio: Annotated[float, Field(gt=0)] | None = 1.25
    """Median time of one text over the champion's; None does not measure it."""

    latency_samples: Annotated[int, Field(ge=10)] = 200
    """Texts that each of the two is timed on, one by one and in turns."""

    min_test_rows: Annotated[int, Field(ge=1)] = 200
    """Test rows below which nothing is decided."""

    resamples: Annotated[int, Field(ge=200)] = 2000
    """Resamples of the test rows for the intervals of macro-F1 and calibration error."""


class CalibrationSection(Config):
    """What `merge` fits on the validation split, beside the weights."""

    temperature: bool = True
    """Scale the logits so that probabilities say how often they are right."""

    thresholds: bool = True
    """Multi-label: choose the least probability of each label for the best F1, in place of 0.5."""

    max_risk: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Accepted share of wrong ones among the answers, to abstain for; None never abstains."""

    risk_confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Probability with which the abstention threshold must keep to `max_risk`."""

    @model_validator(mode="after")
    def _check_risk(self) -> Self:
        if self.risk_confidence != 0.95 and self.max_risk is None:
            raise ValueError("`risk_confidence` is set but `max_risk` is not; set it as well")
        return self


class EvaluationSection(Config):
    """What `evaluate` looks at beside the texts and labels."""

    slice_columns: tuple[str, ...] = ()
    """Columns of the test data, such as language or channel, whose values are judged apart."""


Normalization = Literal["unicode", "html", "case", "punctuation", "whitespace"]


class AuditSection(Config):
    """What `prepare` looks for; nothing here changes a text or a label."""

    normalize: Annotated[tuple[Normalization, ...], Field(min_length=1)] = (
        "unicode",
        "case",
        "punctuation",
        "whitespace",
    )
    """What does not tell copies apart: unicode, html, case, punctuation, whitespace."""

    near_duplicate_threshold: Annotated[float, Field(ge=0.5, lt=1)] | None = 0.8
    """Share of common five-character pieces from which texts are near copies; None: not sought."""

    rare_label_threshold: Annotated[int, Field(ge=2)] = 10
    """A label with fewer training rows than this is reported as rare."""

    label_errors: bool = True
    """Look for wrong labels with the frozen base; takes a forward pass over all rows."""

    folds: Annotated[int, Field(ge=2)] = 5
    """Parts of train; each is judged by linear models that were fitted on the others."""

    rows_shown: Annotated[int, Field(ge=1)] = 50
    """Rows in the report per finding, worst first; all are counted."""


class PublishSection(Config):
    """Where `publish` puts the sealed bundle, and what its model card says beyond the facts."""

    to: Annotated[str, Field(min_length=1)] | None = None
    """hub:OWNER/NAME, s3://BUCKET/PREFIX or a directory; None asks for `publish --to`."""

    private: bool = True
    """Make a new Hub repository private; one that exists keeps its visibility."""

    tag: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None
    """Name of what is published; None takes the bundle's version, which names its content."""

    @field_validator("tag")
    @classmethod
    def _refuse_pointers(cls, tag: str | None) -> str | None:
        if tag in ("latest", "main"):
            raise ValueError("that name is for the newest version, a tag names one for ever")
        return tag

    adapter: bool = False
    """Publish the adapter as well, beside the bundle, at the same place with -adapter added."""

    license: str | None = None
    """Licence identifier for the card, such as apache-2.0; None states none."""

    language: tuple[str, ...] = ()
    """Language codes of the texts for the card, such as [en]."""

    base_model: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")] | None = None
    """Hub id of the base for the card; None takes model.base where that is one."""

    description: str | None = None
    """What the model is for, in Markdown, as the card's first paragraph."""
