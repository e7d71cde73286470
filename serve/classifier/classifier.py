"""Texts in, labels out: a bundle as Python code uses it, for one text, lists and frames.

A string gives one prediction, a list a list; a pandas Series or DataFrame keeps its index. The
bundle's thresholds are applied, and its abstention: a text that it would rather not answer gets
None. `Predictor` below has the probabilities alone, and knows no frames.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from serve.classifier.inputs import read_texts
from serve.inference.placement import BackendName
from serve.inference.predictor import Predictor
from serve.inference.scores import Array
from serve.inference.text import Text, TextError
from serve.language.spelling import shown

BLOCK_TEXTS = 1024
"""Most texts that are tokenized at once."""

BLOCK_CHARS = 1 << 19
"""Characters of text after which a block ends: tokenizing takes some 100 bytes for each."""

SHOWN_LABELS = 8
"""Labels in the `repr` of a classifier."""


class Classifier:
    """A text classifier, loaded from a bundle."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.manifest = predictor.bundle.manifest

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "auto", backend: BackendName = "auto"
    ) -> Classifier:
        """Open, verify and load a bundle, or that of a run's directory.

        device: auto, cpu, cuda or cuda:N. backend: auto (the int8 export on a CPU, if there is
        one), torch or onnx. Raises BundleError, a ValueError, for what is no complete bundle.
        """
        return cls(Predictor.load(path, device=device, backend=backend))

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of the columns of `predict_proba`."""
        return list(self.manifest.labels)

    @property
    def path(self) -> Path:
        """Directory of the bundle."""
        return self.predictor.bundle.path

    def predict(self, texts: Any, *, abstain: bool | None = None) -> Any:
        """Return the label of a text, or those of many; lists of labels for a multi-label model.

        texts: a string; a list or another iterable of them, which gives a list; an array, which
        gives an array; a Series of pandas or polars, which gives a Series; or a DataFrame with the
        bundle's text columns, which gives a Series. Where the model takes pairs, a text is a tuple
        of two. Those of pandas keep their index.
        abstain: whether a text below the bundle's abstention threshold gets None in place of its
        label; None: if the bundle has a threshold. True without one is a ValueError.

        Raises TypeError for what is no text and ValueError for a text that cannot be classified,
        with its position, before anything is classified.
        """
        if abstain and self.predictor.rules.abstain_below is None:
            raise ValueError(self.predictor.rules.no_abstention)
        given = read_texts(texts, self.manifest.text_columns)
        answers: list[Any] = []
        for probabilities_NC in self._blocks(given.texts):
            decision = self.predictor.rules.decide(probabilities_NC)
            kept_N = decision.abstain_N if abstain is not False else None
            for row, predicted_C in enumerate(decision.predicted_NC):
                names = [self.manifest.labels[label] for label in np.flatnonzero(predicted_C)]
                answer = names if self.manifest.task == "multi_label" else names[0]
                answers.append(None if kept_N is not None and kept_N[row] else answer)
        return given.answer(answers)

    def predict_proba(self, texts: Any) -> Any:
        """Return the probabilities of all labels, in the order of `labels`.

        texts: as for `predict`. A string gives an array of shape (C,), a list or array one of
        shape (N, C), a Series or DataFrame a DataFrame with a column for each label. Rows of a
        single-label model sum to 1; those of a multi-label model need not.
        """
        given = read_texts(texts, self.manifest.text_columns)
        found = [*self._blocks(given.texts)] or [np.zeros((0, len(self.labels)), np.float32)]
        return given.table(np.concatenate(found), self.labels)

    def _blocks(self, texts: Sequence[Text]) -> Iterator[Array]:
        """Yield probabilities, a block of texts at a time, with a bar if there are several."""
        blocks = list(_cut(texts))
        with tqdm(
            total=len(texts), unit="texts", disable=len(blocks) < 2 or not shows_progress()
        ) as bar:
            for start, stop in blocks:
                try:
                    yield self.predictor.predict(texts[start:stop])
                except TextError as error:  # one that only the tokenizer refuses
                    raise ValueError(f"at position {start + error.index}: {error}") from None
                bar.update(stop - start)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, also in other processes, load the bundle from its directory again."""
        name: Any = self.predictor.backend.name
        return _load, (str(self.path), self.predictor.backend.device_kind, name)

    def __repr__(self) -> str:
        return f"<Classifier: {'; '.join(self._facts().values())}>"

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self._facts().items()
        )
        return f"<table>{rows}</table>"

    def _facts(self) -> dict[str, str]:
        """What one wants to know of a classifier, by name."""
        manifest, backend = self.manifest, self.predictor.backend
        kind = "multi-label, " if manifest.task == "multi_label" else ""
        names = ", ".join(shown(label, 40) for label in islice(self.labels, SHOWN_LABELS))
        more = len(self.labels) - SHOWN_LABELS
        below = self.predictor.rules.abstain_below
        return {
            "labels": f"{kind}{len(self.labels)} labels: {names}"
            + (f" and {more} more" if more > 0 else ""),
            "input": f"{' + '.join(manifest.text_columns)}, {manifest.max_length} tokens at most",
            "abstention": "always answers"
            if below is None
            else f"answers from a confidence of {below:.3f}",
            "runs on": f"{backend.device_kind}, {backend.name} {backend.precision}",
            "bundle": f"{self.path} (version {manifest.version})",
        }


def shows_progress() -> bool:
    """Whether somebody sees a bar: in a terminal or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _load(path: str, device: str, backend: BackendName) -> Classifier:
    return Classifier.load(path, device=device, backend=backend)


def _cut(texts: Sequence[Text]) -> Iterator[tuple[int, int]]:
    """Start and end of each block."""
    start = characters = 0
    for stop, text in enumerate(texts):
        if stop - start == BLOCK_TEXTS or characters >= BLOCK_CHARS:
            yield start, stop
            start, characters = stop, 0
        characters += sum(map(len, text)) if isinstance(text, tuple) else len(text)
    if start < len(texts):
        yield start, len(texts)
