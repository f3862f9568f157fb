"""The loop that hands tasks to a backend and results back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from itertools import count
from types import TracebackType
from typing import Any, Protocol

from sb3_pg.launch.tasks import Lost, Outcome, Task, TaskError, Value

MAX_RERUNS = 2


class Backend(Protocol):
    """
    Where tasks are carried out. Used as a context manager; leaving it through an exception ends what still runs.

    :ivar capacity: how many tasks it takes at a time
    """

    capacity: float

    def start(self, key: int, function: Callable[[Any], Any], task: Any) -> None:
        """Start a task and return at once. ``key`` is its name in :meth:`wait`."""

    def wait(self) -> list[tuple[int, Any]]:
        """Wait for the end of at least one task: key and value, :class:`TaskError` or :class:`Lost`."""

    def __enter__(self) -> Backend: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def run_all(
    function: Callable[[Task], Value],
    tasks: Iterable[Task],
    backend: Backend,
    on_result: Callable[[Outcome[Task, Value]], Iterable[Task] | None],
    on_rerun: Callable[[Task, str], None] | None = None,
    order: Callable[[Task], float] = lambda _: 0,
    max_reruns: int = MAX_RERUNS,
) -> None:
    """
    Carry out tasks until none is left.

    A task whose process dies (out of memory, killed, a node that went away) is started again. An exception of the
    function is a result, and the caller decides what it means.

    :param function: carries out one task; importable by name, since it is sent to other processes
    :param tasks: what to carry out; picklable
    :param backend: where; entered by the caller
    :param on_result: called in this process with each :class:`Outcome` as it comes in, in no certain order; the tasks
        that it returns are carried out, too. What it raises ends the run, after the results that came in with this one
    :param on_rerun: called with a task and the reason before it is started again
    :param order: of the tasks that wait for a free place the one with the smallest number is started next; of equals
        the one that was given first
    :param max_reruns: how often a task is started again before its outcome is ``lost``
    """
    ages = count()
    waiting = [(order(task), next(ages), task, 0) for task in tasks]
    heapify(waiting)
    running: dict[int, tuple[float, int, Task, int]] = {}
    keys = count()
    while waiting or running:
        while waiting and len(running) < backend.capacity:
            rank, age, task, runs = heappop(waiting)
            key = next(keys)
            running[key] = rank, age, task, runs + 1
            backend.start(key, function, task)
        failures: list[Exception] = []
        for key, end in backend.wait():
            rank, age, task, runs = running.pop(key)
            if isinstance(end, Lost) and runs <= max_reruns:
                if on_rerun is not None:
                    on_rerun(task, end.why)
                heappush(waiting, (rank, age, task, runs))
                continue
            try:
                furthers = on_result(_outcome(task, runs, end)) or ()
            except Exception as error:  # the others that ended with it are to be kept
                failures.append(error)
                continue
            for further in furthers:
                heappush(waiting, (order(further), next(ages), further, 0))
        if failures:
            raise failures[0]


def _outcome(task: Task, runs: int, end: Any) -> Outcome[Task, Any]:
    if isinstance(end, Lost):
        return Outcome(task, lost=end.why, runs=runs)
    if isinstance(end, TaskError):
        return Outcome(task, error=end, runs=runs)
    return Outcome(task, value=end, runs=runs)
