"""The cores that a process may use, by its affinity and by every cgroup around it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serve.inference.cores import usable_cores
from train.fit.run import set_threads

V1 = "4:memory:/docker/a\n3:cpu,cpuacct:/docker/a\n0::/docker/a\n"

TREES = {
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
    "empty file of a sandbox": ("0::/\n", {"cpu.max": ""}, 16),
    "no cgroups": (None, {}, 16),
    "version 2": ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    "version 2, the file of a process without /proc": (None, {"cpu.max": "300000 100000"}, 3),
    "version 2, own group": ("0::/pod/app\n", {"pod/app/cpu.max": "400000 100000\n"}, 4),
    "version 2, outer group": (
        "0::/pod/app\n",
        {"pod/app/cpu.max": "max 100000\n", "pod/cpu.max": "150000 50000\n"},
        3,
    ),
    "version 2, path of the host": ("0::/kube/pod/app\n", {"cpu.max": "500000 100000\n"}, 5),
    "version 2, group outside the namespace": ("0::/../app\n", {"cpu.max": "600000 100000"}, 6),
    "version 2 beside version 1": (
        "1:name=systemd:/\n0::/app\n",
        {"unified/app/cpu.max": "200000 100000\n"},
        2,
    ),
    "version 1": (
        V1,
        {
            "cpu,cpuacct/docker/a/cpu.cfs_quota_us": "350000\n",
            "cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
    "version 1, outer group": (
        V1,
        {
            "cpu/docker/a/cpu.cfs_quota_us": "-1\n",
            "cpu/docker/a/cpu.cfs_period_us": "100000\n",
            "cpu/docker/cpu.cfs_quota_us": "40000\n",
            "cpu/docker/cpu.cfs_period_us": "20000\n",
        },
        2,
    ),
    "version 1, path of the host": (
        V1,
        {"cpu,cpuacct/cpu.cfs_quota_us": "10000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        1,
    ),
    "version 1, cpuset is not cpu": (
        "3:cpuset:/a\n2:cpu:/b\n",
        {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000"},
        16,
    ),
}


def make_tree(root: Path, groups: str | None, files: dict[str, str]) -> Path:
    if groups is not None:
        (root / "proc" / "self").mkdir(parents=True)
        (root / "proc" / "self" / "cgroup").write_text(groups)
    for name, content in files.items():
        file = root / "sys" / "fs" / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


@pytest.mark.parametrize(("groups", "files", "cores"), TREES.values(), ids=TREES)
def test_cores_are_those_of_the_tightest_group(
    groups: str | None,
    files: dict[str, str],
    cores: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))

    assert usable_cores(make_tree(tmp_path, groups, files)) == cores


def test_a_limit_above_the_affinity_adds_no_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})

    assert usable_cores(make_tree(tmp_path, "0::/\n", {"cpu.max": "800000 100000"})) == 1


@pytest.mark.parametrize(("local", "threads"), [("1", 6), ("2", 3), ("8", 1)])
def test_training_shares_the_usable_cores_among_its_processes(
    local: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    monkeypatch.setattr("train.fit.run.usable_cores", lambda: 6)
    monkeypatch.setattr("torch.set_num_threads", used.append)
    config: Any = SimpleNamespace(cpu_threads=None)
    state: Any = SimpleNamespace(device=SimpleNamespace(type="cpu"))

    set_threads(config, state)

    assert used == [threads]
