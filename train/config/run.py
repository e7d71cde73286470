"""The configuration of a run: one YAML, the same for every stage.

`fit`, `merge`, `evaluate` and `gate` take the same file and overrides and find each other's results
under `output_dir`. How YAML and overrides are read is decided in `serve.config`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from serve.config import Config
from train.config.search_space import TuneSection
from train.config.sections import (
    NOT_TRAINING,
    AuditSection,
    CalibrationSection,
    EvaluationSection,
    GateSection,
    PublishSection,
)
from train.config.template_spec import Feature, fields_of

_OWNED = {
    "output_dir": "set output_dir",
    "seed": "set seed",
    "data_seed": "set seed",
    "label_smoothing_factor": "set loss.label_smoothing",
    "train_sampling_strategy": "batches are grouped by length by data.group_by_length",
    "group_by_length": "batches are grouped by length by data.group_by_length",
    "remove_unused_columns": "columns are chosen by data.text_columns and data.label_column",
    "resume_from_checkpoint": "a rerun resumes by itself; `fit --fresh` starts anew",
    "do_train": "`fit` always trains",
    "do_eval": "`fit` evaluates by trainer.eval_strategy",
    "load_best_model_at_end": "the best checkpoint is always kept",
    "save_only_model": "a checkpoint without optimizer state cannot be resumed",
    "dataloader_drop_last": "the sampler gives whole global batches",
    "auto_find_batch_size": "set trainer.per_device_train_batch_size",
    "batch_eval_metrics": "metrics are of all rows at once",
    "accelerator_config": "how batches are shared among processes is fixed",
    "ignore_data_skip": "a resumed run sees each row as an undisturbed one does",
    "restore_callback_states_from_checkpoint": "callbacks are always restored",
    "hub_token": "set HF_TOKEN, or `hf auth login`; a configuration is published",
}
"""Fields of TrainingArguments that Textloop decides, and what to set in their place."""


class DeriveSection(Config):
    """A column made from a time."""

    column: str
    """Column with a time: ISO 8601, a database's own type, or seconds since 1970 (UTC)."""

    feature: Feature
    """hour (00 to 23), time_of_day (night, morning, afternoon, evening), weekday or month."""


class DataConfig(Config):
    """Where the labelled text is."""

    train: str
    """File or URL of .csv, .tsv, .jsonl, .parquet; sql:URL#QUERY; or hub:OWNER/NAME#SPLIT."""

    validation: str | None = None
    """Same forms; without it a part of train is split off by the hash of the text."""

    test: str | None = None
    """Same forms; without it a part of train is split off by the hash of the text."""

    text_columns: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = ("text",)
    """Column with the text; two columns make a model of text pairs."""

    template: str | None = None
    """Makes the text of columns, "{title}: {body}"; clients must send texts made like that."""

    derive: dict[str, DeriveSection] = Field(default_factory=dict)
    """More names for the template, {hour: {column: created_at, feature: hour}}."""

    label_column: str = "label"
    """Column with the label; for multi-label a list, or a string to be cut at separators."""

    label_separator: str = "|"
    """What stands between the labels of a multi-label string, as in CSV."""

    label_map: dict[str, str] = Field(default_factory=dict)
    """New names for labels; labels that it does not name keep theirs."""

    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of train that becomes validation where no validation is named."""

    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of train that becomes test where no test is named."""

    @field_validator("label_map", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return _string_keys(value)

    drop_invalid_rows: bool = False
    """Leave out rows without text or label, and say how many, in place of refusing them."""

    fixes: str | None = None
    """A reviewed fixes.jsonl of `prepare`: rows it drops or labels anew before the split."""

    group_by_length: bool = True
    """Put texts of like length into the same batch: less padding, the same updates' size."""

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        if self.template is None:
            if self.derive:
                raise ValueError("`derive` is set, but there is no `template` that could use it")
            return self
        if len(self.text_columns) > 1:
            raise ValueError("`template` makes one text; name one of `text_columns`")
        if unused := sorted(set(self.derive) - set(fields_of(self.template))):
            raise ValueError(f"`derive.{unused[0]}` is not in the `template`")
        return self


class ModelConfig(Config):
    """Which pretrained model to start from."""

    base: str
    """A directory, package:NAME/PATH for one inside an installed package, or a Hub id."""

    revision: str | None = None
    """Commit, tag or branch of a Hub model; required for one."""

    max_length: Annotated[int, Field(ge=4)] = 128
    """Tokens per input, special tokens included; longer texts are cut."""

    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout of the base while it trains; None keeps the base's own."""

    trained_layers: Annotated[int, Field(ge=1)] | None = None
    """Layers that are trained, from the top; the others are run once per text. None: all."""

    pooling: Literal["native", "mean"] = "native"
    """What the head sees: what the architecture shows it, or the mean of all tokens."""

    head_init: Literal["probe", "random"] = "probe"
    """Start the head from a linear model fitted on the frozen features, or at random."""

    head_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Learning rate of the head. None: that of the rest; under lora with a probe 1/10 of it."""


class LoraSection(Config):
    """Low-rank adapters (peft's LoraConfig); refused where method is not lora."""

    r: Annotated[int, Field(ge=1)] = 16
    """Rank of the update of each weight matrix."""

    alpha: Annotated[int, Field(ge=1)] = 32
    """Scale: the update is multiplied by alpha / r."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' input."""

    target_modules: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get an adapter, or all-linear."""

    rslora: bool = False
    """Scale by alpha / sqrt(r) in place of alpha / r, for large ranks (Kalajdzievski 2023)."""

    dora: bool = False
    """Train each weight's magnitude apart from its direction (Liu et al. 2024); slower."""

    quantize: Literal["4bit"] | None = None
    """Keep the frozen weights in 4 bits while training (QLoRA); needs bitsandbytes."""

    init: Literal["default", "pissa"] = "default"
    """Start from zero, or from the weight's principal components (Meng et al. 2024)."""


class LossSection(Config):
    """The loss, in training and in evaluation during training."""

    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """Weight per label; balanced weighs each label by the inverse of its frequency."""

    @field_validator("class_weights", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return _string_keys(value)

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread evenly over all labels."""


def _string_keys(value: Any) -> Any:
    """YAML reads the label 0 as a number."""
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else value


class RunConfig(Config):
    """A run of any stage."""

    output_dir: Path
    """Directory of the run: checkpoints/, adapter/, bundle/, evaluation/."""

    seed: int = 0
    """Seed of initialisation, order and dropout."""

    task: Literal["single_label", "multi_label"] = "single_label"
    """One label per text, or any number of them."""

    method: Literal["probe", "lora", "full"] = "lora"
    """Fit the last layer alone, or train low-rank adapters and the head, or every weight."""

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
    """Evaluations without a better metric after which training ends; None trains through."""

    cpu_threads: Annotated[int, Field(ge=1)] | None = None
    """Threads per process on the CPU; None shares all cores among the local processes."""

    export_int8: bool = True
    """Let `merge` make an int8 export for CPUs; it ships only if it passes its parity gate."""

    trainer: dict[str, Any] = Field(default_factory=dict)
    """Fields of transformers.TrainingArguments under their own names."""

    tune: TuneSection = Field(default=TuneSection(), exclude=True)  # not part of a run's identity

    @field_validator("trainer")
    @classmethod
    def _refuse_owned(cls, trainer: dict[str, Any]) -> dict[str, Any]:
        for key in trainer:
            if key in _OWNED:
                raise ValueError(f"`trainer.{key}` is not for the trainer section: {_OWNED[key]}")
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
                "`method: probe` needs no Trainer, so "
                f"`{'trainer.' + ignored[0] if ignored else 'early_stopping_patience'}` would be "
                "ignored; remove it"
            )
        if self.method == "probe" and (
            self.model.trained_layers
            or self.model.head_init != "probe"
            or self.model.head_learning_rate
        ):
            raise ValueError(
                "`method: probe` trains no layer and starts no head at random; remove "
                "model.trained_layers, model.head_init and model.head_learning_rate"
            )
        if self.lora.quantize and (self.lora.init == "pissa" or self.lora.dora):
            raise ValueError("`lora.quantize` goes with plain adapters; remove lora.init and dora")
        if len(set(self.data.text_columns)) != len(self.data.text_columns):
            raise ValueError(f"`data.text_columns` names {self.data.text_columns[0]!r} twice")
        return self

    def training_settings(self) -> dict[str, Any]:
        """The settings that affect the trained weights, as JSON values.

        Two runs with equal settings, data and base are the same run. Data sources are left out:
        the rows are compared by their content, not by where they came from.
        """
        sources = {"train", "validation", "test", "fixes"}
        exclude: Any = {**dict.fromkeys(NOT_TRAINING, True), "data": sources}
        return self.model_dump(mode="json", exclude=exclude)

    @property
    def is_pair(self) -> bool:
        """Whether the texts are pairs."""
        return len(self.data.text_columns) == 2
