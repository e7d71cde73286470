"""The results of a search: `best.yaml`, `trials.csv` and a summary.

The validation metric of the best of many trials is biased upwards, because the same rows chose
the trial; the summary says so and gives the number of trials. Only `evaluate` on the test rows
gives an unbiased estimate.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from serve.config import load_config
from serve.files import write_atomic
from serve.language.yaml12 import Loader
from serve.stats import wilson
from train.config.run import RunConfig
from train.config.search_space import Dimension, decoded, with_values
from train.tune.study import best_trial, finished_trials

MIN_FOR_IMPORTANCE = 8
"""Minimum number of complete trials; with fewer, importances are mostly noise."""


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """The results of a search so far."""

    study: str
    metric: str
    num_validation: int
    counts: dict[str, int]
    """Number of trials by state: complete, pruned, fail."""

    best: FrozenTrial | None
    interval: tuple[float, float] | None
    """95 % Wilson interval of the best trial's accuracy; None for other metrics."""

    importances: dict[str, float]
    """Fraction of the metric's variance due to each key (fANOVA); empty with too few trials."""

    reasons: dict[str, int]
    """Number of failed trials by reason."""

    best_file: Path
    table_file: Path

    @property
    def summary(self) -> str:
        """The results as text, for the terminal."""
        total = sum(self.counts.values())
        counts = ", ".join(f"{number} {state}" for state, number in self.counts.items())
        lines = [f"study `{self.study}`: {total} trials ({counts or 'none finished'})"]
        lines += [f"  {number} failed: {reason}" for reason, number in self.reasons.items()]
        if self.best is None:
            return "\n".join([*lines, "no trial is complete, so there is no best trial"])
        value = f"{self.metric} {self.best.value:.4f}"
        if self.interval:
            value += f"  [{self.interval[0]:.4f}, {self.interval[1]:.4f}]"
        lines.append(f"best on {self.num_validation} validation rows: {value}")
        lines += [f"  {key}: {decoded(value)}" for key, value in self.best.params.items()]
        if self.importances:
            lines.append("importance, as a fraction of the metric's variance (fANOVA):")
            lines += [f"  {key:<40} {value:.2f}" for key, value in self.importances.items()]
        lines += [
            f"The best of {total} on the rows that chose it is optimistic; train it, then "
            "evaluate it on the test rows:",
            f"  textloop fit --config {self.best_file}",
        ]
        return "\n".join(lines)


def write_results(
    study: Study,
    directory: Path,
    *,
    config: RunConfig,
    space: dict[str, Dimension],
    metric: str,
    num_validation: int,
) -> TuneResult:
    """Write `trials.csv`, and `best.yaml` once a trial is complete; return the results."""
    trials = finished_trials(study)
    best = best_trial(trials, study.direction)
    table_file, best_file = directory / "trials.csv", directory / "best.yaml"
    write_atomic(table_file, trial_table(trials, list(space)).encode())
    interval = None
    if best is not None and best.value is not None:
        if metric == "accuracy":
            interval = wilson(round(best.value * num_validation), num_validation)
        values = {key: decoded(value) for key, value in best.params.items()}
        winner = with_values(config, values)
        header = (
            f"# Chosen by `textloop tune` on the validation split, not on test:\n"
            f"# study {study.study_name}, trial {best.number}, best of {len(trials)} trials,\n"
            f"# validation {metric} {best.value:.6f} on {num_validation} rows (optimistic).\n"
            f"#   textloop fit --config {best_file}\n"
        )
        text = header + to_yaml(winner.model_dump(mode="json"))
        temporary = best_file.with_name(".best.yaml")
        write_atomic(temporary, text.encode())
        assert load_config(RunConfig, temporary).model_dump() == winner.model_dump()
        temporary.replace(best_file)
    reasons = Counter(failure_reason(trial) for trial in trials if trial.state == TrialState.FAIL)
    return TuneResult(
        study=study.study_name,
        metric=metric,
        num_validation=num_validation,
        counts=dict(Counter(trial.state.name.lower() for trial in trials)),
        best=best,
        interval=interval,
        importances=importances(study, seed=config.seed),
        reasons=dict(reasons),
        best_file=best_file,
        table_file=table_file,
    )


def trial_table(trials: list[FrozenTrial], keys: list[str]) -> str:
    """Format the trials as CSV, one line each: state, metric, values."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["trial", "state", "value", "evaluations", "seconds", "reason", *keys])
    for trial in trials:
        duration = trial.duration
        failed = trial.state == TrialState.FAIL
        writer.writerow(
            [
                trial.number,
                trial.state.name.lower(),
                "" if trial.value is None else repr(trial.value),
                len(trial.intermediate_values),
                "" if duration is None else f"{duration.total_seconds():.1f}",
                failure_reason(trial) if failed else "",
                *(trial.params.get(key, "") for key in keys),
            ]
        )
    return file.getvalue()


def failure_reason(trial: FrozenTrial) -> str:
    """Return why a trial failed."""
    return str(trial.user_attrs.get("reason", "its process died; its values were retried"))


def importances(study: Study, *, seed: int) -> dict[str, float]:
    """Compute the importance of each key, largest first; empty with too few different values.

    Source: F. Hutter, H. Hoos, K. Leyton-Brown (2014), An efficient approach for assessing
    hyperparameter importance, ICML; the implementation is Optuna's.
    """
    complete = [t for t in finished_trials(study) if t.state == TrialState.COMPLETE]
    values = [trial.value for trial in complete]
    if len(values) < MIN_FOR_IMPORTANCE or len(set(values)) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the strings that `serve.config` would read as something else."""

    yaml_implicit_resolvers = Loader.yaml_implicit_resolvers


def to_yaml(values: dict[str, Any]) -> str:
    """Format values as YAML that `serve.config` reads back unchanged."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
