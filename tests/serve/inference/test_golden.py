"""A loaded model answers as it did when it was sealed, or it does not serve."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altered
import numpy as np
import onnxruntime
import pytest
import torch
from altered import both, forge, golden_cases, head, json_file, onnx, weights
from onnx import numpy_helper
from processes import free_port, run

from serve.bundle.contents import ONNX_FILE
from serve.bundle.golden import read_golden
from serve.bundle.manifest import BundleError
from serve.bundle.seal import Bundle, open_bundle
from serve.inference.backends.bulk import OneDnnProducts
from serve.inference.backends.packed import PackedModel
from serve.inference.backends.torch import TorchBackend
from serve.inference.equivalence import to_tensors
from serve.inference.golden import GOLDEN, GoldenMismatch, check_golden, limit_of, make_golden
from serve.inference.placement import DeviceFailed
from serve.inference.predictor import Predictor
from serve.inference.scores import Array
from serve.inference.text import Batch

BACKENDS = [("single", "onnx"), ("single", "torch"), ("binary", "onnx"), ("multi", "torch"),
            ("pair", "onnx"), ("pair", "torch")]  # fmt: skip


def refusal(bundle: Path, backend: Any = "torch") -> str:
    """Load a bundle and check it; return the message, one line."""
    predictor = Predictor.load(bundle, device="cpu", backend=backend)
    with pytest.raises(GoldenMismatch) as caught:
        check_golden(predictor)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) <= 1000
    return message


def golden_of(bundle: Path) -> Any:
    return json.loads((bundle / GOLDEN).read_text())


@pytest.mark.parametrize(("kind", "backend"), BACKENDS)
def test_a_sealed_model_reproduces_its_golden_cases(
    bundles: Callable[[str], Path], kind: str, backend: Any
) -> None:
    check_golden(Predictor.load(bundles(kind), device="cpu", backend=backend))


@pytest.mark.parametrize("kind", ["single", "multi", "pair"])
def test_golden_cases_are_built_in_texts_and_random_tokens(
    bundles: Callable[[str], Path], kind: str
) -> None:
    bundle = open_bundle(bundles(kind))
    golden = read_golden(bundle.path, bundle.manifest)

    texts = [case.text for case in golden.cases if case.text is not None]
    lengths = [case.num_tokens for case in golden.cases if case.text is None]
    assert len(texts) >= 8
    assert all(isinstance(text, tuple) == (kind == "pair") for text in texts)
    assert lengths == sorted({*lengths})
    assert lengths[-1] == bundle.manifest.max_length
    assert lengths[0] == min(case.num_tokens for case in golden.cases)
    assert max(case.num_tokens for case in golden.cases if case.text) == bundle.manifest.max_length
    assert sum(case.num_tokens for case in golden.cases) <= 1000
    random = {n for case in golden.cases if not case.text for n in case.encoding["input_ids"]}
    assert not random & {0, 1, 2, 3, 4}  # padding, the unknown, [CLS], [SEP], [MASK]
    expected = {"fp32", "bf16"} if kind == "multi" else {"fp32", "bf16", "int8"}
    assert golden.cases[0].logits.keys() == expected
    assert bundle.manifest.schema_version == 4


def test_nothing_of_the_training_data_is_in_them(bundles: Callable[[str], Path]) -> None:
    config = open_bundle(bundles("single")).manifest.config
    texts = [case["text"] for case in golden_of(bundles("single"))["cases"] if case["text"]]

    assert config["data"]["train"]
    assert texts == [case["text"] for case in golden_of(bundles("multi"))["cases"] if case["text"]]


@pytest.mark.parametrize(("precision", "backend"), [("fp32", "torch"), ("int8", "onnx")])
def test_other_golden_logits_are_refused_with_case_difference_and_limit(
    bundles: Callable[[str], Path], tmp_path: Path, precision: str, backend: str
) -> None:
    def edit(case: dict[str, Any]) -> None:
        if case["text"] == "ok":
            case["logits"] = {name: [x + 0.6 for x in v] for name, v in case["logits"].items()}

    bundle = forge(bundles("single"), tmp_path / "bundle", golden_cases(edit))

    message = refusal(bundle, backend)

    manifest = open_bundle(bundle).manifest
    limit = limit_of(read_golden(bundle, manifest), manifest, precision)
    assert "its logits for the text 'ok' differ by up to 0.6" in message
    assert f"over the limit of {limit:.2g} in {precision} ({backend} on cpu)" in message


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_one_precision_cannot_be_altered_alone(
    bundles: Callable[[str], Path], tmp_path: Path, precision: str
) -> None:
    """The limits of int8 and bf16 follow from their errors: an alteration may not widen them."""

    def edit(case: dict[str, Any]) -> None:
        case["logits"][precision] = [0.9 * value for value in case["logits"][precision]]

    bundle = forge(bundles("single"), tmp_path / "bundle", golden_cases(edit))

    with pytest.raises(BundleError, match=r"`parity` in `manifest\.json` says"):
        open_bundle(bundle)


def noisy(size: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def edit(tensors: dict[str, Any]) -> dict[str, Any]:
        generator = np.random.default_rng(0)
        return {
            name: (t * (1 + size * generator.standard_normal(t.shape))).astype(t.dtype)
            if t.dtype == np.float32
            else t
            for name, t in tensors.items()
        }

    return edit


def zeroed(part: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {
        name: np.zeros_like(t) if part in name and "LayerNorm" not in name else t
        for name, t in tensors.items()
    }


WRONG: dict[str, altered.Change] = {
    "two rows of the head swapped": head(lambda t: t[[1, 0, *range(2, len(t))]]),
    "temperature": head(lambda t: t / np.float32(1.1)),
    "one layer": weights(zeroed(".layer.0.")),
    "one matrix": weights(zeroed(".layer.1.attention.self.query.weight")),
    "noise of 1 %": weights(noisy(0.01)),
    "noise of 20 %": weights(noisy(0.2)),
    "an activation": altered.config(hidden_act="relu"),
    "heads of attention": altered.config(num_attention_heads=1),
    "normalization": altered.config(layer_norm_eps=0.5),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_model_that_was_altered_consistently_is_refused(
    bundles: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    change = both(WRONG[name], altered.without_export)

    message = refusal(forge(bundles("single"), tmp_path / "bundle", change))

    assert "in fp32 (torch on cpu)" in message


def test_an_altered_export_is_refused(bundles: Callable[[str], Path], tmp_path: Path) -> None:
    def edit(graph: Any) -> None:
        largest = max(
            (each for each in graph.initializer if each.data_type in (2, 3)),
            key=lambda each: np.prod(each.dims),
        )
        values = numpy_helper.to_array(largest)
        largest.CopyFrom(numpy_helper.from_array(-values, largest.name))

    message = refusal(forge(bundles("single"), tmp_path / "bundle", onnx(edit)), "onnx")

    assert "in int8 (onnx on cpu)" in message


def reordered(path: Path, values: dict[str, Any]) -> None:
    """Other names for the same rows, in manifest and configuration."""
    labels = values["labels"] = values["labels"][::-1]
    config = json.loads((path / "config.json").read_text())
    config["id2label"] = {str(n): label for n, label in enumerate(labels)}
    config["label2id"] = {label: n for n, label in enumerate(labels)}
    (path / "config.json").write_text(json.dumps(config))


def test_swapped_label_names_are_refused(bundles: Callable[[str], Path], tmp_path: Path) -> None:
    bundle = forge(bundles("multi"), tmp_path / "bundle", reordered)

    with pytest.raises(BundleError, match=r"`golden\.json`: its labels are not those of"):
        open_bundle(bundle)


def test_a_tokenizer_that_gives_other_tokens_is_refused_with_the_text(
    bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    change = json_file("tokenizer.json", normalizer={"type": "Replace", "pattern": {"String": "a"},
                                                     "content": "e "})  # fmt: skip

    message = refusal(forge(bundles("single"), tmp_path / "bundle", change), "onnx")

    assert "its tokenizer gives other input_ids for the text 'warm up': from token " in message


def test_a_smaller_maximum_length_is_refused(
    bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    change = altered.manifest(max_length=16)

    message = refusal(forge(bundles("single"), tmp_path / "bundle", change))

    assert "32 tokens, over `max_length` = 16" in message


class Backend:
    """A backend with another forward pass."""

    def __init__(self, backend: Any, forward: Callable[[Batch], Array]) -> None:
        self.backend = backend
        self.forward = forward

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


def ways(bundle: Bundle) -> dict[str, Any]:
    """Other correct runtimes of one model."""
    full = TorchBackend.load(bundle.path, device="cpu")
    half = TorchBackend.load(bundle.path, device="cpu", precision="bf16")

    @torch.inference_mode()
    def of_onednn(batch_NL: Batch) -> Array:
        with OneDnnProducts():
            return full.model(**to_tensors(batch_NL, "cpu")).logits.numpy()

    @torch.inference_mode()
    def autocast(batch_NL: Batch) -> Array:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return full.model(**to_tensors(batch_NL, "cpu")).logits.float().numpy()

    @torch.inference_mode()
    def packed(backend: Any, batch_NL: Batch) -> Array:
        return PackedModel(backend.model)(batch_NL).float().numpy()

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(bundle.path / ONNX_FILE), options)
    export = Predictor.load(bundle.path, device="cpu", backend="onnx").backend
    return {
        "oneDNN": Backend(full, of_onednn),
        "packed": Backend(full, lambda batch_NL: packed(full, batch_NL)),
        "bf16": half,
        "bf16 packed": Backend(half, lambda batch_NL: packed(half, batch_NL)),
        "bf16 by autocast": Backend(half, autocast),
        "int8 without fused operators": Backend(
            export, lambda batch_NL: session.run(None, export._feeds(batch_NL))[0]
        ),
    }


@pytest.mark.parametrize("kind", ["single", "pair"])
def test_other_correct_runtimes_pass(bundles: Callable[[str], Path], kind: str) -> None:
    full = Predictor.load(bundles(kind), device="cpu", backend="torch")

    for backend in ways(full.bundle).values():
        check_golden(Predictor(full.bundle, full.encoder, backend, batch_size=32))


def test_an_export_whose_sums_round_differently_passes(
    bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    """As on a CPU with other vector instructions."""

    def edit(graph: Any) -> None:
        generator = np.random.default_rng(0)
        for each in graph.initializer:
            values = numpy_helper.to_array(each)
            # Those of the head are compared with the weights themselves.
            if values.dtype == np.float32 and values.size > 100 and "classifier" not in each.name:
                change = 1 + 1e-6 * generator.standard_normal(values.shape)
                moved = (values * change).astype(np.float32)
                each.CopyFrom(numpy_helper.from_array(moved, each.name))

    bundle = forge(bundles("single"), tmp_path / "bundle", onnx(edit))

    check_golden(Predictor.load(bundle, device="cpu", backend="onnx"))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda logits_NC: logits_NC * np.float32("nan"), "logits that are not finite"),
        (lambda logits_NC: logits_NC[:, :2], "logits of shape"),
        (lambda logits_NC: logits_NC + 1, "over the limit"),
    ],
)
def test_a_backend_that_computes_wrongly_is_refused(
    bundles: Callable[[str], Path], spoil: Callable[[Array], Array], expected: str
) -> None:
    full = Predictor.load(bundles("single"), device="cpu", backend="onnx")
    wrong: Any = Backend(full.backend, lambda batch_NL: spoil(full.backend.forward(batch_NL)))

    with pytest.raises(GoldenMismatch, match=expected):
        check_golden(Predictor(full.bundle, full.encoder, wrong, batch_size=32))


def test_a_device_that_fails_is_not_the_bundles_fault(bundles: Callable[[str], Path]) -> None:
    full = Predictor.load(bundles("single"), device="cpu", backend="onnx")

    def fail(batch_NL: Batch) -> Array:
        raise DeviceFailed("cuda:0 failed")

    failing: Any = Backend(full.backend, fail)

    with pytest.raises(DeviceFailed):
        check_golden(Predictor(full.bundle, full.encoder, failing, batch_size=32))


def test_another_model_with_golden_cases_of_its_own_passes(
    bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    change = both(WRONG["one layer"], altered.without_export, altered.golden_again)

    check_golden(Predictor.load(forge(bundles("single"), tmp_path / "bundle", change)))


def test_a_bundle_of_schema_3_passes_without(
    bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    change = both(altered.removed(GOLDEN), altered.manifest(schema_version=3))

    check_golden(Predictor.load(forge(bundles("single"), tmp_path / "bundle", change)))


def test_a_model_of_many_labels_has_a_small_file(bundles: Callable[[str], Path]) -> None:
    full = Predictor.load(bundles("multi"), device="cpu")
    labels = tuple(f"label {number}" for number in range(60_000))
    manifest = full.bundle.manifest.model_copy(update={"labels": labels})
    many: Any = Backend(
        full.backend, lambda batch_NL: np.ones((len(batch_NL["input_ids"]), 60_000), np.float32)
    )

    bundle = Bundle(path=full.bundle.path, manifest=manifest)
    content = make_golden(Predictor(bundle, full.encoder, many, batch_size=32))

    assert 1 <= len(json.loads(content)["cases"]) <= 2
    assert len(content) < 4_000_000


@pytest.mark.parametrize(
    "overrides", [(), pytest.param(("backend=torch",), marks=pytest.mark.slow)]
)
def test_a_server_refuses_other_golden_logits_in_one_line(
    bundles: Callable[[str], Path], tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    def edit(case: dict[str, Any]) -> None:
        case["logits"] = {name: [x + 1 for x in v] for name, v in case["logits"].items()}

    bundle = forge(bundles("single"), tmp_path / "bundle", golden_cases(edit))

    ended = run("-m", "serve", "run", "--bundle", bundle, f"port={free_port()}", *overrides)

    assert ended.returncode == 2
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "does not answer as when it was sealed: its logits for" in errors[0]
    assert "Traceback" not in ended.stderr
