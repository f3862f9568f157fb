"""Claims: what settles them, and what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study.small_study import result, results_of, study

from sb3_pg.study.claims import judge
from sb3_pg.study.figures import name_of
from sb3_pg.study.plan import Claim
from sb3_pg.study.results import N_SHARES


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


@pytest.mark.parametrize("sign", ["<", "<=", ">", ">=", "~"])
def test_two_that_never_get_there_prove_nothing(tmp_path: Path, sign: str) -> None:
    plan = study(tmp_path)
    claim = Claim("so they say", "1", "CartPole-v1", "steps_to:500", "", sign, "0.5")
    assert judge(claim, plan, results_of(plan)).holds == "neither got there"
    assert judge(replace(claim, sign="<=", than=100.0), plan, results_of(plan)).holds.startswith("no")


@pytest.mark.parametrize(("levels", "holds"), [((10.0, 100.0), "no"), ((100.0, 10.0), "no"), ((100.0, 100.0), "yes")])
def test_one_that_gets_there_and_one_that_never_does_are_not_alike(
    tmp_path: Path, levels: tuple[float, float], holds: str
) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    for name, level in zip(("0.5", "1"), levels, strict=True):
        results.found["CartPole-v1", name] = {seed: result(seed, level) for seed in (1, 2, 3)}
    claim = Claim("so they say", "1", "CartPole-v1", "steps_to:50", "", "~", "0.5")
    assert judge(claim, plan, results).holds == holds
