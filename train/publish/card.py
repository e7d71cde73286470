"""The model card of a published model, in the Hub's format.

All values come from the manifest or from the evaluation of the same version; unknown ones are
omitted or stated as such. The commands and snippets run as printed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from serve.bundle.manifest import Manifest
from serve.inference.placement import STOCK_SINGLE
from train.config.sections import PublishSection
from train.publish.card_usage import adapter_usage, location, usage
from train.publish.markdown import code, json_block, plain

_HUB_DATA = re.compile(r"hub:(?P<name>[\w.-]+/[\w.-]+)")
_METRIC_TYPES = ("accuracy", "f1", "precision", "recall", "roc_auc", "brier", "ece")
_SHOWN_LABELS = 200
_WEAK_LABELS = 10


def model_card(
    manifest: Manifest,
    section: PublishSection,
    *,
    target: str,
    tag: str,
    report: Mapping[str, Any] | None,
    plots: Sequence[str],
    pooled: bool = False,
) -> str:
    """Write the README.md of a published bundle.

    target, tag: the destination, for the snippets. report: `evaluation/metrics.json` of this
    version, if there is one. plots: paths of the images in the bundle. pooled: the head is
    mean-pooled, see `serve.inference.pooling`.
    """
    name = target.rstrip("/").rpartition("/")[2].removeprefix("dir:") or tag
    count = {"single_label": "one", "multi_label": "any number"}[manifest.task]
    what = "pairs of texts" if manifest.is_pair else "texts"
    labels = [code(label) for label in manifest.labels]
    more = f" and {len(labels) - _SHOWN_LABELS} more" if len(labels) > _SHOWN_LABELS else ""
    parts = [
        _front_matter(manifest, section, name),
        f"# {plain(name)}",
        section.description or "",
        f"Classifies {what}: {count} of {len(manifest.labels)} labels each. Model version "
        f"`{manifest.version}`, sealed {manifest.created}.",
        "## Labels",
        ", ".join(labels[:_SHOWN_LABELS]) + more,
        "## Use",
        usage(manifest, target, tag, pooled=pooled),
        "## Data",
        _data(manifest),
        "## Origin" if manifest.is_imported else "## Training",
        _origin(manifest) if manifest.is_imported else _training(manifest, section),
        "## Metrics",
        _metrics(manifest),
        "\n\n".join(f"![{_title(plot)}]({plot})" for plot in plots),
        "## Limitations",
        _limits(manifest, report),
        "## Verify",
        "`manifest.json` contains the SHA-256 of every file of the model, and of itself. "
        "`serve.bundle.seal.open_bundle(directory)` verifies them all and names an altered file; "
        "loading through `serve` includes this check. This card and its plots are not sealed.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def adapter_card(
    manifest: Manifest,
    section: PublishSection,
    *,
    base: str,
    target: str,
    place: str,
    tag: str,
    pooled: bool = False,
) -> str:
    """Write the README.md of an adapter published at `place`.

    target: the location of the merged bundle. pooled: see `model_card`.
    """
    facts = ModelCardData(
        license=section.license,
        language=list(section.language) or None,
        base_model=_base_id(manifest, section),
        library_name="peft",
        pipeline_tag="text-classification",
        tags=["textloop", "lora"],
    )
    return "\n\n".join(
        [
            f"---\n{facts.to_yaml()}\n---",
            "# LoRA adapter",
            f"The adapter and head from which model version `{manifest.version}` was merged; "
            f"that model and its metrics are at {plain(location(target))}. Base: {code(base)}"
            + (f", weights SHA-256 {code(digest)}." if (digest := _base_digest(manifest)) else "."),
            adapter_usage(manifest, place, tag, pooled=pooled),
            "`BASE` is the base named above. The logits are in the order of the labels: "
            + ", ".join(code(label) for label in manifest.labels[:_SHOWN_LABELS])
            + ".\n",
        ]
    )


def _front_matter(manifest: Manifest, section: PublishSection, name: str) -> str:
    sources = _sources(manifest)
    hub_data = sorted({m["name"] for s in sources.values() if (m := _HUB_DATA.match(str(s)))})
    facts = ModelCardData(
        license=section.license,
        language=list(section.language) or None,
        base_model=_base_id(manifest, section),
        datasets=hub_data or None,
        pipeline_tag="text-classification",
        library_name="transformers",
        tags=["textloop", "text-classification", manifest.task.replace("_", "-")],
        model_name=name,
        eval_results=list(_results(manifest, sources)) or None,
    )
    return f"---\n{facts.to_yaml()}\n---"


def _results(manifest: Manifest, sources: Mapping[str, Any]) -> Iterable[EvalResult]:
    """Yield the metrics on the test rows for the model index, by which the Hub lists models."""
    source = str(sources.get("test") or sources.get("train"))
    match = _HUB_DATA.match(source)
    data = match["name"] if match else source.rpartition("/")[2]
    if manifest.is_imported:
        data = "texts named at import"
    for split, note in (("test", ""), ("test_int8", ", int8 export")):
        for metric, measured in manifest.metrics.get(split, {}).items():
            kind = next((kind for kind in _METRIC_TYPES if metric.startswith(kind)), metric)
            yield EvalResult(
                task_type="text-classification",
                dataset_type=data,
                dataset_name=data,
                dataset_split="test",
                metric_type=kind,
                metric_name=metric + note,
                metric_value=round(measured.value, 6),
            )


def _data(manifest: Manifest) -> str:
    sources = _sources(manifest)
    columns = ", ".join(code(column) for column in manifest.text_columns)
    if not manifest.data:
        return f"The model was imported without data.\n\nInput columns: {columns}."
    otherwise = "split from train by the hash of the text"
    if manifest.is_imported:
        otherwise = "named at import, divided by the hash of the text"
    lines = ["| split | source | rows | SHA-256 of the rows |", "| --- | --- | ---: | --- |"]
    for split, facts in manifest.data.items():
        source = sources.get(split)
        if source is not None and not isinstance(source, str):
            source = json.dumps(source, ensure_ascii=False)
        shown = code(source) if source else otherwise
        rows, digest = plain(facts.get("rows", "")), code(facts.get("sha256", ""))
        lines.append(f"| {plain(split)} | {shown} | {rows} | {digest} |")
    return "\n".join(lines) + f"\n\nInput columns: {columns}."


def _training(manifest: Manifest, section: PublishSection) -> str:
    base = manifest.base_model
    config = manifest.config
    facts = [
        ("base", base.get("base")),
        ("base on the Hub, as stated by the publisher", section.base_model),
        ("revision", base.get("revision")),
        ("SHA-256 of the base's weights", base.get("weights_sha256")),
        ("method", config.get("method")),
        ("chosen by auto", (manifest.choice or {}).get("reason")),
        ("seed", config.get("seed")),
        ("code revision", manifest.code_revision),
    ]
    versions = ", ".join(f"{name} {text}" for name, text in manifest.versions.items())
    shown = [
        *(f"- {name}: {code(value)}" for name, value in facts if value is not None),
        f"- maximum length: {manifest.max_length} tokens, including special tokens",
        f"- versions: {plain(versions)}",
    ]
    if difference := manifest.parity.get("adapter_reloaded"):
        shown.append(
            f"- largest logit difference between the trained model and this one, on "
            f"{manifest.parity.get('texts', 0):.0f} validation texts: {difference:.1e}"
        )
    return (
        "\n".join(shown)
        + "\n\nThe resolved configuration; all other settings have their library's default:"
        + f"\n\n{json_block(config)}"
    )


def _origin(manifest: Manifest) -> str:
    """State what was imported, and how close the bundle is to it."""
    base, parity = manifest.base_model, manifest.parity
    facts = [
        ("imported from", base.get("base")),
        ("commit", base.get("revision")),
        ("SHA-256 of its weights", base.get("weights_sha256")),
        ("precision of its weights", base.get("dtype")),
        ("code revision of the import", manifest.code_revision),
    ]
    versions = ", ".join(f"{name} {text}" for name, text in manifest.versions.items())
    shown = [
        "- trained elsewhere; Textloop does not know on which rows",
        *(f"- {name}: {code(value)}" for name, value in facts if value is not None),
        f"- maximum length: {manifest.max_length} tokens, including special tokens",
        f"- versions: {plain(versions)}",
    ]
    if STOCK_SINGLE in parity:
        shown.append(
            "- largest logit difference to the stock classes of transformers, on "
            f"{parity.get('texts', 0):.0f} texts: {parity[STOCK_SINGLE]:.1e}"
        )
    return "\n".join(shown)


def _metrics(manifest: Manifest) -> str:
    """Write one table per evaluated split, full precision next to int8."""
    parts = []
    for split in ("test", "validation"):
        full, int8 = (manifest.metrics.get(split + end, {}) for end in ("", "_int8"))
        if not full:
            continue
        rows = manifest.data.get(split, {}).get("rows")
        head = "| metric | full precision |" + (" int8 export, for CPUs |" if int8 else "")
        lines = [head, "| --- |" + " ---: |" * (head.count("|") - 2)]
        for name, measured in full.items():
            line = f"| {plain(name)} | {measured} |"
            lines.append(line + (f" {int8[name]} |" if name in int8 else ""))
        used = "the calibration was fitted" if manifest.is_imported else "the checkpoint was chosen"
        note = f", on which {used}" if split == "validation" else ""
        parts.append(
            f"On the {rows} rows of the {split} split{note}, with 95 % intervals (approximate, "
            "except for accuracy):\n\n" + "\n".join(lines)
        )
    if manifest.int8:
        included = "is included" if manifest.int8.shipped else "is not included"
        parts.append(f"The int8 export {included}: {plain(manifest.int8.reason)}.")
    return "\n\n".join(parts) or "No metrics were recorded."


def _limits(manifest: Manifest, report: Mapping[str, Any] | None) -> str:
    lines = []
    if accuracy := manifest.metrics.get("test", {}).get("accuracy"):
        rows = manifest.data.get("test", {}).get("rows")
        lines.append(f"Evaluated on the {rows} test rows above only.")
        if accuracy.low is not None and accuracy.high is not None:
            lines.append(
                f"The 95 % interval of the accuracy is {accuracy.high - accuracy.low:.4f} wide; "
                "it applies to texts from the same distribution as the test rows."
            )
    else:
        lines.append("Not evaluated on test rows.")
    if manifest.task == "single_label":
        lines.append("It assigns one of its labels to any text, even if none of them fits.")
    lines.append(f"Texts are truncated to {manifest.max_length} tokens.")
    if weak := weak_labels(report or {}):
        shown = ", ".join(f"{code(label)} {value:.4f}" for label, value in weak)
        lines.append(f"Labels with the lowest F1 on the test rows: {shown}.")
    return "\n".join(f"- {line}" for line in lines)


def weak_labels(report: Mapping[str, Any]) -> list[tuple[str, float]]:
    """List the labels with the lowest F1 in a report's `per_label`, worst first; ten at most."""
    found = [
        (str(values["label"]), float(values["f1"]["value"]))
        for values in report.get("per_label", [])
    ]
    return sorted(found, key=lambda item: (item[1], item[0]))[:_WEAK_LABELS]


def _sources(manifest: Manifest) -> dict[str, Any]:
    data = manifest.config.get("data", {})
    return {split: data.get(split) for split in ("train", "validation", "test")}


def _base_id(manifest: Manifest, section: PublishSection) -> str | None:
    """Return the Hub id of the base: as configured, or model.base if it has a revision."""
    base = manifest.base_model
    found: str | None = section.base_model or (base.get("base") if base.get("revision") else None)
    return found


def _base_digest(manifest: Manifest) -> str | None:
    digest: str | None = manifest.base_model.get("weights_sha256")
    return digest


def _title(plot: str) -> str:
    return plot.rpartition("/")[2].removesuffix(".png").replace("_", " ")
