"""Promote, roll back, undo: one change at a time, each from the generation that was expected."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import socket
import time
from pathlib import Path

import pytest
from releases import WHO, champion, done, fork_all, promoted, rolled_back, states

from serve.bundle.manifest import BundleError
from serve.release import change as module
from serve.release import directory as locking
from serve.release.change import undo
from serve.release.directory import ReleaseBusy, locked
from serve.release.history import HISTORY, read_history
from serve.release.pointer import POINTER, ReleaseError, bundle_path, read_pointer
from serve.release.prune import prune
from serve.release.servers import Registration, ServerStatus
from serve.release.state import read_state
from serve.release.successor import ReleaseRefused


def status(**fields: object) -> ServerStatus:
    values = {
        "host": socket.gethostname(), "pid": os.getpid(), "url": "http://127.0.0.1:1",
        "started": "", "updated": "", "generation": None, "version": None,
    }  # fmt: skip
    return ServerStatus.model_validate(values | fields)


def test_promotion_states_what_was_before_and_who_and_why(
    deployment: Path, versions: list[str]
) -> None:
    assert read_pointer(deployment) is None

    first = promoted(deployment, versions[0], why="the first\nof all")
    second = promoted(deployment, versions[1])

    assert (first.pointer.generation, first.pointer.previous) == (1, None)
    assert (first.pointer.who, first.pointer.why) == (WHO, "the first of all")
    assert (second.pointer.generation, second.pointer.previous) == (2, versions[0])
    assert read_pointer(deployment) == second.pointer
    assert done(deployment) == [first.pointer, second.pointer]


def test_promoting_the_champion_again_changes_nothing(
    deployment: Path, versions: list[str]
) -> None:
    promoted(deployment, versions[0])

    again = promoted(deployment, versions[0], generation=1)

    assert not again.is_new
    assert states(deployment) == ["done"]


@pytest.mark.parametrize("generation", [0, 2, 7])
def test_stale_generation_is_refused(
    deployment: Path, versions: list[str], generation: int
) -> None:
    promoted(deployment, versions[0], generation=0)

    with pytest.raises(ReleaseRefused, match=f"not at generation {generation} but at generation 1"):
        promoted(deployment, versions[1], generation=generation)
    with pytest.raises(ReleaseRefused, match="somebody else has changed it"):
        promoted(deployment, versions[0], generation=generation)

    assert champion(deployment) == versions[0]
    assert states(deployment) == ["done"]


def test_second_rollback_undoes_the_first(deployment: Path, versions: list[str]) -> None:
    promoted(deployment, versions[0])
    with pytest.raises(ReleaseError, match="there is no version before"):
        rolled_back(deployment)
    promoted(deployment, versions[1])

    back = rolled_back(deployment, generation=2).pointer
    forward = rolled_back(deployment).pointer

    assert (back.generation, back.champion, back.previous) == (3, versions[0], versions[1])
    assert (forward.generation, forward.champion) == (4, versions[1])
    with pytest.raises(ReleaseRefused, match="not at generation 3"):
        rolled_back(deployment, generation=3)


def test_undo_restores_both_versions_and_is_of_that_change_only(
    deployment: Path, versions: list[str]
) -> None:
    first = promoted(deployment, versions[0])
    promoted(deployment, versions[1])
    third = promoted(deployment, versions[2])

    undone = undo(deployment, third, who=WHO, why="refused")

    assert undone is not None
    assert undone.pointer.generation == 4
    assert (undone.pointer.champion, undone.pointer.previous) == (versions[1], versions[0])
    assert undo(deployment, third, who=WHO, why="again") is None
    assert undo(deployment, first, who=WHO, why="the first") is None
    assert read_history(deployment)[-1].change.action == "undo"  # type: ignore[union-attr]


def test_bundle_that_was_altered_after_deploying_is_not_promoted(
    deployment: Path, versions: list[str]
) -> None:
    promoted(deployment, versions[0])
    weights = bundle_path(deployment, versions[1]) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])

    with pytest.raises(BundleError, match=r"deploying it to .* again replaces it"):
        promoted(deployment, versions[1])
    with pytest.raises(ReleaseError, match="is not deployed"):
        promoted(deployment, "0" * 12)

    assert champion(deployment) == versions[0]


def test_bundle_in_the_folder_of_another_version_is_not_promoted(
    deployment: Path, versions: list[str]
) -> None:
    shutil.rmtree(bundle_path(deployment, versions[1]))
    shutil.copytree(bundle_path(deployment, versions[0]), bundle_path(deployment, versions[1]))

    with pytest.raises(BundleError, match=f"holds version {versions[0]}"):
        promoted(deployment, versions[1])


def test_altered_previous_version_is_not_rolled_back_to(
    deployment: Path, versions: list[str]
) -> None:
    promoted(deployment, versions[0])
    promoted(deployment, versions[1])
    (bundle_path(deployment, versions[0]) / "config.json").write_text("{}")

    with pytest.raises(BundleError, match=r"config\.json"):
        rolled_back(deployment)

    assert champion(deployment) == versions[1]


# Damage


def test_every_altered_byte_of_the_pointer_is_noticed(
    deployment: Path, versions: list[str]
) -> None:
    promoted(deployment, versions[0])
    path = deployment / POINTER
    good = path.read_bytes()
    for position in range(0, len(good), 3):
        damaged = bytearray(good)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ReleaseError, match="is damaged"):
            read_pointer(deployment)
    for size in range(0, len(good), 20):
        path.write_bytes(good[:size])
        with pytest.raises(ReleaseError, match="is damaged"):
            read_pointer(deployment)


@pytest.mark.parametrize("kind", ["fifo", "folder", "large", "deep", "gone"])
def test_pointer_that_is_damaged_or_gone_is_replaced_when_asked(
    deployment: Path, versions: list[str], kind: str
) -> None:
    promoted(deployment, versions[0])
    promoted(deployment, versions[1])
    path = deployment / POINTER
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "gone":
        path.write_bytes(b"x" * 100_000 if kind == "large" else b"[" * 50_000)
    with pytest.raises(ReleaseError):
        promoted(deployment, versions[2])
    with pytest.raises(ReleaseError):
        rolled_back(deployment)
    if kind == "folder":  # nothing replaces a directory by renaming
        path.rmdir()

    repaired = promoted(deployment, versions[2], repair=True).pointer

    assert (repaired.generation, repaired.champion) == (3, versions[2])
    assert states(deployment) == ["done", "unknown", "done"]
    assert promoted(deployment, versions[0]).pointer.generation == 4


def test_repair_does_not_go_back_behind_what_a_server_answers_by(
    deployment: Path, versions: list[str]
) -> None:
    promoted(deployment, versions[0])
    (deployment / POINTER).write_text("{")
    (deployment / HISTORY).unlink()
    server = Registration(deployment, status(generation=41, version=versions[0]))

    assert promoted(deployment, versions[1], repair=True).pointer.generation == 42

    server.close()


def test_champion_that_is_lost_is_replaced_when_asked(
    deployment: Path, versions: list[str]
) -> None:
    promoted(deployment, versions[0])
    shutil.rmtree(bundle_path(deployment, versions[0]))
    with pytest.raises(ReleaseError, match=r"cannot be opened: .*is not deployed.*--repair"):
        promoted(deployment, versions[1])

    assert promoted(deployment, versions[1], repair=True).pointer.generation == 2

    assert states(deployment) == ["done", "done"]
    assert read_state(deployment).problems == (
        f"the bundle of the previous, {versions[0]}, is missing; deploy it again",
    )


@pytest.mark.parametrize("size", [1, 50, -2])
def test_torn_last_line_is_removed_by_the_next_change(
    deployment: Path, versions: list[str], size: int
) -> None:
    promoted(deployment, versions[0])
    path = deployment / HISTORY
    line = path.read_bytes()
    path.write_bytes(line + line[:size])
    assert states(deployment) == ["done"]

    promoted(deployment, versions[1])

    assert path.read_bytes().startswith(line)
    assert len(path.read_bytes().splitlines()) == 2
    assert states(deployment) == ["done", "done"]


def test_last_line_that_lacks_its_line_break_alone_is_kept(
    deployment: Path, versions: list[str]
) -> None:
    promoted(deployment, versions[0])
    path = deployment / HISTORY
    path.write_bytes(path.read_bytes()[:-1])

    promoted(deployment, versions[1])

    assert states(deployment) == ["done", "done"]


def test_line_that_was_lost_with_the_end_of_the_history_is_written_again(
    deployment: Path, versions: list[str]
) -> None:
    for version in versions:
        promoted(deployment, version)
    pointers = done(deployment)
    path = deployment / HISTORY
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:80])
    assert states(deployment) == ["done", "unknown"]

    rolled_back(deployment)

    assert done(deployment)[-2] == pointers[2]
    assert [entry.change.action for entry in read_history(deployment) if entry.change] == [
        "promote", "promote", "restore", "rollback",
    ]  # fmt: skip


def test_damaged_line_is_told_and_stops_nothing(deployment: Path, versions: list[str]) -> None:
    for version in versions:
        promoted(deployment, version)
    path = deployment / HISTORY
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(versions[1].encode(), b"0" * 12) + lines[2])

    assert states(deployment) == ["unknown", "damaged", "done"]
    assert "1 line of the history cannot be read" in read_state(deployment).problems[0]

    rolled_back(deployment)
    assert states(deployment) == ["unknown", "damaged", "done", "done"]


def test_history_is_read_in_bounded_memory(
    deployment: Path, versions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        promoted(deployment, versions[number % 2])
    size = (deployment / HISTORY).stat().st_size
    monkeypatch.setattr("serve.release.history.MAX_READ_BYTES", size // 2)
    assert states(deployment) == ["done"] * 2

    with (deployment / HISTORY).open("ab") as file:
        file.truncate(size + 10_000_000)  # zeros without a line break
    promoted(deployment, versions[0])

    assert champion(deployment) == versions[0]


def test_history_that_is_no_file_is_refused_before_anything_changes(
    deployment: Path, versions: list[str], tmp_path: Path
) -> None:
    os.mkfifo(deployment / HISTORY)
    with pytest.raises(ReleaseError, match="is not a regular file"):
        promoted(deployment, versions[0])
    (deployment / HISTORY).unlink()
    (deployment / HISTORY).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        promoted(deployment, versions[0])

    assert read_pointer(deployment) is None
    assert not (tmp_path / "elsewhere").exists()


# The machine


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_full_disk_while_the_history_is_written_changes_nothing(
    deployment: Path, versions: list[str], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    promoted(deployment, versions[0])
    before = (deployment / HISTORY).read_bytes()
    own_write = os.write

    def fail(descriptor: int, data: bytes = b"") -> int:
        own_write(descriptor, data[:7])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            promoted(deployment, versions[1])

    assert (deployment / HISTORY).read_bytes() == before
    assert champion(deployment) == versions[0]
    assert promoted(deployment, versions[1]).pointer.generation == 2


def test_full_disk_while_the_pointer_is_written_leaves_an_interrupted_change(
    deployment: Path,
    versions: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    promoted(deployment, versions[0])

    def fail(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomic", fail)
        with pytest.raises(OSError, match="No space left"):
            promoted(deployment, versions[1], why="too early")

    assert champion(deployment) == versions[0]
    assert states(deployment) == ["done", "interrupted"]
    assert [each.pointer.why for each in read_state(deployment).interrupted] == ["too early"]
    assert promoted(deployment, versions[2]).pointer.generation == 3
    assert f"generation 2, promotion of {versions[1]}" in capsys.readouterr().err
    assert states(deployment) == ["done", "interrupted", "done"]
    assert read_state(deployment).interrupted == ()


def test_read_only_directory_is_refused_and_can_be_looked_at(
    deployment: Path, versions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(deployment, versions[0])
    promoted(deployment, versions[2])
    own_open = os.open

    def read_only(path: str, flags: int, *rest: int, **options: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return own_open(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", read_only)

    with pytest.raises(OSError, match="Read-only"):
        promoted(deployment, versions[1])
    with pytest.raises(OSError, match="Read-only"):
        rolled_back(deployment)
    assert read_state(deployment).pointer is not None


def test_lock_is_waited_for_and_then_given_up(
    deployment: Path, versions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "LOCK_WAIT_S", 0.1)
    started = time.monotonic()

    with locked(deployment), pytest.raises(ReleaseBusy, match=r"for more than 0\.1 s"):
        promoted(deployment, versions[0])

    assert 0.1 <= time.monotonic() - started < 5
    assert promoted(deployment, versions[0]).is_new


def test_two_promoters_at_once_lose_no_change(deployment: Path, versions: list[str]) -> None:
    promoted(deployment, versions[2])
    rounds = 4
    for number in range(rounds):
        present = read_pointer(deployment)
        assert present is not None
        others = [each for each in versions if each != present.champion]

        codes = fork_all(
            [
                lambda version=version, at=present.generation: (
                    bool(  # type: ignore[misc]
                        promoted(deployment, version, generation=at).is_new
                    )
                    - 1
                )
                for version in others
            ]
        )

        assert sorted(codes) == [0, 9]  # one has done it, the other was refused
        pointers = done(deployment)
        assert [each.generation for each in pointers] == list(range(1, number + 3))
        assert pointers[-1].previous == present.champion
        assert pointers[-1].champion == others[codes.index(0)]
    assert states(deployment) == ["done"] * (rounds + 1)


@pytest.mark.slow
def test_many_changes_by_several_processes_are_all_in_the_history(
    deployment: Path, versions: list[str]
) -> None:
    promoted(deployment, versions[0])
    promoted(deployment, versions[1])

    def change() -> int:
        made = 0
        for number in range(50):
            made += promoted(deployment, versions[number % 3]).is_new
            with contextlib.suppress(ReleaseRefused):  # another one was first
                made += rolled_back(deployment).is_new
        return 0 if made >= 50 else 1

    assert fork_all([change] * 4) == [0] * 4
    pointers = done(deployment)
    assert set(states(deployment)) == {"done"}
    assert [each.generation for each in pointers] == list(range(1, len(pointers) + 1))
    for before, after in itertools.pairwise(pointers):
        assert after.previous == before.champion


# Room


def test_prune_keeps_what_is_in_use_and_the_newest_others(
    deployment: Path, versions: list[str]
) -> None:
    promoted(deployment, versions[0])
    assert prune(deployment, keep=2) == []
    server = Registration(deployment, status(version=versions[0], retired=versions[1]))
    assert prune(deployment, keep=0) == [versions[2]]
    server.write(status(version=None))
    with pytest.raises(ReleaseError, match="does not say which version it serves"):
        prune(deployment, keep=0)
    server.write(status(version=versions[0], loading=versions[1]))
    assert prune(deployment, keep=0) == []
    server.close()
    assert prune(deployment, keep=0) == [versions[1]]

    promoted(deployment, versions[0])
    assert [each.version for each in read_state(deployment).bundles] == [versions[0]]
    assert sorted(each.name for each in (deployment / "bundles").iterdir()) == [versions[0]]


def test_prune_keeps_what_a_server_of_another_machine_uses(
    deployment: Path, versions: list[str]
) -> None:
    promoted(deployment, versions[0])
    away = status(host="another-host", boot="another", version=versions[1])
    (deployment / "servers" / "another-host-7.json").write_text(away.model_dump_json())

    assert prune(deployment, keep=0) == [versions[2]]
    assert read_state(deployment).servers == ()
    assert read_state(deployment).elsewhere == (away,)
