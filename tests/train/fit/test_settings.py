"""Settings that bear on nothing hinder nothing; what a run does with the others is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from train.config.run import RunConfig
from train.fit.fit import fit, fit_unless_done
from train.merge.merge import merge

MakeConfig = Callable[..., dict[str, Any]]
EPOCH = {"num_train_epochs": 1}


def test_probe_is_an_override_of_any_run(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = make_config(
        tmp_path / "run",
        method="probe",
        early_stopping_patience=3,
        model={"trained_layers": 1, "head_init": "random", "quantize": "4bit"},
        trainer={"bf16": True},
    )

    found = fit(RunConfig(**values))

    assert "note: method probe does not use lora.r, lora.lora_alpha, trainer.bf16" in (
        out := capsys.readouterr().out
    )
    assert "early_stopping_patience, model.quantize, model.trained_layers, model.head_init" in out
    assert found["accuracy"] > 0.8
    plain = {key: value for key, value in values.items() if key not in ("lora", "trainer")}
    fit_unless_done(RunConfig(**values | {"trainer": {}}))
    assert "is up to date" in capsys.readouterr().out
    assert merge(RunConfig(**plain)).manifest.parity["adapter_reloaded"] <= 1e-4


def test_merge_and_resume_take_another_logging(make_config: MakeConfig, tmp_path: Path) -> None:
    values = make_config(tmp_path / "run", trainer=EPOCH)
    fit(RunConfig(**values))
    other = values["trainer"] | {"logging_steps": 7, "report_to": [], "run_name": "x"}

    fit(RunConfig(**values | {"trainer": other}))

    assert merge(RunConfig(**values | {"trainer": {**other, "logging_steps": 3}}))


def test_batch_larger_than_the_data_is_said(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = EPOCH | {"per_device_train_batch_size": 512}

    fit(RunConfig(**make_config(tmp_path / "run", trainer=trainer)))

    assert (
        "note: one batch of 512 rows is larger than the 269 training rows, which are repeated "
        "1.9 times to fill it; lower trainer.per_device_train_batch_size"
    ) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"loss": {"class_weights": {"biling": 2.0}}}, "names 'biling', which is not a label"),
        ({"lora": {"target_modules": ["qery"]}}, "names 'qery', and .* has no such layer"),
    ],
)
def test_names_that_match_nothing_are_refused_before_a_row_is_encoded(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sections: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr("train.fit.fit.encode_splits", None)

    with pytest.raises(ValueError, match=message):
        fit(RunConfig(**make_config(tmp_path / "run", **sections)))
