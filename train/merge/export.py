"""The int8 export for CPUs: the merged model as ONNX, its matrix products in int8.

The stock dynamic quantization of ONNX Runtime uses one scale per batch, so a text's logits
depend on the other texts in its batch. Here every row (token) has its own scale, computed at
run time: the logits are the same in any batch, padding included, more labels agree with full
precision, and it is faster than the stock form.

- Weights: 7 bits, one scale per output channel. On CPUs without VNNI the sum of two products
  of 8-bit numbers saturates its 16 bits silently; with 7 bits it cannot. (ONNX Runtime's
  `reduce_range`.)
- Activations: unsigned 8 bits with a fixed zero point. GELU's outputs are never below -0.17;
  their zero point leaves most of the range to positive values.
- Channels with large activations are divided by a constant that their weights are multiplied
  by, so that one outlier does not coarsen a whole row (SmoothQuant, Xiao et al. 2023,
  equation 4, with exponent 0.5; without it the error in the logits about doubles).
- Attention, normalization, embeddings and the head stay in fp32.

`train.merge.int8` decides whether the export is included in the bundle.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from serve.inference.pooling import load_classifier, usable_positions
from serve.inference.text import Batch
from serve.language.lines import first_line
from serve.privacy import silent_onnxruntime

WEIGHT_MAX = 63
"""Largest quantized weight: 2 * 255 * 63 < 2**15, the range of AVX2's accumulator."""

ZERO_POINT = 128
GELU_ZERO_POINT = 44
GELU_MINIMUM = 0.17005
"""GELU(x) >= -0.17004, its value at x = -0.7518."""

EPSILON = 1e-12

MAX_TOKENS = 65536
"""Longest input of an export whose architecture states no limit."""


def export_int8(model_directory: Path, batches: Sequence[Batch], destination: Path) -> None:
    """Write the int8 ONNX form of a model directory.

    batches: padded batches of typical texts, for measuring the range of each channel; the
    first has at least two rows. Batch size and length stay dynamic.
    Raises ValueError if the model has no matrix product to quantize.
    """
    model = _to_onnx(model_directory, batches[0])
    quantize_rows(model, channel_ranges(model, batches))
    destination.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, destination)


def _to_onnx(model_directory: Path, example_NL: Batch) -> Any:
    """Export the model in fp32, with the logits as its only output."""
    model, _ = load_classifier(
        model_directory,
        dtype=torch.float32,
        attn_implementation="eager",  # its graph is plain matrix products and a softmax
    )
    model.eval()
    names = list(example_NL)

    class Logits(torch.nn.Module):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            logits_NC: torch.Tensor = model(**dict(zip(names, inputs, strict=True))).logits
            return logits_NC

    module = Logits()
    module.model = model
    rows = torch.export.Dim("N", min=1, max=65536)
    positions = usable_positions(model) or MAX_TOKENS
    tokens = torch.export.Dim("L", min=2, max=max(3, positions - 1))
    for name in ("torch.onnx", "torch.fx.experimental.symbolic_shapes"):
        logging.getLogger(name).setLevel(logging.ERROR)  # notes on torchvision, and on its own code
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's notes on its own internals
        try:
            program = torch.onnx.export(
                module.eval(),
                tuple(torch.from_numpy(ids) for ids in example_NL.values()),
                input_names=names,
                output_names=["logits"],
                dynamic_shapes=(tuple({0: rows, 1: tokens} for _ in names),),
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # prints the whole graph, and wraps the reason in a page
            raise ValueError(
                f"PyTorch's ONNX exporter does not take {type(model).__name__} "
                f"({first_line(error.__cause__ or error)})"
            ) from error
    assert program is not None
    model_proto = program.model_proto
    # The exporter notes the source lines of every node, with this machine's paths.
    for node in (*model_proto.graph.node, *(n for f in model_proto.functions for n in f.node)):
        del node.metadata_props[:]
    return model_proto


def channel_ranges(model: Any, batches: Sequence[Batch]) -> dict[str, Any]:
    """Measure the largest absolute value of each channel (last axis) of every product's input."""
    onnxruntime = silent_onnxruntime()
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = list(dict.fromkeys(node.input[0] for node, _ in _products(model.graph)))
    for name in names:
        probe.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    inputs = {each.name for each in session.get_inputs()}
    ranges: dict[str, Any] = {}
    for batch_NL in batches:
        feeds = {name: ids for name, ids in batch_NL.items() if name in inputs}
        for name, value in zip(names, session.run(names, feeds), strict=True):
            largest = np.abs(value.reshape(-1, value.shape[-1])).max(axis=0)
            ranges[name] = np.maximum(ranges.get(name, largest), largest)
    return ranges


def quantize_rows(model: Any, ranges: dict[str, Any]) -> None:
    """Convert every product with a constant matrix to int8, in place.

    ranges: from `channel_ranges`.
    """
    graph = model.graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    weights: dict[str, list[Any]] = {}
    for node, weight in _products(graph):
        weights.setdefault(node.input[0], []).append(weight)
    if not weights:
        raise ValueError("the model has no product with a constant matrix")
    products = {node.output[0]: weight for node, weight in _products(graph)}
    rewrite = _Rewrite()
    for node in graph.node:
        weight = products.get(node.output[0])
        if weight is None:
            rewrite.nodes.append(node)
            continue
        x = node.input[0]
        after_gelu = makers.get(x) == "Gelu"
        # Smoothing would change GELU's minimum, on which the zero point relies.
        smooth_I = None if after_gelu else smoothing(ranges[x], weights[x])
        rewrite.product(x, weight, node.output[0], smooth_I, after_gelu=after_gelu)
    used = {name for node in rewrite.nodes for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(rewrite.nodes)
    graph.initializer.extend([*kept, *rewrite.constants.values()])
    if all(each.domain != "com.microsoft" for each in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.checker.check_model(model)


def smoothing(range_I: Any, weights_IO: list[Any]) -> Any:
    """Return each channel's divisor: sqrt(range of activation / range of weight)."""
    weight_I = np.max([np.abs(weight_IO).max(axis=1) for weight_IO in weights_IO], axis=0)
    return np.sqrt(np.maximum(range_I, 1e-5) / np.maximum(weight_I, 1e-5)).astype(np.float32)


def _products(graph: Any) -> list[tuple[Any, Any]]:
    """Return the products with a constant matrix: their nodes, and the matrices as float32."""
    constants = {each.name: each for each in graph.initializer}
    return [
        (node, numpy_helper.to_array(constants[node.input[1]]).astype(np.float32))
        for node in graph.node
        if node.op_type == "MatMul"
        and node.input[1] in constants
        and len(constants[node.input[1]].dims) == 2
    ]


class _Rewrite:
    """The nodes and constants of the new graph, in order."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.quantized: dict[str, int] = {}
        """Zero point of each quantized input; products with the same input share it."""

    def product(
        self, x: str, weight_IO: Any, y: str, smooth_I: Any | None, *, after_gelu: bool
    ) -> None:
        """Append y = x @ weight, x of any rank with last size I, in int8."""
        inner, outer = weight_IO.shape
        if x not in self.quantized:
            self._quantize(x, inner, smooth_I, after_gelu=after_gelu)
        if smooth_I is not None:
            weight_IO = weight_IO * smooth_I[:, None]
        zero_point = self.quantized[x]
        scale_O = np.abs(weight_IO).max(axis=0) / WEIGHT_MAX
        scale_O[scale_O == 0] = 1.0
        weight = np.rint(weight_IO / scale_O).clip(-WEIGHT_MAX, WEIGHT_MAX).astype(np.int8)
        self._node(
            "MatMulIntegerToFloat",
            [
                f"{x}/rows_q",
                self._constant(f"{y}/weight", weight),
                self._constant("one", np.array(1.0, np.float32)),
                self._constant(f"{y}/weight_scale", scale_O.astype(np.float32)),
                self._constant(f"zero_point_{zero_point}", np.array(zero_point, np.uint8)),
            ],
            f"{y}/unscaled",
            domain="com.microsoft",
        )
        self._node("Mul", [f"{y}/unscaled", f"{x}/scale"], f"{y}/rows")
        width = self._constant(f"width_{outer}", np.array([outer], np.int64))
        self._node("Concat", [f"{x}/lead", width], f"{y}/shape", axis=0)
        self._node("Reshape", [f"{y}/rows", f"{y}/shape"], y)

    def _quantize(self, x: str, inner: int, smooth_I: Any | None, *, after_gelu: bool) -> None:
        """Append the quantization of x to uint8, with one scale per row."""
        zero_point = GELU_ZERO_POINT if after_gelu else ZERO_POINT
        self.quantized[x] = zero_point
        last = self._constant("last_axis", np.array([1], np.int64))
        flat = self._constant(f"flat_{inner}", np.array([-1, inner], np.int64))
        self._node("Reshape", [x, flat], f"{x}/rows" if smooth_I is None else f"{x}/plain_rows")
        if smooth_I is not None:
            self._node(
                "Mul",
                [f"{x}/plain_rows", self._constant(f"{x}/smooth", 1 / smooth_I)],
                f"{x}/rows",
            )
        self._node("ReduceMax", [f"{x}/rows", last], f"{x}/max", keepdims=1)
        reach, least = f"{x}/max", GELU_MINIMUM / zero_point
        if not after_gelu:
            self._node("ReduceMin", [f"{x}/rows", last], f"{x}/min", keepdims=1)
            self._node("Neg", [f"{x}/min"], f"{x}/negative")
            self._node("Max", [reach, f"{x}/negative"], f"{x}/reach")
            reach, least = f"{x}/reach", EPSILON
        step = 1 / (255 - zero_point)
        self._node(
            "Mul", [reach, self._constant(f"step_{zero_point}", np.array(step, np.float32))],
            f"{x}/wanted",
        )  # fmt: skip
        bound = self._constant(f"least_{zero_point}", np.array(least, np.float32))
        self._node("Max", [f"{x}/wanted", bound], f"{x}/scale")
        flat_scale = self._constant("any_length", np.array([-1], np.int64))
        self._node("Reshape", [f"{x}/scale", flat_scale], f"{x}/scales")
        self._node("Shape", [f"{x}/scales"], f"{x}/count")
        value = numpy_helper.from_array(np.array([zero_point], np.uint8))
        self._node("ConstantOfShape", [f"{x}/count"], f"{x}/zero_points", value=value)
        self._node(
            "QuantizeLinear", [f"{x}/rows", f"{x}/scales", f"{x}/zero_points"], f"{x}/rows_q",
            axis=0,
        )  # fmt: skip
        self._node("Shape", [x], f"{x}/shape")
        first = self._constant("first", np.array([0], np.int64))
        self._node("Slice", [f"{x}/shape", first, flat_scale, first], f"{x}/lead")

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))

    def _constant(self, name: str, value: Any) -> str:
        name = f"int8/{name}"
        self.constants.setdefault(name, numpy_helper.from_array(value, name))
        return name
