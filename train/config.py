"""The configuration of a run: one YAML, the same for every stage.

`fit`, `merge` and `evaluate` take the same file and overrides and find each other's results
under `output_dir`. How YAML and overrides are read is decided in `serve.config`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from serve.config import Config

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


class DataConfig(Config):
    """Where the labelled text is."""

    train: str
    """A .csv, .tsv, .jsonl or .parquet file (path or fsspec URL), or hub:OWNER/NAME#SPLIT."""

    validation: str | None = None
    """Same forms; without it a part of train is split off by the hash of the text."""

    test: str | None = None
    """Same forms; without it a part of train is split off by the hash of the text."""

    text_columns: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = ("text",)
    """Column with the text; two columns make a model of text pairs."""

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

    group_by_length: bool = True
    """Put texts of like length into the same batch: less padding, the same updates' size."""


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

    head_init: Literal["probe", "random"] = "probe"
    """Start the head from a linear model fitted on the frozen features, or at random."""


class LoraSection(Config):
    """Low-rank adapters (peft's LoraConfig); ignored, and refused, where method is full."""

    r: Annotated[int, Field(ge=1)] = 16
    """Rank of the update of each weight matrix."""

    alpha: Annotated[int, Field(ge=1)] = 32
    """Scale: the update is multiplied by alpha / r."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' input."""

    target_modules: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get an adapter, or all-linear."""


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

    method: Literal["lora", "full"] = "lora"
    """Train low-rank adapters and the head, or every weight."""

    data: DataConfig
    model: ModelConfig
    lora: LoraSection = LoraSection()
    loss: LossSection = LossSection()
    publish: PublishSection = PublishSection()

    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    """Evaluations without a better metric after which training ends; None trains through."""

    cpu_threads: Annotated[int, Field(ge=1)] | None = None
    """Threads per process on the CPU; None shares all cores among the local processes."""

    export_int8: bool = True
    """Let `merge` make an int8 export for CPUs; it ships only if it passes its parity gate."""

    trainer: dict[str, Any] = Field(default_factory=dict)
    """Fields of transformers.TrainingArguments under their own names."""

    @field_validator("trainer")
    @classmethod
    def _refuse_owned(cls, trainer: dict[str, Any]) -> dict[str, Any]:
        for key in trainer:
            if key in _OWNED:
                raise ValueError(f"`trainer.{key}` is not for the trainer section: {_OWNED[key]}")
        return trainer

    @model_validator(mode="after")
    def _check_sections(self) -> Self:
        if self.method == "full" and self.lora != LoraSection():
            raise ValueError("`lora` is set but `method` is full; remove it or set method: lora")
        if len(set(self.data.text_columns)) != len(self.data.text_columns):
            raise ValueError(f"`data.text_columns` names {self.data.text_columns[0]!r} twice")
        return self

    @property
    def is_pair(self) -> bool:
        """Whether the texts are pairs."""
        return len(self.data.text_columns) == 2
