"""The hosts' algorithms with our lambda: SB3's A2C and PPO, sb3-contrib's TRPO."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from gymnasium import spaces
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg.advantage.estimators import Array, Trajectories
from sb3_pg.advantage.gae_lambda import Scheduled
from sb3_pg.checks import check_bounds, check_last_layer, check_tunable
from sb3_pg.lambda_rules import LambdaRules, choose_lambdas
from sb3_pg.rollout.tunable_buffer import Choice, TunableBuffer, TunableDictRolloutBuffer, TunableRolloutBuffer
from sb3_pg.saving import SavingMixin
from sb3_pg.threads import one_thread_if_small

SelfTunable = TypeVar("SelfTunable", bound="TunableLambda")


class TunableLambda(SavingMixin):
    """Gives an on-policy algorithm of SB3 VPG's lambda, files and resuming; everything else is the algorithm's own.

    For algorithms that collect as SB3's A2C and PPO do, into its buffers: not for sb3-contrib's MaskablePPO, and in
    its RecurrentPPO for a number or a schedule alone. Stands before the algorithm among the base classes: ``class
    TunablePPO(TunableLambda, PPO)``. The constructor is the algorithm's, where ``gae_lambda`` is a number, or what it
    is in :class:`~sb3_pg.vpg.VPG`: a schedule, such as ``"lin_0.99_0.9"``; ``"length:ALPHA"``,
    ``"explained_variance"``, ``"auto"``; or an object with the method of
    :class:`~sb3_pg.advantage.gae_lambda.LambdaRule`. With a number the weights are the algorithm's, bit for bit.

    The critic's target has the same lambda, but with ``"auto"``, and other rules that judge policy gradients, that
    rule's default. ``"hoof"`` and rules with a ``learning_rate_factor`` are refused: actor and critic share an
    optimizer, or, in TRPO, the actor has none. ``rollout_buffer_class`` may be any of SB3's buffers for a number or a
    schedule; rules need a subclass of one in :mod:`sb3_pg.rollout.tunable_buffer`.
    """

    _lambda_rules: LambdaRules

    if TYPE_CHECKING:
        # The algorithm's own would take numbers alone for gae_lambda

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def _setup_model(self) -> None:
        # Here and not in a constructor: this mixin has none, and the files of the algorithm itself hold no rules
        vars(self).setdefault("_lambda_rules", LambdaRules())
        has_parts = isinstance(self.observation_space, spaces.Dict)
        if self.rollout_buffer_class in (None, DictRolloutBuffer if has_parts else RolloutBuffer):
            self.rollout_buffer_class = TunableDictRolloutBuffer if has_parts else TunableRolloutBuffer
        rule, given = check_tunable(self), self.gae_lambda
        # A buffer of the user's may compute with it at once
        self.gae_lambda = rule.schedule(1.0) if isinstance(rule, Scheduled) else 1.0
        super()._setup_model()
        self.gae_lambda = given
        check_last_layer(self)
        if not (isinstance(rule, Scheduled) or isinstance(self.rollout_buffer, TunableBuffer)):
            raise ValueError(
                f"gae_lambda={given!r} is chosen for each batch, and {type(self).__name__} builds "
                f"{type(self.rollout_buffer).__name__}, which asks no rule; accepted are a number or a schedule"
            )

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """See the algorithm; advantages and returns are those of the lambda that is in use now."""
        rule = check_tunable(self)
        if isinstance(rule, Scheduled):
            rollout_buffer.gae_lambda = check_bounds(rule.schedule(self._current_progress_remaining), "gae_lambda")
            self._lambda_rules.begin()
            self._lambda_rules.log["train/gae_lambda"] = rollout_buffer.gae_lambda
        if isinstance(rollout_buffer, TunableBuffer):
            chooses = partial(self._choose_lambdas, rollout_buffer)
            rollout_buffer.choose_lambdas = None if isinstance(rule, Scheduled) else chooses
            rollout_buffer.step_scope = callback.locals
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: Any = None) -> None:
        super()._update_info_buffer(infos, dones)
        # SB3 calls this at every step, right before it adds values to the rewards. Raw ones are for rules alone, and
        # the doctor, which plays into a buffer of its own, comes here with a model that has collected nothing
        if isinstance(self.rollout_buffer, TunableBuffer) and self.rollout_buffer.choose_lambdas is not None:
            self.rollout_buffer.note_time_limits(dones, infos)

    def _choose_lambdas(self, buffer: TunableBuffer, trajectories: Trajectories) -> Choice:
        with np.errstate(over="ignore", invalid="ignore"), one_thread_if_small(self.policy):
            return choose_lambdas(self, buffer, trajectories)

    def _log_probs_after(self, *_: Any) -> Array:
        raise ValueError(
            f"log_probs_after of LambdaBatch needs an optimizer that is the actor's alone, and {type(self).__name__} "
            "has none; accepted are VPG and REINFORCE"
        )

    def train(self) -> None:
        """See the algorithm; what a rule learned from the batch counts afterwards."""
        super().train()
        self._lambda_rules.keep(self)
        for name, value in self._lambda_rules.log.items():
            self.logger.record(name, value)

    def learn(
        self: SelfTunable, total_timesteps: int, callback: MaybeCallback = None, *args: Any, **kwargs: Any
    ) -> SelfTunable:
        """See the algorithm; in TensorBoard the run has the name of this class."""
        if len(args) < 2:
            kwargs.setdefault("tb_log_name", type(self).__name__)
        return super().learn(total_timesteps, callback, *args, **kwargs)


class TunableA2C(TunableLambda, A2C):
    """SB3's A2C with VPG's lambda; see :class:`TunableLambda`.

    Paper: Mnih et al. 2016, arXiv:1602.01783; its n-step advantages are ``gae_lambda=1``, the default.

    :param gae_lambda: a number, a schedule, the name of a rule or a rule, as in :class:`~sb3_pg.vpg.VPG`; every other
        parameter is A2C's
    :raises ValueError: for ``"hoof"`` and rules with a ``learning_rate_factor``
    """

    _file_marks = ("gae_lambda",)
    _marks_of_others = ("batch_size",)
    _file_owners = "A2C and TunableA2C"


class TunablePPO(TunableLambda, PPO):
    """SB3's PPO with VPG's lambda; see :class:`TunableLambda`.

    Paper: Schulman et al. 2017, arXiv:1707.06347.

    :param gae_lambda: a number, a schedule, the name of a rule or a rule, as in :class:`~sb3_pg.vpg.VPG`; every other
        parameter is PPO's
    :raises ValueError: for ``"hoof"`` and rules with a ``learning_rate_factor``
    """

    _file_marks = ("clip_range_vf",)
    _file_owners = "PPO and TunablePPO"


class TunableTRPO(TunableLambda, TRPO):
    """sb3-contrib's TRPO with VPG's lambda; see :class:`TunableLambda`.

    Paper: Schulman et al. 2015, arXiv:1502.05477.

    :param gae_lambda: a number, a schedule, the name of a rule or a rule, as in :class:`~sb3_pg.vpg.VPG`; every other
        parameter is TRPO's
    :raises ValueError: for ``"hoof"`` and rules with a ``learning_rate_factor``
    """

    _file_marks = ("line_search_max_iter",)
    _file_owners = "TRPO and TunableTRPO"
