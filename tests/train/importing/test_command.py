"""`textloop import`: exit codes, wrong arguments, what is printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serve.bundle.seal import open_bundle
from tests.train.importing.checkpoints import edit
from tests.train.importing.conftest import run


def test_the_summary_says_what_was_imported_and_what_is_next(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(make(), "--output", tmp_path / "b", "--label-map", "neutral=so so")

    printed = capsys.readouterr().out
    manifest = open_bundle(tmp_path / "b").manifest
    assert code == 0
    assert "imported source: single_label, texts of at most 64 tokens" in printed
    assert "3 labels: 'negative', 'so so', 'positive'" in printed
    assert "largest logit difference to the stock pipeline on " in printed
    assert "int8 export for CPUs skipped: the model was imported without texts" in printed
    assert f"sealed {tmp_path / 'b'}, version {manifest.version}" in printed
    assert f"next: textloop serve {tmp_path / 'b'}" in printed


def test_a_refusal_exits_with_1_and_leaves_nothing(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = edit(make(), id2label={"0": "score"}, label2id=None)

    assert run(source, "--output", tmp_path / "out" / "b") == 1

    assert capsys.readouterr().out.startswith("refused: `source` is a regression model")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label-column", "label"], "--label-column is about --texts"),
        (["--max-texts", "5"], "--max-texts is about --texts"),
        (["--label-separator", ";"], "--label-separator is about --label-column"),
        (["calibration.max_risk=0.1"], "a calibration is fitted with labels only"),
        (["--texts", "no.csv"], "there is no file `no.csv`"),
        (["--text-columns", "a,b,c"], "expected one name, or two for text pairs"),
        (["--text-columns", "a,a"], "expected one name, or two"),
        (["--labels", "a,b"], "--labels gives 2 names, `source` has 3 labels"),
        (["--labels", "names.txt"], "there is no file `names.txt` with label names"),
        (["--label-map", "a"], "expected OLD=NEW"),
        (["--max-length", "1"], "at least 4 tokens"),
        (["--max-weights-gb", "0"], "expected more than 0"),
        (["--wrong"], "unrecognized arguments: --wrong"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], message: str, make: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(make(), "--output", tmp_path / "b", *arguments)

    assert not (tmp_path / "b").exists()


def test_nothing_is_replaced_and_nothing_written_into_the_source(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("mine")

    with pytest.raises(ValueError, match="exists; remove it first"):
        run(source, "--output", tmp_path / "b")
    with pytest.raises(ValueError, match="inside the source"):
        run(source, "--output", source / "bundle")
