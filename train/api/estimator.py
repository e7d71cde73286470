"""`TextClassifier`: training as an estimator of scikit-learn.

X holds texts: a list, an array of shape (N,) or (N, 1), a Series, or a DataFrame with one column;
with two columns, pairs. It works in pipelines, `cross_val_score` and `GridSearchCV`. A fitted
estimator keeps its bundle in a directory; when it is pickled, the bundle is in the pickle.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from serve.classifier.classifier import Classifier
from serve.classifier.inputs import read_texts
from serve.inference.scores import Array
from serve.inference.text import Text
from train.api.settings import set_keys, start_values
from train.api.train import train_on

PAIR = ("text", "text_pair")
"""Names of the columns in the data and the bundle; the first alone unless X has two."""


class TextClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of texts, which is trained and calibrated as `textloop.train` does it.

    base: the pretrained model, as for `textloop.train`; None: the one that is installed.
    method: how it is trained; `probe`, the default, fits the last layer only and takes seconds.
    max_length: most tokens of a text. validation_fraction: rows that are set apart for calibration
    and the choice of a checkpoint, as many of each class as it has of all. config: further keys
    of a run, nested or dotted. output_dir: where the run is kept; None: a temporary directory.
    random_state: seed of initialization, data order and the rows set apart. device: auto, cpu or
    cuda. verbose: print what happens.

    Fitted: `classes_`, the labels in the order of `predict_proba`, and `bundle_`, the directory of
    the bundle, which `textloop serve` takes.
    """

    def __init__(
        self,
        *,
        base: str | None = None,
        method: str = "probe",
        max_length: int = 128,
        validation_fraction: float = 0.1,
        config: Mapping[str, Any] | None = None,
        output_dir: str | Path | None = None,
        random_state: Any = 0,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.base = base
        self.method = method
        self.max_length = max_length
        self.validation_fraction = validation_fraction
        self.config = config
        self.output_dir = output_dir
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Train on texts and one label each. Raises ValueError for what cannot be trained on."""
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        columns, texts = _texts_of(X)
        y = column_or_1d(y, warn=True)
        if len(texts) != len(y):
            raise ValueError(f"X has {len(texts)} texts, y has {len(y)} labels")
        check_classification_targets(y)
        classes, codes_N = np.unique(y, return_inverse=True)
        names = _names_of(classes)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        held_N = held_out(codes_N, self.validation_fraction, seed)
        rows = [
            dict(zip(columns, (text,) if isinstance(text, str) else text, strict=True))
            | {"label": names[code]}
            for text, code in zip(texts, codes_N, strict=True)
        ]
        values = start_values(self.config)
        set_keys(
            values,
            {
                "output_dir": str(self._new_directory()),
                "method": self.method,
                "seed": seed,
                "model.max_length": self.max_length,
                "data.text_columns": list(columns),
            },
        )
        split = {
            "train": [row for row, held in zip(rows, held_N, strict=True) if not held],
            "validation": [row for row, held in zip(rows, held_N, strict=True) if held],
        }
        directory = train_on(
            split,
            values,
            base=self.base,
            device=self.device,
            verbose=self.verbose,
            fresh=True,
            evaluated=False,
        )
        self.classes_ = classes
        self.bundle_ = directory / "bundle"
        self.n_texts_ = len(columns)
        self._load()
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the label of each text, as y had them; none is abstained from."""
        best_N = self.predict_proba(X).argmax(axis=1)
        predicted: NDArray[Any] = self.classes_[best_N]
        return predicted

    def predict_proba(self, X: Any) -> Array:
        """Return probabilities of shape (N, C), columns in the order of `classes_`."""
        check_is_fitted(self)
        columns, texts = _texts_of(X)
        if len(columns) != self.n_texts_:
            raise ValueError(
                f"X has {len(columns)} texts per row, but {type(self).__name__} was fitted with "
                f"{self.n_texts_}"
            )
        found: Array = self._classifier.predict_proba(texts)
        return found[:, self._order_C]

    def _load(self) -> None:
        self._classifier = Classifier.load(self.bundle_, device=self.device)
        labels = self._classifier.labels
        self._order_C = [labels.index(name) for name in _names_of(self.classes_)]

    def _new_directory(self) -> Path:
        return Path(self.output_dir) if self.output_dir is not None else self._temporary() / "run"

    def _temporary(self) -> Path:
        """Make a directory that is removed with this estimator, or when it is fitted again."""
        if (remove := vars(self).get("_remove")) is not None:
            remove()
        directory = Path(tempfile.mkdtemp(prefix="textloop-"))
        self._remove = weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        return directory

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        for name in ("_classifier", "_remove", "_order_C"):
            state.pop(name, None)
        if "bundle_" in state:
            bundle = Path(state.pop("bundle_"))
            files = sorted(path for path in bundle.rglob("*") if path.is_file())
            state["_files"] = {str(path.relative_to(bundle)): path.read_bytes() for path in files}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.pop("_files", None)
        super().__setstate__(state)
        if files is None:
            return
        self.bundle_ = self._temporary() / "bundle"
        for name, content in files.items():
            path = self.bundle_ / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._load()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags


def held_out(codes_N: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return which rows are set apart: of each class the fraction, one row of all at least.

    Each class keeps a row. Raises ValueError if there is no row that can be spared.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation_fraction = {fraction!r}: expected a number between 0 and 1")
    order_N = np.random.default_rng(seed).permutation(len(codes_N))
    held_N = np.zeros(len(codes_N), dtype=bool)
    counts_C = np.bincount(codes_N)
    for code, count in enumerate(counts_C):
        rows = order_N[codes_N[order_N] == code]
        held_N[rows[: min(round(fraction * count), count - 1)]] = True
    if not held_N.any():
        largest = int(counts_C.argmax())
        if counts_C[largest] < 2:
            raise ValueError(
                f"{len(codes_N)} rows (n_samples={len(codes_N)}) with a label each: at least one "
                "label needs two rows, one of them to calibrate on"
            )
        held_N[order_N[codes_N[order_N] == largest][0]] = True
    return held_N


def _names_of(classes_C: NDArray[Any]) -> list[str]:
    """The labels as texts. Raises ValueError for classes that have no text of their own."""
    if len(classes_C) < 2:
        raise ValueError(
            f"the data has one class, {classes_C[0]!r}; a classifier needs two classes"
        )
    names = [str(each).strip() for each in classes_C]
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"the labels {names[:20]} are not all different texts")
    return names


def _texts_of(X: Any) -> tuple[tuple[str, ...], list[Text]]:
    """Column names, and the texts or pairs. Raises TypeError and ValueError as `read_texts`."""
    if isinstance(X, str):
        raise ValueError("X is one text; give a list of texts")
    if type(X).__name__ == "DataFrame":
        X = X.to_numpy()
    width = X.shape[1] if isinstance(X, np.ndarray) and X.ndim == 2 else 1
    if isinstance(X, list | tuple) and X and isinstance(X[0], tuple | list):
        width = len(X[0])
    if width not in (1, 2):
        raise ValueError(f"X has {width} columns; expected one with the text, or two for pairs")
    columns = PAIR[:width]
    if width == 1 and isinstance(X, np.ndarray) and X.ndim == 2:
        X = X[:, 0]
    return columns, read_texts(X, columns).texts
