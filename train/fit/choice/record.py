"""The choice of a run, in `choice.json` and in the adapter's record, and what follows from it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from serve.files import write_atomic
from train.config.run import RunConfig
from train.fit.resume import changes

FILE = "choice.json"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What `method: auto` chose."""

    method: str
    """probe or lora."""

    pooling: str
    probe_l2: float
    trainer: dict[str, Any] = field(default_factory=dict)
    """Settings of the Trainer; those of the configuration go before."""

    loss: dict[str, Any] = field(default_factory=dict)
    """Settings of the loss that the configuration leaves open."""

    reason: str = ""
    """In one sentence, with the figures."""

    rows: int = 0
    """Number of rows that decided."""

    candidates: list[dict[str, Any]] = field(default_factory=list)
    """Method, pooling, accuracy and log-loss of each, on the same rows."""

    awaits_validation: bool = False
    """Whether the trained model is still to be compared with the probe."""


def resolved(config: RunConfig, choice: Choice) -> RunConfig:
    """Return the configuration with the chosen method and settings in the place of auto."""
    model = {"pooling": choice.pooling, "probe_l2": choice.probe_l2}
    return config.model_copy(
        update={
            "method": choice.method,
            "model": config.model.model_copy(update=model),
            "trainer": choice.trainer | config.trainer,
            "loss": config.loss.model_copy(update=choice.loss),
        }
    )


def resolve(config: RunConfig, record: dict[str, Any]) -> RunConfig:
    """Return the configuration that a run trained with. record: of `fit`, `fit.json`."""
    if config.method != "auto":
        return config
    return resolved(config, Choice(**record["choice"]))


def write_choice(directory: Path, run: dict[str, Any], choice: Choice) -> None:
    """Write the choice of the run that `run`, its record, identifies."""
    values = {"run": run, "choice": asdict(choice)}
    write_atomic(directory / FILE, json.dumps(values, indent=2, ensure_ascii=False).encode())


def forget_choice(directory: Path) -> None:
    """Delete what was chosen before."""
    (directory / FILE).unlink(missing_ok=True)


def read_choice(directory: Path, run: dict[str, Any]) -> Choice | None:
    """Return what the same run chose before, or None."""
    file = directory / FILE
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return None if changes(values["run"], run) else Choice(**values["choice"])
