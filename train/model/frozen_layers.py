"""Frozen layers, run once per text.

Where only the upper layers are trained, what the layers below make of a text never changes:
embeddings and frozen layers are run once, and every epoch starts from their output. A step
then costs the upper layers alone, forward as well as backward.

The model stays as it is. A hook takes the stored states out of the call, lets the frozen
layers through, and hands the states to the first trained layer; without stored states the
model runs as always. So this works for every architecture that passes its layers one after
another, and `check_equivalence` finds those that do not.

Shape suffixes: N texts, L tokens, T tokens of all texts, D features.
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

from serve.inference.pooling import layers_of
from serve.inference.text import Batch, Encoding, TextEncoder

CACHED_HIDDEN_STATES = "cached_hidden_states"
"""Name of the stored states among a model's inputs."""

BATCH_TOKENS = 2048


class FrozenLayersError(ValueError):
    """A model whose lower layers cannot be left out."""


class FrozenLayers:
    """Embeddings and the first layers of one model, whose output can be given in their place."""

    def __init__(self, model: Any, *, num_trained: int) -> None:
        """num_trained: layers, from the top, that are not part of the prefix."""
        self.model = model
        layers = layers_of(model)
        self.num_frozen = len(layers) - num_trained
        assert 0 < self.num_frozen < len(layers)
        self._states: Tensor | None = None
        self._tuple = False
        for layer in layers[: self.num_frozen]:
            self._let_through(layer)
        self._first = layers[self.num_frozen]
        self._first.register_forward_pre_hook(self._hand_over, with_kwargs=True)
        model.register_forward_pre_hook(self._take, with_kwargs=True)

    def _let_through(self, layer: Any) -> None:
        forward = layer.forward

        def through(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._states is None:
                return forward(hidden_states, *args, **kwargs)
            return (hidden_states, None) if self._tuple else hidden_states

        layer.forward = through

    def _take(self, _: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        # Kept until the next call: activation checkpointing runs a layer again after this one.
        self._states = kwargs.pop(CACHED_HIDDEN_STATES, None)
        return args, kwargs

    def _hand_over(self, _: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self._states is None:
            return args, kwargs
        if args:
            return (self._states, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._states}

    @torch.no_grad()
    def states(self, batch_NL: Batch, device: torch.device) -> Tensor:
        """What reaches the first trained layer, of shape (N, L, D), in fp32 on the CPU."""
        caught: list[Tensor] = []

        def catch(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
            caught.append(args[0] if args else kwargs["hidden_states"])
            raise _Caught

        def look(_: Any, __: Any, output: Any) -> None:
            self._tuple = isinstance(output, tuple)

        layers = layers_of(self.model)
        hooks = [
            self._first.register_forward_pre_hook(catch, with_kwargs=True),
            layers[self.num_frozen - 1].register_forward_hook(look),
        ]
        try:
            self.model(**{name: torch.from_numpy(ids).to(device) for name, ids in batch_NL.items()})
        except _Caught:
            return caught[0].float().cpu()
        finally:
            for hook in hooks:
                hook.remove()
        raise FrozenLayersError("the first trained layer was never reached")

    @torch.no_grad()
    def check_equivalence(
        self, encoder: TextEncoder, encodings: Sequence[Encoding], device: torch.device
    ) -> float:
        """Largest difference of logits between stored states and none.

        Raises PrefixError if it is over 1e-4.
        """
        training = self.model.training
        self.model.to(device).eval()
        try:
            batch = encoder.pad(encodings)
            inputs = {name: torch.from_numpy(ids).to(device) for name, ids in batch.items()}
            whole_NC = self.model(**inputs).logits
            states_NLD = self.states(batch, device).to(device)
            states_NLD[batch["attention_mask"] == 0] = 0.0
            upper_NC = self.model(**inputs, **{CACHED_HIDDEN_STATES: states_NLD}).logits
        finally:
            self.model.train(training)
        difference = float((whole_NC - upper_NC).abs().max())
        if not difference <= 1e-4:
            raise FrozenLayersError(
                f"without its lower layers {type(self.model).__name__} gives other logits "
                f"(difference {difference:.1e})"
            )
        return difference


class CachedHiddenStates:
    """The states of the texts of one split, in a file that is read where it is needed."""

    def __init__(self, path: Path, lengths: Sequence[int], width: int) -> None:
        self.ends_N = np.cumsum(lengths)
        self.lengths = list(lengths)
        self.states_TD: NDArray[np.float32] = np.memmap(
            path, dtype=np.float32, mode="r", shape=(int(self.ends_N[-1]), width)
        )

    def padded(self, rows: Sequence[int]) -> Tensor:
        """States of some texts, of shape (N, L, D), with zeros after the end of each."""
        length = max(self.lengths[row] for row in rows)
        states_NLD = np.zeros((len(rows), length, self.states_TD.shape[1]), dtype=np.float32)
        for number, row in enumerate(rows):
            end = self.ends_N[row]
            start = end - self.lengths[row]
            states_NLD[number, : self.lengths[row]] = self.states_TD[start:end]
        return torch.from_numpy(states_NLD)

    def flat(self, rows: Sequence[int]) -> Tensor:
        """States of some texts, one behind another, of shape (1, T, D)."""
        parts = [
            self.states_TD[self.ends_N[row] - self.lengths[row] : self.ends_N[row]] for row in rows
        ]
        return torch.from_numpy(np.concatenate(parts)[None])


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
    """Run the frozen layers over texts, or find their states in `directory` from before.

    base: names the base's weights; the file's name follows from it, the number of layers
    and the token ids. progress: told the number of texts after each batch.
    Raises PrefixError if the disk is too small for them.
    """
    lengths = [len(encoding["input_ids"]) for encoding in encodings]
    digest = hashlib.sha256(f"{base} {frozen.num_frozen} {device.type}".encode())
    for encoding in encodings:
        for ids in encoding.values():
            digest.update(np.asarray(ids, dtype=np.int32).tobytes() + b";")
    width = int(frozen.model.config.hidden_size)
    path = directory / f"prefix-{digest.hexdigest()[:24]}.f32"
    if not path.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        needed, free = sum(lengths) * width * 4, shutil.disk_usage(directory).free
        if needed > free:
            raise FrozenLayersError(
                f"the states of the frozen layers take {needed / 1e9:.1f} GB, and `{directory}` "
                f"has {free / 1e9:.1f} GB left; free some, choose another output_dir, or unset "
                "model.trained_layers"
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
    frozen.model.to(device).eval()
    for rows in batches_by_length(lengths, BATCH_TOKENS):
        batch = encoder.pad([encodings[row] for row in rows])
        states_NLD = frozen.states(batch, device).numpy()
        for number, row in enumerate(rows):
            states_TD[ends_N[row] - lengths[row] : ends_N[row]] = states_NLD[number, : lengths[row]]
        progress(len(rows))
    states_TD.flush()
    temporary.replace(path)


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Row numbers in batches of like length, each of at most `max_tokens` with padding."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches and (len(batches[-1]) + 1) * lengths[row] <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


class _Caught(Exception):
    """The states were seen; the layers above need not run."""
