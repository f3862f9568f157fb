"""Whichever actor draws them, actions have the policy's distribution, and are independent of one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTION_SPACES, AskedThroughTorch, RandomEnv, ScriptedEnv, one_rollout, overriding, tiny
from scipy import stats
from stable_baselines3 import A2C
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_pg import REINFORCE
from sb3_pg.rollout import collector
from sb3_pg.rollout.actors import (
    DistributionActor,
    ForwardActor,
    NoiseActor,
    TorchActor,
    choose_actor,
    describe_actor,
)

# Of a true hypothesis, one in ten thousand is rejected; the seed is fixed, so none is by chance.
REJECTED = 1e-4


def name(value: Any) -> str:
    return value if isinstance(value, str) else type(value).__name__


def chosen(policy: Any, *args: Any) -> Any:
    """Whatever the library finds fastest: NumPy for the policies of these tests."""
    return choose_actor(policy, *args)


def torch_actor(policy: Any, _: bool, n_envs: int, n_rows: int | None) -> Any:
    return TorchActor(policy, n_envs, n_rows)


def distribution_actor(policy: Any, *_: Any) -> Any:
    return DistributionActor(policy)


def forward_actor(policy: Any, *_: Any) -> Any:
    return ForwardActor(policy)


ACTORS: dict[str, Callable[..., Any]] = {
    "chosen": chosen,
    "torch": torch_actor,
    "distribution": distribution_actor,
    "forward": forward_actor,
}
# Of eight environments; enough to see a temperature that is a tenth off, where the code is ours and steps are cheap.
STEPS = {"chosen": 3000, "torch": 3000, "distribution": 300, "forward": 300}


@pytest.fixture(params=list(ACTORS))
def actor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Rollouts inside the test are collected by this actor."""
    monkeypatch.setattr(collector, "choose_actor", ACTORS[request.param])
    return str(request.param)


class TwoStates(ScriptedEnv):
    """The observation alternates between two vectors."""

    states = np.array([[1.0, -0.5], [-1.0, 2.0]], dtype=np.float32)

    def _observation(self) -> Any:
        return self.states[self.steps % 2]


def lopsided(space: spaces.Space[Any], n_steps: int = 300) -> Any:
    """A model whose distributions are far from even, and differ from state to state."""
    model = tiny(lambda: TwoStates([10**9], action_space=space), n_envs=8, n_steps=n_steps, seed=1)
    with th.no_grad():
        model.policy.action_net.weight.mul_(80.0)
        if isinstance(space, spaces.Box):
            model.policy.log_std[:] = th.tensor([-0.5, 0.3])
    return model


def distribution_in(model: Any, state: int) -> Any:
    return model.policy.get_distribution(th.as_tensor(TwoStates.states[state : state + 1]))


def sizes(space: Any) -> list[int]:
    """Number of choices in each dimension of a finite action space."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    return [2] * space.n if isinstance(space, spaces.MultiBinary) else space.nvec.tolist()


def probabilities(space: Any, distribution: Any) -> Any:
    """Probability of every action of a finite space, in the order of ``np.ravel_multi_index``."""
    every = np.stack(np.unravel_index(np.arange(np.prod(sizes(space))), sizes(space)), axis=1)
    actions = th.as_tensor(every)
    actions = actions.flatten() if isinstance(space, spaces.Discrete) else actions.float()
    return np.exp([distribution.log_prob(action[None]).item() for action in actions])


# -- the distribution ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ACTION_SPACES[1:], ids=name)
def test_finite_actions_have_the_policys_probabilities(actor: str, space: Any) -> None:
    model = lopsided(space, STEPS[actor])
    buffer = one_rollout(model)
    for state in range(2):
        expected = probabilities(space, distribution_in(model, state))
        assert expected.sum() == pytest.approx(1.0, abs=1e-5)
        assert expected.max() > 1.3 * expected.min()
        drawn = buffer.actions[state::2].reshape(-1, buffer.actions.shape[-1]).astype(int)
        counts = np.bincount(np.ravel_multi_index(drawn.T, sizes(space)), minlength=len(expected))
        assert stats.chisquare(counts, expected / expected.sum() * counts.sum()).pvalue > REJECTED


def test_continuous_actions_have_the_policys_mean_and_deviation(actor: str) -> None:
    model = lopsided(ACTION_SPACES[0], STEPS[actor])
    buffer = one_rollout(model)
    for state in range(2):
        normal = distribution_in(model, state).distribution
        mean, std = normal.mean.detach().numpy(), normal.stddev.detach().numpy()
        standard = (buffer.actions[state::2].reshape(-1, 2) - mean) / std
        for dimension in range(2):
            assert stats.kstest(standard[:, dimension], "norm").pvalue > REJECTED
            assert abs(standard[:, dimension].mean()) < 4 / np.sqrt(len(standard))
            assert abs(standard[:, dimension].std() - 1) < 4 / np.sqrt(2 * len(standard))
        assert abs(np.corrcoef(standard.T)[0, 1]) < 4 / np.sqrt(len(standard))


@pytest.mark.usefixtures("actor")
@pytest.mark.parametrize("space", ACTION_SPACES, ids=name)
def test_actions_of_different_environments_and_steps_are_independent(space: Any) -> None:
    """Noise that is drawn for many steps at once must not be used twice."""
    model = lopsided(space)
    actions = one_rollout(model).actions.astype(np.float64)
    # Two steps apart the state is the same; with its own mean taken off, nothing is left in common
    for state in range(2):
        rows = actions[state::2] - actions[state::2].mean(axis=(0, 1))
        pairs = {"environments": (rows[:, :-1], rows[:, 1:]), "steps": (rows[:-1], rows[1:])}
        for what, (one, other) in pairs.items():
            for dimension in range(rows.shape[-1]):
                correlation = np.corrcoef(one[..., dimension].ravel(), other[..., dimension].ravel())[0, 1]
                assert abs(correlation) < 4 / np.sqrt(one[..., dimension].size), what


@pytest.mark.usefixtures("actor")
@pytest.mark.parametrize("space", ACTION_SPACES, ids=name)
def test_the_mean_log_probability_of_the_actions_is_minus_the_entropy(space: Any) -> None:
    model = tiny(lambda: RandomEnv(space), n_envs=16, n_steps=100, seed=2)
    with th.no_grad():
        model.policy.action_net.weight.mul_(80.0)
    samples = one_rollout(model).samples()
    with th.no_grad():
        _, log_prob, entropy = model.policy.evaluate_actions(samples.observations, samples.actions)
    surplus = (log_prob + entropy).numpy()
    assert surplus.std() > 0.1
    assert abs(surplus.mean()) < 4 * surplus.std() / np.sqrt(surplus.size)


@pytest.mark.usefixtures("actor")
@pytest.mark.parametrize("space", ACTION_SPACES, ids=name)
def test_every_rollout_draws_other_noise(space: Any) -> None:
    model = lopsided(space, n_steps=64)
    first = one_rollout(model).actions.copy()
    assert not np.array_equal(first, one_rollout(model).actions)


@pytest.mark.usefixtures("actor")
@pytest.mark.parametrize("space", ACTION_SPACES, ids=name)
def test_noise_does_not_repeat_in_a_long_whole_episode_rollout(space: Any) -> None:
    """Its length is not known beforehand."""

    class Still(ScriptedEnv):
        def _observation(self) -> Any:
            return np.ones(2, dtype=np.float32)

    model = tiny(lambda: Still([800], action_space=space), algorithm=REINFORCE, n_episodes=1)
    actions = one_rollout(model).actions.reshape(800, -1)
    for period in (16, 256, 512):
        assert not np.array_equal(actions[:200], actions[period : period + 200])


@pytest.mark.usefixtures("actor")
@pytest.mark.parametrize("space", ACTION_SPACES, ids=name)
def test_the_weights_of_this_rollout_are_used(space: Any) -> None:
    """Nothing of the weights is kept from one rollout to the next."""
    model = tiny(lambda: RandomEnv(space))
    for sign in (1.0, -1.0):
        with th.no_grad():
            model.policy.action_net.weight.zero_()
            model.policy.action_net.bias.zero_()
            model.policy.action_net.bias[0] = sign * 1000.0
        first = one_rollout(model).actions[..., 0]
        if isinstance(space, spaces.Box):
            assert np.abs(first - sign * 1000.0).max() < 20
        elif isinstance(space, spaces.MultiBinary):
            assert (first == (sign > 0)).all()
        else:
            assert ((first == 0) == (sign > 0)).all()


@pytest.mark.usefixtures("actor")
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.ELU], ids=lambda each: each.__name__)
@pytest.mark.parametrize("net_arch", [[], [5], [7, 4, 3]], ids=str)
@pytest.mark.parametrize("shape", [(3,), (2, 3)], ids=str)
def test_the_mean_action_is_the_networks_output(shape: Any, net_arch: list[int], activation: Any) -> None:
    """Without noise, NumPy and torch agree to rounding, for every network that may be asked for."""
    model = tiny(
        lambda: RandomEnv(spaces.Box(-1, 1, (2, 2)), spaces.Box(-3, 3, shape, np.float64)), n_envs=3,
        policy_kwargs=dict(net_arch=net_arch, activation_fn=activation, log_std_init=-30.0),
    )  # fmt: skip
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.1 * th.randn_like(parameter))
        model.policy.log_std.fill_(-30.0)
    buffer = one_rollout(model)
    with th.no_grad():
        mean = model.policy.get_distribution(buffer.to_flat_tensor(buffer.observations)).distribution.mean
    np.testing.assert_allclose(buffer.actions.reshape(-1, 4), mean, atol=1e-5)
    assert np.ptp(buffer.actions, axis=0).max() > 0.05


# -- the same random numbers as SB3 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("joint_optimizer", [False, True])
@pytest.mark.parametrize("space", ACTION_SPACES, ids=name)
def test_through_torch_actions_are_those_of_a2c_from_the_same_seed(space: Any, joint_optimizer: bool) -> None:
    buffer = one_rollout(
        tiny(lambda: RandomEnv(space), AskedThroughTorch, n_envs=4, seed=7, joint_optimizer=joint_optimizer)
    )
    theirs = one_rollout(tiny(lambda: RandomEnv(space), AskedThroughTorch, A2C, n_envs=4, seed=7))
    np.testing.assert_array_equal(buffer.actions, theirs.actions)
    np.testing.assert_allclose(buffer.values, theirs.values, atol=1e-6)
    assert not buffer.has_step_values


@pytest.mark.parametrize("space", ACTION_SPACES, ids=name)
def test_with_per_step_values_actions_values_and_log_probabilities_are_a2cs(space: Any) -> None:
    buffer = one_rollout(tiny(lambda: RandomEnv(space), n_envs=4, seed=7, per_step_values=True))
    theirs = one_rollout(tiny(lambda: RandomEnv(space), algorithm=A2C, n_envs=4, seed=7))
    for array in ("actions", "values", "log_probs"):
        np.testing.assert_array_equal(getattr(buffer, array), getattr(theirs, array))


# -- which actor -----------------------------------------------------------------------------------------------------


def choice(model: Any) -> str:
    return type(choose_actor(model.policy, model.per_step_values, model.n_envs, model.n_steps)).__name__


def test_stock_policies_are_asked_through_numpy() -> None:
    for space in ACTION_SPACES:
        assert choice(tiny(lambda space=space: RandomEnv(space))) == "NumpyActor"
    assert choice(tiny(policy=ActorCriticPolicy)) == "NumpyActor"


@pytest.mark.parametrize("method", ["get_distribution", "_get_action_dist_from_latent"])
def test_policies_that_override_how_actions_are_made_are_asked_for_their_distribution(method: str) -> None:
    model = tiny(policy=overriding(method))
    assert choice(model) == "DistributionActor"
    assert "Overriding" in describe_actor(model.policy, per_step_values=False)


@pytest.mark.parametrize(
    "kwargs",
    [
        {}, dict(squash_output=True), dict(use_expln=True), dict(full_std=False), dict(net_arch=[]),
        dict(share_features_extractor=True, squash_output=True),
    ],
    ids=str,
)  # fmt: skip
def test_with_gsde_actions_are_the_distribution_s_own(kwargs: dict[str, Any]) -> None:
    model = tiny(lambda: RandomEnv(ACTION_SPACES[0]), n_envs=3, use_sde=True, policy_kwargs=kwargs)
    assert choice(model) == "NoiseActor"
    assert describe_actor(model.policy, per_step_values=False) == "torch, the mean plus gSDE's noise"
    actor = NoiseActor(model.policy)
    for n_matrices in (1, 3):
        model.policy.reset_noise(n_matrices)
        observations = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
        drawn = model.policy.get_distribution(th.as_tensor(observations)).get_actions()
        np.testing.assert_array_equal(actor(observations), drawn.detach().numpy())


def test_gsde_with_a_distribution_of_its_own_is_asked_for_it() -> None:
    model = tiny(lambda: RandomEnv(ACTION_SPACES[0]), policy=overriding("get_distribution"), use_sde=True)
    assert choice(model) == "DistributionActor"


def test_policies_that_override_how_features_are_extracted_are_asked_through_forward() -> None:
    assert choice(tiny(policy=overriding("extract_features"))) == "ForwardActor"


def test_hooks_on_the_policy_itself_are_run_at_every_step() -> None:
    model = tiny()
    calls: list[Any] = []
    model.policy.register_forward_hook(lambda *_: calls.append(None))
    model.learn(32)
    assert len(calls) == 32
    assert describe_actor(model.policy, False) == "policy.forward at every step (hooks on the policy)"


def test_policies_that_override_forward_are_asked_through_forward() -> None:
    assert choice(tiny(policy=overriding("forward"))) == "ForwardActor"
    assert choice(tiny(per_step_values=True)) == "ForwardActor"


@pytest.mark.parametrize(
    "settings",
    [
        dict(policy_kwargs=dict(activation_fn=nn.ELU)),
        dict(env=lambda: RandomEnv(ACTION_SPACES[1], spaces.Discrete(4))),
        dict(env=lambda: RandomEnv(ACTION_SPACES[1], spaces.MultiDiscrete([2, 3]))),
        dict(
            env=lambda: RandomEnv(ACTION_SPACES[1], spaces.Dict(a=spaces.Box(-1, 1, (2,)))), policy="MultiInputPolicy"
        ),
        dict(env=lambda: RandomEnv(ACTION_SPACES[1], spaces.Box(0, 255, (4,), np.uint8))),
    ],
    ids=["ELU", "Discrete", "MultiDiscrete", "Dict", "integers"],
)
def test_what_numpy_cannot_do_exactly_is_left_to_torch(settings: dict[str, Any]) -> None:
    assert choice(tiny(**settings)) == "TorchActor"


def test_a_layer_replaced_after_construction_is_seen() -> None:
    model = tiny()
    model.policy.mlp_extractor.policy_net.append(nn.Dropout(0.5))
    assert choice(model) == "TorchActor"
    model.policy.action_net = nn.Sequential(model.policy.action_net)
    assert choice(model) == "DistributionActor"
    hooked = tiny()
    hooked.policy.action_net.register_forward_hook(lambda _module, _args, output: output)
    assert choice(hooked) == "TorchActor"


def test_dropout_and_batch_norm_do_not_act_while_collecting() -> None:
    """SB3 collects in evaluation mode."""
    model = tiny()
    modes, get_distribution = [], model.policy.get_distribution

    def watched(obs: Any) -> Any:
        modes.append(model.policy.training)
        return get_distribution(obs)

    model.policy.get_distribution = watched
    model.learn(16)
    modes.clear()
    one_rollout(model)
    assert len(modes) == 16
    assert not any(modes)
