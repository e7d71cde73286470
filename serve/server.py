"""The server: processes are started, watched, restarted when they die, and ended in order.

The main process binds the port and starts one model process per device (spawned) and the
HTTP processes (forked, sharing the port). Model processes that die are restarted after growing
pauses; meanwhile their requests fail at once and `/health/ready` responds with 503. SIGTERM
and SIGINT close the port, let accepted requests finish within the grace period, then end the
model processes. SIGHUP is ignored: a server outlives its terminal. If the main process is
killed, the others notice and exit.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from serve import lines
from serve.bundle.seal import Bundle
from serve.settings import ServeConfig

if TYPE_CHECKING:
    from serve.processes.first import First

SOCKET_PATH = 107
"""Bytes in the path of a Unix socket."""


def run_server(source: Bundle | Path, config: ServeConfig) -> int:
    """Serve until Ctrl-C or SIGTERM, then finish accepted requests.

    source: a verified bundle, or a deployment directory, whose releases are followed.
    Returns the exit code: 0, or 1 if an HTTP process died. Raises ValueError if the port is taken,
    the keys cannot be read, nothing was promoted, or the model cannot be loaded.
    """
    lines.log_to_stderr(config.log_level)
    check_environment(config)
    handle_signals()
    main_process = os.getpid()
    runtime = make_runtime()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(runtime / "metrics")
    try:
        from serve.processes.first import First, serve_deployment  # read the variable
        from serve.processes.group import LoadFailed

        def serve(first: First) -> int:
            return _serve(first, config, runtime)

        try:
            if isinstance(source, Path):
                return serve_deployment(source, serve)
            return serve(First(bundle=source))
        except LoadFailed as error:
            raise ValueError(f"cannot load the model, see the log above ({error})") from error
    finally:
        for process in multiprocessing.active_children():
            process.terminate()
            process.join(timeout=5)
        if os.getpid() == main_process:
            shutil.rmtree(runtime, ignore_errors=True)
            lines.stdout.close()
            lines.stderr.close()


def _serve(first: First, config: ServeConfig, runtime: Path) -> int:
    """Serve what answers at the start; LoadFailed if its model cannot be loaded."""
    from serve.processes.litserver import ClassifierServer

    bundle = first.bundle
    lines.stdout.write(f"loading {bundle.path} (version {bundle.manifest.version})")
    try:
        server = ClassifierServer(first, config, runtime)
        server.run(
            host=config.host,
            port=config.port,
            num_api_servers=config.api_processes,
            log_level=config.log_level,
            generate_client_file=False,
            http=server.connection,
            callback_notify=server.report_serving,
            log_config=None,
            server_header=False,
            access_log=False,
            ws="none",
        )
    except KeyboardInterrupt:
        return 0  # the signal arrived while the model was loading
    return 1 if server.failed else 0


def address(config: ServeConfig) -> str:
    """Host and port as in a URL."""
    return (
        f"[{config.host}]:{config.port}" if ":" in config.host else f"{config.host}:{config.port}"
    )


def make_runtime() -> Path:
    """Make the directory of sockets and metrics. Raises ValueError if that is impossible."""
    try:
        runtime = Path(tempfile.mkdtemp(prefix="textloop-"))
        (runtime / "metrics").mkdir()
    except OSError as error:
        path = f"`{error.filename}`: " if error.filename else ""
        raise ValueError(
            f"cannot make a temporary directory: {path}{error.strerror}; free space, or set TMPDIR "
            "to another directory"
        ) from None
    if len(os.fsencode(runtime / "99999-0123456789ab-999.sock")) > SOCKET_PATH:
        shutil.rmtree(runtime)
        raise ValueError(
            f"the temporary directory `{runtime.parent}` has too long a path for sockets; "
            "set TMPDIR to a shorter one"
        )
    return runtime


def check_environment(config: ServeConfig) -> None:
    """Raise ValueError for what would fail later: the port, LitServe's key, tracing's extra."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise ValueError(
                f"cannot bind {address(config)}: {(error.strerror or '').lower()}; "
                "choose another port with --port"
            ) from None
    if os.environ.get("LIT_SERVER_API_KEY"):
        raise ValueError(
            "LIT_SERVER_API_KEY is set, but this server reads hashed keys from a file; unset it "
            "and set api_keys_file"
        )
    if config.tracing:
        from serve.http.tracing import check_installed

        check_installed()


def handle_signals() -> None:
    """Shut down in order on SIGTERM and SIGINT; a second signal, and SIGHUP, are ignored."""
    main_process = os.getpid()

    def stop(*_: object) -> None:
        # In the HTTP processes, forked from here, uvicorn drains first and then raises the
        # signal again to end the process.
        if os.getpid() != main_process:
            raise SystemExit(0)
        # A second signal must not interrupt the shutdown and leave processes behind.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    # LitServe handles Ctrl-C alone: SIGTERM would leave its children holding the port.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # in the processes started from here as well
