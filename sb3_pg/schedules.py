"""One reading of every number that may change while training."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

Schedule = Callable[[float], float]
ScheduleLike = float | str | Schedule


def as_schedule(value: ScheduleLike, name: str) -> Schedule:
    """Turn a number, a callable or a string into a function of the progress remaining (1 at the start, 0 at the end).

    :param value: a float; a callable of ``progress_remaining``; or, as in RL Zoo's files, ``"lin_START"`` (linearly to
        0) or ``"lin_START_END"``
    :param name: the parameter's name, for the error
    :raises ValueError: when it is none of these
    """
    if isinstance(value, str):
        kind, *numbers = value.split("_")
        try:
            start, end = [float(number) for number in [*numbers, "0"][:2]]
        except ValueError:
            kind = "unreadable"
        if kind != "lin" or not 1 <= len(numbers) <= 2:
            raise ValueError(
                f"{name}={value!r} is not a schedule; accepted are 'lin_START' (to 0), 'lin_START_END', and a number "
                "that is not in quotes"
            )
        return FloatSchedule(LinearSchedule(start, end, 1.0))
    if callable(value):
        return _NamedSchedule(value, name)
    if isinstance(value, Real) and not isinstance(value, bool):
        return FloatSchedule(float(value))
    raise ValueError(f"{name}={value!r} is not a number, a schedule string such as 'lin_0.01', or a callable")


class _NamedSchedule:
    """A user's function, with errors that name the parameter it is for."""

    def __init__(self, function: Schedule, name: str) -> None:
        self.function, self.name = function, name

    def __call__(self, progress_remaining: float) -> float:
        try:
            number = self.function(progress_remaining)
        except (AttributeError, TypeError) as error:
            raise ValueError(
                f"{self.name}: the schedule, a function of progress_remaining, which falls from 1 to 0, failed at "
                f"{progress_remaining}: {error}"
            ) from error
        try:
            return float(number)
        except (TypeError, ValueError):
            raise ValueError(f"{self.name}: the schedule gave {number!r}; a number is expected") from None


def check_schedule(value: ScheduleLike, name: str, low: float, high: float) -> None:
    """Raise ValueError unless the schedule lies within bounds at the start and at the end of training.

    :param low: smallest accepted value
    :param high: largest accepted value
    """
    schedule = as_schedule(value, name)
    for progress in (1.0, 0.0):
        number = schedule(progress)
        if not (math.isfinite(number) and low <= number <= high):
            where = "" if isinstance(value, (int, float)) else f" is {number} at progress_remaining={progress:g};"
            raise ValueError(f"{name}={value!r}{where} must lie in {interval(low, high)}")


def interval(low: float, high: float) -> str:
    """The numbers from low to high, as mathematics writes them."""
    return f"[{low:g}, inf)" if high == math.inf else f"[{low:g}, {high:g}]"
