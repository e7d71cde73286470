"""Run frozen layers once per text and cache their hidden states.

Where only the upper layers are trained, the output of the layers below never changes. Embeddings
and frozen layers run once per text, and every epoch starts from the cached hidden states, so a
step costs the upper layers alone, forward and backward.

The model itself is unchanged. A hook takes the cached states out of the call, skips the frozen
layers and passes the states to the first trained layer; without cached states the whole model
runs. This works for every architecture that runs its layers one after another;
`check_equivalence` rejects the others.

Shape suffixes: N texts, L tokens, T tokens of all texts, D features, C labels.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve.inference.backends.bulk import Bulk
from serve.inference.equivalence import check_equivalent, evaluating, move, to_tensors
from serve.inference.pooling import layers_of
from serve.inference.text import Batch, Encoding, TextEncoder

CACHED_HIDDEN_STATES = "cached_hidden_states"
"""Name of the cached states among a model's inputs."""

BATCH_TOKENS = 2048

TOLERANCE = 1e-4


class FrozenLayers:
    """The embeddings and lower layers of one model, skipped where their output is passed in."""

    def __init__(self, model: Any, *, num_trained: int) -> None:
        """num_trained: number of layers, from the top, that are not frozen."""
        self.model = model
        layers = layers_of(model)
        self.num_frozen = len(layers) - num_trained
        assert 0 < self.num_frozen < len(layers)
        self._states: Tensor | None = None
        self._returns_tuple = False
        for layer in layers[: self.num_frozen]:
            self._make_skippable(layer)
        self._first = layers[self.num_frozen]
        self._first.register_forward_pre_hook(self._pass_states, with_kwargs=True)
        model.register_forward_pre_hook(self._take_states, with_kwargs=True)

    def _make_skippable(self, layer: Any) -> None:
        forward = layer.forward

        def skippable(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._states is None:
                return forward(hidden_states, *args, **kwargs)
            return (hidden_states, None) if self._returns_tuple else hidden_states

        layer.forward = skippable

    def _take_states(self, _: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        # Kept until the next call: activation checkpointing runs a layer again after this one.
        self._states = kwargs.pop(CACHED_HIDDEN_STATES, None)
        return args, kwargs

    def _pass_states(self, _: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self._states is None:
            return args, kwargs
        if args:
            return (self._states, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._states}

    @torch.no_grad()
    def states(self, batch_NL: Batch, device: torch.device) -> Tensor:
        """Return the input of the first trained layer, (N, L, D), in fp32 on the CPU."""
        caught: list[Tensor] = []

        def catch(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
            caught.append(args[0] if args else kwargs["hidden_states"])
            raise _Caught

        def note_type(_: Any, __: Any, output: Any) -> None:
            self._returns_tuple = isinstance(output, tuple)

        layers = layers_of(self.model)
        hooks = [
            self._first.register_forward_pre_hook(catch, with_kwargs=True),
            layers[self.num_frozen - 1].register_forward_hook(note_type),
        ]
        try:
            self.model(**to_tensors(batch_NL, device))
        except _Caught:
            return caught[0].float().cpu()
        finally:
            for hook in hooks:
                hook.remove()
        raise ValueError("the first trained layer was never reached")

    def check_equivalence(
        self, encoder: TextEncoder, encodings: Sequence[Encoding], device: torch.device
    ) -> float:
        """Return the largest difference of logits between cached states and the whole model.

        Raises ValueError if it exceeds `TOLERANCE`.
        """
        batch = encoder.pad(encodings)
        inputs = to_tensors(batch, device)
        with evaluating(self.model, device):
            whole_NC = self.model(**inputs).logits
            states_NLD = self.states(batch, device).to(device)
            states_NLD[batch["attention_mask"] == 0] = 0.0
            upper_NC = self.model(**inputs, **{CACHED_HIDDEN_STATES: states_NLD}).logits
        return check_equivalent(
            upper_NC,
            whole_NC,
            TOLERANCE,
            message=f"without its lower layers {type(self.model).__name__} gives other logits "
            "(difference {:.1e})",
        )


class CachedHiddenStates:
    """The hidden states of one split's texts, in a memory-mapped file."""

    def __init__(self, path: Path, lengths: Sequence[int], width: int) -> None:
        self.ends_N = np.cumsum(lengths)
        self.lengths = list(lengths)
        self.states_TD: NDArray[np.float32] = np.memmap(
            path, dtype=np.float32, mode="r", shape=(int(self.ends_N[-1]), width)
        )

    def padded(self, rows: Sequence[int]) -> Tensor:
        """Return the states of these texts, (N, L, D), padded with zeros."""
        length = max(self.lengths[row] for row in rows)
        states_NLD = np.zeros((len(rows), length, self.states_TD.shape[1]), dtype=np.float32)
        for number, row in enumerate(rows):
            states_NLD[number, : self.lengths[row]] = self._states(row)
        return torch.from_numpy(states_NLD)

    def flat(self, rows: Sequence[int]) -> Tensor:
        """Return the states of these texts, concatenated, (1, T, D)."""
        return torch.from_numpy(np.concatenate([self._states(row) for row in rows])[None])

    def _states(self, row: int) -> NDArray[np.float32]:
        return self.states_TD[self.ends_N[row] - self.lengths[row] : self.ends_N[row]]


@torch.no_grad()
def store_states(
    frozen: FrozenLayers,
    encoder: TextEncoder,
    encodings: Sequence[Encoding],
    directory: Path,
    *,
    base: str,
    device: torch.device,
    progress: Callable[[int], object] = lambda rows: None,
) -> CachedHiddenStates:
    """Run the frozen layers over texts, or reuse the file of an earlier run in `directory`.

    base: identifies the content of the base; the file name is a hash of it, the number of layers
    and the token ids. progress: called with the number of texts after each batch.
    Raises ValueError if the disk has too little space, or the device for the model.
    """
    lengths = [len(encoding["input_ids"]) for encoding in encodings]
    digest = hashlib.sha256(f"{base} {frozen.num_frozen} {device.type}".encode())
    for encoding in encodings:
        for ids in encoding.values():
            digest.update(np.asarray(ids, dtype=np.int32).tobytes() + b";")
    width = int(frozen.model.config.hidden_size)
    path = directory / f"hidden-states-{digest.hexdigest()[:24]}.f32"
    if not path.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        needed, free = sum(lengths) * width * 4, shutil.disk_usage(directory).free
        if needed > free:
            raise ValueError(
                f"the hidden states of the frozen layers take {needed / 1e9:.1f} GB, but "
                f"`{directory}` has {free / 1e9:.1f} GB left; free some, choose another "
                "output_dir, or unset model.trained_layers"
            )
        _write(frozen, encoder, encodings, lengths, width, path, device, progress)
    return CachedHiddenStates(path, lengths, width)


def _write(
    frozen: FrozenLayers,
    encoder: TextEncoder,
    encodings: Sequence[Encoding],
    lengths: Sequence[int],
    width: int,
    path: Path,
    device: torch.device,
    progress: Callable[[int], object],
) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.staging")
    ends_N = np.cumsum(lengths)
    states_TD = np.memmap(temporary, np.float32, mode="w+", shape=(int(ends_N[-1]), width))
    move(frozen.model, device).eval()
    batches = batches_by_length(lengths, BATCH_TOKENS)

    def run(rows: Sequence[int]) -> Tensor:
        return frozen.states(encoder.pad([encodings[row] for row in rows]), device)

    results = Bulk(frozen.model, device).run(run, batches, lengths, together=False)
    for rows, found_NLD in zip(batches, results, strict=True):
        states_NLD = found_NLD.numpy()
        for number, row in enumerate(rows):
            states_TD[ends_N[row] - lengths[row] : ends_N[row]] = states_NLD[number, : lengths[row]]
        progress(len(rows))
    states_TD.flush()
    temporary.replace(path)


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return row numbers in batches of similar length, at most `max_tokens` with padding."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches and (len(batches[-1]) + 1) * lengths[row] <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


class _Caught(Exception):
    """Ends a forward pass once the states are known; the layers above need not run."""
