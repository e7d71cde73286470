"""Say what `init` understood, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from serve.formats.options import list_columns
from train.init.plan import Plan
from train.init.reading.columns import Column

_SHOWN_LABELS = 8
_TEXT_CHARS = 64


def report(plan: Plan) -> list[str]:
    """Return the lines to print."""
    return [
        *_source(plan),
        f"text: {_text(plan)}",
        f"label: {_label(plan)}",
        *_counts(plan),
        *_unused(plan),
        "",
        "three rows:",
        *_rows(plan),
        "",
        f"method: {plan.request.method}; base: {plan.base.name} ({plan.base.reason})",
        *_length(plan),
        *_splits(plan),
        *_doubts(plan),
    ]


def _source(plan: Plan) -> Iterator[str]:
    sample = plan.sample
    extent = f"{sample.num_read:,} rows"
    if not sample.reached_end:
        extent = f"the first {sample.num_read:,} rows were read, and the source has more"
    if sample.stride > 1:
        extent += f"; one in {sample.stride} was looked at ({len(sample.rows):,})"
    yield f"{sample.source}: {extent}"
    for note in sample.notes:
        yield f"  {note}"


def _text(plan: Plan) -> str:
    texts = plan.texts
    described = [
        f"`{column.name}` (mean {column.mean_chars:.0f} characters, {column.distinct:.0%} distinct"
        + (f", {column.num_missing} empty" if column.num_missing else "")
        + ")"
        for column in texts.columns
    ]
    if len(described) == 1:
        return f"column {described[0]}"
    if texts.template is not None:
        return f"columns {' and '.join(described)}, joined as {texts.template!r}"
    return f"the pair of columns {' and '.join(described)}"


def _label(plan: Plan) -> str:
    labels = plan.labels
    several = "one of" if labels.task == "single_label" else "any number of"
    what = f"{several} {len(labels.counts)} labels (task: {labels.task})"
    if labels.is_hot:
        shown = list_columns(column.name for column in labels.columns)
        return f"{len(labels.columns)} columns of zeros and ones, {shown}; {what}"
    column = labels.columns[0]
    if column.kind == "list":
        what += ", in lists"
    elif labels.separator is not None:
        what += f", separated by {labels.separator!r}"
    return f"column `{column.name}`; {what}"


def _counts(plan: Plan) -> Iterator[str]:
    counts = plan.labels.counts
    shown = [f"{label} {count:,}" for label, count in counts.most_common(_SHOWN_LABELS)]
    rest = len(counts) - len(shown)
    more = f" and {rest} more, the rarest {min(counts.values()):,}" if rest else ""
    where = "" if plan.is_checked else " (of the sample)"
    yield f"  rows by label{where}: {', '.join(shown)}{more}"
    if plan.num_invalid:
        of = "" if plan.is_checked else " of the sample"
        yield f"  {plan.num_invalid:,} rows{of} have no text or no label: left out"


def _unused(plan: Plan) -> Iterator[str]:
    used = {*plan.texts.columns, *plan.labels.columns}
    rest = [column for column in plan.columns if column not in used and column.name]
    if rest:
        shown = [f"`{column.name[:40]}` ({_kind(column)})" for column in rest[:12]]
        more = f" and {len(rest) - 12} more" if len(rest) > 12 else ""
        yield f"not used: {', '.join(shown)}{more}"


def _kind(column: Column) -> str:
    if column.is_identifier:
        return "an identifier"
    return {
        "empty": "empty",
        "constant": "always the same",
        "text": "text",
        "word": "words",
        "integer": "numbers",
        "float": "numbers",
        "date": "dates",
        "link": "addresses",
        "code": "codes",
        "list": "lists",
        "object": "objects",
    }[column.kind]


def _rows(plan: Plan) -> Iterator[str]:
    columns = plan.labels.columns
    shown = 0
    seen = set[str]()
    rows = range(len(plan.sample.rows))
    for number in (*_varied(plan), *rows):
        texts = [column.values[number] for column in plan.texts.columns]
        if plan.labels.is_hot:
            label = ", ".join(c.name for c in columns if str(c.values[number]).lower()[:1] in "1t")
        else:
            value = columns[0].values[number]
            label = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        row = f"  {label[:40]:<12} | {' | '.join(_line(text) for text in texts)}"
        if row in seen or not any(texts):
            continue
        seen.add(row)
        yield row
        shown += 1
        if shown == 3:
            return


def _varied(plan: Plan) -> Iterator[int]:
    """Yield the first rows that have different labels."""
    seen = set[str]()
    for number, value in enumerate(plan.labels.columns[0].values):
        if value not in (None, []) and str(value).strip() and str(value) not in seen:
            seen.add(str(value))
            yield number
        if len(seen) == 3:
            return


def _line(text: object) -> str:
    shown = " ".join(str("" if text is None else text).split())
    return shown if len(shown) <= _TEXT_CHARS else shown[: _TEXT_CHARS - 1] + "…"


def _length(plan: Plan) -> Iterator[str]:
    if plan.length is None:
        yield "length: 128 tokens, the default: the base's tokenizer was not read"
        return
    longer = plan.length.truncated
    cut = f"; {longer:.1%} are longer and are truncated" if longer else ""
    yield f"length: {plan.length.tokens} tokens, as {plan.length.reason}{cut}"


def _splits(plan: Plan) -> Iterator[str]:
    sizes = ", ".join(f"{name} {size:,}" for name, size in plan.split_sizes.items())
    yield f"splits: {sizes} rows" + ("" if plan.is_checked else ", of the sample")
    least = min(plan.split_sizes.values(), default=0)
    if least < 50:
        yield f"  figures on {least} rows say little; more labelled rows help most"


def _doubts(plan: Plan) -> Iterator[str]:
    if plan.doubts:
        yield ""
        yield "please check:"
        for doubt in plan.doubts:
            yield f"  - {doubt}"
