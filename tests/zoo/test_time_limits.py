"""The YAML of docs/zoo.md for time limits that are a part of the task works as it stands."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from gymnasium.wrappers import TimeAwareObservation
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.env_util import make_vec_env

from sb3_pg import VPG

ROOT = Path(__file__).resolve().parents[2]


def test_time_aware_observations_from_a_zoo_file(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    [block] = [text for text in blocks if "TimeAware" in text]
    (tmp_path / "my.yml").write_text(block, encoding="utf-8")
    manager = ExperimentManager(
        argparse.Namespace(), "vpg", "CartPole-v1", str(tmp_path), config=str(tmp_path / "my.yml"), seed=1, verbose=0
    )
    model, _ = manager.setup_experiment()
    assert manager.n_timesteps == 100_000
    assert model.observation_space.shape == (5,)
    assert model.observation_space.high[4] == 1.0
    assert model.truncation == "terminal"
    model.learn(600)
    buffer = model.rollout_buffer
    np.testing.assert_allclose(buffer.observations[:, :, 4], buffer.times / 500, rtol=1e-6)
    model.env.close()


def test_the_time_of_every_step_reaches_the_policy() -> None:
    env = make_vec_env(
        "FiniteMDP-v0", 2, seed=0, env_kwargs=dict(mdp="two_state", max_episode_steps=4),
        wrapper_class=TimeAwareObservation, wrapper_kwargs=dict(normalize_time=True),
    )  # fmt: skip
    model = VPG("MlpPolicy", env, n_steps=16, truncation="terminal", seed=0, device="cpu").learn(64)
    buffer = model.rollout_buffer
    np.testing.assert_allclose(buffer.observations[:, :, 2], buffer.times / 4)
    assert buffer.times.max() == 3
    assert (buffer.next_values[buffer.dones] == 0.0).all()
