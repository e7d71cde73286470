"""The study of a search: where its trials are kept, which come next, which died.

A study lives in a database (one SQLite file by default), so that a search goes on after a
kill and several workers share one. A worker gives signs of life while a trial runs; a trial
without any for `GRACE_S` seconds is failed and its values are put back into the queue.

What a trial does is decided in `train.tune.trial`.
"""

from __future__ import annotations

import fcntl
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from train.fit.resume import differences

BEAT_S = 10
"""Seconds between signs of life of a running trial."""

GRACE_S = 60
"""Seconds without a sign of life after which a trial counts as dead."""

MAX_RETRIES = 2
"""Times that the values of dead trials are tried again: some kill every process."""

_PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": optuna.pruners.MedianPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "none": optuna.pruners.NopPruner,
}


class SeededSampler(BaseSampler):
    """Tree-structured Parzen estimation whose draws depend on the seed and the trial's number.

    One generator per process would draw the same first values in every worker, and again
    after every restart. Source: S. Watanabe (2023), Tree-structured Parzen estimator,
    arXiv:2304.11127; the implementation is Optuna's.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._inner: BaseSampler = TPESampler(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Start the trial's own generator."""
        self._inner = TPESampler(seed=(self.seed * 1_000_003 + trial.number) % 2**32)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The keys whose values are drawn together."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of those keys."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The value of another key."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Let the estimator keep what it keeps."""
        self._inner.after_trial(study, trial, state, values)


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
    """Open the study, or begin it; `directory` holds its file where storage is None.

    identity: what its trials must share to be compared. Raises ValueError if the study was
    begun with another one, and if the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directory.mkdir(parents=True, exist_ok=True)
    is_file = storage is None or storage.startswith("sqlite")
    url = storage or f"sqlite:///{(directory / 'study.db').resolve()}"
    try:
        # Two workers that begin at once would both make the tables.
        with locked(directory), experiments_allowed():
            study = optuna.create_study(
                storage=RDBStorage(
                    url,
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
            begun = study.user_attrs.get("identity")
            if begun is None:
                study.set_user_attr("identity", identity)
                begun = identity
    except Exception as error:  # each database driver has its own
        reason = str(error).splitlines()[0]
        raise ValueError(f"tune.storage: cannot open the study `{name}`: {reason}") from error
    if different := sorted(differences(begun, identity)):
        raise ValueError(
            f"the study `{name}` was begun otherwise ({'; '.join(different)}), so its trials "
            "cannot be compared with new ones; name another tune.study or output_dir"
        )
    return study


def trials_left(study: Study, budget: int) -> int:
    """Trials still to be begun; one that died and its retries are one trial."""
    begun = {
        trial.system_attrs.get("failed_trial", trial.number)
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.WAITING
    }
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return max(budget - len(begun), 0) + len(waiting)


def running(study: Study) -> list[FrozenTrial]:
    """Trials that a worker has begun and not ended, dead ones included."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def fail_stale_trials(study: Study) -> None:
    """Fail trials that give no more sign of life, and queue their values anew."""
    with experiments_allowed():
        optuna.storages.fail_stale_trials(study)
    for trial in running(study):
        # Optuna overlooks one that died before its first sign of life, with no values drawn.
        age = datetime.now() - (trial.datetime_start or datetime.now())
        if not trial.params and age.total_seconds() > GRACE_S:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            requeue_trial(study, trial.number)


def requeue_trial(study: Study, number: int) -> None:
    """Queue the values of a trial that is given up, as those of a dead one."""
    with experiments_allowed():
        _retry()(study, study.get_trials(deepcopy=True)[number])


def _retry() -> RetryHeartbeatStaleTrialCallback:
    return RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)


def ended(study: Study) -> list[FrozenTrial]:
    """Trials that are over, whatever their end, in order."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def best_of(trials: list[FrozenTrial], direction: StudyDirection) -> FrozenTrial | None:
    """The complete trial with the best value, the earliest of equal ones; None without any."""
    sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
    complete = [
        (sign * trial.value, trial.number, trial)
        for trial in trials
        if trial.state == TrialState.COMPLETE and trial.value is not None
    ]
    return min(complete, key=lambda entry: entry[:2])[2] if complete else None


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Let one worker at a time in, among those that share the directory."""
    with (directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def experiments_allowed() -> Iterator[None]:
    """Silence Optuna's warning that its heartbeat may change in a later version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
