"""`bundle_for`: what `textloop serve` makes of a path or a Hub id."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_standin import running_hub
from processes import ROOT, run

from serve.bundle.seal import open_bundle
from tests.train.importing.checkpoints import edit
from tests.train.importing.conftest import bring
from train.importing.on_the_fly import bundle_for

TRAINING = (
    "accelerate datasets evaluate fsspec matplotlib onnx onnxscript peft pyarrow scipy".split()
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "textloop" / "imported"


def test_a_second_start_finds_the_import_and_a_changed_source_is_imported_again(
    make: Callable[..., Path], cache: Path
) -> None:
    source, said = make(), list[str]()

    first = bundle_for(str(source), say=said.append)
    number = len(said)
    again = bundle_for(str(source), say=said.append)
    edit(source, id2label={"0": "x", "1": "y", "2": "z"}, label2id=None)
    changed = bundle_for(str(source), say=said.append)

    assert first.parent == cache
    assert again == first
    assert len(said) > number > 0  # the second start said nothing
    assert "importing it in full precision" in said[0]
    assert changed != first
    assert open_bundle(changed).manifest.labels == ("x", "y", "z")
    assert open_bundle(first).manifest.labels == ("negative", "neutral", "positive")


def test_a_damaged_import_is_made_again_and_said(make: Callable[..., Path]) -> None:
    source, said = make(), list[str]()
    bundle = bundle_for(str(source), say=said.append)
    (bundle / "config.json").write_text("{}")

    assert open_bundle(bundle_for(str(source), say=said.append))

    assert any("is damaged and is made again" in line for line in said)


def test_what_a_killed_import_left_is_removed_after_a_day(
    make: Callable[..., Path], cache: Path
) -> None:
    for name, age_s in ((".old", 2 * 86400), (".new", 60)):
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, (time.time() - age_s,) * 2)

    bundle_for(str(make()), say=lambda _: None)

    assert not (cache / ".old").exists()
    assert (cache / ".new").exists()


def test_a_bundle_and_a_run_are_themselves(make: Callable[..., Path], tmp_path: Path) -> None:
    bring(make(), tmp_path / "run" / "bundle")

    assert bundle_for(str(tmp_path / "run" / "bundle")) == tmp_path / "run" / "bundle"
    assert bundle_for(str(tmp_path / "run")) == tmp_path / "run" / "bundle"


def test_a_path_to_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such directory"):
        bundle_for(str(tmp_path / "no"))


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    with pytest.raises(ValueError, match=r"cannot write the cache .* set XDG_CACHE_HOME"):
        bundle_for(str(make()))


def without(modules: list[str], source: Path) -> str:
    """Code that imports on the fly where modules are not installed."""
    return (
        "import sys, importlib.machinery as m\n"
        "find = m.PathFinder.find_spec\n"
        f"gone = {modules!r}\n"
        "m.PathFinder.find_spec = classmethod(lambda cls, name, path=None, target=None: "
        "None if name.partition('.')[0] in gone else find(name, path, target))\n"
        "from train.importing.on_the_fly import bundle_for\n"
        f"print(bundle_for({str(source)!r}))\n"
    )


@pytest.mark.slow
def test_an_installation_without_the_training_extra_imports(
    make: Callable[..., Path], cache: Path
) -> None:
    done = run("-c", without(TRAINING, make()), cwd=ROOT)

    assert done.returncode == 0, done.stderr
    assert open_bundle(Path(done.stdout.strip())).path.parent == cache


def test_a_light_installation_refuses_with_the_remedy(make: Callable[..., Path]) -> None:
    done = run("-c", without(["torch", "transformers"], make()), cwd=ROOT)

    assert done.returncode == 1
    assert "needs torch and transformers, which this light installation leaves out" in done.stderr
    assert "pip install 'textloop[serve]'" in done.stderr


def test_textloop_serve_imports_a_model_that_is_no_bundle(
    make: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve.cli import serve
    from textloop.__main__ import main

    served: list[Path] = []

    def keep(arguments: argparse.Namespace) -> int:
        served.append(arguments.bundle)
        return 0

    monkeypatch.setattr(serve, "run", keep)

    assert main(["serve", str(make()), "port=8123"]) == 0
    assert served[0].parent == cache
    assert main(["serve", str(served[0])]) == 0
    assert served[1] == served[0]


@pytest.mark.slow
def test_a_model_and_a_bundle_of_the_hub(make: Callable[..., Path], tmp_path: Path) -> None:
    source = make()
    bring(source, tmp_path / "bundle")
    with running_hub() as hub:
        from hub_standin import Repository

        for name, directory in (("model", source), ("bundle", tmp_path / "bundle")):
            repository = hub.repositories[f"owner/{name}"] = Repository(private=False)
            files = {each.name: each.read_bytes() for each in directory.iterdir() if each.is_file()}
            repository.commit("first", files | {"code.py": b"raise SystemExit"})
        environment = hub.environment(tmp_path / "home") | {
            "XDG_CACHE_HOME": str(tmp_path / "cache")
        }
        code = (
            "from train.importing.on_the_fly import bundle_for\n"
            "print(bundle_for('hub:owner/model'))\nprint(bundle_for('hub:owner/bundle@main'))"
        )
        done = run("-c", code, cwd=ROOT, **environment)
        offline = run("-c", code, cwd=ROOT, **environment | {"HF_HUB_OFFLINE": "1"})
        missing = run("-c", code.replace("owner/model", "owner/none"), cwd=ROOT, **environment)
        commit = hub.repositories["owner/model"].head

    assert done.returncode == 0, done.stderr
    model, bundle = (open_bundle(Path(line)) for line in done.stdout.split())
    assert model.manifest.base_model["base"] == "owner/model"
    assert model.manifest.base_model["revision"] == commit
    assert bundle.manifest.base_model["base"] == "source"
    assert offline.stdout == done.stdout
    assert "`hub:owner/none` cannot be fetched" in missing.stderr
    assert json.loads((model.path / "manifest.json").read_text())
    assert not list((tmp_path / "home").rglob("code.py"))
