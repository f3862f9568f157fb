"""One training: its learning curve, its checkpoint, its end."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny
from stable_baselines3.common.logger import configure
from study.small_study import study

from sb3_pg.study import training
from sb3_pg.study.results import N_SHARES, RunSettings, plain
from sb3_pg.study.training import (
    Checkpoints,
    LearningCurve,
    NotKeptWarning,
    RunTask,
    checkpoint_path,
    model_path,
    train,
)

BLOCK: dict[str, Any] = {"policy": "MlpPolicy", "n_timesteps": 1024, "n_envs": 2, "n_steps": 32, "normalize": True}


def task(algo: str, folder: Path | str = "", **kwargs: Any) -> RunTask:
    settings = RunSettings(algo, "CartPole-v1", 1024, BLOCK)
    return RunTask("a", settings, 3, 2, ("train/value_loss",), folder=str(folder), **kwargs)


def comparable(result: Any) -> Any:
    return replace(result, seconds=[])


class KilledError(BaseException):
    """As a kill would, it passes every `except Exception`."""


def train_and_die(doomed: RunTask, n_checkpoints: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until right after a checkpoint."""
    write = training.write_whole
    written = []

    def write_and_die(path: Path, value: Any) -> None:
        write(path, value)
        written.append(path)
        if len(written) == n_checkpoints:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_whole", write_and_die)
        with pytest.raises(KilledError):
            train(doomed)


@pytest.mark.parametrize("algo", ["vpg", "a2c_gae"])
def test_an_interrupted_training_goes_on_to_the_bit(algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(task(algo))
    train_and_die(task(algo, tmp_path, checkpoint_every=200), 2, monkeypatch)
    assert checkpoint_path(task(algo, tmp_path)).exists()
    resumed = train(task(algo, tmp_path, checkpoint_every=200))
    # What was logged in the share of the interruption is logged anew by the next update
    assert comparable(replace(resumed, logged={})) == comparable(replace(whole, logged={}))
    assert len(resumed.seconds) == N_SHARES
    assert sorted(resumed.seconds) == resumed.seconds
    assert checkpoint_path(task(algo, tmp_path)).exists(), (
        "whoever keeps the result deletes it, when the result is safe"
    )


def test_a_training_of_other_settings_leaves_a_checkpoint_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_and_die(task("vpg", tmp_path, checkpoint_every=200), 2, monkeypatch)
    of_the_first = checkpoint_path(task("vpg", tmp_path))
    content = of_the_first.read_bytes()
    train(task("a2c", tmp_path, checkpoint_every=200))
    assert checkpoint_path(task("a2c", tmp_path)) != of_the_first
    assert of_the_first.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"nothing", pickle.dumps({"seed": 3}), pickle.dumps([])])
def test_a_checkpoint_that_cannot_be_read_is_named_and_the_training_begins_anew(tmp_path: Path, content: bytes) -> None:
    path = checkpoint_path(task("vpg", tmp_path))
    path.write_bytes(content)
    with pytest.warns(NotKeptWarning, match=rf"{path.name} of curve 'a' cannot be read .*; seed 3 begins anew"):
        result = train(task("vpg", tmp_path))
    assert comparable(result) == comparable(train(task("vpg")))


def test_a_model_that_cannot_be_gone_on_from_is_named(tmp_path: Path) -> None:
    each = task("vpg", tmp_path)
    path = checkpoint_path(each)
    path.write_bytes(pickle.dumps({"seed": 3, "settings": plain(each.settings), "normalize": {}, "model": b"cut"}))
    with pytest.raises(RuntimeError, match=rf"{path.name} cannot be gone on from .*: remove it"):
        train(each)
    assert path.exists()


def test_sb3_s_own_algorithms_go_on_with_weights_and_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_and_die(task("a2c", tmp_path, checkpoint_every=200), 2, monkeypatch)
    packed = pickle.loads(checkpoint_path(task("a2c", tmp_path)).read_bytes())
    seen: list[Any] = []

    def look(self: Checkpoints) -> None:
        normalize = self.model.get_vec_normalize_env()
        assert normalize is not None
        seen.append((self.num_timesteps, normalize.obs_rms.count))

    monkeypatch.setattr(Checkpoints, "_on_rollout_start", look)
    resumed = train(task("a2c", tmp_path, checkpoint_every=200))
    steps, count = seen[0]
    assert steps >= 400
    assert count > packed["normalize"]["obs_rms"].count > 300
    assert sum(resumed.n_episodes) > sum(len(share) for share in packed["curve"]["_episodes"])


def test_a_checkpoint_of_other_settings_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_and_die(task("vpg", tmp_path, checkpoint_every=200), 1, monkeypatch)
    assert comparable(train(replace(task("vpg", tmp_path), seed=4))) == comparable(train(replace(task("vpg"), seed=4)))


def test_a_training_goes_on_after_a_change_of_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_and_die(task("vpg", tmp_path, checkpoint_every=200), 2, monkeypatch)
    resumed = train(replace(task("vpg", tmp_path, checkpoint_every=200), log_keys=("train/grad_norm",)))
    assert list(resumed.logged) == ["train/grad_norm"]
    known = [value is not None for value in resumed.logged["train/grad_norm"]]
    assert known[-1]
    assert not known[0]


def test_files_that_cannot_be_written_do_not_cost_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(NotKeptWarning) as caught:
        result = train(task("vpg", tmp_path / "file" / "3", checkpoint_every=512, keep_model=True))
    assert comparable(result) == comparable(train(task("vpg")))
    first, *_, last = [str(one.message) for one in caught]
    assert re.search(r"checkpoint_[0-9a-f]{8}\.pkl of curve 'a', seed 3, is not kept: Not a directory$", first)
    assert re.search(r"model_[0-9a-f]{8}\.pkl of curve 'a', seed 3, is not kept: Not a directory$", last)


def test_the_model_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    asked = task("vpg", tmp_path, keep_model=True)
    result = train(asked)
    packed = pickle.loads(model_path(tmp_path, asked.settings).read_bytes())
    assert packed["normalize"]["obs_rms"].count > 1000
    assert len(result.evaluation) == 2
    assert result.versions["sb3_pg"]
    assert np.isfinite(result.area)


def test_a_training_that_diverges_is_a_result(tmp_path: Path) -> None:
    block = {**BLOCK, "learning_rate": 1e30, "max_grad_norm": None}
    settings = RunSettings("vpg", "Pendulum-v1", 1024, block)
    result = train(RunTask("a", settings, 1, folder=str(tmp_path), keep_model=True))
    assert result.failure
    assert result.evaluation == []
    assert len(result.seconds) == N_SHARES
    assert not list(tmp_path.glob("*.pkl"))


def test_weights_that_are_infinite_in_the_end_are_divergence_for_any_algorithm(tmp_path: Path) -> None:
    block = {"policy": "MlpPolicy", "n_timesteps": 64, "n_steps": 64, "learning_rate": 3e38}
    result = train(RunTask("a", RunSettings("a2c", "CartPole-v1", 64, block), 1, folder=str(tmp_path), keep_model=True))
    assert "infinite" in result.failure
    assert result.evaluation == []
    assert not list(tmp_path.glob("*.pkl"))


def test_successes_are_of_the_episodes_that_report_them() -> None:
    curve = LearningCurve(100)
    curve.num_timesteps = 1
    ends = [{"is_success": True}, {}, {"is_success": False}, {"is_success": None}, {"is_success": True}]
    curve.locals = {"infos": [{"episode": {"r": 1.0, "l": 2}, **end} for end in ends]}
    curve._on_step()
    curve.seconds = [1.0] * N_SHARES
    found = curve.result(task("vpg"), [], "")
    assert found.successes == [pytest.approx(2 / 3, rel=1e-5), *[None] * (N_SHARES - 1)]
    assert found.n_episodes[0] == 5


def test_what_is_logged_is_noted_once_and_a_mean_is_of_one_rollout() -> None:
    model = tiny(n_envs=2)
    curve = LearningCurve(100, ("own/mean", "own/seldom"))
    curve.init_callback(model)
    logger = model._logger = configure(None, [])
    curve._on_training_start()
    for curve.num_timesteps, values in ((2, (1.0, 3.0)), (4, (10.0,)), (6, ())):
        for value in values:
            logger.record_mean("own/mean", value)
        if curve.num_timesteps == 2:
            logger.record("own/seldom", 7.0)
        curve._on_rollout_start()
    assert [shares[:3] for shares in curve._logged.values()] == [[[2.0], [10.0], []], [[7.0], [], []]]


def test_the_seconds_of_a_share_are_those_of_its_last_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(clock)))
    curve = LearningCurve(100)
    curve._on_training_start()
    for curve.num_timesteps in (1, 2, 3, 4, 8, 99):  # shares of two steps
        curve._on_rollout_start()
    curve._on_training_end()
    assert curve.seconds[:4] == [2.0, 4.0, 5.0, 5.0]
    assert curve.seconds[-1] == 7.0


def test_a_tiny_study_trains(tmp_path: Path) -> None:
    for each in study(tmp_path).tasks():
        assert train(replace(each, eval_episodes=0)).failure == ""
        break
