"""Which arms a server answers with, in which role and generation: switched as a whole.

A request takes the arms once, and of them the one that its path names by version, else the
champion. A switch replaces the reference in one turn of the event loop, so a request sees the old
arms or the new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from prometheus_client import Counter

from serve.engine.metrics import HttpMetrics
from serve.http.arms.arm import Arm
from serve.release.servers import RefusedVersion

CHAMPION, RETIRED = "champion", "retired"
"""Roles: the arm that answers, and the one that did before and is ready to do so again."""

Header = tuple[bytes, bytes]


class Role:
    """An arm in its role, with what its answers say and count."""

    def __init__(self, name: str, arm: Arm, generation: int, metrics: HttpMetrics) -> None:
        self.name = name
        self.arm = arm
        self.headers: tuple[Header, Header] = (
            (b"x-model-version", arm.version.encode()),
            (b"x-model-generation", str(generation).encode()),
        )
        self.texts: Counter = metrics.texts.labels(name)
        self._metrics = metrics

    @cached_property
    def label_counts(self) -> list[Counter]:
        """Texts by the label that comes first in their answer, in label order."""
        return self._metrics.count_labels(self.name, self.arm.manifest.labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Arms:
    """The arms of one generation."""

    generation: int
    champion: Role
    retired: Role | None = None
    refused: RefusedVersion | None = None
    num_refused: int = 0
    by_version: dict[str, Role] = field(init=False)
    """The champion's first."""

    def __post_init__(self) -> None:
        """Index the roles by version."""
        object.__setattr__(self, "by_version", {each.arm.version: each for each in self.roles})

    @property
    def roles(self) -> Sequence[Role]:
        """All roles, the champion's first."""
        return [self.champion, *([self.retired] if self.retired else [])]

    def role(self, version: str | None) -> Role:
        """The role of a version; the champion's if no arm has it."""
        return self.by_version.get(version or "", self.champion)


def first_arms(
    arm: Arm, metrics: HttpMetrics, *, generation: int = 0, refused: RefusedVersion | None = None
) -> Arms:
    """The arms with which a server starts; generation 0: it serves one bundle for ever."""
    return Arms(
        generation=generation,
        champion=Role(CHAMPION, arm, generation, metrics),
        refused=refused,
        num_refused=int(refused is not None),
    )
