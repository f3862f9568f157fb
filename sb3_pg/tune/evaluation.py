"""Returns of whole episodes, played as RL Zoo evaluates."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_pg.rollout.collector import LONGEST_EPISODE
from sb3_pg.tune.blocks import is_deterministic
from sb3_pg.tune.experiment import Experiment


class EndlessEpisodeError(RuntimeError):
    """An episode is longer than any that is known, and than the training."""


def returns_of(model: BaseAlgorithm, eval_env: VecEnv, experiment: Experiment) -> list[float]:
    """
    Play ``eval_episodes`` episodes with the present policy and the statistics of its VecNormalize.

    :param model: whose policy plays
    :param eval_env: where
    :param experiment: how many episodes, and of what
    :raises EndlessEpisodeError: when an episode has more steps than any is believed to have, and than the training;
        SB3's ``evaluate_policy`` would wait for its end forever
    """
    train_env = model.get_env()
    assert train_env is not None
    sync_envs_normalization(train_env, eval_env)
    longest = max(LONGEST_EPISODE, experiment.n_timesteps)

    def give_up(scope: dict[str, Any], _: dict[str, Any]) -> None:
        """Called by ``evaluate_policy`` after every step of every environment, with its variables."""
        if scope["current_lengths"][scope["i"]] > longest:
            raise EndlessEpisodeError(
                f"an episode of {experiment.env} has not ended after {longest} steps, and evaluations need whole "
                "episodes. A limit helps: --env-kwargs max_episode_steps:1000"
            )

    returns: Any
    returns, _ = evaluate_policy(
        model,
        eval_env,
        experiment.eval_episodes,
        is_deterministic(experiment.env),
        callback=give_up,
        return_episode_rewards=True,
        warn=False,
    )
    return list(map(float, returns))
