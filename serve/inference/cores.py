"""How many cores this process may use: fewer than the machine has, in a container for example."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Count the cores of the CPU affinity, capped by the CPU limits of the process's cgroups.

    Half a core and less count as one. root: where /proc and /sys are, which tests replace.
    """
    linux = sys.platform == "linux"
    cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
    return max(1, round(min([cores, *_limits(root)])))


def _limits(root: Path) -> Iterator[float]:
    """Yield the limit in cores of each cgroup, version 1 or 2, that the process is in.

    The limits of outer groups hold too. A container may see the path that its group has on the
    host: then only the outermost directory exists here, and is the container's own group.
    """
    for directory in control_groups("cpu", root):
        if (limit := _limit(directory)) is not None:
            yield limit


def control_groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the directories of the cgroups, inner ones first, that a controller limits us by.

    They may not exist; a name of a controller is one of version 1, such as cpu or memory.
    """
    for group in _groups(controller, root):
        for directory in (group, *group.parents):
            if directory == root / "sys" / "fs":
                break
            yield directory


def _groups(controller: str, root: Path) -> Iterator[Path]:
    mounts = root / "sys" / "fs" / "cgroup"
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inside = Path(*(part for part in Path(path).parts if part not in ("/", "..")))
        if not controllers:  # version 2
            yield from (mounts / inside, mounts / "unified" / inside)
        elif controller in controllers.split(","):
            yield from (mounts / controllers / inside, mounts / controller / inside)


def _limit(group: Path) -> float | None:
    """Return a group's own limit in cores; None without one."""
    try:
        if (version_2 := group / "cpu.max").is_file():
            quota, period = version_2.read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or a sandbox that leaves it empty
        return None
