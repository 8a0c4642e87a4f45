"""``vqseg ui``: the MLflow UI on a store's records, on this machine only."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from vqseg.cli.options import DEFAULT_STORE, Store, Tracking

HOST = "127.0.0.1"
START_SECONDS = 120.0


def ui(
    store: Store = DEFAULT_STORE,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port on 127.0.0.1; default: 5000, or a free one.")
    ] = None,
    tracking: Tracking = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
) -> None:
    """Complete the MLflow mirror, serve its UI on this machine, and keep it up to date until Ctrl-C."""
    from vqseg.records import mirror, sync

    environment = dict(os.environ)  # as it was before the mirror set its own
    if not mirror.runs_of(store) and not mirror.studies_of(store)[0]:
        typer.echo(f"{store} holds no runs yet; 'vqseg study run epsilon-sweep' makes some")
        return
    uri = mirror.resolve_uri(store, tracking)
    for problem in sync.sync(store, tracking=tracking).problems:
        typer.echo(f"vqseg: warning: {problem}", err=True)
    if uri.startswith("http"):
        _announce(mirror.shown_uri(uri), None, no_open)
    else:
        _serve(store, uri, tracking, _free_port(port), environment, no_open)


def _serve(store: Path, uri: str, tracking: str | None, port: int, environment: dict[str, str], no_open: bool) -> None:
    from vqseg.records import sync

    log = store / "mlflow" / "ui.log"
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with _server(uri, store, port, environment, log) as server:
            _wait_until_up(server, port, log)
            follower = sync.start(store, tracking=tracking)
            _announce(f"http://{HOST}:{port}{_page(port)}", port, no_open)
            try:
                server.wait()
                typer.echo(f"the MLflow server ended by itself; see {log}", err=True)
            finally:
                sync.finish(follower, timeout=20)
    except KeyboardInterrupt:
        typer.echo("stopped")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _free_port(wanted: int | None) -> int:
    """Return the port asked for, else 5000, else any free one.

    Raises:
        InputError: the port asked for is taken.
    """
    import socket

    from vqseg.errors import InputError

    for port in (wanted,) if wanted else (5000, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise InputError(f"--port {wanted}: taken or not allowed; leave it out and a free one is chosen")


@contextmanager
def _server(
    uri: str, store: Path, port: int, environment: dict[str, str], log: Path
) -> "Iterator[subprocess.Popen[bytes]]":
    """Run `mlflow server` in a process group of its own, which is gone when the block ends."""
    from vqseg.records.mirror import artifacts_of

    # Without -P whatever is called mlflow in the working directory would come first.
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    command += ["--default-artifact-root", str(artifacts_of(store, uri)), "--no-serve-artifacts"]
    command += ["--host", HOST, "--port", str(port)]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with log.open("wb") as file:
        server = subprocess.Popen(
            command,
            env={**environment, **quiet},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield server
    finally:
        _end_group(server)


def _end_group(server: "subprocess.Popen[bytes]") -> None:
    for number, seconds in ((signal.SIGTERM, 8.0), (signal.SIGKILL, 8.0)):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + seconds
        while _group_lives(server) and time.monotonic() < deadline:
            time.sleep(0.1)


def _group_lives(server: "subprocess.Popen[bytes]") -> bool:
    server.poll()  # collects the leader, or its group would live on as a zombie
    try:
        os.killpg(server.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_until_up(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Wait for the server's health page.

    Raises:
        InputError: it ended, or is not up in two minutes.
    """
    import http.client

    from vqseg.errors import InputError

    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            link = http.client.HTTPConnection(HOST, port, timeout=5)
            link.request("GET", "/health")
            if link.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    reason = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    raise InputError(f"the MLflow server did not come up: {reason.strip()[:200]}; see {log}")


def _page(port: int) -> str:
    """Return the path of the page that lists the runs, the front page if the server does not tell."""
    import http.client

    from vqseg.records.mirror import EXPERIMENT

    try:
        link = http.client.HTTPConnection(HOST, port, timeout=10)
        link.request("GET", f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={EXPERIMENT}")
        number = json.loads(link.getresponse().read())["experiment"]["experiment_id"]
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return ""
    return f"/#/experiments/{number}/runs?workflowType=machine_learning"  # else it opens on language-model pages


def _announce(address: str, port: int | None, no_open: bool) -> None:
    """Print the address; open a browser only where a person sits at a desktop."""
    import getpass
    import webbrowser

    typer.echo(f"MLflow UI: {address}" + (" (Ctrl-C stops it)" if port else ""))
    connection = os.environ.get("SSH_CONNECTION", "").split()
    if port and len(connection) == 4:
        typer.echo(f"from your own machine: ssh -L {port}:{HOST}:{port} {getpass.getuser()}@{connection[2]}")
    desktop = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.stdout.isatty() and desktop and not connection and not no_open:
        webbrowser.open(address)
