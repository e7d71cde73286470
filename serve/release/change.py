"""Change the champion of a deployment directory: promote, roll back, undo.

The order is: verify the bundle, take the lock, compare the generation with the one that is
expected, check the successor, append to the history and sync, replace the pointer. A process that
is killed at any point leaves the old pointer or the new one, and a history that tells which.
"""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from serve.bundle.manifest import BundleError
from serve.bundle.seal import Bundle
from serve.files import write_atomic
from serve.language.lines import one_line
from serve.release.bundles import open_deployed, sweep
from serve.release.directory import check_deployment, locked
from serve.release.history import Action, Change, Entry, append, read_history
from serve.release.pointer import (
    MAX_WHO,
    MAX_WHY,
    POINTER,
    Pointer,
    ReleaseError,
    pointer_bytes,
    read_pointer,
    timestamp,
)
from serve.release.servers import live_servers
from serve.release.successor import ReleaseRefused, check_successor


@dataclass(frozen=True, kw_only=True)
class Changed:
    """The outcome of a change."""

    pointer: Pointer
    """The pointer that is in effect."""
    before: Pointer | None
    """The one that it replaced; the same one if nothing had to be changed."""

    @property
    def is_new(self) -> bool:
        """Whether the pointer was written."""
        return self.pointer != self.before


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What a change writes, but for its number and time; the fields are those of its line."""

    action: Action
    base: int | None
    version: str
    previous: str | None


def promote(
    directory: Path,
    version: str,
    *,
    who: str,
    why: str = "",
    generation: int | None = None,
    repair: bool = False,
) -> Changed:
    """Make a deployed version the champion, as a new generation.

    generation: the one that is to be replaced, 0 for none; another one is refused (compare and
    swap). repair: also replace a pointer that is damaged or lost, or whose champion is; the checks
    against that champion are left out. A version that is the champion already changes nothing.
    Raises ReleaseRefused, ReleaseError, BundleError, OSError.
    """
    check_deployment(directory)
    open_deployed(directory, version)
    with locked(directory):
        candidate = open_deployed(directory, version, verify=False)  # not removed meanwhile
        before, base = _present(directory, repair=repair)
        _compare(directory, before, generation)
        if before is not None and before.champion == version:
            return Changed(pointer=before, before=before)
        _restore_line(directory, before)
        champion = _open_champion(directory, before, repair=repair)
        check_successor(champion, candidate, directory=directory)
        is_repair = base is None or (before is not None and champion is None)
        change = Draft(
            action="repair" if is_repair else "promote",
            base=base,
            version=version,
            previous=before.champion if before else None,
        )
        return _write(directory, change, before, who=who, why=why)


def rollback(directory: Path, *, who: str, why: str = "", generation: int | None = None) -> Changed:
    """Make the previous champion the champion again, as a new generation.

    What was the champion becomes the previous one, so a second rollback undoes the first.
    Raises as `promote` does.
    """
    check_deployment(directory)
    expected = _previous(_present(directory)[0], directory)
    open_deployed(directory, expected)
    with locked(directory):
        before, base = _present(directory)
        _compare(directory, before, generation)
        version = _previous(before, directory)
        if before is None or version != expected:
            raise ReleaseRefused(
                f"the champion of `{directory}` was changed meanwhile; look at `textloop history "
                f"{directory}`, then decide again"
            )
        _restore_line(directory, before)
        open_deployed(directory, version, verify=False)
        change = Draft(action="rollback", base=base, version=version, previous=before.champion)
        return _write(directory, change, before, who=who, why=why)


def undo(directory: Path, changed: Changed, *, who: str, why: str) -> Changed | None:
    """Point back to what was in effect before a change, as a new generation.

    Returns None if there was nothing before, or if somebody else has changed it since.
    """
    with locked(directory):
        now, before = read_pointer(directory), changed.before
        if now is None or now != changed.pointer or before is None:
            return None
        change = Draft(
            action="undo",
            base=now.generation,
            version=before.champion,
            previous=before.previous,
        )
        return _write(directory, change, now, who=who, why=why)


def interrupted(history: list[Entry]) -> list[Change]:
    """Return the last changes, those after the present pointer, that did not take effect."""
    found: list[Change] = []
    for entry in reversed(history):
        if entry.state != "interrupted" or entry.change is None:
            break
        found.append(entry.change)
    return found[::-1]


def _present(directory: Path, *, repair: bool = False) -> tuple[Pointer | None, int | None]:
    """Return the pointer, None if there is none, and its generation, 0 before the first change.

    Raises ReleaseError for a pointer that is damaged, or that is gone although there was one; with
    `repair` there is no pointer then, and the generation is None.
    """
    try:
        if (pointer := read_pointer(directory)) is not None:
            return pointer, pointer.generation
    except ReleaseError:
        if repair:
            return None, None
        raise
    changes = [entry.change for entry in read_history(directory) if entry.change]
    if not any(change.base or change.base is None for change in changes):
        return None, 0
    if repair:
        return None, None
    raise ReleaseError(
        f"`{directory / POINTER}` is gone, and the history has changes that took effect; put it "
        f"back, or write a new one with `textloop promote {directory} VERSION --repair`"
    )


def _compare(directory: Path, before: Pointer | None, expected: int | None) -> None:
    present = before.generation if before else 0
    if expected is not None and expected != present:
        what = f"generation {present}, {before.champion} by {before.who}" if before else "nothing"
        raise ReleaseRefused(
            f"`{directory}` is not at generation {expected} but at {what}: somebody else has "
            f"changed it; look at `textloop history {directory}`, then decide again"
        )


def _previous(pointer: Pointer | None, directory: Path) -> str:
    if pointer is None:
        raise ReleaseError(
            f"nothing was promoted in `{directory}` yet; `textloop promote {directory} VERSION`"
        )
    if pointer.previous is None:
        raise ReleaseError(
            f"there is no version before {pointer.champion} in `{directory}` to go back to"
        )
    return pointer.previous


def _open_champion(directory: Path, pointer: Pointer | None, *, repair: bool) -> Bundle | None:
    """Open the champion that is compared; with `repair` None if it cannot be opened."""
    if pointer is None:
        return None
    try:
        return open_deployed(directory, pointer.champion, verify=False)
    except (ReleaseError, BundleError) as error:
        if repair:
            return None
        raise ReleaseError(
            f"the champion, with which the candidate is compared, cannot be opened: {error}; or "
            "promote with --repair, without comparing"
        ) from None


def _restore_line(directory: Path, pointer: Pointer | None) -> None:
    """Append the line of the pointer, if damage to the history has lost it."""
    if pointer is None:
        return
    known = (entry.change.pointer for entry in read_history(directory) if entry.change)
    if pointer not in known:
        append(directory, Change(action="restore", base=None, pointer=pointer))


def _write(directory: Path, draft: Draft, before: Pointer | None, *, who: str, why: str) -> Changed:
    """Append the change, then replace the pointer; the caller holds the lock."""
    history = read_history(directory)
    known = [entry.change.pointer.generation for entry in history if entry.change]
    if before is not None:
        known.append(before.generation)
    if draft.base is None:  # the history may be lost as well
        known += [each.generation for each in live_servers(directory) if each.generation]
    pointer = Pointer(
        generation=max(known, default=0) + 1,
        champion=draft.version,
        previous=draft.previous,
        salt=secrets.token_hex(8),
        who=one_line(who, MAX_WHO),
        why=one_line(why, MAX_WHY),
        time=timestamp(),
    )
    for change in interrupted(history):
        lost = change.pointer
        print(f"note: {describe(change)} by {lost.who} at {lost.time} was interrupted and did not "
              "take effect", file=sys.stderr)  # fmt: skip
    sweep(directory)
    append(directory, Change(action=draft.action, base=draft.base, pointer=pointer))
    write_atomic(directory / POINTER, pointer_bytes(pointer))
    return Changed(pointer=pointer, before=before)


def describe(change: Change) -> str:
    """Return a change in a few words."""
    words = {"promote": "promotion of", "rollback": "rollback to", "undo": "return to"}
    pointer = change.pointer
    return (
        f"generation {pointer.generation}, {words.get(change.action, change.action)} "
        f"{pointer.champion}"
    )
