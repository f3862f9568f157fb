"""What takes a training to see; seeds are numbered from zero, and none is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from sb3_pg import VPG

N_SEEDS = 10
N_TIMESTEPS = 30_000


def mean_return_while_training(seed: int, **settings: Any) -> float:
    """Mean over all episodes of a training: high if it learns soon."""
    model = VPG("MlpPolicy", "CartPole-v1", stats_window_size=N_TIMESTEPS, seed=seed, **settings)
    model.learn(N_TIMESTEPS)
    return float(np.mean([episode["r"] for episode in model.ep_info_buffer]))


def interval(numbers: Any) -> tuple[float, float]:
    """95 % confidence interval of the mean (Student's t)."""
    low, high = stats.t.interval(0.95, len(numbers) - 1, np.mean(numbers), stats.sem(numbers))
    return float(low), float(high)


@pytest.mark.expensive
def test_the_numpy_path_learns_what_the_torch_path_learns() -> None:
    fast = interval([mean_return_while_training(seed) for seed in range(N_SEEDS)])
    slow = interval([mean_return_while_training(seed, per_step_values=True) for seed in range(N_SEEDS)])
    print(f"mean return of all training episodes, 95 % intervals: NumPy {fast}, policy.forward at every step {slow}")
    assert fast[0] < slow[1], "the intervals do not overlap"
    assert slow[0] < fast[1], "the intervals do not overlap"
    assert min(fast[0], slow[0]) > 40, "an untrained policy's mean is about 20"
