"""Label names come from the model or from the user, and none is made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.train.importing.checkpoints import edit
from tests.train.importing.conftest import bring, refusal_of, run
from train.importing.labels import Naming, labels_of, read_names, task_of

THREE = {"0": "a", "1": "b", "2": "c"}


def named(config: dict[str, Any], *, labels: tuple[str, ...] = (), **renames: str) -> Any:
    return labels_of(config, "m", Naming(labels=labels, renames=renames))


def test_keys_may_be_in_any_order() -> None:
    assert named({"id2label": {"2": "c", "0": "a", "1": "b"}})[0] == ("a", "b", "c")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"0": "a", "2": "c"}, "no name for class 1"),
        ({"0": "a", "1": "b", "2": "a"}, "labels 0 and 2 of `m` have the same name, 'a'"),
        ({"0": "a", "1": " a"}, "have the same name"),
        ({"0": "a\nb", "1": "c"}, "line break"),
        ({"0": "a\x1bb", "1": "c"}, "control character"),
        ({"0": "", "1": "c"}, "the text is empty"),
        ({"0": "a", "1": None}, "no name for class 1"),
        ({"zero": "a", "1": "b"}, "which is no number"),
        ({"0": "a", "1": "\ud800"}, "lone surrogate"),
        ({}, "has no labels"),
        (["a", "b"], "is no object"),
    ],
)
def test_names_that_no_answer_can_hold_are_refused_with_the_remedy(
    names: Any, message: str
) -> None:
    with pytest.raises(ValueError, match="--labels") as caught:
        named({"id2label": names})

    assert message in str(caught.value)


def test_white_space_around_names_is_removed_and_said() -> None:
    labels, notes = named({"id2label": {"0": "a\n", "1": "b"}})

    assert labels == ("a", "b")
    assert "white space around 1 label names removed" in notes


def test_numbered_labels_are_said() -> None:
    _, notes = named({"num_labels": 3})

    assert "the labels have no names, only 'LABEL_0', 'LABEL_1', 'LABEL_2'" in notes[0]
    assert "--labels" in notes[0]


def test_given_names_replace_all_and_must_be_as_many() -> None:
    assert named({"id2label": THREE}, labels=("x", "y", "z"))[0] == ("x", "y", "z")
    with pytest.raises(ValueError, match="--labels gives 2 names, `m` has 3 labels"):
        named({"id2label": THREE}, labels=("x", "y"))


def test_one_label_is_renamed_and_a_wrong_name_is_answered_with_the_right_one() -> None:
    assert named({"id2label": THREE}, a="angry")[0] == ("angry", "b", "c")
    with pytest.raises(ValueError, match=r"no label .LABEL_O.\W.*did you mean `LABEL_\d"):
        named({"num_labels": 2}, LABEL_O="x")
    with pytest.raises(ValueError, match="same name, 'b'"):
        named({"id2label": THREE}, a="b")


def test_a_file_of_names_has_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("\ufefffirst one\nsecond, with comma\r\nthird\n\n", encoding="utf-8")

    assert read_names(str(file)) == ("first one", "second, with comma", "third")
    assert read_names("a, b,c") == ("a", "b", "c")
    with pytest.raises(ValueError, match="no file"):
        read_names(str(tmp_path / "missing.txt"))


def test_label2id_that_contradicts_is_said() -> None:
    _, notes = named({"id2label": THREE, "label2id": {"a": 1, "b": 0, "c": 2}})

    assert notes == ("label2id calls 'a' class 1, id2label class 0; id2label decides",)


@pytest.mark.parametrize(
    "config",
    [
        {"id2label": {"0": "x"}},
        {"problem_type": "regression", "id2label": THREE},
        {"num_labels": 1},
    ],
)
def test_regression_is_refused_by_name(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is a regression model"):
        task_of(config, "m", None)


def test_another_activation_than_the_stock_pipelines_must_be_settled() -> None:
    config = {"function_to_apply": "sigmoid", "id2label": THREE}
    with pytest.raises(ValueError, match="--task multi_label"):
        task_of(config, "m", None)
    assert task_of(config, "m", "multi_label") == "multi_label"
    assert task_of(config | {"function_to_apply": "softmax"}, "m", None) == "single_label"


def test_a_head_of_another_number_of_labels_is_refused_with_both_numbers(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = edit(make(), id2label={"0": "a", "1": "b"}, label2id=None)

    message = refusal_of(source, tmp_path / "bundle")

    assert "2 labels in its config.json" in message
    assert "`classifier.weight` in its weights has 3 rows" in message


def test_a_checkpoint_without_names_takes_those_that_are_given(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = edit(make(), id2label=None, label2id=None)

    assert run(source, "--output", tmp_path / "bundle", "--labels", "x,y,z") == 0
    assert "2 labels" in refusal_of(source, tmp_path / "other")  # what transformers assumes


def test_two_thousand_labels(make: Callable[..., Path], tmp_path: Path) -> None:
    labels = tuple(f"label {number}" for number in range(2000))

    assert bring(make(labels=labels), tmp_path / "bundle").bundle.manifest.labels == labels
