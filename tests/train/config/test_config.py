"""YAML and overrides become validated configuration, and every shipped YAML loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from processes import ROOT
from pydantic import BaseModel

from serve.config import load_config, parse_yaml
from serve.http.tracing import check_installed
from serve.settings import ServeConfig
from train.config import sections
from train.config.run import RunConfig
from train.config.trainer_keys import fields
from train.fit.arguments import training_arguments

MINIMAL = """
output_dir: runs/x
data: {train: train.jsonl}
model: {base: some/dir}
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


def test_scientific_notation_is_a_number_where_pyyaml_reads_a_string(minimal: Path) -> None:
    assert yaml.safe_load("2e-5") == "2e-5"

    config = load_config(RunConfig, minimal, ["trainer.learning_rate=2e-5"])

    assert config.trainer["learning_rate"] == 2e-5


def test_words_that_pyyaml_takes_for_booleans_stay_words() -> None:
    assert yaml.safe_load("no") is False

    assert parse_yaml("{no: negative, on: off, at: 12:30}") == {
        "no": "negative",
        "on": "off",
        "at": "12:30",
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("-3", -3), ("1_000", 1000), ("0.5", 0.5), ("1.", 1.0), (".5", 0.5),
     ("null", None), ("~", None), ("1e3", 1000.0), ("007", "007"), ("", None)],
)  # fmt: skip
def test_scalars(text: str, value: object) -> None:
    result = parse_yaml(text)

    assert result == value
    assert type(result) is type(value)


def test_a_key_that_appears_twice_is_refused(minimal: Path) -> None:
    minimal.write_text(MINIMAL + "seed: 1\nseed: 2\n")

    with pytest.raises(ValueError, match=r"line 6: key `seed` appears twice"):
        load_config(RunConfig, minimal)


def test_overrides_apply_in_order_and_make_sections(minimal: Path) -> None:
    config = load_config(
        RunConfig, minimal, ["lora.r=4", "lora.r=8", "data.text_columns=[a, b]", "seed=3"]
    )

    assert config.lora.r == 8
    assert config.data.text_columns == ("a", "b")
    assert config.seed == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora.rank=8", r"unknown key `lora.rank`; known: .*lora_alpha, .*use_rslora"),
        ("lora.alpha=8", r"unknown key `lora.alpha`; did you mean `lora_alpha`\?"),
        ("lora.task_type=CAUSAL_LM", r"`lora.task_type` is managed by Textloop: set task"),
        ("lora.modules_to_save=[pooler]", r"`lora.modules_to_save` is managed by Textloop"),
        ("lora.use_dora=yes", r"`lora.use_dora` = 'yes': Input should be a valid boolean"),
        ("lora.lora_dropout=1.5", r"`lora.lora_dropout` = 1.5: Input should be less than 1"),
        ("lora.init_lora_weights=eva", r"'eva': .* should be 'gaussian', 'olora', .* or 'pissa'"),
        ("lora.layers_to_transform=[1]", r"cannot be used when `target_modules` is a str"),
        ("lora.eva_config={rho: 2.0}", r"`eva_config` specified but will be ignored"),
        ("lora.r=0", r"`lora.r` = 0: Input should be greater than or equal to 1"),
        ("lora.r=many", r"`lora.r` = 'many': Input should be a valid integer"),
        ("lora", r"not of the form key.sub=value"),
        ("seed.x=1", r"seed"),
        ("trainer.output_dir=x", r"`trainer.output_dir` is managed by Textloop"),
        ("trainer.label_smoothing_factor=0.1", r"set loss.label_smoothing"),
        ("trainer.train_sampling_strategy=group_by_length", r"data.group_by_length"),
        ("trainer.auto_find_batch_size=true", r"set trainer.per_device_train_batch_size"),
        ("trainer.ignore_data_skip=true", r"is managed by Textloop"),
        ("data.text_columns=[a, a]", r"names 'a' twice"),
        ("data.train=[", r"not valid YAML"),
        ("calibration.min_recall=0.9", r"`min_recall` is set but `positive_label` is not"),
        ("calibration.min_recall=1", r"`calibration.min_recall` = 1.*less than 1"),
        ("calibration.objective=f2", r"`calibration.objective` = 'f2'.*'f1'"),
        ("calibration.costs.false_negative=-5", r"`calibration.costs.false_negative` = -5"),
        ("calibration.costs.false_negative=inf", r"`calibration.costs.false_negative`"),
        (
            "calibration.costs.false_negatives=5",
            r"mean `calibration.costs.false_negative`\?",
        ),
        ("calibration.threshold_confidence=0.9", r"neither `min_precision` nor `min_recall` is"),
    ],
)
def test_mistakes_are_named_with_their_path(minimal: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(RunConfig, minimal, [override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["calibration.min_recall=0.9", "calibration.min_precision=0.9"],
            r"`min_precision` and `min_recall` are set; a threshold is chosen for one of them",
        ),
        (
            ["calibration.objective=f1", "calibration.costs={false_negative: 5}"],
            r"`objective` and `costs` are set",
        ),
        (["task=multi_label"], r"`calibration.positive_label` needs task: single_label"),
    ],
)
def test_wishes_for_a_threshold_that_exclude_each_other_are_refused(
    minimal: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(RunConfig, minimal, ["calibration.positive_label=spam", *overrides])


@pytest.mark.parametrize(("written", "label"), [("1", "1"), ("true", "true"), ("yes", "yes")])
def test_positive_label_is_a_label_however_yaml_reads_it(
    tmp_path: Path, written: str, label: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"{MINIMAL}calibration: {{positive_label: {written}, objective: f1}}\n")

    for config in (
        load_config(RunConfig, path),
        load_config(RunConfig, path, [f"calibration.positive_label={written}"]),
    ):
        assert config.calibration.positive_label == label


def test_labels_that_yaml_reads_as_numbers_are_names(minimal: Path) -> None:
    config = load_config(
        RunConfig, minimal, ["data.label_map={0: bad, 1: good}", "loss.class_weights={0: 2.5}"]
    )

    assert config.data.label_map == {"0": "bad", "1": "good"}
    assert config.loss.class_weights == {"0": 2.5}


@pytest.mark.parametrize(
    ("overrides", "ignored"),
    [
        (["method=full", "lora.r=4"], ("lora.r",)),
        (["method=lora", "lora.r=4", "early_stopping_patience=2"], ()),
        (
            ["method=probe", "trainer.learning_rate=1", "early_stopping_patience=2"],
            ("trainer.learning_rate", "early_stopping_patience"),
        ),
        (["method=probe", "model.trained_layers=1"], ("model.trained_layers",)),
        (["method=probe", "lora.lora_dropout=0.1", "lora.r=4"], ("lora.r", "lora.lora_dropout")),
        (["method=probe", "trainer.use_cpu=true", "model.head_init=probe"], ()),
    ],
)
def test_a_method_is_an_override_and_what_it_ignores_is_named(
    minimal: Path, overrides: list[str], ignored: tuple[str, ...]
) -> None:
    config = load_config(RunConfig, minimal, overrides)

    assert config.ignored_settings() == ignored
    if ignored:
        plain = load_config(RunConfig, minimal, overrides[:1])
        assert plain.training_settings() == config.training_settings()


def test_missing_keys_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="key `data` is required"):
        load_config(RunConfig, None, ["output_dir=x", "model.base=y"])
    with pytest.raises(ValueError, match="no configuration file at"):
        load_config(RunConfig, tmp_path / "none.yaml")


def test_unknown_trainer_field_is_refused(minimal: Path) -> None:
    with pytest.raises(
        ValueError, match=r"`trainer.learning_rat` is not a field .* mean `trainer.learning_rate`"
    ):
        load_config(RunConfig, minimal, ["trainer.learning_rat=1"])


def test_configuration_is_frozen(minimal: Path) -> None:
    config = load_config(RunConfig, minimal)

    with pytest.raises(ValueError, match="frozen"):
        config.seed = 5


def test_sections_that_do_not_affect_training_are_not_part_of_its_settings(minimal: Path) -> None:
    modules = {
        name: getattr(field.annotation, "__module__", "")
        for name, field in RunConfig.model_fields.items()
    }
    config = load_config(RunConfig, minimal)
    edited = load_config(
        RunConfig,
        minimal,
        ["gate.margin=0.02", "publish.description=x", "trainer.report_to=[tensorboard]"],
    )

    top = {key for key in sections.NOT_TRAINING if "." not in key}
    assert modules.keys() >= top
    assert {key.removeprefix("trainer.") for key in sections.NOT_TRAINING - top} <= fields().keys()
    assert {name for name in modules if modules[name] == sections.__name__} <= sections.NOT_TRAINING
    assert edited.training_settings() == config.training_settings()
    assert not config.training_settings().keys() & sections.NOT_TRAINING


def test_every_shipped_yaml_loads() -> None:
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert len(files) >= 9
    for file in files:
        if file.parent.name == "accelerate":
            ClusterConfig.from_yaml_file(yaml_file=str(file))
        elif file.name == "serve.yaml":
            load_config(ServeConfig, file)
        else:
            training_arguments(load_config(RunConfig, file))


def test_every_shipped_yaml_says_how_it_is_launched() -> None:
    for file in (ROOT / "configs").rglob("*.yaml"):
        header = [line for line in file.read_text().splitlines() if line.startswith("#")]
        commands = ("textloop fit", "accelerate launch", "textloop run", "textloop serve")
        assert any(command in line for line in header for command in commands), file


def test_every_key_is_documented() -> None:
    def check(schema: type[BaseModel]) -> None:
        for name, field in schema.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                check(inner)
            else:
                assert field.description, f"{schema.__name__}.{name}"

    check(RunConfig)
    check(ServeConfig)


def test_origin_that_no_browser_sends_is_refused() -> None:
    for origin in ("https://a.example/", "a.example", "https://a.example/path"):
        with pytest.raises(ValueError, match="cors_origins"):
            load_config(ServeConfig, None, [f"cors_origins=[{origin}]"])
    allowed = load_config(ServeConfig, None, ['cors_origins=["https://a.example:8443"]'])
    assert allowed.cors_origins == ("https://a.example:8443",)


def test_tracing_variables_that_are_not_heeded_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_installed()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")

    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_PROTOCOL is `grpc`"):
        check_installed()
