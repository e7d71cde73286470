"""Classify a whole file: in bounded memory, with a progress bar, resumable.

Answers go to a journal next to the output (`serve.journal`), synced after every block. To
resume a stopped run, repeat its command. Once all rows are done, input and journal are joined
into the output, which does not exist before; each answer is joined only to the text it is for.

A row that cannot be classified does not stop the run: its prediction is null and
`predicted_error` gives the reason.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from tqdm import tqdm

from serve.files import sha256_of, sync_directory
from serve.inference.predictor import Predictor
from serve.inference.scores import activate, best_first, default_activation
from serve.inference.text import Encoding, Text, text_problem
from serve.journal import Journal, digest, open_journal
from serve.language.spelling import did_you_mean
from serve.tables import DEFAULTS, ReadOptions, Row, check_format, read_rows, survey, write_rows

BLOCK_ROWS = 1024
"""Most rows between two syncs; a killed run loses at most these."""

BLOCK_CHARS = 1 << 19
"""Characters of text after which a block ends: tokenizing takes some 100 bytes for each."""


class Stopped(Exception):
    """A run ended before its output was written; what is done is kept. The cause is chained."""

    def __init__(self, rows: int, total: int) -> None:
        """rows: number of rows that are done."""
        goes_on = f"goes on from row {rows + 1}" if rows < total else "writes the output"
        super().__init__(f"the same command {goes_on}")


def check_paths(source: Path, output: Path) -> None:
    """Raise ValueError for paths that cannot be used, before anything else is done."""
    check_format(source, reading=True)
    check_format(output)
    if not source.is_file():
        raise ValueError(f"no input file at `{source}`")
    output = _real(output)
    if output.exists() and not output.is_file():
        what = "a directory" if output.is_dir() else "not a file"
        raise ValueError(f"output `{output}` is {what}; name a file")
    if output.exists() and output.samefile(source):
        raise ValueError(f"`{source}` is both input and output; write to a different file")
    parent = next(each for each in output.parents if each.exists())
    if not parent.is_dir():
        raise ValueError(f"cannot write `{output}`: `{parent}` is not a directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write `{output}`: no permission to write in `{parent}`")


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def predict_file(
    predictor: Predictor,
    source: Path,
    output: Path,
    *,
    text_columns: tuple[str, ...],
    options: ReadOptions = DEFAULTS,
) -> dict[str, int]:
    """Classify every row of `source` into `output`; the suffixes determine the formats.

    text_columns: the columns that contain the text, two for a model of text pairs. options: how
    `source` is read.
    The output has the input's columns plus `predicted_label` and `predicted_score` (for a
    multi-label model `predicted_labels` and `predicted_scores`, the labels that reach their
    thresholds) and `predicted_error`. If the bundle has an abstention threshold,
    `predicted_abstain` is true for rows below it.
    Returns the number of `rows`, of those an earlier run had done (`resumed`), and of `failed`.
    Raises ValueError for a file that cannot be read and for a journal of a different run, and
    Stopped if the run is interrupted or the file system fails once rows are being classified.
    """
    check_paths(source, output)
    output = _real(output)  # the journal and its lock belong to the file, not to a link
    added = _added_columns(predictor)
    identity = {
        "input": sha256_of(source),
        "bundle": predictor.bundle.manifest.version,
        "backend": f"{predictor.backend.name} {predictor.backend.precision}",
        "device": predictor.backend.device_kind,
        "choice of text columns": ",".join(text_columns),
    }
    if (read_as := replace(options, key="")) != DEFAULTS:
        identity["way of reading"] = str(read_as)
    total, columns = _survey(
        source, output, options=options, text_columns=text_columns, added=added
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with open_journal(output.with_name(f"{output.name}.partial"), identity) as journal:
        resumed = journal.rows
        try:
            rows = islice(read_rows(source, options), journal.rows, None)
            _classify(predictor, rows, journal, total=total, text_columns=text_columns)
            failed = _join(
                *(source, journal, output, [*columns, *added]),
                added=added,
                options=options,
                text_columns=text_columns,
                identity=identity,
            )
        except (KeyboardInterrupt, OSError) as error:
            raise Stopped(journal.rows, total) from error
    return {"rows": total, "resumed": resumed, "failed": failed}


def _survey(
    source: Path,
    output: Path,
    *,
    options: ReadOptions,
    text_columns: tuple[str, ...],
    added: dict[str, Any],
) -> tuple[int, list[str]]:
    """Return the number of rows and the columns of `source`; raise ValueError if unusable."""
    first = next(read_rows(source, options), None)
    for column in text_columns:
        if first is not None and column not in first:
            raise ValueError(
                f"`{source}` has no column `{column}`, only {', '.join(first)}"
                f"{did_you_mean(column, first)}; name the text columns with --text-columns"
            )
    total, columns = survey(source, output=output, options=options, say=_print_note)
    if taken := [column for column in added if column in columns]:
        raise ValueError(f"`{source}` already has a column `{taken[0]}`; rename it")
    return total, columns or list(text_columns)


def _print_note(note: str) -> None:
    print(f"note: {note}", file=sys.stderr)


def _added_columns(predictor: Predictor) -> dict[str, Any]:
    """Return the names of the columns to add, each with a value of its type."""
    added: dict[str, Any] = {"predicted_label": "", "predicted_score": 0.0}
    if predictor.bundle.manifest.task == "multi_label":
        added = {"predicted_labels": [""], "predicted_scores": [0.0]}
    added["predicted_error"] = ""
    return added if predictor.rules.abstain_below is None else added | {"predicted_abstain": False}


def _classify(
    predictor: Predictor,
    rows: Iterator[Row],
    journal: Journal,
    *,
    total: int,
    text_columns: tuple[str, ...],
) -> None:
    """Add the answers of the rows that are not in the journal to it."""
    with tqdm(total=total, initial=journal.rows, unit="rows", disable=None) as bar:
        for parts in _blocks([row.get(column) for column in text_columns] for row in rows):
            journal.append(parts, _answers(predictor, parts))
            bar.update(len(parts))


def _blocks(rows: Iterator[list[object]]) -> Iterator[list[list[object]]]:
    """Yield the texts of consecutive rows, in lists limited by rows and by characters."""
    block: list[list[object]] = []
    chars = 0
    for parts in rows:
        block.append(parts)
        chars += sum(len(part) for part in parts if isinstance(part, str))
        if len(block) == BLOCK_ROWS or chars >= BLOCK_CHARS:
            yield block
            block, chars = [], 0
    if block:
        yield block


def _answers(predictor: Predictor, block: list[list[object]]) -> list[Row]:
    """Return the columns to add to each row; a row that cannot be classified gets an error."""
    manifest = predictor.bundle.manifest
    multi = manifest.task == "multi_label"
    added = _added_columns(predictor)
    label_key, score_key, error_key = list(added)[:3]
    answers: list[Row] = [dict.fromkeys(added) for _ in block]
    texts: list[Text] = []
    usable: list[Row] = []
    for answer, parts in zip(answers, block, strict=True):
        problem = next((p for p in map(text_problem, parts) if p), None)
        if problem:
            answer[error_key] = problem
            continue
        texts.append(str(parts[0]) if len(parts) == 1 else (str(parts[0]), str(parts[1])))
        usable.append(answer)
    encodings: list[Encoding] = []
    encoded: list[Row] = []
    for answer, encoding in zip(usable, predictor.encoder.encode_each(texts), strict=True):
        if isinstance(encoding, str):
            answer[error_key] = encoding
        else:
            encodings.append(encoding)
            encoded.append(answer)
    if not encodings:
        return answers
    logits_NC = predictor.logits(encodings)
    scores_NC = activate(logits_NC, default_activation(manifest.task))
    decision = predictor.rules.decide(scores_NC)
    order_NC, _ = best_first(scores_NC, None)
    for n, answer in enumerate(encoded):
        chosen = [int(c) for c in order_NC[n] if decision.predicted_NC[n, c]]
        labels = [manifest.labels[c] for c in chosen]
        scores = [float(scores_NC[n, c]) for c in chosen]
        answer[label_key] = labels if multi else labels[0]
        answer[score_key] = scores if multi else scores[0]
        if decision.abstain_N is not None:
            answer["predicted_abstain"] = bool(decision.abstain_N[n])
    return answers


def _join(
    source: Path,
    journal: Journal,
    output: Path,
    columns: list[str],
    *,
    added: dict[str, Any],
    options: ReadOptions,
    text_columns: tuple[str, ...],
    identity: dict[str, str],
) -> int:
    """Write the input's rows with their answers to `output`, then delete the journal.

    Returns the number of rows that failed. Raises ValueError if the input is not the one that
    was classified.
    """
    changed = ValueError(
        f"`{source}` changed while it was being classified; restore it, or remove "
        f"`{journal.path}` to start from scratch"
    )

    def rows() -> Iterator[Row]:
        for row, done in zip_longest(read_rows(source, options), journal.answers()):
            if row is None or done is None:
                raise changed
            of, answer = done
            if of != digest([row.get(column) for column in text_columns]):
                raise changed
            yield row | answer

    temporary = output.with_name(f".{journal.run}.tmp{output.suffix}")
    try:
        write_rows(temporary, rows, columns, types=added)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        if sha256_of(source) != identity["input"]:
            raise changed
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(output.parent)
    failed = sum(answer["predicted_error"] is not None for _, answer in journal.answers())
    journal.remove()
    return failed
