"""The measurements of `scripts/gpu_session` that no other script makes.

Each prints a Markdown table. Shape suffixes: N texts, L tokens.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

CUDA = torch.device("cuda")
SHAPES = {"MiniLM-L6": (384, 6, 12), "BERT-base": (768, 12, 12), "BERT-large": (1024, 24, 16)}
"""Hidden size, layers and attention heads; weights are random, which leaves the speed alone."""

VOCABULARY, POSITIONS = 30522, 512


def seconds_of(run: Callable[[], Any], repeats: int) -> float:
    """Median time of a call, the first one not counted, until all of its work is done."""
    times = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def ceilings(*, small: bool) -> None:
    """Print what the device copies and multiplies at most."""
    size = 256 if small else 8192
    a = torch.randn(size, size, device=CUDA, dtype=torch.bfloat16)
    host = torch.empty(size * size, dtype=torch.float32, pin_memory=True)
    product_s = seconds_of(lambda: a @ a, 10)
    copy_s = seconds_of(lambda: host.to(CUDA, non_blocking=True), 10)
    print("| ceiling | value |\n| --- | ---: |")
    print(f"| bf16 product of {size} x {size} | {2 * size**3 / product_s / 1e12:.1f} TFLOP/s |")
    print(f"| page-locked copy to the device | {4 * size**2 / copy_s / 1e9:.1f} GB/s |")


def forward_sweep(*, small: bool) -> None:
    """Print tokens/s of bare passes, packed and padded, by size of model and batch."""
    from serve.inference.backends.torch import TorchBackend

    names = ["MiniLM-L6"] if small else list(SHAPES)
    sizes = (512,) if small else (512, 4096, 32768, 131072)
    print("| model | tokens per text | tokens per batch | packed, tokens/s | padded, tokens/s |")
    print("| --- | ---: | ---: | ---: | ---: |")
    generator = np.random.default_rng(0)
    for name in names:
        backend = TorchBackend(random_classifier(name, 77).to(torch.bfloat16), device="cuda")
        packed = backend.packed
        for mean in (16, 64, 256):
            for tokens in sizes:
                batch_NL = random_batch(generator, mean, max(1, tokens // mean))
                count = int(batch_NL["attention_mask"].sum())
                rates = []
                for backend.packed in (packed, None):
                    seconds = seconds_of(partial(backend.forward, batch_NL), 3 if small else 5)
                    rates.append(f"{count / seconds:.0f}")
                if packed is None:
                    rates[0] = f"padded: {backend.padded_because}"
                print(f"| {name} | {mean} | {count} | {' | '.join(rates)} |", flush=True)


def random_classifier(name: str, num_labels: int) -> Any:
    """Create a BERT of that shape."""
    from transformers import BertForSequenceClassification

    return BertForSequenceClassification(shape_of(name, num_labels=num_labels)).eval()


def shape_of(name: str, **more: Any) -> Any:
    """Return the configuration of a BERT of that shape."""
    from transformers import BertConfig

    hidden, layers, heads = SHAPES[name]
    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=POSITIONS,
        **more,
    )


def random_batch(generator: Any, mean: int, texts: int) -> dict[str, Any]:
    """Return a padded batch of texts of half to one and a half times `mean` tokens."""
    lengths_N = generator.integers(mean // 2, mean + mean // 2 + 1, texts)
    mask_NL = (np.arange(lengths_N.max()) < lengths_N[:, None]).astype(np.int64)
    ids_NL = generator.integers(1000, VOCABULARY, mask_NL.shape) * mask_NL
    return {"input_ids": ids_NL, "attention_mask": mask_NL}


def formats(bundle: Path, texts: list[Any]) -> None:
    """Print how far bf16, packed and padded, and TF32 are from fp32 on the CPU."""
    from serve.inference.backends.torch import TorchBackend
    from serve.inference.predictor import Predictor

    texts = texts[:200]
    cpu = Predictor.load(bundle, device="cpu", backend="torch")
    full_NC = cpu.predict(texts)
    half = TorchBackend.load(bundle, device="cuda", precision="bf16")
    fp32 = TorchBackend.load(bundle, device="cuda")
    print(f"packed: {half.padded_because or 'yes'}\n")
    print("| on the GPU | largest difference of a probability | labels equal |")
    print("| --- | ---: | ---: |")
    padded = TorchBackend.load(bundle, device="cuda", precision="bf16")
    padded.packed = None
    for name, backend in {"bf16": half, "bf16, padded": padded, "fp32": fp32}.items():
        found_NC = Predictor(cpu.bundle, cpu.encoder, backend, batch_size=32).predict(texts)
        equal = (found_NC.argmax(axis=1) == full_NC.argmax(axis=1)).mean()
        print(f"| {name} | {np.abs(found_NC - full_NC).max():.1e} | {equal:.2%} |")


def syncs(config: Path, overrides: list[str], *, small: bool) -> None:
    """Print where the host waits for the device in some training steps, as PyTorch sees it."""
    import warnings
    from collections import Counter

    from transformers import TrainerCallback

    from serve.config import load_config
    from train.config.run import RunConfig
    from train.fit.fit import fit

    class Debug(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == first:
                torch.cuda.set_sync_debug_mode("warn")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == first + counted:
                torch.cuda.set_sync_debug_mode("default")

    first, counted = (1, 3) if small else (5, 20)
    steps = [f"trainer.max_steps={first + counted + 1}", "trainer.logging_steps=100"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(load_config(RunConfig, config, [*overrides, *steps]), callbacks=[Debug()])
    places = Counter(
        f"{Path(each.filename).name}:{each.lineno}"
        for each in caught
        if "synchronizing CUDA operation" in str(each.message)
    )
    print(f"waits in {counted} steps: {sum(places.values())}")
    for place, count in places.most_common():
        print(f"- {place}: {count}")
