"""A run that is done, as Python code and notebooks look at it."""

from __future__ import annotations

import html
from functools import cached_property
from pathlib import Path
from typing import Any

from serve.bundle.manifest import Manifest, Measured
from serve.bundle.seal import open_bundle
from serve.classifier.classifier import Classifier
from serve.command.folder import libraries_first
from train.evaluation.summary import table

SHOWN_METRICS = ("accuracy", "f1_macro", "f1_micro", "log_loss", "ece")
"""Metrics of the `repr`; all are in `metrics` and in the report."""

_FRAME = "width:100%;height:640px;border:1px solid #8886;border-radius:4px"


class Report:
    """A page that a stage wrote. A notebook shows it in a frame, where its styles stay."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<Report: {self.path}>"

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" sandbox="" title="{self.path}" style="{_FRAME}"></iframe>'


class Run:
    """The results of a run: its metrics, its report and its bundle."""

    def __init__(self, directory: str | Path) -> None:
        """directory: that of a run which was merged. Raises BundleError, a ValueError, if not."""
        self.directory = Path(directory)
        self.bundle = open_bundle(self.directory, verify=False).path

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle: configuration, calibration, versions, metrics."""
        return open_bundle(self.bundle, verify=False).manifest

    @property
    def labels(self) -> list[str]:
        """The labels that the model knows."""
        return list(self.manifest.labels)

    @property
    def metrics(self) -> dict[str, Measured]:
        """Metrics on the test rows, each a `value` with its 95 % interval from `low` to `high`."""
        return dict(self.manifest.metrics.get("test", {}))

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, loaded when it is first used."""
        with libraries_first():
            return Classifier.load(self.bundle)

    @property
    def reports(self) -> dict[str, Report]:
        """The pages that were written, by stage."""
        pages = {path.parent.name: path for path in self.directory.glob("*/report.html")}
        return {name: Report(path) for name, path in sorted(pages.items())}

    def __repr__(self) -> str:
        return "\n".join([f"<Run: {self.directory}>", *self._facts().values(), self._table()])

    def _repr_html_(self) -> str:
        facts = [
            f"<b>{html.escape(str(self.directory))}</b>",
            *map(html.escape, self._facts().values()),
        ]
        page = self.reports.get("evaluation")
        return f"<p>{'<br>'.join(facts)}</p><pre>{html.escape(self._table())}</pre>" + (
            page._repr_html_() if page else ""
        )

    def _facts(self) -> dict[str, str]:
        manifest = self.manifest
        data: dict[str, Any] = manifest.data
        rows = {name: each["rows"] for name, each in data.items() if "rows" in each}
        return {
            "method": f"method {manifest.config['method']}, {len(manifest.labels)} labels, "
            + ", ".join(f"{count} {name} rows" for name, count in rows.items()),
            "bundle": f"bundle: {self.bundle} (version {manifest.version})",
        }

    def _table(self) -> str:
        found = self.metrics
        return table({n: found[n] for n in SHOWN_METRICS if n in found}, task=self.manifest.task)
