"""Compare a candidate with the champion on the frozen test rows: may it replace the champion?

Both run through the predictor that serves them, on the same rows, with the backend that the
server would choose on this device. Bundles with different test rows or labels are not compared
at all (ValueError). Otherwise the result is a `GateReport`, which `train.gate.judge` makes from
both bundles' predictions and times.

    python -m train gate --config configs/X.yaml --candidate DIR --champion DIR
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from serve.bundle.seal import Bundle, open_bundle
from serve.files import write_atomic
from serve.inference.placement import BackendName
from serve.inference.predictor import Predictor
from serve.inference.text import Text
from train.config.run import RunConfig
from train.data.splits import Split, load_data
from train.evaluation.measure import check_task, predict, reference
from train.gate.changes import changes_file, find_changes, label_changes, write_changes
from train.gate.guards import finite_check
from train.gate.judge import build_gate_report
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
    labels = opened["champion"][-1].manifest.labels
    for side, bundles in opened.items():
        for bundle in bundles:
            _check_comparable(f"{side} `{bundle.path}`", bundle, test, config, labels=labels)

    candidate, champion = (
        _score(side, bundles, test, labels, device=device, backend=backend)
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
        labels,
        task=config.task,
        seed=config.seed,
        times_s=times,
    ).model_copy(
        update={
            "candidates": candidate.infos,
            "champions": champion.infos,
            "test": test.fingerprint,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    if output is None:
        names = f"{candidate.infos[0].version}-vs-{champion.infos[0].version}"
        output = config.output_dir / f"gate-{names}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    sides = champion.predictions[0], candidate.predictions[0]
    changes = find_changes(test, *sides, labels=labels, task=config.task)
    write_changes(changes_file(output), changes, is_pair=config.is_pair)
    page = gate_page(report, changes, label_changes(*sides, labels), output)
    write_atomic(output.with_suffix(".html"), page)
    write_atomic(output, (report.model_dump_json(indent=2) + "\n").encode())
    return report, output


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


def _check_comparable(
    name: str, bundle: Bundle, test: Split, config: RunConfig, *, labels: Sequence[str]
) -> None:
    """Raise ValueError unless a bundle was made for these rows, this task and these labels."""
    manifest = bundle.manifest
    check_task(name, manifest, config)
    known, now = manifest.data["test"], test.fingerprint
    if known != now:
        raise ValueError(
            f"{name} records {known['rows']} test rows with SHA-256 {known['sha256'][:12]}, but "
            f"data.test has {now['rows']} with {now['sha256'][:12]}, which may include rows that "
            "it was trained on; compare bundles on the frozen test file of both training runs"
        )
    if different := set(manifest.labels) ^ set(labels):
        raise ValueError(
            f"{name} and the champion have different labels (only one has {sorted(different)}); "
            "train both on the same set of labels, in any order"
        )


def _score(
    side: str,
    bundles: Sequence[Bundle],
    test: Split,
    labels: Sequence[str],
    *,
    device: str,
    backend: BackendName,
) -> Scored:
    """Load and score the bundles of one side, label columns in the order of `labels`."""
    reference_NC = reference(test, labels)
    predictors: list[Predictor] = []
    predictions, infos = [], []
    for bundle in bundles:
        predictor = Predictor.load(bundle.path, device=device, backend=backend)
        probabilities_NC = predict(predictor, test, side)
        decision = predictor.rules.decide(probabilities_NC)
        columns = [bundle.manifest.labels.index(label) for label in labels]
        predictors = predictors or [predictor]  # the others are released
        predictions.append(
            Predictions(
                probabilities_NC=probabilities_NC[:, columns],
                predicted_NC=decision.predicted_NC[:, columns],
                reference_NC=reference_NC,
            )
        )
        infos.append(
            BundleInfo(
                path=str(bundle.path),
                version=bundle.manifest.version,
                backend=predictor.backend.name,
                precision=predictor.backend.precision,
                device=predictor.backend.device_kind,
            )
        )
    return Scored(predictor=predictors[0], predictions=predictions, infos=tuple(infos))
