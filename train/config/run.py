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
from train.config.auto import AutoSection
from train.config.data import READING, DataConfig
from train.config.lora import LoraSection
from train.config.names import BUNDLE, string_keys
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
from train.config.trainer_keys import check_names_and_types, check_values


class ModelConfig(Config):
    """The pretrained model to start from, and its head."""

    base: str
    """A directory, package:NAME/PATH, a Hub id, or bundle:DIR to go on from a bundle's weights."""

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

    probe_l2: Annotated[float, Field(gt=0)] | None = None
    """L2 penalty of the probe on standardized features; null: 10, or what auto chooses."""

    head_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Learning rate of the head; null: the base's, or a tenth of it for lora with a probe."""

    quantize: Literal["4bit"] | None = None
    """Keep the frozen weights in 4 bits under method lora (QLoRA); needs bitsandbytes."""

    @property
    def starts_from_bundle(self) -> bool:
        """True if the base is a bundle, whose training goes on."""
        return self.base.startswith(BUNDLE)


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
                raise ValueError(
                    f"`loss.class_weights`: the weight of {label!r} must be a finite number over 0"
                )
        return string_keys(value)

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of the target that is spread evenly over all labels."""


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

    method: Literal["auto", "probe", "lora", "full"] = "lora"
    """Fit the last layer only, train low-rank adapters and the head, or all; auto: see `auto`."""

    data: DataConfig
    model: ModelConfig
    auto: AutoSection = AutoSection()
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
        if self.method == "auto" and self.model.head_init == "random":
            raise ValueError(
                "`method: auto` starts LoRA from the probe that it is compared with; remove "
                "model.head_init, or set method: lora"
            )
        if self.method == "auto" and self.auto.stock and self.model.pooling == "mean":
            raise ValueError("`auto.stock` rules `model.pooling: mean` out; remove one of the two")
        if self.data.label_columns and self.task != "multi_label":
            raise ValueError("`data.label_columns` needs task: multi_label")
        if self.task == "multi_label" and self.calibration.positive_label is not None:
            raise ValueError(
                "`calibration.positive_label` needs task: single_label with two labels; a "
                "multi_label model gets a threshold per label (calibration.thresholds)"
            )
        if len(set(self.data.text_columns)) != len(self.data.text_columns):
            raise ValueError(f"`data.text_columns` names {self.data.text_columns[0]!r} twice")
        return self

    def _check_quantize(self) -> None:
        if self.method not in ("lora", "auto"):
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
        left_out = {*NOT_TRAINING, *(f"data.{key}" for key in READING), *UNUSED[self.method]}
        if by_logging:  # transformers then evaluates every so many steps
            left_out -= {"trainer.logging_steps"}
        return without(settings, left_out)

    @property
    def is_pair(self) -> bool:
        """True if the texts are pairs."""
        return len(self.data.text_columns) == 2
