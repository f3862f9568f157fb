"""Regret to the best fixed lambda, and what a rule gains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from study.small_study import result

from sb3_pg.study.regrets import lambda_of, regrets
from sb3_pg.study.results import N_SHARES, RunResult, RunSettings
from sb3_pg.tune.blocks import prepare


def flat(seed: int, reached: float, **kwargs: Any) -> RunResult:
    logged: dict[str, list[float | None]] = {"train/gae_lambda": [0.9] * N_SHARES}
    return result(seed, returns=[reached] * N_SHARES, logged=logged, **kwargs)


def test_the_regret_is_to_the_best_fixed_lambda_as_a_share_of_the_range() -> None:
    reached = {"0": 10.0, "0.97": 30.0, "1": 20.0, "auto:0.97": 28.0, "hoof:0.97": 31.0}

    def trained(name: str, level: float) -> list[RunResult]:
        settings = RunSettings("vpg", "CartPole-v1", 1000, {"gae_lambda": name if ":" in name else float(name)})
        return [flat(seed, level + seed, settings=settings) for seed in range(4)]

    found = regrets({name: trained(name, level) for name, level in reached.items()}, ["0", "0.97", "1"])
    assert found is not None
    assert found.best == "0.97"
    shares = dict(zip(found.curves, found.regrets[:, 0], strict=True))
    assert shares == pytest.approx({"0": 1.0, "0.97": 0.0, "1": 0.5, "auto:0.97": 0.1, "hoof:0.97": -0.05})
    assert found.gains["auto:0.97"] == pytest.approx([-0.1] * 3)  # seeds shift all curves alike
    assert found.regrets[0] == pytest.approx([1, 1, 1])
    assert found.lambdas == pytest.approx([0.9] * 5)


def test_the_interval_is_wider_where_seeds_differ() -> None:
    rng = np.random.default_rng(0)
    spread: dict[float, float] = {}
    for noise in (1.0, 10.0):
        found = regrets(
            {
                name: [flat(seed, reached + noise * rng.normal()) for seed in range(6)]
                for name, reached in (("0", 0.0), ("1", 50.0), ("auto:1", 40.0))
            },
            ["0", "1"],
        )
        assert found is not None
        row = found.regrets[2]
        assert row[1] < row[0] < row[2]
        spread[noise] = row[2] - row[1]
    assert spread[10.0] > 3 * spread[1.0]


def test_the_best_lambda_is_chosen_anew_in_each_resample() -> None:
    # Two lambdas that are as good: whichever won has regret 0, but it might as well have been the other
    found = regrets({"0": [flat(1, 10.0), flat(2, 0.0)], "1": [flat(1, 0.0), flat(2, 10.5)]}, ["0", "1"])
    assert found is not None
    assert found.best == "1"
    assert found.regrets[1].tolist() == [0.0, 0.0, 1.0]


def test_only_seeds_that_all_curves_have_been_through_count() -> None:
    nothing: list[float | None] = [None] * N_SHARES
    found = regrets({"0": [flat(1, 1.0), result(2, returns=nothing)], "1": [flat(1, 2.0), flat(2, 100.0)]}, ["0", "1"])
    assert found is not None
    assert found.areas.tolist() == [[1.0], [2.0]]
    assert regrets({"0": [flat(1, 1.0)]}, ["0"]) is None
    assert regrets({"0": [flat(1, 1.0)], "1": [flat(2, 1.0)]}, ["0", "1"]) is None


def test_a_rule_that_diverged_has_the_worst_area_and_not_none() -> None:
    diverged = [flat(1, 40.0), *(flat(seed, 50.0, failure="NaN") for seed in (2, 3, 4))]
    found = regrets(
        {"0": [flat(seed, 10.0 + seed) for seed in range(1, 5)], "1": [flat(seed, 30.0) for seed in range(1, 5)],
         "auto": diverged}, ["0", "1"],
    )  # fmt: skip
    assert found is not None
    assert found.areas[2].tolist() == [40.0, 11.0, 11.0, 11.0]
    assert found.regrets[2, 0] > 0.5


def test_the_gain_of_a_rule_is_over_the_fixed_lambda_that_is_its_default_whatever_its_name() -> None:
    def trained(gae_lambda: Any, reached: float) -> list[RunResult]:
        settings = RunSettings("vpg", "CartPole-v1", 1000, {"gae_lambda": gae_lambda})
        return [flat(seed, reached, settings=settings) for seed in (1, 2)]

    found = regrets(
        {"none": trained(0.0, 10.0), "near_one": trained(0.97, 30.0), "auto_1": trained("auto:0.97", 35.0),
         "hoof": trained("hoof:0.5", 5.0), "lin": trained("lin_1_0.9", 5.0)}, ["none", "near_one"],
    )  # fmt: skip
    assert found is not None
    assert {name: gain.tolist() for name, gain in found.gains.items()} == {"auto_1": [0.25] * 3}
    alike = regrets({"0": trained(0.0, 10.0), "1": trained(1.0, 10.0), "a": trained("auto:1", 12.0)}, ["0", "1"])
    assert alike is not None
    assert alike.gains["a"].tolist() == [2.0] * 3


@pytest.mark.parametrize(
    ("algo", "block", "gae_lambda"),
    [("ppo", {}, 0.95), ("a2c", {}, 1.0), ("vpg", {"gae_lambda": "auto"}, "auto"), ("reinforce", {}, 1.0)],
)
def test_without_a_lambda_in_the_block_it_is_the_algorithm_s_default(
    algo: str, block: dict[str, Any], gae_lambda: Any
) -> None:
    prepare(())
    assert lambda_of(RunSettings(algo, "CartPole-v1", 100, block)) == gae_lambda
