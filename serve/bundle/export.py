"""Whether the int8 export belongs to the bundle: there as stated, and of the same model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from serve.bundle.architecture import HEADS
from serve.bundle.contents import ONNX_FILE
from serve.bundle.manifest import Manifest
from serve.bundle.onnx_graph import Graph, read_graph
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
    """Compare the weights of the logits, which an export keeps in fp32 under their names."""
    for weight in HEADS:
        for name in (weight, f"{weight.removesuffix('weight')}bias"):
            span, tensor = graph.floats.get(f"model.{name}"), tensors.get(name)
            if span is None or tensor is None or tensor.dtype != "F32":
                continue
            with (path / ONNX_FILE).open("rb") as opened:
                opened.seek(span[0])
                exported = opened.read(span[1] - span[0])
            if exported != tensor.read():
                yield f"`{ONNX_FILE}` was exported from another model: `{name}` differs"
