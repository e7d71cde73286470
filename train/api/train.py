"""`textloop.train`: from rows in memory, or a file, to an evaluated bundle, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from serve.files import write_atomic
from train.api.quiet import as_guest
from train.api.rows import is_source, write_rows_of
from train.api.run import Run
from train.api.settings import Values, run_config, set_keys, start_values
from train.init.base import choose_base
from train.pipeline import evaluate_run, merge_run


def train(
    data: Any = None,
    *,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    validation: Any = None,
    test: Any = None,
    base: str | None = None,
    output_dir: str | Path | None = None,
    config: Mapping[str, Any] | str | Path | None = None,
    device: str = "auto",
    fresh: bool = False,
    verbose: bool = True,
    **keys: Any,
) -> Run:
    """Train, merge and evaluate a classifier; return the run.

    data: a DataFrame of pandas or polars, a list of dicts, or the path of a file (or any other
    source that `data.train` takes). text: the column with the text, two for a model of pairs;
    default: `text`. label: the column with the label, or several columns with 0 and 1, one per
    label; default: `label`. Labels that are lists make a multi-label model.
    validation, test: data of the same forms; without them rows of `data` are set apart.
    base: the pretrained model: a directory, package:NAME/PATH, or OWNER/NAME@REVISION of the Hub;
    default: one that is installed or downloaded, as `textloop init` chooses it. `method` is `auto`
    unless it is set: LoRA or a probe, whichever is better on the training rows.
    output_dir: directory of the run, the only one that is written to; default: a new one under
    `runs`. The same call with the same directory goes on where it was stopped.
    config: keys of a run (`textloop config` lists them), nested or dotted, or a YAML file; further
    arguments are keys too: `seed=1`, `**{"trainer.num_train_epochs": 2}`. fresh: train anew, even
    if the directory has checkpoints. verbose: print what happens.

    Raises ValueError for everything that a caller can mend, and for a model that is refused.
    """
    if output_dir is not None:
        keys["output_dir"] = str(output_dir)
    if text is not None:
        keys["data.text_columns"] = [text] if isinstance(text, str) else list(text)
    if isinstance(label, str):
        keys["data.label_column"] = label
    elif label is not None:
        keys |= {"data.label_columns": list(label), "task": "multi_label"}
    values = start_values(config)
    set_keys(values, keys)
    values.setdefault("method", "auto")
    given = {"train": data, "validation": validation, "test": test}
    return Run(train_on(given, values, base=base, device=device, fresh=fresh, verbose=verbose))


def train_on(
    given: Mapping[str, Any],
    values: Values,
    *,
    base: str | None,
    device: str,
    verbose: bool,
    fresh: bool = False,
    evaluated: bool = True,
) -> Path:
    """Train on rows in memory, or sources, and merge; return the directory of the run.

    given: data by split; None: not given. evaluated: score the bundle on the test split, which is
    the validation split otherwise, and not read. Raises ValueError, see `train`.
    """
    given = {name: data for name, data in given.items() if data is not None}
    values.setdefault("output_dir", str(_new_directory()))
    _set_base(values, base)
    directory = Path(str(values["output_dir"]))
    files = {name: directory / "data" / f"{name}.jsonl" for name in given}
    for name, data in given.items():
        set_keys(values, {f"data.{name}": str(data if is_source(data) else files[name])})
    if not evaluated:
        values["data"]["test"] = values["data"]["validation"]
    with as_guest(verbose=verbose):
        from train.preflight import check_inputs, check_output

        check_output(run_config(values).output_dir)  # before anything is written
        for name, data in given.items():
            if not is_source(data):
                first = write_rows_of(data, files[name])
                if name == "train":
                    _set_task(values, first)
        config = run_config(values)
        check_inputs(config)
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / "textloop.yaml", _yaml(values))
        from train.fit.fit import fit_unless_done

        fit_unless_done(config, fresh=fresh)
        merge_run(config, device=device)
        if evaluated:
            evaluate_run(config, device=device)
    return config.output_dir


def _set_base(values: Values, base: str | None) -> None:
    """Set the base that is named, or else one that is at hand; ValueError without one."""
    if base is None and "base" in values.get("model", {}):
        return
    if base is None:
        choice = choose_base(None)
        name, revision = choice.name, choice.revision
    elif "@" in base and not Path(base).exists():
        name, _, revision = base.rpartition("@")
    else:
        name, revision = base, None
    set_keys(values, {"model.base": name, **({"model.revision": revision} if revision else {})})


def _set_task(values: Values, first: Mapping[str, Any]) -> None:
    """Take labels that are lists for those of a multi-label model, unless the task is set."""
    column = values["data"].get("label_column", "label")
    if "task" not in values and isinstance(first.get(column), list):
        values["task"] = "multi_label"


def _new_directory() -> Path:
    """Return a directory under `runs` that is named by the time, and is not there yet."""
    name = datetime.now(UTC).astimezone().strftime("%Y-%m-%d-%H%M%S")
    names = (name, *(f"{name}-{number}" for number in range(1, 1000)))
    return next(path for each in names if not (path := Path("runs", each)).exists())


def _yaml(values: Values) -> bytes:
    head = "# Written by textloop.train; `textloop gate --config` and the other commands take it.\n"
    return (head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)).encode()
