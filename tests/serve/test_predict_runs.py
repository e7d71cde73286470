"""Runs of `serve predict` that are stopped, repeated or started twice give the same output."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import ROOT, wait_for
from rows import make_rows, write_jsonl

from serve.inference.predictor import Predictor
from serve.journal import open_journal
from serve.predict_file import BLOCK_ROWS, Stopped, predict_file
from serve.tables import read_rows

Bundles = Callable[[str], Path]


@pytest.fixture(scope="module")
def predictor(bundles: Bundles) -> Predictor:
    return Predictor.load(bundles("single"), device="cpu")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Rows of three blocks, the last one short."""
    return write_jsonl(tmp_path / "in.jsonl", make_rows(2 * BLOCK_ROWS + 50, seed=8))


def start(bundle: Path, source: Path, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "serve", "predict", "--bundle", str(bundle)]
    return subprocess.Popen(
        [*command, "--input", str(source), "--output", str(output)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupted(
    predictor: Predictor, source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Run until one block is in the journal; return the journal."""

    def interrupt(self: Predictor, encodings: Any) -> Any:
        if journal.read_bytes().count(b"\n") > 1:
            raise InterruptedError("test")
        return logits(self, encodings)

    logits = Predictor.logits
    journal = output.with_name(f"{output.name}.partial")
    monkeypatch.setattr(Predictor, "logits", interrupt)
    with pytest.raises(Stopped, match=f"goes on from row {BLOCK_ROWS + 1}"):
        predict_file(predictor, source, output, text_columns=("text",))
    monkeypatch.undo()
    return journal


def outcome(run: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a run; return its exit code and its messages."""
    _, errors = run.communicate(timeout=120)
    return run.returncode, errors


def test_overlapping_runs_that_are_killed_leave_no_wrong_row(
    bundles: Bundles, predictor: Predictor, tmp_path: Path
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", make_rows(12 * BLOCK_ROWS, seed=8))
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    predict_file(predictor, source, whole, text_columns=("text",))
    journal = tmp_path / "out.jsonl.partial"

    runs = [start(bundles("single"), source, output) for _ in range(2)]
    wait_for(lambda: journal.exists() and journal.stat().st_size > 200_000, seconds=60)
    for run in runs:
        run.kill()
    ends = [outcome(run) for run in runs]
    last = outcome(start(bundles("single"), source, output))

    refused = [errors for code, errors in ends if code == 2]
    assert all("another run is working on" in errors for errors in refused)
    assert last == (0, "")
    assert output.read_bytes() == whole.read_bytes()
    assert not journal.exists()


@pytest.mark.slow
def test_overlapping_runs_killed_at_50_random_moments_leave_no_wrong_row(
    bundles: Bundles, tmp_path: Path
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", make_rows(8 * BLOCK_ROWS, seed=8))
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    started = time.monotonic()
    assert outcome(start(bundles("single"), source, whole)) == (0, "")
    whole_s = time.monotonic() - started
    moments = random.Random(1)
    for _ in range(50):
        runs = [start(bundles("single"), source, output) for _ in range(2)]
        # From before the journal is created to after the output is written.
        time.sleep(moments.uniform(0.3, 1.3) * whole_s)
        for run in runs:
            run.kill()
        for code, errors in map(outcome, runs):
            assert code in (0, -signal.SIGKILL) or "another run is working on" in errors
        if output.exists():
            assert output.read_bytes() == whole.read_bytes()
            output.unlink()

    assert outcome(start(bundles("single"), source, output)) == (0, "")

    assert output.read_bytes() == whole.read_bytes()
    assert not output.with_name("out.jsonl.partial").exists()


def test_second_run_is_refused_while_one_is_at_work(
    predictor: Predictor, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.jsonl"
    (tmp_path / "link.jsonl").symlink_to(output)
    journal = interrupted(predictor, source, output, monkeypatch)
    before = journal.read_bytes()
    identity = json.loads(before.splitlines()[0])["identity"]

    with open_journal(journal, identity):
        for name in ("out.jsonl", "link.jsonl"):
            with pytest.raises(ValueError, match="another run is working on"):
                predict_file(predictor, source, tmp_path / name, text_columns=("text",))

    assert journal.read_bytes() == before
    assert predict_file(predictor, source, output, text_columns=("text",))["resumed"] == BLOCK_ROWS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_run_says_where_the_same_command_goes_on(
    bundles: Bundles, tmp_path: Path, number: int, code: int
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", make_rows(40 * BLOCK_ROWS, seed=8))
    output = tmp_path / "out.jsonl"
    journal = tmp_path / "out.jsonl.partial"
    run = start(bundles("single"), source, output)
    wait_for(lambda: journal.exists() and journal.stat().st_size > 100_000, seconds=60)

    run.send_signal(number)
    _, errors = run.communicate(timeout=60)

    assert run.returncode == code
    assert errors.startswith("stopped; the same command goes on from row ")
    assert errors.count("\n") == 1
    assert int(errors.split()[-1]) % BLOCK_ROWS == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl.partial"]


def test_resumed_run_gives_the_same_bytes(
    predictor: Predictor, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / "whole.csv", tmp_path / "out.csv"
    predict_file(predictor, source, whole, text_columns=("text",))
    journal = interrupted(predictor, source, output, monkeypatch)
    with journal.open("ab") as file:  # a second block of which only a part was written
        file.write(json.dumps({"row": BLOCK_ROWS, "of": "0", "answer": {}}).encode() + b'\n{"row"')
    os.utime(source)  # copied again, with the same content

    counts = predict_file(predictor, source, output, text_columns=("text",))

    assert counts["resumed"] == BLOCK_ROWS
    assert output.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "whole.csv", "out.csv"}


def test_journal_of_another_backend_is_refused(
    bundles: Bundles,
    predictor: Predictor,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = interrupted(predictor, source, tmp_path / "out.jsonl", monkeypatch)
    other = Predictor.load(bundles("single"), device="cpu", backend="torch")

    with pytest.raises(ValueError, match=r"different backend \(`onnx int8`, now `torch fp32`\)"):
        predict_file(other, source, tmp_path / "out.jsonl", text_columns=("text",))

    assert journal.exists()


def test_journal_of_another_input_of_the_same_size_and_time_is_refused(
    predictor: Predictor, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(predictor, source, tmp_path / "out.jsonl", monkeypatch)
    times = source.stat()
    source.write_bytes(source.read_bytes().replace(b"parcel", b"charge"))
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))

    with pytest.raises(ValueError, match=r"different input .* remove the file to start"):
        predict_file(predictor, source, tmp_path / "out.jsonl", text_columns=("text",))


@pytest.mark.parametrize("changed", ["text", "other column"])
def test_input_that_changes_during_the_run_is_refused(
    predictor: Predictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: str,
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": "a parcel", "id": 1}])
    new = {"text": {"text": "an invoice", "id": 1}, "other column": {"text": "a parcel", "id": 2}}
    logits = Predictor.logits

    def change(self: Predictor, encodings: Any) -> Any:
        write_jsonl(source, [new[changed]])
        return logits(self, encodings)

    monkeypatch.setattr(Predictor, "logits", change)

    with pytest.raises(ValueError, match="changed while it was being classified; restore it"):
        predict_file(predictor, source, tmp_path / "out.jsonl", text_columns=("text",))

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["in.jsonl", "out.jsonl.partial"]


def test_damaged_journal_is_refused(
    predictor: Predictor, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = interrupted(predictor, source, tmp_path / "out.jsonl", monkeypatch)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], *lines[4:]]))

    with pytest.raises(ValueError, match="is damaged at row 3; remove it to start from scratch"):
        predict_file(predictor, source, tmp_path / "out.jsonl", text_columns=("text",))


FOREIGN = {
    "notes": b"my notes",
    "lines": b"my notes\nmore of them\n",
    "json": b'{"model_version": "x"}\n',
    "list": b"[1]\n",
    "empty": b"",
    "binary": b"\x00\xff" * 100,
    "no line end": b'{"format": "textloop predict journal 1"',
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_file_of_someone_else_is_never_touched(
    predictor: Predictor, source: Path, tmp_path: Path, content: bytes
) -> None:
    foreign = tmp_path / "out.jsonl.partial"
    foreign.write_bytes(content)

    with pytest.raises(ValueError, match=r"out.jsonl.partial` is in the way: it is not a journal"):
        predict_file(predictor, source, tmp_path / "out.jsonl", text_columns=("text",))

    assert foreign.read_bytes() == content
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("kind", ["directory", "link", "pipe"])
def test_what_is_not_a_file_is_never_taken_for_a_journal(
    predictor: Predictor, source: Path, tmp_path: Path, kind: str
) -> None:
    foreign = tmp_path / "out.jsonl.partial"
    make = {
        "directory": foreign.mkdir,
        "link": lambda: foreign.symlink_to(tmp_path / "elsewhere"),
        "pipe": lambda: os.mkfifo(foreign),
    }
    make[kind]()

    with pytest.raises(ValueError, match="is in the way: it is not a file"):
        predict_file(predictor, source, tmp_path / "out.jsonl", text_columns=("text",))

    assert not (tmp_path / "elsewhere").exists()


def test_output_behind_a_link_is_replaced_there(predictor: Predictor, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": "a parcel"}])
    (tmp_path / "big disk").mkdir()
    output = tmp_path / "out.jsonl"
    output.symlink_to(tmp_path / "big disk" / "today.jsonl")

    predict_file(predictor, source, output, text_columns=("text",))

    assert output.is_symlink()
    assert len(list(read_rows(tmp_path / "big disk" / "today.jsonl"))) == 1
