"""Publish a sealed bundle, with its model card, to a directory, S3 or the Hub.

Decides what is published and under which name. The bundle is published unchanged: its version
and its sealed files stay the same, and `open_bundle` verifies them wherever they are downloaded.
The card and the evaluation's plots are added to them. The adapter, if requested, is published
under the target's name with `-adapter`, where peft loads it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from serve.bundle.manifest import CARD, MANIFEST, PLOTS
from serve.bundle.seal import Bundle, open_bundle
from serve.files import sha256_of
from serve.inference.pooling import is_pooled
from train.config.run import RunConfig
from train.portable import check_portable, portable
from train.publish.card import adapter_card, model_card
from train.publish.delivery import Package
from train.publish.targets import append_suffix, check_target, deliver

ADAPTER_CONFIG = "adapter_config.json"
_OWN = {"fit.json", "validation_logits.npy", CARD}
"""Files of the adapter's directory that are only for `merge`, or replaced on publishing."""


def publish(config: RunConfig, *, bundle: Path | None = None, to: str | None = None) -> list[str]:
    """Publish `bundle` (default: the run's) to `to` (default: `publish.to`).

    Returns one line per published model that says what was done. Raises ValueError for a bundle,
    a target or a token that cannot be used, and PublishRefused if the target holds other content
    under the tag or cannot be reached.
    """
    target = to or config.publish.to
    if target is None:
        raise ValueError("no publish target: set publish.to, or give --to TARGET")
    check_target(target)
    opened = open_bundle(bundle or config.output_dir / "bundle")
    method = config.method if config.method != "auto" else opened.manifest.config.get("method")
    if config.publish.adapter and method != "lora":
        raise ValueError(f"publish.adapter is set, but method: {method} trains no adapter")
    tag = config.publish.tag or opened.manifest.version
    private = config.publish.private
    with tempfile.TemporaryDirectory(prefix="textloop-") as directory:
        scratch = Path(directory)
        packages = {target: _bundle_package(config, opened, target, tag, scratch)}
        if config.publish.adapter:
            place = append_suffix(target, "-adapter")
            packages[place] = _adapter_package(config, opened, target, place, tag, scratch)
        machine = {
            "home directory": Path.home(),
            "working directory": Path.cwd(),
            "output_dir": config.output_dir,
            "temporary directory": Path(tempfile.gettempdir()),
        }
        for package in packages.values():
            check_portable(package.files, private=machine)
        lines = []
        for place, package in packages.items():
            delivery = deliver(place, package, private=private)
            done = "published" if delivery.changed else "already published"
            kind = "bundle" if package.marker == MANIFEST else "adapter"
            lines.append(f"{done}: {kind} {tag} at {delivery.place}")
        return lines


def _bundle_package(
    config: RunConfig, bundle: Bundle, target: str, tag: str, scratch: Path
) -> Package:
    manifest = bundle.manifest
    report = _report_of(config, manifest.version)
    plots = sorted(report[1].glob("*.png")) if report else []
    card = scratch / "bundle.md"
    card.write_text(
        model_card(
            manifest,
            config.publish,
            target=target,
            tag=tag,
            report=report[0] if report else None,
            plots=[f"{PLOTS}/{plot.name}" for plot in plots],
            pooled=is_pooled(bundle.path),
        ),
        encoding="utf-8",
    )
    files = {name: bundle.path / name for name in manifest.files}
    files |= {f"{PLOTS}/{plot.name}": plot for plot in plots}
    files |= {CARD: card, MANIFEST: bundle.path / MANIFEST}
    return Package(tag=tag, files=files, sealed=manifest.files, marker=MANIFEST)


def _report_of(config: RunConfig, version: str) -> tuple[dict[str, Any], Path] | None:
    """Find the evaluation of this version: `metrics.json` and its directory, or None."""
    for name in (PLOTS, f"{PLOTS}-{version}"):
        directory = config.output_dir / name
        file = directory / "metrics.json"
        if file.is_file():
            report = json.loads(file.read_text(encoding="utf-8"))
            if report.get("model_version") == version:
                return report, directory
    return None


def _adapter_package(
    config: RunConfig, bundle: Bundle, target: str, place: str, tag: str, scratch: Path
) -> Package:
    source = config.output_dir / "adapter"
    if not (source / ADAPTER_CONFIG).is_file():
        raise ValueError(f"publish.adapter is set, but `{source}` has no {ADAPTER_CONFIG}")
    check_merged(source, bundle)
    base = config.publish.base_model or portable(config.model.base)
    settings = scratch / ADAPTER_CONFIG
    settings.write_text(json.dumps(adapter_settings(source, base, config.model.revision), indent=2))
    card = scratch / "adapter.md"
    card.write_text(
        adapter_card(
            bundle.manifest,
            config.publish,
            base=base,
            target=target,
            place=place,
            tag=tag,
            pooled=is_pooled(bundle.path),
        ),
        encoding="utf-8",
    )
    files = {file.name: file for file in source.iterdir() if file.name not in _OWN}
    files |= {ADAPTER_CONFIG: settings}
    # Not sealed: its settings name the base, which may be renamed, for example to its Hub id.
    sealed = {name: sha256_of(path) for name, path in files.items() if name != ADAPTER_CONFIG}
    return Package(tag=tag, files=files | {CARD: card}, sealed=sealed, marker=ADAPTER_CONFIG)


def adapter_settings(adapter: Path, base: str, revision: str | None) -> dict[str, Any]:
    """Read an adapter's peft settings and replace the base's local path by its name."""
    settings: dict[str, Any] = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return settings | {"base_model_name_or_path": base, "revision": revision}


def check_merged(adapter: Path, bundle: Bundle) -> None:
    """Raise ValueError unless the bundle was merged from this adapter.

    Compares the trained head, which is saved with the adapter and merged unchanged except for
    the temperature in its last layer, and differs between any two training runs.
    """
    import numpy as np
    from safetensors import safe_open

    calibration = bundle.manifest.calibration
    temperature = calibration.temperature if calibration else 1.0
    merged: dict[str, Any] = {}
    for file in bundle.path.glob("*.safetensors"):
        with safe_open(file, framework="np") as weights:
            merged |= {name: file for name in weights.keys()}  # noqa: SIM118
    with safe_open(adapter / "adapter_model.safetensors", framework="np") as weights:
        for key in weights.keys():  # noqa: SIM118
            name = key.removeprefix("base_model.model.")
            if name not in merged:
                continue  # a low-rank factor, which merging removes
            with safe_open(merged[name], framework="np") as other:
                trained, found = weights.get_tensor(key), other.get_tensor(name)
                if not (
                    np.array_equal(trained, found)
                    or np.allclose(trained / temperature, found, rtol=1e-6, atol=0)
                ):
                    raise ValueError(
                        f"`{bundle.path}` was not merged from `{adapter}` (`{name}` differs); "
                        "run `textloop merge`, or set publish.adapter=false"
                    )
