"""Runs and bundles for the tests of the gate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from altered import golden_again
from rows import make_rows, write_jsonl
from safetensors.numpy import load_file, save_file

from serve.bundle.manifest import MANIFEST, Manifest
from serve.bundle.seal import open_bundle, seal
from train.__main__ import main
from train.gate.report import GateReport

SETTINGS = {"min_test_rows": 20, "margin": 0.1, "f1_margin": 0.1, "latency_samples": 10,
            "max_latency_ratio": 20, "max_ece_increase": 0.2, "resamples": 200}  # fmt: skip
"""Limits that 60 test rows and tiny models meet on a busy machine."""


def write_run(manifest: Manifest, directory: Path, **gate: Any) -> Path:
    # The manifest has the files' names alone; the same rows are written again.
    columns = list(manifest.text_columns)
    multi = manifest.task == "multi_label"
    data = {}
    for name, num_rows, seed in (("train", 300, 1), ("test", 60, 2)):
        rows = make_rows(num_rows, seed=seed, columns=len(columns), multi=multi)
        data[name] = str(write_jsonl(directory / f"{name}.jsonl", rows))
    values = manifest.config | {
        "data": manifest.config["data"] | data,
        "gate": SETTINGS | gate,
        "output_dir": str(directory / "run"),
    }
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def altered(
    bundle: Path,
    directory: Path,
    *,
    tensors: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    config: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    **fields: Any,
) -> Path:
    """A bundle with changed weights, `config.json` or manifest, sealed again."""
    staging = directory / "staging"
    shutil.copytree(bundle, staging)
    (staging / MANIFEST).unlink()
    shutil.rmtree(staging / "onnx", ignore_errors=True)
    weights = staging / "model.safetensors"
    save_file(tensors(load_file(weights)), weights, metadata={"format": "pt"})
    file = staging / "config.json"
    file.write_text(json.dumps(config(json.loads(file.read_text()))))
    manifest = open_bundle(bundle).manifest
    values = {name: getattr(manifest, name) for name in Manifest.model_fields}
    values |= {"int8": None, **fields}
    for name in ("files", "schema_version", "metrics"):
        del values[name]
    golden_again(staging, values)
    return seal(staging, directory / "altered", **values).path


def gate(run_file: Path, candidate: Path, champion: Path, *more: object) -> int:
    return main(
        ["gate", "--config", str(run_file), "--backend", "torch", "--candidate", str(candidate),
         "--champion", str(champion), *map(str, more)]
    )  # fmt: skip


def report_of(run_file: Path) -> GateReport:
    (file,) = (run_file.parent / "run").glob("gate-*.json")
    return GateReport.model_validate_json(file.read_bytes())
