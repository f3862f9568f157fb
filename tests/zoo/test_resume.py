"""RL Zoo's ``--save-freq`` and ``-i``: a run goes on where its checkpoint was."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import same, tiny, weights
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_pg import VPG
from sb3_pg.zoo.extend import CheckpointWithStatistics, extend_all

extend_all()
from rl_zoo3 import exp_manager  # noqa: E402 - after the extension

# Rollouts of 128 steps; the checkpoint falls into the third
RUN = ("--algo", "vpg", "--env", "CartPole-v1", "--eval-freq", "-1", "--log-interval", "1", "-tb", "tb")
SETTINGS = ("-params", "n_envs:4", "n_steps:32", "learning_rate:'lin_0.01'", "ent_coef:'lin_0.1'", "n_critic_updates:2")


def train(cwd: Path, *arguments: str) -> str:
    """Run ``python -m rl_zoo3.train``; return all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "rl_zoo3.train", *RUN, *arguments, *SETTINGS],
        cwd=cwd, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


class Runs(NamedTuple):
    whole: Path
    resumed: Path
    printed: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run of 640 steps, and its checkpoint at 300 steps with the 340 that are left."""
    cwd = tmp_path_factory.mktemp("runs")
    train(cwd, "-n", "640", "--seed", "3", "--save-freq", "300")
    whole, resumed = (cwd / "logs" / "vpg" / f"CartPole-v1_{number}" for number in (1, 2))
    printed = train(cwd, "-n", "340", "--seed", "3", "--save-freq", "300", "-i", str(whole / "rl_model_300_steps.zip"))
    return Runs(whole, resumed, printed)


def optimizers(model: VPG) -> list[Any]:
    return [model.policy.optimizer.state_dict(), model.policy.critic_optimizer.state_dict()]


def statistics(path: Path) -> VecNormalize:
    return VecNormalize.load(str(path), make_vec_env("CartPole-v1", 4))


def test_a_checkpoint_and_its_remaining_steps_are_the_whole_run_bit_for_bit(runs: Runs) -> None:
    """Weights, both optimizers, and with them the schedules of learning rate and entropy."""
    assert "Warning" not in runs.printed
    whole, resumed = (VPG.load(folder / "CartPole-v1.zip", device="cpu") for folder in (runs.whole, runs.resumed))
    assert resumed.num_timesteps == whole.num_timesteps == 640
    assert resumed._n_updates == whole._n_updates == 5
    assert same(weights(whole), weights(resumed))
    assert same(optimizers(whole), optimizers(resumed))
    assert {group["lr"] for group in resumed.policy.optimizer.param_groups} == {0.0}
    assert [(info["r"], info["l"]) for info in whole.ep_info_buffer or ()] == [
        (info["r"], info["l"]) for info in resumed.ep_info_buffer or ()
    ]


def test_the_statistics_are_those_of_the_checkpoint_and_not_the_last_ones(runs: Runs) -> None:
    checkpoint, last = (
        statistics(runs.whole / name).obs_rms
        for name in ("rl_model_vecnormalize_300_steps.pkl", "CartPole-v1/vecnormalize.pkl")
    )
    assert checkpoint.count == pytest.approx(304, abs=1)
    assert last.count == pytest.approx(644, abs=1)
    assert f"stats of this checkpoint: {runs.whole / 'rl_model_vecnormalize_300_steps.pkl'}" in runs.printed
    resumed = statistics(runs.resumed / "CartPole-v1" / "vecnormalize.pkl").obs_rms
    np.testing.assert_array_equal(resumed.mean, last.mean)
    assert resumed.count == last.count


def logged_steps(folder: Path) -> list[int]:
    """Steps at which TensorBoard has a point."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.step for event in events.Scalars("time/fps")]


def test_steps_are_counted_on_in_file_names_and_in_tensorboard(runs: Runs) -> None:
    names = sorted(path.name for path in runs.resumed.glob("rl_model_*"))
    # 300 calls' worth of steps after the beginning of the rollout that is collected again, at 256
    assert names == ["rl_model_556_steps.zip", "rl_model_vecnormalize_556_steps.pkl"]
    assert "640" in runs.printed.split("total_timesteps")[-1].splitlines()[0]
    # In a folder of its own: the newest one may be another run's
    first, second = (logged_steps(runs.whole.parents[2] / "tb" / "CartPole-v1" / name) for name in ("VPG_1", "VPG_2"))
    assert 0 < min(first) < max(first) <= 640
    assert 256 < min(second) <= max(second) <= 640
    assert not list(runs.whole.parents[1].rglob("*.unfinished"))


# -- without processes -----------------------------------------------------------------------------------------------


def manager(algo: str, **arguments: Any) -> exp_manager.ExperimentManager:
    return exp_manager.ExperimentManager(argparse.Namespace(), algo, "CartPole-v1", "logs", eval_freq=-1, **arguments)


@pytest.mark.parametrize(("algo", "kind"), [("vpg", CheckpointWithStatistics), ("a2c", CheckpointCallback)])
def test_only_our_algorithms_get_other_checkpoints(algo: str, kind: type, tmp_path: Path) -> None:
    experiment = manager(algo, save_freq=8)
    own = CheckpointCallback(3, str(tmp_path))
    experiment.callbacks, experiment.n_envs = [own], 2
    experiment.create_callbacks()
    assert experiment.callbacks[0] is own
    made = experiment.callbacks[1]
    assert type(made) is kind
    assert (made.save_freq, made.save_path, made.name_prefix, made.verbose) == (4, experiment.save_path, "rl_model", 1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("algo", ["vpg", "a2c"])
@pytest.mark.parametrize("eval_env", [False, True])
def test_an_agent_is_given_the_statistics_beside_it(algo: str, eval_env: bool, tmp_path: Path) -> None:
    for name, count in (("rl_model_vecnormalize_40_steps.pkl", 40.0), ("CartPole-v1/vecnormalize.pkl", 90.0)):
        saved = VecNormalize(make_vec_env("CartPole-v1"))
        saved.obs_rms.count = count
        (tmp_path / name).parent.mkdir(exist_ok=True)
        saved.save(str(tmp_path / name))
    counts = {}
    for zip_name in ("rl_model_40_steps.zip", "rl_model_50_steps.zip", "best_model.zip", "CartPole-v1.zip"):
        experiment = manager(algo, trained_agent=str(tmp_path / zip_name))
        env = experiment._maybe_normalize(make_vec_env("CartPole-v1"), eval_env)
        assert isinstance(env, VecNormalize)
        assert (env.training, env.norm_reward) == (not eval_env, not eval_env)
        counts[zip_name] = env.obs_rms.count
    assert counts.pop("rl_model_40_steps.zip") == (40 if algo == "vpg" else 90)
    assert set(counts.values()) == {90}


@pytest.mark.parametrize(
    ("algo", "continued", "reset"), [("vpg", True, False), ("vpg", False, True), ("a2c", True, True)]
)
def test_only_our_algorithms_count_on_and_only_with_an_agent(
    algo: str, continued: bool, reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}
    model = tiny()
    monkeypatch.setattr(type(model), "learn", lambda _, steps, **kwargs: asked.update(kwargs, steps=steps))
    experiment = manager(algo, n_timesteps=12)
    experiment.continue_training = continued
    experiment.learn(model)
    assert (asked["steps"], asked.get("reset_num_timesteps", True)) == (12, reset)


def test_statistics_that_cannot_be_written_leave_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(VecNormalize(make_vec_env("CartPole-v1")))
    callback = CheckpointWithStatistics(1, str(tmp_path))
    callback.init_callback(model)
    assert callback.on_step()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(before) == ["rl_model_0_steps.zip", "rl_model_vecnormalize_0_steps.pkl"]

    def half(_: Any, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(VecNormalize, "save", half)
    with pytest.raises(OSError, match="No space left"):
        callback.on_step()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
