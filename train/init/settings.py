"""Write a plan as the YAML of a run, with the reason of each choice beside it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from train.config.auto import lora_recipe
from train.init.plan import Plan

_PLAIN = re.compile(r"[A-Za-z_][\w./@-]*( [\w./-]+)*")
_WORDS = frozenset("null true false yes no on off y n nan inf".split())
_METHODS = {
    "auto": "a linear probe or LoRA, whichever predicts held-out training rows better",
    "probe": "the last layer alone",
    "lora": "low-rank adapters and the last layer",
    "full": "all weights",
}
_MANY_ROWS, _SOME_ROWS = 20_000, 4_000


def settings(plan: Plan, output_dir: str) -> dict[str, Any]:
    """Return the keys of the run, by section; the user's overrides last."""
    request, labels, texts = plan.request, plan.labels, plan.texts
    data: dict[str, Any] = {name: source for name, source in plan.sources.items()}
    data |= {key: _listed(value) for key, value in plan.sample.keys.items()}
    if texts.template is not None:
        data["template"] = texts.template
    else:
        data["text_columns"] = texts.names
    if labels.is_hot:
        data["label_columns"] = [column.name for column in labels.columns]
    else:
        data["label_column"] = labels.columns[0].name
    if labels.task == "multi_label" and not labels.is_hot:
        data["label_separator"] = labels.separator or "|"
    if labels.names:
        data["label_names"] = list(labels.names)
    if plan.label_map:
        data["label_map"] = dict(plan.label_map)
    data |= plan.fractions
    if plan.drop_invalid_rows:
        data["drop_invalid_rows"] = True
    model: dict[str, Any] = {"base": plan.base.name}
    if plan.base.revision:
        model["revision"] = plan.base.revision
    if plan.length is not None:
        model["max_length"] = plan.length.tokens
    values = {
        "output_dir": output_dir,
        "task": labels.task,
        "method": request.method,
        "data": data,
        "model": model,
        **_training(plan),
    }
    return _merged(values, request.overrides)


def _training(plan: Plan) -> dict[str, Any]:
    """Return values that were measured with LoRA on a small base; see configs/."""
    if plan.request.method != "lora":
        return {}
    rows, task = plan.sample.num_read, plan.labels.task
    recipe = lora_recipe(rows, len(plan.labels.counts), task)
    trainer = {
        "num_train_epochs": recipe.epochs if rows <= _MANY_ROWS else 2,
        "learning_rate": recipe.learning_rate,
        "per_device_train_batch_size": 32,
        "logging_steps": 10 if rows <= _SOME_ROWS else 50,
    }
    smoothing = recipe.label_smoothing
    return {**({"loss": {"label_smoothing": smoothing}} if smoothing else {}), "trainer": trainer}


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _merged(values: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(values)
    for key, value in given.items():
        inner = made.get(key)
        both = isinstance(inner, dict) and isinstance(value, Mapping)
        made[key] = _merged(dict(inner or {}), value) if both else value
    return made


def comments(plan: Plan) -> dict[str, str]:
    """Return what is said beside keys."""
    labels, length = plan.labels, plan.length
    found = {
        "method": _METHODS.get(plan.request.method, ""),
        "output_dir": "checkpoints, bundle and reports go here",
        "task": "one label per text" if labels.task == "single_label" else "any number of labels",
        "data.template": "one text from two columns; clients send it in the same form",
        "data.drop_invalid_rows": _dropped(plan),
        "data.label_map": "names of the labels",
        "data.label_names": "names of the zeros and ones, in their order; write your own",
        "model.base": plan.base.reason,
        "model.max_length": length.reason if length else "",
        "data.column_names": "the file has no header line",
        "trainer.num_train_epochs": "passes over the training rows",
    }
    if plan.fractions:
        found["data.validation_fraction"] = (
            "larger than usual, as there are few rows"
            if plan.fractions.get("validation_fraction", 1.0) > 0.1
            else "about 500 rows choose and calibrate; the others train"
        )
    return found


def _dropped(plan: Plan) -> str:
    if plan.num_invalid:
        return f"{plan.num_invalid} rows without a text or a label are left out, and counted"
    return "not all rows were looked at: one without a text or a label is left out, and counted"


def to_yaml(values: Mapping[str, Any], notes: Mapping[str, str], head: list[str]) -> str:
    """Return YAML with comments. head: lines of the comment at the top."""
    lines = [f"# {line}".rstrip() for line in head]
    for key, value in values.items():
        if isinstance(value, dict):
            lines.append("")
            lines.append(f"{_scalar(key)}:")
            lines += [f"  {line}" for line in _entries(value, f"{key}.", notes)]
        else:
            lines += _entries({key: value}, "", notes)
    return "\n".join(lines) + "\n"


def _entries(values: Mapping[str, Any], prefix: str, notes: Mapping[str, str]) -> Iterator[str]:
    for key, value in values.items():
        note = notes.get(f"{prefix}{key}")
        yield f"{_scalar(key)}: {_shown(value)}" + (f"  # {_one_line(note)}" if note else "")


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_scalar(k)}: {_shown(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """Return a scalar as YAML 1.2 reads it back, and where possible 1.1 too."""
    if isinstance(value, str):
        is_plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
        return value if is_plain else json.dumps(value, ensure_ascii=not value.isprintable())
    if isinstance(value, float):
        return f"{value:g}" if "e" not in f"{value:g}" else f"{value:.1e}".replace("e-0", "e-")
    return json.dumps(value)
