"""The lines that `textloop import` prints."""

from __future__ import annotations

from collections.abc import Iterator

from serve.bundle.manifest import Manifest
from serve.inference.placement import STOCK_SINGLE
from train.importing.convert import Imported
from train.importing.labels import listed
from train.importing.parity import STOCK_BATCH


def summary_lines(imported: Imported) -> Iterator[str]:
    """What was imported, how it compares with the stock pipeline, what was fitted and measured."""
    bundle = imported.bundle
    manifest = bundle.manifest
    base = manifest.base_model
    at = f", commit {base['revision'][:12]}" if base["revision"] else ""
    yield f"imported {base['base']}{at}: {manifest.task}, {_taken(manifest)}"
    yield f"  {len(manifest.labels)} labels: {listed(manifest.labels)}"
    parity = manifest.parity
    yield (
        f"largest logit difference to the stock pipeline on {parity['texts']:.0f} texts: "
        f"{parity[STOCK_SINGLE]:.1e} alone, {parity[STOCK_BATCH]:.1e} in padded batches "
        f"(tolerance {parity['tolerance']:.0e})"
    )
    yield from (f"note: {note}" for note in imported.notes)
    yield from _fitted(manifest)
    if int8 := manifest.int8:
        yield f"int8 export for CPUs {'included' if int8.shipped else 'skipped'}: {int8.reason}"
    yield f"sealed {bundle.path}, version {manifest.version}"
    yield f"next: textloop serve {bundle.path}"


def _taken(manifest: Manifest) -> str:
    what = "pairs of texts" if manifest.is_pair else "texts"
    return f"{what} of at most {manifest.max_length} tokens"


def _fitted(manifest: Manifest) -> Iterator[str]:
    """Calibration and metrics, where there were labels."""
    if fitted := manifest.calibration:
        done = (
            "temperature 1, as imported"
            if fitted.temperature == 1.0
            else f"temperature {fitted.temperature:.3f}, folded into the last layer"
        )
        yield (
            f"{done}; on {fitted.rows} rows: log-loss {fitted.log_loss_before:.4f} -> "
            f"{fitted.log_loss_after:.4f}, calibration error {fitted.ece_before:.4f} -> "
            f"{fitted.ece_after:.4f}"
        )
        for backend, found in fitted.abstention.items():
            state = "" if found.abstain_below is not None else "none: "
            yield f"abstention on {backend}: {state}{found.reason}"
        yield from (f"note: {note}" for note in fitted.notes)
    if metrics := manifest.metrics.get("test"):
        rows = manifest.data["test"]["rows"]
        yield f"metrics on {rows} rows that chose nothing, with 95 % intervals:"
        yield from (f"  {name:<12} {measured}" for name, measured in metrics.items())
