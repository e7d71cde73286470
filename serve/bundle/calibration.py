"""Whether the calibration in a manifest can decide: as many thresholds as labels, all in range."""

from __future__ import annotations

from collections.abc import Iterator

from serve.bundle.manifest import Calibration, Manifest

MAX_TEMPERATURE = 1000.0
"""Largest temperature, and the inverse of the smallest; fitted ones are between 0.05 and 20."""


def calibration_problems(manifest: Manifest) -> Iterator[str]:
    """Return what is wrong with the temperature, thresholds and abstention of a manifest."""
    calibration = manifest.calibration
    if calibration is None:
        return
    where = "in the calibration in `manifest.json`"
    if not 1 / MAX_TEMPERATURE <= calibration.temperature <= MAX_TEMPERATURE:
        yield (
            f"the temperature {calibration.temperature} {where}, expected "
            f"{1 / MAX_TEMPERATURE} to {MAX_TEMPERATURE}"
        )
    thresholds = calibration.thresholds
    if thresholds is not None and manifest.task != "multi_label":
        yield f"thresholds {where} of a single_label model"
    if thresholds is not None and len(thresholds) != len(manifest.labels):
        yield f"{len(thresholds)} thresholds {where} for {len(manifest.labels)} labels"
    if calibration.decision and (manifest.task != "single_label" or len(manifest.labels) != 2):
        yield f"a decision threshold {where} of a model that is not binary"
    for decision in calibration.decision.values():
        if decision.positive_label not in manifest.labels:
            yield f"a decision threshold {where} for {decision.positive_label!r}, which is no label"
    yield from _probabilities(calibration, where)
    for name in ("abstention", "decision"):
        if unknown := sorted(getattr(calibration, name).keys() - {"torch", "onnx"}):
            article = "an" if name == "abstention" else "a"
            yield f"{article} {name} threshold for the unknown backend {unknown[0]!r} {where}"


def _probabilities(calibration: Calibration, where: str) -> Iterator[str]:
    for each in calibration.thresholds or ():
        if not 0 <= each <= 1:
            yield f"the threshold {each} {where} is no probability"
    for decision in calibration.decision.values():
        if decision.threshold is not None and not 0 <= decision.threshold <= 1:
            yield f"the decision threshold {decision.threshold} {where} is no probability"
    for abstention in calibration.abstention.values():
        for name in ("abstain_below", "max_risk", "risk_confidence"):
            value = getattr(abstention, name)
            if value is not None and not 0 <= value <= 1:
                yield f"`{name}` = {value} {where} is no probability"
