from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState
from planted_search import (
    BEST_X,
    EXPERIMENT,
    Killed,
    KilledAfter,
    PlantedSpace,
    Shuffled,
    is_trap,
    journal,
    rules,
    search,
    summary,
    train_planted,
    train_with_trap,
)

from sb3_pg.launch import InThisProcess
from sb3_pg.launch.tasks import Lost, carry_out
from sb3_pg.tune.errors import TuneError
from sb3_pg.tune.experiment import SeedResult, SeedTask
from sb3_pg.tune.pruning import clearly_worse
from sb3_pg.tune.record import StudyRecord
from sb3_pg.tune.scores import interquartile_mean
from sb3_pg.tune.search import Listener, Search
from sb3_pg.tune.space import GridSpace, signature_of

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Recorder(Listener):
    """Keeps what was trained."""

    def __init__(self) -> None:
        self.n_trained = 0

    def trained(self) -> None:
        self.n_trained += 1


def test_every_trial_ends_in_one_of_four_ways() -> None:
    record = search(n_trials=30)
    reasons = {"diverged": 0, "was stopped": 0, "clearly worse": 0}
    best: list[float] = []
    for trial in record.trials:
        results = record.results(trial.number)
        if trial.state is TrialState.COMPLETE:
            scores = [trial.intermediate_values[index] for index in range(5)]
            assert trial.value == pytest.approx(interquartile_mean(scores))
            assert [result.seed for result in results] == [11, 12, 13, 14, 15]
            best.append(trial.value)
        else:
            assert trial.state is TrialState.PRUNED
            (reason,) = [reason for reason in reasons if reason in trial.user_attrs["why"]]
            reasons[reason] += 1
    assert all(reasons.values())
    assert len(best) >= 3
    assert abs(max(record.trials, key=lambda trial: trial.value or -99).params["x"] - BEST_X) < 0.1


def test_a_trial_is_compared_with_what_had_ended_when_it_was_asked_for() -> None:
    record = search(n_trials=30)
    pruned = 0
    for trial in record.trials:
        before = [other for other in record.trials[: max(trial.number - 2, 0)] if other.state is TrialState.COMPLETE]
        if not before or "clearly worse" not in trial.user_attrs.get("why", ""):
            continue
        best = max(before, key=lambda other: (other.value, -other.number))
        assert f"than trial {best.number}" in trial.user_attrs["why"]
        mine, theirs = list(trial.intermediate_values.values()), list(best.intermediate_values.values())
        assert clearly_worse(mine, theirs, 0.15)
        assert not clearly_worse(mine[:-1], theirs, 0.15), "it could have been stopped a seed earlier"
        pruned += 1
    assert pruned >= 3


@pytest.mark.parametrize("changes", [{}, {"pruner": "halving", "objective": "auc"}, {"sampler": "random", "window": 5}])
def test_the_order_in_which_workers_finish_changes_nothing(changes: dict[str, Any]) -> None:
    expected = summary(search(**changes))
    for capacity in (2, 3, 8):
        assert summary(search(backend=Shuffled(capacity, seed=capacity), **changes)) == expected


def test_another_seed_is_another_study() -> None:
    assert [row[3] for row in summary(search(n_trials=6))] != [row[3] for row in summary(search(n_trials=6, seed=2))]


def test_a_search_that_is_killed_again_and_again_is_the_same_study(tmp_path: Path) -> None:
    expected, every = summary(search()), Recorder()
    search(listener=every)
    recorder, kills = Recorder(), 0
    while True:
        try:
            record = search(journal(tmp_path / "study.log"), backend=KilledAfter(kills % 4 + 1), listener=recorder)
            break
        except Killed:
            kills += 1
    assert kills > 10
    assert summary(record) == expected
    assert recorder.n_trained == every.n_trained, "a finished training was repeated, or one is missing"


def test_a_finished_study_trains_nothing_and_more_trials_go_on() -> None:
    storage, recorder = InMemoryStorage(), Recorder()
    first = summary(search(storage, n_trials=8))
    assert summary(search(storage, n_trials=8, listener=recorder)) == first
    assert recorder.n_trained == 0
    more = summary(search(storage, n_trials=10))
    assert more[:8] == first
    assert len(more) == 10


def test_the_storage_holds_what_the_search_knows() -> None:
    storage = InMemoryStorage()
    record = search(storage, n_trials=12)
    kept = optuna.load_study(study_name="planted", storage=storage)
    assert [(trial.number, trial.state, trial.value, trial.user_attrs) for trial in kept.trials] == [
        (number, state, value, attributes) for number, state, value, _, _, attributes in summary(record)
    ]
    assert kept.best_trial.number == max(record.trials, key=lambda trial: trial.value or -99).number


class Broken:
    """Trains as planted, but for one trial."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, task: SeedTask) -> SeedResult:
        if task.candidate == self.number:
            raise AttributeError("a typing mistake")
        return train_planted(task)


def test_a_programming_error_stops_the_search_and_its_seed_is_trained_after_the_repair() -> None:
    storage = InMemoryStorage()
    with pytest.raises(
        TuneError, match=r"(?s)trial 5 with seed 11 .*AttributeError: a typing mistake.*x: 0\."
    ) as caught:
        search(storage, train=Broken(5))
    assert "the same command goes on" in str(caught.value)
    assert summary(search(storage)) == summary(search())


class Deadly(InThisProcess):
    """Loses every training of some trials."""

    def __init__(self, is_deadly: Callable[[int | str], bool]) -> None:
        super().__init__()
        self._is_deadly = is_deadly

    def start(self, key: int, function: Callable[[Any], Any], task: Any) -> None:
        self._ended.append((key, Lost("killed") if self._is_deadly(task.candidate) else carry_out(function, task)))


def test_a_trial_whose_workers_always_die_fails_and_the_search_goes_on() -> None:
    record = search(n_trials=8, backend=Deadly(lambda number: number in (2, 5)))
    states = [trial.state for trial in record.trials]
    assert [number for number, state in enumerate(states) if state is TrialState.FAIL] == [2, 5]
    assert len(states) == 8
    assert "lost 3 times: killed" in record.trials[2].user_attrs["why"]


def test_workers_that_die_in_every_trial_stop_the_search() -> None:
    with pytest.raises(TuneError, match="workers of 3 trials in a row died"):
        search(n_trials=8, backend=Deadly(lambda number: int(number) >= 1))


def test_a_grid_whose_lines_change_places_goes_on_as_it_began(tmp_path: Path) -> None:
    choices: dict[str, list[Any]] = {"x": [0.2, 0.7, 0.75], "y": ["a", None], "z": [1, 2]}
    whole, path = GridSpace(choices), tmp_path / "study.log"
    turned = GridSpace(dict(reversed(choices.items())))
    for n_trials, space in ((5, whole), (12, turned)):
        record = StudyRecord(journal(path), "planted", {"space": signature_of(space)})
        Search(record, EXPERIMENT, {}, space, rules(sampler="grid"), n_trials).run(train_planted, InThisProcess())
    assert [trial.params for trial in record.trials] == whole.points(rules().seed, 12)


def test_a_grid_is_walked_once_in_an_order_that_the_seed_decides() -> None:
    space = GridSpace({"x": [0.2, 0.7, 0.75], "y": ["a", None]})
    record = search(n_trials=99, space=space, sampler="grid")
    points = [(trial.params["x"], trial.params["y"]) for trial in record.trials]
    assert len(points) == 6
    assert set(points) == {(x, y) for x in (0.2, 0.7, 0.75) for y in ("a", None)}
    other = search(n_trials=99, space=space, sampler="grid", seed=5)
    assert [(trial.params["x"], trial.params["y"]) for trial in other.trials] != points
    part = search(n_trials=4, space=space, sampler="grid")
    assert [(trial.params["x"], trial.params["y"]) for trial in part.trials] == points[:4]


def test_all_seeds_of_every_trial_are_trained_without_pruning() -> None:
    record = search(n_trials=10, p_threshold=0.0, pruner="none")
    lengths = {len(record.results(trial.number)) for trial in record.trials if trial.params["x"] >= 0.1}
    assert lengths == {5}


def test_several_seeds_do_not_fall_for_luck_as_one_does_at_the_same_number_of_trainings() -> None:
    several, one = [], []
    for seed in range(8):
        recorder = Recorder()
        record = search(n_trials=15, seed=seed, listener=recorder, sampler="random", train=train_with_trap)
        several.append(record.study.best_trial.params["x"])
        n_trials = recorder.n_trained
        record = search(n_trials=n_trials, seed=seed, seeds=(11,), sampler="random", train=train_with_trap)
        one.append(record.study.best_trial.params["x"])
    assert sum(map(is_trap, several)) <= 1
    assert sum(map(is_trap, one)) >= 4


def test_trials_are_never_more_than_the_window_apart() -> None:
    class Watch(Listener):
        record: Any = None
        most = 0

        def begun(self, trial: FrozenTrial) -> None:
            assert trial.state is TrialState.RUNNING
            running = [other for other in self.record.trials if other.state is TrialState.RUNNING]
            self.most = max(self.most, len(running))

    watch = Watch()
    watch.record = StudyRecord(InMemoryStorage(), "planted", {})
    Search(watch.record, EXPERIMENT, {}, PlantedSpace(), rules(window=4), 12, watch).run(train_planted, Shuffled(8, 0))
    assert watch.most == 4
