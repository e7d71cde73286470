"""ONNX Runtime's sessions: what they share, and what they keep."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serve.bundle.contents import ONNX_FILE
from serve.bundle.onnx_graph import read_graph
from serve.engine.gc_tuning import trim_heap
from serve.inference.predictor import Predictor

Bundles = Callable[[str], Path]


def load(bundle: Path, monkeypatch: pytest.MonkeyPatch, *, shared_bytes: int, cores: int = 2):
    monkeypatch.setattr("serve.inference.backends.onnx.usable_cores", lambda: cores)
    monkeypatch.setattr("serve.inference.backends.onnx.SHARED_BYTES", shared_bytes)
    return Predictor.load(bundle, device="cpu", backend="onnx")


def private_mb() -> float:
    """Memory of this process alone."""
    (kilobytes,) = re.findall(
        r"^Pss_Anon:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE
    )
    return int(kilobytes) / 1024


@pytest.mark.parametrize("kind", ["single", "pair"])
def test_shared_weights_give_the_same_logits_to_the_bit(
    bundles: Bundles, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    own = load(bundles(kind), monkeypatch, shared_bytes=2**40)
    sharing = load(bundles(kind), monkeypatch, shared_bytes=1)
    encodings = [own._text_of(length) for length in (3, 9, 30)]

    assert own.backend._shared == {}
    assert len(sharing.backend._shared) > 5
    for batch in (encodings, encodings[:1]):
        assert (own.forward(batch) == sharing.forward(batch)).all()


def test_embeddings_are_shared_by_all_sessions(
    bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = read_graph(bundles("single") / ONNX_FILE)
    (embeddings,) = (name for name in graph.floats if "word_embeddings" in name)
    size = 4 * int(np.prod(graph.shapes[embeddings]))

    backend = load(bundles("single"), monkeypatch, shared_bytes=size).backend

    assert backend._shared[embeddings].numpy().shape == graph.shapes[embeddings]


def test_working_memory_is_released_and_answers_stay(
    bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = load(bundles("single"), monkeypatch, shared_bytes=1, cores=1)
    small = [predictor._text_of(9)] * 3
    expected_NC = predictor.forward(small)
    trim_heap()
    before_mb = private_mb()
    predictor.forward([predictor._text_of(32)] * 2000)
    grown_mb = private_mb() - before_mb

    assert predictor.release()
    trim_heap()

    assert not predictor.release()
    assert grown_mb > 20
    assert private_mb() - before_mb < grown_mb / 4
    assert (predictor.forward(small) == expected_NC).all()


def test_a_file_that_is_no_export_is_refused(tmp_path: Path) -> None:
    from serve.inference.backends.onnx import OnnxBackend

    (tmp_path / "model.onnx").write_bytes(b"no model")

    with pytest.raises(ValueError, match="it is"):
        OnnxBackend(tmp_path / "model.onnx")
