"""Compare a candidate with the champion on the frozen test rows: may it replace the champion?

Both run through the predictor that serves them, on the same rows, with the backend that the
server would choose on this device. Bundles with different test rows are not compared at all, nor is
one with a champion that knows more labels (ValueError). Otherwise the result is a `GateReport`,
which `train.gate.judge` makes from both bundles' predictions and times. For candidates with new
labels see `train.gate.labels`.

    textloop gate --config configs/X.yaml --candidate DIR --champion DIR
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve.bundle.seal import Bundle, open_bundle
from serve.files import write_atomic
from serve.inference.placement import BackendName
from serve.inference.predictor import Predictor
from serve.inference.text import Text
from train.config.run import RunConfig
from train.config.sections import GateSection
from train.data.splits import Split, load_data
from train.evaluation.measure import check_task, predict, reference
from train.gate.changes import changes_file, find_changes, label_changes, write_changes
from train.gate.guards import Check, finite_check, new_label_checks
from train.gate.judge import build_gate_report
from train.gate.labels import (
    SharedLabels,
    compared_part,
    on_shared,
    rows_of_champion,
    share_labels,
)
from train.gate.page import gate_page
from train.gate.report import BundleInfo, GateReport
from train.statistics.comparison import check_counts
from train.statistics.resampling import Predictions

WARM_UP_PASSES = 5


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The bundles of one side, scored on the test rows."""

    predictor: Predictor
    """Of the first bundle; latency is measured on it."""
    predictions: list[Predictions]
    """On the rows and labels that are compared."""
    predicted_new: list[NDArray[np.bool_]]
    """On all test rows, one column per label that only the candidate knows; none of a champion."""
    infos: tuple[BundleInfo, ...]


def gate(
    config: RunConfig,
    *,
    candidates: Sequence[Path],
    champions: Sequence[Path],
    device: str = "auto",
    backend: BackendName = "auto",
    output: Path | None = None,
) -> tuple[GateReport, Path]:
    """Compare, and write the report to `output`, by default to a file in `output_dir`.

    Beside it are a page of the same name that ends in .html, and all texts with another answer,
    in a file that ends in -changed.parquet. candidates: several are seeds of one configuration,
    against as many champions or one. Returns the report and its path. Raises ValueError for
    bundles that cannot be compared with each other on these rows.
    """
    check_counts(len(candidates), len(champions))
    opened = {
        side: [open_bundle(path, verify=False) for path in paths]
        for side, paths in (("candidate", candidates), ("champion", champions))
    }
    test = load_data(config).test
    for side, bundles in opened.items():
        for bundle in bundles:
            check_task(f"{side} `{bundle.path}`", bundle.manifest, config)
    labels = _shared_labels(opened["champion"], opened["candidate"], config)
    rows_N = _compared_rows(opened, test, config, labels)
    candidate, champion = (
        _score(side, bundles, test, rows_N, labels, device=device, backend=backend)
        for side, bundles in opened.items()
    )
    if not finite_check(champion.predictions).passed:
        raise ValueError("the champion's scores are not finite; there is nothing to compare with")
    section = config.gate
    times = None
    if section.max_latency_ratio is not None:
        times = latencies(
            champion.predictor, candidate.predictor, test.texts, section.latency_samples
        )
    report = build_gate_report(
        section,
        champion.predictions,
        candidate.predictions,
        labels.shared,
        task=config.task,
        seed=config.seed,
        times_s=times,
        more_checks=_floors(candidate, test, labels, section),
    ).model_copy(
        update={
            "candidates": candidate.infos,
            "champions": champion.infos,
            "new_labels": labels.new,
            "renamed": dict(labels.renamed),
            "test": test.fingerprint,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    if output is None:
        names = f"{candidate.infos[0].version}-vs-{champion.infos[0].version}"
        output = config.output_dir / f"gate-{names}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    sides = champion.predictions[0], candidate.predictions[0]
    changes = find_changes(
        compared_part(test, rows_N),
        *sides,
        labels=labels.shared,
        task=config.task,
        new_labels=labels.new,
        predicted_new=candidate.predicted_new[0][rows_N],
    )
    write_changes(changes_file(output), changes, is_pair=config.is_pair)
    page = gate_page(report, changes, label_changes(*sides, labels.shared), output)
    write_atomic(output.with_suffix(".html"), page)
    write_atomic(output, (report.model_dump_json(indent=2) + "\n").encode())
    return report, output


def _floors(
    candidate: Scored, test: Split, labels: SharedLabels, section: GateSection
) -> list[Check]:
    """Judge the labels that only the candidate knows, on all test rows."""
    if not labels.new:
        return []
    return new_label_checks(
        reference(test, labels.new, others=True),
        np.stack(candidate.predicted_new),
        labels.new,
        min_recall=section.min_new_recall,
        min_precision=section.min_new_precision,
    )


def latencies(
    champion: Predictor, candidate: Predictor, texts: Sequence[Text], passes: int
) -> tuple[float, float]:
    """Median seconds of champion and candidate for one text.

    They alternate text by text, and alternate in going first, so that any other load on the
    machine slows both equally.
    """
    times: tuple[list[float], list[float]] = ([], [])
    predictors = (champion, candidate)
    for number in range(WARM_UP_PASSES + passes):
        text = texts[number % len(texts)]
        for side in (0, 1) if number % 2 else (1, 0):
            started = time.perf_counter()
            predictors[side].predict([text])
            if number >= WARM_UP_PASSES:
                times[side].append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def _shared_labels(
    champions: Sequence[Bundle], candidates: Sequence[Bundle], config: RunConfig
) -> SharedLabels:
    """Match the labels of both sides. Raises ValueError if one side's bundles differ in theirs."""
    for side, bundles in (("champion", champions), ("candidate", candidates)):
        if len({frozenset(bundle.manifest.labels) for bundle in bundles}) > 1:
            raise ValueError(f"the bundles of the {side} have different labels")
    return share_labels(
        champions[-1].manifest.labels, candidates[-1].manifest.labels, config.data.label_map
    )


def _compared_rows(
    opened: Mapping[str, Sequence[Bundle]], test: Split, config: RunConfig, labels: SharedLabels
) -> NDArray[np.bool_]:
    """Which test rows are compared; ValueError unless every bundle was made for them.

    An imported model was not made for any rows of ours, and what it was trained on is unknown: as
    the champion that can only make the gate stricter, as the candidate it is said.
    """
    for bundle in opened["candidate"]:
        if bundle.manifest.is_imported:
            print(
                f"note: candidate `{bundle.path}` was imported; nobody here knows whether it was "
                "trained on these test rows, which would favour it"
            )
            continue
        known, now = bundle.manifest.data["test"], test.fingerprint
        if known != now:
            raise ValueError(
                f"candidate `{bundle.path}` records {known['rows']} test rows with SHA-256 "
                f"{known['sha256'][:12]}, but data.test has {now['rows']} with "
                f"{now['sha256'][:12]}, which may include rows that it was trained on; compare "
                "bundles on the frozen test file of both training runs"
            )
    for bundle in opened["champion"]:
        try:
            rows_N = rows_of_champion(test, bundle.manifest, config, renamed=bool(labels.renamed))
        except ValueError as error:
            raise ValueError(f"champion `{bundle.path}` {error}") from None
    return rows_N


def _score(
    side: str,
    bundles: Sequence[Bundle],
    test: Split,
    rows_N: NDArray[np.bool_],
    labels: SharedLabels,
    *,
    device: str,
    backend: BackendName,
) -> Scored:
    """Load and score the bundles of one side, on the rows and labels that are compared."""
    reference_NC = reference(test, labels.shared, others=True)[rows_N]
    predictors: list[Predictor] = []
    predictions, infos, predicted_new = [], [], []
    for bundle in bundles:
        predictor = Predictor.load(bundle.path, device=device, backend=backend)
        probabilities_NC = predict(predictor, test, side)
        decision = predictor.rules.decide(probabilities_NC)
        predictors = predictors or [predictor]  # the others are released
        names = bundle.manifest.labels
        scores = on_shared(probabilities_NC[rows_N], names, labels)
        predicted = on_shared(decision.predicted_NC[rows_N], names, labels)
        predictions.append(
            Predictions(
                probabilities_NC=np.stack([each.sum(axis=1).clip(max=1) for each in scores], 1),
                predicted_NC=np.stack([each.any(axis=1) for each in predicted], 1),
                reference_NC=reference_NC,
            )
        )
        columns = [names.index(label) for label in labels.new if label in names]
        predicted_new.append(decision.predicted_NC[:, columns])
        infos.append(
            BundleInfo(
                path=str(bundle.path),
                version=bundle.manifest.version,
                backend=predictor.backend.name,
                precision=predictor.backend.precision,
                device=predictor.backend.device_kind,
            )
        )
    return Scored(
        predictor=predictors[0],
        predictions=predictions,
        predicted_new=predicted_new,
        infos=tuple(infos),
    )
