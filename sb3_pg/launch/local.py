"""Processes of this machine, or this process itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from sb3_pg.launch.tasks import Lost, carry_out, carry_out_with_one_thread, describe_error
from sb3_pg.threads import one_thread


class InThisProcess:
    """One task after the other in this process: for a debugger, and for tasks that are shorter than a process."""

    capacity: float = 1

    def __init__(self) -> None:
        self._ended: list[tuple[int, Any]] = []

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def start(self, key: int, function: Callable[[Any], Any], task: Any) -> None:
        """Carry out a task, with one thread as a worker has."""
        with one_thread():
            self._ended.append((key, carry_out(function, task)))

    def wait(self) -> list[tuple[int, Any]]:
        """What :meth:`start` has carried out."""
        ended, self._ended = self._ended, []
        return ended


class LocalProcesses:
    """
    Worker processes of this machine, each with one thread for torch and one for BLAS.

    Each worker is a pool of one: when a process dies, concurrent.futures gives up the whole pool, and so it is known
    whose task that was, and the other workers go on. Workers are started when they are first needed, by ``spawn``
    (torch's threads do not survive a fork), and carry out many tasks.

    They end with this process, however it ends: each holds the reading end of a pipe, and leaves when the writing end,
    which only this process has, is closed. An interrupt from the keyboard reaches this process alone.

    :param n_workers: number of processes
    :raises ValueError: for none
    """

    def __init__(self, n_workers: int) -> None:
        if n_workers < 1:
            raise ValueError(f"n_workers must be at least 1, not {n_workers}")
        self.capacity: float = n_workers
        self._context = multiprocessing.get_context("spawn")
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: dict[Future[Any], tuple[int, ProcessPoolExecutor]] = {}

    def __enter__(self) -> LocalProcesses:
        self._leash, self._lifeline = self._context.Pipe(duplex=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lifeline.close()
        for worker in [*self._idle, *(worker for _, worker in self._busy.values())]:
            worker.shutdown(cancel_futures=True)
        self._leash.close()
        self._idle.clear()
        self._busy.clear()

    def start(self, key: int, function: Callable[[Any], Any], task: Any) -> None:
        """Give a task to an idle worker, or to a new one."""
        worker = self._idle.pop() if self._idle else self._new_worker()
        try:
            future = worker.submit(carry_out_with_one_thread, function, task)
        except BrokenProcessPool:  # it died while it had nothing to do
            worker.shutdown()
            worker = self._new_worker()
            future = worker.submit(carry_out_with_one_thread, function, task)
        self._busy[future] = key, worker

    def wait(self) -> list[tuple[int, Any]]:
        """Wait for the end of at least one task."""
        done, _ = wait(self._busy, return_when=FIRST_COMPLETED)
        return [self._end_of(future) for future in done]

    def _end_of(self, future: Future[Any]) -> tuple[int, Any]:
        key, worker = self._busy.pop(future)
        try:
            value = future.result()
        except BrokenProcessPool:
            worker.shutdown()
            return key, Lost("its worker process died (killed, out of memory, or a crash in compiled code)")
        except Exception as error:  # the function cannot be sent to the worker, or its value not back
            value = describe_error(error)
        self._idle.append(worker)
        return key, value

    def _new_worker(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, self._context, initializer=_begin_worker, initargs=(self._leash,))


def _begin_worker(leash: Connection) -> None:
    """Make this process end with the one that started it, and leave keyboard interrupts to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_when_cut, args=(leash,), daemon=True).start()


def _leave_when_cut(leash: Connection) -> None:
    leash.poll(None)
    os._exit(1)
