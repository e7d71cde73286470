"""The configuration of a run: one YAML file, shared by all stages.

`fit`, `merge`, `evaluate` and `gate` take the same file and overrides and find each other's results
under `output_dir`. For how YAML and overrides are read, see `serve.config`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from serve.config import Config
from train.config.lora import LoraSection
from train.config.search_space import TuneSection
from train.config.sections import (
    NOT_TRAINING,
    UNUSED,
    AuditSection,
    CalibrationSection,
    EvaluationSection,
    GateSection,
    PublishSection,
    without,
)
from train.config.template_spec import Feature, fields_of
from train.config.trainer_keys import check_names_and_types, check_values


class DeriveSection(Config):
    """A word derived from a column with a time."""

    column: str
    """Column with a time: ISO 8601, a database's own type, or seconds since 1970 (UTC)."""

    feature: Feature
    """hour (00 to 23), time_of_day (night, morning, afternoon, evening), weekday or month."""


class DataConfig(Config):
    """Sources of the labelled text, and how their rows are read."""

    train: str
    """File or URL of .csv, .tsv, .jsonl, .parquet; sql:URL#QUERY; or hub:OWNER/NAME#SPLIT."""

    validation: str | None = None
    """Same forms; null splits off a part of train by the hash of the text."""

    test: str | None = None
    """Same forms; null splits off a part of train by the hash of the text."""

    text_columns: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = ("text",)
    """Column with the text; two columns for text pairs."""

    template: str | None = None
    """Format of a text built from columns, "{title}: {body}"; clients must send the same format."""

    derive: dict[str, DeriveSection] = Field(default_factory=dict)
    """Additional names for the template, {hour: {column: created_at, feature: hour}}."""

    label_column: str = "label"
    """Column with the label; for multi-label a list, or a string to split at label_separator."""

    label_separator: str = "|"
    """Separator of the labels in a multi-label string, as in CSV files."""

    label_map: dict[str, str] = Field(default_factory=dict)
    """New names for labels; labels that are not listed keep their names."""

    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction of train to use as validation if no validation source is set."""

    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction of train to use as test if no test source is set."""

    @field_validator("label_map", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return _string_keys(value)

    drop_invalid_rows: bool = False
    """Skip rows without text or label and report their number, instead of refusing the data."""

    fixes: str | None = None
    """Reviewed fixes.jsonl of `prepare`, with rows to drop or relabel before the split."""

    fixes_max_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Largest fraction of all rows that `fixes` may change; a file that changes more is refused."""

    fixes_change_test: bool = False
    """Whether `fixes` may change rows of the test split."""

    group_by_length: bool = True
    """Group texts of similar length into batches to reduce padding; the batch size is unchanged."""

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        if self.template is None:
            if self.derive:
                raise ValueError("`derive` is set, but there is no `template` to use it; remove it")
            return self
        if len(self.text_columns) > 1:
            raise ValueError("`template` makes one text; remove the second of `text_columns`")
        if unused := sorted(set(self.derive) - set(fields_of(self.template))):
            raise ValueError(f"`derive.{unused[0]}` is not in the `template`")
        return self


class ModelConfig(Config):
    """The pretrained model to start from, and its head."""

    base: str
    """A directory, package:NAME/PATH for one inside an installed package, or a Hub id."""

    revision: str | None = None
    """Commit, tag or branch; required for a Hub model."""

    pad_token: Annotated[str, Field(min_length=1)] | None = None
    """Token of the base's vocabulary to pad with, for bases without one, such as GPT-2."""

    max_length: Annotated[int, Field(ge=4)] = 128
    """Maximum tokens per input, including special tokens; longer texts are truncated."""

    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout of the base during training; null keeps the base's own."""

    trained_layers: Annotated[int, Field(ge=1)] | None = None
    """Number of top layers to train; those below are frozen and their outputs cached; null: all."""

    pooling: Literal["native", "mean"] = "native"
    """Input of the head: the architecture's own pooling, or the mean over tokens."""

    head_init: Literal["probe", "random"] = "probe"
    """Initialize the head from a linear probe on the frozen features, or at random."""

    head_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Learning rate of the head; null: the base's, or a tenth of it for lora with a probe."""

    quantize: Literal["4bit"] | None = None
    """Keep the frozen weights in 4 bits under method lora (QLoRA); needs bitsandbytes."""


class LossSection(Config):
    """The loss function, for training and for evaluation during training."""

    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """Weight per label, over 0; balanced weights each label by its inverse frequency."""

    @field_validator("class_weights", mode="before")
    @classmethod
    def _check_weights(cls, value: Any) -> Any:
        if value is None or value == "balanced":
            return value
        if not isinstance(value, dict):
            raise ValueError("expected `balanced`, or a weight per label such as {spam: 2.0}")
        for label, weight in value.items():
            is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not (is_number and math.isfinite(weight) and weight > 0):
                raise ValueError(f"the weight of {label!r} must be a finite number over 0")
        return _string_keys(value)

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of the target that is spread evenly over all labels."""


def _string_keys(value: Any) -> Any:
    """Turn keys into strings: YAML reads the label 0 as a number."""
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else value


def _changed(section: Config) -> list[str]:
    """Return the names of the fields that differ from their defaults."""
    extra = section.model_extra or {}
    return [
        *(
            name
            for name, field in type(section).model_fields.items()
            if getattr(section, name) != field.default
        ),
        *extra,
    ]


class RunConfig(Config):
    """The configuration of a run."""

    output_dir: Path
    """Directory of the run: checkpoints/, adapter/, bundle/, evaluation/."""

    seed: int = 0
    """Random seed of initialization, data order and dropout."""

    task: Literal["single_label", "multi_label"] = "single_label"
    """One label per text, or any number of them."""

    method: Literal["probe", "lora", "full"] = "lora"
    """Fit the last layer only, or train low-rank adapters and the head, or all weights."""

    data: DataConfig
    model: ModelConfig
    lora: LoraSection = LoraSection()
    loss: LossSection = LossSection()
    gate: GateSection = GateSection()
    calibration: CalibrationSection = CalibrationSection()
    evaluation: EvaluationSection = EvaluationSection()
    audit: AuditSection = AuditSection()
    publish: PublishSection = PublishSection()

    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    """Evaluations without improvement after which training stops; null disables early stopping."""

    cpu_threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads per process; null divides all cores among the local processes."""

    export_int8: bool = True
    """Let `merge` make an int8 export for CPUs, included only if it passes its parity check."""

    trainer: dict[str, Any] = Field(default_factory=dict)
    """Fields of transformers.TrainingArguments under their own names."""

    tune: TuneSection = Field(default=TuneSection(), exclude=True)  # not part of a run's identity

    @model_validator(mode="after")
    def _check_sections(self) -> Self:
        check_names_and_types(self.trainer)
        if self.method != "probe":
            check_values(self.trainer)
        if self.model.quantize and self.method != "probe":
            self._check_quantize()
        if len(set(self.data.text_columns)) != len(self.data.text_columns):
            raise ValueError(f"`data.text_columns` names {self.data.text_columns[0]!r} twice")
        return self

    def _check_quantize(self) -> None:
        if self.method != "lora":
            raise ValueError(
                f"`model.quantize` is set but `method` is {self.method}; remove it or set "
                "method: lora"
            )
        lora = self.lora.model_extra or {}
        if lora.get("use_dora") or lora.get("init_lora_weights") in ("olora", "pissa"):
            raise ValueError(
                "`model.quantize` goes with plain adapters; remove lora.use_dora and "
                "lora.init_lora_weights"
            )

    def ignored_settings(self) -> tuple[str, ...]:
        """Return the keys that are set but have no meaning under `method`.

        So `method=probe` and `method=full` are overrides of any configuration.
        """
        return tuple(self._ignored())

    def _ignored(self) -> Iterator[str]:
        for key in UNUSED[self.method]:
            section, _, name = key.partition(".")
            value = getattr(self, section)
            if key == "trainer":
                yield from (f"trainer.{each}" for each in sorted(set(value) - {"use_cpu"}))
            elif name and name in _changed(value):
                yield key
            elif not name and isinstance(value, Config):
                yield from (f"{key}.{each}" for each in _changed(value))
            elif not name and value is not None:
                yield key

    @property
    def quantize(self) -> Literal["4bit"] | None:
        """`model.quantize` under method lora, None under the others."""
        return self.model.quantize if self.method == "lora" else None

    def training_settings(self) -> dict[str, Any]:
        """Return the settings that affect the trained weights, as JSON values.

        Data sources are left out: rows are compared by content, not by where they came from.
        """
        settings = self.model_dump(mode="json")
        by_logging = self.trainer.get("eval_strategy") == "steps" and not self.trainer.get(
            "eval_steps"
        )
        data = ("train", "validation", "test", "fixes", "fixes_max_fraction", "fixes_change_test")
        left_out = {*NOT_TRAINING, *(f"data.{key}" for key in data), *UNUSED[self.method]}
        if by_logging:  # transformers then evaluates every so many steps
            left_out -= {"trainer.logging_steps"}
        return without(settings, left_out)

    @property
    def is_pair(self) -> bool:
        """True if the texts are pairs."""
        return len(self.data.text_columns) == 2
