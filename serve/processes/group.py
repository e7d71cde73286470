"""The model processes of one bundle: started together, watched together, ended together."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from serve.bundle.contents import CONFIG, read_object
from serve.bundle.seal import Bundle
from serve.engine.pulse import Pulse
from serve.engine.routing import Group
from serve.engine.status import read_status
from serve.inference.placement import pick_backend
from serve.inference.predictor import Throughput
from serve.processes.order import Order, failure_file
from serve.processes.start import run_model_process
from serve.processes.supervisor import Supervisor, end_processes
from serve.settings import ServeConfig

LOOK_S = 0.02
"""Seconds between two looks at whether processes listen."""


class LoadFailed(RuntimeError):
    """A model process could not load its model; says why."""


class Slots:
    """Numbers for model processes that run at the same time; the smallest free ones are taken."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self, count: int) -> tuple[int, ...]:
        """Take so many numbers."""
        free = (number for number in range(len(self._taken) + count) if number not in self._taken)
        taken = tuple(number for number, _ in zip(free, range(count), strict=False))
        self._taken |= {*taken}
        return taken

    def free(self, numbers: Sequence[int]) -> None:
        """Give numbers back, once their processes have ended."""
        self._taken -= {*numbers}


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the model processes of every group of a server run."""

    runtime: Path
    """Directory of sockets and status files."""
    devices: tuple[str, ...]
    """Device of each process of a group."""
    config: ServeConfig
    slots: Slots


class ModelGroup:
    """The model processes of a verified bundle.

    name: unique in the life of the server. beside: the group that answers meanwhile, whose pace
    is inherited if its model has the same shape; None at the start of the server.
    """

    def __init__(
        self, bundle: Bundle, places: Places, name: str, beside: ModelGroup | None = None
    ) -> None:
        self.bundle = bundle
        self.places = places
        self.name = name
        self.paths = [
            places.runtime / f"{name}-{number}.sock" for number in range(len(places.devices))
        ]
        self._is_beside = beside is not None
        self._pace = None if beside is None else inherited(beside, self)
        self._slots = places.slots.take(len(places.devices))
        self._pulses = [Pulse(path, hang_s=places.config.hang_s) for path in self.paths]
        self.workers = [self._launch(number) for number in range(len(self.paths))]
        self.supervisor = Supervisor(self.workers, self._launch, self._hangs, f"model {name}")

    @property
    def version(self) -> str:
        """Of the bundle."""
        return self.bundle.manifest.version

    def routed(self) -> Group:
        """What HTTP processes need to know."""
        return Group(
            name=self.name,
            version=self.version,
            bundle=str(self.bundle.path),
            sockets=tuple(map(str, self.paths)),
        )

    def is_listening(self) -> bool:
        """Whether all processes have loaded the model; LoadFailed if one exited before."""
        missing = [number for number, path in enumerate(self.paths) if not path.exists()]
        for number in missing:
            process = self.workers[number]
            if not process.is_alive():
                raise LoadFailed(self._why(number, process.exitcode))
        if not missing:
            self._is_beside, self._pace = False, None  # of processes that are restarted later
        return not missing

    def wait_until_listening(self, look: Callable[[], object] = lambda: None) -> None:
        """Wait until all processes have loaded the model.

        look: called now and then. Raises LoadFailed with the reason if one exits before, and after
        `load_timeout_s`.
        """
        limit_s = self.places.config.load_timeout_s
        deadline = time.monotonic() + limit_s
        while not self.is_listening():
            if time.monotonic() > deadline:
                raise LoadFailed(f"the model was not loaded within load_timeout_s = {limit_s:g} s")
            look()
            time.sleep(LOOK_S)

    def end(self) -> None:
        """End all processes, and remove what they leave."""
        end_processes(self.workers)
        for pulse, path in zip(self._pulses, self.paths, strict=True):
            pulse.close()
            for each in (path, path.with_suffix(".json"), failure_file(path)):
                each.unlink(missing_ok=True)
        self.places.slots.free(self._slots)

    def _why(self, number: int, code: int | None) -> str:
        with suppress(OSError):
            return failure_file(self.paths[number]).read_text()
        return f"a model process exited with code {code} while it loaded the model"

    def _hangs(self, number: int) -> str | None:
        return self._pulses[number].problem()

    def _launch(self, number: int) -> BaseProcess:
        """Start the process of that number."""
        self.paths[number].unlink(missing_ok=True)
        order = Order(
            bundle=self.bundle.path,
            config=self.places.config,
            device=self.places.devices[number],
            number=number,
            slot=self._slots[number],
            socket=self.paths[number],
            is_beside=self._is_beside,
            pace=self._pace,
        )
        process = multiprocessing.get_context("spawn").Process(
            target=run_model_process,
            args=(pickle.dumps(order), order.is_beside),
            name=f"textloop-model-{self.name}-{number}",
        )
        # Ctrl-C goes to the whole process group; this process ends when the parent ends it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _without_main_module():
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return process


_starting = threading.Lock()


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep a process from importing the program that this one runs: it needs nothing of it."""
    main = sys.modules["__main__"]
    with _starting:  # groups are started and restarted by two threads
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def inherited(running: ModelGroup, other: ModelGroup) -> Throughput | None:
    """The pace of a running group, if that of the other is the same; None to measure it.

    A measurement beside live traffic takes its cores, and is wrong.
    """
    status = read_status(running.paths)
    device = running.places.devices[0]
    if status is None or _shape(running.bundle) != _shape(other.bundle):
        return None
    backend, _ = pick_backend(other.bundle, device=device, requested=running.places.config.backend)
    if backend != status["backend"]:
        return None
    return Throughput(**{each.name: status[each.name] for each in fields(Throughput)})


_OF_LABELS = frozenset(
    "id2label label2id num_labels problem_type dtype torch_dtype transformers_version "
    "_name_or_path architectures".split()
)
"""Keys of a model's configuration that do not decide how fast it is."""


def _shape(bundle: Bundle) -> dict[str, Any]:
    values = read_object(bundle.path, CONFIG)
    return {name: value for name, value in values.items() if name not in _OF_LABELS}
