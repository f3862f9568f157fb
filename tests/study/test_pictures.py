"""Films: how much of an episode they show."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pg import VPG
from sb3_pg.study.pictures import MAX_SECONDS, play


class Clock(gym.Env[Any, Any]):
    """Is drawn ten times a second, and rings after some seconds."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    render_mode = "rgb_array"
    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, seconds: int) -> None:
        self._n_steps = 10 * seconds

    def reset(self, **kwargs: Any) -> Any:
        super().reset(**kwargs)
        self._step = 0
        return np.zeros(1, np.float32), {}

    def step(self, _: Any) -> Any:
        self._step += 1
        return np.zeros(1, np.float32), 0.0, self._step == self._n_steps, False, {}

    def render(self) -> Any:
        return np.full((4, 6, 3), self._step, np.uint8)


@pytest.mark.parametrize(("seconds", "shown"), [(3, 3), (15, 15), (60, MAX_SECONDS)])
def test_an_episode_is_shown_to_its_end_and_a_long_one_in_part(seconds: int, shown: float) -> None:
    env = VecNormalize(DummyVecEnv([lambda: Clock(seconds)]))
    frames, between = play(VPG("MlpPolicy", env, n_steps=8, device="cpu"), env)
    assert len(frames) * between == pytest.approx(shown)
    assert [frame[0, 0, 0] for frame in frames] == list(range(len(frames)))
