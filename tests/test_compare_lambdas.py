"""The comparison of rules for lambda: areas, regrets, and going on after an interruption."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import compare_lambdas
import numpy as np
import pytest
from compare_lambdas import ARMS, Result, append, area, as_parameter, read_results, report, run, summarize, table, train

from sb3_pg.lambda_rules import as_lambda_rule


def result(arm: str, seed: int, reached: float, **kwargs: Any) -> Result:
    return Result(**{
        **dict(arm=arm, seed=seed, timesteps=0, critic_lambda="0.97", area=reached, final=reached, mean_lambda=0.9),
        "seconds": 1.0,
        **kwargs,
    })  # fmt: skip


def test_every_arm_is_a_lambda() -> None:
    for arm in ARMS:
        as_lambda_rule(as_parameter(arm), "gae_lambda")


def test_the_area_is_the_mean_over_equal_shares_of_the_steps() -> None:
    assert area([10, 20, 60, 100], [1.0, 3.0, 6.0, 8.0], 100, n_bins=2) == (2 + 7) / 2
    assert area([60], [6.0], 100, n_bins=4) == 6.0  # shares before the first end, and after the last, count as it
    assert area([10, 99], [1.0, 9.0], 100, n_bins=4) == (1 + 1 + 1 + 9) / 4
    assert math.isnan(area([], [], 100))


def test_the_regret_is_to_the_best_fixed_lambda_as_a_share_of_the_range() -> None:
    results = [result(arm, seed, reached + seed) for seed in range(4) for arm, reached in (
        ("0", 10.0), ("0.97", 30.0), ("1", 20.0), ("auto:0.97", 28.0), ("hoof:0.97", 31.0),
    )]  # fmt: skip
    found = summarize(results)
    assert found is not None
    assert found.best == "0.97"
    regrets = dict(zip(found.arms, found.regrets[:, 0], strict=True))
    expected = {"0": 1.0, "0.97": 0.0, "1": 0.5, "auto:0.97": 0.1, "hoof:0.97": -0.05}
    assert regrets == pytest.approx(expected)
    assert found.gains["auto:0.97"] == pytest.approx([-0.1] * 3)  # seeds shift all arms alike
    text = table({"Here-v0": found})
    assert "| `0.97` | **31.5** (0 %, 0 to 0) |" in text
    assert "| `auto:0.97` | 29.5 (10 %, 10 to 10, λ 0.90) |" in text
    assert "| `auto:0.97` | -10 % (-10 to -10) |" in text


def test_the_interval_is_wider_where_seeds_differ() -> None:
    rng = np.random.default_rng(0)
    spread: dict[float, float] = {}
    for noise in (1.0, 10.0):
        results = [
            result(arm, seed, reached + noise * rng.normal())
            for seed in range(6)
            for arm, reached in (("0", 0.0), ("1", 50.0), ("auto:1", 40.0))
        ]
        found = summarize(results)
        assert found is not None
        row = found.regrets[found.arms.index("auto:1")]
        assert row[1] < row[0] < row[2]
        spread[noise] = row[2] - row[1]
    assert spread[10.0] > 3 * spread[1.0]


def test_only_seeds_that_all_arms_have_been_through_count() -> None:
    results = [result("0", 1, 1.0), result("1", 1, 2.0), result("1", 2, 100.0), result("0", 2, math.nan)]
    found = summarize(results)
    assert found is not None
    assert found.areas.tolist() == [[1.0], [2.0]]
    assert summarize(results[:1]) is None


def test_a_line_that_an_interruption_cut_is_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[str, int]] = []

    def fake(_env_id: str, arm: str, seed: int, timesteps: int, critic_lambda: str) -> Result:
        trained.append((arm, seed))
        return result(arm, seed, 1.0, timesteps=timesteps, critic_lambda=critic_lambda)

    monkeypatch.setattr(compare_lambdas, "train", fake)
    path = tmp_path / "Here-v0.csv"
    append(path, result("0", 1, 1.0, timesteps=64))
    whole = path.read_text()
    path.write_text(whole + "1,1,64,0.97,12.")
    run(["Here-v0"], ["0", "1"], [1, 2], 64, "0.97", tmp_path)
    assert trained == [("1", 1), ("0", 2), ("1", 2)]
    assert [each.key for each in read_results(path)] == [
        (arm, seed, 64, "0.97") for seed in (1, 2) for arm in ("0", "1")
    ]
    run(["Here-v0"], ["0", "1"], [1, 2], 64, "0.97", tmp_path)
    run(["Here-v0"], ["0"], [1], 64, "own", tmp_path)
    assert len(trained) == 4


def test_a_short_run_is_trained_as_rl_zoo_does_and_reported(tmp_path: Path) -> None:
    for arm in ("0", "1", "auto:0.97"):
        found = train("CartPole-v1", arm, 1, 1024, "0.97")
        assert 9 < found.area < 100
        assert found.mean_lambda == pytest.approx({"0": 0, "1": 1, "auto:0.97": 0.97}[arm])
        append(tmp_path / "CartPole-v1.csv", found)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- study -->\nearlier numbers\n<!-- /study -->\nafter\n")
    report(["CartPole-v1", "Missing-v0"], 1024, "0.97", tmp_path, page, tmp_path / "figures" / "lambda.png")
    text = page.read_text()
    assert "earlier numbers" not in text
    assert "](figures/lambda.png)" in text
    assert text.startswith("before")
    assert (tmp_path / "figures" / "lambda.png").stat().st_size > 10_000


def test_without_results_there_is_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run without --report first"):
        report(["CartPole-v1"], 0, "0.97", tmp_path, tmp_path / "page.md", tmp_path / "figure.png")
