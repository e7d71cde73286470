"""The wheel and the sdist: what is in them, and the installed command beside a user's own files."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest
from own_files import were_run, write_own_files
from processes import ROOT
from rows import make_rows, write_jsonl

from scripts.local_server import free_port, post, wait_until_ready

BUILD = "from setuptools import build_meta as b; import sys; print(b.{}(sys.argv[1]))"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that git has, or would take: a build leaves files behind."""
    copy = tmp_path_factory.mktemp("source") / "textloop"
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(git, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    return copy


def build(source: Path, kind: str, directory: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(f"build_{kind}"), directory],
        cwd=source,
        capture_output=True,
        text=True,
        check=True,
    )
    return directory / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment with the wheel, and this one's libraries."""
    wheel = build(source, "wheel", tmp_path_factory.mktemp("wheel"))
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--quiet", f"--python={environment / 'bin' / 'python'}"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True)
    # Of this environment the libraries alone, without its own link to the checkout.
    (ours,) = (Path(each) for each in sys.path if each.endswith("site-packages"))
    (packages / "libraries.pth").write_text(f"{ours}\n")
    return environment / "bin"


def call(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_five_commands_beside_a_train_py(installed: Path, tiny_base: Path, tmp_path: Path) -> None:
    write_own_files(tmp_path)
    write_jsonl(tmp_path / "mails.jsonl", make_rows(300, seed=1))
    textloop = installed / "textloop"
    where = call(tmp_path, installed / "python", "-c", "import textloop; print(textloop.__file__)")
    assert str(installed.parent) in where.stdout
    keys = ["model.max_length=32", "output_dir=runs/mails"]

    init = call(tmp_path, textloop, "init", "mails.jsonl", "--base", tiny_base, *keys)
    assert init.returncode == 0, init.stderr
    run = call(tmp_path, textloop, "run", "method=probe")
    assert run.returncode == 0, run.stderr
    words = ["predict", "runs/mails", "--input", "mails.jsonl", "--output", "labelled.csv"]
    assert call(tmp_path, textloop, *words).returncode == 0
    assert (tmp_path / "labelled.csv").read_text().count("\n") == 301

    port = free_port()
    server = subprocess.Popen([textloop, "serve", "--port", str(port)], cwd=tmp_path)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/health", server)
        assert post(f"http://127.0.0.1:{port}/predict", {"inputs": "my parcel"})
    finally:
        server.terminate()
        server.wait(60)
    assert were_run(tmp_path) == []


def test_the_sdist_has_what_its_commands_need(source: Path, tmp_path: Path) -> None:
    with tarfile.open(build(source, "sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    wanted = ["CHANGELOG.md", "constraints.txt", "scripts/quickstart", "scripts/install"]
    wanted += ["configs/quickstart/quickstart.yaml", "docs/python.md", "tests/conftest.py"]
    assert set(wanted) <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("runs/")]
