"""Pages of made-up results whose texts and labels try to break them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from serve.bundle.manifest import Calibration, Manifest, Measured, TokenizerRules
from serve.inference.decision import Decision
from serve.inference.text import Text
from train.audit.advice import Advice
from train.audit.audit import Audit
from train.audit.duplicates import find_duplicates
from train.audit.findings import View, count_labels, duplicate_findings, invalid_finding
from train.audit.report import report_html as prepare_html
from train.compare.compare import compare
from train.compare.page import compare_page
from train.compare.runs import RunResult
from train.config.run import RunConfig
from train.config.sections import GateSection
from train.data.splits import InvalidRow, LabelledData, Split
from train.evaluation.figures import draw
from train.evaluation.report import Subject
from train.evaluation.report import report_html as evaluation_html
from train.evaluation.result import Evaluation, Measurement
from train.evaluation.slices import find_slices
from train.gate.changes import find_changes, label_changes
from train.gate.judge import build_gate_report
from train.gate.page import gate_page
from train.gate.report import BundleInfo
from train.statistics.intervals import measure_all
from train.statistics.resampling import Predictions
from train.tune.page import tune_page
from train.tune.report import TuneResult

HOSTILE = (
    "Donaudampfschifffahrt" * 30,
    "</td></table><script>alert(1)</script><img src=http://127.0.0.1:9/x onerror=alert(2)>",
    "مرحبا بالعالم " * 20,
    "👩‍👩‍👧‍👦" * 200,
    "\u202egnp.exe\x07 " * 5,
    "line\nline\n\n" * 10,
    "https://example.org/" + "a" * 500,
)


CHOICES = [json.dumps("x" * 200), "8"]
"""Values of a dimension, as a search stores them."""


def labels_of(count: int) -> tuple[str, ...]:
    """As many labels, among them very long and strange ones."""
    strange = [
        "L" * 200,
        "a label of many words " * 9,
        "<b>bold</b>",
        "שלום " * 8,
        "💥" * 60,
        "$x_1$",
    ]
    return tuple([*strange, *(f"label_{n}_of_a_taxonomy" for n in range(count))][:count])


def outcome(
    count: int, rows: int, *, errors: int, multi: bool = False, seed: int = 0
) -> Measurement:
    """Random predictions with so many errors."""
    generator = np.random.default_rng(seed)
    reference_NC = np.arange(rows)[:, None] % count == np.arange(count)
    if multi:
        reference_NC = reference_NC | (generator.random((rows, count)) < 0.2)
    predicted_NC = reference_NC.copy()
    for row in range(errors):
        predicted_NC[row] = np.roll(predicted_NC[row], 1 + (seed + row) % (count - 1))
    scores_NC = (
        generator.random((rows, count)) * 0.3 + predicted_NC * (1 + generator.random(rows))[:, None]
    )
    probabilities_NC = scores_NC / 3 if multi else scores_NC / scores_NC.sum(axis=1, keepdims=True)
    probabilities_NC = probabilities_NC.astype(np.float32)
    task = "multi_label" if multi else "single_label"
    return Measurement(
        probabilities_NC=probabilities_NC,
        decision=Decision(
            predicted_NC=predicted_NC,
            confidence_N=probabilities_NC.max(axis=1).astype(np.float64),
            abstain_N=None,
        ),
        reference_NC=reference_NC,
        metrics=measure_all(
            reference_NC, predicted_NC, probabilities_NC,
            task=task, labels=labels_of(count), seed=seed,
        ),
        abstention=None,
    )  # fmt: skip


def split_of(measured: Measurement, *, pair: bool = False) -> Split:
    """Rows with hostile texts and the true labels of a measurement."""
    rows, count = measured.reference_NC.shape
    names = labels_of(count)
    texts: list[Text] = [f"{HOSTILE[n % len(HOSTILE)]} {n}" for n in range(rows)]
    return Split(
        texts=[(str(text), "and another one") for text in texts] if pair else texts,
        labels=[tuple(np.array(names, dtype=object)[row]) for row in measured.reference_NC],
        rows=range(1_000_001, 1_000_001 + rows),
        slices={"channel": [HOSTILE[n % 2] for n in range(rows)]},
    )


def manifest_of(count: int, *, multi: bool, pair: bool) -> Manifest:
    """The manifest of a bundle that does not exist."""
    facts: dict[str, Any] = {
        "text_columns": ("text", "text_pair")[: 1 + pair],
        "max_length": 32,
        "tokenizer": TokenizerRules(
            fast=True, columns=("input_ids",), fill={"input_ids": 0}, truncation_side="right"
        ),
        "base_model": {"base": "/a/very/long/path/" + "x" * 150, "weights_sha256": "0" * 64},
        "config": {"method": "lora", "data": {"train": "x" * 300}},
        "data": {name: {"rows": 9, "sha256": "0" * 64} for name in ("train", "validation", "test")},
        "parity": {}, "code_revision": None, "versions": {"torch": "2"},
        "created": "2026-01-01T00:00:00+00:00", "files": {},
        "calibration": Calibration(
            rows=9, log_loss_before=1, log_loss_after=1, ece_before=0.1, ece_after=0.1,
            thresholds=(0.5,) * count if multi else None, notes=("a note",),
        ),
    }  # fmt: skip
    task = "multi_label" if multi else "single_label"
    return Manifest(task=task, labels=labels_of(count), **facts)


def evaluation(
    count: int, rows: int, errors: int, *, multi: bool = False, pair: bool = False
) -> bytes:
    """The page of an evaluation."""
    full = outcome(count, rows, errors=errors, multi=multi)
    split, manifest = split_of(full, pair=pair), manifest_of(count, multi=multi, pair=pair)
    result = Evaluation(
        full=full,
        int8=full,
        difference=Measured(value=0.0, low=-0.01, high=0.01),
        agreement=1.0,
        slices=find_slices(split, full.correct_N),
        task=manifest.task,
        positive=manifest.labels[0] if count == 2 else None,
        commonest=manifest.labels[:1],
        directory=Path("x" * 120),
    )
    subject = Subject(
        manifest=manifest,
        split=split,
        run="run_" * 40,
        source="a_file_" * 30 + ".jsonl",
        log_history=[{"epoch": n, "loss": 1 / n, "eval_loss": 2 / n} for n in (1, 2, 3)],
    )
    plots = draw(full, manifest, result.positive, subject.log_history)
    return evaluation_html(result, subject, plots)


def gate(count: int, rows: int, *, same: bool = False) -> bytes:
    """The page of a gate."""
    sides = [outcome(count, rows, errors=rows // 4, seed=0 if same else seed) for seed in (0, 1)]
    champion, candidate = (
        Predictions(
            probabilities_NC=side.probabilities_NC,
            predicted_NC=side.predicted_NC,
            reference_NC=side.reference_NC,
        )
        for side in sides
    )
    labels = labels_of(count)
    report = build_gate_report(
        GateSection(min_test_rows=50), [champion], [candidate], labels, task="single_label", seed=0
    )
    infos = (
        BundleInfo(
            path="x" * 300, version="0" * 12, backend="onnx", precision="int8", device="cpu"
        ),
    )
    report = report.model_copy(update={"candidates": infos, "champions": infos})
    changes = find_changes(
        split_of(sides[0]),
        champion,
        candidate,
        labels=labels,
        task="single_label",
        new_labels=(),
        predicted_new=np.zeros((rows, 0), dtype=bool),
    )
    return gate_page(report, changes, label_changes(champion, candidate, labels), Path("g.json"))


def comparison(count: int, rows: int, runs: int) -> bytes:
    """The page of a comparison of runs, the last one on other test rows."""
    found = []
    for seed in range(runs):
        measured = outcome(count, rows, errors=rows // (2 + seed), seed=seed)
        split, labels = split_of(measured), labels_of(count)
        manifest = manifest_of(count, multi=False, pair=False)
        run = RunResult(
            name=f"{seed}_run_" * 20,
            directory=Path("/x" * 100),
            manifest=manifest.model_copy(update={"config": {"seed": seed, "data": "d" * 300}}),
            metrics=measured.intervals,
            test={"rows": rows, "sha256": "01"[seed == runs - 1] * 64},
            int8=None if seed else {"accuracy_difference": {"value": 0.0, "low": -1, "high": 1}},
            coverage=Measured(value=0.9, low=0.8, high=1.0) if seed else None,
            train_seconds=12345.0 * seed or None,
            megabytes=123.4,
        )
        vars(run)["rows"] = [
            {
                "row": n,
                "text": text,
                "label": split.labels[n][0],
                "predicted": labels[measured.predicted_NC[n].argmax()],
                "correct": bool(measured.correct_N[n]),
            }
            | {f"p:{name}": p for name, p in zip(labels, scores_C, strict=True)}
            for n, (text, scores_C) in enumerate(
                zip(split.texts, measured.probabilities_NC.tolist(), strict=True)
            )
        ]
        found.append(run)
    return compare_page(compare(found))


def prepare(count: int, rows: int) -> bytes:
    """The page of an audit."""
    train = split_of(outcome(count, rows, errors=0))
    data = LabelledData(
        train=train, validation=train, test=dataclasses.replace(train, source="test"),
        labels=labels_of(count), num_dropped=0,
    )  # fmt: skip
    view = View(data=data, limit=25)
    found = find_duplicates(data, steps=("unicode",), near=None, seed=0)
    bad = [InvalidRow(source="train", row=n, problem="the text is empty " * 9, content=text)
           for n, text in enumerate(HOSTILE)]  # fmt: skip
    audit = Audit(
        findings=[invalid_finding(bad, len(bad), view), *duplicate_findings(found, view)],
        fixes=[],
        label_counts=count_labels(data),
        tokens={"median": 9.0, "p95": 20.0, "max": 512.0},
        reliability=None,
        advice=[
            Advice(kind="more_rows", text="t" * 300, settings=("a.b=" + "c" * 99,), figures={})
        ],
    )
    splits = {name: {"rows": rows, "sha256": "0" * 64} for name in ("train", "validation", "test")}
    summary = {
        "splits": splits, "notes": ["x" * 400], "suggestions": {"drop": 1, "relabel": 2},
        "fixes_applied": None, "suggestions_sha256": "0" * 64,
    }  # fmt: skip
    return prepare_html(audit, summary)


def tune(trials: int) -> bytes:
    """The page of a search."""
    distribution = optuna.distributions.CategoricalDistribution(CHOICES)
    keys = [f"trainer.some_very_long_key_{n}" for n in range(6)]
    made = [
        optuna.trial.create_trial(
            value=0.5 + n / 100,
            params=dict.fromkeys(keys, CHOICES[n % 2]),
            distributions=dict.fromkeys(keys, distribution),
        )
        for n in range(trials)
    ]
    for number, trial in enumerate(made):
        trial.number = number
    result = TuneResult(
        study="/a/long/path/" + "s" * 200, metric="accuracy", num_validation=90,
        counts={"complete": trials, "fail": 3}, best=made[-1] if made else None,
        interval=(0.4, 0.9) if made else None, importances=dict.fromkeys(keys, 0.2),
        reasons={"RuntimeError: " + "y" * 900: 3},
        best_file=Path("/x" * 100 + "/best.yaml"), table_file=Path("t.csv"),
    )  # fmt: skip
    values = {"output_dir": "x", "data": {"train": "t.csv"}, "model": {"base": "b" * 200},
              "tune": {"space": {"lora.r": {"choices": [4, 8]}}}}  # fmt: skip
    return tune_page(result, made, RunConfig.model_validate(values), maximize=True)


SAMPLES: dict[str, Callable[[], bytes]] = {
    "evaluation, 2 labels": lambda: evaluation(2, 120, 30),
    "evaluation, 2 labels, no error": lambda: evaluation(2, 60, 0),
    "evaluation, 7 labels, 1 error": lambda: evaluation(7, 140, 1),
    "evaluation, 77 labels, pairs": lambda: evaluation(77, 770, 300, pair=True),
    "evaluation, 150 labels": lambda: evaluation(150, 600, 400),
    "evaluation, several labels per text": lambda: evaluation(9, 150, 80, multi=True),
    "gate, 7 labels": lambda: gate(7, 280),
    "gate, 77 labels": lambda: gate(77, 385),
    "gate, the same answers": lambda: gate(2, 60, same=True),
    "comparison, 3 runs": lambda: comparison(7, 140, 3),
    "comparison, 6 runs": lambda: comparison(77, 385, 6),
    "prepare, 7 labels": lambda: prepare(7, 70),
    "prepare, 150 labels": lambda: prepare(150, 300),
    "tune": lambda: tune(40),
    "tune, no trial": lambda: tune(0),
}
