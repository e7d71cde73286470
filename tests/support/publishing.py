"""Shared by the publishing tests: an evaluated run, and the command."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import compress, crc32

import yaml
from processes import run

from serve.bundle.seal import open_bundle, seal


def png() -> bytes:
    """Encode one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", compress(b"\0\x80")) + chunk(b"IEND", b"")


ONE_TRY = (
    "import sys, train.publish.hub; train.publish.hub.WAITS_S = (); "
    "from train.__main__ import main; sys.exit(main(sys.argv[1:]))"
)
"""The usual command line, without the waits between attempts."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's directory and its configuration file."""

    directory: Path
    config: Path

    @property
    def bundle(self) -> Path:
        return self.directory / "bundle"

    @property
    def version(self) -> str:
        return open_bundle(self.bundle, verify=False).manifest.version

    def publish(
        self, *arguments: object, patient: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m train publish` in a process of its own."""
        start = ("-m", "train") if patient else ("-c", ONE_TRY)
        return run(*start, "publish", "--config", self.config, *arguments, **environment)

    def reseal(self) -> None:
        """Replace the bundle by another version with the same weights, like a second merge."""
        manifest = open_bundle(self.bundle).manifest
        fields = {name: getattr(manifest, name) for name in type(manifest).model_fields}
        del fields["files"]
        staging = self.directory / "again"
        ignore = shutil.ignore_patterns("manifest.json")
        shutil.copytree(self.bundle, staging, ignore=ignore)
        config = (staging / "config.json").read_text()
        (staging / "config.json").write_text(config.rstrip() + "\n\n")
        seal(staging, self.bundle, **fields | {"created": "2030-01-01T00:00:00+00:00"})


def copy_of(run: Run, directory: Path) -> Run:
    """Copy the run, for a test that changes it."""
    shutil.copytree(run.directory, directory / "run")
    values = yaml.safe_load(run.config.read_text())
    config = directory / "run.yaml"
    config.write_text(yaml.safe_dump(values | {"output_dir": str(directory / "run")}))
    return Run(directory=directory / "run", config=config)


def evaluated_run(bundle: Path, make_config: Callable[..., dict[str, Any]], directory: Path) -> Run:
    """Copy the run that made `bundle` and evaluate it; its results include a plot."""
    from train.config.run import RunConfig
    from train.evaluation.evaluate import evaluate

    shutil.copytree(bundle.parent, directory / "run")
    values = make_config(directory / "run", export_int8=True)
    evaluate(RunConfig.model_validate(values))
    for plot in (directory / "run" / "evaluation").glob("*.png"):
        plot.unlink()
    (directory / "run" / "evaluation" / "reliability.png").write_bytes(png())
    config = directory / "run.yaml"
    config.write_text(yaml.safe_dump(values))
    return Run(directory=directory / "run", config=config)
