"""Bundles that were altered and sealed again with the right hashes, as a forger would."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from serve.bundle.contents import GOLDEN
from serve.bundle.manifest import MANIFEST, Abstention, Calibration, Manifest, digest_of
from serve.bundle.seal import open_bundle, seal
from serve.files import sha256_of

Change = Callable[[Path, dict[str, Any]], None]
"""Takes the directory and the manifest's values, and alters one or both."""


def forge(bundle: Path, destination: Path, change: Change) -> Path:
    """Copy a bundle, alter it, and seal it again."""
    shutil.copytree(bundle, destination)
    values = json.loads((destination / MANIFEST).read_text())
    del values["manifest_sha256"]
    (destination / MANIFEST).unlink()
    change(destination, values)
    found = [each for each in destination.rglob("*") if each.is_file()]
    listed = {str(each.relative_to(destination)): sha256_of(each) for each in found}
    values["files"] = dict(sorted((values.pop("extra_files", {}) | listed).items()))
    values["manifest_sha256"] = digest_of(values)
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    if not (destination / MANIFEST).exists():
        (destination / MANIFEST).write_text(text)
    return destination


def manifest(**changes: Any) -> Change:
    """Replace fields of the manifest; a dictionary changes fields of the one that is there."""

    def change(path: Path, values: dict[str, Any]) -> None:
        for name, new in changes.items():
            values[name] = {**values[name], **new} if isinstance(new, dict) else new

    return change


def json_file(name: str, **changes: Any) -> Change:
    """Set keys of a JSON file; None removes them."""

    def change(path: Path, values: dict[str, Any]) -> None:
        content = json.loads((path / name).read_text()) | changes
        kept = {key: value for key, value in content.items() if value is not None}
        (path / name).write_text(json.dumps(kept))

    return change


def config(**changes: Any) -> Change:
    return json_file("config.json", **changes)


def file(name: str, data: bytes) -> Change:
    """Write a file."""

    def change(path: Path, values: dict[str, Any]) -> None:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(data)

    return change


def removed(*names: str) -> Change:
    def change(path: Path, values: dict[str, Any]) -> None:
        for name in names:
            (path / name).unlink()

    return change


def weights(edit: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """Replace the tensors."""

    def change(path: Path, values: dict[str, Any]) -> None:
        tensors = edit(load_file(path / "model.safetensors"))
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})

    return change


def head(value: Callable[[Any], Any]) -> Change:
    """Replace the head's weights and bias."""
    return weights(lambda ts: {n: value(t) if n.startswith("classifier") else t
                               for n, t in ts.items()})  # fmt: skip


def onnx(edit: Callable[[Any], None]) -> Change:
    """Alter the export's graph."""
    return whole_onnx(lambda model: edit(model.graph))


def whole_onnx(edit: Callable[[Any], None]) -> Change:
    """Alter the export."""

    def change(path: Path, values: dict[str, Any]) -> None:
        import onnx

        model = onnx.load(path / "onnx/model_int8.onnx")
        edit(model)
        (path / "onnx/model_int8.onnx").write_bytes(model.SerializeToString())

    return change


def both(*changes: Change) -> Change:
    def change(path: Path, values: dict[str, Any]) -> None:
        for each in changes:
            each(path, values)

    return change


def without_export(path: Path, values: dict[str, Any]) -> None:
    """Leave the bundle to PyTorch."""
    shutil.rmtree(path / "onnx", ignore_errors=True)
    values["int8"] = None
    content = json.loads((path / GOLDEN).read_text())
    for case in content["cases"]:
        case["logits"].pop("int8", None)
    (path / GOLDEN).write_text(json.dumps(content))
    values["parity"] = {k: v for k, v in values["parity"].items() if k != "golden_int8"}


def golden_cases(edit: Callable[[dict[str, Any]], None]) -> Change:
    """Change each golden case."""

    def change(path: Path, values: dict[str, Any]) -> None:
        content = json.loads((path / GOLDEN).read_text())
        for case in content["cases"]:
            edit(case)
        (path / GOLDEN).write_text(json.dumps(content))

    return change


def golden_again(path: Path, values: dict[str, Any]) -> None:
    """Record the golden cases of a model that was altered: it is then another, sound one."""
    from serve.inference.backends.torch import TorchBackend
    from train.golden import write_golden

    kept = {key: value for key, value in values.items() if key != "files"}
    kept["parity"] = {k: v for k, v in kept["parity"].items() if not k.startswith("golden_")}
    errors = write_golden(path, kept, TorchBackend.load(path, device="cpu"))
    values["parity"] = kept["parity"] | errors


class _Pickle:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (Path.touch, (self.canary,))


def pickled(canary: Path) -> bytes:
    """A pickle that makes a file when it is loaded."""
    return pickle.dumps(_Pickle(canary))


def nan(array: Any) -> Any:
    return np.full_like(array, np.nan)


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
