"""Which directories are imported, which are refused unread, and that none is changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from altered import pickled
from safetensors.torch import load_file, save_file

from serve.bundle.seal import open_bundle
from serve.files import sha256_of
from serve.inference.predictor import Predictor
from tests.train.importing.checkpoints import edit
from tests.train.importing.conftest import bring, refusal_of


def state(directory: Path) -> dict[str, str]:
    return {str(each): sha256_of(each) for each in directory.rglob("*") if each.is_file()}


def test_the_source_is_not_changed_and_what_it_holds_is_recorded(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make()
    before = state(source)
    for each in (*source.iterdir(), source):
        each.chmod(0o555 if each.is_dir() else 0o444)

    manifest = bring(source, tmp_path / "bundle").bundle.manifest

    assert state(source) == before
    assert manifest.is_imported
    assert manifest.base_model["base"] == "source"
    assert manifest.base_model["content"]["model.safetensors"] == sha256_of(
        source / "model.safetensors"
    )
    assert str(tmp_path) not in (tmp_path / "bundle" / "manifest.json").read_text()
    assert str(tmp_path) not in (tmp_path / "bundle" / "config.json").read_text()


def test_the_bundle_opens_verified(make: Callable[..., Path], tmp_path: Path) -> None:
    bring(make(), tmp_path / "bundle")

    assert open_bundle(tmp_path / "bundle").manifest.config == {}


@pytest.mark.parametrize("key", ["auto_map", "custom_pipelines"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_a_model_is_refused(
    name: str, key: str, make: Callable[..., Path], tmp_path: Path
) -> None:
    source = edit(make(), name, **{key: {"AutoModel": "code.Model"}})
    (source / "code.py").write_text("raise SystemExit('code of the model ran')")

    assert f"brings code of its own (`{key}`)" in refusal_of(source, tmp_path / "bundle")


def files(**changes: Any) -> Callable[[Path], None]:
    """Write or, for None, remove files of the source."""

    def change(source: Path) -> None:
        for name, content in changes.items():
            name = name.replace("__", ".")
            if content is None:
                (source / name).unlink()
            else:
                (source / name).write_text(content)

    return change


def keys(**changes: Any) -> Callable[[Path], Any]:
    return lambda source: edit(source, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (files(adapter_config__json="{}"), "is an adapter (peft)"),
        (files(model_head__pkl=""), "is a SetFit model"),
        (files(config__json=None), "has no `config.json`"),
        (files(config__json="{"), "is not a JSON object"),
        (files(model__safetensors=None), "has no weights for PyTorch"),
        (files(model__safetensors=None, tf_model__h5=""), "only those of TensorFlow"),
        (files(model__safetensors="x" * 5000), "`source` cannot be loaded: "),
        (files(tokenizer__json=None), "the tokenizer of `source`"),
        (files(tokenizer__json=None, tokenizer_config__json=None), "has no tokenizer"),
        (files(tokenizer__json="{}"), "the tokenizer of `source` cannot be loaded"),
        (keys(model_type="novel"), "transformers has no architecture 'novel'"),
        (keys(model_type=None), "no architecture 'None'"),
        (keys(architectures=["BertModel"]), "without a classification head"),
        (keys(architectures=["BertForMaskedLM"]), "without a classification head"),
        (keys(architectures=["BertForTokenClassification"]), "labels every token"),
        (keys(hidden_size=128), "have the shape"),
        (keys(num_hidden_layers=3), "lacks 16 of the weights"),
        (keys(num_hidden_layers=5000), "over the limit of 1,000"),
        (keys(quantization_config={"quant_method": "gptq"}), "quantized weights (gptq)"),
        (keys(attn_implementation="kernels-community/x"), "code from outside transformers"),
        (keys(transformers_weights="w.bin"), "rename the file"),
        (keys(max_position_embeddings=32), "have the shape"),
        (keys(problem_type="ranking"), "unknown problem_type"),
    ],
)
def test_what_is_no_whole_classifier_is_refused_with_what_it_is(
    change: Callable[[Path], Any], message: str, make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make()
    change(source)

    assert message in refusal_of(source, tmp_path / "bundle")


def test_a_base_without_a_head_is_refused_with_what_to_do(tiny_base: Path, tmp_path: Path) -> None:
    source = edit(shutil.copytree(tiny_base, tmp_path / "source"), architectures=None)

    assert "`textloop fit` with model.base" in refusal_of(source, tmp_path / "bundle")


def test_a_missing_path_and_a_hub_id_without_its_prefix_are_told_apart(tmp_path: Path) -> None:
    assert "there is no directory" in refusal_of(tmp_path / "no", tmp_path / "bundle")
    with pytest.raises(ValueError, match="write hub:owner/name"):
        bring(Path("owner/name"), tmp_path / "bundle")


def test_a_bundle_is_not_imported_again(make: Callable[..., Path], tmp_path: Path) -> None:
    bring(make(), tmp_path / "bundle")

    assert "is a bundle already" in refusal_of(tmp_path / "bundle", tmp_path / "other")


def test_a_pickle_with_code_is_refused_and_not_run(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make()
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(
        pickled(tmp_path / "ran") + b"\0" * 5000  # as large as weights
    )

    assert "cannot be loaded" in refusal_of(source, tmp_path / "bundle")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_tensors_is_read_as_such(make: Callable[..., Path], tmp_path: Path) -> None:
    source = make()
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()

    bundle = bring(source, tmp_path / "bundle").bundle

    assert "pytorch_model.bin" in bundle.manifest.base_model["content"]
    assert "model.safetensors" in bundle.manifest.files


def test_of_two_files_of_weights_the_safetensors_are_used(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make()
    (source / "pytorch_model.bin").write_bytes(b"not read")

    bundle = bring(source, tmp_path / "bundle").bundle

    assert "pytorch_model.bin" not in bundle.manifest.base_model["content"]


def shard(source: Path) -> None:
    """Divide the weights into two files with an index."""
    tensors = load_file(source / "model.safetensors")
    names = sorted(tensors)
    parts = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for file, part in parts.items():
        save_file({n: tensors[n] for n in part}, source / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in parts.items() for name in part}
    index = {"metadata": {}, "weight_map": weight_map}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    (source / "model.safetensors").unlink()


def test_shards_are_read_and_a_missing_one_is_named(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make()
    shard(source)
    bring(source, tmp_path / "bundle")

    (source / "model-00002-of-00002.safetensors").unlink()

    assert "names `model-00002-of-00002.safetensors`, which is missing" in refusal_of(
        source, tmp_path / "other"
    )


def test_an_index_that_leaves_the_directory_is_refused(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make()
    shutil.move(source / "model.safetensors", tmp_path / "model.safetensors")
    index = {"weight_map": {"classifier.weight": "../model.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))

    assert "does not list the files" in refusal_of(source, tmp_path / "bundle")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_served_in_fp32_and_said(
    dtype: torch.dtype, make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make()
    tensors = {k: v.to(dtype) for k, v in load_file(source / "model.safetensors").items()}
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    name = str(dtype).removeprefix("torch.")
    edit(source, dtype=name)

    imported = bring(source, tmp_path / "bundle")

    assert f"the weights are {name} on disk; served in fp32" in " ".join(imported.notes)
    assert imported.bundle.manifest.base_model["dtype"] == name
    assert Predictor.load(tmp_path / "bundle", device="cpu").backend.precision == "fp32"


@pytest.mark.parametrize("stated", ["float16", "bfloat16"])
def test_the_precision_is_that_of_the_weights_and_not_what_is_said(
    stated: str, make: Callable[..., Path], tmp_path: Path
) -> None:
    imported = bring(edit(make(), dtype=stated), tmp_path / "bundle")

    assert imported.checkpoint_dtype == "float32"
    assert imported.notes == ()


def test_weights_that_the_classifier_does_not_use_are_left_out_and_said(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make()
    tensors = load_file(source / "model.safetensors") | {"cls.predictions.bias": torch.zeros(3)}
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})

    assert "such as `cls.predictions.bias`" in " ".join(bring(source, tmp_path / "b").notes)


def test_weights_that_are_not_finite_are_refused(make: Callable[..., Path], tmp_path: Path) -> None:
    source = make()
    tensors = load_file(source / "model.safetensors")
    tensors["classifier.bias"][0] = float("nan")
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})

    assert "`classifier.bias` of `source` are not finite" in refusal_of(source, tmp_path / "b")


def test_links_to_files_are_read_and_links_to_nothing_are_missing_files(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make()
    shutil.move(source / "model.safetensors", tmp_path / "blob")
    (source / "model.safetensors").symlink_to(tmp_path / "blob")
    bundle = bring(source, tmp_path / "bundle").bundle
    assert not any(each.is_symlink() for each in bundle.path.iterdir())

    (tmp_path / "blob").unlink()

    assert "has no weights" in refusal_of(source, tmp_path / "other")


def test_a_pipe_in_place_of_a_file_is_not_read(make: Callable[..., Path], tmp_path: Path) -> None:
    source = make()
    (source / "tokenizer.json").unlink()
    os.mkfifo(source / "tokenizer.json")

    assert "tokenizer" in refusal_of(source, tmp_path / "bundle")


def test_too_large_weights_are_refused_before_they_are_read(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    from train.importing.source import open_source

    source = make()
    with (source / "model.safetensors").open("r+b") as file:
        file.truncate(30_000_000_000)  # sparse

    with pytest.raises(ValueError, match=r"30\.0 GB, over the limit of 20"):
        open_source(str(source))
