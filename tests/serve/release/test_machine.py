"""Any order of deploying, changing, crashing and competing: no update is lost, nothing invented."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from hypothesis.strategies import integers, sampled_from
from releases import Made, kill_at, promoted, rolled_back

from serve.release.bundles import deploy, open_deployed
from serve.release.change import Changed, undo
from serve.release.history import read_history
from serve.release.pointer import Pointer, ReleaseError, bundle_path, read_pointer
from serve.release.state import read_state
from serve.release.successor import ReleaseRefused

WHICH = integers(0, 2)


class Deployment(RuleBasedStateMachine):
    """Compares a deployment directory with what was done to it."""

    made: Made

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="textloop-"))
        self.directory = self.folder / "d"
        self.deployed: set[int] = set()
        self.chain: list[Pointer] = []
        """Pointers that took effect."""
        self.lost: list[int] = []
        """Generations of changes that were interrupted."""
        self.last: Changed | None = None
        self.deploy(0)

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def generation(self) -> int:
        return self.chain[-1].generation if self.chain else 0

    def changed(self, change: Changed) -> None:
        """Note a change that was made."""
        if change.is_new:
            assert change.before == (self.chain[-1] if self.chain else None)
            self.chain.append(change.pointer)
            self.last = change

    def note_crash(self) -> None:
        """Note what a killed change has done: everything, an intent, or nothing."""
        pointer = read_pointer(self.directory)
        if pointer is not None and pointer.generation != self.generation:
            self.chain.append(pointer)
            self.last = None
        numbers = [e.change.pointer.generation for e in read_history(self.directory) if e.change]
        known = {each.generation for each in self.chain} | set(self.lost)
        new = [number for number in numbers if number not in known]
        assert len(new) <= 1
        self.lost += new

    @rule(which=WHICH)
    def deploy(self, which: int) -> None:
        assert deploy(self.directory, str(self.made.paths[which])) == self.made.versions[which]
        self.deployed.add(which)

    @rule(which=WHICH)
    def promote(self, which: int) -> None:
        version = self.made.versions[which]
        if which in self.deployed:
            self.changed(promoted(self.directory, version))
            assert self.chain[-1].champion == version
        else:
            with pytest.raises(ReleaseError, match="is not deployed"):
                promoted(self.directory, version)

    @rule(which=WHICH)
    def two_promote_from_the_same_generation(self, which: int) -> None:
        seen = self.generation
        first = sorted(self.deployed)[which % len(self.deployed)]
        change = promoted(self.directory, self.made.versions[first], generation=seen)
        self.changed(change)
        if change.is_new:
            with pytest.raises(ReleaseRefused, match=f"not at generation {seen} "):
                promoted(self.directory, self.made.versions[first], generation=seen)

    @rule()
    def roll_back(self) -> None:
        if not self.chain or self.chain[-1].previous is None:
            with pytest.raises(ReleaseError):
                rolled_back(self.directory)
            return
        wanted = self.chain[-1].previous
        self.changed(rolled_back(self.directory))
        assert self.chain[-1].champion == wanted

    @precondition(lambda self: self.last is not None and self.last.before is not None)
    @rule()
    def undo_the_last_change(self) -> None:
        assert self.last is not None
        assert self.last.before is not None
        wanted = self.last.before
        undone = undo(self.directory, self.last, who="the command", why="refused")
        assert undone is not None
        self.changed(undone)
        assert (undone.pointer.champion, undone.pointer.previous) == (
            wanted.champion, wanted.previous,
        )  # fmt: skip
        self.last = None

    @rule(which=WHICH, point=integers(0, 90))
    def crash_in_a_promotion(self, which: int, point: int) -> None:
        kill_at(point, lambda: promoted(self.directory, self.made.versions[which]))
        self.note_crash()

    @rule(point=integers(0, 90))
    def crash_in_a_rollback(self, point: int) -> None:
        kill_at(point, lambda: rolled_back(self.directory))
        self.note_crash()

    @rule(which=WHICH, point=integers(0, 120))
    def crash_in_deploying(self, which: int, point: int) -> None:
        kill_at(point, lambda: deploy(self.directory, str(self.made.paths[which])))
        if bundle_path(self.directory, self.made.versions[which]).exists():
            self.deployed.add(which)

    @rule(size=sampled_from([2, 40, 400]))
    def tear_the_last_line(self, size: int) -> None:
        """As a machine that loses power while a line is appended."""
        path = self.directory / "history.jsonl"
        with contextlib.suppress(FileNotFoundError):
            data = path.read_bytes()
            path.write_bytes(data + data.partition(b"\n")[0][:size][:-1])

    @invariant()
    def pointer_and_history_are_those_of_the_changes(self) -> None:
        assert read_pointer(self.directory) == (self.chain[-1] if self.chain else None)
        entries = read_history(self.directory)
        pointers = [each.change.pointer for each in entries if each.change]
        assert [each for each in pointers if each.generation not in self.lost] == self.chain
        assert sorted(each.generation for each in pointers) == [e.generation for e in pointers]
        assert {each.change.pointer.generation: each.state for each in entries if each.change} == {
            **{each.generation: "done" for each in self.chain},
            **{number: "interrupted" for number in self.lost},
        }
        for before, after in zip(self.chain, self.chain[1:], strict=False):
            assert after.generation > before.generation

    @invariant()
    def champion_is_a_verified_bundle(self) -> None:
        if self.chain:
            open_deployed(self.directory, self.chain[-1].champion)
        assert read_state(self.directory).problems == ()


def explore(made: Made, *, examples: int, steps: int) -> None:
    machine = type("Machine", (Deployment,), {"made": made})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=True,
        ),
    )


def test_no_order_of_a_few_events_loses_a_change(three: Made) -> None:
    explore(three, examples=5, steps=8)


@pytest.mark.slow
def test_no_order_of_many_events_loses_a_change(three: Made) -> None:
    explore(three, examples=40, steps=25)
