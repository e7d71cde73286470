"""`deploy` copies a bundle, verifies the copy, and leaves nothing half done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
from hub_standin import Repository, running_hub
from processes import ROOT, run
from releases import Made, kill_at, promoted

from serve.bundle.manifest import BundleError
from serve.bundle.seal import open_bundle
from serve.release import bundles as module
from serve.release.bundles import deploy, find_version, open_deployed, sweep
from serve.release.directory import locked
from serve.release.pointer import ReleaseError, bundle_path
from serve.release.sources import find_source

KNOWN_STORES = sys.modules["fsspec.registry"]._registry
"""Classes that fsspec has imported already, by scheme."""


def contents(directory: Path) -> list[str]:
    """Names in the folder of the bundles, hidden ones included."""
    return sorted(each.name for each in (directory / "bundles").iterdir())


def test_copy_is_its_own_and_outlives_the_source(three: Made, tmp_path: Path) -> None:
    source = Path(shutil.copytree(three.paths[0], tmp_path / "source"))

    version = deploy(tmp_path / "d", str(source))
    inodes = {each.stat().st_ino for each in source.rglob("*")}
    shutil.rmtree(source)

    assert version == three.versions[0]
    copy = open_deployed(tmp_path / "d", version)
    assert not inodes & {each.stat().st_ino for each in copy.path.rglob("*")}


def test_same_version_again_is_verified_and_not_copied(deployment: Path, three: Made) -> None:
    before = bundle_path(deployment, three.versions[0]).stat().st_ino

    assert deploy(deployment, str(three.paths[0])) == three.versions[0]

    assert bundle_path(deployment, three.versions[0]).stat().st_ino == before


@pytest.mark.parametrize("what", ["altered", "missing", "folder", "file"])
def test_altered_copy_is_replaced_by_deploying_again(
    deployment: Path, three: Made, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle_path(deployment, three.versions[0])
    if what == "altered":
        (path / "model.safetensors").write_bytes(b"other")
    elif what == "missing":
        (path / "config.json").unlink()
    else:
        shutil.rmtree(path)
        path.mkdir() if what == "folder" else path.write_text("no folder")
    with pytest.raises(ValueError, match=r"deploy"):
        open_deployed(deployment, three.versions[0])

    deploy(deployment, str(three.paths[0]))

    open_deployed(deployment, three.versions[0])
    assert contents(deployment) == sorted(three.versions)
    assert "note: replacing the copy that is there" in capsys.readouterr().err


def test_source_that_is_altered_is_refused_by_its_own_name(three: Made, tmp_path: Path) -> None:
    source = Path(shutil.copytree(three.paths[0], tmp_path / "source"))
    data = bytearray((source / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (source / "model.safetensors").write_bytes(data)

    with pytest.raises(BundleError, match=rf"`{source}`: file `model.safetensors` was altered"):
        deploy(tmp_path / "d", str(source))

    assert contents(tmp_path / "d") == []


def test_swapped_arguments_change_nothing(three: Made, deployment: Path) -> None:
    before = sorted(three.paths[0].iterdir())

    with pytest.raises(ReleaseError, match="name a new directory first, then the bundle"):
        deploy(three.paths[0], str(deployment))

    assert sorted(three.paths[0].iterdir()) == before


def test_full_disk_is_noticed_before_copying(
    three: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: full)

    with pytest.raises(OSError, match="MB are needed, 1 MB are free") as failure:
        deploy(tmp_path / "d", str(three.paths[0]))

    assert failure.value.strerror is not None
    assert contents(tmp_path / "d") == []


def test_copy_that_fails_leaves_nothing(
    three: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fail)

    with pytest.raises(OSError, match="No space left"):
        deploy(tmp_path / "d", str(three.paths[0]))

    assert contents(tmp_path / "d") == []


def test_copy_of_a_killed_command_is_removed_and_that_of_a_running_one_is_not(
    deployment: Path, three: Made, tmp_path: Path
) -> None:
    directory = tmp_path / "d"
    killed = next(
        point
        for point in range(100)
        if kill_at(point, lambda: deploy(directory, str(three.paths[0])))
        and (directory / "bundles").is_dir()
        and contents(directory)
    )
    assert killed
    assert contents(directory)[0].startswith(".incoming-")

    with module._incoming(directory) as running, locked(directory):
        sweep(directory)
        assert contents(directory) == [running.parent.name]

    assert deploy(directory, str(three.paths[0])) == three.versions[0]
    assert contents(directory) == [three.versions[0]]


def test_deploying_twice_at_once_leaves_the_first_copy_in_place(
    three: Made, tmp_path: Path
) -> None:
    directory = tmp_path / "d"
    found = find_source(str(three.paths[0]))
    deploy(directory, str(three.paths[0]))
    before = bundle_path(directory, three.versions[0]).stat().st_ino

    module._receive(directory, found)  # by a command that began before the other had ended

    assert bundle_path(directory, three.versions[0]).stat().st_ino == before
    assert contents(directory) == [three.versions[0]]


def test_replacing_that_was_killed_between_two_renames_loses_no_copy(
    deployment: Path, versions: list[str]
) -> None:
    path = bundle_path(deployment, versions[0])
    path.rename(path.with_name(f".{versions[0]}.{'0' * 32}.old"))
    shutil.copytree(bundle_path(deployment, versions[1]), deployment / "bundles" / (
        f".{versions[1]}.{'0' * 32}.old"))  # fmt: skip

    with locked(deployment):
        sweep(deployment)

    assert contents(deployment) == sorted(versions)
    assert open_deployed(deployment, versions[0])


def test_link_in_the_place_of_a_bundle_is_not_followed(deployment: Path, three: Made) -> None:
    path = bundle_path(deployment, three.versions[0])
    shutil.rmtree(path)
    path.symlink_to(three.paths[0])

    with pytest.raises(ReleaseError, match="is a link"):
        promoted(deployment, three.versions[0])

    deploy(deployment, str(three.paths[0]))
    assert not path.is_symlink()
    assert open_bundle(three.paths[0])


@pytest.mark.parametrize(
    "version",
    [
        "", ".", "..", "../../etc", "/etc/passwd", "0123456789ab/../..", "0123456789AB",
        "0123456789ab\n", "0123456789abc", "\u0660123456789ab", "0123456789a\x00", "*", "g" * 12,
    ],
)  # fmt: skip
def test_only_hex_digits_become_a_path(deployment: Path, version: str) -> None:
    with pytest.raises(ReleaseError, match="no version of a bundle, which has 12 hex digits"):
        bundle_path(deployment, version)
    with pytest.raises(ReleaseError, match=r"is no version|is not deployed"):
        find_version(deployment, version)


def test_prefix_of_a_version_is_enough_if_it_is_the_only_one(
    deployment: Path, versions: list[str]
) -> None:
    assert find_version(deployment, versions[1][:6]) == versions[1]
    with pytest.raises(ReleaseError, match=r"version fffffff is not deployed .*; there are"):
        find_version(deployment, "fffffff")
    for name in ("abc000000000", "abc111111111"):
        (deployment / "bundles" / name).mkdir()
    with pytest.raises(ReleaseError, match="abc begins 2 versions"):
        find_version(deployment, "abc")


# Sources


def upload(bundle: Path, url: str) -> None:
    store, path = fsspec.core.url_to_fs(url)
    for file in bundle.rglob("*"):
        if file.is_file():
            store.pipe_file(f"{path}/{file.relative_to(bundle)}", file.read_bytes())


def test_bundle_at_a_url_is_deployed(three: Made, tmp_path: Path) -> None:
    upload(three.paths[0], "memory://models/one")
    upload(three.paths[1], "memory://runs/two/bundle")

    assert deploy(tmp_path / "d", "memory://models/one") == three.versions[0]
    assert deploy(tmp_path / "d", "memory://runs/two") == three.versions[1]
    assert deploy(tmp_path / "d", f"file://{three.paths[2]}") == three.versions[2]
    assert contents(tmp_path / "d") == sorted(three.versions)


def test_place_of_published_versions_names_them(three: Made, tmp_path: Path) -> None:
    for path, version in zip(three.paths[:2], three.versions[:2], strict=True):
        upload(path, f"memory://published/{version}")
        shutil.copytree(path, tmp_path / "published" / version)
    fsspec.filesystem("memory").pipe_file("published/latest", three.versions[1].encode())
    (tmp_path / "published" / "latest").write_text(f"{three.versions[1]}\n")

    for place in ("memory://published", str(tmp_path / "published")):
        with pytest.raises(ReleaseError) as failure:
            find_source(place)
        assert all(version in str(failure.value) for version in three.versions[:2])
        assert str(failure.value).endswith(f"name one: {place}/{three.versions[1]}")


def test_url_that_is_no_bundle_says_what_is_there(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file("things/notes.txt", b"")

    with pytest.raises(ReleaseError, match=r"no bundle; there is `notes\.txt`"):
        find_source("memory://things")
    with pytest.raises(ReleaseError, match=r"is a file; name the folder"):
        find_source("memory://things/notes.txt")
    with pytest.raises(ReleaseError, match=r"there is nothing at `memory://nowhere`"):
        find_source("memory://nowhere")
    with pytest.raises(ReleaseError, match=r"Protocol not known"):
        find_source("nonsense://x")


def test_file_that_grows_or_a_manifest_that_leads_elsewhere_is_not_fetched(
    three: Made, tmp_path: Path
) -> None:
    upload(three.paths[0], "memory://grown")
    found = find_source("memory://grown")
    store = fsspec.filesystem("memory")
    store.pipe_file("grown/model.safetensors", bytes(2_000_000))
    with pytest.raises(ReleaseError, match=r"`model\.safetensors` is larger than it should be"):
        found.copy_to(tmp_path)

    manifest = json.loads((three.paths[0] / "manifest.json").read_text())
    manifest["files"]["../../evil.json"] = "0" * 64
    store.pipe_file("grown/manifest.json", json.dumps(manifest).encode())
    with pytest.raises(BundleError, match=r"`memory://grown/manifest\.json` was altered"):
        find_source("memory://grown")


def test_credentials_in_a_url_are_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="set those in the environment") as failure:
        find_source("s3://AKIAABCDEFGHIJKLMNOP:hunter2hunter2@bucket/models")

    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize(
    ("hidden", "source", "message"),
    [
        ("s3fs", "s3://models/x", "pip install 'textloop[s3]'"),
        ("gcsfs", "gs://models/x", "pip install gcsfs"),
        ("fsspec", "memory://x", "needs fsspec: pip install 'textloop[cpu]'"),
        ("huggingface_hub", "hub:a/b", "needs huggingface_hub: pip install 'textloop[cpu]'"),
    ],
)
def test_missing_library_is_named_with_its_extra(
    hidden: str, source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == hidden]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, hidden, None)
    for scheme in ("s3", "gs"):
        monkeypatch.delitem(KNOWN_STORES, scheme, raising=False)

    with pytest.raises(ReleaseError) as failure:
        find_source(source)

    assert message in str(failure.value)


def test_bundle_on_the_hub_is_deployed_by_one_command(three: Made, tmp_path: Path) -> None:
    files = {
        str(each.relative_to(three.paths[0])): each.read_bytes()
        for each in three.paths[0].rglob("*")
        if each.is_file()
    }
    with running_hub() as hub:
        for name, held in (("team/topics", files), ("team/other", {"config.json": b"{}"})):
            hub.repositories[name] = repository = Repository(private=False)
            repository.commit("first", {**held, "README.md": b"# Card\n"})
        environment = hub.environment(tmp_path / "home")
        command = ("-m", "textloop", "deploy", tmp_path / "d")

        good = run(*command, "hub:team/topics", **environment)
        other = run(*command, "hub:team/other", **environment)

    assert good.returncode == 0, good.stderr
    assert good.stdout.splitlines()[-1] == three.versions[0]
    assert other.returncode == 2
    assert "has no `manifest.json`, so it is no bundle; `textloop import" in other.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system")
def test_deploying_to_a_disk_that_fills_up_is_refused_and_leaves_nothing(
    three: Made, tmp_path: Path
) -> None:
    script = f"""
mount -t tmpfs -o size=150k none {tmp_path} || exit 77
{sys.executable} -c "
import sys
import serve.release.bundles as b
b.SPARE_BYTES = -10**9
from textloop.__main__ import main
sys.exit(main(sys.argv[1:]))" deploy {tmp_path}/d "$1"
code=$?; find {tmp_path}/d/bundles -mindepth 1; exit $code
"""
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, "bash", str(three.paths[0])],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("file systems cannot be mounted here")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no space left on device")
