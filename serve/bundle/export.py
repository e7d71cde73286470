"""Whether the int8 export belongs to the bundle: there as stated, and of the same model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from serve.bundle.architecture import HEADS
from serve.bundle.contents import ONNX_FILE
from serve.bundle.manifest import Manifest
from serve.bundle.onnx_graph import Graph, Span, read_graph
from serve.bundle.tensors import Tensors


def export_problems(path: Path, manifest: Manifest, tensors: Tensors) -> Iterator[str]:
    """Return the contradictions between the export, the manifest and the weights."""
    shipped = manifest.int8 is not None and manifest.int8.shipped
    if shipped != (ONNX_FILE in manifest.files):
        has = "has an int8 export" if shipped else "has no int8 export"
        there = "is missing" if shipped else "is there"
        yield f"`manifest.json` says that the bundle {has}, but `{ONNX_FILE}` {there}"
    elif shipped:
        try:
            graph = read_graph(path / ONNX_FILE)
        except ValueError as error:
            yield f"file `{ONNX_FILE}` is no ONNX model of a bundle: {error}"
        else:
            yield from _graph(manifest, graph)
            yield from _same_head(path, graph, tensors)


def _graph(manifest: Manifest, graph: Graph) -> Iterator[str]:
    wanted = {*manifest.tokenizer.columns, "attention_mask"}
    if graph.inputs.keys() != wanted:
        yield (
            f"`{ONNX_FILE}` has the inputs {sorted(graph.inputs)}, but the tokenizer's columns "
            f"need {sorted(wanted)}"
        )
    if any(len(shape) != 2 or set(shape) != {None} for shape in graph.inputs.values()):
        yield f"`{ONNX_FILE}` does not take any number of texts and tokens"
    if [*graph.outputs] != ["logits"]:
        yield f"`{ONNX_FILE}` has the outputs {[*graph.outputs]}, expected logits alone"
    elif graph.outputs["logits"] != (None, len(manifest.labels)):
        yield (
            f"`{ONNX_FILE}` gives logits of the shape {graph.outputs['logits']}, expected one "
            f"column for each of {len(manifest.labels)} labels"
        )


def _same_head(path: Path, graph: Graph, tensors: Tensors) -> Iterator[str]:
    """Compare the layer that computes the logits, which an export keeps in fp32 under its name.

    The `score` of a decoder is quantized like the layers before it, and not compared.
    """
    for weight in (name for name in HEADS if name.startswith("classif") and name in tensors):
        if f"model.{weight}" not in graph.last_inputs:
            yield f"`{ONNX_FILE}` does not end in the weights `{weight}`"
        for name in (weight, f"{weight.removesuffix('weight')}bias"):
            tensor = tensors.get(name)
            if tensor is None or tensor.dtype != "F32":
                continue
            values = tensor.read()
            if f"model.{name}" not in graph.floats and not any(values):
                continue  # the exporter leaves out a bias of zeros
            if values != _read(path, graph.floats.get(f"model.{name}", (0, 0))):
                yield f"`{ONNX_FILE}` was exported from another model: `{name}` differs"


def _read(path: Path, span: Span) -> bytes:
    with (path / ONNX_FILE).open("rb") as opened:
        opened.seek(span[0])
        return opened.read(span[1] - span[0])
