"""Labels and rows on which two bundles can be compared, where the candidate knows more labels.

A candidate may know labels that the champion does not, and may have new names for those of the
champion (`data.label_map`). Accuracy and the guards then compare the two on the champion's own
test rows: those whose labels the champion knows. On these an answer with a new label is wrong. The
new labels are judged by floors (`train.gate.guards.new_label_checks`). Shape suffixes: N rows, C
labels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.bundle.manifest import Manifest
from train.config.run import RunConfig
from train.data.splits import Split, load_data


@dataclass(frozen=True, kw_only=True)
class SharedLabels:
    """How the labels of champion and candidate correspond."""

    shared: tuple[str, ...]
    """Labels that both know, by the candidate's names, in the champion's order."""

    new: tuple[str, ...]
    """Labels of the candidate alone."""

    renamed: Mapping[str, str]
    """The candidate's names of the champion's labels that have another one."""


def share_labels(
    champion: Sequence[str], candidate: Sequence[str], label_map: Mapping[str, str]
) -> SharedLabels:
    """Match the labels of two bundles; `label_map` gives new names to the champion's.

    Several labels of the champion may have one new name. Raises ValueError for a label of the
    champion that the candidate does not know.
    """
    known = set(candidate)
    renamed = {
        label: label_map[label]
        for label in champion
        if label not in known and label_map.get(label) in known
    }
    if lost := [label for label in champion if label not in known and label not in renamed]:
        raise ValueError(
            f"the candidate does not know the champion's label {lost[0]!r}; if it has a new name, "
            f"state it: data.label_map={{{lost[0]}: NEW}}; a label that is to disappear leaves "
            "nothing to compare its rows with"
        )
    shared = tuple(dict.fromkeys(renamed.get(label, label) for label in champion))
    return SharedLabels(
        shared=shared,
        new=tuple(label for label in candidate if label not in set(shared)),
        renamed=renamed,
    )


def rows_of_champion(
    test: Split, manifest: Manifest, config: RunConfig, *, renamed: bool
) -> NDArray[np.bool_]:
    """Which test rows are the champion's: all, or those whose labels it knows; bool, (N,).

    renamed: whether the rows have labels by other names than the champion's. Raises ValueError
    if their SHA-256 is not the one that the champion records; an imported one was made for none.
    """
    recorded = manifest.data.get("test")
    if not renamed and recorded == test.fingerprint:
        return np.ones(len(test), dtype=bool)
    named = _under_its_names(manifest, config) if renamed else test
    known = set(manifest.labels)
    kept_N = np.array([known.issuperset(row) for row in named.labels], dtype=bool)
    if manifest.is_imported:
        return kept_N
    assert recorded is not None
    theirs = compared_part(named, kept_N).fingerprint
    if len(named) != len(test) or theirs != recorded:
        raise ValueError(
            f"records {recorded['rows']} test rows with SHA-256 {recorded['sha256'][:12]}, but "
            f"data.test has {theirs['rows']} of its labels with {theirs['sha256'][:12]}, which may "
            "include rows that it was trained on; compare bundles on the frozen test file of both "
            "training runs, to which rows of new labels may be added"
        )
    return kept_N


def _under_its_names(manifest: Manifest, config: RunConfig) -> Split:
    """Read the test rows once more, with the champion's own `data.label_map`."""
    stated = manifest.config.get("data", {}).get("label_map", {})
    with tempfile.TemporaryDirectory() as directory:
        data = config.data.model_copy(update={"label_map": stated})
        return load_data(
            config.model_copy(update={"data": data, "output_dir": Path(directory)})
        ).test


def compared_part(test: Split, rows_N: NDArray[np.bool_]) -> Split:
    """Return the rows of a split that are compared."""
    rows = np.flatnonzero(rows_N).tolist()
    return Split(
        texts=[test.texts[row] for row in rows],
        labels=[test.labels[row] for row in rows],
        rows=[test.rows[row] for row in rows] if len(test.rows) else (),
    )


def on_shared(
    columns_NC: NDArray[Any], names: Sequence[str], labels: SharedLabels
) -> list[NDArray[Any]]:
    """Return the columns of each shared label, (N, K): several if they were given one name.

    columns_NC: one column per label of a bundle, in the order of `names`.
    """
    known_as = [labels.renamed.get(name, name) for name in names]
    return [
        columns_NC[:, [index for index, name in enumerate(known_as) if name == label]]
        for label in labels.shared
    ]
