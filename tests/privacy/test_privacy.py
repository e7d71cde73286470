"""No command connects to another machine, or looks one up, unless it is asked to."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import loopback
import pytest
import yaml
from loopback import Guard
from processes import ROOT
from rows import write_jsonl

from scripts.local_server import free_port, wait_until_ready
from serve.bundle.seal import open_bundle

NATIVE = """
#include <arpa/inet.h>
#include <sys/socket.h>
int main(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(53)};
    inet_pton(AF_INET, "192.0.2.1", &to.sin_addr);
    sendto(socket(AF_INET, SOCK_DGRAM, 0), "x", 1, 0, (struct sockaddr *)&to, sizeof to);
    return 0;
}
"""


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return loopback.build(tmp_path)


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ("socket.create_connection(('192.0.2.1', 80), 1)", "connect 192.0.2.1"),
        ("socket.create_connection(('2001:db8::1', 80), 1)", "connect 2001:db8::1"),
        ("socket.getaddrinfo('nowhere.example', 80)", "getaddrinfo nowhere.example"),
        ("socket.gethostbyname('nowhere.example')", "getaddrinfo nowhere.example"),
        ("socket.socket(type=2).sendto(b'x', ('192.0.2.1', 53))", "sendto 192.0.2.1"),
        ("socket.socket(type=2).sendmsg([b'x'], [], 0, ('192.0.2.1', 53))", "sendmsg 192.0.2.1"),
        ("urllib.request.urlopen('https://nowhere.example')", "getaddrinfo nowhere.example"),
    ],
)
def test_guard_catches_a_connection_from_python(guard: Guard, code: str, caught: str) -> None:
    done = guard.run("-c", f"import socket, urllib.request; {code}")

    # A name is looked up by one of two functions, depending on the build of Python.
    name = caught.replace("getaddrinfo", "gethostbyname_r")
    assert done.returncode == 1
    assert [line.partition(" ")[2] for line in guard.caught()] in ([caught], [name])


def test_guard_catches_native_code_in_a_child_process(guard: Guard, tmp_path: Path) -> None:
    (tmp_path / "send.c").write_text(NATIVE)
    compiler = shutil.which("cc") or shutil.which("gcc")
    subprocess.run([str(compiler), "-o", tmp_path / "send", tmp_path / "send.c"], check=True)

    guard.run("-c", f"import subprocess; subprocess.run([{str(tmp_path / 'send')!r}])")

    assert [line.partition(" ")[2] for line in guard.caught()] == ["sendto 192.0.2.1"]


def test_guard_lets_this_machine_pass(guard: Guard) -> None:
    done = guard.run(
        "-c",
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(('localhost', s.getsockname()[1]))",
    )

    assert done.returncode == 0, done.stderr
    assert guard.caught() == []


def test_serving_connects_to_nobody_and_leaves_nothing_at_home(
    bundles: Callable[[str], Path], guard: Guard, tmp_path: Path
) -> None:
    """By the command line and from Python, with the int8 export."""
    bundle = bundles("single")
    assert (bundle / "onnx").is_dir()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    rows = write_jsonl(tmp_path / "in.jsonl", [{"text": "my parcel is late"}])
    command = [sys.executable, "-m", "serve", "run", "--bundle", bundle, "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, env=guard.environment)
    try:
        wait_until_ready(f"{url}/health", server)
        answer = httpx.post(f"{url}/predict", json={"inputs": "my parcel is late"}, timeout=60)
        httpx.get(f"{url}/metrics")
    finally:
        server.terminate()
        assert server.wait(timeout=60) == 0
    files = ("--input", rows, "--output", tmp_path / "out.jsonl")
    done = guard.run("-m", "serve", "predict", "--bundle", bundle, *files)
    code = (
        "import sys; from serve.inference.predictor import Predictor; "
        "print(Predictor.load(sys.argv[1], backend='onnx').predict(['late']))"
    )
    used = guard.run("-c", code, bundle)

    assert answer.status_code == 200
    assert done.returncode == 0, done.stderr
    assert used.returncode == 0, used.stderr
    assert guard.caught() == []
    assert guard.files_at_home() == []


STAGES = [("fit",), ("merge",), ("evaluate",), ("prepare",), ("tune",)]


@pytest.mark.slow
def test_training_connects_to_nobody(
    make_config: Callable[..., dict[str, Any]], guard: Guard, tmp_path: Path
) -> None:
    """Every stage, from an empty home directory, with the trackers and int8 export."""
    values = make_config(
        tmp_path / "run",
        export_int8=True,
        trainer={"num_train_epochs": 1, "report_to": ["mlflow", "tensorboard"]},
        tune={"trials": 1, "space": {"trainer.learning_rate": {"choices": [1e-3]}}},
    )
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(values))
    store = {"MLFLOW_TRACKING_URI": f"file://{tmp_path / 'mlruns'}"}
    store["MLFLOW_ALLOW_FILE_STORE"] = "true"

    for stage in STAGES:
        done = guard.run("-m", "train", *stage, "--config", file, **store)

        assert done.returncode == 0, done.stderr
        assert guard.caught() == [], stage

    assert open_bundle(tmp_path / "run" / "bundle").manifest.int8 is not None  # measured
    assert not any("Microsoft" in name or "mlflow" in name for name in guard.files_at_home())


SILENT = {
    "huggingface_hub.constants": "module.HF_HUB_DISABLE_TELEMETRY",
    "mlflow.telemetry.utils": "module.is_telemetry_disabled()",
    "transformers.integrations.hub_kernels": "not module._kernels_enabled",
    "transformers.utils.import_utils": "not module.is_kernels_available()",
}


@pytest.mark.parametrize("library", SILENT)
def test_each_library_reads_its_switch(guard: Guard, library: str) -> None:
    code = (
        "from serve.privacy import silence, refuse_hub_kernels; silence(); refuse_hub_kernels(); "
        f"import {library} as module; assert {SILENT[library]}"
    )

    done = guard.run("-c", code)

    assert done.returncode == 0, done.stderr
    assert guard.caught() == []


def test_onnxruntime_keeps_no_device_id_only_because_it_is_told(guard: Guard) -> None:
    guard.run("-c", "from serve.privacy import silent_onnxruntime as ort; ort()")
    silent = guard.files_at_home()
    guard.run("-c", "import onnxruntime")

    assert silent == []
    assert any("onnxruntime" in name for name in guard.files_at_home())


def test_kernels_are_not_fetched_by_the_commands_of_training(guard: Guard, tmp_path: Path) -> None:
    """A stand-in for the package, which would download native code."""
    package = tmp_path / "kernels"
    package.mkdir()
    fetched = tmp_path / "fetched"
    package.joinpath("__init__.py").write_text(
        f"def get_kernel(*_, **__): open({str(fetched)!r}, 'w').close()\n"
    )
    code = (
        "from train.__main__ import main\n"
        "assert main(['fit', '--config', 'nowhere.yaml']) == 2\n"
        "try:\n    import kernels\nexcept ImportError:\n    print('refused')"
    )

    done = guard.run("-c", code, PYTHONPATH=f"{tmp_path}:{ROOT}")

    assert done.stdout == "refused\n", done.stderr
    assert not fetched.exists()


def test_users_may_turn_a_switch_on(guard: Guard) -> None:
    code = (
        "import os; from serve.privacy import silence; silence(); "
        "print(os.environ['HF_HUB_DISABLE_TELEMETRY'], os.environ['ORT_DISABLE_TELEMETRY'])"
    )

    done = guard.run("-c", code, HF_HUB_DISABLE_TELEMETRY="0")

    assert done.stdout == "0 1\n", done.stderr
