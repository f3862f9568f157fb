"""Vanilla policy gradient with a choice of estimator, baseline and lambda, on SB3's on-policy loop."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy as SB3ActorCriticPolicy
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import explained_variance, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg import losses
from sb3_pg.advantage.baselines import get_baseline
from sb3_pg.advantage.estimators import Array, Estimator, Trajectories, gae, get_estimator, lambda_returns, standardize
from sb3_pg.checks import check_arguments, check_bounds, check_last_layer, check_parameters
from sb3_pg.faults import TrainingError, WrongShapeError, collecting, updating
from sb3_pg.hoof import batch_log_probs, log_probs_after
from sb3_pg.lambda_rules import LambdaLike, LambdaRules, choose_lambdas
from sb3_pg.numpy_critic import NumpyCritic, clip_norm, why_not_numpy_critic
from sb3_pg.optimizer_steps import clip_gradient, take_step
from sb3_pg.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
    QCriticMixin,
    evaluate_log_probs,
    evaluate_values,
    has_split_optimizers,
    is_as_built,
    learns,
    rms_prop,
    split_optimizers,
    use_numpy_tanh,
    weights_of,
)
from sb3_pg.rollout.actors import describe_actor
from sb3_pg.rollout.buffer import Samples, TrajectoryBuffer, minibatches, not_finite, pieces
from sb3_pg.rollout.collector import BatchRule, collect, critic_pass, q_pass
from sb3_pg.saving import File, SavingMixin
from sb3_pg.schedules import ScheduleLike, as_schedule
from sb3_pg.threads import one_thread_if_small

SelfVPG = TypeVar("SelfVPG", bound="VPG")
Stats = dict[str, list[float]]
Losses = dict[str, th.Tensor]


class VPG(SavingMixin):
    r"""Vanilla policy gradient.

    One batch of the current policy, one estimate of the gradient

    .. math:: \hat g = \frac{1}{N} \sum_t \Psi_t\, \nabla_\theta \log \pi_\theta(a_t | s_t)

    one step of the actor's optimizer, some of the critic's. ``estimator``, ``gae_lambda`` and ``baseline`` say what
    Psi is. N is the number of steps; for whole episodes whose advantages are not divided by their deviation, a constant
    (docs/algorithms.md, "Batches"). Takes what SB3's A2C takes, with A2C's meanings; with A2C's settings it is A2C,
    weight for weight (docs/algorithms.md, "Differences from A2C").

    Papers: Williams 1992 (REINFORCE); Sutton et al. 2000 (policy gradient theorem); Schulman et al. 2016
    (arXiv:1506.02438, GAE). The defaults come from a few runs on classic control, Box2D and MuJoCo tasks, one to four
    seeds each (docs/algorithms.md).

    Wherever a *schedule* is accepted: a float, a callable of the progress remaining (1 at the start, 0 at the end),
    or a string as in RL Zoo's files, ``"lin_0.01"`` (to 0) or ``"lin_0.99_0.9"`` (from, to).

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a subclass of SB3's ActorCriticPolicy
    :param env: environment, vectorised or not, or the id of a registered one
    :param learning_rate: of the actor, or of both with a joint optimizer; schedule
    :param n_steps: steps per environment and update; the batch is ``n_steps * n_envs``
    :param gamma: discount factor, in [0, 1]
    :param gae_lambda: bias against variance of the advantage: 0 is the TD residual, 1 the Monte-Carlo return minus V;
        schedule, or a rule that chooses it for each batch (docs/lambda.md): ``"length:ALPHA"``,
        ``"explained_variance"``, ``"auto"``, ``"hoof"``, or an object with the method of
        :class:`~sb3_pg.advantage.gae_lambda.LambdaRule`
    :param ent_coef: weight of the entropy bonus; schedule
    :param vf_coef: weight of the critic's loss in a joint optimizer
    :param max_grad_norm: longest gradient, clipped by its norm, for actor and critic each; None for no clipping
    :param rms_prop_eps: RMSprop's epsilon, if ``use_rms_prop``
    :param use_rms_prop: RMSprop as A2C has it, instead of Adam; ``policy_kwargs`` with an ``optimizer_class`` go first
    :param use_sde: generalized state-dependent exploration, continuous actions only
    :param sde_sample_freq: steps after which gSDE draws a new noise matrix; -1 for once per rollout
    :param rollout_buffer_class: a subclass of :class:`~sb3_pg.rollout.buffer.TrajectoryBuffer`
    :param rollout_buffer_kwargs: passed to the buffer
    :param normalize_advantage: True or ``"batch"`` to give the batch's advantages mean 0 and standard deviation 1,
        ``"center"`` for the mean alone, False for neither
    :param estimator: Psi: ``"total_return"``, ``"reward_to_go"``, ``"td_residual"``, ``"n_step:N"``, ``"gae"``,
        ``"q"``, ``"q_minus_v"``, or a callable with the signature of :class:`~sb3_pg.advantage.estimators.Estimator`
    :param baseline: ``"value"`` (the critic), or without a critic ``"none"``, ``"mean"``, ``"time_mean"``,
        ``"leave_one_out"``; these need Monte-Carlo returns of whole episodes
    :param n_episodes: whole episodes per environment and update, instead of ``n_steps``
    :param whole_episodes: go on after ``n_steps`` to the end of the episode, in each environment
    :param truncation: at a time limit, ``"bootstrap"`` with V of the last observation (zero without a critic), take
        it for ``"terminal"``, or ``"discard"`` the episode's steps
    :param state_discount: weigh step t of an episode by gamma^t, as the policy gradient theorem says for the
        discounted return (Sutton and Barto 2018, p. 328; Nota and Thomas 2020, arXiv:1906.07073). Hardly any
        implementation does, since it lets late steps of long episodes count for nothing
    :param n_epochs: passes of the actor over one batch; more than one calls for ``policy_loss`` other than vanilla
    :param batch_size: steps per step of the actor's optimizer; None for the whole batch
    :param policy_loss: ``"vanilla"``, ``"importance"`` (ratio to the policy that collected) or ``"clipped"`` (PPO's)
    :param clip_range: of the clipped loss; schedule
    :param target_kl: end the passes when the approximate KL divergence exceeds 1.5 times this; None for never
    :param joint_optimizer: one optimizer for policy loss + vf_coef * value loss, as in A2C
    :param vf_learning_rate: of the critic; schedule; None for the actor's
    :param n_critic_updates: passes of the critic over one batch
    :param critic_batch_size: steps per step of the critic's optimizer; None for the whole batch
    :param critic_gae_lambda: lambda of the critic's target: 1 is Monte-Carlo, 0 is TD(0); schedule or rule, but not
        ``"auto"`` and ``"hoof"``, which judge policy gradients; None for that of ``gae_lambda``, or for the default of
        these two
    :param per_step_values: call ``policy.forward`` at every step, as SB3 does: slower; for callbacks that read
        ``values``, ``log_probs`` or ``obs_tensor`` per step, and for SB3's random numbers
    :param stats_window_size: episodes that the logged means are taken over
    :param tensorboard_log: folder for TensorBoard; None for none
    :param policy_kwargs: passed to the policy
    :param verbose: 0 silent, 1 info, 2 debug
    :param seed: of all random generators
    :param device: ``"cpu"``, ``"cuda"``, or ``"auto"`` for the GPU, if there is one; multilayer perceptrons are
        faster on the CPU
    :param _init_setup_model: build the networks now
    :raises ValueError: for a value or a combination that cannot work, naming the parameter and what is accepted
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }
    rollout_buffer: TrajectoryBuffer
    _file_marks = ("estimator", "critic_gae_lambda")
    _file_owners = "VPG and REINFORCE"
    _added_policy_kwargs = ("share_features_extractor", "q_critic")

    def __init__(
        self,
        policy: str | type[SB3ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: ScheduleLike = 3e-3,
        n_steps: int = 512,
        gamma: float = 0.99,
        gae_lambda: LambdaLike = 0.97,
        ent_coef: ScheduleLike = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float | None = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = False,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool | str = True,
        estimator: str | Estimator = "gae",
        baseline: str = "value",
        n_episodes: int | None = None,
        whole_episodes: bool = False,
        truncation: str = "bootstrap",
        state_discount: bool = False,
        n_epochs: int = 1,
        batch_size: int | None = None,
        policy_loss: str = "vanilla",
        clip_range: ScheduleLike = 0.2,
        target_kl: float | None = None,
        joint_optimizer: bool = False,
        vf_learning_rate: ScheduleLike | None = None,
        n_critic_updates: int = 10,
        critic_batch_size: int | None = 256,
        critic_gae_lambda: LambdaLike | None = None,
        per_step_values: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        check_arguments(env, policy_kwargs, use_rms_prop, rms_prop_eps, verbose, _init_setup_model)
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,  # type: ignore[arg-type]
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,  # type: ignore[arg-type]
            ent_coef=ent_coef,  # type: ignore[arg-type]
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,  # type: ignore[arg-type]
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=None if policy_kwargs is None else dict(policy_kwargs),
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        )
        self.normalize_advantage = normalize_advantage
        self.estimator = estimator
        self.baseline = baseline
        self.n_episodes = n_episodes
        self.whole_episodes = whole_episodes
        self.truncation = truncation
        self.state_discount = state_discount
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.policy_loss = policy_loss
        self.clip_range = clip_range
        self.target_kl = target_kl
        self.joint_optimizer = joint_optimizer
        self.vf_learning_rate = vf_learning_rate
        self.n_critic_updates = n_critic_updates
        self.critic_batch_size = critic_batch_size
        self.critic_gae_lambda = critic_gae_lambda
        self.per_step_values = per_step_values
        self._lambda_rules = LambdaRules()

        if use_rms_prop and "optimizer_class" not in self.policy_kwargs:
            self.policy_kwargs |= rms_prop(rms_prop_eps)
        if isinstance(policy, str) and not joint_optimizer:
            # Two optimizers cannot share a features extractor; where it has no weights, sharing changes nothing
            self.policy_kwargs.setdefault("share_features_extractor", False)

        if _init_setup_model:
            self._setup_model()

    # -- building ------------------------------------------------------------------------------------------------

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name not in self.policy_aliases:
            accepted = ", ".join(self.policy_aliases)
            raise ValueError(f"policy={policy_name!r} is unknown; accepted are {accepted}, or a policy class")
        return super()._get_policy_from_name(policy_name)

    def _setup_lr_schedule(self) -> None:
        self.lr_schedule = as_schedule(self.learning_rate, "learning_rate")

    def _setup_model(self) -> None:
        check_parameters(self)
        self.seed = None if self.seed is None else int(self.seed)  # Python's generator takes no NumPy number
        if self.rollout_buffer_class is None:
            self.rollout_buffer_class = TrajectoryBuffer
        if get_estimator(self.estimator).needs_q:
            self.policy_kwargs["q_critic"] = True
        super()._setup_model()
        check_last_layer(self)
        if not self.per_step_values:
            use_numpy_tanh(self.policy)
        self._split_optimizers()

    def _split_optimizers(self) -> None:
        """Give actor and critic an optimizer each, unless one is for both or they have them."""
        if self.joint_optimizer or has_split_optimizers(self.policy):
            return
        if not is_as_built(self.policy):
            given, built = type(self.policy.optimizer).__name__, self.policy.optimizer_class.__name__
            warnings.warn(
                f"policy.optimizer, {given}, is one optimizer for actor and critic: it is replaced by two of {built}, "
                f"with optimizer_kwargs={self.policy.optimizer_kwargs} and one group each. joint_optimizer=True keeps "
                f"it; policy_kwargs=dict(optimizer_class={given}, optimizer_kwargs=...) makes two of it",
                UserWarning,
                stacklevel=5,
            )
        rates = self.lr_schedule(1.0), self._vf_learning_rate()
        split_optimizers(self.policy, *rates, has_critic=self.baseline == "value")

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # The last batch goes beyond the total, and a schedule below zero would send the last step uphill
        super()._update_current_progress_remaining(min(num_timesteps, total_timesteps), total_timesteps)

    def _now(self, value: ScheduleLike, name: str) -> float:
        """A schedule's value at this point of the training."""
        return check_bounds(as_schedule(value, name)(self._current_progress_remaining), name)

    def _vf_learning_rate(self) -> float:
        if self.vf_learning_rate is None:
            return check_bounds(self.lr_schedule(self._current_progress_remaining), "learning_rate")
        return self._now(self.vf_learning_rate, "vf_learning_rate")

    @property
    def _batch_rule(self) -> BatchRule:
        return BatchRule(self.n_steps, self.n_episodes, self.whole_episodes)

    # -- experience ----------------------------------------------------------------------------------------------

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the buffer with trajectories of the current policy, and estimate advantages and value targets.

        :param env: the training environment
        :param callback: called at every vector step, and at the beginning and the end of the rollout
        :param rollout_buffer: written over
        :param n_rollout_steps: steps per environment (in a whole-episode batch, at least as many)
        :return: False if the callback stopped the training; nothing is trained then
        :raises ValueError: on NaN or infinity in observations, actions or rewards, naming environment and step
        """
        assert isinstance(rollout_buffer, TrajectoryBuffer)
        self._begin_rollout()
        with collecting(self, env, lambda: f"{rollout_buffer.describe_step()}timestep {self.num_timesteps}"):
            if not collect(self, env, callback, rollout_buffer, self._batch_rule, self.per_step_values):
                return False
            if self.truncation == "discard":
                rollout_buffer.discard_truncated()
            if not rollout_buffer.has_step_values:
                rollout_buffer.compute_log_probs = self._log_probs_of
            with one_thread_if_small(self.policy):
                rollout_buffer.recompute = self._estimate_advantages(rollout_buffer)
            values = th.as_tensor(rollout_buffer.next_values[-1:].T)
            callback.update_locals(locals())
            try:
                callback.on_rollout_end()
            finally:
                rollout_buffer.recompute = None
        self._rollout_is_whole = True
        return True

    def _estimate_advantages(self, buffer: TrajectoryBuffer) -> Callable[[], None]:
        """Set the buffer's ``values``, ``advantages`` and ``returns`` (the critic's targets).

        :return: does it again with the same values and the same lambda, from rewards that a callback has changed
        """
        entry = get_estimator(self.estimator)
        q_values = None
        if self.baseline == "value":
            critic_pass(self.policy, buffer, bootstrap=self.truncation == "bootstrap")
            if entry.needs_q:
                q_values = q_pass(self.policy, buffer)
        else:
            buffer.values[:] = 0.0
            buffer.next_values = np.zeros_like(buffer.values)
        trajectories = buffer.trajectories(q_values)
        buffer.advantages = buffer.returns = buffer.values  # a rule that asks the policy needs complete samples
        with np.errstate(over="ignore", invalid="ignore"):
            lambdas = choose_lambdas(self, buffer, trajectories)
        buffer.gae_lambda = lambdas[0]  # type: ignore[assignment]
        self._compute_advantages(buffer, trajectories, *lambdas)
        return lambda: self._compute_advantages(buffer, replace(trajectories, rewards=buffer.rewards), *lambdas)

    def _compute_advantages(
        self,
        buffer: TrajectoryBuffer,
        trajectories: Trajectories,
        gae_lambda: float | Array,
        critic_lambda: float | Array,
    ) -> None:
        entry = get_estimator(self.estimator)
        with np.errstate(over="ignore", invalid="ignore"):
            psi = entry.function(entry.input_of(trajectories), gamma=self.gamma, gae_lambda=gae_lambda)
            self._check_psi(psi, buffer)
            buffer.advantages = psi - self._baseline_of(psi, trajectories)
            self._warn_if_nothing_is_left(psi, buffer)
            if self.estimator == "gae" and np.array_equal(gae_lambda, critic_lambda):
                buffer.returns = psi + buffer.values
            else:
                buffer.returns = lambda_returns(trajectories, gamma=self.gamma, gae_lambda=critic_lambda)
        buffer.check_estimates("advantages")
        buffer.check_estimates("returns")

    def _baseline_of(self, psi: NDArray[Any], trajectories: Trajectories) -> NDArray[Any]:
        baseline: Any = get_baseline(self.baseline)(psi, trajectories)
        try:
            fits_psi = np.broadcast_shapes(np.shape(baseline), psi.shape) == psi.shape
        except ValueError:
            fits_psi = False
        if not (fits_psi and isinstance(baseline, (np.ndarray, Real))):
            got = f"shape {baseline.shape}" if isinstance(baseline, np.ndarray) else repr(baseline)
            raise WrongShapeError(
                f"baseline={self.baseline!r} gave {got} at {self._this_update()}; expected is an array that broadcasts "
                f"to {psi.shape}"
            )
        return np.asarray(baseline)

    def _warn_if_nothing_is_left(self, psi: NDArray[Any], buffer: TrajectoryBuffer) -> None:
        """A mean over the batch is all there is to a batch of one episode, and any normalisation to one of one step."""
        if buffer.n_valid == 1 and self.normalize_advantage is not False:
            warnings.warn(
                f"normalize_advantage={self.normalize_advantage!r} makes the advantage of this batch of one step zero: "
                "nothing is learnt from it. More environments or episodes, or normalize_advantage=False, may help",
                UserWarning,
                stacklevel=2,
            )
        is_a_mean = self.baseline in ("mean", "time_mean")
        if is_a_mean and psi.any() and np.abs(buffer.advantages).max() <= 1e-6 * np.abs(psi).max():  # by rounding
            warnings.warn(
                f"baseline={self.baseline!r} makes every advantage of this batch zero, as where it is one episode: "
                "nothing is learnt from it. More environments, a larger n_steps, or baseline='none' may help",
                UserWarning,
                stacklevel=2,
            )

    def _check_psi(self, psi: Any, buffer: TrajectoryBuffer) -> None:
        shape = buffer.rewards.shape
        got = f"shape {psi.shape}" if isinstance(psi, np.ndarray) else repr(psi)
        kind: type[TrainingError] = WrongShapeError
        if isinstance(psi, np.ndarray) and psi.shape == shape:
            wrong = not_finite(psi)
            if not len(wrong):
                return
            got, kind = f"{psi[tuple(wrong[0])]} ({buffer.describe_largest_reward()})", TrainingError
        raise kind(
            f"estimator={self.estimator!r} gave {got} at {self._this_update()}; expected are finite numbers of shape "
            f"{shape}"
        )

    # -- learning ------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """One update from the batch in the rollout buffer: data, losses, gradient steps, log.

        Happens whole or not at all: whatever ends it, the weights and the optimizers are those from before.

        :raises ValueError: when a loss, a gradient or a weight is not finite
        """
        check_bounds(self.lr_schedule(self._current_progress_remaining), "learning_rate")
        self._update_learning_rate(self.policy.optimizer)
        self._apply_learning_rate_factor()

        with updating(self, self.policy, self._this_update()):
            # 1. Data
            samples = self._samples(self.policy_weights())
            self.policy.set_training_mode(True)

            # 2. and 3. Losses and gradient steps
            with one_thread_if_small(self.policy):
                stats = self._train_jointly(samples) if self.joint_optimizer else self._train_apart(samples)
        self.rollout_buffer.compute_log_probs = None  # the policy is another one now
        self._n_updates += 1
        self._lambda_rules.keep(self)
        self._end_update()

        # 4. Log
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, value in self._lambda_rules.log.items():
            self.logger.record(name, value)
        self.logger.record("train/batch_size", len(samples.advantages))
        if self.baseline == "value":
            explained = explained_variance(samples.old_values.cpu().numpy(), samples.returns.cpu().numpy())
            self.logger.record("train/explained_variance", explained)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())
        for name, values in stats.items():
            self.logger.record(f"train/{name}", float(np.mean(values)))

    def _apply_learning_rate_factor(self) -> None:
        """A rule may have chosen a learning rate for this update beside lambda."""
        factor = self._lambda_rules.learning_rate_factor
        if factor != 1.0:
            if self.joint_optimizer:
                raise ValueError(
                    f"the rule of gae_lambda={self.gae_lambda!r} chose learning_rate_factor={factor!r}, and with "
                    "joint_optimizer=True it would scale the critic's steps, too; accepted is 1, or "
                    "joint_optimizer=False"
                )
            rate = self._scaled_learning_rate(factor)
            update_learning_rate(self.policy.optimizer, rate)
            self.logger.record("train/learning_rate", rate)

    def _scaled_learning_rate(self, factor: float) -> float:
        """The schedule's, not the optimizer's, which has that of the update before and what a rule chose for it."""
        return factor * self.lr_schedule(self._current_progress_remaining)

    def _train_jointly(self, samples: Samples) -> Stats:
        return self._descend(self.policy.optimizer, self._joint_losses, samples, self.batch_size, self.n_epochs)

    def _train_apart(self, samples: Samples) -> Stats:
        stats: Stats = {}
        if learns(self.policy.optimizer):
            stats = self._descend(self.policy.optimizer, self._actor_losses, samples, self.batch_size, self.n_epochs)
        optimizer = cast(th.optim.Optimizer, self.policy.critic_optimizer)
        if self.baseline == "value" and learns(optimizer):
            update_learning_rate(optimizer, self._vf_learning_rate())
            self.logger.record("train/vf_learning_rate", self._vf_learning_rate())
            needs_torch = get_estimator(self.estimator).needs_q or self._overrides("_critic_losses")
            if needs_torch or why_not_numpy_critic(self.policy):
                batch_size, n_passes = self.critic_batch_size, self.n_critic_updates
                fit = self._descend(optimizer, self._critic_losses, samples, batch_size, n_passes)
            else:
                fit = self._fit_numpy_critic(optimizer, samples)
            stats |= {"value_loss": fit["value_loss"], "critic_grad_norm": fit["grad_norm"]}
        return stats

    def policy_weights(self, advantages: Array | None = None) -> Array:
        """What multiplies log pi at each step: the advantages, normalised and weighted as the parameters say.

        :param advantages: others than those in the buffer
        :return: shape ``(n_steps, n_envs)``
        """
        buffer = self.rollout_buffer
        weights = buffer.advantages if advantages is None else advantages
        normaliser = self._batch_rule.normaliser(self.n_envs)
        if self.normalize_advantage is not False:
            weights = self._standardized(weights, buffer.valid_steps)
        if normaliser is not None and self.normalize_advantage in (False, "center"):
            weights = weights * (buffer.n_valid / normaliser)
        if self.state_discount:
            weights = weights * self.gamma**buffer.times
        return weights.astype(np.float32, copy=False)

    def _standardized(self, advantages: Array, valid: NDArray[np.bool_]) -> Array:
        try:
            with np.errstate(over="raise"):  # an infinite deviation would make every advantage zero
                return standardize(advantages, valid, scale=self.normalize_advantage != "center")
        except FloatingPointError as error:
            raise TrainingError(
                f"advantages of up to {np.abs(advantages).max():.3g} at {self._this_update()} are too large for "
                f"normalize_advantage={self.normalize_advantage!r}: their variance is infinite in 32-bit numbers "
                f"({self.rollout_buffer.describe_largest_reward()}). Normalised rewards may help"
            ) from error

    @property
    def _compares_policies(self) -> bool:
        """Whether the log-probabilities of the policy that collected are needed."""
        return self.policy_loss != "vanilla" or self.target_kl is not None

    def _overrides(self, *names: str) -> bool:
        """Whether a subclass has its own version of one of VPG's methods."""
        return any(name in vars(self) or getattr(type(self), name) is not getattr(VPG, name) for name in names)

    def _samples(self, weights: Array) -> Samples:
        """The batch, before any step has changed the policy that collected it."""
        samples = self.rollout_buffer.samples(weights)
        asks_for_old = self._overrides("_policy_loss", "_actor_terms", "_actor_losses", "_joint_losses")
        return self.rollout_buffer.with_log_probs(samples) if self._compares_policies or asks_for_old else samples

    def _log_probs_of(self, samples: Samples) -> th.Tensor:
        """Log-probabilities under the policy as it acts, whatever mode a caller has put it into."""
        was_training = self.policy.training
        self.policy.set_training_mode(False)
        try:
            with one_thread_if_small(self.policy):
                return batch_log_probs(self.policy, samples)
        finally:
            self.policy.set_training_mode(was_training)

    def _order(self, batch_size: int | None) -> Any:
        """The order in which a pass goes through the batch: as it is where one step takes it all."""
        size = self.rollout_buffer.n_valid
        shuffled = self.per_step_values or (batch_size or size) < size
        return self.rollout_buffer.permutation() if shuffled else None

    def _policy_loss(self, log_probs: th.Tensor, data: Samples) -> th.Tensor:
        if self.policy_loss == "importance":
            return losses.importance_loss(log_probs, data.advantages, data.old_log_prob)
        if self.policy_loss == "clipped":
            clip_range = self._now(self.clip_range, "clip_range")
            return losses.clipped_loss(log_probs, data.advantages, data.old_log_prob, clip_range)
        return losses.vanilla_loss(log_probs, data.advantages)

    def _actor_terms(self, log_probs: th.Tensor, entropy: th.Tensor | None, data: Samples) -> Losses:
        """The actor's part of the loss, and what is logged of it."""
        policy_loss = self._policy_loss(log_probs, data)
        entropy_loss = losses.entropy_loss(entropy, log_probs)
        ent_coef = self._now(self.ent_coef, "ent_coef")
        # Without the bonus its graph is left out; in a joint optimizer A2C's sum is kept, term by term
        total = policy_loss + ent_coef * entropy_loss if ent_coef or self.joint_optimizer else policy_loss
        terms = {"loss": total, "policy_loss": policy_loss, "entropy_loss": entropy_loss}
        if self._compares_policies:
            with th.no_grad():
                terms["approx_kl"] = losses.approximate_kl(log_probs, data.old_log_prob)
        return terms

    def _actor_losses(self, data: Samples) -> Losses:
        log_probs, entropy = evaluate_log_probs(self.policy, data.observations, data.actions)
        return self._actor_terms(log_probs, entropy, data)

    def _critic_losses(self, data: Samples) -> Losses:
        if not get_estimator(self.estimator).needs_q:
            values = evaluate_values(self.policy, data.observations, data.actions)
            loss = losses.value_loss(values, data.returns)
        else:
            policy = cast(QCriticMixin, self.policy)
            values, q_values = policy.predict_values_and_q(data.observations, data.actions)
            loss = losses.value_loss(values, data.returns) + losses.value_loss(q_values, data.returns)
        return {"loss": loss, "value_loss": loss}

    def _joint_losses(self, data: Samples) -> Losses:
        values, log_probs, entropy = self.policy.evaluate_actions(data.observations, data.actions)
        terms = self._actor_terms(log_probs, entropy, data)
        terms["value_loss"] = losses.value_loss(values.flatten(), data.returns)
        terms["loss"] = terms["loss"] + self.vf_coef * terms["value_loss"]
        return terms

    def _descend(
        self,
        optimizer: th.optim.Optimizer,
        losses_of: Callable[[Samples], Losses],
        samples: Samples,
        batch_size: int | None,
        n_passes: int,
    ) -> Stats:
        """Take the optimizer's steps: ``n_passes`` passes over the batch, one step for each minibatch.

        :return: what is to be logged, one number for each step
        """
        stats: Stats = defaultdict(list)
        for _ in range(n_passes):
            for data in minibatches(samples, batch_size, self._order(batch_size)):
                terms = self._backward(optimizer, losses_of, data)
                loss = terms.pop("loss")
                too_far = self.target_kl is not None and terms.get("approx_kl", 0.0) > 1.5 * self.target_kl
                if not too_far:
                    terms["grad_norm"] = self._step(optimizer, loss)
                for name, value in terms.items():
                    stats[name].append(value)
                if too_far:
                    return stats
        return stats

    @staticmethod
    def _backward(
        optimizer: th.optim.Optimizer, losses_of: Callable[[Samples], Losses], data: Samples
    ) -> dict[str, float]:
        """Gradient of the mean loss over a minibatch, summed over pieces of bounded memory."""
        optimizer.zero_grad()
        means: dict[str, float] = defaultdict(float)
        for piece in pieces(data):
            share = len(piece.advantages) / len(data.advantages)
            terms = losses_of(piece)
            (terms["loss"] * share).backward()  # type: ignore[no-untyped-call]
            for name, term in terms.items():
                means[name] += share * term.item()
        return means

    def _log_probs_after(self, trajectories: Trajectories, gae_lambda: float | Array, factor: float) -> Array:
        """See :class:`~sb3_pg.advantage.gae_lambda.LambdaBatch`: what one step on the whole batch would lead to."""
        advantages = gae(trajectories, gamma=self.gamma, gae_lambda=gae_lambda)
        samples = self._samples(self.policy_weights(advantages))

        def step() -> None:
            """Take one step on the whole batch, if there is a weight that it can change."""
            if learns(self.policy.optimizer):
                loss = self._backward(self.policy.optimizer, self._actor_losses, samples)["loss"]
                self._step(self.policy.optimizer, loss)

        after = log_probs_after(self.policy, samples, self._scaled_learning_rate(factor), step)
        return cast(Array, after.cpu().numpy())

    def _fit_numpy_critic(self, optimizer: th.optim.Optimizer, samples: Samples) -> Stats:
        """What :meth:`_descend` does with :meth:`_critic_losses`, without graphs, for a stock critic."""
        critic = NumpyCritic(self.policy)
        flat_gradient = critic.allocate_gradient()
        observations = cast(th.Tensor, samples.observations).numpy()
        observations, returns = observations.reshape(len(observations), -1), samples.returns.numpy()
        batch_size = min(self.critic_batch_size or len(returns), len(returns))
        stats: Stats = defaultdict(list)
        for _ in range(self.n_critic_updates):
            order = self._order(self.critic_batch_size)
            for first in range(0, len(returns), batch_size):
                rows = slice(None) if order is None else order[first : first + batch_size]
                loss = critic.gradient(observations[rows], returns[rows])
                norm = clip_norm(flat_gradient, self._longest_gradient)
                self._check_gradient(norm, loss, "critic")
                take_step(optimizer)
                stats["value_loss"].append(loss)
                stats["grad_norm"].append(norm)
        return stats

    def _step(self, optimizer: th.optim.Optimizer, loss: float) -> float:
        """One step along the gradient that is there; returns its norm before clipping."""
        norm = clip_gradient(weights_of(optimizer), self._longest_gradient)
        self._check_gradient(norm, loss, "policy" if optimizer is self.policy.optimizer else "critic")
        take_step(optimizer)
        return norm

    @property
    def _longest_gradient(self) -> float:
        return math.inf if self.max_grad_norm is None else self.max_grad_norm

    def _check_gradient(self, norm: float, loss: float, whose: str) -> None:
        if not (math.isfinite(norm) and math.isfinite(loss)):
            raise TrainingError(
                f"the gradient of the {whose} optimizer has the length {norm} and its loss is {loss} at "
                f"{self._this_update()} ({self.rollout_buffer.describe_largest_reward()}); finite numbers are "
                "expected. The weights are those before this update. A smaller learning_rate or vf_learning_rate, or "
                "normalised rewards, may help"
            )

    def _this_update(self) -> str:
        return f"update {self._n_updates + 1}, timestep {self.num_timesteps}"

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        if self.verbose >= 1:
            print(f"Actions are drawn by {describe_actor(self.policy, self.per_step_values)}")
        self._split_optimizers()  # again, where the user has put in another layer or another policy
        with collecting(self, self.env, lambda: "the start of learn(), before the first step"):
            return super()._setup_learn(*args, **kwargs)

    def learn(
        self: SelfVPG,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 10,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfVPG:
        """Train, as every SB3 algorithm does.

        :param total_timesteps: environment steps to train for; a lower bound, since batches are whole
        :param callback: called at every step
        :param log_interval: updates between two logs
        :param tb_log_name: name of the run for TensorBoard; None for the class's name
        :param reset_num_timesteps: start counting at 0, instead of going on; a model that was loaded goes on to the
            bit, where its environments can be put back (docs/reliability.md)
        :param progress_bar: show one (needs tqdm and rich)
        :return: the model itself
        """
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=type(self).__name__ if tb_log_name is None else tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )

    # -- files ---------------------------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        return (names if self.joint_optimizer else [*names, "policy.critic_optimizer"]), variables

    @classmethod
    def _check_file(cls, path: File, saved: dict[str, Any], changes: dict[str, Any]) -> None:
        super()._check_file(path, saved, changes)
        if changes.get("joint_optimizer", saved["joint_optimizer"]) != saved["joint_optimizer"]:
            raise ValueError(
                f"joint_optimizer={changes['joint_optimizer']!r}, but {path} was saved with "
                f"joint_optimizer={saved['joint_optimizer']}; the state of its optimizers fits no other"
            )
        before, after = saved["estimator"], changes.get("estimator")
        is_known = isinstance(before, str)  # a callable is pickled
        if after is not None and is_known and get_estimator(after).needs_q and not get_estimator(before).needs_q:
            raise ValueError(
                f"estimator={after!r}, but {path} was saved with estimator={before!r}, whose critic has no Q; accepted "
                "is a new model"
            )
