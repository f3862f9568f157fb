"""NaN, infinities and huge numbers, wherever they arise: training stops, and the weights are those from before."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTION_SPACES, CriticInTorch, RandomEnv, Runaway, ScriptedEnv, WatchedEnv, same, tiny, weights
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_pg import REINFORCE, VPG
from sb3_pg.faults import TrainingError, not_finite_weight
from sb3_pg.numpy_critic import NumpyCritic
from sb3_pg.policies import ActorCriticPolicy
from sb3_pg.rollout.buffer import not_finite

NAN, INF = math.nan, math.inf


def learnt(model: Any) -> dict[str, Any]:
    """A copy of all that an update changes."""
    optimizers = [model.policy.optimizer, getattr(model.policy, "critic_optimizer", None)]
    return {"weights": weights(model), "states": [deepcopy(o.state_dict()) for o in optimizers if o is not None]}


class BeforeUpdates(BaseCallback):
    """Saves at each rollout's beginning, and remembers what an update finds at its end."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.found: list[dict[str, Any]] = []

    def _on_rollout_start(self) -> None:
        self.model.save(self.path)

    def _on_rollout_end(self) -> None:
        self.found.append(learnt(self.model))

    def _on_step(self) -> bool:
        return True


def is_finite(model: Any) -> bool:
    states = [
        tensor for state in learnt(model)["states"] for each in state["state"].values() for tensor in each.values()
    ]
    return all(bool(th.isfinite(tensor).all()) for tensor in [*weights(model).values(), *states])


# How an update may go: its paths through actor and critic
PATHS: dict[str, dict[str, Any]] = {
    "NumPy critic": {},
    "torch critic": dict(policy=CriticInTorch),
    "joint": dict(joint_optimizer=True),
    "importance": dict(policy_loss="importance", n_epochs=3, batch_size=8),
    "clipped": dict(policy_loss="clipped", n_epochs=3, batch_size=8),
    "RMSprop": dict(use_rms_prop=True),
    "unclipped": dict(max_grad_norm=None),
    "REINFORCE": dict(algorithm=REINFORCE),
}


# -- losses and gradients ----------------------------------------------------------------------------------------------


def spoil(model: Any, layer: nn.Linear, after: int, value: float) -> None:
    """Make the layer's gradient wrong in the optimizer's step of that number, counted from now."""
    steps = 0
    optimizer = next(
        o for o in (model.policy.optimizer, getattr(model.policy, "critic_optimizer", None))
        if o is not None and any(weight is layer.weight for group in o.param_groups for weight in group["params"])
    )  # fmt: skip
    zero_grad = optimizer.zero_grad

    def counted(*args: Any, **kwargs: Any) -> None:
        nonlocal steps
        steps += 1
        zero_grad(*args, **kwargs)

    optimizer.zero_grad = counted
    layer.weight.register_hook(lambda gradient: gradient * value if steps > after else gradient)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("part", ["action_net", "value_net"])
@pytest.mark.parametrize("path", ["torch critic", "joint", "importance", "clipped", "RMSprop"])
def test_a_gradient_that_goes_wrong_amid_an_update_undoes_the_update(
    tmp_path: Path, path: str, part: str, value: float
) -> None:
    """The steps before the wrong one are taken back, too: weights, moments and counts are those from before."""
    settings: dict[str, Any] = {**PATHS[path], "critic_batch_size": 8, "batch_size": 8}
    settings.setdefault("policy", CriticInTorch)
    model = tiny(n_envs=2, n_steps=8, **settings)
    per_update = 2 * (
        settings.get("n_epochs", 1) if part == "action_net" or path == "joint" else model.n_critic_updates
    )
    spoil(model, getattr(model.policy, part), after=2 * per_update + 1, value=value)
    callback = BeforeUpdates(tmp_path / "model.zip")
    with pytest.raises(TrainingError, match="gradient") as error:
        model.learn(16 * 5, callback)
    assert "update 3, timestep 48" in str(error.value)
    assert str(error.value).endswith(f"last saved: {tmp_path / 'model.zip'}")
    assert model._n_updates == 2
    first, _, third = callback.found
    assert not same(first, third)
    assert same(third, learnt(model))
    assert same(weights(VPG.load(tmp_path / "model.zip", device="cpu")), weights(model))


@pytest.mark.parametrize("what", ["gradient", "loss"])
def test_a_wrong_number_in_the_numpy_critic_undoes_the_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    right, calls = NumpyCritic.gradient, 0

    def wrong(self: NumpyCritic, *args: Any) -> float:
        nonlocal calls
        calls += 1
        loss = right(self, *args)
        if calls > 9 and what == "gradient":
            self._gradients[0][0, 0] = NAN
        return NAN if calls > 9 and what == "loss" else loss

    monkeypatch.setattr(NumpyCritic, "gradient", wrong)
    model = tiny(n_envs=2, n_steps=8, critic_batch_size=8)
    callback = BeforeUpdates(tmp_path / "model.zip")
    with pytest.raises(TrainingError, match=r"critic optimizer.* nan .*update 3.*; last saved: .*model\.zip$"):
        model.learn(16 * 5, callback)
    assert not same(callback.found[0], callback.found[2])
    assert same(callback.found[2], learnt(model))


def test_an_interrupt_amid_an_update_undoes_the_update() -> None:
    model = tiny(policy=CriticInTorch, n_critic_updates=4).learn(16)
    before, calls = learnt(model), 0

    def interrupt(gradient: th.Tensor) -> th.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return gradient

    model.policy.value_net.weight.register_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.learn(16)
    assert calls == 3
    assert same(before, learnt(model))
    model.learn(16, reset_num_timesteps=False)
    assert not same(before, learnt(model))


def test_an_error_in_the_very_first_update_leaves_the_optimizers_without_a_state() -> None:
    model = tiny(policy=CriticInTorch)
    before = learnt(model)
    spoil(model, model.policy.value_net, after=1, value=NAN)
    with pytest.raises(TrainingError, match=r"update 1, timestep 16.*nothing was saved yet$"):
        model.learn(16)
    assert same(before, learnt(model))
    assert not model.policy.optimizer.state_dict()["state"]


class WithBatchNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(size)
        self.linear = nn.Linear(size, size)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.linear(self.norm(x))  # type: ignore[no-any-return]


class BatchNormPolicy(ActorCriticPolicy):
    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.mlp_extractor.value_net = nn.Sequential(WithBatchNorm(3), nn.Linear(3, 8))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1))  # type: ignore[call-arg]


def test_statistics_inside_the_network_are_put_back_as_well() -> None:
    model = tiny(policy=BatchNormPolicy)
    spoil(model, model.policy.value_net, after=3, value=NAN)
    model.learn(16)
    before = learnt(model)
    norm = model.policy.mlp_extractor.value_net[0].norm
    assert norm.num_batches_tracked == 2
    with pytest.raises(TrainingError, match="gradient of the critic"):
        model.learn(16, reset_num_timesteps=False)
    assert norm.num_batches_tracked == 2
    assert same(before, learnt(model))


# -- optimizers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("joint_optimizer", [False, True])
def test_a_step_that_makes_a_weight_infinite_is_taken_back_and_named(tmp_path: Path, joint_optimizer: bool) -> None:
    kwargs = dict(optimizer_class=Runaway)
    model = tiny(joint_optimizer=joint_optimizer, policy_kwargs=kwargs, batch_size=16, n_critic_updates=1)
    callback = BeforeUpdates(tmp_path / "model.zip")
    name = "value_net.bias" if joint_optimizer else "action_net.bias"
    with pytest.raises(TrainingError, match=rf"{name} inf at update 3, timestep 48.*eps.*last saved: .*model\.zip$"):
        model.learn(16 * 5, callback)
    assert not same(callback.found[0], callback.found[2])
    assert same(callback.found[2], learnt(model))


def test_an_optimizer_that_divides_by_zero_is_stopped() -> None:
    """RMSprop with eps=0 divides by the root of a gradient that is zero where a unit is dead."""
    model = tiny(
        use_rms_prop=True, rms_prop_eps=0.0, n_critic_updates=1,
        policy_kwargs=dict(activation_fn=nn.ReLU, net_arch=dict(pi=[], vf=[2])),
    )  # fmt: skip
    with th.no_grad():
        model.policy.mlp_extractor.value_net[0].bias.fill_(-100.0)
    before = learnt(model)
    with pytest.raises(TrainingError, match=r"weight mlp_extractor\.value_net.* nan at update 1.*eps"):
        model.learn(16)
    assert same(before, learnt(model))


@pytest.mark.parametrize("policy", ["MlpPolicy", CriticInTorch])
def test_weights_that_grow_until_the_values_overflow_are_stopped(tmp_path: Path, policy: Any) -> None:
    model = tiny(policy=policy, n_envs=2, policy_kwargs=dict(net_arch=[])).learn(32)
    model.save(tmp_path / "model")
    with th.no_grad():
        model.policy.value_net.weight.fill_(3e38)
    before = learnt(model)
    with pytest.raises(TrainingError, match=r"values of environment \d hold -?(inf|nan) at step \d+ .*last saved"):
        model.learn(32)
    assert same(before, learnt(model))


# -- what is acted with ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("log_std", "words"), [(60.0, "inf"), (-80.0, "0")])
@pytest.mark.parametrize("use_sde", [False, True])
def test_an_exploded_or_vanished_deviation_is_refused_before_the_environment_sees_an_action(
    log_std: float, words: str, use_sde: bool
) -> None:
    model = tiny(lambda: WatchedEnv(ACTION_SPACES[0]), use_sde=use_sde)
    with th.no_grad():
        model.policy.log_std.fill_(log_std)
    with pytest.raises(TrainingError, match=rf"environment 0 .*log_std .*{log_std:.3g}.*variance .*{words}.*saved"):
        model.learn(16)
    assert model.env.get_attr("actions") == [[]]


def test_an_entropy_bonus_that_lets_the_deviation_explode_ends_in_an_error_and_finite_weights(tmp_path: Path) -> None:
    model = tiny(lambda: RandomEnv(ACTION_SPACES[0]), ent_coef=1.0, learning_rate=10.0, vf_learning_rate=1e-3)
    with pytest.raises(TrainingError, match=r"log_std|action|gradient") as error:
        model.learn(16 * 100, BeforeUpdates(tmp_path / "model.zip"))
    assert str(error.value).endswith("model.zip")
    assert is_finite(model)
    assert 2 < model._n_updates < 90
    assert is_finite(VPG.load(tmp_path / "model.zip", device="cpu"))


class NanInAction(ActorCriticPolicy):
    def forward(self, obs: Any, deterministic: bool = False) -> Any:
        actions, values, log_probs = super().forward(obs, deterministic)
        actions[-1] = NAN
        return actions, values, log_probs


def test_an_action_that_is_no_number_stops_training() -> None:
    model = tiny(lambda: RandomEnv(ACTION_SPACES[0]), NanInAction, n_envs=2)
    before = learnt(model)
    with pytest.raises(TrainingError, match=r"action of environment 1 is nan at step 0 .*nothing was saved yet$"):
        model.learn(32)
    assert same(before, learnt(model))


# -- rewards -----------------------------------------------------------------------------------------------------------

HUGE = [1e19, 1e25, 1e30, -1e30, 1e38, -3e38]


@pytest.mark.parametrize("reward", HUGE)
@pytest.mark.parametrize("normalize_advantage", [True, False])
@pytest.mark.parametrize("path", PATHS)
def test_rewards_that_32_bit_numbers_cannot_hold_never_reach_the_weights(
    path: str, normalize_advantage: bool, reward: float
) -> None:
    """No warning of NumPy's either: those are errors in these tests."""
    model = tiny(lambda: ScriptedEnv([5, 3], reward=reward), normalize_advantage=normalize_advantage, **PATHS[path])
    before = learnt(model)
    if path == "REINFORCE" and not normalize_advantage and abs(reward) < 1e20:  # the sum of squares just fits
        model.learn(64)
        assert is_finite(model)
        return
    with pytest.raises(
        TrainingError, match=r"largest reward is .* of environment 0 at step \d+.*nothing was saved yet$"
    ):
        model.learn(64)
    assert same(before, learnt(model))


@pytest.mark.parametrize("path", PATHS)
def test_large_rewards_within_reach_of_32_bit_numbers_are_learnt_from(path: str) -> None:
    model = tiny(lambda: ScriptedEnv([5, 3], reward=1e12), **PATHS[path])
    before = weights(model)
    model.learn(64)
    assert is_finite(model)
    assert not same(before, weights(model))


def test_one_reward_out_of_range_does_not_blind_vecnormalize() -> None:
    """Its statistics are in 64 bits: training goes on, with finite weights."""
    env = VecNormalize(DummyVecEnv([lambda: ScriptedEnv([5], faults={20: ("reward", 1e30)})]))
    model = tiny(env).learn(64)
    assert model._n_updates == 4
    assert is_finite(model)
    assert np.isfinite(env.ret_rms.var)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # from VecNormalize, before our error
def test_one_observation_out_of_range_does_not_blind_vecnormalize() -> None:
    """The variance is infinite then, and every observation zero."""
    faulty = {18: ("observation", 1e30)}
    env = VecNormalize(DummyVecEnv([ScriptedEnv, lambda: ScriptedEnv(faults=faulty)]))
    model = tiny(env)
    with pytest.raises(
        TrainingError, match=r"VecNormalize's variance of the observation .*inf.* timestep 64: .*nothing"
    ):
        model.learn(128)
    assert model._n_updates == 1
    assert np.isfinite(env.obs_rms.var).all()
    model.learn(64)
    assert is_finite(model)


@pytest.mark.parametrize("kind", ["observation", "reward"])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_vecnormalize_is_as_it_was_before_the_rollout_with_a_wrong_number(kind: str) -> None:
    env = VecNormalize(DummyVecEnv([lambda: ScriptedEnv([5], faults={18: (kind, NAN)})]))
    model = tiny(env).learn(16)
    counts = env.obs_rms.count, env.ret_rms.count
    with pytest.raises(TrainingError, match=f"{kind} of environment 0 is nan"):
        model.learn(16, reset_num_timesteps=False)
    assert (env.obs_rms.count, env.ret_rms.count) == counts
    assert np.isfinite(env.obs_rms.mean).all()
    assert np.isfinite(env.ret_rms.var)
    model.learn(16, reset_num_timesteps=False)
    assert is_finite(model)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_vecnormalize_below_another_one_is_as_it_was_before_that_rollout_too() -> None:
    inner = VecNormalize(DummyVecEnv([lambda: ScriptedEnv([5], faults={18: ("observation", NAN)})]))
    outer = VecNormalize(inner)
    model = tiny(outer).learn(16)
    counts = inner.obs_rms.count, outer.obs_rms.count
    with pytest.raises(TrainingError, match="observation of environment 0 is nan"):
        model.learn(16, reset_num_timesteps=False)
    assert (inner.obs_rms.count, outer.obs_rms.count) == counts
    assert np.isfinite(inner.obs_rms.mean).all()
    model.learn(16, reset_num_timesteps=False)
    assert is_finite(model)


# -- batches that teach nothing ----------------------------------------------------------------------------------------


class Constant(gym.Env[Any, Any]):
    """Every step the same, and every step the last one if ``terminal``."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, terminal: bool, reward: float) -> None:
        self.terminal, self.reward = terminal, reward

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, _action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(2, np.float32), self.reward, self.terminal, False, {}


@pytest.mark.parametrize("reward", [0.0, 1.0, -1e10])
@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("path", [path for path in PATHS if path != "REINFORCE"])
def test_constant_rewards_and_all_terminal_batches_keep_the_weights_finite(
    path: str, terminal: bool, reward: float
) -> None:
    model = tiny(lambda: Constant(terminal, reward), n_envs=2, **PATHS[path]).learn(96)
    assert model._n_updates == 3
    assert is_finite(model)


@pytest.mark.filterwarnings("ignore:baseline=.* makes every advantage of this batch zero:UserWarning")
@pytest.mark.parametrize("baseline", ["none", "mean", "time_mean", "leave_one_out"])
@pytest.mark.parametrize("normalize_advantage", [True, "center"])
def test_advantages_without_variance_leave_the_policy_as_it_is(baseline: str, normalize_advantage: Any) -> None:
    model = tiny(
        lambda: Constant(True, 3.0), algorithm=REINFORCE, baseline=baseline, normalize_advantage=normalize_advantage
    )
    before = weights(model)
    model.learn(64)
    assert model._n_updates == 4
    assert same(before, weights(model))


@pytest.mark.parametrize("path", [path for path in PATHS if path != "REINFORCE"])
def test_a_batch_of_one_step_is_trained_on(path: str) -> None:
    model = tiny(n_steps=1, normalize_advantage=False, **PATHS[path])
    before = weights(model)
    model.learn(6)
    assert model._n_updates == 6
    assert is_finite(model)
    assert not same(before, weights(model))


@pytest.mark.filterwarnings("ignore:normalize_advantage=True makes the advantage of this batch of one step zero")
@pytest.mark.parametrize("n_episodes", [1, 2])
def test_a_batch_of_one_step_long_episodes_is_trained_on(n_episodes: int) -> None:
    model = tiny(lambda: ScriptedEnv([1]), algorithm=REINFORCE, n_episodes=n_episodes).learn(4)
    assert model._n_updates == 4 // n_episodes
    assert is_finite(model)


def test_minibatches_of_one_step_are_trained_on() -> None:
    model = tiny(n_steps=17, batch_size=16, critic_batch_size=16, n_epochs=2, policy_loss="clipped")
    before = weights(model)
    model.learn(34)
    assert is_finite(model)
    assert not same(before, weights(model))


# -- the checks themselves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_wrong_number_among_large_ones_is_found(dtype: Any, value: float) -> None:
    numbers = np.full((50, 3), np.finfo(dtype).max, dtype=dtype)
    assert len(not_finite(numbers)) == 0
    numbers[31, 2] = value
    assert not_finite(numbers).tolist() == [[31, 2]]


def test_large_weights_are_told_from_infinite_ones() -> None:
    model = tiny()
    assert not_finite_weight(model.policy) is None
    with th.no_grad():
        for weight in model.policy.parameters():
            weight.fill_(3e38)
        assert not_finite_weight(model.policy) is None  # although their sum is infinite
        model.policy.value_net.bias.fill_(NAN)
    name, value = not_finite_weight(model.policy) or ("", 0.0)
    assert name == "value_net.bias"
    assert math.isnan(value)
