"""Follow a deployment directory: what is promoted there is checked, started and switched to.

One thread of the main process does a release step by step: the bundle is verified and compared
with the one that answers, its model processes are started beside the others, and once all of them
listen, the routing file tells the HTTP processes to switch (`serve.http.arms.follow`). A bundle
that fails at any step is refused with the reason, and the one that answers goes on. The group that
answered before stays for `keep_s`, so that a rollback only rewrites the routing file; it is ended
before another bundle is loaded, so two groups at most are in memory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from serve.bundle.manifest import BundleError
from serve.bundle.seal import Bundle
from serve.command.priority import aside
from serve.engine.routing import Report, Routing, read_reports, write_routing
from serve.inference.placement import pick_backend
from serve.inference.predictor import load_encoder
from serve.processes.entry import Entry
from serve.processes.first import First
from serve.processes.group import LoadFailed, ModelGroup, Places
from serve.processes.memory import check_memory
from serve.processes.supervisor import Watch
from serve.release.bundles import open_deployed
from serve.release.pointer import Pointer, ReleaseError, read_pointer
from serve.release.servers import RefusedVersion
from serve.release.successor import check_successor

LOOK_S = 0.02
"""Seconds between two looks at the pointer."""

SWITCH_S = 30.0
"""Seconds for the HTTP processes to connect to a new group; one that cannot holds up none."""

STATUS_S = 0.5
"""Seconds between two looks at what the HTTP processes report, while nothing happens."""

JOIN_S = 1.0
"""Seconds to wait for the thread at the end; what it started is ended in any case."""

logger = logging.getLogger(__name__)


class Overtaken(Exception):
    """The pointer has moved on while a bundle was being loaded."""


class Releases:
    """The releases of one server. live: the group of `first`. url: the server's."""

    def __init__(
        self, first: First, places: Places, watch: Watch, live: ModelGroup, url: str
    ) -> None:
        assert first.deployment is not None
        self.directory = first.deployment
        self.places = places
        self.watch = watch
        self.live = live
        self.retired: ModelGroup | None = None
        self.generation = first.generation
        self.refused = first.refused
        self.http: list[int] = []
        self.entry = Entry(self.directory, url)
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._run, name="releases", daemon=True)
        self._pointer = first.pointer
        """The last one that was followed or refused."""
        self._num_refused = int(first.refused is not None)
        self._loading: str | None = None
        self._candidate: ModelGroup | None = None
        self._until_s = 0.0
        """When the retired group is ended."""
        self._numbers = count(1)

    def start(self, http: list[int]) -> None:
        """Begin to follow, once the HTTP processes run."""
        self.http = self.entry.http = http
        self._write_status()
        self.thread.start()

    def close(self) -> None:
        """Stop following, and end all groups."""
        self.ending.set()
        if self.thread.is_alive():
            self.thread.join(timeout=JOIN_S)
        for group in (self._candidate, self.retired, self.live):
            if group is not None:
                group.end()
        self.entry.close()

    def _run(self) -> None:
        stamp: object = None
        due_s = 0.0
        while not self.ending.wait(LOOK_S):
            try:
                if self.retired is not None and time.monotonic() > self._until_s:
                    self._end_retired()
                if (now := self._stamp()) != stamp:
                    pointer = read_pointer(self.directory)
                    if pointer not in (None, self._pointer):
                        self._follow(pointer)
                    stamp = now
                if time.monotonic() > due_s:
                    self._write_status()
                    due_s = time.monotonic() + STATUS_S
            except Overtaken:
                continue
            except (ReleaseError, OSError) as error:  # a damaged pointer, a directory that is gone
                logger.error("the deployment `%s` cannot be read: %s", self.directory, error)
                stamp = self._stamp()
                self.ending.wait(1.0)
            except Exception:  # our own bug: what answers goes on, and so does this thread
                logger.exception("a release failed")
                self.ending.wait(1.0)

    def _stamp(self) -> object:
        try:
            found = (self.directory / "pointer.json").stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _follow(self, pointer: Pointer) -> None:
        logger.info("generation %d: version %s", pointer.generation, pointer.champion)
        if pointer.champion == self.live.version:
            self._switch(pointer, self.live, self.retired)
        elif self.retired is not None and pointer.champion == self.retired.version:
            self._switch(pointer, self.retired, self.live)
        else:
            self._loading = pointer.champion
            self._write_status()
            try:
                candidate = self._prepare(pointer)
            except (ReleaseError, BundleError, LoadFailed, OSError) as error:
                self._refuse(pointer, str(error))
                return
            finally:
                self._loading = None
            self.watch.add(candidate.supervisor)
            self._switch(pointer, candidate, self.live)

    def _prepare(self, pointer: Pointer) -> ModelGroup:
        """Start the group of a bundle, and wait until it listens. Raises with the reason if not."""
        bundle = aside(lambda: self._checked(pointer))
        self._end_retired()
        device = self.places.devices[0]
        config = self.places.config
        backend, _ = pick_backend(bundle, device=device, requested=config.backend)
        check_memory(bundle, backend=backend, device=device, processes=len(self.places.devices))
        name = f"{next(self._numbers)}-{bundle.manifest.version}"
        candidate = self._candidate = ModelGroup(bundle, self.places, name, self.live)
        try:
            candidate.wait_until_listening(lambda: self._look_ahead(pointer))
        except BaseException:
            candidate.end()
            raise
        finally:
            self._candidate = None
        return candidate

    def _checked(self, pointer: Pointer) -> Bundle:
        """The verified bundle of a pointer, comparable with the one that answers."""
        bundle = open_deployed(self.directory, pointer.champion)
        check_successor(self.live.bundle, bundle, directory=self.directory)
        load_encoder(bundle)
        return bundle

    def _look_ahead(self, pointer: Pointer) -> None:
        """Raise Overtaken if the server ends or the pointer has moved on."""
        if self.ending.is_set():
            raise Overtaken
        with suppress(ReleaseError, OSError):
            latest = read_pointer(self.directory)
            if latest not in (None, pointer):
                raise Overtaken

    def _refuse(self, pointer: Pointer, reason: str) -> None:
        """Go on with what answers, and say why."""
        if self.ending.is_set():
            return  # it failed because the server ends
        logger.error("version %s is refused: %s", pointer.champion, reason)
        self._pointer = pointer
        self._num_refused += 1
        self.refused = RefusedVersion.of(pointer, reason)
        self.route()
        self._write_status()

    def _switch(self, pointer: Pointer, live: ModelGroup, retired: ModelGroup | None) -> None:
        """Let the HTTP processes answer with `live`; if they cannot, with what they had."""
        before = self.live, self.retired, self.generation
        self.live, self.generation = live, pointer.generation
        self.retired = retired if retired is not live else None
        self._until_s = time.monotonic() + self.places.config.keep_s
        self._pointer = pointer
        self.route()
        if self._all_report(lambda report: report.generation == pointer.generation):
            if live is not before[0]:
                logger.warning("generation %d answers: version %s", self.generation, live.version)
            self._write_status()
            return
        self.live, self.retired, self.generation = before
        self._refuse(pointer, f"HTTP processes did not switch within {SWITCH_S:g} s")
        if live not in before:
            self._end(live)

    def _end_retired(self) -> None:
        """End the retired group, once no request uses it."""
        if self.retired is not None:
            group, self.retired = self.retired, None
            self.route()
            self._end(group)

    def _end(self, group: ModelGroup) -> None:
        longest_s = self.places.config.timeout_s + SWITCH_S
        self._all_report(lambda report: group.name not in report.groups, longest_s)
        self.watch.remove(group.supervisor)
        group.end()

    def _all_report(self, wanted: Callable[[Report], bool], timeout_s: float = SWITCH_S) -> bool:
        """Wait until every HTTP process reports what is wanted; False if one does not in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            reports = read_reports(self.places.runtime, self.http)
            if len(reports) == len(self.http) and all(map(wanted, reports.values())):
                return True
            if time.monotonic() > deadline or self.ending.wait(LOOK_S / 4):
                return False

    def route(self) -> None:
        """Tell the HTTP processes which groups answer."""
        write_routing(
            self.places.runtime,
            Routing(
                generation=self.generation,
                champion=self.live.routed(),
                retired=self.retired.routed() if self.retired else None,
                refused=self.refused,
                num_refused=self._num_refused,
            ),
        )

    def _write_status(self) -> None:
        self.entry.write(
            read_reports(self.places.runtime, self.http),
            version=self.live.version,
            loading=self._loading,
            refused=self.refused,
            retired=self.retired.version if self.retired else None,
        )
