"""Bundles with another calibration than their run gave them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from serve.bundle.manifest import Abstention, Calibration, Manifest
from serve.bundle.seal import open_bundle, seal


def calibrated(bundle: Path, directory: Path, **fitted: Any) -> Path:
    """Seal the same model with a different calibration."""
    manifest = open_bundle(bundle).manifest
    staging = directory / "staging"
    shutil.copytree(bundle, staging)
    (staging / "manifest.json").unlink()
    fields = {name: getattr(manifest, name) for name in Manifest.model_fields if name != "files"}
    nothing = {"rows": 30, "log_loss_before": 0.5, "log_loss_after": 0.4}
    calibration = Calibration(**nothing, ece_before=0.1, ece_after=0.05, **fitted)
    seal(staging, directory / "bundle", **fields | {"calibration": calibration})
    return directory / "bundle"


def abstention(below: float | None) -> Abstention:
    return Abstention(
        max_risk=0.1, risk_confidence=0.95, abstain_below=below, reason="no row is sure", rows=30
    )
