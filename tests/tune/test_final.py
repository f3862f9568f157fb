from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch as th
import yaml
from optuna.storages import InMemoryStorage
from planted_search import EXPERIMENT, PlantedSpace, rules, search, train_planted

from sb3_pg.launch import InThisProcess
from sb3_pg.tune.errors import TuneError
from sb3_pg.tune.experiment import SeedResult, SeedTask
from sb3_pg.tune.final import Candidate, Standing, candidates_of, ranking, run_finals
from sb3_pg.tune.record import BLOCK_CANDIDATE, StudyRecord
from sb3_pg.tune.search import Listener
from sb3_pg.tune.winner import winner_file

BLOCK: dict[str, Any] = {"x": 0.5, "policy_kwargs": "dict(net_arch=[8])"}
FRESH = (101, 102, 103, 104)
TODAY = datetime.date(2026, 1, 31)


def standing(name: int | str, *scores: float | None, curve: float = 0.0) -> Standing:
    results = tuple(
        SeedResult(seed, (curve,), stopped="diverged" if s is None else "") for seed, s in enumerate(scores)
    )
    return Standing(Candidate(name, BLOCK), results, tuple(score for score in scores if score is not None))


class Count(Listener):
    n_retrained = 0
    begun: tuple[int, int] = (0, 0)

    def final_begun(self, n_trained: int, n_trainings: int) -> None:
        self.begun = n_trained, n_trainings

    def retrained(self, task: SeedTask, result: SeedResult) -> None:
        assert (task.seed, task.bars.values) == (result.seed, ())
        self.n_retrained += 1


@pytest.fixture(scope="module")
def record() -> StudyRecord:
    return search(n_trials=20)


def test_the_best_trials_and_the_block_are_trained_on_fresh_seeds_and_nothing_twice(record: StudyRecord) -> None:
    candidates = candidates_of(record, BLOCK, PlantedSpace(), 2)
    complete = sorted((t for t in record.trials if t.state.name == "COMPLETE"), key=lambda t: -(t.value or 0))
    assert [candidate.name for candidate in candidates] == [complete[0].number, complete[1].number, BLOCK_CANDIDATE]
    assert candidates[0].block == {**BLOCK, "x": complete[0].params["x"]}
    listener = Count()
    run_finals(record, EXPERIMENT, candidates, FRESH[:3], train_planted, InThisProcess(), listener)
    assert listener.n_retrained == 9
    run_finals(record, EXPERIMENT, candidates, FRESH, train_planted, InThisProcess(), listener)
    assert listener.n_retrained == 12
    assert listener.begun == (9, 12)
    run_finals(record, EXPERIMENT, candidates[1:], FRESH, train_planted, InThisProcess(), listener)
    assert listener.begun == (8, 8)  # not those of the trial that is no candidate any more
    standings = ranking(record, rules(), candidates, 4)
    assert [one.iqm for one in standings] == sorted((one.iqm for one in standings), reverse=True)
    assert all([result.seed for result in one.results] == list(FRESH) for one in standings)
    low, high = standings[0].interval
    assert low <= standings[0].iqm <= high


def test_no_complete_trial_means_no_candidates() -> None:
    assert candidates_of(search(n_trials=0), BLOCK, PlantedSpace(), 3) == []


def test_candidates_are_ranked_by_divergence_then_score_then_speed_then_what_is_there() -> None:
    ranked = [
        standing(3, 10.0, 10.0, 10.0, 10.0, curve=5.0),
        standing(BLOCK_CANDIDATE, 10.0, 10.0, 10.0, 10.0, curve=4.0),
        standing(4, 10.0, 10.0, 10.0, 10.0, curve=4.0),
        standing(5, 9.0, 10.0, 10.0, 10.0, curve=9.0),  # the same interquartile mean, a lower mean
        standing(1, 9.0, 9.0, 9.0, 99.0),
        standing(2, 500.0, 500.0, 500.0, None),
        standing(6, None, None, None, None),
    ]
    orders = [one.order for one in ranked]
    assert orders == sorted(set(orders), reverse=True)


def test_a_failing_final_says_where_it_stands() -> None:
    def mistake(_: SeedTask) -> SeedResult:
        raise AttributeError("a typing mistake")

    empty = StudyRecord(InMemoryStorage(), "planted", {})
    block = [Candidate(BLOCK_CANDIDATE, BLOCK)]
    with pytest.raises(TuneError, match=r"(?s)training block of the file with seed 201 failed.*a typing mistake"):
        run_finals(empty, EXPERIMENT, block, (201,), mistake, InThisProcess(), Listener())


def test_the_winners_file_is_a_block_of_the_zoo_with_its_provenance(record: StudyRecord) -> None:
    candidate = Candidate(7, {**BLOCK, "learning_rate": 3e-5, "n_timesteps": 100}, 88.0)
    best = Standing(candidate, tuple(SeedResult(seed, (1.0,)) for seed in FRESH), (80.0, 82.0, 84.0, 86.0))
    text = winner_file(record, EXPERIMENT, rules(), [best, standing(BLOCK_CANDIDATE, 50.0)], TODAY)
    assert yaml.safe_load(text) == {"Planted-v0": candidate.block}
    comment = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))
    for part in (
        "-conf THIS_FILE",
        "Provenance: trial 7 of study planted, 2026-01-31: 20 trials (tpe, seed 1), seeds 11, 12, 13, 14, 15,",
        "In the search its IQM was 88.",
        "On fresh seeds 101, 102, 103, 104: IQM 83, 95% interval 8",
        "On the same seeds: block of the file 50.",
        "stable_baselines3 2.",
    ):
        assert part in comment
    assert max(map(len, text.splitlines())) <= 120


def test_the_file_says_when_no_trial_beat_the_block_and_what_yaml_cannot_hold(record: StudyRecord) -> None:
    policy = {"net_arch": [8], "optimizer_class": th.optim.SGD, "features_extractor_class": Path}
    block = {**BLOCK, "estimator": len, "policy_kwargs": policy, "env_kwargs": {"draw": len}}
    best = Standing(Candidate(BLOCK_CANDIDATE, block), (SeedResult(1, (1.0,)),), (5.0,))
    text = winner_file(record, EXPERIMENT, rules(), [best], TODAY)
    assert "the block of the file, which no trial beat" in " ".join(text.split())
    assert "# estimator is <built-in function len>: no plain value" in text
    assert "# env_kwargs is {'draw': <built-in function len>}: no plain value" in text
    assert "# policy_kwargs's features_extractor_class is <class 'pathlib.Path'>: no plain value" in text
    written = {**BLOCK, "policy_kwargs": "dict(net_arch=[8], optimizer_class=th.optim.SGD)"}
    assert yaml.safe_load(text) == {"Planted-v0": written}


def test_the_winners_command_has_what_the_environment_was_made_with(record: StudyRecord) -> None:
    experiment = replace(EXPERIMENT, env_kwargs={"size": 6, "wind": float("inf")}, gym_packages=("my_envs",))
    text = winner_file(record, experiment, rules(), [standing(BLOCK_CANDIDATE, 50.0)], TODAY)
    assert "-conf THIS_FILE --gym-packages my_envs --env-kwargs size:6 'wind:float('\"'\"'inf'\"'\"')'\n" in text
    text = winner_file(
        record, replace(experiment, eval_env_kwargs={"size": 9}), rules(), [standing(BLOCK_CANDIDATE, 50.0)], TODAY
    )
    assert "'wind:float('\"'\"'inf'\"'\"')' --eval-env-kwargs size:9\n" in text
