"""`serve predict` ends every mistake and failure in one line, before the work where it can."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import ROOT, run
from rows import make_rows, write_jsonl

from serve.__main__ import main
from serve.inference.predictor import Predictor
from serve.predict_file import BLOCK_ROWS
from serve.tables import read_rows

Bundles = Callable[[str], Path]


@pytest.fixture
def command(bundles: Bundles, tmp_path: Path) -> list[str]:
    """A call that works, with --output last."""
    source = write_jsonl(tmp_path / "in.jsonl", make_rows(BLOCK_ROWS + 10, seed=3))
    call = ["predict", "--bundle", str(bundles("single")), "--device", "cpu"]
    return [*call, "--input", str(source), "--output", str(tmp_path / "out.jsonl")]


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only line on stderr."""
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    return errors


MISTAKES = {
    "no texts in a batch": (["--batch-size", "0"], "--batch-size 0: give at least 1 text"),
    "negative batch": (["--batch-size", "-1"], "--batch-size -1: give at least 1 text"),
    "unknown encoding": (["--encoding", "latin0"], "--encoding latin0: no encoding of that name"),
    "two delimiters": (["--delimiter", ";;"], "--delimiter ;;: expected one character"),
    "no room for a row": (["--max-row-mb", "0"], "--max-row-mb 0: give at least 1 MB"),
    "unknown device": (["--device", "mps"], "--device mps: expected auto, cpu, cuda or cuda:N"),
    "device without number": (["--device", "cuda:"], "--device cuda:: expected auto"),
    "no input": (["--input", "none.jsonl"], "no input file at `none.jsonl`"),
    "input is a directory": (["--input", "/tmp"], "/tmp`"),
    "output is a directory": (["--output", "made.jsonl"], "made.jsonl` is a directory"),
    "output is a device": (["--output", "pipe.jsonl"], "pipe.jsonl` is not a file"),
    "output without format": (["--output", "-"], "`-`: unknown format"),
    "parent is a file": (["--output", "file/a/out.csv"], "file` is not a directory"),
    "output is the input": (["--output", "hard link.jsonl"], "is both input and output"),
    "name too long": (["--output", "n" * 300 + ".csv"], "file name too long: `"),
}


@pytest.mark.parametrize(("given", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_one_line_before_the_model_is_loaded(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(Predictor, "load")
    Path("made.jsonl").mkdir()
    Path("file").touch()
    os.mkfifo("pipe.jsonl")
    os.link("in.jsonl", "hard link.jsonl")

    assert main([*command, *given]) == 2

    assert message in one_error(capsys)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--output", "/proc/none/out.jsonl"], "no such file or directory: `/proc/none`"),
        (["--output", "n" * 248 + ".jsonl"], "file name too long: `"),
        (["--text-columns", ""], "has no column ``, only text, label"),
        (["--text-columns", "text,label"], "names 2 columns, the model takes 1"),
    ],
)
def test_mistake_is_one_line_before_rows_are_classified(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(Predictor, "logits")

    assert main([*command, *given]) == 2

    assert message in one_error(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_full_disk_is_one_line_and_the_same_command_goes_on(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 4:  # after the first line, its directory and the first block
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    assert main(command) == 1
    full = one_error(capsys)
    monkeypatch.undo()

    assert main(command) == 0

    assert full.endswith(f"the same command goes on from row {BLOCK_ROWS + 1}\n")
    assert full.startswith("error: no space left on device; ")
    assert f"({BLOCK_ROWS + 10} from an earlier run, 0 failed)" in capsys.readouterr().out


def test_output_that_cannot_take_its_place_is_one_line_and_the_rows_are_kept(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(command[-1])
    logits = Predictor.logits

    def meanwhile(self: Predictor, encodings: Any) -> Any:
        output.mkdir(exist_ok=True)
        return logits(self, encodings)

    monkeypatch.setattr(Predictor, "logits", meanwhile)
    assert main(command) == 2
    assert one_error(capsys).endswith("the same command writes the output\n")
    output.rmdir()
    monkeypatch.delattr(Predictor, "logits")

    assert main(command) == 0

    assert len(list(read_rows(output))) == BLOCK_ROWS + 10


def test_logits_that_are_not_finite_are_one_line_and_no_answer(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def damaged(self: Predictor, encodings: Any) -> Any:
        raise FloatingPointError("the model returned logits that are not finite")

    monkeypatch.setattr(Predictor, "logits", damaged)

    assert main(command) == 2

    assert "logits that are not finite" in one_error(capsys)
    assert not Path(command[-1]).exists()


def test_replaced_output_and_input_without_rows_are_said(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(command[-1]).write_text("of yesterday")
    (tmp_path / "in.jsonl").write_text("")

    assert main(command) == 0

    notes = capsys.readouterr().err.splitlines()
    assert notes == [
        f"note: {command[-1]} exists and will be replaced",
        f"note: {tmp_path / 'in.jsonl'} has no rows",
    ]
    assert Path(command[-1]).read_text() == ""


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_standard_streams_may_be_closed(command: list[str], tmp_path: Path, closed: int) -> None:
    call = [sys.executable, "-m", "serve", *command]

    done = subprocess.run(
        call, cwd=ROOT, capture_output=True, text=True, preexec_fn=lambda: os.close(closed)
    )

    assert done.returncode == 0, done.stderr
    assert len(list(read_rows(tmp_path / "out.jsonl"))) == BLOCK_ROWS + 10


def test_long_texts_are_tokenized_a_few_at_a_time(bundles: Bundles, tmp_path: Path) -> None:
    """A thousand texts of 20,000 characters at once took over a gigabyte."""
    text = "parcel invoice password charge " * 640
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": text}] * 600)
    code = (
        "import re, sys; from serve.__main__ import main; code = main(sys.argv[1:]);"
        "status = open('/proc/self/status').read();"
        "print(int(re.search('VmHWM:\\\\s+(\\\\d+)', status)[1]) // 1024); sys.exit(code)"
    )

    done = run(
        *("-c", code, "predict", "--bundle", bundles("single")),
        *("--input", source, "--output", tmp_path / "out.jsonl"),
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 300


@pytest.mark.slow
def test_memory_check_passes_and_fails_by_its_limit(bundles: Bundles) -> None:
    check = (ROOT / "scripts" / "check_memory", "--bundle", bundles("single"), "--rows", 4000)

    passed = run(*check, "--limit-mb", 350)
    failed = run(*check, "--kinds", "short", "--no-server", "--limit-mb", 20)

    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "within the bound of 350 MB" in passed.stdout
    assert failed.returncode == 1
    assert "OVER the bound of 20 MB" in failed.stdout


def test_a_file_in_another_encoding_is_read_with_the_option_that_the_error_names(
    bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_bytes("id;text\n1;Grüße, my parcel\n".encode("cp1252"))
    call = ["predict", str(bundles("single")), "--input", str(source), "--output", str(output)]

    assert main(call) == 2
    assert "set --encoding=cp1252" in one_error(capsys)
    assert main([*call, "--encoding=cp1252"]) == 0
    assert [row["text"] for row in read_rows(output)] == ["Grüße, my parcel"]


def test_a_file_without_a_header_is_read_with_names_for_its_columns(
    bundles: Bundles, tmp_path: Path
) -> None:
    (source := tmp_path / "in.csv").write_text("1|my parcel\n2|a refund\n")
    output = tmp_path / "out.jsonl"
    call = ["predict", str(bundles("single")), "--input", str(source), "--output", str(output)]

    assert main([*call, "--column-names", "id,text", "--delimiter", "|"]) == 0
    assert [row["text"] for row in read_rows(output)] == ["my parcel", "a refund"]


def test_rows_that_were_read_otherwise_are_not_taken_up(
    bundles: Bundles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (source := tmp_path / "in.csv").write_text("id,text\n1,Grüße\n")
    output = tmp_path / "out.jsonl"
    call = ["predict", str(bundles("single")), "--input", str(source), "--output", str(output)]
    with monkeypatch.context() as stopped:
        stopped.setattr("serve.predict_file._join", _interrupt)
        main(call)
    capsys.readouterr()

    assert main([*call, "--encoding", "latin-1"]) == 2
    assert "different way of reading" in capsys.readouterr().err
    assert main(call) == 0


def test_rows_that_an_option_read_are_not_taken_up_without_it(
    bundles: Bundles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (source := tmp_path / "in.csv").write_text("id,text\n1,Grüße\n")
    output = tmp_path / "out.jsonl"
    call = ["predict", str(bundles("single")), "--input", str(source), "--output", str(output)]
    with monkeypatch.context() as stopped:
        stopped.setattr("serve.predict_file._join", _interrupt)
        main([*call, "--encoding", "latin-1"])
    capsys.readouterr()

    assert main(call) == 2
    assert "different way of reading" in capsys.readouterr().err


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_file_stands_for_the_input_and_names_the_output(
    bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", make_rows(12, seed=3))

    assert main(["predict", str(source), str(bundles("single")), "--device", "cpu"]) == 0

    assert "new.labelled.jsonl" in capsys.readouterr().out
    rows = list(read_rows(tmp_path / "new.labelled.jsonl"))
    assert [{"text", "predicted_label"} <= set(row) for row in rows] == [True] * 12
    assert main(["predict", str(bundles("single"))]) == 2
    assert "name the file to classify: textloop predict FILE" in capsys.readouterr().err
