"""Slots, priorities and routing: what groups of model processes are made of."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from serve.command.priority import aside
from serve.engine.routing import (
    Group,
    Report,
    Routing,
    read_reports,
    read_routing,
    routing_stamp,
    write_report,
    write_routing,
)
from serve.processes.group import Slots
from serve.release.servers import RefusedVersion


def test_the_smallest_free_slots_are_taken() -> None:
    slots = Slots()
    assert slots.take(2) == (0, 1)
    assert slots.take(2) == (2, 3)
    slots.free((0, 1))
    assert slots.take(1) == (0,)
    assert slots.take(2) == (1, 4)


def test_work_aside_has_the_lowest_priority_and_leaves_the_caller_its_own() -> None:
    def policy() -> int:
        started: list[int] = []
        thread = threading.Thread(target=lambda: started.append(os.sched_getscheduler(0)))
        thread.start()
        thread.join()
        return started[0] if started[0] == os.sched_getscheduler(0) else -1

    before = os.sched_getscheduler(0)

    assert aside(policy) == os.SCHED_IDLE
    assert os.sched_getscheduler(0) == before
    with pytest.raises(ZeroDivisionError):
        aside(lambda: 1 // 0)


def group(name: str) -> Group:
    return Group(name=name, version="0" * 12, bundle="/a", sockets=("/a.sock", "/b.sock"))


def test_routing_and_reports_are_read_as_written(tmp_path: Path) -> None:
    refused = RefusedVersion(generation=3, version="1" * 12, reason="it's \u2028 bad", time="now")
    for routing in (
        Routing(generation=0, champion=group("a")),
        Routing(
            generation=2,
            champion=group("b"),
            retired=group("a"),
            refused=refused,
            num_refused=1,
        ),
    ):
        write_routing(tmp_path, routing)
        assert read_routing(tmp_path) == routing
        stamp = routing_stamp(tmp_path)
    write_routing(tmp_path, routing)
    assert routing_stamp(tmp_path) != stamp

    write_report(tmp_path, Report(generation=2, groups=("a", "b")))
    assert read_reports(tmp_path, [os.getpid(), 1]) == {
        os.getpid(): Report(generation=2, groups=("a", "b"))
    }
