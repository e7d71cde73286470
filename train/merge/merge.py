"""From adapter to bundle: merge, compare, calibrate, export, seal.

A difference of logits over the tolerance between the trained, the merged and the reloaded model
refuses the bundle; `train.merge.parity` compares them.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serve.bundle.seal import Bundle
from serve.inference.placement import pick_device
from train.config.refusal import Refused
from train.config.run import RunConfig
from train.data.splits import LabelledData, load_data
from train.fit.choice.record import resolve
from train.fit.resume import changes, run_identity
from train.merge.bf16 import compare_bf16
from train.merge.calibrate import calibrate
from train.merge.int8 import add_int8
from train.merge.sealing import record_validation_metrics, seal_run
from train.merge.weights import merge_weights
from train.preflight import read_fitted


class MergeRefused(Refused):
    """The merged model differs from the trained one; the message states by how much."""


def merge(config: RunConfig, *, device: str = "auto") -> Bundle:
    """Make `output_dir/bundle` from `output_dir/adapter`.

    Raises ValueError if there is no adapter or it was trained with a different configuration
    or data, and MergeRefused if the logits of adapter, merged and reloaded model differ.
    """
    device = pick_device(device)
    adapter = config.output_dir / "adapter"
    fitted = read_fitted(adapter)
    data = load_data(config)
    check_unchanged(adapter, fitted["run"], config, data)
    config = resolve(config, fitted)
    staging = config.output_dir / ".bundle.staging"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        merged = merge_weights(
            config, adapter, data, staging, device, precision=fitted["precision"]
        )
        refuse_differences(merged.parity)
        assert merged.reference_NC is not None
        calibration = calibrate(
            merged.logits_NC,
            merged.reference_NC,
            merged.temperature,
            config.calibration,
            task=config.task,
            labels=data.labels,
            texts=data.validation.texts,
            checkpoints=(checkpoints := num_checkpoints(fitted["log_history"])),
            notes=merged.notes,
        )
        merged.parity.update(compare_bf16(staging, config, data, merged, calibration, device))
        int8 = None
        if config.export_int8:
            int8, calibration = add_int8(
                staging, config, data, merged, calibration, checkpoints=checkpoints
            )
        bundle = seal_run(
            staging, config, data, merged, calibration, int8, fitted=fitted, device=device
        )
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return record_validation_metrics(bundle, config, data, device=device)


def num_checkpoints(log_history: Sequence[dict[str, Any]]) -> int:
    """Count the checkpoints that the validation split chose among; 1 where it chose none."""
    return max(1, len({entry["step"] for entry in log_history if "eval_loss" in entry}))


def check_unchanged(
    adapter: Path, trained: dict[str, Any], config: RunConfig, data: LabelledData
) -> None:
    """Raise ValueError if the adapter was trained with a different configuration or data."""
    now = run_identity(config, data, global_batch=trained["global_batch"])
    precision = trained.get("precision")  # merge computes in fp32 in any case
    found = changes(trained, {**now, "precision": precision})
    bf16 = bool(config.trainer.get("bf16", precision == "bf16"))
    if config.method != "probe" and bf16 != (precision == "bf16"):
        found.append(f"precision: {precision!r} there, trainer.bf16={bf16} now")
    if found:
        raise ValueError(
            f"`{adapter}` was trained with a different configuration or data "
            f"({'; '.join(sorted(found))}); run merge with the configuration and data used by "
            "fit, or rerun `textloop fit`"
        )


def refuse_differences(parity: dict[str, float]) -> None:
    """Raise MergeRefused if the model is not the one that was trained."""
    worst = max(value for name, value in parity.items() if name.startswith("adapter_"))
    if not worst <= parity["tolerance"]:  # NaN is refused too
        raise MergeRefused(
            f"logits of adapter, merged and reloaded model differ by up to {worst:.2e}, "
            f"over the tolerance of {parity['tolerance']:.0e}"
        )
