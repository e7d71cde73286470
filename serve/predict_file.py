"""Classify a whole file: in bounded memory, with a progress bar, resumable.

Predictions go to a journal next to the output, one line per row, synced after every block.
To resume a killed run, repeat its command: it drops an incomplete last line and continues
after the rows in the journal. Once all rows are done, input and journal are joined into the
output, which does not exist before.

A row that cannot be classified does not stop the run: its prediction is null and
`predicted_error` gives the reason.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from serve.files import sync_directory
from serve.inference.predictor import Predictor
from serve.inference.scores import activate, best_first, default_activation
from serve.inference.text import Text, text_problem
from serve.tables import Row, blocks, check_format, read_rows, survey, write_rows

BLOCK_ROWS = 1024
"""Rows between two syncs; a killed run loses at most these."""


def predict_file(
    predictor: Predictor, source: Path, output: Path, *, text_columns: tuple[str, ...]
) -> dict[str, int]:
    """Classify every row of `source` into `output`; the suffixes determine the formats.

    text_columns: the columns that contain the text, two for a model of text pairs. The output
    has the input's columns plus `predicted_label` and `predicted_score` (for a multi-label
    model `predicted_labels` and `predicted_scores`, the labels that reach their thresholds).
    If the bundle has an abstention threshold, `predicted_abstain` is true for rows below it.
    Returns the number of `rows`, of those an earlier run had done (`resumed`), and of `failed`.
    Raises ValueError for a file that cannot be read and for a journal of a different run.
    """
    added = _added_columns(predictor)
    total, columns = _check_files(source, output, text_columns=text_columns, added=added)
    output.parent.mkdir(parents=True, exist_ok=True)
    journal = output.with_name(f"{output.name}.partial")
    stat = source.stat()
    identity = {
        "model_version": predictor.bundle.manifest.version,
        "input_bytes": stat.st_size,
        "input_mtime_ns": stat.st_mtime_ns,
        "text_columns": list(text_columns),
    }
    done = _open_journal(journal, identity)
    with (
        journal.open("ab") as file,
        tqdm(total=total, initial=done, unit="rows", disable=None) as bar,
    ):
        for block in blocks(islice(read_rows(source), done, None), BLOCK_ROWS):
            predictions = _predict_block(predictor, block, text_columns)
            lines = (json.dumps(prediction, ensure_ascii=False) for prediction in predictions)
            file.write("".join(line + "\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
            bar.update(len(block))
    with journal.open("rb") as file:
        failed = sum("predicted_error" in json.loads(line) for line in islice(file, 1, None))
    _join(source, journal, output, columns=[*columns, *added])
    return {"rows": total, "resumed": done, "failed": failed}


def _check_files(
    source: Path, output: Path, *, text_columns: tuple[str, ...], added: list[str]
) -> tuple[int, list[str]]:
    """Return the number of rows and the columns of `source`; raise ValueError if unusable."""
    check_format(source, reading=True)
    check_format(output)
    if not source.is_file():
        raise ValueError(f"no input file at `{source}`")
    if source.resolve() == output.resolve():
        raise ValueError(f"`{source}` is both input and output; write to a different file")
    first = next(read_rows(source), None)
    if first is None:
        raise ValueError(f"`{source}` has no rows")
    for column in text_columns:
        if column not in first:
            raise ValueError(
                f"`{source}` has no column `{column}`, only {', '.join(first)}; "
                "name the text columns with --text-columns"
            )
    total, columns = survey(source, output=output)
    if taken := [column for column in added if column in columns]:
        raise ValueError(f"`{source}` already has a column `{taken[0]}`; rename it")
    return total, columns


def _added_columns(predictor: Predictor) -> list[str]:
    plural = "s" if predictor.bundle.manifest.task == "multi_label" else ""
    names = [f"predicted_label{plural}", f"predicted_score{plural}", "predicted_error"]
    return names if predictor.rules.abstain_below is None else [*names, "predicted_abstain"]


def _predict_block(
    predictor: Predictor, block: list[Row], text_columns: tuple[str, ...]
) -> list[Row]:
    """Return the columns to add to each row; a row that cannot be classified gets an error."""
    manifest = predictor.bundle.manifest
    multi = manifest.task == "multi_label"
    added = _added_columns(predictor)
    label_key, score_key, error_key = added[:3]
    results: list[Row] = []
    texts: list[Text] = []
    for row in block:
        parts = [row.get(column) for column in text_columns]
        problem = next((p for p in map(text_problem, parts) if p), None)
        if problem:
            results.append(dict.fromkeys(added) | {error_key: problem})
            continue
        texts.append(str(parts[0]) if len(parts) == 1 else (str(parts[0]), str(parts[1])))
        results.append({})
    if not texts:
        return results
    logits_NC = predictor.logits(predictor.encoder.encode(texts))
    scores_NC = activate(logits_NC, default_activation(manifest.task))
    decision = predictor.rules.decide(scores_NC)
    order_NC, _ = best_first(scores_NC, None)
    usable = (result for result in results if error_key not in result)
    for n, result in enumerate(usable):
        chosen = [int(c) for c in order_NC[n] if decision.predicted_NC[n, c]]
        labels = [manifest.labels[c] for c in chosen]
        scores = [float(scores_NC[n, c]) for c in chosen]
        result[label_key] = labels if multi else labels[0]
        result[score_key] = scores if multi else scores[0]
        if decision.abstain_N is not None:
            result["predicted_abstain"] = bool(decision.abstain_N[n])
    return results


def _open_journal(journal: Path, identity: dict[str, Any]) -> int:
    """Start or resume the journal, truncating an incomplete last line; return the rows done."""
    if journal.exists():
        done = -1
        complete = 0
        with journal.open("rb+") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                if done == -1 and json.loads(line) != identity:
                    raise ValueError(
                        f"`{journal}` belongs to a different input, bundle or choice of columns; "
                        "remove it to start from scratch"
                    )
                done += 1
                complete += len(line)
            file.truncate(complete)
        if done >= 0:
            return done
    journal.write_bytes(json.dumps(identity).encode() + b"\n")
    sync_directory(journal.parent)
    return 0


def _join(source: Path, journal: Path, output: Path, *, columns: list[str]) -> None:
    """Write the input rows with their predictions to `output`, then delete the journal."""

    def rows() -> Iterator[Row]:
        with journal.open("rb") as file:
            next(file)
            for row, line in zip(read_rows(source), file, strict=True):
                yield row | json.loads(line)

    temporary = output.with_name(f".{uuid.uuid4().hex}.tmp{output.suffix}")
    try:
        write_rows(temporary, rows, columns)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(output.parent)
    journal.unlink()
