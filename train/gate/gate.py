"""Candidate against champion on the frozen test rows: may the candidate take its place?

Both come through the predictor that serves them, on the same rows, with the backend that the
server would pick on this device. Bundles that know other test rows than these, or other
labels than each other, are not compared at all (ValueError). Otherwise the answer is a
`GateReport`, which `train.gate.judge` makes of the two bundles' answers and times.

    python -m train gate --config configs/X.yaml --candidate DIR --champion DIR
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from tqdm import tqdm

from serve.bundle.seal import Bundle, open_bundle
from serve.files import write_atomic
from serve.inference.placement import BackendName
from serve.inference.predictor import Predictor
from serve.inference.text import Text
from train.config.run import RunConfig
from train.data.splits import Split, load_data
from train.evaluation.evaluate import reference
from train.gate.guards import finite_check
from train.gate.judge import build_gate_report
from train.gate.report import BundleInfo, GateReport
from train.statistics.resampling import Answers

BLOCK_TEXTS = 1024
WARM_UP_PASSES = 5


def gate(
    config: RunConfig,
    *,
    candidates: Sequence[Path],
    champions: Sequence[Path],
    device: str = "auto",
    backend: BackendName = "auto",
    output: Path | None = None,
) -> tuple[GateReport, Path]:
    """Compare, and write the report; its path is `output` or a name in `output_dir`.

    candidates: several are seeds of one configuration, against as many champions or one.
    Raises ValueError for bundles that cannot be compared with each other on these rows.
    """
    if len(champions) not in (1, len(candidates)):
        raise ValueError(
            f"{len(candidates)} candidates and {len(champions)} champions: give as many champions "
            "as candidates, or one"
        )
    sides = {"candidate": candidates, "champion": champions}
    opened = [
        (side, open_bundle(path, verify=False)) for side, paths in sides.items() for path in paths
    ]
    test = load_data(config).test
    for side, bundle in opened:
        _check_comparable(side, bundle, test, config, labels=opened[-1][1].manifest.labels)
    labels = opened[-1][1].manifest.labels

    predictors: dict[str, Predictor] = {}
    answers: dict[str, list[Answers]] = {"candidate": [], "champion": []}
    judged: dict[str, list[BundleInfo]] = {"candidate": [], "champion": []}
    for side, bundle in opened:
        predictor = Predictor.load(bundle.path, device=device, backend=backend)
        predictors.setdefault(side, predictor)
        answers[side].append(_answers(predictor, test, labels, side))
        judged[side].append(
            BundleInfo(
                path=str(bundle.path),
                version=bundle.manifest.version,
                backend=predictor.backend.name,
                precision=predictor.backend.precision,
                device=predictor.backend.device_kind,
            )
        )
    if not finite_check(answers["champion"]).passed:
        raise ValueError("the champion gives scores that are not finite; nothing to compare with")
    section = config.gate
    times = None
    if section.max_latency_ratio is not None:
        times = latencies(
            predictors["champion"], predictors["candidate"], test.texts, section.latency_samples
        )
    report = build_gate_report(
        section,
        answers["champion"],
        answers["candidate"],
        labels,
        task=config.task,
        seed=config.seed,
        times_s=times,
    ).model_copy(
        update={
            "candidates": tuple(judged["candidate"]),
            "champions": tuple(judged["champion"]),
            "test": test.fingerprint,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    if output is None:
        names = [each[0].version for each in judged.values()]
        output = config.output_dir / f"gate-{names[0]}-vs-{names[1]}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, (report.model_dump_json(indent=2) + "\n").encode())
    return report, output


def latencies(
    champion: Predictor, candidate: Predictor, texts: Sequence[Text], passes: int
) -> tuple[float, float]:
    """Median seconds of champion and candidate for one text.

    They take turns text by text, and turns at going first, so that whatever else the machine
    does meanwhile slows both alike.
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
    side: str, bundle: Bundle, test: Split, config: RunConfig, *, labels: Sequence[str]
) -> None:
    """Raise ValueError unless a bundle was made for these rows, this task and these labels."""
    manifest, name = bundle.manifest, f"{side} `{bundle.path}`"
    if manifest.task != config.task or manifest.is_pair != config.is_pair:
        raise ValueError(
            f"{name} is a {manifest.task} model of {len(manifest.text_columns)} text columns, the "
            f"configuration asks for {config.task} and {len(config.data.text_columns)}"
        )
    known, now = manifest.data["test"], test.fingerprint
    if known != now:
        raise ValueError(
            f"{name} knows {known['rows']} test rows with SHA-256 {known['sha256'][:12]}, these "
            f"are {now['rows']} with {now['sha256'][:12]}: its training may have seen them; "
            "compare bundles on the one frozen file in data.test that both were trained beside"
        )
    if different := set(manifest.labels) ^ set(labels):
        raise ValueError(
            f"{name} and the champion do not have the same labels ({sorted(different)} are in one "
            "alone); train both on the same set of labels, the order is free"
        )


def _answers(predictor: Predictor, test: Split, labels: Sequence[str], side: str) -> Answers:
    """A bundle's answers, its columns in the order of `labels`."""
    manifest = predictor.bundle.manifest
    parts = []
    with tqdm(total=len(test), unit="texts", desc=side, disable=None) as bar:
        for start in range(0, len(test), BLOCK_TEXTS):
            texts = test.texts[start : start + BLOCK_TEXTS]
            parts.append(predictor.predict(texts))
            bar.update(len(texts))
    columns = [manifest.labels.index(label) for label in labels]
    probabilities_NC = np.concatenate(parts)
    decision = predictor.rules.decide(probabilities_NC)
    return Answers(
        probabilities_NC=probabilities_NC[:, columns],
        predicted_NC=decision.predicted_NC[:, columns],
        reference_NC=reference(test, labels),
    )
