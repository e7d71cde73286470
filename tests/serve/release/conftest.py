"""A deployment directory with three versions of one bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import altered
import pytest
from releases import Made

from serve.bundle.seal import open_bundle
from serve.release.bundles import deploy


@pytest.fixture(scope="session")
def three(bundles: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Three small bundles of the same labels."""
    folder = tmp_path_factory.mktemp("three")
    paths = [
        altered.forge(
            bundles("single"),
            folder / f"bundle-{day}",
            altered.both(
                altered.without_export, altered.manifest(created=f"2026-01-0{day}T00:00:00+00:00")
            ),
        )
        for day in (1, 2, 3)
    ]
    return Made(paths, [open_bundle(path).manifest.version for path in paths])


@pytest.fixture(scope="session")
def template(three: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment directory with the three, none promoted; do not change it."""
    directory = tmp_path_factory.mktemp("template") / "deployment"
    for path in three.paths:
        deploy(directory, str(path))
    return directory


@pytest.fixture
def deployment(template: Path, tmp_path: Path) -> Path:
    """A deployment directory with the three, none promoted."""
    return Path(shutil.copytree(template, tmp_path / "deployment"))


@pytest.fixture
def versions(three: Made) -> list[str]:
    return three.versions
