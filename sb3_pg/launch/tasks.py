"""What is carried out somewhere else, and what comes back from there."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch as th
from threadpoolctl import threadpool_limits

Task = TypeVar("Task")
Value = TypeVar("Value")


@dataclass(frozen=True)
class TaskError:
    """
    An exception of a task, as text: exceptions themselves need not survive the way between processes.

    :param kind: name of the exception's class
    :param message: what the exception says
    :param traceback: where it was raised, with the line of its kind and message at the end
    """

    kind: str
    message: str
    traceback: str


@dataclass(frozen=True)
class Lost:
    """
    What comes back when the process that carried out a task is gone.

    :param why: what is known about it
    """

    why: str


@dataclass(frozen=True)
class Outcome(Generic[Task, Value]):
    """
    The end of a task. It has a value, unless ``error`` or ``lost`` says why not.

    :param task: the task
    :param value: what the function returned
    :param error: the exception that the function raised
    :param lost: why there is neither: every process that carried out the task died
    :param runs: how often the task was started
    """

    task: Task
    value: Value | None = None
    error: TaskError | None = None
    lost: str | None = None
    runs: int = 1


def describe_error(error: BaseException) -> TaskError:
    """Turn an exception into text."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return TaskError(type(error).__name__, str(error), "".join(lines))


def carry_out(function: Callable[[Any], Any], task: Any) -> Any | TaskError:
    """
    Call a function, and return what it returns or how it failed.

    :param function: called with the task
    :param task: its argument
    :return: the function's value, or a :class:`TaskError` for any exception but a keyboard interrupt
    """
    try:
        return function(task)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return describe_error(error)


_limits: list[threadpool_limits] = []


def carry_out_with_one_thread(function: Callable[[Any], Any], task: Any) -> Any | TaskError:
    """Do as :func:`carry_out` in a process of its own, whose torch and BLAS get one thread for good."""
    if not _limits:
        th.set_num_threads(1)
        _limits.append(threadpool_limits(1))
    return carry_out(function, task)
