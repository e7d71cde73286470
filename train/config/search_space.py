"""The search space of `tune`: the `tune` section of a run's YAML, and its values in a run.

Names in the space are dotted keys of the run's configuration, and their values are validated as if
they were set in the YAML. Keys that trials are compared on, or that do not affect training, cannot
be searched over. For how values are sampled, see `train.tune.study`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, StrictFloat, StrictInt, ValidationError, field_validator
from pydantic import model_validator as check_whole

from serve.config import Config
from serve.language.problems import explain
from train.config.sections import NOT_TRAINING
from train.config.trainer_keys import metric_problem

Number = StrictInt | StrictFloat
Run = TypeVar("Run", bound=Config)

_FIXED = dict.fromkeys(NOT_TRAINING, "it does not affect training") | {
    "output_dir": "every trial has its own",
    "seed": "choosing the best seed overfits the validation split",
    "task": "trials would be measured by different metrics",
    "data": "trials would not be measured on the same rows",
    "tune": "it is not part of a run",
    "trainer.metric_for_best_model": "set tune.metric",
    "trainer.greater_is_better": "trials would be compared by different rules",
}
"""Keys and sections that cannot be searched over, and why."""

_FREE = {"data.group_by_length"}
"""Keys of these sections that can be searched over."""


class Dimension(Config):
    """Values of one key: a range, or a list of choices."""

    low: Number | None = None
    """Lower bound; if low, high and step are integers, only integers are sampled."""

    high: Number | None = None
    """Upper bound."""

    log: bool = False
    """Sample uniformly in log space."""

    step: Number | None = None
    """Sample low, low + step and so on."""

    choices: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    """List of values, of any type that the key accepts."""

    @check_whole(mode="after")
    def _check(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log or self.step is not None:
                raise ValueError("give either choices, or low and high")
            if len({encoded(choice) for choice in self.choices}) < len(self.choices):
                raise ValueError(f"choices {list(self.choices)} has a value twice")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} is not less than high = {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low > 0 and cannot be combined with step")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step = {self.step} is not between 0 and high - low")
        return self

    @property
    def is_whole(self) -> bool:
        """True if the range is one of integers."""
        return all(isinstance(value, int | None) for value in (self.low, self.high, self.step))

    @property
    def ends(self) -> tuple[Any, ...]:
        """Both bounds of a range, or all choices."""
        return (self.low, self.high) if self.choices is None else self.choices


class TuneSection(Config):
    """The search of `textloop tune`; other stages ignore it."""

    trials: Annotated[int, Field(ge=1)] = 30
    """Number of trials, over all workers; a rerun with a larger number continues."""

    timeout_minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes after which a worker starts no further trial; null: no limit."""

    storage: str | None = None
    """URL of a database shared by several workers, in which ${NAME} stands for an environment
    variable; null: a file under output_dir/tune."""

    study: str | None = None
    """Name of the study in the storage; null uses output_dir."""

    metric: str | None = None
    """Validation metric to optimize; null: trainer.metric_for_best_model, or else accuracy."""

    pruner: Literal["median", "hyperband", "none"] = "median"
    """Rule that stops a trial early if its evaluations fall behind those of the others."""

    space: dict[str, Dimension] = Field(default_factory=dict)
    """Search space: dotted key of a run to {low, high, log, step} or {choices}."""

    @field_validator("space", mode="before")
    @classmethod
    def _flatten(cls, value: Any) -> Any:
        """Turn nested sections, as overrides make them, into dotted names."""
        return dict(_dotted(value)) if isinstance(value, dict) else value

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, metric: str | None) -> str | None:
        if metric is not None and (problem := metric_problem(metric)):
            raise ValueError(problem)
        return metric

    @field_validator("space")
    @classmethod
    def _refuse_fixed(cls, space: dict[str, Dimension]) -> dict[str, Dimension]:
        for key in space:
            parts = key.split(".")
            for name in (".".join(parts[: n + 1]) for n in range(len(parts))):
                if name in _FIXED and key not in _FREE:
                    raise ValueError(f"`{key}` cannot be searched over: {_FIXED[name]}")
        return space


def _dotted(section: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict) and value and not value.keys() & Dimension.model_fields.keys():
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def with_values(config: Run, values: dict[str, Any]) -> Run:
    """Return the configuration with dotted keys set, validated again, without `tune`.

    Raises ValueError that names each unknown key and each invalid value.
    """
    dumped = config.model_dump()
    for key, value in values.items():
        *sections, last = key.split(".")
        inner = dumped
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ValueError(f"tune.space names `{key}`, but `{section}` is not a section")
        inner[last] = value
    try:
        return type(config).model_validate(dumped)
    except ValidationError as error:
        problems = explain(error, type(config))
        raise ValueError(f"tune.space: {problems} (with {_shown(values)})") from None


def boundary_configs(config: Run, space: dict[str, Dimension]) -> Iterator[Run]:
    """Yield the configuration with each key at each bound, then with all keys at the same bound.

    Raises ValueError, with the path of the key, at the first invalid configuration.
    """
    for key, dimension in space.items():
        for value in dimension.ends:
            yield with_values(config, {key: value})
    for end in (0, -1):
        yield with_values(config, {key: dimension.ends[end] for key, dimension in space.items()})


def suggest(trial: Any, space: dict[str, Dimension]) -> dict[str, Any]:
    """Sample one value for each key with an Optuna trial."""
    values: dict[str, Any] = {}
    for key, dimension in space.items():
        if dimension.choices is not None:
            names = [encoded(choice) for choice in dimension.choices]
            values[key] = decoded(trial.suggest_categorical(key, names))
        else:
            kind = trial.suggest_int if dimension.is_whole else trial.suggest_float
            step = {} if dimension.step is None else {"step": dimension.step}
            values[key] = kind(key, dimension.low, dimension.high, log=dimension.log, **step)
    return values


def encoded(choice: Any) -> str:
    """Encode a choice for the study as JSON: storages accept neither lists nor mappings."""
    return json.dumps(choice, sort_keys=True)


def decoded(value: Any) -> Any:
    """Decode a value that the study stores: only choices are strings there."""
    return json.loads(value) if isinstance(value, str) else value


def _shown(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in values.items())
