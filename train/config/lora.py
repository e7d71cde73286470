"""The `lora` section of a run: fields of peft's LoraConfig under their own names.

Three fields have defaults of Textloop's own; the others are checked against peft, which is
imported only if one of them is set.
"""

from __future__ import annotations

import difflib
import json
import typing
import warnings
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from serve.config import Config

_OWNED = {
    "auto_mapping": "peft sets it",
    "base_model_name_or_path": "set model.base",
    "exclude_modules": "the head is trained in full, without an adapter",
    "inference_mode": "`fit` trains the adapters",
    "modules_to_save": "the head, and a pooler that was never trained, are always saved",
    "peft_type": "`method: lora` sets it",
    "peft_version": "peft sets it",
    "revision": "set model.revision",
    "task_type": "set task",
}
"""Fields of LoraConfig that Textloop sets, and what to set instead."""

_NARROWER: dict[str, Any] = {
    "lora_dropout": Annotated[float, Field(ge=0, lt=1)],
    # The others need a pass over data, or draw numbers that `merge` cannot reproduce.
    "init_lora_weights": bool | Literal["gaussian", "olora", "orthogonal", "pissa"],
}
"""Types of fields that take fewer values here than in peft."""


class LoraSection(Config):
    """Low-rank adapters (fields of peft's LoraConfig); refused unless method is lora."""

    model_config = ConfigDict(extra="allow")

    r: Annotated[int, Field(ge=1)] = 16
    """Rank of the update of each weight matrix."""

    lora_alpha: Annotated[int, Field(ge=1)] = 32
    """Scale: the update is multiplied by lora_alpha / r."""

    target_modules: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = (
        "all-linear"
    )
    """Names of the layers that get an adapter, or all-linear."""

    @field_validator("target_modules", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """Take a bare string as a name; peft would take it as a regular expression."""
        if value == "all-linear":
            return value
        names = [value] if isinstance(value, str) else value
        if not (isinstance(names, list | tuple) and names):
            raise ValueError("expected all-linear, or names of layers such as [query, value]")
        if any(not isinstance(name, str) or not name for name in names):
            raise ValueError("expected names of layers such as [query, value]")
        return tuple(names)

    @model_validator(mode="after")
    def _check_other_fields(self) -> Self:
        others = self.model_extra or {}
        for name in others:
            if name in _OWNED:
                raise ValueError(f"`lora.{name}` is managed by Textloop: {_OWNED[name]}")
        if others:
            _check_with_peft(others, self.model_dump(mode="json"))
        return self


def _check_with_peft(others: dict[str, Any], fields: dict[str, Any]) -> None:
    """Raise ValueError for an unknown name, a wrong type, or what LoraConfig itself refuses."""
    from peft import LoraConfig

    types = typing.get_type_hints(LoraConfig) | _NARROWER
    for name, value in others.items():
        if name not in types:
            known = sorted(types.keys() - _OWNED.keys())
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"
            raise ValueError(f"unknown key `lora.{name}`; {hint}")
        try:
            TypeAdapter(types[name]).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            problems = " or ".join(item["msg"] for item in error.errors())
            raise ValueError(f"`lora.{name}` = {value!r}: {problems}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # peft warns of fields that it ignores
        try:
            LoraConfig(**fields)
        except (TypeError, ValueError, ImportError, UserWarning) as error:
            raise ValueError(f"lora: {error}") from None
