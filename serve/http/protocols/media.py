"""Bodies of SageMaker's `/invocations` and the forms of their answers, by media type.

JSON is read as for `/predict`; a text, CSV and JSON lines hold one text or one per line. The
answer is JSON, or what `Accept` asks for: JSON lines and CSV have one line per text, which is
what a batch transform with `assemble_with=Line` puts together.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from typing import Any

import pydantic_core

from serve.http.parsing import parse_value
from serve.http.protocols.checks import check_count
from serve.http.schemas import RequestError
from serve.language.spelling import shown

JSON, LINES, CSV, TEXT = "application/json", "application/jsonlines", "text/csv", "text/plain"

_ALIASES = {
    "": JSON,
    "application/octet-stream": JSON,  # what boto3 sends by default
    "text/json": JSON,
    "application/csv": CSV,
    **dict.fromkeys(
        (f"application/{name}" for name in "jsonl x-jsonlines ndjson x-ndjson".split()), LINES
    ),
}
"""Other names of the media types, and what stands for JSON."""

ANSWERS = (JSON, LINES, CSV)
"""Media types of answers; of those that a client likes equally, the first."""

_UTF_8 = {"utf-8", "utf8", "us-ascii", "ascii"}

FORM = "application/x-www-form-urlencoded"
"""What curl calls any body; JSON is read under this name too."""


def content_kind(header: str) -> tuple[str, bool | None]:
    """The media type of a body, and for CSV whether there is a header; None if that is not said.

    Raises RequestError 415, with what is read, for another type or encoding.
    """
    kind, parameters = _media_type(header)
    kind = JSON if kind.endswith("+json") else _ALIASES.get(kind, kind)
    if kind not in (*ANSWERS, TEXT, FORM):
        raise not_read(header)
    charset = parameters.get("charset", "utf-8")
    if charset not in _UTF_8:
        raise RequestError(415, f"charset `{shown(charset, 40)}` is not read; send UTF-8")
    announced = parameters.get("header") if kind == CSV else None
    if announced not in (None, "present", "absent"):
        raise RequestError(
            415, f"`header={shown(announced, 40)}` of {CSV}: expected present or absent"
        )
    return kind, None if announced is None else announced == "present"


def not_read(header: str) -> RequestError:
    """The error of a content type that is not read."""
    return RequestError(
        415,
        f"content type `{shown(header, 100)}` is not read; send {JSON}, {LINES}, {CSV} or {TEXT}",
    )


def answer_kind(accept: str) -> tuple[str, str]:
    """What an `Accept` header prefers: one of `ANSWERS`, and the name to give it.

    The most specific entry counts for each (RFC 9110, section 12.5.1). Raises RequestError 406,
    with what is written, if it is none of them.
    """
    entries = [_media_type(part) for part in accept.split(",") if part.strip()] or [("*/*", {})]
    preferred = (0.0, JSON, JSON)
    for kind in ANSWERS:
        exact = [kind, *(name for name, meant in _ALIASES.items() if meant == kind and name)]
        for group in (exact, [kind.partition("/")[0] + "/*"], ["*/*"]):
            if found := [entry for entry in entries if entry[0] in group]:
                name, parameters = max(found, key=lambda entry: _quality(entry[1]))
                quality = _quality(parameters)
                if quality > preferred[0]:
                    preferred = (quality, kind, kind if "*" in name else name)
                break
    if not preferred[0]:
        raise RequestError(
            406, f"no answer in `{shown(accept, 100)}`; this server writes {', '.join(ANSWERS)}"
        )
    return preferred[1], preferred[2]


def _media_type(header: str) -> tuple[str, dict[str, str]]:
    """The type in a header, in lower case, and its parameters."""
    kind, *parameters = header.lower().split(";")
    pairs = (each.partition("=") for each in parameters)
    return kind.strip(), {name.strip(): value.strip().strip('"') for name, _, value in pairs}


def _quality(parameters: dict[str, str]) -> float:
    try:
        return float(parameters.get("q", "1"))
    except ValueError:
        return 0.0


def read_json_lines(body: bytes, *, limit: int) -> list[Any]:
    """Read the value of each line.

    Raises RequestError 400 if a line is not JSON, 422 if there are too many lines.
    """
    lines = body.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
    check_count(len(lines), "lines", limit=limit)
    return [parse_value(line, f"lines.{number}") for number, line in enumerate(lines)]


def read_csv(
    body: bytes, *, names: Sequence[Sequence[str]], limit: int, header: bool | None = None
) -> list[Any]:
    """Read the text of each row, or the list of its two texts.

    names: per column the names by which a header is known. header: whether there is one; None
    looks for these names in the first row, which are no texts that anybody classifies.
    Raises RequestError 400 if the body is not CSV, 422 if a row has another number of columns,
    if there are more rows than `limit`, or a header alone.
    """
    csv.field_size_limit(sys.maxsize)  # the default refuses texts over 131,072 characters
    columns = len(names)
    values: list[Any] = []
    first: list[str] | None = None
    reader = csv.reader(io.StringIO(decode(body), newline=""), strict=True)
    try:
        for row in reader:
            if first is None:
                first = row
                if header or (header is None and _is_header(row, names)):
                    header = True
                    continue
            name = f"rows.{len(values)}"
            if len(row) != columns:
                raise RequestError(
                    422,
                    f"field `{name}`: {len(row)} columns, expected {columns}; quote texts that "
                    "contain a comma, a quote or a line break",
                    field=name,
                )
            values.append(row if columns > 1 else row[0])
            check_count(len(values), "rows", limit=limit)
    except csv.Error as error:
        name = f"rows.{len(values)}"
        raise RequestError(400, f"`{name}` is not valid CSV: {error}", field=name) from None
    if header and first and not values:
        shown_row = shown(",".join(first), 100)
        message = f"field `rows`: no text after the header `{shown_row}`; if it is a text, say so "
        raise RequestError(422, message + "with `text/csv; header=absent`", field="rows")
    return values


def _is_header(row: Sequence[str], names: Sequence[Sequence[str]]) -> bool:
    return len(row) == len(names) and all(
        cell.strip().lower() in known for cell, known in zip(row, names, strict=True)
    )


def decode(body: bytes) -> str:
    """The text of a body; RequestError 400 if it is not UTF-8."""
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the body is not UTF-8: {error}") from None


def write(rows: list[bytes], kind: str) -> bytes:
    """An answer in JSON lines or CSV, one line per text. rows: each text's answer in JSON.

    A line of CSV alternates labels and scores, best first. Raises RequestError 406 for verdicts
    in CSV, which has no form for them.
    """
    if kind == LINES:
        return b"".join(row + b"\n" for row in rows)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for row in rows:
        scores = pydantic_core.from_json(row)
        if not isinstance(scores, list):
            raise RequestError(406, f"verdicts have no form in {CSV}; accept {JSON} or {LINES}")
        writer.writerow([value for each in scores for value in (each["label"], each["score"])])
    return stream.getvalue().encode()
