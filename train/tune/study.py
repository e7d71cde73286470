"""The study of a search: its database, its sampler, and its stale trials.

A study is stored in a database (one SQLite file by default), so that a killed search can be
resumed and several workers can share one. A worker sends heartbeats while a trial runs; a trial
without one for `GRACE_S` seconds is failed and its values are queued again.

`train.tune.trial` runs one trial.
"""

from __future__ import annotations

import fcntl
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from train.data.addresses import Address, expand, reason_of
from train.fit.resume import differences

BEAT_S = 10
"""Seconds between heartbeats of a running trial."""

GRACE_S = 60
"""Seconds without a heartbeat after which a trial is stale."""

MAX_RETRIES = 2
"""Retries of a stale trial's values; limited, since some values kill every process."""

_PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": optuna.pruners.MedianPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "none": optuna.pruners.NopPruner,
}


class SeededSampler(TPESampler):
    """Tree-structured Parzen estimator, seeded by the search's seed and the trial's number.

    One generator per process would draw the same first values in every worker, and again
    after every restart. Source: S. Watanabe (2023), Tree-structured Parzen estimator,
    arXiv:2304.11127; the implementation is Optuna's.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.seed = seed

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Start the trial's own generator."""
        super().__init__(seed=(self.seed * 1_000_003 + trial.number) % 2**32)
        super().before_trial(study, trial)


def open_study(
    directory: Path,
    *,
    storage: str | None,
    name: str,
    maximize: bool,
    pruner: str,
    seed: int,
    identity: dict[str, Any],
) -> Study:
    """Open or create the study; if storage is None, in a file under `directory`.

    identity: what its trials must have in common to be comparable. Raises ValueError if the
    study was created with another identity, and if the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directory.mkdir(parents=True, exist_ok=True)
    file = f"sqlite:///{(directory / 'study.db').resolve()}"
    address = expand(storage) if storage else Address(file, file, {})
    is_file = address.text.startswith("sqlite")
    try:
        # Two workers that start at once would both create the tables.
        with locked(directory), experimental_allowed():
            study = optuna.create_study(
                storage=RDBStorage(
                    address.text,
                    engine_kwargs={"connect_args": {"timeout": 60}} if is_file else None,
                    heartbeat_interval=BEAT_S,
                    grace_period=GRACE_S,
                    heartbeat_stale_trial_callback=_retry(),
                ),
                sampler=SeededSampler(seed),
                pruner=_PRUNERS[pruner](),
                study_name=name,
                direction="maximize" if maximize else "minimize",
                load_if_exists=True,
            )
            created = study.user_attrs.get("identity")
            if created is None:
                study.set_user_attr("identity", identity)
                created = identity
    except Exception as error:  # each database driver has its own
        reason = reason_of(error, address)
        raise ValueError(f"tune.storage: cannot open the study `{name}`: {reason}") from None
    if different := sorted(differences(created, identity)):
        raise ValueError(
            f"study `{name}` was created with different settings ({'; '.join(different)}), so its "
            "trials cannot be compared with new ones; set another tune.study or output_dir"
        )
    return study


def trials_left(study: Study, budget: int) -> int:
    """Count the trials still to be started; a stale trial and its retries count once."""
    started = {
        trial.system_attrs.get("failed_trial", trial.number)
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.WAITING
    }
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return max(budget - len(started), 0) + len(waiting)


def running_trials(study: Study) -> list[FrozenTrial]:
    """List the trials that are started and not finished, stale ones included."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def fail_stale_trials(study: Study) -> None:
    """Fail the trials whose heartbeat has stopped, and queue their values again."""
    with experimental_allowed():
        optuna.storages.fail_stale_trials(study)
    for trial in running_trials(study):
        # Optuna misses a trial that died before its first heartbeat, with no values drawn.
        age = datetime.now() - (trial.datetime_start or datetime.now())
        if not trial.params and age.total_seconds() > GRACE_S:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            requeue_trial(study, trial.number)


def requeue_trial(study: Study, number: int) -> None:
    """Queue the values of an interrupted trial again, like those of a stale one."""
    with experimental_allowed():
        _retry()(study, study.get_trials(deepcopy=True)[number])


def _retry() -> RetryHeartbeatStaleTrialCallback:
    return RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)


def finished_trials(study: Study) -> list[FrozenTrial]:
    """List the complete, pruned and failed trials, in order."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def best_trial(trials: list[FrozenTrial], direction: StudyDirection) -> FrozenTrial | None:
    """Return the complete trial with the best value, the earliest on ties; None without any."""
    sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
    complete = [
        (sign * trial.value, trial.number, trial)
        for trial in trials
        if trial.state == TrialState.COMPLETE and trial.value is not None
    ]
    return min(complete, key=lambda entry: entry[:2])[2] if complete else None


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Exclude the other workers on the same directory."""
    with (directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def experimental_allowed() -> Iterator[None]:
    """Silence Optuna's warning that its heartbeat API is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
