"""The lines that `textloop merge` prints."""

from __future__ import annotations

from collections.abc import Iterator

from serve.bundle.binary import BinaryScores, DecisionThreshold
from serve.bundle.manifest import Calibration
from serve.bundle.seal import Bundle
from serve.inference.placement import (
    BF16_CHANGED,
    BF16_PROBABILITY,
    BF16_TEXTS,
    bf16_serves,
)
from train.evaluation.summary import INTERVALS, table

COMPARISONS = {
    "adapter_live": "adapter in memory vs. reloaded",
    "adapter_merged": "adapter vs. merged weights",
    "adapter_reloaded": "adapter vs. reloaded bundle",
}
"""Printed names of the manifest's `parity` keys; full fine-tuning has the last one only."""


def summary_lines(bundle: Bundle) -> Iterator[str]:
    """Differences of logits, calibration, validation metrics, the int8 export and the version."""
    manifest = bundle.manifest
    parity = manifest.parity
    yield f"largest logit difference on {parity['texts']:.0f} validation texts:"
    for key, name in COMPARISONS.items():
        if key in parity:
            yield f"  {name:<31} {parity[key]:.1e}"
    yield (
        f"bf16 on {parity[BF16_TEXTS]:.0f} of them: probabilities within "
        f"{parity[BF16_PROBABILITY]:.3f}, {parity[BF16_CHANGED]:.0f} other decisions; CUDA serves "
        f"in {'bf16' if bf16_serves(parity) else 'fp32, since that is too many or too far'}"
    )
    if manifest.calibration:
        yield from _calibration_lines(manifest.calibration)
    yield f"validation metrics of the bundle, with {INTERVALS}:"
    yield table(manifest.metrics["validation"], manifest.task)
    if int8 := manifest.int8:
        yield f"int8 export for CPUs {'included' if int8.shipped else 'skipped'}: {int8.reason}"
    yield f"sealed {bundle.path}, version {manifest.version}"


def _calibration_lines(fitted: Calibration) -> Iterator[str]:
    """What was fitted on the validation split."""
    if fitted.temperature == 1.0:
        yield (
            f"temperature 1, as trained; on {fitted.rows} validation rows: log-loss "
            f"{fitted.log_loss_after:.4f}, calibration error {fitted.ece_after:.4f}"
        )
    else:
        yield (
            f"temperature {fitted.temperature:.3f}, folded into the last layer; on {fitted.rows} "
            f"validation rows: log-loss {fitted.log_loss_before:.4f} -> "
            f"{fitted.log_loss_after:.4f}, calibration error {fitted.ece_before:.4f} -> "
            f"{fitted.ece_after:.4f}"
        )
    for backend, decision in fitted.decision.items():
        yield from _decision_lines(backend, decision)
    for backend, found in fitted.abstention.items():
        state = "" if found.abstain_below is not None else "none: "
        yield f"abstention on {backend}: {state}{found.reason}"
    for note in fitted.notes:
        yield f"note: {note}"


def _decision_lines(backend: str, decision: DecisionThreshold) -> Iterator[str]:
    """The threshold of a binary model, and what it changes on the validation rows."""
    label = decision.positive_label
    if decision.threshold is None:
        yield f"decision threshold on {backend}: none, 0.5 decides: {decision.reason}"
    else:
        yield (
            f"decision threshold on {backend}: {label!r} is predicted from a probability of "
            f"{decision.threshold:.4f}: {decision.reason}"
        )
    places = {"at_half": "at 0.5", "at_threshold": "at the threshold"}
    for name, scores in decision.validation.items():
        yield f"  {label} {places[name]:<16} {_scores(scores)}"


def _scores(scores: BinaryScores) -> str:
    precision, recall = (
        "undefined" if each is None else f"{each:.4f}" for each in (scores.precision, scores.recall)
    )
    return f"precision {precision}, recall {recall}, F1 {scores.f1:.4f}"
