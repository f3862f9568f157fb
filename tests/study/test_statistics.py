"""Numbers for several seeds: regrets, bands, measures, verdicts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study.small_study import PLAN, result, results_of, study

from sb3_pg.study.figures import name_of
from sb3_pg.study.plan import Claim
from sb3_pg.study.results import N_SHARES, RunResult, RunSettings
from sb3_pg.study.statistics import (
    band,
    estimate,
    judge,
    lambda_of,
    measured,
    normalized,
    performance_profiles,
    probabilities_of_improvement,
    regrets,
    scores,
)
from sb3_pg.tune.blocks import prepare
from sb3_pg.tune.scores import bootstrap_interval, interquartile_mean


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


def test_measures() -> None:
    one = result(level=100.0, successes=[0.0] * 45 + [1.0] * 5)
    assert measured(one, "final") == pytest.approx(96.0)
    assert measured(one, "area") == pytest.approx(51.0)
    assert measured(one, "best") == 100
    assert measured(one, "evaluation") == 100
    assert measured(one, "success") == 1
    assert measured(one, "wobble") == pytest.approx(np.std(np.arange(52, 101, 2)))
    assert measured(one, "until:500") == pytest.approx(np.mean([48, 50]))
    assert measured(one, "until:1000") == measured(one, "final")
    assert measured(one, "until:20") == measured(one, "until:39") == 2
    assert np.isnan([measured(one, f"until:{steps}") for steps in (-5, 0, 19, 1020)]).all()
    silent = replace(one, returns=[5.0, 7.0, *[None] * 48])
    assert (measured(silent, "until:40"), measured(silent, "until:500")) == (7, 7)
    stopped = replace(one, failure="NaN", n_episodes=[2] * 45 + [0] * 5)
    assert measured(stopped, "until:900") == measured(one, "until:900")
    assert math.isnan(measured(stopped, "until:920"))
    assert measured(one, "steps_to:50") == 500
    assert measured(one, "steps_to:101") == math.inf
    assert (measured(one, "above:96"), measured(one, "above:97")) == (1, 0)
    assert measured(flat(1, 1.0), "logged:train/gae_lambda") == pytest.approx(0.9)
    assert math.isnan(measured(one, "logged:train/gae_lambda"))
    later = result(logged={"train/gae_lambda": [None, 0.5, None, 0.3, None, *[0.9] * 45]})
    assert measured(later, "early:train/gae_lambda") == pytest.approx(0.4)
    assert math.isnan(measured(one, "early:train/gae_lambda"))
    failed = result(failure="NaN")
    assert measured(failed, "steps_to:1") == math.inf
    assert measured(failed, "above:1") == 0


def test_a_training_that_diverged_counts_as_the_worst_of_its_environment(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    results.found["CartPole-v1", "auto"][2] = result(2, 1e9, failure="NaN in the weights")
    worst = scores(plan, results, "CartPole-v1", "0.5", "final").min()
    assert scores(plan, results, "CartPole-v1", "auto", "final")[1] == worst
    assert estimate(scores(plan, results, "CartPole-v1", "auto", "final")).n_seeds == 3


def test_what_was_logged_has_no_worst_and_so_those_that_diverged_are_left_out(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    logged: dict[str, list[float | None]] = {"train/grad_norm": [1e6] * N_SHARES}
    results.found["CartPole-v1", "auto"] = {
        seed: result(seed, logged=logged, failure="NaN in the weights" if seed < 3 else "") for seed in (1, 2, 3)
    }
    for measure in ("logged:train/grad_norm", "early:train/grad_norm"):
        assert scores(plan, results, "CartPole-v1", "auto", measure).tolist() == [1e6]


def test_what_is_no_curve_is_not_drawn_as_one() -> None:
    trained = result(1)
    assert np.isnan(trained.curve("evaluation")).all()
    assert np.isnan(trained.curve("seconds")).all()
    assert np.isfinite(trained.curve("returns")).all()


def test_the_band_is_the_interquartile_mean_of_each_share_with_its_bootstrap() -> None:
    rng = np.random.default_rng(1)
    each = [result(seed, returns=list(100 + 10 * rng.normal(size=N_SHARES))) for seed in range(8)]
    found = band(each, n_resamples=4000)
    columns = np.array([one.returns for one in each], dtype=float).T
    assert found.middle == pytest.approx([interquartile_mean(column) for column in columns])
    low, high = np.array([bootstrap_interval(column) for column in columns]).T
    assert found.low == pytest.approx(low, abs=1.0)
    assert found.high == pytest.approx(high, abs=1.0)
    half = [*each[0].returns[:25], *[None] * 25]
    stopped = result(9, returns=half, n_episodes=[2] * 25 + [0] * 25, failure="NaN in the weights")
    assert band([stopped, each[1]]).each[0, 25:].tolist() == [min(map(float, [*half[:25], *each[1].returns]))] * 25  # type: ignore[arg-type]
    begun_late = band([each[0], result(returns=[None, *each[1].returns[1:]])])
    assert np.isnan(begun_late.middle[0])
    assert np.isfinite(begun_late.middle[1:]).all()
    # The trimmed mean of eight would leave the one without a number out
    begun_late = band([*each[1:], result(returns=[None, *each[1].returns[1:]])])
    assert np.isnan([begun_late.middle[0], begun_late.low[0], begun_late.high[0]]).all()
    assert np.isfinite(begun_late.middle[1:]).all()


def test_what_may_be_infinite_has_a_median_and_shares_have_a_mean() -> None:
    assert estimate(np.array([1.0, 2.0, np.inf]), "steps_to:5").value == 2
    assert estimate(np.array([1.0, np.inf, np.inf]), "steps_to:5").value == np.inf
    assert estimate(np.array([10.0, 20, 30, 1000]), "steps_to:5").value == 30
    assert estimate(np.array([0.0, 0, 0, 0, 1]), "above:5").value == pytest.approx(0.2)
    assert math.isnan(estimate(np.array([])).value)


def test_seeds_that_agree_do_not_make_a_share_certain() -> None:
    # Jeffreys' interval of 0 of 3 ends at the 97.5th percentile of Beta(1/2, 7/2), which is 0.536
    none, all_of_them = estimate(np.zeros(3), "above:5"), estimate(np.ones(3), "above:5")
    assert none == (0, 0, pytest.approx(0.536, abs=0.03), 3)
    assert all_of_them == (1, pytest.approx(0.464, abs=0.03), 1, 3)
    some = estimate(np.array([0.0, 0, 1, 1, 1, 1, 1, 1, 1, 1]), "above:5")
    assert (some.low, some.high) == pytest.approx((0.497, 0.955), abs=0.02)


@pytest.mark.parametrize(
    ("measure", "sign", "than", "holds"),
    [
        ("above:100", ">", 0.0, "no, but not settled by 3 seeds"),
        ("above:10", ">=", 1.0, "yes, but not settled by 3 seeds"),
        ("above:10", ">", 0.2, "yes"),
        ("above:69.5", ">", "0.5", "yes, but not settled by 3 seeds"),
    ],
)
def test_a_claim_on_a_share_of_seeds_knows_how_few_they_are(
    tmp_path: Path, measure: str, sign: str, than: float | str, holds: str
) -> None:
    plan = study(tmp_path)
    claim = Claim("so they say", "1", "CartPole-v1", measure, "", sign, than)
    assert judge(claim, plan, results_of(plan)).holds == holds


@pytest.mark.parametrize(
    ("sign", "than", "holds"),
    [
        (">", "0.5", "yes"), ("<", "0.5", "no"), (">", "auto", "no"), ("~", "0.5", "no"), (">=", 60.0, "yes"),
        ("<=", 60.0, "no"), ("~", 70.0, "yes"), (">=", 69.5, "no, but not settled by 3 seeds"),
        ("<", 69.5, "yes, but not settled by 3 seeds"), ("", 0.0, ""),
    ],
)  # fmt: skip
def test_a_claim_is_settled_only_where_the_interval_lies_on_one_side(
    tmp_path: Path, sign: str, than: float | str, holds: str
) -> None:
    plan = study(tmp_path)
    # "1" ends at 71 to 73, its last tenth at 68 to 70
    claim = Claim("so they say", "1", "CartPole-v1", "final", "", sign, than)
    assert judge(claim, plan, results_of(plan)).holds == holds


@pytest.mark.parametrize(("n_seeds", "seeds"), [(1, "one seed"), (2, "2 seeds")])
def test_one_or_two_seeds_settle_nothing(tmp_path: Path, n_seeds: int, seeds: str) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    results.found["CartPole-v1", "0.5"] = {seed: result(seed, 50.0) for seed in range(1, n_seeds + 1)}
    claim = Claim("so they say", "1", "CartPole-v1", "final", "", ">", "0.5")
    assert judge(claim, plan, results).holds == f"yes, but not settled by {seeds}"


def test_a_claim_about_what_has_not_been_trained_is_not_judged(tmp_path: Path) -> None:
    plan = study(tmp_path)
    assert judge(plan.claims[0], plan, results_of(plan, n_seeds=0)).holds == "not trained yet"


def test_a_claim_about_a_number_that_is_not_there_says_so(tmp_path: Path) -> None:
    plan = study(tmp_path)
    claim = Claim("so they say", "1", "CartPole-v1", "success", "", ">", 0.5)
    assert judge(claim, plan, results_of(plan)).holds == "its trainings have no such number"


@pytest.mark.parametrize(("curve", "than"), [("1", "0.5"), ("0.5", "1")])
def test_at_equal_time_the_slower_curve_is_looked_at_where_the_quicker_one_ends(
    tmp_path: Path, curve: str, than: str
) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    share = np.arange(1, N_SHARES + 1)
    # "0.5" takes 100 s, but for a training that was paused; "1" has half of its steps by then, and one diverged later
    for name, seconds in {"0.5": 2.0 * share, "1": 4.0 * share}.items():
        results.found["CartPole-v1", name] = {
            seed: result(seed, 100.0, seconds=list(seconds * (1 + 10 * (seed == 3)))) for seed in (1, 2, 3)
        }
    results.found["CartPole-v1", "1"][4] = result(
        4, 100.0, seconds=[0.1] * N_SHARES, failure="NaN", n_episodes=[2] * 40 + [0] * 10
    )
    verdict = judge(Claim("so they say", curve, "CartPole-v1", "equal_seconds", "", ">", than), plan, results)
    assert verdict.other is not None
    by_curve = {curve: verdict.measured.value, than: verdict.other.value}
    assert by_curve == pytest.approx({"0.5": np.mean([92, 94, 96, 98, 100]), "1": np.mean([48, 50])})
    assert verdict.holds == ("yes" if curve == "0.5" else "no")
    assert name_of(verdict.measure) == "return after 100 s each"


@pytest.mark.parametrize(
    ("levels", "holds"), [((10.0, 10.0), "yes"), ((10.0, 100.0), "no"), ((100.0, 10.0), "no"), ((100.0, 100.0), "yes")]
)
def test_two_that_never_get_there_are_alike_and_one_that_does_is_not(
    tmp_path: Path, levels: tuple[float, float], holds: str
) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    for name, level in zip(("0.5", "1"), levels, strict=True):
        results.found["CartPole-v1", name] = {seed: result(seed, level) for seed in (1, 2, 3)}
    claim = Claim("so they say", "1", "CartPole-v1", "steps_to:50", "", "~", "0.5")
    assert judge(claim, plan, results).holds == holds


@pytest.mark.parametrize(
    ("algo", "block", "gae_lambda"),
    [("ppo", {}, 0.95), ("a2c", {}, 1.0), ("vpg", {"gae_lambda": "auto"}, "auto"), ("reinforce", {}, 1.0)],
)
def test_without_a_lambda_in_the_block_it_is_the_algorithm_s_default(
    algo: str, block: dict[str, Any], gae_lambda: Any
) -> None:
    prepare(())
    assert lambda_of(RunSettings(algo, "CartPole-v1", 100, block)) == gae_lambda


def test_rliable_says_which_is_better(tmp_path: Path) -> None:
    plan = study(tmp_path, PLAN)
    found = normalized(plan, results_of(plan), ["CartPole-v1"], ["0.5", "1", "auto"])
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(found, (3, 1))
    assert min(values.min() for values in found.values()) == 0
    assert interquartile_mean(found["auto"][:, 0]) == pytest.approx(1)
    share, low, high = performance_profiles(found, np.array([0.5]))["auto"]
    assert (share, low, high) == (1, 1, 1)
    better = probabilities_of_improvement(found, "auto")
    assert better["0.5"].value == 1
    assert set(better) == {"0.5", "1"}
