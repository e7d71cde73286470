"""From adapter to bundle: merged in fp32, proved equal, sealed.

On real validation texts, the logits of four models are compared: the one in memory at the
end of training, base with adapter from the disk, merged weights in memory, and merged weights
written to the disk and loaded by the stock class. A difference over `TOLERANCE` refuses the
bundle. On the way the temperature that was fitted on the validation split is folded into the
last layer, so the reloaded model must give the trained logits divided by it; see
`train.merge.calibrate`.

Whether the int8 export for CPUs goes into the bundle is decided in `train.merge.int8`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from serve.bundle.manifest import TokenizerRules
from serve.bundle.seal import Bundle, record_metrics, seal
from serve.inference.backends.torch import TorchBackend
from serve.inference.placement import pick_device
from serve.inference.pooling import set_custom_model_type
from serve.inference.predictor import Predictor, batched_logits
from serve.inference.scores import Array
from serve.inference.text import Encoding, Text, TextEncoder, shortest_first
from train.config.refusal import Refused
from train.config.run import RunConfig
from train.data.splits import LabelledData, load_data
from train.evaluation.measure import BACKEND_SPLITS, measure, reference
from train.fit.encode import TRAINED_LOGITS
from train.fit.resume import differences, run_identity
from train.merge.calibrate import abstention, calibrate, fit_temperature, scale_head
from train.merge.int8 import export_into
from train.model.adapters import peft_warnings_off
from train.model.base import load_base
from train.portable import portable, portable_config
from train.statistics.metrics import Choice

TOLERANCE = 1e-4
"""Largest allowed absolute difference of logits, in fp32."""

PARITY_TEXTS = 512
"""Validation texts on which the three models are compared."""


VERSIONS = ("textloop", "torch", "transformers", "peft", "tokenizers", "onnxruntime")
"""Libraries whose versions go into the manifest."""


class MergeRefused(Refused):
    """The merged model is not the trained one; the message says by how much."""


def merge(config: RunConfig, *, device: str = "auto") -> Bundle:
    """Make `output_dir/bundle` from `output_dir/adapter`.

    Raises ValueError if there is nothing to merge or its data has changed since, and
    MergeRefused if the logits of adapter, merged and reloaded model differ.
    """
    adapter = config.output_dir / "adapter"
    if not (adapter / "fit.json").is_file():
        raise ValueError(f"`{adapter}` has no trained model; make it with `train fit`")
    fitted = json.loads((adapter / "fit.json").read_text(encoding="utf-8"))
    data = load_data(config)
    trained = fitted["run"]
    now = run_identity(config, data, global_batch=trained["global_batch"])
    if different := sorted(differences(trained, now)):
        raise ValueError(
            f"`{adapter}` was trained otherwise ({'; '.join(different)}); give merge the "
            "configuration and data that fit had, or run `train fit` again"
        )
    staging = config.output_dir / ".bundle.staging"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        merged = _merge_into(
            staging,
            adapter,
            config,
            data,
            pick_device(device),
            precision=fitted["precision"],
        )
        parity = merged.parity
        worst = max(value for name, value in parity.items() if name.startswith("adapter_"))
        if not worst <= TOLERANCE:  # NaN is refused too
            raise MergeRefused(
                f"logits of adapter, merged and reloaded model differ by up to {worst:.2e}, "
                f"over the tolerance of {TOLERANCE:.0e}"
            )
        encoder = TextEncoder.from_directory(
            staging, max_length=config.model.max_length, is_pair=config.is_pair
        )
        calibration = calibrate(
            merged.logits_NC,
            merged.reference_NC,
            merged.temperature,
            config.calibration,
            task=config.task,
            labels=data.labels,
        )
        int8 = None
        if config.export_int8:
            int8, int8_NC = export_into(
                staging,
                encoder,
                config,
                data,
                merged.logits_NC,
                merged.reference_NC,
                calibration,
            )
            if calibration and calibration.abstention and int8.shipped:
                found = abstention(
                    int8_NC, merged.reference_NC, calibration, config.calibration, task=config.task
                )
                both = {**calibration.abstention, "onnx": found}
                calibration = calibration.model_copy(update={"abstention": both})
        bundle = seal(
            staging,
            config.output_dir / "bundle",
            task=config.task,
            labels=data.labels,
            text_columns=config.data.text_columns,
            max_length=config.model.max_length,
            base_model={
                "base": portable(config.model.base),
                "revision": config.model.revision,
                "weights_sha256": trained["base_weights_sha256"],
            },
            config=portable_config(config),
            data=data.fingerprints,
            tokenizer=_tokenizer_rules(staging, encoder, data.validation.texts),
            parity=parity,
            int8=int8,
            calibration=calibration,
            code_revision=_code_revision(),
            versions={name: version(name) for name in VERSIONS},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for backend, split in BACKEND_SPLITS.items():
        if backend == "torch" or (int8 and int8.shipped):
            predictor = Predictor.load(
                bundle.path, device=device if backend == "torch" else "cpu", backend=backend
            )
            metrics = measure(predictor, data.validation, config.seed)
            bundle = record_metrics(bundle, f"validation{split}", metrics.intervals)
    return bundle


def _tokenizer_rules(staging: Path, encoder: TextEncoder, texts: Sequence[Text]) -> TokenizerRules:
    """The rules by which the server tokenizes: from the file alone only if that gives the same."""
    rules = encoder.rules
    if not rules.fast:
        return rules
    alone = TextEncoder.from_rules(
        staging, rules, max_length=encoder.max_length, is_pair=encoder.is_pair
    )
    same = alone.encode(texts) == encoder.encode(texts)
    return rules if same else rules.model_copy(update={"fast": False})


@dataclass(frozen=True, kw_only=True)
class _Merged:
    """A merged, calibrated model, and what it says on the validation split."""

    parity: dict[str, float]
    temperature: float
    logits_NC: Array
    """Calibrated logits of all validation rows."""
    reference_NC: Choice


def _merge_into(
    staging: Path,
    adapter: Path,
    config: RunConfig,
    data: LabelledData,
    device: str,
    *,
    precision: str,
) -> _Merged:
    """Write the merged, calibrated model directory; differences of logits found on the way."""
    # Under `method: full` the directory holds the whole model and nothing is merged.
    encoder = TextEncoder.from_directory(
        adapter, max_length=config.model.max_length, is_pair=config.is_pair
    )
    encodings = encoder.encode(data.validation.texts)
    compared = encodings[:PARITY_TEXTS]
    parity: dict[str, float] = {"texts": len(compared), "tolerance": TOLERANCE}

    def logits(backend: TorchBackend, texts: Sequence[Encoding] = compared) -> Array:
        return batched_logits(backend, encoder, texts, batch_size=32)

    if config.method == "lora":
        from peft import PeftModel

        base = load_base(config, data.labels)
        if config.model.quantize:
            # The weights that the adapters were trained on, not those before quantization.
            base.model.dequantize()
        settings = base.model.config
        with peft_warnings_off():
            model: Any = PeftModel.from_pretrained(base.model, adapter)
        trained_NC = logits(TorchBackend(model, device=device))
        model = model.merge_and_unload(safe_merge=True)
        model.config = settings
        all_NC = logits(TorchBackend(model, device=device), encodings)
        parity["adapter_merged"] = float(np.abs(trained_NC - all_NC[: len(compared)]).max())
    else:
        backend = TorchBackend.load(adapter, device=device)
        model = backend.model
        all_NC = logits(backend, encodings)
        trained_NC = all_NC[: len(compared)]
    reference_NC = reference(data.validation, data.labels)
    temperature = 1.0
    if config.calibration.temperature and np.isfinite(all_NC).all():  # else parity refuses
        temperature = fit_temperature(all_NC, reference_NC, config.task)
        scale_head(model, temperature)
    model.save_pretrained(staging)
    set_custom_model_type(staging)
    # The length that the model was trained with, for pipelines that truncate by it.
    assert encoder.tokenizer is not None
    encoder.tokenizer.model_max_length = config.model.max_length
    encoder.tokenizer.save_pretrained(staging)
    reloaded_NC = logits(TorchBackend.load(staging, device=device))
    parity["adapter_reloaded"] = float(np.abs(trained_NC / temperature - reloaded_NC).max())
    live_NC = np.load(adapter / TRAINED_LOGITS)
    live_NC[shortest_first(encodings)] = live_NC.copy()
    # Training in half precision gives other logits than fp32 by itself: reported, not limited.
    # After training in TF32 the trained model was evaluated in fp32.
    name = "adapter_live" if precision in ("fp32", "tf32") else f"live_{precision}"
    live_NC = live_NC[:PARITY_TEXTS] / temperature
    parity[name] = float(np.abs(live_NC - reloaded_NC).max())
    return _Merged(
        parity=parity,
        temperature=temperature,
        logits_NC=(all_NC / np.float32(temperature)).astype(np.float32),
        reference_NC=reference_NC,
    )


def _code_revision() -> str | None:
    """Commit of this code, with `+changes` if the checkout has uncommitted ones."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None
