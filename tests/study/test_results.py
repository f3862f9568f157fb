"""What trainings came to, in files that an interruption cannot spoil."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study.small_study import result

from sb3_pg.study.results import N_SHARES, RunSettings, append_result, path_of, read_results


def test_the_area_is_the_mean_over_equal_shares_of_the_steps() -> None:
    assert result(returns=[2.0] * 25 + [7.0] * 25).area == 4.5
    # A share in which no episode ended counts as the one before it, and those before the first one do not count
    assert result(returns=[None] * 10 + [1.0] + [None] * 19 + [9.0] + [None] * 19).area == 5.0
    assert math.isnan(result(returns=[None] * N_SHARES).area)


def test_the_final_return_is_over_the_episodes_of_the_last_tenth() -> None:
    one = result(returns=[0.0] * 45 + [1.0] * 4 + [3.0], n_episodes=[1] * 49 + [4])
    assert one.final == 2.0
    assert one.mean(0.0, 0.5) == 0
    assert math.isnan(result(n_episodes=[0] * N_SHARES).final)


def test_successes_are_counted_where_episodes_report_them() -> None:
    successes: list[float | None] = [None] * 46 + [0.5, None, None, 1.0]
    one = replace(result(), successes=successes, n_episodes=[2] * 49 + [6])
    assert one.mean(0.9, key="successes") == pytest.approx((2 * 0.5 + 6 * 1.0) / 8)
    assert np.isnan(one.mean(0.0, 0.5, key="successes"))


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = path_of(tmp_path, "ALE/Pong-v5", "auto:0.97")
    assert read_results(path) == []
    settings = RunSettings("vpg", "CartPole-v1", 1000, {"gae_lambda": 1.0, "n_envs": 2, "max_grad_norm": None})
    for seed in (1, 2):
        append_result(path, result(seed, settings=settings, logged={"train/std": [None] * N_SHARES}))
    assert read_results(path) == [result(s, settings=settings, logged={"train/std": [None] * N_SHARES}) for s in (1, 2)]
    assert settings == RunSettings("vpg", "CartPole-v1", 1000, {"n_envs": 2, "max_grad_norm": None, "gae_lambda": 1})


def test_infinite_hyperparameters_and_returns_that_are_no_numbers_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    settings = RunSettings("a2c_gae", "CartPole-v0", 1000, {"max_grad_norm": math.inf})
    append_result(path, result(1, settings=settings, evaluation=[math.nan, -math.inf]))
    (found,) = read_results(path)
    assert found.settings == settings
    assert math.isnan(found.evaluation[0])
    assert found.evaluation[1] == -math.inf


def test_files_have_names_that_windows_takes_too(tmp_path: Path) -> None:
    path = path_of(tmp_path, "ALE/Pong-v5", 'auto:0.97<>"|?*\\')
    assert path.relative_to(tmp_path).parts == ("ALE-Pong-v5", "auto-0.97-------.jsonl")


def test_a_line_that_an_interruption_cut_is_left_out_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    append_result(path, result(1))
    path.write_bytes(path.read_bytes() + b'{"seed": 2, "settings": {')
    assert [one.seed for one in read_results(path)] == [1]
    append_result(path, result(3))
    assert [one.seed for one in read_results(path)] == [1, 3]


def test_a_line_that_was_cut_within_a_letter_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    append_result(path, result(1))
    path.write_bytes(path.read_bytes() + '{"seed": 2, "failure": "λ'.encode()[:-1])
    assert [one.seed for one in read_results(path)] == [1]


def test_a_line_ends_where_its_newline_is_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    for seed in (1, 2):
        append_result(path, result(seed, failure="one\u2028two\x85three"))
    assert [one.failure for one in read_results(path)] == ["one\u2028two\x85three"] * 2


def test_a_line_that_is_no_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    append_result(path, result(1))
    path.write_bytes(path.read_bytes() + b'"\xff"\n')
    with pytest.raises(ValueError, match=r"one.jsonl, line 2 is no result"):
        read_results(path)


def test_a_last_line_that_only_lacks_its_newline_stays(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    for seed in (1, 2):
        append_result(path, result(seed))
    path.write_bytes(path.read_bytes().rstrip())
    assert [one.seed for one in read_results(path)] == [1, 2]
    append_result(path, result(3))
    assert [one.seed for one in read_results(path)] == [1, 2, 3]


def test_a_line_that_is_no_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    append_result(path, result(1))
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(ValueError, match=r"one.jsonl, line 2 is no result"):
        read_results(path)
