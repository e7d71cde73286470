"""`textloop.load`: a classifier from a bundle, a run, a Hugging Face checkpoint, or the Hub."""

from __future__ import annotations

from pathlib import Path

from serve.bundle.location import bundle_at
from serve.classifier.classifier import Classifier
from serve.command.folder import libraries_first
from serve.inference.placement import BackendName


def load(source: str | Path, *, device: str = "auto", backend: BackendName = "auto") -> Classifier:
    """Open, verify and load a classifier.

    source: a bundle, the directory of a run, or hub:OWNER/NAME[@REVISION]. A Hugging Face sequence
    classifier, a directory or on the Hub, is imported in full precision into a cache of the user.
    device: auto, cpu, cuda or cuda:N. backend: auto (the int8 export on a CPU, if there is one),
    torch or onnx. Raises BundleError, a ValueError, for what is no complete, unaltered bundle.
    """
    with libraries_first():
        bundle = bundle_at(Path(source))
        if bundle is None:
            from textloop.binding import require

            require("train")
            from train.importing.on_the_fly import bundle_for

            bundle = bundle_for(str(source))
        return Classifier.load(bundle, device=device, backend=backend)
