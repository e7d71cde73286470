"""Publishing: the sealed bundle, a card of recorded facts, and nothing about this machine."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from processes import ROOT
from publishing import Run, copy_of

from serve.bundle.manifest import BundleError
from serve.bundle.seal import open_bundle
from serve.config import load_config
from serve.inference.predictor import Predictor
from train.__main__ import main
from train.config.run import RunConfig
from train.portable import check_portable, portable
from train.publish.delivery import PublishRefused
from train.publish.publish import publish


@pytest.fixture(scope="module")
def target(made: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the published bundle and its adapter."""
    root = tmp_path_factory.mktemp("models") / "topics"
    settings = ["publish.license=apache-2.0", "publish.language=[en]", "publish.adapter=true"]
    publish(load_config(RunConfig, made.config, settings), to=str(root))
    return root


def card_of(directory: Path) -> tuple[dict[str, Any], str]:
    """Parse a card into its metadata and its text."""
    front, text = (directory / "README.md").read_text()[4:].split("\n---\n", 1)
    return yaml.safe_load(front), text


def test_published_directory_is_the_same_bundle_with_a_card(made: Run, target: Path) -> None:
    published = target / made.version

    bundle = open_bundle(published)

    assert bundle.manifest == open_bundle(made.bundle).manifest
    added = {str(f.relative_to(published)) for f in published.rglob("*") if f.is_file()}
    added -= {*bundle.manifest.files, "manifest.json"}
    assert added == {"README.md", "evaluation/reliability.png"}
    assert (target / "latest").read_text() == made.version + "\n"


def test_altered_weight_of_a_published_bundle_is_refused(
    made: Run, target: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(target / made.version, copy)
    (copy / "README.md").write_text("another card")
    open_bundle(copy)
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)

    with pytest.raises(BundleError, match=r"model\.safetensors"):
        open_bundle(copy)


def test_card_states_the_recorded_facts(made: Run, target: Path) -> None:
    manifest = open_bundle(made.bundle).manifest
    accuracy = manifest.metrics["test"]["accuracy"]

    facts, text = card_of(target / made.version)

    assert facts["license"] == "apache-2.0"
    assert facts["language"] == ["en"]
    assert facts["pipeline_tag"] == "text-classification"
    (results,) = facts["model-index"][0]["results"]
    assert results["task"]["type"] == "text-classification"
    stated = {one["name"]: one["value"] for one in results["metrics"]}
    assert stated["accuracy"] == pytest.approx(accuracy.value, abs=1e-6)
    assert "accuracy, int8 export" in stated
    assert f"{accuracy.value:.4f} [{accuracy.low:.4f}, {accuracy.high:.4f}]" in text
    for split in ("train", "validation", "test"):
        assert manifest.data[split]["sha256"] in text
    for word in (*manifest.labels, manifest.version, "learning_rate", "reliability.png"):
        assert word in text
    assert str(manifest.code_revision) in text


def test_python_in_the_card_runs_as_it_stands(
    made: Run, target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    snippets = re.findall(r"```python\n(.*?)```", card_of(target / made.version)[1], re.DOTALL)
    monkeypatch.chdir(target)

    for snippet in snippets:
        exec(snippet, {})

    assert len(snippets) == 2
    assert "'label': " in capsys.readouterr().out


def test_nothing_published_names_this_machine(target: Path) -> None:
    files = [file for root in (target, Path(f"{target}-adapter")) for file in root.rglob("*.*")]
    texts = {file: file.read_text() for file in files if file.suffix in (".json", ".md")}

    assert len(texts) > 8
    for file, text in texts.items():
        for place in (tempfile.gettempdir() + "/", str(ROOT), str(Path.home()) + "/"):
            assert place not in text, file
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pth", ".parquet")]


def test_published_adapter_gives_the_logits_of_the_bundle(
    made: Run, target: Path, tiny_base: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    from train.model.adapters import peft_warnings_off

    base = AutoModelForSequenceClassification.from_pretrained(tiny_base, num_labels=3)
    with peft_warnings_off():
        adapter = Path(f"{target}-adapter", made.version)
        model = PeftModel.from_pretrained(base, adapter).eval()
    predictor = Predictor.load(target / made.version, device="cpu", backend="torch")
    encodings = predictor.encoder.encode(["my parcel is late", "code for my account"])
    batch = {name: torch.tensor(value) for name, value in predictor.encoder.pad(encodings).items()}

    with torch.no_grad():
        logits_NC = model(**batch).logits.numpy()

    calibration = predictor.bundle.manifest.calibration
    assert calibration is not None
    calibrated_NC = logits_NC / calibration.temperature
    np.testing.assert_allclose(calibrated_NC, predictor.logits(encodings), atol=1e-4)
    facts, text = card_of(adapter)
    assert facts["library_name"] == "peft"
    assert made.version in text


def test_second_publishing_changes_nothing(made: Run, tmp_path: Path) -> None:
    first = made.publish("--to", tmp_path / "models")
    stamps = {f: f.stat().st_mtime_ns for f in (tmp_path / "models").rglob("*")}
    second = publish(load_config(RunConfig, made.config), to=str(tmp_path / "models"))

    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith(f"published: bundle {made.version} at ")
    assert second[0].startswith(f"already published: bundle {made.version} at ")
    assert stamps == {f: f.stat().st_mtime_ns for f in (tmp_path / "models").rglob("*")}


def test_new_version_stands_beside_the_old_one_and_becomes_the_latest(
    made: Run, tmp_path: Path
) -> None:
    mine = copy_of(made, tmp_path)
    config = load_config(RunConfig, mine.config)
    root = tmp_path / "models"
    publish(config, to=f"dir:{root}")
    mine.reseal()

    publish(config, to=f"dir:{root}")

    assert (root / "latest").read_text() == mine.version + "\n"
    assert {open_bundle(root / v).manifest.version for v in (made.version, mine.version)} == {
        made.version,
        mine.version,
    }


def test_tag_with_other_content_is_refused(made: Run, tmp_path: Path) -> None:
    mine = copy_of(made, tmp_path)
    config = load_config(RunConfig, mine.config, ["publish.tag=v1"])
    publish(config, to=str(tmp_path / "models"))
    mine.reseal()

    with pytest.raises(PublishRefused, match=r"other content under the tag v1.*config\.json"):
        publish(config, to=str(tmp_path / "models"))

    assert open_bundle(tmp_path / "models" / "v1").manifest.version == made.version


def test_interrupted_copy_leaves_no_half_bundle(made: Run, tmp_path: Path) -> None:
    config = load_config(RunConfig, made.config)
    staging = tmp_path / "models" / f".{made.version}.staging"
    staging.mkdir(parents=True)
    (staging / "model.safetensors").write_bytes(b"half")

    publish(config, to=str(tmp_path / "models"))

    open_bundle(tmp_path / "models" / made.version)
    assert not staging.exists()


def test_adapter_of_another_training_is_refused(made: Run, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    mine = copy_of(made, tmp_path)
    file = mine.directory / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    weights = {n: w if "lora" in n else w + np.float32(1e-3) for n, w in weights.items()}
    save_file(weights, file)
    config = load_config(RunConfig, mine.config, ["publish.adapter=true"])

    with pytest.raises(ValueError, match=r"was not merged from"):
        publish(config, to=str(tmp_path / "models"))

    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "set publish.to, or give --to"),
        (["--to", "gs://bucket/models"], "expected hub:OWNER/NAME, s3://BUCKET/PREFIX"),
        (["--to", "hub:nameonly"], "expected hub:OWNER/NAME"),
        (["--to", "s3://AKIA:hunter2@b/x"], "`s3://AKIA:***@b/x` contains a password"),
        (["publish.to=https://b/x?sig=hunter2"], "`https://b/x?sig=***` contains a password"),
        (["--bundle", "nowhere", "--to", "models"], "no bundle at `nowhere`"),
        (["publish.tag=a/b", "--to", "models"], "publish.tag"),
        (["trainer={hub_token: hf_secret}", "--to", "models"], "set HF_TOKEN"),
    ],
)
def test_mistake_is_named(
    made: Run, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [a for a in arguments if "=" in a] + [a for a in arguments if "=" not in a]

    code = main(["publish", "--config", str(made.config), *options])

    assert code == 2
    assert message in capsys.readouterr().err


def test_altered_bundle_is_not_published(made: Run, tmp_path: Path) -> None:
    mine = copy_of(made, tmp_path)
    (mine.bundle / "pytorch_model.bin").write_bytes(b"pickle")

    with pytest.raises(BundleError, match=r"pytorch_model\.bin"):
        publish(load_config(RunConfig, mine.config), to=str(tmp_path / "models"))


def test_pickles_and_paths_of_this_machine_are_refused(tmp_path: Path) -> None:
    pickle = tmp_path / "training_args.bin"
    pickle.write_bytes(b"")
    text = tmp_path / "config.json"
    text.write_text(f'{{"path": "{tmp_path}/data.csv"}}')

    with pytest.raises(ValueError, match=r"`training_args\.bin` is not published"):
        check_portable({"training_args.bin": pickle}, private={})
    with pytest.raises(ValueError, match=r"`config\.json` .* names the output_dir"):
        check_portable({"config.json": text}, private={"output_dir": tmp_path})


def test_configuration_in_a_manifest_has_no_paths_and_no_secrets(tmp_path: Path) -> None:
    values = {
        "inside": str(ROOT / "configs" / "a.yaml"),
        "outside": str(tmp_path / "train.csv"),
        "url": "https://user:secret@example.org/a.csv?signature=secret",
        "database": ["postgresql://user:secret@host/db"],
        "separator": "/",
        "label": "a/b",
        "number": 3,
    }

    assert portable(values) == {
        "inside": "configs/a.yaml",
        "outside": "train.csv",
        "url": "https://example.org/a.csv",
        "database": ["postgresql://host/db"],
        "separator": "/",
        "label": "a/b",
        "number": 3,
    }
