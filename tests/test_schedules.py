"""One reading of every number that may change while training."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

from sb3_pg.schedules import as_schedule, check_schedule


@pytest.mark.parametrize("value", [0.3, 1, 0, np.float64(0.3)])
def test_a_number_stays_what_it_is(value: Any) -> None:
    schedule = as_schedule(value, "gae_lambda")
    assert [schedule(1.0), schedule(0.4), schedule(0.0)] == [value] * 3
    assert type(schedule(1.0)) is float


def test_a_callable_is_given_the_progress_remaining() -> None:
    schedule = as_schedule(lambda progress_remaining: 2 * progress_remaining**2, "learning_rate")
    assert [schedule(1.0), schedule(0.5), schedule(0.0)] == [2.0, 0.5, 0.0]


def test_a_callable_may_return_numpys_numbers() -> None:
    number = as_schedule(lambda _: np.float32(0.5), "learning_rate")(1.0)
    assert number == 0.5
    assert type(number) is float


def test_a_schedule_of_a_schedule_is_the_schedule() -> None:
    schedule = as_schedule(as_schedule("lin_0.5", "learning_rate"), "learning_rate")
    assert schedule(0.5) == 0.25


@pytest.mark.parametrize(
    ("text", "at_start", "halfway", "at_end"),
    [
        ("lin_0.01", 0.01, 0.005, 0.0),
        ("lin_0.99_0.9", 0.99, 0.945, 0.9),
        ("lin_0.9_1", 0.9, 0.95, 1.0),
        ("lin_3e-4_1e-4", 3e-4, 2e-4, 1e-4),
        ("lin_0_0.5", 0.0, 0.25, 0.5),
        ("lin_0.2_0.2", 0.2, 0.2, 0.2),
    ],
)
def test_a_string_goes_linearly_from_its_first_number_to_its_second_or_to_zero(
    text: str, at_start: float, halfway: float, at_end: float
) -> None:
    schedule = as_schedule(text, "gae_lambda")
    assert [schedule(1.0), schedule(0.5), schedule(0.0)] == pytest.approx([at_start, halfway, at_end])


def test_a_schedule_made_of_a_string_can_be_pickled_with_the_model() -> None:
    schedule = pickle.loads(pickle.dumps(as_schedule("lin_0.99_0.9", "gae_lambda")))
    assert schedule(0.5) == pytest.approx(0.945)


@pytest.mark.parametrize(
    "text",
    ["", "0.01", "lin", "lin_", "lin_x", "lin_0.1_", "lin_0.1_x", "lin_1_2_3", "linear_0.1", "LIN_0.1"],
)
def test_a_string_that_is_no_schedule_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a schedule; accepted are 'lin_START' .* 'lin_START_END'") as error:
        as_schedule(text, "clip_range")
    assert str(error.value).startswith(f"clip_range={text!r} ")


@pytest.mark.parametrize("value", [None, True, False, [0.1], {"lin": 0.1}, 1j])
def test_anything_else_is_refused_with_what_is_accepted(value: Any) -> None:
    with pytest.raises(ValueError, match=r"is not a number, a schedule string such as .*, or a callable") as error:
        as_schedule(value, "ent_coef")
    assert str(error.value).startswith(f"ent_coef={value!r} ")


@pytest.mark.parametrize("value", [0.0, 0.5, 1, "lin_1", "lin_0.2_0.9", lambda progress: progress])
def test_schedules_within_their_bounds_pass(value: Any) -> None:
    check_schedule(value, "gae_lambda", 0.0, 1.0)


@pytest.mark.parametrize(
    "value",
    [
        -0.1,
        1.1,
        math.nan,
        math.inf,
        -math.inf,
        "lin_1.1",
        "lin_-0.1",
        "lin_0.5_1.1",
        "lin_0.5_-0.1",
        "lin_nan",
        "lin_inf",
        lambda progress: 2 * progress,
        lambda progress: progress - 1,
        lambda _: math.nan,
    ],
)
def test_schedules_that_leave_their_bounds_at_the_start_or_at_the_end_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]") as error:
        check_schedule(value, "gae_lambda", 0.0, 1.0)
    assert str(error.value).startswith(f"gae_lambda={value!r} ")


def test_the_error_says_where_a_schedule_leaves_its_bounds() -> None:
    with pytest.raises(ValueError, match=r"'lin_0\.5_1\.5' is 1\.5 at progress_remaining=0; must lie in \[0, 1\]"):
        check_schedule("lin_0.5_1.5", "gae_lambda", 0.0, 1.0)
    with pytest.raises(ValueError, match=r"'lin_1\.5_0\.5' is 1\.5 at progress_remaining=1; must lie in \[0, 1\]"):
        check_schedule("lin_1.5_0.5", "gae_lambda", 0.0, 1.0)


@pytest.mark.parametrize("value", [0, 1e-12, 3.0, "lin_0.01", "lin_0_0.1", lambda progress: progress])
def test_without_an_upper_bound_every_finite_number_from_the_lower_one_on_passes(value: Any) -> None:
    check_schedule(value, "learning_rate", 0.0, math.inf)


@pytest.mark.parametrize(
    "value",
    [
        -1e-12,
        -1.0,
        "lin_-0.1",
        "lin_0.1_-0.1",
        lambda _: -1.0,
        math.nan,
        -math.inf,
        math.inf,
        lambda _: math.inf,
        "lin_1_inf",
    ],
)
def test_without_an_upper_bound_what_is_below_the_lower_one_or_infinite_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, inf\)"):
        check_schedule(value, "learning_rate", 0.0, math.inf)


def test_what_is_no_schedule_at_all_is_refused_by_the_check_too() -> None:
    with pytest.raises(ValueError, match="learning_rate='fast' is not a schedule"):
        check_schedule("fast", "learning_rate", 0.0, math.inf)
