"""A command that is killed at any point leaves the old state or the new one, and nothing else.

The commands run in forked processes, which are killed by SIGKILL before, and in the middle of,
what they ask of the operating system: opening, locking, writing, syncing, renaming, removing.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from releases import Made, champion, count_points, done, kill_at, promoted, rolled_back, states

from serve.release.bundles import deploy, open_deployed
from serve.release.history import read_history
from serve.release.pointer import POINTER, read_pointer
from textloop.__main__ import main

CHANGING = {"write", "fsync", "replace", "rename", "unlink", "fcntl.flock", "ftruncate"}


def command(*words: object) -> Callable[[], int]:
    return lambda: main([str(word) for word in words])


def changing(points: list[str]) -> list[int]:
    """Numbers of the points that change something."""
    return [number for number, name in enumerate(points) if name in CHANGING]


def check_after(directory: Path, before: int, champions: tuple[str | None, str]) -> bool:
    """Check a directory after a change from generation `before` was killed; was it made?"""
    pointer = read_pointer(directory)
    generation = pointer.generation if pointer else 0
    old, new = champions
    assert generation in (before, before + 1)
    assert champion(directory) == (new if generation == before + 1 else old)
    if pointer is not None:
        open_deployed(directory, pointer.champion)
    assert [each.generation for each in done(directory)] == list(range(1, generation + 1))
    assert states(directory) in (["done"] * generation, ["done"] * generation + ["interrupted"])
    return generation == before + 1


def killed_promotions(deployment: Path, versions: list[str], points: list[int] | None) -> int:
    """Kill a promotion from generation 1 to 2 at points, None for all; returns how often."""
    promoted(deployment, versions[0])
    action = command("promote", deployment, versions[1], "--why", "kill")
    saved = deployment.with_name("saved")
    shutil.copytree(deployment, saved)
    found = count_points(action)
    made = []
    for point in points if points is not None else range(len(found)):
        shutil.rmtree(deployment)
        shutil.copytree(saved, deployment)
        assert kill_at(point, action), f"it has fewer than {point} points"
        made.append(check_after(deployment, 1, (versions[0], versions[1])))
        last = states(deployment)

        after = promoted(deployment, versions[2]).pointer

        assert champion(deployment) == versions[2]
        assert after.previous == (versions[1] if made[-1] else versions[0])
        assert states(deployment) == [*last, "done"]
        left = [each.name for each in deployment.iterdir() if each.name.startswith(".")]
        assert left == []
    assert made == sorted(made)  # from some point on it is made
    assert made[0] is False
    assert made[-1] is True
    shutil.rmtree(deployment)
    shutil.copytree(saved, deployment)
    return len(made)


def test_promotion_killed_where_it_changes_something_is_made_or_not(
    deployment: Path, versions: list[str]
) -> None:
    saved = deployment.with_name("unchanged")
    shutil.copytree(deployment, saved)
    promoted(deployment, versions[0])
    points = changing(count_points(command("promote", deployment, versions[1])))
    shutil.rmtree(deployment)
    saved.rename(deployment)

    assert 8 <= len(points) <= killed_promotions(deployment, versions, points)


@pytest.mark.slow
def test_promotion_killed_at_every_point_is_made_or_not(
    deployment: Path, versions: list[str]
) -> None:
    assert killed_promotions(deployment, versions, None) >= 60


@pytest.mark.slow
def test_first_promotion_killed_at_every_point_is_made_or_not(
    deployment: Path, versions: list[str]
) -> None:
    action = command("promote", deployment, versions[0])
    saved = deployment.with_name("saved")
    shutil.copytree(deployment, saved)
    kills = 0
    for point in range(len(count_points(action))):
        shutil.rmtree(deployment)
        shutil.copytree(saved, deployment)
        kills += kill_at(point, action)
        is_made = check_after(deployment, 0, (None, versions[0]))
        promoted(deployment, versions[1])
        assert done(deployment)[-1].previous == (versions[0] if is_made else None)
    assert kills >= 50


@pytest.mark.slow
def test_rollback_killed_at_every_point_is_made_or_not(
    deployment: Path, versions: list[str]
) -> None:
    promoted(deployment, versions[0])
    promoted(deployment, versions[1])
    action = command("rollback", deployment)
    saved = deployment.with_name("saved")
    shutil.copytree(deployment, saved)
    kills = 0
    for point in range(len(count_points(action))):
        shutil.rmtree(deployment)
        shutil.copytree(saved, deployment)
        kills += kill_at(point, action)
        is_made = check_after(deployment, 2, (versions[1], versions[0]))
        rolled_back(deployment)
        assert champion(deployment) == (versions[1] if is_made else versions[0])
    assert kills >= 60


@pytest.mark.slow
def test_deploying_killed_at_every_point_leaves_a_whole_bundle_or_none(
    deployment: Path, three: Made
) -> None:
    promoted(deployment, three.versions[0])
    target, source = deployment / "bundles" / three.versions[2], str(three.paths[2])
    shutil.rmtree(target)
    points = len(count_points(command("deploy", deployment, source)))
    shutil.rmtree(target, ignore_errors=True)
    kills = 0
    for point in range(points):
        kills += kill_at(point, command("deploy", deployment, source))
        if target.exists():
            open_deployed(deployment, three.versions[2])
        assert deploy(deployment, source) == three.versions[2]
        found = sorted(each.name for each in (deployment / "bundles").iterdir())
        assert found == sorted(three.versions)
        assert states(deployment) == ["done"]
        shutil.rmtree(target)
    assert kills >= 60


@pytest.mark.slow
def test_changes_killed_again_and_again_are_all_told(deployment: Path, versions: list[str]) -> None:
    rng = random.Random(0)
    promoted(deployment, versions[0])
    lines = 1
    for _ in range(120):
        words = rng.choice([("promote", versions[rng.randrange(3)]), ("rollback",)])
        before = read_pointer(deployment)
        assert before is not None
        killed = kill_at(
            rng.randrange(90), command(words[0], deployment, *words[1:], "--generation",
                                       before.generation)
        )  # fmt: skip
        after = read_pointer(deployment)
        assert after is not None
        assert killed or after.generation >= before.generation
        entries = read_history(deployment)
        assert [each.state for each in entries if each.state not in ("done", "interrupted")] == []
        assert len(entries) - lines in (0, 1)
        assert entries[:lines] == entries[:lines]
        numbers = [each.change.pointer.generation for each in entries if each.change]
        assert numbers == sorted(set(numbers))
        chain = done(deployment)
        assert chain[-1] == after
        lines = len(entries)
        open_deployed(deployment, after.champion)
    assert lines > 20
    assert not list(deployment.glob(f".{POINTER}*")) or promoted(deployment, versions[1])
