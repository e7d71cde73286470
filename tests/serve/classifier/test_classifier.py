"""A classifier takes texts of any form, and answers in that form."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from altered import abstention, calibrated

from serve.classifier import classifier as module
from serve.classifier.classifier import Classifier
from serve.inference.predictor import Predictor

TEXTS = ["where is my parcel", "my password is locked", "the invoice has a wrong amount"]
PAIRS = [("where is my parcel", "it is late"), ("my password", "is locked")]

Bundles = Callable[[str], Path]


@pytest.fixture(scope="module")
def single(bundles: Bundles) -> Classifier:
    return Classifier.load(bundles("single"), device="cpu")


@pytest.fixture(scope="module")
def multi(bundles: Bundles) -> Classifier:
    return Classifier.load(bundles("multi"), device="cpu")


@pytest.fixture(scope="module")
def pair(bundles: Bundles) -> Classifier:
    return Classifier.load(bundles("pair"), device="cpu")


def test_a_text_gives_a_label_and_a_list_gives_a_list(single: Classifier) -> None:
    labels = single.predict(TEXTS)

    assert labels == [single.predict(text) for text in TEXTS]
    assert set(labels) <= set(single.labels)
    assert single.predict(iter(TEXTS)) == labels
    assert single.predict({"text": TEXTS[0], "id": 3}) == labels[0]
    assert single.predict([]) == []
    assert single.predict_proba([]).shape == (0, len(single.labels))


def test_probabilities_are_those_of_the_predictor(single: Classifier) -> None:
    expected_NC = single.predictor.predict(TEXTS)

    assert single.predict_proba(TEXTS).tolist() == expected_NC.tolist()
    assert single.predict_proba(TEXTS[0]).shape == (len(single.labels),)
    best_N = [single.labels[column] for column in expected_NC.argmax(axis=1)]
    assert single.predict(TEXTS) == best_N


def test_pandas_keep_their_index(single: Classifier) -> None:
    frame = pd.DataFrame({"id": [7, 8, 9], "text": TEXTS}, index=[30, 10, 10])

    for given in (frame, frame["text"]):
        found = single.predict(given)
        assert found.index.tolist() == [30, 10, 10]
        assert found.tolist() == single.predict(TEXTS)
        table = single.predict_proba(given)
        assert table.index.tolist() == [30, 10, 10]
        assert list(table.columns) == single.labels
    assert frame.assign(label=single.predict(frame))["label"].tolist() == single.predict(TEXTS)
    assert single.predict(frame[:0]).tolist() == []


def test_polars_and_arrays_come_back_as_such(single: Classifier) -> None:
    frame = pl.DataFrame({"text": TEXTS})

    assert single.predict(frame).to_list() == single.predict(TEXTS)
    assert single.predict(frame["text"]).to_list() == single.predict(TEXTS)
    assert single.predict_proba(frame).columns == single.labels
    array = single.predict(np.array(TEXTS))
    assert isinstance(array, np.ndarray)
    assert array.tolist() == single.predict(TEXTS)


def test_multi_label_gives_lists_of_labels(multi: Classifier) -> None:
    found = multi.predict([*TEXTS, TEXTS[0]])

    assert all(isinstance(each, list) for each in found)
    assert multi.predict(np.array(TEXTS)).tolist() == found[:3]
    assert multi.predict(pd.Series(TEXTS)).tolist() == found[:3]
    decided_NC = multi.predictor.rules.decide(multi.predict_proba(TEXTS)).predicted_NC
    expected = [[multi.labels[column] for column in np.flatnonzero(row)] for row in decided_NC]
    assert found[:3] == expected


def test_pairs_are_tuples_rows_or_two_columns(pair: Classifier) -> None:
    first, second = zip(*PAIRS, strict=True)
    columns = dict(zip(pair.manifest.text_columns, (first, second), strict=True))
    labels = pair.predict(PAIRS)

    assert labels == [pair.predict(each) for each in PAIRS]
    assert pair.predict(np.array(PAIRS)).tolist() == labels
    assert pair.predict([list(each) for each in PAIRS]) == labels
    assert pair.predict(pd.DataFrame(columns)).tolist() == labels
    with pytest.raises(TypeError, match="at position 1: expected a pair of texts, got str 'alone'"):
        pair.predict([PAIRS[0], "alone"])
    with pytest.raises(TypeError, match="at position 0: second text: expected a string, got int 5"):
        pair.predict([("a", 5)])


MISSING = "at position 1: expected a string, got a missing value"
WRONG: list[tuple[Any, type[Exception], str]] = [
    (None, TypeError, "expected a text or a list.*missing value"),
    (5, TypeError, "expected a text or a list.*got int 5"),
    (b"parcel", TypeError, "got bytes b'parcel'; decode them first"),
    ({"a", "b"}, TypeError, "expected a text or a list"),
    ("", ValueError, "the text is empty"),
    (["a", None], TypeError, MISSING),
    (["a", float("nan")], TypeError, MISSING),
    (["a", pd.NA], TypeError, MISSING),
    (pl.Series(["a", None]), TypeError, MISSING),
    (["a", b"b"], TypeError, "at position 1: expected a string, got bytes b'b'; decode"),
    (["a", 2], TypeError, "at position 1: expected a string, got int 2"),
    (["a", ["b"]], TypeError, r"at position 1: expected a string, got list \['b'\]"),
    (["a", " \n"], ValueError, "at position 1: the text is empty"),
    (["a", "\ud800"], ValueError, "at position 1: not valid Unicode"),
    (pd.Series(["a", None], index=["p", "q"]), TypeError, r"at position 1 \(index 'q'\): expected"),
    (pd.DataFrame({"Text": ["a"]}), ValueError, "no column `text`.*did you mean `Text`"),
    ({"txt": "a"}, ValueError, "the row has no `text`, only txt"),
    (np.zeros(2), TypeError, "at position 0: expected a string, got float"),
    (np.array([["a", "b"]]), TypeError, r"has the shape \(N,\); this one has \(1, 2\)"),
]


@pytest.mark.parametrize(("given", "kind", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_text_is_named_with_its_position(
    given: Any, kind: type[Exception], message: str, single: Classifier
) -> None:
    for call in (single.predict, single.predict_proba):
        with pytest.raises(kind, match=message):
            call(given)


def test_a_text_that_only_the_tokenizer_refuses_has_its_position_too(
    single: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve.inference.text import TextError

    def refuse(texts: list[str]) -> Any:
        raise TextError(0, "too long")

    monkeypatch.setattr(module, "BLOCK_TEXTS", 2)
    predict = single.predictor.predict
    monkeypatch.setattr(
        single.predictor, "predict", lambda texts: (refuse if "bad" in texts else predict)(texts)
    )
    with pytest.raises(ValueError, match="at position 2: too long"):
        single.predict(["a", "b", "bad"])


def test_blocks_bound_what_is_tokenized_at_once(
    single: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_TEXTS", 4)
    monkeypatch.setattr(module, "BLOCK_CHARS", 60)
    sizes, predict = [], single.predictor.predict

    def counting(texts: list[str]) -> Any:
        sizes.append(len(texts))
        return predict(texts)

    monkeypatch.setattr(single.predictor, "predict", counting)
    texts = ["parcel"] * 9 + ["my parcel is late " * 4] * 3

    assert single.predict_proba(texts).shape[0] == 12
    assert sum(sizes) == 12
    assert max(sizes) <= 4
    assert sizes[-2:] == [1, 1]


def test_abstention_gives_none_and_can_be_asked_for(
    single: Classifier, bundles: Bundles, tmp_path: Path
) -> None:
    below = {"torch": abstention(1.0), "onnx": abstention(1.0)}
    unsure = Classifier.load(calibrated(bundles("single"), tmp_path, abstention=below))

    assert unsure.predict(TEXTS[0]) is None
    assert unsure.predict(pd.Series(TEXTS)).tolist() == [None] * 3
    assert unsure.predict(TEXTS, abstain=False) == single.predict(TEXTS)
    assert "answers from a confidence of 1.000" in repr(unsure)
    with pytest.raises(ValueError, match="no abstention threshold; merge it again"):
        single.predict(TEXTS, abstain=True)


def test_copies_load_the_bundle_again(single: Classifier) -> None:
    for again in (pickle.loads(pickle.dumps(single)), copy.deepcopy(single)):
        assert again.predict_proba(TEXTS).tolist() == single.predict_proba(TEXTS).tolist()


def test_it_says_what_it_is(single: Classifier) -> None:
    assert repr(single).startswith(f"<Classifier: 3 labels: {', '.join(single.labels)}; text, 32")
    assert "<td style='text-align:left'>cpu, onnx" in single._repr_html_()


def test_the_predictor_refuses_a_single_text(single: Classifier) -> None:
    predictor: Predictor = single.predictor
    with pytest.raises(TypeError, match="expected a list of texts, got one text"):
        predictor.predict("hello")
    assert predictor.predict([]).shape == (0, 3)
