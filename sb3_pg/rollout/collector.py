"""The loop over ``env.step``, and the one pass of the critic after it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_pg.advantage.estimators import Array
from sb3_pg.faults import TrainingError, WrongShapeError, fits, not_finite_weight, statistics_of
from sb3_pg.numpy_critic import NumpyCritic, why_not_numpy_critic
from sb3_pg.policies import QCriticMixin
from sb3_pg.rollout.actors import Actor, ForwardActor, choose_actor, to_environment
from sb3_pg.rollout.buffer import TerminalObservation, TrajectoryBuffer, named_parts, not_finite, refuse
from sb3_pg.rollout.observations import Observations, own, piece_slices, take_rows

# A whole-episode batch waits for the end of every episode; one longer than this is taken for endless.
LONGEST_EPISODE = 200_000


@dataclass(frozen=True)
class BatchRule:
    """When an environment has given its share of the batch.

    :param n_steps: steps per environment; with whole episodes, it goes on to the end of the episode that reaches them
    :param n_episodes: whole episodes per environment, instead of steps
    :param whole_episodes: no episode is cut
    """

    n_steps: int
    n_episodes: int | None = None
    whole_episodes: bool = False

    @property
    def cuts_episodes(self) -> bool:
        """Whether the batch ends after a fixed number of steps, in the middle of episodes."""
        return not (self.whole_episodes or self.n_episodes)

    def has_enough(self, n_steps: int, n_episodes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which environments may stop at the end of an episode.

        :param n_steps: steps taken
        :param n_episodes: episodes ended, shape ``(n_envs,)``
        """
        if self.n_episodes:
            return n_episodes >= self.n_episodes
        return np.full(len(n_episodes), n_steps >= self.n_steps)

    def normaliser(self, n_envs: int) -> int | None:
        """The constant that the sum of a whole-episode batch is divided by; None where the plain mean is right.

        The number of steps that came out depends on the very episodes it would average, and dividing by it biases
        the gradient towards short ones. By Wald's identity the sum over whole episodes divided by a constant is
        unbiased, up to that constant.
        """
        if self.cuts_episodes:
            return None
        return n_envs * (self.n_episodes or self.n_steps)


def collect(
    model: OnPolicyAlgorithm,
    env: VecEnv,
    callback: BaseCallback,
    buffer: TrajectoryBuffer,
    rule: BatchRule,
    per_step_values: bool,
) -> bool:
    """Fill the buffer with experience of the current policy.

    Keeps SB3's contract at every step: the callback sees the new locals and may stop training, ``num_timesteps``,
    ``_last_obs``, ``_last_episode_starts`` and the episode statistics are up to date.

    :param model: the algorithm that trains
    :param env: the training environment
    :param callback: called at every vector step, and at the beginning of the rollout
    :param buffer: written over
    :param rule: when the batch is complete
    :param per_step_values: compute values and log-probabilities at every step, as SB3 does
    :return: False if the callback stopped the training
    :raises ValueError: on NaN or infinity in observations, actions or rewards
    """
    _begin(model, env, buffer, rule)
    callback.on_rollout_start()
    _check_weights(model.policy)
    actor = choose_actor(model.policy, per_step_values, env.num_envs, rule.n_steps if rule.cuts_episodes else None)
    shares = _Shares(rule, env.num_envs)
    if not _step_until_complete(model, env, callback, buffer, actor, shares):
        return False
    buffer.has_step_values = isinstance(actor, ForwardActor)
    _end(model, env, buffer, shares)
    return True


def _step_until_complete(
    model: OnPolicyAlgorithm,
    env: VecEnv,
    callback: BaseCallback,
    buffer: TrajectoryBuffer,
    actor: Actor,
    shares: _Shares,
) -> bool:
    """Act, step, tell the callback and keep the step, until every environment has given its share.

    :return: False if the callback stopped the training
    """
    policy = model.policy
    normalized = unwrap_vec_normalize(env)
    step_values = actor if isinstance(actor, ForwardActor) else None
    clip = to_environment(policy)
    scope: dict[str, Any] = {"self": model, "env": env, "callback": callback, "rollout_buffer": buffer}
    scope["n_rollout_steps"] = shares.rule.n_steps
    n_steps = 0
    while not shares.complete:
        if model.use_sde and model.sde_sample_freq > 0 and n_steps % model.sde_sample_freq == 0:
            policy.reset_noise(env.num_envs)
        observations: Any = model._last_obs
        actions = _act(actor, observations, model, buffer)
        clipped_actions = clip(actions)
        new_obs, rewards, ends, infos = env.step(clipped_actions)
        dones = np.asarray(ends, dtype=np.bool_)
        model.num_timesteps += env.num_envs

        scope["n_steps"], scope["actions"], scope["clipped_actions"] = n_steps, actions, clipped_actions
        scope["new_obs"], scope["rewards"], scope["dones"], scope["infos"] = new_obs, rewards, dones, infos
        if step_values is not None:
            scope["obs_tensor"] = step_values.obs_tensor
            scope["values"], scope["log_probs"] = step_values.values, step_values.log_probs
        callback.update_locals(scope)
        go_on = callback.on_step()
        buffer.append(observations, actions, rewards, dones)
        model._last_obs, model._last_episode_starts = new_obs, dones  # type: ignore[assignment]
        if not go_on:
            buffer.count_times()
            return False
        if normalized is not None:
            _check_before_normalizing(normalized, n_steps)
        _note_ends(model, buffer, n_steps, dones, infos)
        if step_values is not None:
            buffer.values[n_steps] = step_values.values.cpu().numpy().flatten()
            buffer.log_probs[n_steps] = step_values.log_probs.cpu().numpy()
        n_steps += 1
        shares.count(n_steps, dones)
    return True


def _act(actor: Actor, observations: Any, model: OnPolicyAlgorithm, buffer: TrajectoryBuffer) -> NDArray[Any]:
    try:
        return actor(observations)
    except (ValueError, RuntimeError):
        # torch refuses NaN parameters of a distribution without saying where they came from, and with
        # Distribution.set_default_validate_args(False) only to draw from them
        nothing = np.zeros(len(buffer.rewards[0]))
        buffer.append(observations, np.zeros_like(buffer.actions[0]), nothing, nothing > 0)
        buffer.check_finite(model.num_timesteps)
        buffer.pos -= 1
        raise


def _begin(model: OnPolicyAlgorithm, env: VecEnv, buffer: TrajectoryBuffer, rule: BatchRule) -> None:
    """Make policy, environments and buffer ready for a batch."""
    model.policy.set_training_mode(False)
    assert model._last_obs is not None
    assert model._last_episode_starts is not None
    if not (rule.cuts_episodes or model._last_episode_starts.all()):
        # An episode half played by an older policy has no place in a batch of whole episodes
        model._last_obs = env.reset()  # type: ignore[assignment]
        model._last_episode_starts = np.ones(env.num_envs, dtype=bool)
    buffer.reset(model._last_episode_starts)
    buffer.check_dtype(cast(Observations, model._last_obs))
    if model.use_sde:
        model.policy.reset_noise(env.num_envs)


def _end(model: OnPolicyAlgorithm, env: VecEnv, buffer: TrajectoryBuffer, shares: _Shares) -> None:
    """Close the batch, and refuse it where something in it is no number."""
    buffer.close(cast(Observations, model._last_obs), shares.valid())
    buffer.check_finite(model.num_timesteps)
    _check_statistics(env, model.num_timesteps)


def _note_ends(
    model: OnPolicyAlgorithm, buffer: TrajectoryBuffer, step: int, dones: NDArray[np.bool_], infos: list[dict[str, Any]]
) -> None:
    """Take note of the episodes that ended at a step: their returns, and where a time limit ended them."""
    any_done = np.count_nonzero(dones) > 0
    if any_done or _has_episode(infos):
        model._update_info_buffer(infos, dones)
    if any_done:
        buffer.terminal_observations += time_limits(step, dones, infos)


def _check_weights(policy: ActorCriticPolicy) -> None:
    """Refuse to act with weights that are no numbers: some distributions would go on drawing actions."""
    found = not_finite_weight(policy)
    if found:
        name, value = found
        raise TrainingError(
            f"the action of environment 0 would be {value} at step 0 of this rollout: the policy's weight {name} holds "
            f"{value}; finite numbers are expected. Go on from a model saved earlier"
        )
    log_std = getattr(policy, "log_std", None)
    if log_std is None:
        return
    distribution = policy.action_dist
    with th.no_grad():
        gsde = isinstance(distribution, StateDependentNoiseDistribution)
        std = distribution.get_std(log_std) if gsde else log_std.exp()  # type: ignore[attr-defined]
        variance = std.square()
        low, high = variance.min().item(), variance.max().item()
    if not (low > 0 and math.isfinite(high)):
        raise TrainingError(
            f"the action of environment 0 would have no finite density at step 0 of this rollout: log_std lies between "
            f"{log_std.min().item():.3g} and {log_std.max().item():.3g}, and the variance between {low:.3g} and "
            f"{high:.3g}. A smaller learning_rate or ent_coef may help; go on from a model saved earlier"
        )


def _check_statistics(env: VecEnv, num_timesteps: int) -> None:
    """Refuse statistics that overflowed: every observation or reward would be zero from then on."""
    for each in statistics_of(env):
        for name, rms in each.items():
            if len(not_finite(np.asarray(rms.var))):
                raise TrainingError(
                    f"VecNormalize's variance of the {name.strip()} became {np.max(rms.var)} in the rollout that "
                    f"ended at timestep {num_timesteps}: some were too large for 32-bit numbers. Its statistics are "
                    "those before the rollout"
                )


def _check_before_normalizing(env: VecNormalize, step: int) -> None:
    """Refuse NaN and infinity before VecNormalize's running mean carries them into every environment."""
    observations: Any = env.old_obs
    # At every step: names take as long as the test itself
    if not (isinstance(observations, dict) or len(not_finite(observations)) or len(not_finite(env.old_reward))):
        return
    for kind, values, at in (("observation", observations, step + 1), ("reward", env.old_reward, step)):
        for name, array in named_parts(kind, values).items():
            wrong = not_finite(array)
            if len(wrong):
                refuse(name, array[tuple(wrong[0])], at, wrong[0][0], "before VecNormalize")


def _has_episode(infos: list[dict[str, Any]]) -> bool:
    """Whether a Monitor reports an episode, which it may do without an environment being done."""
    for info in infos:  # noqa: SIM110  any() over a generator takes three times as long, at every step
        if "episode" in info:
            return True
    return False


def time_limits(step: int, dones: NDArray[np.bool_], infos: list[dict[str, Any]]) -> list[TerminalObservation]:
    """Terminal observations of the episodes that a time limit ended at this step; copies, to be looked at later.

    :param step: its number in the rollout
    :param dones: shape ``(n_envs,)``
    :param infos: one for each environment
    """
    return [
        TerminalObservation(step, int(i), own(infos[i]["terminal_observation"]))
        for i in np.flatnonzero(dones)
        if infos[i].get("TimeLimit.truncated", False) and infos[i].get("terminal_observation") is not None
    ]


class _Shares:
    """Who has given its share of the batch, and which steps belong to it."""

    def __init__(self, rule: BatchRule, n_envs: int) -> None:
        self.rule = rule
        self.complete = False
        self._n_episodes = np.zeros(n_envs, dtype=np.int64)
        self._active = np.ones(n_envs, dtype=bool)
        self._history: list[NDArray[np.bool_]] = []
        self._last_ends = np.zeros(n_envs, dtype=np.int64)
        self._patience = self._look_again = LONGEST_EPISODE + rule.n_steps

    def count(self, n_steps: int, dones: NDArray[np.bool_]) -> None:
        """Take note of a step; afterwards ``complete`` says whether it was the last."""
        if self.rule.cuts_episodes:
            self.complete = n_steps >= self.rule.n_steps
            return
        self._history.append(self._active)
        if dones.any():
            self._n_episodes += dones
            self._last_ends[dones] = n_steps
            self._active = self._active & ~(dones & self.rule.has_enough(n_steps, self._n_episodes))
            self.complete = not self._active.any()
        if n_steps >= self._look_again and not self.complete:
            self._refuse_endless(n_steps)

    def _refuse_endless(self, n_steps: int) -> None:
        first = int(np.where(self._active, self._last_ends, n_steps).argmin())
        lasts = n_steps - int(self._last_ends[first])
        if lasts >= self._patience:
            raise ValueError(
                f"environment {first} did not end its episode within {lasts} steps; "
                "whole_episodes=True and n_episodes need an environment that terminates or has a time limit"
            )
        self._look_again = n_steps + self._patience - lasts

    def valid(self) -> NDArray[np.bool_] | None:
        """Which steps belong to the batch, shape ``(n_steps, n_envs)``; None for all."""
        return None if self.rule.cuts_episodes else np.stack(self._history)


# What overflows is found by the checks, and named by them. BLAS may also raise the flag for "invalid" where all numbers
# are finite, once in a great while: NumPy would warn of it.
@np.errstate(over="ignore", invalid="ignore")
def critic_pass(policy: ActorCriticPolicy, buffer: TrajectoryBuffer, *, bootstrap: bool) -> None:
    """Fill ``buffer.values`` and ``buffer.next_values`` with the critic's values, in one batch.

    ``next_values[t]`` is V(s_{t+1}); zero after a terminal state; V of the terminal observation after a time
    limit. Where the values of the steps are there already, the others are computed as SB3 computes them, one time
    limit at a time.

    :param bootstrap: False to take a time limit for a terminal state
    :raises TrainingError: where a value is no finite number
    """
    n_steps, n_envs = buffer.rewards.shape
    with th.no_grad():
        if buffer.has_step_values:
            last = policy.predict_values(obs_as_tensor(buffer.last_observations, policy.device))
            last_values = last.cpu().numpy().reshape(1, n_envs)
        else:
            values = predict_values(policy, _flatten(buffer.observations_with_last(n_steps + 1)))
            values = values.reshape(n_steps + 1, n_envs)
            buffer.values[:], last_values = values[:-1], values[-1:]
        buffer.next_values = np.concatenate([buffer.values[1:], last_values])
        buffer.next_values[buffer.dones] = 0.0
        if bootstrap and buffer.terminal_observations:
            steps, env_indices, observations = zip(*buffer.terminal_observations, strict=True)
            if buffer.has_step_values:
                one_by_one = [policy.predict_values(policy.obs_to_tensor(part)[0]) for part in observations]
                at_limits = th.cat(one_by_one).cpu().numpy().flatten()
            else:
                _check_terminal_observations(buffer)
                at_limits = predict_values(policy, _stack(observations, buffer))
            buffer.next_values[list(steps), list(env_indices)] = at_limits
    buffer.check_estimates("values")
    buffer.check_estimates("next_values")


def q_pass(policy: ActorCriticPolicy, buffer: TrajectoryBuffer) -> Array:
    """Q(s_t, a_t) of every step, shape ``(n_steps, n_envs)``, in pieces of bounded memory."""
    observations, actions = _flatten(buffer.observations), buffer.actions.reshape(-1)
    found = []
    for rows in piece_slices(observations):
        piece: Any = obs_as_tensor(take_rows(observations, rows), policy.device)
        taken = th.as_tensor(actions[rows], device=policy.device)
        with th.no_grad():
            found.append(cast(QCriticMixin, policy).predict_values_and_q(piece, taken)[1].cpu().numpy())
    return np.concatenate(found).reshape(buffer.rewards.shape)


def predict_values(policy: ActorCriticPolicy, observations: Observations) -> Array:
    """V of many observations, in pieces of bounded memory.

    :param observations: shape ``(batch, ...)``, or a dict of such arrays
    :return: shape ``(batch,)``
    """
    if not (isinstance(observations, dict) or why_not_numpy_critic(policy)):
        return NumpyCritic(policy).predict(observations.reshape(len(observations), -1))
    found = [
        policy.predict_values(obs_as_tensor(take_rows(observations, rows), policy.device)).cpu().numpy().reshape(-1)
        for rows in piece_slices(observations)
    ]
    return np.concatenate(found)


def _flatten(observations: Observations) -> Observations:
    if isinstance(observations, dict):
        return {key: part.reshape(-1, *part.shape[2:]) for key, part in observations.items()}
    flat: NDArray[Any] = observations.reshape(-1, *observations.shape[2:])
    return flat


def _check_terminal_observations(buffer: TrajectoryBuffer) -> None:
    """Refuse observations of another shape, which DummyVecEnv stretches where NumPy can."""
    for step, env_index, observation in buffer.terminal_observations:
        if not fits(buffer.observation_space, observation):
            raise WrongShapeError(
                f"the last observation of environment {env_index} is {observation!r} at step {step} of the rollout; "
                f"one in {buffer.observation_space} is expected"
            )


def _stack(observations: tuple[Observations, ...], buffer: TrajectoryBuffer) -> Observations:
    """Terminal observations as one batch, in the shape and dtype that the buffer stores."""
    stored = buffer.observations
    if isinstance(stored, dict):
        return {
            key: np.stack([part[key] for part in observations]).astype(rows.dtype).reshape(-1, *rows.shape[2:])
            for key, rows in stored.items()
        }
    whole: NDArray[Any] = np.stack(observations).astype(stored.dtype).reshape(-1, *stored.shape[2:])  # type: ignore[arg-type]
    return whole
