r"""What is subtracted from a Monte-Carlo return to lower the variance of the policy gradient.

.. math:: E[\nabla_\theta \log \pi_\theta(a_t | s_t)\, b(s_t)] = 0

so any b that does not depend on the action leaves the gradient where it is (Williams 1992; Sutton and Barto 2018,
sec. 13.4). Every baseline takes the returns and their :class:`~sb3_pg.advantage.estimators.Trajectories` and gives
b, broadcastable to ``(n_steps, n_envs)``. A new one is one function and one line in :data:`BASELINES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_pg.advantage.estimators import Array, Trajectories


def no_baseline(returns: Array, trajectories: Trajectories) -> Array:  # noqa: ARG001  the table's signature
    """No baseline, b = 0: plain REINFORCE; and the value baseline, which the estimators have subtracted already."""
    return np.zeros((1, 1), dtype=returns.dtype)


def mean(returns: Array, trajectories: Trajectories) -> Array:
    r"""Mean of the returns of all steps in the batch.

    .. math:: b = \frac{1}{N} \sum_j \sum_{t < T_j} G_t^j

    The average reward that a bandit's baseline is (Sutton and Barto 2018, sec. 2.8), over a batch. A step's own return
    is in the mean, which shrinks the gradient by the order of 1/N.
    """
    return np.full((1, 1), returns[trajectories.valid].mean(), dtype=returns.dtype)


def time_mean(returns: Array, trajectories: Trajectories) -> Array:
    r"""Mean of the returns at the same number of steps into the episode.

    .. math:: b_t = \frac{1}{|\{j: T_j > t\}|} \sum_{j: T_j > t} G_t^j

    Knows that less return is left late in an episode. A step's own return is in the mean.
    """
    sums, counts = _by_time(returns, trajectories)
    times = _times_where_valid(trajectories)
    means: Array = sums / np.maximum(counts, 1)
    baseline: Array = means[times].astype(returns.dtype)
    return baseline


def leave_one_out(returns: Array, trajectories: Trajectories) -> Array:
    r"""Mean over the *other* episodes of the return at the same number of steps into them.

    .. math:: b_t^i = \frac{1}{|\{j \neq i: T_j > t\}|} \sum_{j \neq i, T_j > t} G_t^j

    Independent of the step's own action, so it keeps the gradient unbiased where the number of episodes is fixed, and
    up to the order of 1/N where their lengths decide which others there are; zero where no other lasted so long.
    Source: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!", eq. 8; RLOO, Ahmadian et
    al. 2024, arXiv:2402.14740.
    """
    sums, counts = _by_time(returns, trajectories)
    times = _times_where_valid(trajectories)
    others = counts[times] - 1
    return np.where(others > 0, (sums[times] - returns) / np.maximum(others, 1), 0.0).astype(returns.dtype)


def _times_where_valid(trajectories: Trajectories) -> NDArray[np.integer[Any]]:
    return np.where(trajectories.valid, trajectories.times, 0)


def _by_time(returns: Array, trajectories: Trajectories) -> tuple[Array, Array]:
    """Sum and number of the returns for every count of steps into the episode."""
    times = trajectories.times[trajectories.valid]
    sums: Array = np.asarray(np.bincount(times, weights=returns[trajectories.valid]), dtype=np.float64)
    counts: Array = np.bincount(times).astype(np.float64)
    return sums, counts


Baseline = Callable[[Array, Trajectories], Array]

BASELINES: dict[str, Baseline] = {
    "none": no_baseline,
    "mean": mean,
    "time_mean": time_mean,
    "leave_one_out": leave_one_out,
    "value": no_baseline,
}


def critic_free() -> list[str]:
    """Names of the baselines without a critic."""
    return [name for name in BASELINES if name != "value"]


def get_baseline(name: str) -> Baseline:
    """Look a baseline up by its name.

    :raises ValueError: when the name is unknown
    """
    if not isinstance(name, str) or name not in BASELINES:
        raise ValueError(f"baseline={name!r} is unknown; accepted are {', '.join(BASELINES)}")
    return BASELINES[name]
