"""Tasks that other processes import by name."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch as th
from threadpoolctl import threadpool_info


def square(number: float) -> float:
    return number * number


def fail_for_two(number: int) -> int:
    if number == 2:
        raise ValueError("two is not allowed")
    return number


class AwkwardError(Exception):
    """Cannot be pickled: its constructor wants two arguments."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def fail_awkwardly(_: int) -> None:
    raise AwkwardError("not ", "picklable")


def return_something_unpicklable(_: int) -> object:
    return lambda: None


def write_pid_and_wait(path: str) -> int:
    """Say who works on it, and finish when the file is gone."""
    Path(path).write_text(str(os.getpid()))
    while Path(path).exists():
        time.sleep(0.02)
    return os.getpid()


def number_of_threads(_: int) -> list[int]:
    return [th.get_num_threads(), *(library["num_threads"] for library in threadpool_info())]


def pid_of(_: int) -> int:
    return os.getpid()
