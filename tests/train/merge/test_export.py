"""The int8 export: close to full precision, equal in any batch, included only if it passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from architectures import SIZES, base_from
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from processes import ROOT
from rows import make_rows
from transformers import LongformerConfig

from serve.bundle.contents import ONNX_FILE
from serve.bundle.seal import open_bundle
from serve.inference.backends.onnx import OnnxBackend
from serve.inference.backends.torch import TorchBackend
from serve.inference.decision import Rules
from serve.inference.passes import batched_logits
from serve.inference.predictor import load_encoder
from serve.stats import paired_difference
from train.config.run import RunConfig
from train.fit.fit import fit
from train.merge import int8
from train.merge.export import (
    GELU_MINIMUM,
    GELU_ZERO_POINT,
    WEIGHT_MAX,
    _to_onnx,
    export_int8,
    quantize_rows,
    smoothing,
)
from train.merge.int8 import compare_int8
from train.merge.merge import merge

Bundles = Callable[[str], Path]

BEST = Rules(task="single_label", thresholds_C=None, abstention=None)

TEXTS = [row["text"] for row in make_rows(120, seed=31)]


@pytest.mark.parametrize("kind", ["single", "pair"])
def test_labels_agree_with_full_precision(kind: str, bundles: Bundles) -> None:
    bundle = open_bundle(bundles(kind))
    encoder = load_encoder(bundle)
    texts: Any = list(zip(TEXTS, reversed(TEXTS), strict=True)) if kind == "pair" else TEXTS
    encodings = encoder.encode(texts)

    full_NC, int8_NC = (
        batched_logits(backend, encoder, encodings, batch_size=16)
        for backend in (
            TorchBackend.load(bundle.path, device="cpu"),
            OnnxBackend.load(bundle.path),
        )
    )

    assert bundle.manifest.int8 is not None
    assert bundle.manifest.int8.shipped
    # Random texts are hard for a model this small; the gate itself saw 99 % of real ones agree.
    assert (full_NC.argmax(axis=1) == int8_NC.argmax(axis=1)).mean() >= 0.95
    assert np.abs(full_NC - int8_NC).max() < 0.5


def test_stock_dynamic_quantization_depends_on_the_batch_and_ours_does_not(
    bundles: Bundles, tmp_path: Path
) -> None:
    bundle = open_bundle(bundles("single"))
    encoder = load_encoder(bundle)
    encodings = encoder.encode(TEXTS)
    onnx.save(_to_onnx(bundle.path, encoder.pad(encodings[:2])), tmp_path / "fp32.onnx")
    quantize_dynamic(
        tmp_path / "fp32.onnx",
        tmp_path / "stock.onnx",
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
    )

    def moved(backend: OnnxBackend) -> float:
        together_NC = batched_logits(backend, encoder, encodings, batch_size=len(encodings))
        alone_NC = batched_logits(backend, encoder, encodings, batch_size=1)
        return float(np.abs(together_NC - alone_NC).max())

    assert moved(OnnxBackend(tmp_path / "stock.onnx")) > 1e-2
    assert moved(OnnxBackend.load(bundle.path)) <= OnnxBackend.tolerance


def test_quantized_weights_cannot_overflow_16_bits(bundles: Bundles) -> None:
    """Without VNNI two products of 8 bits are added in 16, and cut off in silence."""
    assert 2 * 255 * WEIGHT_MAX < 2**15
    model = onnx.load(bundles("single") / ONNX_FILE)

    weights = [numpy_helper.to_array(each) for each in model.graph.initializer]
    quantized = [each for each in weights if each.dtype == np.int8]

    assert len(quantized) == 2 * 6  # two layers: query, key, value, output, and two of FFN
    assert max(np.abs(each.astype(int)).max() for each in quantized) == WEIGHT_MAX


def test_least_value_of_gelu_is_within_its_quantized_range() -> None:
    x = np.linspace(-3, 0, 100_001)
    gelu = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    assert -GELU_MINIMUM < gelu.min() < -GELU_MINIMUM + 1e-4
    assert 0 < GELU_ZERO_POINT < 128


def test_smoothing_leaves_the_product_as_it_was() -> None:
    generator = np.random.default_rng(0)
    x_NI, weight_IO = generator.normal(size=(5, 8)), generator.normal(size=(8, 3))
    x_NI[:, 2] *= 100

    smooth_I = smoothing(np.abs(x_NI).max(axis=0), [weight_IO])

    assert np.allclose((x_NI / smooth_I) @ (weight_IO * smooth_I[:, None]), x_NI @ weight_IO)
    spread = np.abs(x_NI / smooth_I).max(axis=0)
    assert spread.max() / spread.min() < np.abs(x_NI).max(axis=0).max() / 5


def test_a_model_without_products_is_refused() -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
    )

    with pytest.raises(ValueError, match="no product with a constant matrix"):
        quantize_rows(onnx.helper.make_model(graph), {})


def test_export_serves_batches_of_any_size_and_length(bundles: Bundles, tmp_path: Path) -> None:
    bundle = open_bundle(bundles("single"))
    encoder = load_encoder(bundle)
    encodings = encoder.encode([*TEXTS[:8], "parcel " * 40, "a"])

    export_int8(bundle.path, [encoder.pad(encodings[:2])], tmp_path / "onnx" / "model.onnx")
    backend = OnnxBackend(tmp_path / "onnx" / "model.onnx")

    for rows in (encodings[8:9], encodings[9:], encodings):
        assert backend.forward(encoder.pad(rows)).shape == (len(rows), 3)


def logits_of(labels: list[int]) -> Any:
    return np.eye(2, dtype=np.float32)[labels] * 4


def test_export_holds_no_path_of_this_machine(bundles: Bundles) -> None:
    content = (bundles("single") / "onnx" / "model_int8.onnx").read_bytes()

    assert str(ROOT).encode() not in content
    assert b"site-packages" not in content


def test_gate_counts_agreement_and_accuracy() -> None:
    reference_NC = np.eye(2, dtype=bool)[[0] * 1000]
    full_NC = logits_of([0] * 950 + [1] * 50)

    same = compare_int8(full_NC, full_NC, reference_NC, rules=BEST)
    worse = compare_int8(full_NC, logits_of([0] * 940 + [1] * 60), reference_NC, rules=BEST)
    other = compare_int8(
        full_NC, logits_of([1] * 6 + [0] * 950 + [1] * 44), reference_NC, rules=BEST
    )

    assert same.shipped
    assert (same.agreement, same.accuracy_fp32, same.accuracy_int8) == (1.0, 0.95, 0.95)
    assert not worse.shipped
    assert "the accuracy loss is over 0.003" in worse.reason
    assert worse.difference is not None
    assert worse.difference.value == pytest.approx(-0.01)
    assert worse.difference.low < -0.01 < worse.difference.high < 0
    assert not other.shipped
    assert "fewer than 99%" in other.reason
    assert other.accuracy_int8 == 0.95


def test_logits_that_are_not_finite_never_ship() -> None:
    reference_NC = np.eye(2, dtype=bool)[[0] * 10]
    broken_NC = logits_of([0] * 10)
    broken_NC[3, 1] = -np.inf

    result = compare_int8(logits_of([0] * 10), broken_NC, reference_NC, rules=BEST)

    assert not result.shipped
    assert "not finite" in result.reason


@pytest.mark.slow
def test_merge_leaves_a_failing_export_out_and_says_why(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig.model_validate(make_config(tmp_path / "run", export_int8=True))
    fit(config)
    monkeypatch.setattr(int8, "MIN_AGREEMENT", 1.01)

    bundle = merge(config)

    assert not (bundle.path / "onnx").exists()
    assert bundle.manifest.int8 is not None
    assert not bundle.manifest.int8.shipped
    assert "labels agree" in bundle.manifest.int8.reason
    assert set(bundle.manifest.metrics) == {"validation"}
    monkeypatch.setattr(
        "train.merge.export.export_int8",
        lambda *_: (_ for _ in ()).throw(RuntimeError("no such op")),
    )
    unexported = merge(config).manifest.int8
    assert unexported is not None
    assert unexported.reason == "it could not be exported: no such op"


@pytest.mark.slow
def test_reason_of_the_exporter_is_one_plain_line(
    make_config: Callable[..., dict[str, Any]],
    tiny_base: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = LongformerConfig(**SIZES, attention_window=8)
    base = base_from(settings, tiny_base, tmp_path / "base")
    values = make_config(tmp_path / "run", export_int8=True, model={"base": str(base)})
    config = RunConfig.model_validate(values)
    fit(config)
    capfd.readouterr()

    found = merge(config).manifest.int8

    assert found is not None
    assert "PyTorch's ONNX exporter does not take LongformerForSequenceCl" in found.reason
    assert not {"\n", "\x1b"} & set(found.reason)
    assert "def forward" not in "".join(capfd.readouterr())


def test_paired_difference_is_that_of_agresti_and_min() -> None:
    """Their example: 1600 voters, 794 approve twice, 150 stop, 86 begin, 570 never do."""
    first_N = np.array([True] * 944 + [False] * 656)
    second_N = np.array([True] * 794 + [False] * 150 + [True] * 86 + [False] * 570)

    value, low, high = paired_difference(first_N, second_N)

    assert value == pytest.approx(-0.04)
    assert low == pytest.approx(-0.0588, abs=3e-4)
    assert high == pytest.approx(-0.0212, abs=3e-4)
    with pytest.raises(ValueError, match="not pairs"):
        paired_difference(first_N, second_N[:5])
