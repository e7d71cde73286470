"""Publishing to the Hub: the real client against a stand-in on a real socket."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_standin import Hub, running_hub
from processes import run
from publishing import Run, copy_of

from serve.bundle.seal import open_bundle

REPO = "me/topics"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def publish(hub: Hub, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `train publish --to hub:...` against the stand-in."""

    def call(
        run: Run, *arguments: object, patient: bool = True, token: str | None = "good"
    ) -> subprocess.CompletedProcess[str]:
        environment = hub.environment(tmp_path / "home")
        if token != "good":
            environment["HF_TOKEN"] = token or ""
        return run.publish("--to", f"hub:{REPO}", *arguments, patient=patient, **environment)

    return call


def download(hub: Hub, tmp_path: Path, revision: str) -> Path:
    """Download a revision of the repository by `snapshot_download`."""
    target = tmp_path / f"download-{revision}"
    code = (
        "import sys; from huggingface_hub import snapshot_download; "
        "snapshot_download(sys.argv[1], revision=sys.argv[2], local_dir=sys.argv[3])"
    )
    done = run("-c", code, REPO, revision, target, **hub.environment(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    return target


def test_published_bundle_is_private_tagged_and_verifies_after_download(
    made: Run, hub: Hub, publish: Callable[..., Any], tmp_path: Path
) -> None:
    first = publish(made)
    repository = hub.repositories[REPO]
    commits = len(repository.commits)
    second = publish(made)
    bundle = open_bundle(download(hub, tmp_path, made.version))

    assert first.returncode == 0, first.stderr
    assert f"published: bundle {made.version} at hub:{REPO}" in first.stdout
    assert repository.private
    assert repository.tags == {made.version: repository.head}
    assert commits == 2  # that of the new repository, and ours
    expected = {*bundle.manifest.files, "manifest.json", "README.md", "evaluation/reliability.png"}
    assert set(repository.files) == expected | {".gitattributes"}
    assert bundle.manifest.version == made.version
    assert second.stdout.startswith(f"already published: bundle {made.version}")
    assert len(repository.commits) == commits


@pytest.mark.slow
def test_failed_and_lost_answers_are_tried_again_without_a_second_commit(
    made: Run, hub: Hub, publish: Callable[..., Any]
) -> None:
    hub.fail("POST", "/commit/main", 500)
    hub.fail("POST", "/commit/main", "lost")

    done = publish(made, "publish.private=false")

    assert done.returncode == 0, done.stderr
    assert "returned HTTP 500" in done.stdout
    assert "connection" in done.stdout
    repository = hub.repositories[REPO]
    assert len(repository.commits) == 2
    assert repository.tags == {made.version: repository.head}
    assert not repository.private


@pytest.mark.slow
def test_rerun_after_a_cut_goes_on_from_there(
    made: Run, hub: Hub, publish: Callable[..., Any], tmp_path: Path
) -> None:
    hub.fail("POST", "/commit/main", "cut")

    cut = publish(made, patient=False)
    sent = hub.asked("PUT", "/lfs/")
    again = publish(made, patient=False)

    assert cut.returncode == 1
    assert "rerun the command to resume" in cut.stdout
    assert again.returncode == 0, again.stderr
    assert hub.asked("PUT", "/lfs/") == sent == 2  # weights and int8 export, once each
    assert len(hub.repositories[REPO].commits) == 2
    assert hub.repositories[REPO].tags.keys() == {made.version}


@pytest.mark.slow
def test_new_version_replaces_the_old_one_whose_tag_stays(
    made: Run, hub: Hub, publish: Callable[..., Any], tmp_path: Path
) -> None:
    mine = copy_of(made, tmp_path)
    publish(mine)
    mine.reseal()

    done = publish(mine)

    assert done.returncode == 0, done.stderr
    for revision, version in (
        (made.version, made.version), (mine.version, mine.version), ("main", mine.version),
    ):  # fmt: skip
        assert open_bundle(download(hub, tmp_path, revision)).manifest.version == version


@pytest.mark.slow
def test_tag_with_other_content_and_repository_of_others_are_refused(
    made: Run, hub: Hub, publish: Callable[..., Any], tmp_path: Path
) -> None:
    mine = copy_of(made, tmp_path)
    publish(mine, "publish.tag=v1")
    mine.reseal()
    before = len(hub.repositories[REPO].commits)

    other = publish(mine, "publish.tag=v1")
    hub.repositories[REPO].commit("by hand", {"pytorch_model.bin": b"somebody's"})
    foreign = publish(mine)

    assert (other.returncode, foreign.returncode) == (1, 1)
    assert "other content under the tag v1" in other.stdout
    assert "`pytorch_model.bin`" in foreign.stdout
    assert len(hub.repositories[REPO].commits) == before + 1


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        (None, 401, "set HF_TOKEN to one with write access, or run `hf auth login`"),
        ("/api/repos/create", 403, "the token has no write access"),
        ("/commit/main", 413, "the commit exceeds the Hub's size limit"),
    ],
)
def test_answer_that_will_stay_the_same_says_what_to_do(
    made: Run,
    hub: Hub,
    publish: Callable[..., Any],
    path: str | None,
    status: int,
    message: str,
) -> None:
    if path:
        hub.fail("POST", path, status, times=9)

    done = publish(made, token="good" if path else None)

    assert done.returncode == 2
    assert f"hub:{REPO} returned HTTP {status}" in done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
