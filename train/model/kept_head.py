"""Go on from a bundle's head: labels that it knows keep their rows.

`model.base: bundle:DIR` starts from the weights that are served. A label that the bundle knows, by
its own name or by one that `data.label_map` gives it, keeps its row of the last layer; the rows of
new labels are fitted on the frozen features (`train.model.new_rows`).

Shape suffixes: D features, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn


def keep_rows(
    head: nn.Linear,
    name: str,
    bundle: Path,
    known: tuple[str, ...],
    labels: tuple[str, ...],
    label_map: Mapping[str, str],
) -> tuple[int, ...]:
    """Copy the rows of known labels into `head`, in place; return the outputs of the others.

    head, name: the last layer, and its name in the weights. known: the bundle's labels in order.
    Labels that were given one name start from the mean of their rows; new ones from zero.
    Raises ValueError if the bundle's head is another layer.
    """
    old = _tensors(bundle, [f"{name}.weight", f"{name}.bias"])
    weight_CD = old.get(f"{name}.weight")
    if weight_CD is None or weight_CD.shape != (len(known), head.in_features):
        raise ValueError(f"`{bundle}` has no layer `{name}` with one row per label")
    bias_C = old.get(f"{name}.bias", torch.zeros(len(known)))
    now = [label if label in labels else label_map.get(label) for label in known]
    new = []
    with torch.no_grad():
        for output, label in enumerate(labels):
            rows = [row for row, each in enumerate(now) if each == label]
            if not rows:
                new.append(output)
            head.weight[output] = weight_CD[rows].float().mean(dim=0) if rows else 0.0
            if head.bias is not None:
                head.bias[output] = bias_C[rows].float().mean() if rows else 0.0
    return tuple(new)


def _tensors(bundle: Path, names: list[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in sorted(bundle.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            present = set(names).intersection(weights.keys())
            found |= {name: weights.get_tensor(name) for name in present}
    return found
