"""From adapter to bundle: merged in fp32, proved equal, sealed.

On real validation texts, the logits of three models are compared: base with adapter, merged
weights in memory, and merged weights written to the disk and loaded by the stock class. A
difference over `TOLERANCE` refuses the bundle.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from serve.backends.torch import TorchBackend
from serve.bundle import Bundle, record_metrics, seal
from serve.predictor import Predictor, batched_logits, pick_device
from serve.scores import Array
from serve.text import TextEncoder
from train.config import RunConfig
from train.data import LabelledData, load_data
from train.evaluate import measure
from train.model import load_base, peft_warnings_off
from train.resume import differences, run_identity

TOLERANCE = 1e-4
"""Largest allowed absolute difference of logits, in fp32."""

PARITY_TEXTS = 512
"""Validation texts on which the three models are compared."""


class MergeRefused(Exception):
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
        parity = _merge_into(staging, adapter, config, data, pick_device(device))
        worst = max(value for name, value in parity.items() if name.startswith("adapter_"))
        if not worst <= TOLERANCE:  # NaN is refused too
            raise MergeRefused(
                f"logits of adapter, merged and reloaded model differ by up to {worst:.2e}, "
                f"over the tolerance of {TOLERANCE:.0e}"
            )
        bundle = seal(
            staging,
            config.output_dir / "bundle",
            task=config.task,
            labels=data.labels,
            text_columns=config.data.text_columns,
            max_length=config.model.max_length,
            base_model={
                "base": config.model.base,
                "revision": config.model.revision,
                "weights_sha256": trained["base_weights_sha256"],
            },
            config=config.model_dump(mode="json"),
            data=data.fingerprints,
            parity=parity,
            code_revision=_code_revision(),
            versions={
                name: version(name)
                for name in ("textloop", "torch", "transformers", "peft", "tokenizers")
            },
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    metrics = measure(Predictor.load(bundle.path, device=device), data.validation, config.seed)
    return record_metrics(bundle, "validation", metrics.intervals)


def _merge_into(
    staging: Path, adapter: Path, config: RunConfig, data: LabelledData, device: str
) -> dict[str, float]:
    """Write the merged model directory; the largest differences of logits on the way."""
    # Under `method: full` the directory holds the whole model and nothing is merged.
    encoder = TextEncoder.from_directory(
        adapter, max_length=config.model.max_length, is_pair=config.is_pair
    )
    encodings = encoder.encode(data.validation.texts[:PARITY_TEXTS])
    parity: dict[str, float] = {"texts": len(encodings), "tolerance": TOLERANCE}

    def logits(backend: TorchBackend) -> Array:
        return batched_logits(backend, encoder, encodings, batch_size=32)

    if config.method == "lora":
        from peft import PeftModel

        base = load_base(config, data.labels)
        settings = base.model.config
        with peft_warnings_off():
            model: Any = PeftModel.from_pretrained(base.model, adapter)
        trained_NC = logits(TorchBackend(model, device=device))
        model = model.merge_and_unload(safe_merge=True)
        model.config = settings
        merged_NC = logits(TorchBackend(model, device=device))
        parity["adapter_merged"] = float(np.abs(trained_NC - merged_NC).max())
    else:
        backend = TorchBackend.load(adapter, device=device)
        model = backend.model
        trained_NC = logits(backend)
    model.save_pretrained(staging)
    # The length that the model was trained with, for pipelines that truncate by it.
    encoder.tokenizer.model_max_length = config.model.max_length
    encoder.tokenizer.save_pretrained(staging)
    reloaded_NC = logits(TorchBackend.load(staging, device=device))
    parity["adapter_reloaded"] = float(np.abs(trained_NC - reloaded_NC).max())
    return parity


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
