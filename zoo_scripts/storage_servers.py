"""Servers of storages that live as long as a ``with`` block: for measurements and for tests."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

PROXY = """
import sys, warnings
warnings.simplefilter("ignore")
from optuna.storages import InMemoryStorage, JournalStorage, run_grpc_proxy_server
from optuna.storages.journal import JournalFileBackend
storage = JournalStorage(JournalFileBackend(sys.argv[1])) if sys.argv[1] else InMemoryStorage()
run_grpc_proxy_server(storage, host="127.0.0.1", port=int(sys.argv[2]))
"""
IN_MEMORY = ""
START_SECONDS = 60.0


class NotInstalledError(Exception):
    """Says what is missing."""


class Server(NamedTuple):
    """A server that runs.

    :param address: of its storage
    :param pid: its first process
    """

    address: str
    pid: int


def free_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def postgresql_programs() -> Path:
    """Where PostgreSQL's server is: on the PATH, or where Debian puts it.

    :raises NotInstalledError: when it is not there, or psycopg2 is not
    """
    found = [Path(program).parent for program in [shutil.which("initdb")] if program]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    newest = next((folder for folder in reversed(found) if (folder / "initdb").exists()), None)
    if newest is None or importlib.util.find_spec("psycopg2") is None:
        raise NotInstalledError("PostgreSQL's server or psycopg2 is not installed")
    return newest


@contextmanager
def postgresql(fsync: bool) -> Iterator[Server]:
    """An empty database on a server of its own.

    :param fsync: whether the server waits for the disk, as servers do; tests have no use for it
    :raises NotInstalledError: see :func:`postgresql_programs`
    """
    programs = postgresql_programs()
    # The server refuses to be root, and folders that a test is given are root's alone
    user: dict[str, Any] = {"user": "postgres"} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="sb3_pg_postgresql_"))
    if user:
        shutil.chown(folder, "postgres")

    def run(program: str, *arguments: str) -> None:
        subprocess.run([str(programs / program), *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL, **user)

    port, data = free_port(), str(folder / "data")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    options += "" if fsync else " -c fsync=off"
    try:
        run("initdb", "-D", data, "-U", "tuner", "-A", "trust", "--no-sync")
        run("pg_ctl", "-D", data, "-l", str(folder / "log"), "-o", options, "-w", "start")
        try:
            run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "tuner", "studies")
            pid = int(Path(data, "postmaster.pid").read_text().split()[0])
            yield Server(f"postgresql+psycopg2://tuner@127.0.0.1:{port}/studies", pid)
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@contextmanager
def grpc_proxy(storage: str) -> Iterator[Server]:
    """Optuna's proxy in front of a storage.

    :param storage: path of a journal file, or :data:`IN_MEMORY`
    """
    port = free_port()
    with subprocess.Popen([sys.executable, "-c", PROXY, storage, str(port)], stderr=subprocess.DEVNULL) as server:
        try:
            end = time.monotonic() + START_SECONDS
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if time.monotonic() > end or server.poll() is not None:
                        raise RuntimeError(f"the proxy in front of {storage} did not start") from None
                    time.sleep(0.05)
            yield Server(f"grpc://127.0.0.1:{port}", server.pid)
        finally:
            server.kill()
