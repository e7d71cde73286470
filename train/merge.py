"""From adapter to bundle: merged in fp32, proved equal, sealed.

On real validation texts, the logits of three models are compared: base with adapter, merged
weights in memory, and merged weights written to the disk and loaded by the stock class. A
difference over `TOLERANCE` refuses the bundle.

The int8 export for CPUs is held against the full-precision model on the validation split:
it ships if it loses at most `MAX_LOSS` of accuracy and at least `MIN_AGREEMENT` of the texts
keep their labels. Otherwise the bundle goes without it, and its manifest says why.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from serve.backends.onnx import FILE as ONNX_FILE
from serve.backends.onnx import OnnxBackend
from serve.backends.torch import TorchBackend
from serve.bundle import Bundle, Int8Export, Measured, record_metrics, seal
from serve.predictor import Predictor, batched_logits, pick_device, usable_cores
from serve.scores import Array, activate, default_activation
from serve.stats import paired_difference
from serve.text import Text, TextEncoder, TokenizerRules
from train.config import RunConfig
from train.data import LabelledData, load_data
from train.evaluate import BACKEND_SPLITS, measure, reference
from train.metrics import Choice, chosen
from train.model import load_base, peft_warnings_off
from train.portable import portable, portable_config
from train.resume import differences, run_identity

TOLERANCE = 1e-4
"""Largest allowed absolute difference of logits, in fp32."""

PARITY_TEXTS = 512
"""Validation texts on which the three models are compared."""


VERSIONS = ("textloop", "torch", "transformers", "peft", "tokenizers", "onnxruntime")
"""Libraries whose versions go into the manifest."""

CALIBRATION_TEXTS = 512
"""Training texts on which the export measures the range of each channel."""

MAX_LOSS = 0.003
"""Largest loss of accuracy with which the int8 export ships."""

MIN_AGREEMENT = 0.99
"""Least share of validation texts that the int8 export must label as full precision does."""


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
        encoder = TextEncoder.from_directory(
            staging, max_length=config.model.max_length, is_pair=config.is_pair
        )
        int8 = _export_into(staging, encoder, config, data) if config.export_int8 else None
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
            code_revision=_code_revision(),
            versions={
                name: version(name)
                for name in (
                    "textloop",
                    "torch",
                    "transformers",
                    "peft",
                    "tokenizers",
                    "onnxruntime",
                )
            },
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


def _export_into(
    staging: Path, encoder: TextEncoder, config: RunConfig, data: LabelledData
) -> Int8Export:
    """Write the int8 export into `staging` if it passes its gate; what was found either way."""
    from train.export import export_int8

    encodings = encoder.encode(data.validation.texts)
    file = staging / ONNX_FILE
    try:
        typical = encoder.encode(data.train.texts[:CALIBRATION_TEXTS])
        batches = [encoder.pad(typical[n : n + 2]) for n in range(0, len(typical) - 1, 2)]
        export_int8(staging, batches, file)
        backend = OnnxBackend.load(staging, streams=usable_cores())
    except Exception as error:  # what an architecture can raise here is open
        file.unlink(missing_ok=True)
        return Int8Export(shipped=False, reason=f"it could not be exported: {error!r:.300}")
    full = TorchBackend.load(staging, device="cpu")
    result = judge_int8(
        batched_logits(full, encoder, encodings, batch_size=32),
        batched_logits(backend, encoder, encodings, batch_size=32),
        reference(data.validation, data.labels),
        task=config.task,
    )
    if not result.shipped:
        shutil.rmtree(file.parent)
    return result


def judge_int8(full_NC: Array, int8_NC: Array, reference_NC: Choice, *, task: str) -> Int8Export:
    """Hold the export's logits against full precision's, both of shape (N, C)."""
    first_NC, second_NC = (
        chosen(activate(logits_NC, default_activation(task)), task)
        for logits_NC in (full_NC, int8_NC)
    )
    agreement = float((first_NC == second_NC).all(axis=1).mean())
    first_N, second_N = ((each == reference_NC).all(axis=1) for each in (first_NC, second_NC))
    value, low, high = paired_difference(first_N, second_N)
    figures = (
        f"accuracy {first_N.mean():.4f} becomes {second_N.mean():.4f}, difference {value:+.4f} "
        f"[{low:+.4f}, {high:+.4f}], {agreement:.2%} of {len(full_NC)} labels agree"
    )
    problems = []
    if not agreement >= MIN_AGREEMENT:
        problems.append(f"fewer than {MIN_AGREEMENT:.0%} of the labels agree")
    if not value >= -MAX_LOSS:
        problems.append(f"the loss of accuracy is over {MAX_LOSS}")
    if not np.isfinite(int8_NC).all():
        problems.append("logits are not finite")
    return Int8Export(
        shipped=not problems,
        reason="; ".join([*problems, figures]),
        texts=len(full_NC),
        agreement=agreement,
        accuracy_fp32=float(first_N.mean()),
        accuracy_int8=float(second_N.mean()),
        difference=Measured(value=value, low=low, high=high),
        max_logit_difference=float(np.abs(full_NC - int8_NC).max()),
    )


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
    assert encoder.tokenizer is not None
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
