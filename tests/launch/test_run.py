from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sb3_pg.launch import InThisProcess, Outcome, run_all
from sb3_pg.launch.tasks import Lost


class Mortal(InThisProcess):
    """Loses tasks as often as they say, and notes in which order they were started."""

    def __init__(self, capacity: float = 1) -> None:
        super().__init__()
        self.capacity = capacity
        self.started: list[Any] = []
        self.most_at_a_time = 0

    def start(self, key: int, function: Callable[[Any], Any], task: Any) -> None:
        self.started.append(task)
        name, deaths = task
        if self.started.count(task) <= deaths:
            self._ended.append((key, Lost(f"{name} died")))
        else:
            super().start(key, function, task)
        self.most_at_a_time = max(self.most_at_a_time, len(self._ended))


def name_of(task: tuple[str, int]) -> str:
    return task[0]


def test_a_lost_task_is_started_again_before_those_that_wait() -> None:
    backend, found, reruns = Mortal(), [], []
    tasks = [("a", 0), ("b", 2), ("c", 0)]
    run_all(name_of, tasks, backend, found.append, lambda task, why: reruns.append((task, why)))
    assert [name for name, _ in backend.started] == ["a", "b", "b", "b", "c"]
    assert [(outcome.value, outcome.runs) for outcome in found] == [("a", 1), ("b", 3), ("c", 1)]
    assert reruns == [(("b", 2), "b died")] * 2


@pytest.mark.parametrize(("max_reruns", "runs"), [(0, 1), (1, 2), (2, 3)])
def test_a_task_that_is_always_lost_is_given_up(max_reruns: int, runs: int) -> None:
    found: list[Outcome[Any, Any]] = []
    run_all(name_of, [("a", 99), ("b", 0)], Mortal(), found.append, max_reruns=max_reruns)  # type: ignore[arg-type]
    assert [(end.value, end.lost, end.runs) for end in found] == [(None, "a died", runs), ("b", None, 1)]


def test_no_more_tasks_run_at_a_time_than_the_backend_takes() -> None:
    backend = Mortal(capacity=3)
    run_all(name_of, [(str(number), 0) for number in range(10)], backend, lambda _: None)
    assert backend.most_at_a_time == 3


def test_a_result_can_ask_for_more_which_waits_for_its_turn() -> None:
    backend = Mortal()
    more = {"a": [("a1", 0), ("a2", 0)]}
    run_all(name_of, [("a", 0), ("b", 0)], backend, lambda outcome: more.get(str(outcome.value)))
    assert [name for name, _ in backend.started] == ["a", "b", "a1", "a2"]


def test_an_order_decides_what_is_started_next() -> None:
    backend = Mortal()
    more = {"b": [("a", 0), ("d", 0)]}
    run_all(
        name_of,
        [("c", 1), ("b", 0), ("e", 0)],
        backend,
        lambda outcome: more.get(str(outcome.value)),
        order=lambda task: ord(task[0]),
    )
    assert [name for name, _ in backend.started] == ["b", "a", "c", "c", "d", "e"]


def test_what_the_receiver_raises_ends_the_run() -> None:
    def refuse(_: Outcome[Any, Any]) -> None:
        raise RuntimeError("enough")

    backend = Mortal()
    with pytest.raises(RuntimeError, match="enough"):
        run_all(name_of, [("a", 0), ("b", 0)], backend, refuse)
    assert backend.started == [("a", 0)]


def test_what_ended_together_with_a_task_that_the_receiver_refuses_is_received() -> None:
    received = []

    class Together(Mortal):
        def wait(self) -> list[tuple[int, Any]]:
            return [end for _ in range(3) for end in super(Together, self).wait()]

    def refuse_the_first(outcome: Outcome[Any, Any]) -> None:
        if outcome.task[0] == "a":
            raise RuntimeError("enough")
        received.append(outcome.value)

    backend = Together(capacity=3)
    with pytest.raises(RuntimeError, match="enough"):
        run_all(name_of, [("a", 0), ("b", 0), ("c", 0), ("d", 0)], backend, refuse_the_first)
    assert received == ["b", "c"]
    assert len(backend.started) == 3
