"""Every supported base architecture, from `fit` to a response over HTTP.

`merge` itself compares adapter, merged and reloaded model, and refuses if they differ.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from architectures import CONFIGS, NO_PAD_TOKEN, base_of
from processes import Server

from serve.inference.predictor import Predictor
from train.config.run import RunConfig
from train.fit.fit import fit
from train.merge.merge import merge


def train(name: str, make_config: Callable[..., dict[str, Any]], base: Path, path: Path) -> Path:
    values = make_config(
        path / "run",
        model={
            "base": str(base_of(name, base, path / "base")),
            "pad_token": NO_PAD_TOKEN.get(name),
            "trained_layers": None,
        },
        trainer={"num_train_epochs": 4, "learning_rate": 3e-3},
        export_int8=True,
    )
    config = RunConfig(**values)
    fit(config)
    bundle = merge(config)
    assert max(v for k, v in bundle.manifest.parity.items() if k.startswith("adapter_")) <= 1e-4
    return bundle.path


@pytest.mark.parametrize("name", ["qwen2", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_a_decoder_learns(
    name: str, make_config: Callable[..., dict[str, Any]], tiny_base: Path, tmp_path: Path
) -> None:
    bundle = train(name, make_config, tiny_base, tmp_path)

    predictor = Predictor.load(bundle, device="cpu")
    best = predictor.predict(["parcel courier late", "invoice paid bill"]).argmax(axis=1)

    assert [predictor.bundle.manifest.labels[n] for n in best] == ["delivery", "billing"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_architecture_goes_from_fit_to_a_served_answer(
    name: str, make_config: Callable[..., dict[str, Any]], tiny_base: Path, tmp_path: Path
) -> None:
    bundle = train(name, make_config, tiny_base, tmp_path)
    predictor = Predictor.load(bundle, device="cpu")
    text = "parcel courier late"
    scores = dict(zip(predictor.bundle.manifest.labels, predictor.predict([text])[0], strict=True))

    server = Server(bundle)
    try:
        answer = httpx.post(f"{server.url}/predict", json={"inputs": text}, timeout=30).json()
    finally:
        server.kill()

    assert {entry["label"]: entry["score"] for entry in answer} == pytest.approx(scores, abs=1e-4)
