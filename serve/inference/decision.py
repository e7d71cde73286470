"""From probabilities to decisions: predicted labels, confidence and abstention.

The rules come from the bundle's calibration; the server, the file classifier and `train
evaluate` all use `Rules.decide`. The temperature is not applied here: `textloop merge` has
folded it into the weights, so the probabilities are already calibrated.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.bundle.binary import DecisionThreshold
from serve.bundle.manifest import Abstention, Calibration, Manifest
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
    binary: DecisionThreshold | None = None
    """The backend's own threshold of a binary model; None: the best label is predicted."""
    positive: int | None = None
    """Column of the positive label of `binary`."""

    @classmethod
    def of(cls, manifest: Manifest, backend: str) -> Rules:
        """Read the rules for the backend torch or onnx from a manifest."""
        return cls.fitted(manifest.calibration, backend, task=manifest.task, labels=manifest.labels)

    @classmethod
    def fitted(
        cls, calibration: Calibration | None, backend: str, *, task: str, labels: Sequence[str]
    ) -> Rules:
        """The rules for the backend torch or onnx by a calibration. labels: in output order."""
        if calibration is None:
            return cls(task=task, thresholds_C=None, abstention=None)
        thresholds, binary = calibration.thresholds, calibration.decision.get(backend)
        return cls(
            task=task,
            thresholds_C=None if thresholds is None else np.array(thresholds, dtype=np.float32),
            abstention=calibration.abstention.get(backend),
            binary=binary,
            positive=labels.index(binary.positive_label) if binary else None,
        )

    @property
    def threshold(self) -> float | None:
        """Probability from which a binary model predicts `positive`; None: the best label."""
        return self.binary.threshold if self.binary else None

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
        if self.threshold is None:
            predicted_NC = chosen(probabilities_NC, self.task, self.thresholds_C)
        else:  # in double precision, in which the threshold was chosen
            positive_N = probabilities_NC[:, self.positive].astype(np.float64) >= self.threshold
            is_positive_C = np.arange(probabilities_NC.shape[1]) == self.positive
            predicted_NC = positive_N[:, None] == is_positive_C
        confidence_N = confidence(probabilities_NC, predicted_NC, self.task)
        below = self.abstain_below
        return Decision(
            predicted_NC=predicted_NC,
            confidence_N=confidence_N,
            abstain_N=None if below is None else confidence_N < below,
        )
