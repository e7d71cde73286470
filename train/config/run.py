"""The configuration of a run: one YAML file, shared by all stages.

`fit`, `merge`, `evaluate` and `gate` take the same file and overrides and find each other's results
under `output_dir`. For how YAML and overrides are read, see `serve.config`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from serve.config import Config
from train.config.data import READING, DataConfig
from train.config.lora import LoraSection
from train.config.names import string_keys
from train.config.search_space import TuneSection
from train.config.sections import (
    NOT_TRAINING,
    AuditSection,
    CalibrationSection,
    EvaluationSection,
    GateSection,
    PublishSection,
)

_OWNED = {
    "output_dir": "set output_dir",
    "seed": "set seed",
    "data_seed": "set seed",
    "label_smoothing_factor": "set loss.label_smoothing",
    "train_sampling_strategy": "set data.group_by_length",
    "group_by_length": "set data.group_by_length",
    "remove_unused_columns": "set data.text_columns and data.label_column",
    "resume_from_checkpoint": "a rerun resumes automatically, and `fit --fresh` restarts",
    "do_train": "`fit` always trains",
    "do_eval": "set trainer.eval_strategy",
    "load_best_model_at_end": "the best checkpoint is always kept",
    "save_only_model": "a checkpoint without optimizer state cannot be resumed",
    "dataloader_drop_last": "the sampler returns complete global batches",
    "auto_find_batch_size": "set trainer.per_device_train_batch_size",
    "batch_eval_metrics": "metrics are computed on all rows at once",
    "accelerator_config": "batch distribution across processes cannot be changed",
    "ignore_data_skip": "a resumed run sees the same rows as an uninterrupted one",
    "restore_callback_states_from_checkpoint": "callbacks are always restored",
    "hub_token": "set HF_TOKEN or run `hf auth login`; configurations are published",
}
"""Fields of TrainingArguments that Textloop sets, and what to set instead."""


class ModelConfig(Config):
    """The pretrained model to start from, and its head."""

    base: str
    """A directory, package:NAME/PATH for one inside an installed package, or a Hub id."""

    revision: str | None = None
    """Commit, tag or branch; required for a Hub model."""

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
    """Weight per label; balanced weights each label by its inverse frequency."""

    @field_validator("class_weights", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return string_keys(value)

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of the target that is spread evenly over all labels."""


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

    @field_validator("trainer")
    @classmethod
    def _refuse_owned(cls, trainer: dict[str, Any]) -> dict[str, Any]:
        for key in trainer:
            if key in _OWNED:
                raise ValueError(f"`trainer.{key}` is managed by Textloop: {_OWNED[key]}")
        return trainer

    @model_validator(mode="after")
    def _check_sections(self) -> Self:
        if self.method != "lora" and self.lora != LoraSection():
            raise ValueError(
                f"`lora` is set but `method` is {self.method}; remove it or set method: lora"
            )
        ignored = sorted(set(self.trainer) - {"use_cpu"})
        if self.method == "probe" and (ignored or self.early_stopping_patience):
            raise ValueError(
                "`method: probe` does not use the Trainer, so "
                f"`{'trainer.' + ignored[0] if ignored else 'early_stopping_patience'}` would be "
                "ignored; remove it"
            )
        if self.method == "probe" and (
            self.model.trained_layers
            or self.model.head_init != "probe"
            or self.model.head_learning_rate
        ):
            raise ValueError(
                "`method: probe` trains no layer and always fits the head; remove "
                "model.trained_layers, model.head_init and model.head_learning_rate"
            )
        if self.model.quantize:
            self._check_quantize()
        if self.data.label_columns and self.task != "multi_label":
            raise ValueError("`data.label_columns` needs task: multi_label")
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

    def training_settings(self) -> dict[str, Any]:
        """Return the settings that affect the trained weights, as JSON values.

        Data sources are left out: rows are compared by content, not by where they came from.
        """
        exclude: Any = {**dict.fromkeys(NOT_TRAINING, True), "data": READING}
        return self.model_dump(mode="json", exclude=exclude)

    @property
    def is_pair(self) -> bool:
        """True if the texts are pairs."""
        return len(self.data.text_columns) == 2
