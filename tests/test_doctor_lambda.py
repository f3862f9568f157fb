"""The script that compares the doctor's lambda with a sweep: what it asks, what it keeps, what it counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import doctor_lambda
import pytest

from sb3_pg.study.results import N_SHARES, RunResult, RunSettings, append_result, path_of

BLOCK = dict(policy="MlpPolicy", n_envs=2, n_steps=16, n_critic_updates=1, gae_lambda=0.97, normalize=True)
SETTINGS = RunSettings("vpg", "CartPole-v1", 400, {**BLOCK, "n_timesteps": 400})


def put(folder: Path, arm: str, mean: float, seed: int = 1) -> None:
    nothing = [1.0] * N_SHARES
    append_result(
        path_of(folder, "CartPole-v1", arm),
        RunResult(seed, SETTINGS, [mean] * N_SHARES, nothing, [1] * N_SHARES, nothing),
    )


def answer(chosen: str, seed: int = 1) -> dict[str, Any]:
    return {"env": "CartPole-v1", "seed": seed, "chosen": chosen, "steps": 90}


def test_the_doctor_looks_at_a_model_after_a_fifth_of_its_training(capsys: pytest.CaptureFixture[str]) -> None:
    found = doctor_lambda.ask(SETTINGS, seed=1, n_batches=2)
    assert found["chosen"] in doctor_lambda.FIXED
    assert len(found["lambdas"]) == len(found["cosines"]) == len(found["standard_errors"])
    assert found["steps"] >= 80 + 2 * 32  # what it trained, and two batches
    assert json.loads(json.dumps(found)) == found
    capsys.readouterr()


def test_only_what_was_not_asked_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "0.97", 100)
    asked: list[tuple[RunSettings, int]] = []

    def ask(settings: RunSettings, seed: int, _: int) -> dict[str, Any]:
        asked.append((settings, seed))
        return answer("0.9", seed)

    monkeypatch.setattr(doctor_lambda, "ask", ask)
    (tmp_path / "doctor.jsonl").write_text(json.dumps(answer("0.9", 2)) + "\n" + '{"env": "Cart')  # interrupted
    doctor_lambda.ask_all(tmp_path, ["CartPole-v1"], range(1, 4), 40)
    assert [seed for _, seed in asked] == [1, 3]
    assert asked[0][0] == SETTINGS
    assert [each["seed"] for each in doctor_lambda.read_answers(tmp_path / "doctor.jsonl")] == [2, 1, 3]
    doctor_lambda.ask_all(tmp_path, ["CartPole-v1"], range(1, 4), 40)
    assert len(asked) == 2


@pytest.mark.parametrize(("area", "good"), [(-100.0, 1), (-104.0, 1), (-106.0, 0)])
def test_within_five_percent_of_the_best_counts_also_below_zero(tmp_path: Path, area: float, good: int) -> None:
    put(tmp_path, "0", -500.0)
    put(tmp_path, "0.9", -100.0)
    put(tmp_path, "0.97", area)
    put(tmp_path, "0.97", 7e7, seed=2)  # a seed that not all have
    path = tmp_path / "doctor.jsonl"
    path.write_text("".join(json.dumps(answer("0.97", seed)) + "\n" for seed in (1, 2)))
    text = doctor_lambda.table(tmp_path, ["CartPole-v1", "Hopper-v5"])
    assert f"on {good} of 1 environments" in text
    assert f"| CartPole-v1 | 0.9 | -100 | 0.97 (2) | {area:.4g} |" in text
    assert f"{90 / 1200:.1%}" in text


def test_without_a_sweep_there_is_no_table(tmp_path: Path) -> None:
    put(tmp_path, "0.97", 100)
    with pytest.raises(ValueError, match="holds no environment with a sweep"):
        doctor_lambda.table(tmp_path, ["CartPole-v1"])
