"""Publishing to S3: the real client against a stand-in on a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import run
from publishing import Run, copy_of

from serve.bundle.seal import open_bundle

DOWNLOAD = """
import sys, s3fs
store = s3fs.S3FileSystem()
store.get(sys.argv[1], sys.argv[2], recursive=True)
print(store.cat_file(sys.argv[3]).decode())
"""
BREAK = """
import sys, s3fs
store = s3fs.S3FileSystem()
for path in sys.argv[1:]:
    store.rm_file(path)
"""


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Environment variables that point AWS's libraries at a stand-in with the bucket `models`."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    code = "import s3fs; s3fs.S3FileSystem().mkdir('models')"
    assert run("-c", code, **variables).returncode == 0
    yield variables
    server.stop()


@pytest.mark.slow
def test_bundle_in_a_bucket_is_whole_and_a_rerun_sends_what_is_missing(
    made: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    url, key = "s3://models/topics", f"models/topics/{made.version}"

    first = made.publish("--to", url, **environment)
    second = made.publish("--to", url, **environment)
    # The state after an interruption: no manifest, which is uploaded last.
    run("-c", BREAK, f"{key}/manifest.json", f"{key}/config.json", **environment)
    third = made.publish("--to", url, **environment)
    got = run("-c", DOWNLOAD, key, tmp_path / "got", "models/topics/latest", **environment)

    assert (first.returncode, second.returncode, third.returncode) == (0, 0, 0), first.stderr
    assert f"published: bundle {made.version} at {url}/{made.version}" in first.stdout
    assert second.stdout.startswith("already published")
    assert third.stdout.startswith("published")
    assert open_bundle(tmp_path / "got").manifest.version == made.version
    assert (tmp_path / "got" / "evaluation" / "reliability.png").is_file()
    assert got.stdout.strip() == made.version


def test_published_version_is_deployed_from_its_bucket(
    made: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    made.publish("--to", "s3://models/deployed", **environment)
    code = """
import sys
from textloop.__main__ import main
codes = [main(["deploy", sys.argv[1], url]) for url in sys.argv[2:]]
sys.exit(codes != [2, 2, 0])
"""
    url = "s3://models/deployed"

    done = run("-c", code, tmp_path / "d", "s3://nowhere/x", url, f"{url}/{made.version}",
               **environment)  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert f"the latest is '{made.version}'; name one: {url}/{made.version}" in done.stderr
    assert done.stdout.splitlines()[-1] == made.version
    assert open_bundle(tmp_path / "d" / "bundles" / made.version)


@pytest.mark.slow
def test_other_content_and_a_missing_bucket_are_refused(
    made: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    mine = copy_of(made, tmp_path)
    mine.publish("--to", "s3://models", "publish.tag=v1", **environment)
    mine.reseal()

    other = mine.publish("--to", "s3://models", "publish.tag=v1", **environment)
    nowhere = mine.publish("--to", "s3://no-such-bucket/x", **environment)

    assert other.returncode == 1
    assert "other content under the tag v1" in other.stdout
    assert nowhere.returncode == 2
    assert "no-such-bucket" in nowhere.stderr
    assert "Traceback" not in nowhere.stderr
