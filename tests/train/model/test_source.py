"""A base is known by its content in every layout; one with code or without weights is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from serve.files import sha256_of
from train.config.run import ModelConfig, RunConfig
from train.fit.fit import fit, fit_unless_done
from train.fit.resume import changes
from train.merge.merge import merge
from train.model.base import load_base
from train.model.source import base_content, check_source, weights_sha256

MakeConfig = Callable[..., dict[str, Any]]


def to_shards(path: Path) -> None:
    AutoModel.from_pretrained(path).save_pretrained(path, max_shard_size="40KB")
    (path / "model.safetensors").unlink(missing_ok=True)


def to_bin(path: Path) -> None:
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


def to_bin_shards(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    index = {name: f"pytorch_model-{number % 2}.bin" for number, name in enumerate(weights)}
    for file in set(index.values()):
        torch.save({n: w for n, w in weights.items() if index[n] == file}, path / file)
    content = {"metadata": {}, "weight_map": index}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps(content))
    (path / "model.safetensors").unlink()


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "one file": lambda path: None,
    "shards": to_shards,
    "bin": to_bin,
    "bin shards": to_bin_shards,
}


def disturb(path: Path) -> None:
    """Change the last weight of one file with weights."""
    file = sorted([*path.glob("*.safetensors"), *path.glob("*.bin")])[-1]
    if file.suffix == ".bin":
        weights = torch.load(file)
        next(iter(weights.values())).add_(0.05)
        torch.save(weights, file)
    else:
        weights = load_file(file)
        next(iter(weights.values())).add_(0.05)
        save_file(weights, file, metadata={"format": "pt"})


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_known_by_content_in_every_layout(base: Path, layout: str) -> None:
    LAYOUTS[layout](base)
    model = ModelConfig(base=str(base))
    before = base_content(model)
    copy = Path(shutil.copytree(base, base.parent / "copy"))

    assert base_content(ModelConfig(base=str(copy))) == before
    disturb(base)
    assert weights_sha256(base_content(model)) != weights_sha256(before)
    loaded = {name for name in before if name.endswith((".safetensors", ".bin"))}
    assert {file.name for file in base.iterdir() if file.suffix in (".safetensors", ".bin")} == (
        loaded
    )


def test_hash_of_a_single_file_is_that_of_the_file(base: Path) -> None:
    content = base_content(ModelConfig(base=str(base)))

    assert weights_sha256(content) == sha256_of(base / "model.safetensors")
    assert content.keys() >= {"config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_configuration_and_tokenizer_are_part_of_the_content(base: Path, name: str) -> None:
    before = base_content(ModelConfig(base=str(base)))
    values = json.loads((base / name).read_text())
    (base / name).write_text(json.dumps(values | {"note": 1}))

    now = base_content(ModelConfig(base=str(base)))

    assert [key for key in now if now[key] != before[key]] == [name]


def test_other_files_of_the_directory_are_not(base: Path) -> None:
    before = base_content(ModelConfig(base=str(base)))
    for name in ("README.md", "manifest.json", "training_args.bin", "model.onnx"):
        (base / name).write_bytes(b"1")

    assert base_content(ModelConfig(base=str(base))) == before


@pytest.mark.parametrize("layout", ["shards", "bin"])
def test_merge_and_resume_refuse_a_base_that_changed_since_fit(
    make_config: MakeConfig, base: Path, tmp_path: Path, layout: str
) -> None:
    LAYOUTS[layout](base)
    config = RunConfig(
        **make_config(tmp_path / "run", model={"base": str(base)}, trainer={"num_train_epochs": 1})
    )
    fit(config)
    disturb(base)

    with pytest.raises(ValueError, match=r"base_weights_sha256: .* there, .* now"):
        merge(config)
    with pytest.raises(ValueError, match=r"holds checkpoints of another run .*base_weights_sha256"):
        fit_unless_done(config)


def test_frozen_layers_are_not_taken_from_the_cache_of_another_base(
    make_config: MakeConfig, base: Path, tmp_path: Path
) -> None:
    to_shards(base)
    values = make_config(
        tmp_path / "run",
        model={"base": str(base), "trained_layers": 1},
        trainer={"num_train_epochs": 1},
    )
    fit(RunConfig(**values))
    disturb(base)
    (base / "config.json").touch()

    reused = fit(RunConfig(**values), fresh=True)

    clean = fit(RunConfig(**values | {"output_dir": str(tmp_path / "clean")}))
    assert reused["loss"] == clean["loss"]
    assert len(list((tmp_path / "run" / "cache").glob("hidden-states-*"))) == 2


def test_record_without_a_hash_of_the_base_is_refused_with_the_reason() -> None:
    now = {"config": {"method": "full"}, "base_weights_sha256": "ab", "base_content": {}}
    before = {"config": {"method": "full", "lora": {}}, "base_weights_sha256": None}

    assert "an earlier version recorded no hash of this base, so it cannot be compared" in (
        changes(before, now)
    )
    assert changes(before | {"base_weights_sha256": "ab"}, now) == []


def test_model_on_the_hub_is_known_by_the_commit_of_its_revision(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    repository = cache / "models--me--base"
    commits = ["a" * 40, "b" * 40]
    for commit in commits:
        shutil.copytree(base, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    found = []
    for commit in commits:  # `main` moves
        (repository / "refs" / "main").write_text(commit)
        found.append(base_content(ModelConfig(base="me/base", revision="main")))

    assert found == [{"commit": commit} for commit in commits]


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


CONFIGURED: dict[str, tuple[str, dict[str, Any], str]] = {
    "code": ("config", {"auto_map": {"AutoModel": "evil.Model"}}, "brings code of its own"),
    "code of a new type": (
        "config",
        {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}},
        "brings code of its own",
    ),
    "code of a tokenizer": (
        "tokenizer_config",
        {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}},
        "brings code of its own",
    ),
    "kernel": ("config", {"_attn_implementation": "evil/kernel"}, "`_attn_.*` = 'evil/kernel'"),
    "kernel by its other name": (
        "config",
        {"attn_implementation": "flash_attention_3"},
        "`attn_implementation` = 'flash_attention_3'",
    ),
    "kernel of a part": (
        "config",
        {"text_config": {"_attn_implementation_internal": {"": "evil/kernel"}}},
        "`_attn_implementation_internal` = 'evil/kernel'",
    ),
    "kernel of experts": ("config", {"experts_implementation": "evil/moe"}, "= 'evil/moe'"),
    "quantized": (
        "config",
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        r"quantized weights \(gptq\)",
    ),
    "encoder-decoder": (
        "config",
        {"model_type": "bart", "is_encoder_decoder": True},
        r"is an encoder-decoder \(bart\)",
    ),
    "layers without end": (
        "config",
        {"num_hidden_layers": 1_000_000},
        "`num_hidden_layers` = 1,000,000 .* over the limit of 1,000",
    ),
    "words without end": (
        "config",
        {"vocab_size": 10**9},
        "`vocab_size` = 1,000,000,000 .* more than its weights of .* bytes can hold",
    ),
    "width without end": ("config", {"hidden_size": 10**6}, "`hidden_size` = 1,000,000"),
    "weights elsewhere": ("config", {"transformers_weights": "../x.safetensors"}, "rename"),
}


@pytest.mark.parametrize("kind", CONFIGURED)
def test_base_that_is_never_loaded_is_refused_by_name(base: Path, kind: str) -> None:
    file, values, message = CONFIGURED[kind]
    change(base / f"{file}.json", **values)

    with pytest.raises(ValueError, match=f"model.base `{base}` .*{message}"):
        check_source(ModelConfig(base=str(base)))


def test_stock_attention_may_be_named(base: Path) -> None:
    change(base / "config.json", _attn_implementation="eager", attn_implementation=None)

    check_source(ModelConfig(base=str(base), max_length=64))


def test_code_of_a_base_is_never_run(
    make_config: MakeConfig, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(base / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    (base / "evil.py").write_text(f"open({str(tmp_path / 'PWNED')!r}, 'w')")
    monkeypatch.setattr("train.model.base.check_source", lambda model: None)
    config = RunConfig(**make_config(tmp_path / "run", model={"base": str(base)}))

    with pytest.raises(ValueError, match=r"cannot be loaded: .* custom code"):
        load_base(config, ("a", "b"))
    assert not (tmp_path / "PWNED").exists()


def test_adapter_is_no_base(base: Path) -> None:
    (base / "adapter_config.json").write_text('{"base_model_name_or_path": "else/where"}')

    with pytest.raises(ValueError, match="is an adapter; merge it into its own base first"):
        check_source(ModelConfig(base=str(base)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "model.safetensors").unlink(), "has no weights; expected one of"),
        (lambda path: (path / "config.json").unlink(), "it has no config.json"),
        (lambda path: (path / "config.json").write_text("{"), "is not a JSON object"),
        (lambda path: (path / "config.json").write_text("[" * 200_000), "is not a JSON object"),
        (lambda path: (path / "config.json").write_text("[]"), "is not a JSON object"),
        (
            lambda path: (to_shards(path), sorted(path.glob("*.safetensors"))[0].unlink()),
            "names `model-00001-of-.*`, not found",
        ),
    ],
)
def test_incomplete_base_is_refused(
    base: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(base)

    with pytest.raises(ValueError, match=message):
        check_source(ModelConfig(base=str(base)))


def test_base_without_some_of_its_weights_is_refused(
    make_config: MakeConfig, base: Path, tmp_path: Path
) -> None:
    change(base / "config.json", num_hidden_layers=3)
    config = RunConfig(**make_config(tmp_path / "run", model={"base": str(base)}))

    with pytest.raises(ValueError, match=r"lacks 16 of the weights .* `bert.encoder.layer.2"):
        load_base(config, ("a", "b"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"no safetensors" * 10_000),
        ("tokenizer.json", b"{}"),
        ("config.json", b'{"model_type": "bert", "hidden_size": "wide"}'),
        ("config.json", b'{"model_type": "no-such-architecture"}'),
    ],
)
def test_damaged_file_is_named_as_the_base(
    make_config: MakeConfig, base: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    (base / name).write_bytes(content)
    config = RunConfig(**make_config(tmp_path / "run", model={"base": str(base)}))

    with pytest.raises(ValueError, match=f"model.base `{base}` cannot be loaded: ") as refusal:
        load_base(config, ("a", "b"))
    assert "\n" not in str(refusal.value)


def test_pickle_that_runs_code_is_refused(
    make_config: MakeConfig, base: Path, tmp_path: Path
) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "PWNED"), "w"))

    (base / "model.safetensors").unlink()
    torch.save({"x": Evil(), "y": torch.zeros(100_000)}, base / "pytorch_model.bin")
    config = RunConfig(**make_config(tmp_path / "run", model={"base": str(base)}))

    with pytest.raises(ValueError, match="cannot be loaded: Weights only load failed"):
        load_base(config, ("a", "b"))
    assert not (tmp_path / "PWNED").exists()


def test_architecture_without_a_classifier_is_refused(
    make_config: MakeConfig, base: Path, tmp_path: Path
) -> None:
    change(base / "config.json", model_type="vit")
    config = RunConfig(**make_config(tmp_path / "run", model={"base": str(base)}))

    with pytest.raises(ValueError, match="no sequence classifier for the architecture 'vit'"):
        load_base(config, ("a", "b"))
