"""What a run reached, as `evaluate` recorded it.

Reads `metrics.json` and `predictions.parquet` of an evaluation, and the manifest of the bundle that
was scored; scores nothing itself. Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from serve.bundle.manifest import Manifest, Measured
from serve.bundle.seal import open_bundle
from train.data.splits import Split
from train.statistics.metrics import Choice
from train.statistics.resampling import Predictions

SETTINGS_LEFT_OUT = ("output_dir", "cpu_threads", "publish", "evaluation", "gate", "audit")
"""Settings that change no figure of an evaluation."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """An evaluated run."""

    name: str
    directory: Path
    """Of the evaluation."""

    manifest: Manifest
    metrics: Mapping[str, Measured]
    test: Mapping[str, Any]
    """Number and SHA-256 of the test rows."""

    int8: Mapping[str, Any] | None
    """The export's metrics, its difference to full precision and their agreement, if any."""

    coverage: Measured | None
    """Fraction of answered texts; None if the bundle never abstains."""

    train_seconds: float | None
    """Seconds of the Trainer; None for a probe, or where the run's adapter is gone."""

    megabytes: float
    """Size of the bundle."""

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The predictions, one for each test row."""
        table = pyarrow.parquet.read_table(self.directory / "predictions.parquet")
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration by dotted key, without what changes no figure, and the base."""
        flat = dict(_flatten(self.manifest.config))
        return {
            key: value
            for key, value in flat.items()
            if key.partition(".")[0] not in SETTINGS_LEFT_OUT
        }

    def split(self) -> Split:
        """The test rows."""
        pairs = len(self.manifest.text_columns) == 2
        texts = [(row["text"], row["text_pair"]) if pairs else row["text"] for row in self.rows]
        return Split(
            texts=texts,
            labels=[as_labels(row["label"]) for row in self.rows],
            rows=[row["row"] for row in self.rows],
        )

    def predictions(self, labels: Sequence[str]) -> Predictions:
        """The predictions with one column for each of these labels."""
        known = set(self.manifest.labels)
        zeros = np.zeros(len(self.rows))
        columns = [
            np.array([row[f"p:{label}"] for row in self.rows]) if label in known else zeros
            for label in labels
        ]
        return Predictions(
            probabilities_NC=np.stack(columns, axis=1).astype(np.float32),
            predicted_NC=self._choice("predicted", labels),
            reference_NC=self._choice("label", labels),
        )

    def _choice(self, column: str, labels: Sequence[str]) -> Choice:
        return np.array(
            [[label in as_labels(row[column]) for label in labels] for row in self.rows], dtype=bool
        )


def as_labels(value: Any) -> tuple[str, ...]:
    """Return the labels of a row: one, or a list of them."""
    return (value,) if isinstance(value, str) else tuple(value)


def read_runs(paths: Sequence[Path]) -> list[RunResult]:
    """Read the runs, and give each a name of its own.

    Raises ValueError for a path that is no evaluated run, and for one that is named twice.
    """
    found = [_locate(path) for path in paths]
    for path, (directory, _) in zip(paths, found, strict=True):
        if [other for other, _ in found].count(directory) > 1:
            raise ValueError(f"`{path}` is named twice; compare it with another run")
    return [
        _read(directory, bundle, name)
        for (directory, bundle), name in zip(found, _names([d for d, _ in found]), strict=True)
    ]


def _locate(path: Path) -> tuple[Path, Path]:
    """Return the directories of evaluation and bundle; `path` is a run, or one of the two."""
    run = path.parent if path.name == "bundle" or path.name.startswith("evaluation") else path
    directory = path if path.name.startswith("evaluation") else run / "evaluation"
    if not path.is_dir():
        raise ValueError(f"no run at `{path}`: there is no such directory")
    for name in ("metrics.json", "predictions.parquet"):
        if not (directory / name).is_file():
            raise ValueError(
                f"`{path}` has no `{directory.relative_to(run)}/{name}`; score the run first, with "
                "`textloop evaluate`"
            )
    return directory, run / "bundle"


def _names(directories: Sequence[Path]) -> list[str]:
    """Name runs by their directory, with as many of those above it as tell them apart."""
    runs = [directory.resolve().parent for directory in directories]
    suffixes = [each.name.removeprefix("evaluation") for each in directories]
    for depth in range(1, max(len(run.parts) for run in runs) + 1):
        parts = ("/".join(run.parts[-depth:]) for run in runs)
        names = [part + suffix for part, suffix in zip(parts, suffixes, strict=True)]
        if len(set(names)) == len(names):
            break
    return names


def _read(directory: Path, bundle: Path, name: str) -> RunResult:
    manifest = open_bundle(bundle, verify=False).manifest
    values = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
    if values["model_version"] != manifest.version:
        raise ValueError(
            f"`{directory}` is about version {values['model_version']}, and `{bundle}` is version "
            f"{manifest.version}; score it again with `textloop evaluate`"
        )
    abstention = values.get("abstention")
    sizes = [file.stat().st_size for file in bundle.rglob("*") if file.is_file()]
    return RunResult(
        name=name,
        directory=directory,
        manifest=manifest,
        metrics={key: Measured.model_validate(each) for key, each in values["metrics"].items()},
        test=values["test"],
        int8=values.get("int8"),
        coverage=Measured.model_validate(abstention["coverage"]) if abstention else None,
        train_seconds=_train_seconds(bundle.parent / "adapter" / "fit.json"),
        megabytes=sum(sizes) / 1e6,
    )


def _train_seconds(record: Path) -> float | None:
    if not record.is_file():
        return None
    history = json.loads(record.read_text(encoding="utf-8")).get("log_history", [])
    times = [entry["train_runtime"] for entry in history if "train_runtime" in entry]
    return float(sum(times)) if times else None


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Any:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
