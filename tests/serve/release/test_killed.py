"""A process that is killed in the middle of a release leaves the old or the new version."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from altered import forge, manifest
from guarded import http_processes
from processes import left_after, wait_for, workers_of

from serve.release.bundles import deploy
from serve.release.change import promote
from serve.release.pointer import read_pointer
from tests.serve.release.deployments import Following, following, point_to, released

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("TEXTLOOP_KILLS", "4"))
"""Kills of each kind."""


@pytest.fixture(scope="module")
def pair(
    bundles: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Two versions of one bundle."""
    created = manifest(created="2004-01-01T00:00:00+00:00")
    made = forge(bundles("single"), tmp_path_factory.mktemp("second") / "bundle", created)
    return bundles("single"), made


def main_of(server: Following) -> int:
    return server.process.pid


def model_of(server: Following) -> int:
    return random.choice(workers_of(server.process.pid))


def http_of(server: Following) -> int:
    return random.choice(http_processes(server))


@pytest.mark.parametrize("victim", [main_of, model_of, http_of])
def test_a_kill_in_mid_swap_leaves_exactly_one_version(
    victim: Callable[[Following], int], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    directory = tmp_path / "dep"
    versions = released(directory, *pair)
    chance = random.Random(victim.__name__)
    for _ in range(ROUNDS):
        before = read_pointer(directory)
        assert before is not None
        wanted = versions[versions[0] == before.champion]
        with following(directory, "api_processes=2", "keep_s=0") as server:
            group = server.process.pid
            promote(directory, wanted, who="test")
            time.sleep(chance.uniform(0, 2.5))
            os.kill(victim(server), signal.SIGKILL)
            if victim is model_of:
                # The champion's process is restarted; a candidate's is refused.
                wait_for(lambda s=server: s.status().loading is None, seconds=60)
                wait_for(lambda s=server: s.ask().status_code == 200, seconds=60)
                assert server.ask().headers["x-model-version"] in versions
            else:
                assert left_after(group) == []
        with following(directory) as server:
            pointer = read_pointer(directory)
            assert pointer is not None
            assert pointer.champion == wanted
            answer = server.ask()
            assert answer.status_code == 200
            assert answer.headers["x-model-version"] == wanted
            assert server.stop() == 0


def test_a_bundle_that_hangs_while_it_is_loaded_is_refused(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    directory = tmp_path / "dep"
    old, _ = released(directory, *pair)
    created = manifest(created="2005-01-01T00:00:00+00:00")
    version = deploy(directory, str(forge(pair[0], tmp_path / "third", created)))
    with following(directory, "load_timeout_s=15") as server:
        known = set(workers_of(server.process.pid))
        generation = point_to(directory, version)
        (born,) = wait_for(lambda: set(workers_of(server.process.pid)) - known)
        os.kill(born, signal.SIGSTOP)

        status = server.reaches(generation)

        assert status.refused is not None
        assert "load_timeout_s = 15" in status.refused.reason
        assert server.ask().headers["x-model-version"] == old
        wait_for(lambda: set(workers_of(server.process.pid)) == known)
