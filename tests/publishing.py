"""What the tests of publishing share: a run that was evaluated, and the command."""

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
    """One grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", compress(b"\0\x80")) + chunk(b"IEND", b"")


ONE_TRY = (
    "import sys, train.publish.hub; train.publish.hub.WAITS_S = (); "
    "from train.__main__ import main; sys.exit(main(sys.argv[1:]))"
)
"""The command line as ever, but for waits that would make the tests slow."""


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
        """`python -m train publish` as a process of its own."""
        start = ("-m", "train") if patient else ("-c", ONE_TRY)
        return run(*start, "publish", "--config", self.config, *arguments, **environment)

    def reseal(self) -> None:
        """Make the bundle another version of the same weights, as a second merge does."""
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
    """The same run elsewhere, to be changed."""
    shutil.copytree(run.directory, directory / "run")
    values = yaml.safe_load(run.config.read_text())
    config = directory / "run.yaml"
    config.write_text(yaml.safe_dump(values | {"output_dir": str(directory / "run")}))
    return Run(directory=directory / "run", config=config)


def evaluated_run(bundle: Path, make_config: Callable[..., dict[str, Any]], directory: Path) -> Run:
    """A copy of the run that made `bundle`, evaluated, with a plot among its results."""
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
