"""From probabilities to decisions: predicted labels, confidence and abstention.

The rules come from the bundle's calibration; the server, the file classifier and `train
evaluate` all use `Rules.decide`. The temperature is not applied here: `textloop merge` has
folded it into the weights, so the probabilities are already calibrated.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.bundle.manifest import Abstention, Manifest
from serve.inference.scores import Array, chosen, confidence


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Predictions for N texts."""

    predicted_NC: NDArray[np.bool_]
    confidence_N: NDArray[np.float64]
    """See `serve.inference.scores.confidence`."""
    abstain_N: NDArray[np.bool_] | None
    """Whether to abstain; None if the bundle has no abstention threshold."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The decision rules of a bundle on one backend."""

    task: str
    thresholds_C: Array | None
    """Decision thresholds of a multi-label model; None: 0.5."""
    abstention: Abstention | None
    """The backend's own threshold: int8 and full precision differ in confidence."""

    @classmethod
    def of(cls, manifest: Manifest, backend: str) -> Rules:
        """Read the rules for the backend torch or onnx from a manifest."""
        calibration = manifest.calibration
        thresholds = calibration.thresholds if calibration else None
        return cls(
            task=manifest.task,
            thresholds_C=None if thresholds is None else np.array(thresholds, dtype=np.float32),
            abstention=calibration.abstention.get(backend) if calibration else None,
        )

    @property
    def abstain_below(self) -> float | None:
        """Confidence below which to abstain; None if the bundle has no threshold."""
        return self.abstention.abstain_below if self.abstention else None

    @property
    def no_abstention(self) -> str:
        """The reason why there is no abstention threshold, and the remedy."""
        if self.abstention is None:
            return (
                "the bundle has no abstention threshold; merge it again with "
                "calibration.max_risk set to the acceptable error rate on answered texts"
            )
        return f"the bundle has no abstention threshold: {self.abstention.reason}"

    def decide(self, probabilities_NC: Array) -> Decision:
        """Apply the rules to probabilities, computed with the task's own activation."""
        predicted_NC = chosen(probabilities_NC, self.task, self.thresholds_C)
        confidence_N = confidence(probabilities_NC, predicted_NC, self.task)
        below = self.abstain_below
        return Decision(
            predicted_NC=predicted_NC,
            confidence_N=confidence_N,
            abstain_N=None if below is None else confidence_N < below,
        )
