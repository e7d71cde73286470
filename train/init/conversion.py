"""Plan a run on the export of a labelling tool: its rows are written anew, one per text."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from serve.formats.options import ReadOptions, Row
from train.data.sources import open_source
from train.init.exports.convert import merge, read_all, write_rows
from train.init.exports.shape import Annotations, Tool
from train.init.plan import Plan, Request, make_plan
from train.init.reading.sample import Sample


def convert(
    request: Request, sample: Sample, tool: Tool, output: Path, *, force: bool
) -> tuple[Plan, list[str]]:
    """Write the labelled texts of an export beside the YAML; return the plan, and what to say.

    output: the YAML. Raises ValueError if the file to write exists, unless `force`.
    """
    path = output.with_name(f"{Path(request.source).name.partition('.')[0]}.textloop.jsonl")
    if path.exists() and not force:
        raise ValueError(f"`{path}` exists, and is written from an export; --force replaces it")
    found = read_all(tool, _rows(sample))
    columns = [name for name in _names(found) if name not in found.meta]
    rows = [{name: row.get(name) for name in columns} for row in found.rows]
    guessed = Sample(
        source=request.source, rows=rows, num_read=len(rows), stride=1, reached_end=True
    )
    if not request.label and len(found.labels) == 1:
        request = replace(request, label=tuple(found.labels))
    plan = make_plan(request, {"train": request.source}, guessed)
    labels = [column.name for column in plan.labels.columns]
    merged = merge(found, columns, labels)
    write_rows(path, merged.rows)
    lines = [f"{request.source}: an export of {tool.name} with {len(found.rows):,} annotations"]
    lines += [f"  left out, {reason}: {count:,}" for reason, count in found.left_out.items()]
    counts = {
        "texts left out, as no annotation has a label": merged.unlabelled,
        "texts left out, as their annotations differ and none has a majority": merged.undecided,
        "texts whose annotations differ; the majority decides": merged.decided,
        "texts with several annotations that agree": merged.agreed,
    }
    lines += [f"  {what}: {count:,}" for what, count in counts.items() if count]
    lines.append(f"  wrote {path}: {len(merged.rows):,} texts, one per line; the run reads it")
    written = Sample(
        source=str(path), rows=merged.rows, num_read=len(merged.rows), stride=1, reached_end=True
    )
    request = replace(request, label=tuple(labels))
    return make_plan(request, {"train": str(path)}, written), lines


@contextmanager
def as_lines(source: str) -> Iterator[str]:
    """Give the manifest of Ground Truth, which is JSON Lines, a name that says so."""
    if not source.endswith(".manifest") or not Path(source).is_file():
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"{Path(source).stem}.jsonl"
        link.symlink_to(Path(source).absolute())
        yield str(link)


def _names(found: Annotations) -> list[str]:
    """Return the columns of all rows, the labels last."""
    names = dict.fromkeys(name for row in found.rows for name in row)
    return [*(name for name in names if name not in found.labels), *found.labels]


def _rows(sample: Sample) -> Iterator[Row]:
    """Yield all rows of the source of a sample."""
    if sample.is_whole:
        yield from sample.rows
        return
    keys = sample.keys
    options = ReadOptions(
        delimiter=keys.get("delimiter"), encoding=keys.get("encoding"), used=frozenset()
    )
    with (
        tempfile.TemporaryDirectory() as cache,
        open_source(sample.source, cache_dir=Path(cache), options=options) as table,
    ):
        for block in table.rows:
            yield from block
