"""Refuse labels and splits that no classifier can be trained or judged on, and say why. Pure."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from serve.language.spelling import did_you_mean
from train.config.run import RunConfig
from train.config.trainer_keys import label_metric
from train.data.label_names import plain_form
from train.data.labels import Labels
from train.data.rows import SplitName

_DECIMAL = re.compile(r"[-+]?\d+\.\d+")
_MIN_DECIMALS = 20
"""Number of labels with decimals from which they are taken for measurements."""


def count_labels(labels: Iterable[Labels]) -> Counter[str]:
    """Return the number of rows of each label, the most frequent first."""
    counts = Counter(label for row in labels for label in row)
    return Counter(dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))))


def check_train_labels(counts: Mapping[str, int], num_rows: int) -> None:
    """Raise ValueError if the labels of train, before any split, are not those of a classifier."""
    if len(counts) < 2:
        raise ValueError(
            f"data.train has the labels {list(counts)}; a classifier needs two or more"
            if counts
            else "data.train has no labels; a classifier needs two or more"
        )
    decimals = [label for label in counts if _DECIMAL.fullmatch(label)]
    if len(decimals) >= max(_MIN_DECIMALS, num_rows / 2):
        raise ValueError(
            f"data.train has {len(counts)} labels for {num_rows} rows, and they are numbers such "
            f"as {decimals[0]}; numbers to predict are no classes: replace them by ranges"
        )


def check_splits(
    labels: Mapping[SplitName, Sequence[Labels]],
    config: RunConfig,
    counts: Mapping[str, int],
    num_rows: int,
) -> tuple[str, ...]:
    """Return the labels of train, sorted; ValueError if a split is empty or has other labels.

    counts: rows by label of the train source, before the split; num_rows: its rows.
    """
    for name, split in labels.items():
        if not len(split):
            raise ValueError(_empty(name, config, counts, num_rows))
    names = tuple(sorted({label for row in labels["train"] for label in row}))
    if len(names) < 2:
        raise ValueError(f"data.train has the labels {list(names)}; a classifier needs two or more")
    known = set(names)
    for name, split in labels.items():
        strange = Counter(label for row in split for label in row if label not in known)
        if strange:
            label, count = strange.most_common(1)[0]
            alike = next((each for each in names if plain_form(each) == plain_form(label)), None)
            hint = f" (it has {alike!r})" if alike is not None else ""
            raise ValueError(
                f"data.{name} has {count} rows with the label {label!r}, which no row of "
                f"data.train has{hint}; add examples, or map or remove the label (data.label_map)"
            )
    _check_positive_label(config.calibration.positive_label, names)
    return names


def _check_positive_label(label: str | None, names: tuple[str, ...]) -> None:
    """Raise ValueError unless `calibration.positive_label` is one of two labels."""
    if label is None:
        return
    if len(names) != 2:
        raise ValueError(
            f"calibration.positive_label is {label!r}, but data.train has {len(names)} labels, and "
            "a decision threshold needs two; remove it, or map the labels to two (data.label_map)"
        )
    if label not in names:
        raise ValueError(
            f"calibration.positive_label is {label!r}, which data.train does not have; its labels "
            f"are {names[0]!r} and {names[1]!r}{did_you_mean(label, names)}"
        )


def _empty(name: SplitName, config: RunConfig, counts: Mapping[str, int], num_rows: int) -> str:
    if getattr(config.data, name) is not None:
        return f"data.{name} has no rows that can be used"
    single = [label for label, count in counts.items() if count == 1]
    if 2 * len(single) >= num_rows:
        return (
            f"data.{name} gets none of the {num_rows} rows of data.train: {len(single)} of its "
            f"{len(counts)} labels, such as {single[0][:60]!r}, have one row each, and the last "
            f"row of a label stays in train; join rare labels (data.label_map), or set data.{name}"
        )
    fraction = getattr(config.data, f"{name}_fraction") if name != "train" else 0
    return (
        f"data.{name} has no rows: data.train has only {num_rows}, of which a fraction of "
        f"{fraction:g} (data.{name}_fraction) is split off by hash; add rows, or set data.{name}"
    )


def check_label_map(label_map: Mapping[str, str], written: set[str]) -> None:
    """Raise ValueError if `data.label_map` names a label that no source has."""
    unmatched = [label for label in label_map if label not in written]
    if unmatched:
        known = sorted(written)
        shown = ", ".join(repr(label[:40]) for label in known[:20])
        raise ValueError(
            f"data.label_map names {unmatched[0]!r}, which no row has; the labels are {shown}"
            + (f" and {len(known) - 20} more" if len(known) > 20 else "")
            + did_you_mean(unmatched[0], known)
        )


def check_metric(metric: str, labels: Sequence[str], validation: Sequence[Labels]) -> None:
    """Raise ValueError if a metric such as `f1:LABEL` cannot be measured on the validation rows."""
    found = label_metric(metric)
    if found is None:
        return
    measure, label = found
    if label not in labels:
        close = [each for each in labels if plain_form(each) == plain_form(label)]
        close = close or difflib.get_close_matches(label, labels, n=1)
        hint = f"did you mean `{measure}:{close[0]}`? " if close else ""
        shown = ", ".join(each[:40] for each in labels[:20])
        more = f" and {len(labels) - 20} more" if len(labels) > 20 else ""
        raise ValueError(
            f"the metric `{metric}` names {label!r}, which is not a label; {hint}the labels are "
            f"{shown}{more}"
        )
    if not any(label in row for row in validation):
        raise ValueError(
            f"the metric `{metric}` would always be 0: no validation row has the label {label!r}; "
            "add rows, set data.validation, or choose by another metric"
        )
