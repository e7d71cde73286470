"""Validate and audit the data before training: `textloop prepare`.

Writes `output_dir/prepare/`: `report.html` for people, `report.json` for programs, and
`fixes.jsonl` with suggestions for a person to review (see `train.data.fixes`). Changes no data.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from serve.files import write_atomic
from serve.inference.cores import usable_cores
from serve.inference.placement import pick_device
from train.audit.advice import balanced_probs
from train.audit.audit import Audit, LabelJudgement, audit
from train.audit.embed import embed, token_counts
from train.audit.label_errors import LabelIssues
from train.audit.planted import fit_judge
from train.audit.report import report_html
from train.config.run import RunConfig
from train.data.fixes import write_fixes
from train.data.rows import SplitName
from train.data.split_checks import check_metric
from train.data.splits import InvalidRow, LabelledData, Split, load_data
from train.evaluation.measure import reference
from train.model.base import Base, load_base
from train.report.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The data, the audit, and the directory of its report."""

    data: LabelledData
    audit: Audit
    directory: Path


def prepare(config: RunConfig, *, device: str = "auto") -> Prepared:
    """Read, validate and audit the data of a run, and write the report.

    Unusable rows are reported, not refused. Raises ValueError for a source that cannot be read,
    a split without rows, and a label that train does not have.
    """
    directory = config.output_dir / "prepare"
    fixes_file = directory / "fixes.jsonl"
    if config.data.fixes and Path(config.data.fixes).resolve() == fixes_file.resolve():
        raise ValueError(
            f"data.fixes is `{fixes_file}`, which prepare overwrites; keep the reviewed file "
            "elsewhere"
        )
    torch.set_num_threads(config.cpu_threads or usable_cores())
    invalid: list[InvalidRow] = []
    data = load_data(config, invalid=invalid)
    if config.method != "probe":
        metric = config.trainer.get("metric_for_best_model") or ""
        check_metric(metric, data.labels, data.validation.labels)
    # The audit pools the hidden states itself.
    native = config.model.model_copy(update={"pooling": "native"})
    base = load_base(config.model_copy(update={"model": native}), data.labels)
    found = audit(
        config,
        data,
        invalid=invalid,
        num_invalid=data.num_dropped,
        tokens={name: token_counts(base, split.texts) for name, split in data.splits.items()},
        judgement=_judge_labels(config, data, base, device) if config.audit.label_errors else None,
    )
    _write(directory, found, data)
    return Prepared(data=data, audit=found, directory=directory)


def _judge_labels(config: RunConfig, data: LabelledData, base: Base, device: str) -> LabelJudgement:
    """Check train by the probes of the other folds, and the other splits by all probes.

    The other splits are embedded only if the probes turn out to be reliable.
    """
    picked = pick_device(device)
    total = sum(map(len, data.splits.values()))
    issues: dict[SplitName, LabelIssues] = {}
    with Progress("embed", total) as bar:

        def features(split: Split) -> Any:
            return embed(base, split.texts, device=picked, progress=bar.update)

        given_NC = reference(data.train, data.labels)
        train_ND = features(data.train)
        options = {"folds": config.audit.folds, "seed": config.seed}
        judge = fit_judge(train_ND, given_NC, config.task, **options)
        judgement = LabelJudgement(
            reliability=judge.reliability,
            issues=issues,
            probs_NC=judge.probes.probs_NC,
            given_NC=given_NC,
            balanced_NC=balanced_probs(train_ND, given_NC, config, **options),
        )
        if judge.reliability.threshold is None:
            return judgement
        for name, split in data.splits.items():
            probs_NC = (
                judge.probes.probs_NC
                if name == "train"
                else judge.probes.predict_unseen(features(split))
            )
            issues[name] = judge.issues(probs_NC, reference(split, data.labels))
    return judgement


def _write(directory: Path, found: Audit, data: LabelledData) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    _keep_reviewed(directory)
    fixes_file = directory / "fixes.jsonl"
    write_fixes(fixes_file, found.fixes)
    actions = [fix.action for fix in found.fixes]
    summary: dict[str, Any] = {
        "splits": {name: split.fingerprint for name, split in data.splits.items()},
        "fixes_applied": data.fixes,
        "notes": list(data.notes),
        "counts": found.counts,
        "suggestions": {name: actions.count(name) for name in ("drop", "relabel")},
        "suggestions_sha256": hashlib.sha256(fixes_file.read_bytes()).hexdigest(),
        "labels": found.label_counts,
        "imbalance": found.imbalance,
        "advice": [asdict(each) for each in found.advice],
        "tokens": found.tokens,
        "label_check": asdict(found.reliability) if found.reliability else None,
    }
    write_atomic(directory / "report.html", report_html(found, summary))
    summary["findings"] = [asdict(finding) for finding in found.findings]
    write_atomic(directory / "report.json", json.dumps(summary, indent=2).encode())


def _keep_reviewed(directory: Path) -> None:
    """Rename an edited file of suggestions, so that the new one does not overwrite it."""
    fixes_file, report = directory / "fixes.jsonl", directory / "report.json"
    if not fixes_file.is_file() or not report.is_file():
        return
    now = hashlib.sha256(fixes_file.read_bytes()).hexdigest()
    if now != json.loads(report.read_text(encoding="utf-8"))["suggestions_sha256"]:
        kept = directory / f"fixes-edited-{now[:8]}.jsonl"
        os.replace(fixes_file, kept)
        print(f"note: `{fixes_file}` was edited; renamed it to `{kept}`")


def summary_lines(prepared: Prepared) -> list[str]:
    """Summarize the splits, labels and findings for the command line."""
    data, found = prepared.data, prepared.audit
    lines = [
        f"{name:<10} {len(split):>8} rows  sha256 {split.fingerprint['sha256']}"
        for name, split in data.splits.items()
    ]
    lines += [f"note: {note}" for note in data.notes]
    rarest = list(found.label_counts)[-1]
    lines.append(
        f"{len(data.labels)} labels; the most frequent has {found.imbalance:.1f} times as many "
        f"training rows as the rarest ({rarest}: {found.label_counts[rarest]['train']})"
    )
    for each in found.findings:
        parts = ", ".join(f"{count} in {name}" for name, count in each.parts.items())
        title = each.title[0].lower() + each.title[1:]
        lines.append(f"{each.count:>8}  {title}{f' ({parts})' if parts else ''}")
    if found.reliability and found.reliability.reason:
        lines.append(f"note: suspect labels are not reported: {found.reliability.reason}")
    lines += [f"advice: {each.text}" for each in found.advice]
    actions = [fix.action for fix in found.fixes]
    lines.append(
        f"suggestions: drop {actions.count('drop')} rows, relabel {actions.count('relabel')}"
    )
    return lines
