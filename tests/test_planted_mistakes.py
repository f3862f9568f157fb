"""Classical mistakes, each planted on purpose: what passes for this library fails for the mistake.

The first ones are in the five documents that this library grew from, the others in well-known libraries. Wherever it
can be, the check is the library's own oracle: the measured gradient against the exact one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradient_checks as checks
import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gradient_checks import LARGEST_Z, Case, Pipeline
from gymnasium import spaces
from helpers import ScriptedEnv, one_rollout, tiny
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper

from sb3_pg import VPG
from sb3_pg.advantage import estimators
from sb3_pg.advantage.estimators import Array, Trajectories, standardize, td_residual
from sb3_pg.exact.sampling import Measurement


def catches(check: Callable[[Any], None], ours: Any, planted: Any) -> None:
    """The check passes for what is ours, and fails for the mistake."""
    check(ours)
    with pytest.raises(AssertionError):
        check(planted)


# -- in the advantages -----------------------------------------------------------------------------------------------

CUT_BATCHES = Case("chain", checks.CUT, "gae", 0.95, critic="exact")


def has_the_exact_gradient(estimator: Any) -> None:
    """Of GAE on fixed steps; the critic is exact, so that it is also the true gradient."""
    case = CUT_BATCHES._replace(estimator=estimator)
    measurement = checks.measure_arrays([case], 60)[case]
    assert measurement.worst_z(checks.true_gradient(CUT_BATCHES)) < LARGEST_Z


def leaking_gae(trajectories: Trajectories, *, gamma: float, gae_lambda: float) -> Array:
    """result[t] = TD_errors[t] + gamma*lam*result[t+1], without (1 - done)."""
    result = td_residual(trajectories, gamma=gamma)
    for t in range(len(result) - 2, -1, -1):
        result[t] += gamma * gae_lambda * result[t + 1]
    return result


def test_advantages_that_leak_over_the_end_of_an_episode_are_caught() -> None:
    """Whatever is paid in the next episode must not change what is known of this one."""

    def check(estimator: Any) -> None:
        case = CUT_BATCHES._replace(estimator=estimator)
        first = checks.draw(checks.problem("chain"), checks.CUT, np.random.default_rng(0), 2000)
        later = (first.times != np.arange(14)[:, None]) & first.valid
        changed = first._replace(rewards=np.where(later, 100.0, first.rewards))
        begun = ~later[:7]
        np.testing.assert_allclose(
            checks.advantages(case, changed.rows(0, 7))[begun], checks.advantages(case, first.rows(0, 7))[begun]
        )

    catches(check, "gae", leaking_gae)


def test_advantages_that_leak_are_biased_with_a_critic_that_is_wrong() -> None:
    case = CUT_BATCHES._replace(critic="none")  # V = 0

    def check(estimator: Any) -> None:
        measurement = checks.measure_arrays([case._replace(estimator=estimator)], 60)
        assert next(iter(measurement.values())).worst_z(checks.expectation(case)) < LARGEST_Z

    catches(check, "gae", leaking_gae)


def twice_bootstrapped_gae(trajectories: Trajectories, *, gamma: float, gae_lambda: float) -> Array:
    """rewards[-1] += gamma*(1-dones[-1])*V_last, and then rewards + gamma*(1-dones)*V[1:] - V[:-1]."""
    rewards = trajectories.rewards.copy()
    rewards[-1] += gamma * np.where(trajectories.dones[-1], 0.0, trajectories.next_values[-1])
    again = Trajectories(rewards, trajectories.dones, trajectories.values, trajectories.next_values)
    return estimators.gae(again, gamma=gamma, gae_lambda=gae_lambda)


def test_the_double_bootstrap_is_caught() -> None:
    catches(has_the_exact_gradient, "gae", twice_bootstrapped_gae)


def test_normalising_by_the_variance_is_caught() -> None:
    """Rewards ten times larger make steps ten times smaller."""

    def by_the_variance(advantages: Array, valid: Any, *, scale: bool) -> Array:
        assert scale
        used = advantages[valid]
        return (advantages - used.mean()) / used.var(ddof=1)

    def check(normalise: Any) -> None:
        advantages = np.random.default_rng(0).normal(2.0, 3.0, (50, 4))
        valid = np.ones((50, 4), dtype=bool)
        normalised = normalise(advantages, valid, scale=True)
        assert normalised.std(ddof=1) == pytest.approx(1.0)
        np.testing.assert_allclose(normalise(10 * advantages, valid, scale=True), normalised)

    catches(check, standardize, by_the_variance)


class FittedBeforeUse(VPG):
    """Fits V to the batch's returns, and then takes the advantages from the fitted V: a step's own return is in it."""

    def _estimate_advantages(self, buffer: Any) -> None:
        super()._estimate_advantages(buffer)
        samples = buffer.samples()
        critic = self.policy.critic_optimizer
        self._descend(critic, self._critic_losses, samples, None, 20)  # type: ignore[arg-type]
        super()._estimate_advantages(buffer)


def test_a_critic_that_has_seen_the_return_it_is_subtracted_from_is_caught() -> None:
    """Episodes of one step: a reward that is larger by 1 makes the advantage larger by 1."""

    def check(algorithm: Any) -> None:
        found = []
        for reward in (1.0, 2.0):
            model = tiny(lambda reward=reward: ScriptedEnv([1], reward=reward), algorithm=algorithm)
            found.append(one_rollout(model).advantages)
        np.testing.assert_allclose(found[1] - found[0], 1.0, rtol=1e-5)

    catches(check, VPG, FittedBeforeUse)


# -- at time limits --------------------------------------------------------------------------------------------------

LIMITED = Pipeline("planted", "often limited chain", {"n_episodes": 4, "gae_lambda": 0.95}, n_envs=128, n_batches=1)


class TimeOutsAsTerminal(VecEnvWrapper):
    """terminals = rollout_done: nobody is told that it was a time limit."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            info.pop("TimeLimit.truncated", None)
        return observations, rewards, dones, infos


class ValueOfTheStateBefore(TimeOutsAsTerminal):
    """Bootstraps a time limit with V(s_t) in place of V(s_{t+1})."""

    def reset(self) -> Any:
        self.before = self.venv.reset()
        return self.before

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        for index in np.flatnonzero(dones):
            infos[index]["terminal_observation"] = self.before[index]
        self.before = observations.copy()
        return observations, rewards, dones, infos


def is_the_exact_pipeline(pipeline: Pipeline, reference: Pipeline | None = None) -> None:
    """The gradients that VPG's own update computes have the exact mean."""
    exact = checks.expectation_of(reference or pipeline._replace(algorithm=VPG, wrap=None))
    assert checks.measure_pipeline(pipeline, 25).worst_z(exact) < LARGEST_Z


@pytest.mark.parametrize("wrapper", [TimeOutsAsTerminal, ValueOfTheStateBefore], ids=lambda each: each.__name__)
def test_a_time_limit_that_is_bootstrapped_wrongly_is_caught(wrapper: Any) -> None:
    catches(is_the_exact_pipeline, LIMITED, LIMITED._replace(wrap=wrapper))


# -- in the losses ---------------------------------------------------------------------------------------------------


class ResampledActions(VPG):
    """batch_action = dist.sample(), and the ratio of its probability to that of the action that was taken."""

    def _actor_losses(self, data: Any) -> Any:
        actions = self.policy.get_distribution(data.observations).sample()
        return super()._actor_losses(data._replace(actions=actions))


class UnindexedLogProbabilities(VPG):
    """torch.mean(-torch.log(actor(obs)) * advantage): the logarithms of all actions, whichever was taken."""

    def _policy_loss(self, _log_probs: th.Tensor, data: Any) -> th.Tensor:
        of_all = self.policy.get_distribution(data.observations).distribution.logits
        return -(of_all * data.advantages[:, None]).mean()


@pytest.mark.parametrize(
    ("mistake", "policy_loss"),
    [
        (ResampledActions, "importance"),
        (ResampledActions, "clipped"),
        (ResampledActions, "vanilla"),
        (UnindexedLogProbabilities, "vanilla"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_loss_of_other_actions_than_those_taken_is_caught(mistake: Any, policy_loss: str) -> None:
    settings = {"n_steps": 7, "gae_lambda": 0.95, "policy_loss": policy_loss}
    pipeline = Pipeline(f"planted {policy_loss}", "chain", settings, n_batches=1)
    catches(is_the_exact_pipeline, pipeline, pipeline._replace(algorithm=mistake))


class Quadratic(gym.Env[Any, Any]):
    """One step, r = sum of c_i a_i - a_i^2: for a Gaussian policy, grad J = c - 2 mu, and -2 sigma^2 for log sigma."""

    slope = np.array([1.0, -0.5])
    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-100.0, 100.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, **_: Any) -> Any:
        super().reset(seed=seed)
        return np.ones(1, dtype=np.float32), {}

    def step(self, action: Any) -> Any:
        return np.ones(1, dtype=np.float32), float(self.slope @ action - action @ action), True, False, {}


class LogProbabilitiesOfEachDimension(VPG):
    """dist.log_prob(actions) of shape (batch, dimensions), never summed."""

    def _policy_loss(self, _log_probs: th.Tensor, data: Any) -> th.Tensor:
        of_each = self.policy.get_distribution(data.observations).distribution.log_prob(data.actions)
        return -(of_each * data.advantages[:, None]).mean()


def test_log_probabilities_that_are_not_summed_over_the_dimensions_are_caught() -> None:
    mean, log_std = np.array([0.3, 0.2]), np.array([-0.5, 0.1])
    exact = np.concatenate([Quadratic.slope - 2 * mean, -2 * np.exp(2 * log_std)])

    def check(algorithm: Any) -> None:
        model = algorithm(
            "MlpPolicy", DummyVecEnv([Quadratic] * 32), n_steps=8, learning_rate=0.0, max_grad_norm=None,
            normalize_advantage=False, n_critic_updates=1, policy_kwargs=dict(net_arch=[]), seed=0, device="cpu",
        )  # fmt: skip
        policy = model.policy
        with th.no_grad():
            policy.action_net.weight.zero_()
            policy.action_net.bias[:] = th.as_tensor(mean)
            policy.log_std[:] = th.as_tensor(log_std)
        _, callback = model._setup_learn(10**9, None)
        samples = []
        for _ in range(40):
            checks.one_gradient(model, callback)
            samples.append(-np.concatenate([policy.action_net.bias.grad.numpy(), policy.log_std.grad.numpy()]))
        assert Measurement(np.stack(samples)).worst_z(exact) < LARGEST_Z

    catches(check, VPG, LogProbabilitiesOfEachDimension)
