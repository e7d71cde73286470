"""The scripts start where Textloop is installed, and stop the servers that they start."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from processes import ROOT, children_of, left_after, run

from scripts.local_server import LocalServer, post, running_server

SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("[bcg]*_*"))

# Its child process outlives SIGTERM to the server.
ECHO = """
import json, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Echo(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()
        self.wfile.write(body)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
HTTPServer(("127.0.0.1", int(sys.argv[-1])), Echo).serve_forever()
"""


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_prints_its_help(name: str, tmp_path: Path) -> None:
    result = run(ROOT / "scripts" / name, "--help", cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: {name} ")


def test_session_on_a_gpu_covers_every_figure_that_is_not_measured() -> None:
    session = runpy.run_path(str(ROOT / "scripts" / "gpu_session"))
    text = (ROOT / "BENCHMARKS.md").read_text()
    missing = [line for line in text.splitlines() if "not measured" in line]

    for line in missing:
        assert any(cell in line.partition("not measured")[0] for cell in session["CELLS"]), line
    assert {step for steps in session["CELLS"].values() for step in steps} <= set(session["PLAN"])


def test_session_keeps_what_was_measured_before_a_step_failed(tmp_path: Path) -> None:
    result = run(
        ROOT / "scripts" / "gpu_session", "--only", "machine", "formats", "--seconds", "0",
        OUT=str(tmp_path),
    )  # fmt: skip

    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert result.returncode == 1
    assert [(each["step"], each["code"]) for each in results] == [
        ("machine", 124),
        ("formats", 124),
    ]
    assert "failed: machine, formats" in result.stdout


def test_server_answers_and_its_process_group_ends_with_the_block() -> None:
    with running_server("-c", ECHO) as server:
        assert post(server.url, {"inputs": "hello"}) == {"inputs": "hello"}
        assert len(children_of(server.process.pid)) == 2

    assert left_after(server.process.pid) == []


def test_a_second_signal_leaves_no_server_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(server: LocalServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalServer, "stop", interrupted)
    with pytest.raises(KeyboardInterrupt), running_server("-c", ECHO) as server:
        pass

    assert left_after(server.process.pid) == []


def test_server_that_exits_before_it_is_ready_is_reported_with_its_code() -> None:
    with pytest.raises(RuntimeError, match="exited with code 3"), running_server("-c", "exit(3)"):
        pass
