"""Keep the arms of an HTTP process those of the server's routing file.

The main process writes `routing.json` (`serve.engine.routing`) once the model processes of a group
listen. Here a new arm is built and connected beside those that answer, and then the reference is
switched in one turn of the event loop. An arm that the file no longer names gets no new requests;
its connections are closed once its last request is answered. What answers is reported to the main
process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from serve.engine.routing import (
    Group,
    Report,
    Routing,
    read_routing,
    routing_stamp,
    write_report,
)
from serve.http.arms.arm import Arm
from serve.http.arms.roles import CHAMPION, RETIRED, Arms, Role
from serve.http.service import Service

LOOK_S = 0.02
"""Seconds between two looks at the routing file."""

RETRY_S = 1.0
"""Seconds after which a routing that could not be followed is tried again."""

logger = logging.getLogger(__name__)


class Follower:
    """Follows the routing file of `runtime`.

    build: makes the arm of a group, whose pool has yet to be started, beside a given one; it is
    called in a thread.
    """

    def __init__(self, service: Service, runtime: Path, build: Callable[[Group, Arm], Arm]) -> None:
        self.service = service
        self.runtime = runtime
        self.build = build
        first = read_routing(runtime)
        self.arms: dict[str, Arm] = {first.champion.name: service.arms.champion.arm}
        """Arms by the name of their group, those that only finish their requests included."""
        self._stamp: tuple[int, int] | None = None
        self._draining: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                if (stamp := routing_stamp(self.runtime)) != self._stamp:
                    await self._follow(read_routing(self.runtime), stamp)
            except Exception:  # the arms that answer go on
                logger.exception("the routing cannot be followed; trying again")
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        """Close the connections of all arms."""
        for task in self._draining.values():
            task.cancel()
        await asyncio.gather(*(arm.pool.close() for arm in self.arms.values()))

    async def _follow(self, routing: Routing, stamp: tuple[int, int]) -> None:
        for group in routing.groups:
            if draining := self._draining.pop(group.name, None):
                draining.cancel()
            if group.name not in self.arms:
                self.arms[group.name] = await self._connect(group)
        champion = self.arms[routing.champion.name]
        while len(champion.pool.ready) < len(champion.pool.paths):
            if routing_stamp(self.runtime) != stamp:
                return  # overtaken by another routing
            await asyncio.sleep(LOOK_S)
        self._switch(routing)
        self._stamp = stamp
        for name in self.arms.keys() - {group.name for group in routing.groups}:
            if name not in self._draining:
                self._draining[name] = asyncio.create_task(self._drain(name))
        self._report()

    async def _connect(self, group: Group) -> Arm:
        arm = await asyncio.to_thread(self.build, group, self.service.arms.champion.arm)
        arm.pool.is_counted = False
        arm.pool.paths = [Path(each) for each in group.sockets]
        arm.pool.start()
        return arm

    def _switch(self, routing: Routing) -> None:
        """Let new requests take the arms of this routing: one reference, set once."""

        def role(name: str, group: Group) -> Role:
            return Role(name, self.arms[group.name], routing.generation, self.service.metrics)

        before = self.service.arms.champion.arm
        arms = Arms(
            generation=routing.generation,
            champion=role(CHAMPION, routing.champion),
            retired=role(RETIRED, routing.retired) if routing.retired else None,
            refused=routing.refused,
            num_refused=routing.num_refused,
        )
        after = arms.champion.arm
        if before is not after:
            before.pool.count(False)
            after.pool.count(True)
        self.service.arms = arms

    async def _drain(self, name: str) -> None:
        """Close the connections of an arm once its last request is answered."""
        arm = self.arms[name]
        while arm.pool.users:
            await asyncio.sleep(LOOK_S)
        await arm.pool.close()
        del self.arms[name], self._draining[name]
        self._report()

    def _report(self) -> None:
        report = Report(generation=self.service.arms.generation, groups=tuple(self.arms))
        write_report(self.runtime, report)
