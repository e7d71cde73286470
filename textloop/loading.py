"""`textloop.load`: a classifier from a bundle, the directory of a run, or the Hub."""

from __future__ import annotations

from pathlib import Path

from serve.classifier.classifier import Classifier
from serve.command.folder import libraries_first
from serve.inference.placement import BackendName


def load(source: str | Path, *, device: str = "auto", backend: BackendName = "auto") -> Classifier:
    """Open, verify and load a classifier.

    source: a bundle, the directory of a run, or hub:OWNER/NAME[@REVISION] for a published bundle.
    device: auto, cpu, cuda or cuda:N. backend: auto (the int8 export on a CPU, if there is one),
    torch or onnx. Raises BundleError, a ValueError, for what is no complete, unaltered bundle.
    """
    if isinstance(source, str) and source.startswith("hub:"):
        from textloop.binding import require

        require("train")
        with libraries_first():
            from train.importing.on_the_fly import bundle_for

            source = bundle_for(source)
    with libraries_first():
        return Classifier.load(source, device=device, backend=backend)
