"""From probabilities to decisions: which labels, how sure, and whether to answer at all.

The bundle's calibration decides; the server, the file classifier and `train evaluate` all
come through `Rules.decide`. The temperature is no matter of this module: `train merge` has
folded it into the weights, so that every probability is calibrated already.

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
    """What is predicted for N texts."""

    predicted_NC: NDArray[np.bool_]
    confidence_N: NDArray[np.float64]
    """As `serve.inference.scores.confidence` has it."""
    abstain_N: NDArray[np.bool_] | None
    """Whether to give no answer; None where the bundle has no abstention threshold."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a bundle decides on one backend."""

    task: str
    thresholds_C: Array | None
    """Least probability of each label of a multi-label model; None for 0.5."""
    abstention: Abstention | None
    """That of the backend: int8 is not as sure as full precision is."""

    @classmethod
    def of(cls, manifest: Manifest, backend: str) -> Rules:
        """The rules of a bundle on the backend torch or onnx."""
        calibration = manifest.calibration
        thresholds = calibration.thresholds if calibration else None
        return cls(
            task=manifest.task,
            thresholds_C=None if thresholds is None else np.array(thresholds, dtype=np.float32),
            abstention=calibration.abstention.get(backend) if calibration else None,
        )

    @property
    def abstain_below(self) -> float | None:
        """Confidence under which there is no answer; None where the bundle has no threshold."""
        return self.abstention.abstain_below if self.abstention else None

    @property
    def no_abstention(self) -> str:
        """Why there is no abstention threshold, and what to do about it."""
        if self.abstention is None:
            return (
                "the bundle has no abstention threshold; merge it again with "
                "calibration.max_risk set to the share of wrong answers that is acceptable"
            )
        return f"the bundle has no abstention threshold: {self.abstention.reason}"

    def decide(self, probabilities_NC: Array) -> Decision:
        """Labels, confidence and abstention. probabilities_NC: by the task's own activation."""
        predicted_NC = chosen(probabilities_NC, self.task, self.thresholds_C)
        confidence_N = confidence(probabilities_NC, predicted_NC, self.task)
        below = self.abstain_below
        return Decision(
            predicted_NC=predicted_NC,
            confidence_N=confidence_N,
            abstain_N=None if below is None else confidence_N < below,
        )
