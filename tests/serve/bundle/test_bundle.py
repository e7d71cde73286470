"""A bundle is complete and unaltered, or rejected with the name of the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import run

from serve.bundle.manifest import MANIFEST, BundleError, Measured, digest_of
from serve.bundle.seal import open_bundle, record_metrics, seal

FILES = [
    "config.json",
    "golden.json",
    "manifest.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.fixture
def copy(bundles: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles("single"), tmp_path / "bundle"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_one_flipped_bit_is_refused_by_name(copy: Path, name: str, where: float) -> None:
    data = bytearray((copy / name).read_bytes())
    data[round(where * (len(data) - 1))] ^= 1
    (copy / name).write_bytes(data)

    with pytest.raises(BundleError, match=name):
        open_bundle(copy)


def test_no_flipped_bit_of_the_manifest_passes(copy: Path) -> None:
    data = (copy / "manifest.json").read_bytes()
    for position in range(0, len(data), 11):
        altered = bytearray(data)
        altered[position] ^= 1 << (position // 11 % 8)
        (copy / "manifest.json").write_bytes(altered)
        with pytest.raises(BundleError, match=r"manifest\.json"):
            open_bundle(copy, verify=False)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_refused_by_name(copy: Path, name: str) -> None:
    (copy / name).unlink()

    with pytest.raises(BundleError, match=name):
        open_bundle(copy)


@pytest.mark.parametrize("name", FILES)
def test_truncated_file_is_refused_by_name(copy: Path, name: str) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-1])

    with pytest.raises(BundleError, match=name):
        open_bundle(copy)


def test_unlisted_file_is_refused_and_hidden_ones_are_not(copy: Path) -> None:
    (copy / ".gitattributes").write_text("")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "x").write_text("")
    open_bundle(copy)

    (copy / "pytorch_model.bin").write_bytes(b"pickle")

    with pytest.raises(BundleError, match=r"pytorch_model\.bin"):
        open_bundle(copy)


def test_adding_a_card_and_plots_keeps_the_version(copy: Path) -> None:
    version = open_bundle(copy).manifest.version
    (copy / "README.md").write_text("# a card")
    (copy / "evaluation").mkdir()
    (copy / "evaluation" / "reliability.png").write_bytes(b"a plot")

    assert open_bundle(copy).manifest.version == version

    (copy / "README.md").write_text("# another card")
    open_bundle(copy)


@pytest.mark.parametrize("name", ["evaluation/a.py", "evaluation/b/c.png", "c.png", "x/README.md"])
def test_only_card_files_are_accepted_unlisted(copy: Path, name: str) -> None:
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).write_bytes(b"")

    with pytest.raises(BundleError, match=name):
        open_bundle(copy)


def test_sealing_leaves_the_card_outside_the_manifest(copy: Path, tmp_path: Path) -> None:
    manifest = open_bundle(copy).manifest
    fields = {name: getattr(manifest, name) for name in type(manifest).model_fields}
    del fields["files"]
    staging = tmp_path / "staging"
    shutil.copytree(copy, staging, ignore=shutil.ignore_patterns("manifest.json"))
    (staging / "README.md").write_text("# a card")

    bundle = seal(staging, tmp_path / "other", **fields)

    assert bundle.manifest == manifest
    assert (bundle.path / "README.md").is_file()


def test_server_and_file_classifier_refuse_an_altered_bundle(copy: Path, tmp_path: Path) -> None:
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)

    (tmp_path / "a.csv").write_text("text\nhello\n")

    served = run("-m", "serve", "run", "--bundle", copy)
    predicted = run(
        *("-m", "serve", "predict", "--bundle", copy),
        *("--input", tmp_path / "a.csv", "--output", tmp_path / "b.csv"),
    )

    assert (served.returncode, predicted.returncode) == (2, 2)
    assert "model.safetensors" in served.stderr
    assert "model.safetensors" in predicted.stderr


def test_directory_that_is_not_a_bundle_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="textloop merge"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match="no such directory"):
        open_bundle(tmp_path / "none")


def test_bundle_of_a_later_schema_is_refused(copy: Path) -> None:
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"schema_version": 4', '"schema_version": 9'))

    with pytest.raises(BundleError, match="schema version 9"):
        open_bundle(copy)


def test_metrics_are_recorded_without_changing_the_version(copy: Path) -> None:
    before = open_bundle(copy)

    record_metrics(before, "test", {"accuracy": Measured(value=0.5, low=0.4, high=0.6)})
    after = open_bundle(copy)

    assert after.manifest.metrics["test"]["accuracy"].value == 0.5
    assert after.manifest.metrics["validation"] == before.manifest.metrics["validation"]
    assert after.manifest.version == before.manifest.version


def test_sealing_replaces_an_existing_bundle(copy: Path, tmp_path: Path) -> None:
    manifest = open_bundle(copy).manifest
    fields = {name: getattr(manifest, name) for name in type(manifest).model_fields}
    del fields["files"]
    staging = tmp_path / "staging"
    shutil.copytree(copy, staging, ignore=shutil.ignore_patterns("manifest.json"))

    bundle = seal(staging, copy, **fields | {"created": "2026-01-01T00:00:00+00:00"})

    assert not staging.exists()
    assert open_bundle(copy).manifest == bundle.manifest
    assert bundle.manifest.version != manifest.version
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_manifest_records_the_origin_of_the_model(bundles: Callable[[str], Path]) -> None:
    manifest = open_bundle(bundles("single")).manifest

    assert manifest.labels == ("billing", "delivery", "login")
    assert manifest.max_length == 32
    assert len(manifest.base_model["weights_sha256"]) == 64
    assert manifest.data["train"]["rows"] > 100
    assert manifest.config["lora"]["r"] == 4
    assert manifest.metrics["validation"]["accuracy"].low < 1
    assert {"torch", "transformers", "peft"} <= manifest.versions.keys()


def test_manifest_written_before_optional_figures_existed_opens(copy: Path) -> None:
    """Its digest is over what it holds, so a field with a default may not add to that."""
    values = json.loads((copy / MANIFEST).read_text())
    del values["manifest_sha256"]
    values["metrics"] = {"test": {"ece": {"value": 0.05, "low": 0.0, "high": 0.07}}}
    values["calibration"]["abstention"] = {
        "torch": {
            "max_risk": 0.1,
            "risk_confidence": 0.95,
            "abstain_below": 0.8,
            "reason": "as it was",
            "rows": 100,
            "answered": 50,
            "errors": 1,
        }
    }
    values["manifest_sha256"] = digest_of(values)
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    (copy / MANIFEST).write_text(text)

    manifest = open_bundle(copy).manifest

    assert str(manifest.metrics["test"]["ece"]) == "0.0500 [0.0000, 0.0700]"
    assert manifest.calibration.abstention["torch"].checkpoints == 1
