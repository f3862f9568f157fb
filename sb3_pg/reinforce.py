"""REINFORCE: VPG's critic-free preset."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv

from sb3_pg.advantage.estimators import Estimator
from sb3_pg.lambda_rules import LambdaLike
from sb3_pg.vpg import VPG


class REINFORCE(VPG):
    r"""Monte-Carlo policy gradient on whole episodes.

    .. math:: \hat g = \frac{1}{N} \sum_t (G_t - b_t)\, \nabla_\theta \log \pi_\theta(a_t | s_t)

    N is ``n_steps`` times the number of environments, or ``n_episodes`` times it: a constant, without which short
    episodes would count for more (docs/algorithms.md, "Batches"); normalised advantages have the number of steps.

    :class:`~sb3_pg.vpg.VPG` with other defaults: reward-to-go, no baseline, whole episodes of at least ``n_steps``
    steps per environment. ``baseline="value"`` gives REINFORCE with baseline (Sutton and Barto 2018, sec. 13.4), whose
    critic is fitted to Monte-Carlo returns.

    Paper: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".

    :param policy: see VPG
    :param env: see VPG
    :param estimator: see VPG
    :param baseline: see VPG
    :param gae_lambda: lambda of the critic's target, where there is a critic
    :param whole_episodes: see VPG
    :param kwargs: every other parameter of VPG
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        *,
        estimator: str | Estimator = "reward_to_go",
        baseline: str = "none",
        gae_lambda: LambdaLike = 1.0,
        whole_episodes: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            policy,
            env,
            estimator=estimator,
            baseline=baseline,
            gae_lambda=gae_lambda,
            whole_episodes=whole_episodes,
            **kwargs,
        )
