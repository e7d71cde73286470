"""Rare labels get rows in every split, and no text changes its split when rows are added."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from rows import make_rows, write_jsonl

from train.config.run import RunConfig
from train.data.splits import LabelledData, load_data
from train.data.splitting import split_file
from train.data.splitting.assignment import Assignment, content_key

SPLITS = ("train", "validation", "test")


def load(source: Path | str, run: Path, *, task: str = "single_label", **data: Any) -> LabelledData:
    values = {"output_dir": str(run), "task": task, "data": {"train": str(source)} | data}
    return load_data(RunConfig.model_validate(values | {"model": {"base": "x"}}))


def rare(label: str, count: int, *, first: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"{label} number {n}", "label": label} for n in range(first, first + count)]


def numbers(data: LabelledData, label: str) -> dict[str, int]:
    return {
        name: sum(label in labels for labels in split.labels) for name, split in data.splits.items()
    }


def places(data: LabelledData) -> dict[Any, str]:
    return {text: name for name, split in data.splits.items() for text in split.texts}


def file_of(source: Path) -> Path:
    return source.with_name(f"{source.name}.splits")


def hashed_into(split: str, prefix: str) -> Iterable[str]:
    """Texts that the hash puts into a split."""
    assignment = Assignment(fractions={"validation": 0.1, "test": 0.1})
    texts = (f"{prefix} {n}" for n in range(100_000))
    return (text for text in texts if assignment.by_hash(content_key(text)) == split)


def test_enough_rows_per_label_are_split_by_the_hash_alone_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", make_rows(300, seed=1))

    data = load(source, tmp_path / "run")

    assignment = Assignment(fractions={"validation": 0.1, "test": 0.1})
    assert all(assignment.by_hash(content_key(t)) == name for t, name in places(data).items())
    assert not file_of(source).exists()
    assert data.notes == ()


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (3, 0, 0)), (4, (3, 0, 1)), (5, (3, 1, 1))],
)
def test_rare_label_gets_a_test_row_from_four_texts_and_a_validation_row_from_five(
    tmp_path: Path, count: int, expected: tuple[int, ...]
) -> None:
    texts = [text for text, _ in zip(hashed_into("train", "few"), range(count), strict=False)]
    rows = [{"text": text, "label": "few"} for text in texts]
    source = write_jsonl(tmp_path / "a.jsonl", make_rows(300, seed=1) + rows)

    data = load(source, tmp_path / "run")

    assert tuple(numbers(data, "few").values()) == expected
    assert file_of(source).exists()
    said = "1 labels have no test rows, so nothing will be known of how well they are recognised"
    assert (f"{said}: 'few'" in data.notes) == (count < 4)


def test_lowest_hash_is_moved_whatever_the_order_of_the_rows(tmp_path: Path) -> None:
    texts = [text for text, _ in zip(hashed_into("train", "few"), range(9), strict=False)]
    rows = make_rows(300, seed=1) + [{"text": text, "label": "few"} for text in texts]
    first = load(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path / "1")
    random.Random(0).shuffle(rows)
    second = load(write_jsonl(tmp_path / "b.jsonl", rows), tmp_path / "2")

    lowest = sorted(texts, key=content_key)
    assert places(first) == places(second)
    assert [places(first)[text] for text in lowest[:3]] == ["test", "validation", "train"]


def test_every_old_row_keeps_its_split_when_rows_and_labels_are_added(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    rows = make_rows(200, seed=1) + rare("few", 3) + rare("some", 6)
    before: dict[Any, str] = {}
    for step in range(5):
        write_jsonl(source, rows)
        data = load(source, tmp_path / str(step))
        after = places(data)
        assert before.items() <= after.items()
        assert all(numbers(data, "some").values())
        before = after
        rows = (
            make_rows(50, seed=50 + step)
            + rows
            + rare("few", 2, first=3 + 2 * step)
            + rare("some", 9, first=6 + 9 * step)
            + rare(f"new {step}", 7)
        )
    assert all(numbers(data, "few").values())
    assert all(numbers(data, "new 2").values())


def test_without_the_file_a_text_of_test_would_be_lost(tmp_path: Path) -> None:
    """What the file is for: a text of the label that the hash puts into test is added later."""
    in_train, in_test = (iter(hashed_into(name, "few")) for name in ("train", "test"))
    rows = [{"text": next(in_train), "label": "few"} for _ in range(6)]
    source = write_jsonl(tmp_path / "a.jsonl", make_rows(200, seed=1) + rows)
    (moved,) = {t for t, name in places(load(source, tmp_path / "1")).items() if name == "test"} & {
        row["text"] for row in rows
    }
    rows.append({"text": next(in_test), "label": "few"})
    write_jsonl(source, make_rows(200, seed=1) + rows)

    assert places(load(source, tmp_path / "2"))[moved] == "test"
    file_of(source).unlink()
    assert places(load(source, tmp_path / "3"))[moved] != "test"


def test_runs_with_other_directories_see_the_same_rows(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", make_rows(100, seed=1) + rare("few", 6))

    first = load(source, tmp_path / "1")
    file = file_of(source).read_bytes()
    second = load(source, tmp_path / "2")

    assert first.fingerprints == second.fingerprints
    assert file_of(source).read_bytes() == file
    assert b"few" not in file


def test_copies_of_a_moved_text_move_with_it(tmp_path: Path) -> None:
    few = rare("few", 6)
    copies = [{**row, "text": f" {row['text'].upper()}"} for row in few]
    source = write_jsonl(tmp_path / "a.jsonl", make_rows(100, seed=1) + few + copies)

    data = load(source, tmp_path / "run")

    assert all(numbers(data, "few").values())
    assert len({content_key(text) for text in places(data)}) == len(
        {(content_key(text), name) for text, name in places(data).items()}
    )


def test_pairs_and_multi_label_rows_are_moved_without_a_loss_in_train(tmp_path: Path) -> None:
    rows = make_rows(200, seed=1, columns=2, multi=True)
    rows += [
        {"text": f"x {n}", "text_pair": "y", "label": ["few", "billing", f"single {n}"]}
        for n in range(5)
    ]
    rows += [{"text": f"z {n}", "text_pair": "y", "label": ["few", "login"]} for n in range(5)]
    source = write_jsonl(tmp_path / "a.jsonl", rows)

    columns = ["text", "text_pair"]
    data = load(source, tmp_path / "run", task="multi_label", text_columns=columns)

    assert all(numbers(data, "few").values())
    for n in range(5):
        assert numbers(data, f"single {n}") == {"train": 1, "validation": 0, "test": 0}


def test_only_the_splits_without_a_source_get_rows(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", make_rows(100, seed=1) + rare("few", 6))
    test = write_jsonl(tmp_path / "test.jsonl", make_rows(20, seed=2))

    data = load(source, tmp_path / "run", test=str(test))

    assert numbers(data, "few") == {"train": 5, "validation": 1, "test": 0}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[:-40], "is damaged or no file of splits"),
        (lambda text: text.replace('"test"', '"train"'), "is damaged or was edited"),
        (lambda text: '{"a": 1}', "is damaged or no file of splits"),
        (lambda text: "text,label\na,b\n", "is damaged or no file of splits"),
        (lambda text: text.replace("splits 1", "splits 9"), "is damaged or no file of splits"),
        (lambda text: text.replace(': "test"', ': "dev"'), "is damaged or no file of splits"),
    ],
)
def test_damaged_or_foreign_file_is_refused_and_left_as_it_is(
    tmp_path: Path, spoil: Any, message: str
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", make_rows(100, seed=1) + rare("few", 6))
    load(source, tmp_path / "1")
    spoilt = spoil(file_of(source).read_text())
    file_of(source).write_text(spoilt)

    with pytest.raises(ValueError, match=message):
        load(source, tmp_path / "2")
    assert file_of(source).read_text() == spoilt


def test_named_file_of_other_data_is_refused(tmp_path: Path) -> None:
    rows = make_rows(100, seed=1)
    source = write_jsonl(tmp_path / "a.jsonl", rows + rare("few", 6))
    other = write_jsonl(tmp_path / "b.jsonl", rows + rare("many", 6))
    kept = str(tmp_path / "kept.splits")
    load(source, tmp_path / "1", split_file=kept)

    with pytest.raises(ValueError, match=r"records none of the texts of data.train"):
        load(other, tmp_path / "2", split_file=kept)


def test_other_fractions_than_the_recorded_ones_are_refused(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", make_rows(100, seed=1) + rare("few", 6))
    load(source, tmp_path / "1")

    with pytest.raises(ValueError, match=r"now they would be made by .*test_fraction=0.3"):
        load(source, tmp_path / "2", test_fraction=0.3)
    anew = load(
        source, tmp_path / "2", test_fraction=0.3, split_file=str(tmp_path / "other.splits")
    )
    assert len(anew.test) > 15


def test_source_without_a_place_of_its_own_is_split_alike_and_said(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", make_rows(100, seed=1) + rare("few", 6))

    local = load(source, tmp_path / "1")
    url = load(f"file://{source}", tmp_path / "2")
    kept = tmp_path / "kept.splits"
    named = load(f"file://{source}", tmp_path / "3", split_file=str(kept))

    assert local.fingerprints == url.fingerprints == named.fingerprints
    assert any("set data.split_file to keep them there when rows are added" in n for n in url.notes)
    assert kept.exists()


def test_read_only_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", make_rows(100, seed=1) + rare("few", 6))

    def refuse(path: Path, data: bytes) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(split_file, "write_atomic", refuse)
    data = load(source, tmp_path / "run")

    assert any("cannot be written: Permission denied; set data.split" in n for n in data.notes)


def test_named_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", make_rows(100, seed=1) + rare("few", 6))

    with pytest.raises(ValueError, match=r"data.split_file: cannot write .*: No such file"):
        load(source, tmp_path / "run", split_file=str(tmp_path / "none" / "x.splits"))


def test_split_file_without_a_split_to_make_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="so that nothing is split; remove it"):
        load("a", tmp_path, validation="b", test="c", split_file="x")


def test_fix_of_a_recorded_test_row_is_one_of_the_test_split(tmp_path: Path) -> None:
    texts = [text for text, _ in zip(hashed_into("train", "few"), range(6), strict=False)]
    rows = make_rows(200, seed=1) + [{"text": text, "label": "few"} for text in texts]
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    data = load(source, tmp_path / "1")
    moved = sorted(texts, key=content_key)[0]
    assert places(data)[moved] == "test"
    from train.data.fixes import Fix, row_hash, write_fixes

    number = 201 + texts.index(moved)
    fix = Fix(action="drop", source="train", row=number, sha256=row_hash(moved, ("few",)))
    write_fixes(tmp_path / "fixes.jsonl", [fix])

    with pytest.raises(ValueError, match="changes 1 rows of the test split"):
        load(source, tmp_path / "2", fixes=str(tmp_path / "fixes.jsonl"))


def test_texts_in_two_splits_are_said(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [*make_rows(100, seed=1), *rare("few", 2)])
    copied = [{"text": " FEW number  0", "label": "few"}, *make_rows(20, seed=2)]
    test = write_jsonl(tmp_path / "test.jsonl", copied)

    said = [n for n in load(source, tmp_path / "run", test=str(test)).notes if "are also in" in n]

    assert len(said) == 1
    assert said[0].startswith("1 texts of test are also in train or validation")


def test_split_file_is_one_object_that_git_can_compare(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", make_rows(100, seed=1) + rare("few", 6))
    load(source, tmp_path / "run")

    lines = file_of(source).read_text().splitlines()

    assert json.loads("".join(lines))["fractions"] == {"validation": 0.1, "test": 0.1}
    assert len(lines) > 6 + 5
