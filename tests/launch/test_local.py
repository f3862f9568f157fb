from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch as th

from sb3_pg.launch import InThisProcess, LocalProcesses, Outcome, run_all

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

import tasks_for_tests as given  # noqa: E402


@pytest.fixture(scope="module")
def two_workers() -> Iterator[LocalProcesses]:
    with LocalProcesses(2) as backend:
        yield backend


def outcomes(function: Any, tasks: Any, backend: Any, **kwargs: Any) -> list[Outcome[Any, Any]]:
    found: list[Outcome[Any, Any]] = []
    run_all(function, tasks, backend, found.append, **kwargs)  # type: ignore[arg-type]
    return sorted(found, key=lambda outcome: str(outcome.task))


def wait_for(path: Path, seconds: float = 60) -> str:
    """Content of a file that another process is about to write."""
    end = time.monotonic() + seconds
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, f"{path} was not written"
        time.sleep(0.02)
    return path.read_text()


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(pid: int) -> None:
    end = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.02)


def test_every_task_has_its_value(two_workers: LocalProcesses) -> None:
    for backend in (two_workers, InThisProcess()):
        found = outcomes(given.square, [1, 2, 3], backend)
        assert [(outcome.task, outcome.value, outcome.runs) for outcome in found] == [(1, 1, 1), (2, 4, 1), (3, 9, 1)]


def test_a_task_in_this_process_has_one_thread_and_leaves_as_many_as_there_were() -> None:
    th.set_num_threads(3)
    try:
        (outcome,) = outcomes(lambda _: th.get_num_threads(), [0], InThisProcess())
        assert (outcome.value, th.get_num_threads()) == (1, 3)
    finally:
        th.set_num_threads(1)


def test_an_exception_comes_back_with_its_traceback(two_workers: LocalProcesses) -> None:
    for backend in (two_workers, InThisProcess()):
        good, bad = outcomes(given.fail_for_two, [1, 2], backend)
        assert good.value == 1
        assert bad.error is not None
        assert (bad.error.kind, bad.error.message, bad.value) == ("ValueError", "two is not allowed", None)
        assert "in fail_for_two" in bad.error.traceback


def test_what_cannot_be_pickled_is_an_error_of_its_task_alone(two_workers: LocalProcesses) -> None:
    (awkward,) = outcomes(given.fail_awkwardly, [0], two_workers)
    assert awkward.error is not None
    assert awkward.error.kind == "AwkwardError"
    (value,) = outcomes(given.return_something_unpicklable, [0], two_workers)
    assert value.error is not None
    assert any(words in value.error.traceback for words in ("pickle", "local object"))  # the latter from 3.13 on
    (function,) = outcomes(lambda _: None, [0], two_workers)
    assert function.error is not None
    assert [outcome.value for outcome in outcomes(given.square, [2, 3], two_workers)] == [4, 9]


def test_only_the_task_of_the_worker_that_died_is_repeated(two_workers: LocalProcesses, tmp_path: Path) -> None:
    victim, other = tmp_path / "victim", tmp_path / "other"
    reruns: list[tuple[str, str]] = []
    script = (
        "import os, signal, sys, time; from pathlib import Path\n"
        "victim, other = [Path(path) for path in sys.argv[1:]]\n"
        "def wait_for(path, old=''):\n"
        "    while not path.exists() or path.read_text() in ('', old): time.sleep(0.02)\n"
        "    return path.read_text()\n"
        "wait_for(other); killed = wait_for(victim); os.kill(int(killed), signal.SIGKILL)\n"
        "wait_for(victim, killed); victim.unlink(); other.unlink()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(victim), str(other)]):
        found = outcomes(
            given.write_pid_and_wait,
            [str(other), str(victim)],
            two_workers,
            on_rerun=lambda task, why: reruns.append((task, why)),
        )
    ((task, why),) = reruns
    assert task == str(victim)
    assert "died" in why
    assert {Path(outcome.task).name: outcome.runs for outcome in found} == {"other": 1, "victim": 2}


def test_workers_are_kept_and_have_one_thread_each(two_workers: LocalProcesses) -> None:
    pids = {outcome.value for outcome in outcomes(given.pid_of, range(8), two_workers)}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids
    (threads,) = outcomes(given.number_of_threads, [0], two_workers)
    assert set(threads.value) == {1}  # type: ignore[arg-type]


def test_leaving_by_an_exception_ends_the_workers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pytest.raises(KeyboardInterrupt), LocalProcesses(1) as backend:  # noqa: PT012
        backend.start(0, given.write_pid_and_wait, str(path))
        wait_for(path)
        raise KeyboardInterrupt
    wait_for_end(int(path.read_text()))


def test_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="n_workers must be at least 1, not 0"):
        LocalProcesses(0)
