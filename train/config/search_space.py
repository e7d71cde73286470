"""What `tune` searches over: the `tune` section of a run's YAML, and its values in a run.

Every name in the space is a dotted key of the run's own configuration, so that whatever a run
can be told can be searched over, and a value is checked as if it stood in the YAML. What may
not vary is what the trials are compared on. How values are drawn is decided in `train.tune.tune`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, StrictFloat, StrictInt, ValidationError, field_validator
from pydantic import model_validator as check_whole

from serve.config import Config, explain
from train.config.sections import NOT_TRAINING

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
"""Keys and sections that may not be searched over, and why."""

_FREE = {"data.group_by_length"}
"""Keys of fixed sections that may."""


class Dimension(Config):
    """The values of one key: a range, or a list of choices."""

    low: Number | None = None
    """Least value; whole numbers in low, high and step make whole numbers only."""

    high: Number | None = None
    """Greatest value."""

    log: bool = False
    """Draw evenly from the logarithms."""

    step: Number | None = None
    """Draw low, low + step and so on."""

    choices: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    """The values themselves, of any type that the key takes."""

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
            raise ValueError("log needs low > 0, and goes with no step")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step = {self.step} is not between 0 and high - low")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether a range is of whole numbers."""
        return all(isinstance(value, int | None) for value in (self.low, self.high, self.step))

    @property
    def ends(self) -> tuple[Any, ...]:
        """Both ends of a range, or all choices."""
        return (self.low, self.high) if self.choices is None else self.choices


class TuneSection(Config):
    """The search of `python -m train tune`; the other stages do not look at it."""

    trials: Annotated[int, Field(ge=1)] = 30
    """Trials of the study, over all workers; a rerun with more goes on."""

    timeout_minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes after which a worker begins no further trial."""

    storage: str | None = None
    """URL of a database that several workers share; None: a file under output_dir/tune."""

    study: str | None = None
    """Name of the study in the storage; None takes output_dir."""

    metric: str | None = None
    """Validation metric to choose by; None takes trainer.metric_for_best_model."""

    pruner: Literal["median", "hyperband", "none"] = "median"
    """Rule that ends a trial early whose evaluations fall behind those of the others."""

    space: dict[str, Dimension] = Field(default_factory=dict)
    """Dotted key of a run to {low, high, log, step} or {choices}."""

    @field_validator("space", mode="before")
    @classmethod
    def _flatten(cls, value: Any) -> Any:
        """Sections within sections, as overrides make them, are dotted names as well."""
        return dict(_dotted(value)) if isinstance(value, dict) else value

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
    """The configuration with dotted keys set, validated anew; without its `tune` section.

    Raises ValueError that names each key that does not exist or does not take its value.
    """
    dumped = config.model_dump()
    for key, value in values.items():
        *sections, last = key.split(".")
        inner = dumped
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ValueError(f"tune.space names `{key}`, but `{section}` is no section")
        inner[last] = value
    try:
        return type(config).model_validate(dumped)
    except ValidationError as error:
        problems = explain(error, type(config))
        raise ValueError(f"tune.space: {problems} (with {_shown(values)})") from None


def boundary_configs(config: Run, space: dict[str, Dimension]) -> Iterator[Run]:
    """The configuration with each key at each end, then with all keys at their first or last.

    Raises ValueError, by the path of the key, at the first that is no valid configuration.
    """
    for key, dimension in space.items():
        for value in dimension.ends:
            yield with_values(config, {key: value})
    for end in (0, -1):
        yield with_values(config, {key: dimension.ends[end] for key, dimension in space.items()})


def suggest(trial: Any, space: dict[str, Dimension]) -> dict[str, Any]:
    """One value for each key, drawn by an Optuna trial."""
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
    """A choice as the study stores it: JSON, for storages take neither lists nor mappings."""
    return json.dumps(choice, sort_keys=True)


def decoded(value: Any) -> Any:
    """The value of a key, from what the study stores: only choices are strings there."""
    return json.loads(value) if isinstance(value, str) else value


def _shown(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in values.items())
