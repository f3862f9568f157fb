"""Where a study is kept: opening it, and making sure that one search at a time writes to it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import urlsplit

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from sb3_pg.tune.errors import TuneError
from sb3_pg.tune.record import StudyRecord

CONNECT_SECONDS = 10.0
BEAT_SECONDS = 15.0
SETTLE_SECONDS = 0.5
"""After which two processes that found a study free at the same time have both written who they are."""
DRIVER = "driver"
_UNKNOWN = "?"
"""When a process began, where the system does not say."""
DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}


def open_storage(address: str) -> BaseStorage:
    """
    Open a storage, or make it.

    :param address: path of a journal file; ``grpc://host:port`` of Optuna's proxy; or the URL of a database, such as
        ``postgresql://user:password@host/name`` or ``sqlite:///path``
    :raises TuneError: when it cannot be reached or opened
    """
    if "://" not in address:
        return _open_journal(Path(address))
    try:
        if address.startswith("grpc://"):
            return _open_proxy(address)
        return _open_database(make_url(address))
    except (SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        why = " ".join(f"{error} {error.__cause__ or ''}".split()).rstrip(".")
        raise TuneError(
            f"cannot open the storage {without_password(address)}: {why}. Check user, password and name, and that the "
            "Python driver of this database is installed"
        ) from error


def _open_journal(path: Path) -> BaseStorage:
    try:
        # Optuna's lock is a symbolic link to this name, which is read from the folder of the link: a relative one would
        # point nowhere, and the lock of a search that was killed would be waited for without end
        whole = path.resolve()
        whole.parent.mkdir(parents=True, exist_ok=True)
        _check_journal(whole)
        lock = WholeRecordsLock(str(whole))
        backend = JournalFileBackend(str(whole), lock)
        lock.acquire()  # here, and not in the middle of a search, it shows that there can be one
        lock.release()
        return _read_journal(backend, whole)
    except (OSError, ValueError) as error:
        raise TuneError(
            f"cannot open the storage {path}: {error}; it must be a journal of Optuna, or a path where one can be "
            "made. Its lock is a symbolic link; where there can be none, sqlite:///FILE is accepted"
        ) from error


def _read_journal(backend: JournalFileBackend, path: Path) -> JournalStorage:
    try:
        return JournalStorage(backend)
    except (AssertionError, LookupError, TypeError, ValueError) as error:
        _check_records(enumerate(path.read_bytes().split(b"\n")[:-1], 1))
        raise ValueError(f"Optuna cannot make sense of one of its records ({error!r})") from error


def _check_journal(path: Path) -> None:
    """Take off a last line that a crash of the machine has left without its end, which Optuna could not read.

    :raises ValueError: for a file that is no journal, which is left as it is
    """
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        _check_is_journal(content)
        if not content.endswith(b"\n"):
            lock = JournalFileSymlinkLock(str(path))
            lock.acquire()  # another search may be in the middle of writing it, which is no crash
            try:
                was_torn = _cut_torn_line(file)
            finally:
                lock.release()
            if was_torn:
                message = f"{path}: the last record was torn and is dropped; what it told is done again"
                warnings.warn(message, stacklevel=2)


def _check_is_journal(content: bytes) -> None:
    """Optuna skips a last line that is none of its own, and then cannot read what it appends."""
    *whole, rest = content.split(b"\n")
    numbered = list(enumerate(whole, 1))
    _check_records(numbered[:1] + numbered[-1:])  # Optuna is about to read all of them
    if rest[:1] not in (b"", b"{"):
        raise ValueError(f"its last line, {rest[:40]!r}, is no record of Optuna's")


def _check_records(numbered: Iterable[tuple[int, bytes]]) -> None:
    """Name the first of these lines that Optuna has not written."""
    for number, line in numbered:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not (isinstance(record, dict) and "op_code" in record):
            raise ValueError(f"line {number}, {line[:40]!r}, is no record of Optuna's")


def _cut_torn_line(file: IO[bytes]) -> bool:
    """Take off a last line without its end, and say whether there was one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if file.read() in (b"", b"\n"):
        return False
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    return True


class WholeRecordsLock(JournalFileSymlinkLock):
    """
    The lock of a journal, whose owner finds whole records there.

    A disk that is full for a moment lets half a record through. The next one, written right behind it, would make a
    line of both that nobody can read any more.

    :param path: of the journal
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = path

    def acquire(self) -> bool:
        """Wait for the lock, and take off what a write that failed has left."""
        acquired = super().acquire()
        try:
            with open(self._path, "rb+") as file:
                _cut_torn_line(file)
        except BaseException:
            self.release()
            raise
        return acquired


def _open_proxy(address: str) -> BaseStorage:
    parts = urlsplit(address)
    if not parts.hostname or not parts.port:
        raise TuneError(f"storage {address!r}: Optuna's gRPC proxy is written grpc://host:port")
    _knock(address, parts.hostname, parts.port, "is `optuna.storages.run_grpc_proxy_server` running there")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = optuna.storages.GrpcStorageProxy(host=parts.hostname, port=parts.port)
    try:
        proxy.wait_server_ready(timeout=CONNECT_SECONDS)
    except ConnectionError as error:
        raise TuneError(f"storage {address!r}: the server there does not answer as Optuna's gRPC proxy") from error
    return proxy


def _open_database(url: URL) -> BaseStorage:
    port = url.port or DEFAULT_PORTS.get(url.get_backend_name())
    if url.host and port:
        shown = url.render_as_string(hide_password=True)
        _knock(shown, url.host, port, "is the database running, and does it take connections from this machine")
    # A connection may be idle for as long as a training lasts, and the server may have closed it.
    return RDBStorage(str(url.render_as_string(hide_password=False)), engine_kwargs={"pool_pre_ping": True})


def _knock(shown: str, host: str, port: int, question: str) -> None:
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        tried = f"tried for {CONNECT_SECONDS:g} s at most"
        raise TuneError(f"storage {shown} cannot be reached: {host}:{port}: {error} ({tried}); {question}?") from error


def without_password(address: str) -> str:
    """The address of a storage as it may be shown."""
    with contextlib.suppress(SQLAlchemyError, ValueError):
        return make_url(address).render_as_string(hide_password=True)
    return address


def from_any_folder(address: str) -> str:
    """The address of a storage, with the whole path where it is an SQLite file."""
    with contextlib.suppress(SQLAlchemyError, ValueError):
        url = make_url(address)
        if url.get_backend_name() == "sqlite" and url.database and not url.database.startswith((":", "file:")):
            return url.set(database=str(Path(url.database).resolve())).render_as_string(hide_password=False)
    return address


class Lease:
    """
    The right to write to a study, which one process at a time has. A context manager.

    Its owner writes down who it is, and again every few seconds. If that owner is a process of this machine that is
    gone, the lease is free at once; if it was on another machine, once it has not written for a while.

    :param record: the study
    :param beat_seconds: how often the owner writes
    :raises TuneError: on entering, when another process has the lease
    """

    def __init__(self, record: StudyRecord, beat_seconds: float = BEAT_SECONDS) -> None:
        self._record = record
        self._beat_seconds = beat_seconds
        self._me = {"id": uuid.uuid4().hex, "host": socket.gethostname(), **_process(os.getpid())}
        self._over = threading.Event()
        self._beats = 0
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self.lost = False

    def __enter__(self) -> Lease:
        other = self._record.get_attribute(DRIVER)
        if other and self._is_alive(other):
            raise self._refusal(other)
        self._write()
        time.sleep(SETTLE_SECONDS)
        winner = self._record.get_attribute(DRIVER)  # of two that found it free at the same time
        if winner and winner["id"] != self._me["id"]:
            raise self._refusal(winner)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if not self.lost:
            with contextlib.suppress(Exception):  # the storage may be what failed
                self._record.set_attribute(DRIVER, None)

    def check(self) -> None:
        """
        Make sure that the lease is still this process's.

        :raises TuneError: when another process has taken it
        """
        if self.lost:
            raise TuneError(
                f"another process has begun to search study {self._record.name!r}; this one leaves it to it"
            )

    def _refusal(self, other: dict[str, Any]) -> TuneError:
        return TuneError(
            f"study {self._record.name!r} is being searched by process {other['pid']} on {other['host']}. More "
            "workers are --workers or --ray of one command, not several commands; or use another --study-name"
        )

    def _is_alive(self, other: dict[str, Any]) -> bool:
        if other["host"] == self._me["host"] and other["started"] != _UNKNOWN:
            return _process(other["pid"]) == {key: other[key] for key in ("pid", "started")}
        # Clocks of two machines may differ; a beat does not lie.
        time.sleep(2 * float(other["beat_seconds"]))
        now = self._record.get_attribute(DRIVER)
        return bool(now) and now != other

    def _write(self) -> None:
        self._beats += 1
        mine = {**self._me, "beat": self._beats, "beat_seconds": self._beat_seconds}
        self._record.set_attribute(DRIVER, mine)

    def _keep(self) -> None:
        while not self._over.wait(self._beat_seconds):
            with contextlib.suppress(Exception):  # a storage that is away for a moment; the search says if it stays so
                owner = self._record.get_attribute(DRIVER)
                if owner and owner["id"] != self._me["id"]:
                    self.lost = True
                    return
                self._write()


def _process(pid: int) -> dict[str, Any]:
    """A process and when it started, as a number may be used again; ``started`` is None if there is none."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return {"pid": pid, "started": None if state == "Z" else fields[18]}
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return {"pid": pid, "started": None}
    except OSError:
        pass
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return {"pid": pid, "started": _UNKNOWN}
    try:  # no Linux
        os.kill(pid, 0)
    except ProcessLookupError:
        return {"pid": pid, "started": None}
    except PermissionError:
        pass
    return {"pid": pid, "started": _UNKNOWN}
