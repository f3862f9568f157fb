"""Two optimizers for any actor-critic policy, the Q critic, and respect for what a policy overrides."""

from __future__ import annotations

from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy as SB3ActorCriticPolicy
from stable_baselines3.common.policies import MultiInputActorCriticPolicy as SB3MultiInputPolicy
from torch import nn

from sb3_pg.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
    NumpyTanh,
    evaluate_log_probs,
    has_split_optimizers,
    is_plain_mlp,
    overrides,
    sample_observation,
    split_optimizers,
    split_parameters,
    use_numpy_tanh,
)

FLAT = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
DICT = spaces.Dict({"flat": FLAT, "image": IMAGE, "kind": spaces.Discrete(4)})
TWO_ACTIONS = spaces.Discrete(2)

ACTION_SPACES = {
    "Box": spaces.Box(-1, 1, (2,)),
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
}


def constant_rate(_: float) -> float:
    return 1e-3


def build(
    policy_class: Any = ActorCriticPolicy,
    observation_space: spaces.Space[Any] = FLAT,
    action_space: spaces.Space[Any] = TWO_ACTIONS,
    **kwargs: Any,
) -> Any:
    """A small policy whose actor and critic have features extractors of their own."""
    th.manual_seed(0)
    kwargs = {"net_arch": [4], "share_features_extractor": False, **kwargs}
    return policy_class(observation_space, action_space, constant_rate, **kwargs)


def cnn(**kwargs: Any) -> Any:
    return build(ActorCriticCnnPolicy, IMAGE, features_extractor_kwargs=dict(features_dim=8), **kwargs)


def multi_input(**kwargs: Any) -> Any:
    kwargs = dict(features_extractor_kwargs=dict(cnn_output_dim=8), **kwargs)
    return build(MultiInputActorCriticPolicy, DICT, **kwargs)


def observations_of(policy: Any, size: int = 5) -> Any:
    policy.observation_space.seed(0)
    samples = [policy.observation_space.sample() for _ in range(size)]
    if isinstance(samples[0], dict):
        return policy.obs_to_tensor({key: np.stack([sample[key] for sample in samples]) for key in samples[0]})[0]
    return policy.obs_to_tensor(np.stack(samples))[0]


def actions_of(policy: Any, size: int = 5) -> th.Tensor:
    policy.action_space.seed(0)
    actions = th.as_tensor(np.stack([policy.action_space.sample() for _ in range(size)]))
    return actions if isinstance(policy.action_space, spaces.Discrete) else actions.float()  # as the buffer gives them


class MisleadingNetworks(nn.Module):
    """Actor and critic under names that say the opposite, and one weight that nobody uses."""

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = 4, 5
        self.value_like = nn.Sequential(nn.Linear(n_inputs, 4), nn.Tanh())
        self.policy_like = nn.Sequential(nn.Linear(n_inputs, 5), nn.Tanh())
        self.unused = nn.Parameter(th.zeros(1))

    def forward(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: th.Tensor) -> th.Tensor:
        return self.value_like(features)

    def forward_critic(self, features: th.Tensor) -> th.Tensor:
        return self.policy_like(features)


class MisleadingPolicy(SB3ActorCriticPolicy):
    """A user's policy, written for SB3."""

    networks: type[nn.Module] = MisleadingNetworks

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = self.networks(self.features_dim)


class SharedTrunk(MisleadingNetworks):
    def __init__(self, n_inputs: int) -> None:
        super().__init__(3)
        self.trunk = nn.Linear(n_inputs, 3)

    def forward_actor(self, features: th.Tensor) -> th.Tensor:
        return super().forward_actor(self.trunk(features))

    def forward_critic(self, features: th.Tensor) -> th.Tensor:
        return super().forward_critic(self.trunk(features))


class SharedTrunkPolicy(MisleadingPolicy):
    networks = SharedTrunk


POLICIES: dict[str, Any] = {
    "MlpPolicy": build,
    "CnnPolicy": cnn,
    "MultiInputPolicy": multi_input,
    "SB3's own policy": lambda **kwargs: build(SB3ActorCriticPolicy, **kwargs),
    "a user's policy": lambda **kwargs: build(MisleadingPolicy, **kwargs),
    "flat features shared without a weight": lambda **kwargs: build(share_features_extractor=True, **kwargs),
}


def names_of(policy: Any, parameters: list[nn.Parameter]) -> set[str]:
    by_identity = {id(parameter): name for name, parameter in policy.named_parameters()}
    return {by_identity[id(parameter)] for parameter in parameters}


# -- whose parameter is it? ------------------------------------------------------------------------------------------


def test_the_parameters_of_an_mlp_policy_are_divided_into_the_actors_and_the_critics() -> None:
    policy = build(action_space=ACTION_SPACES["Box"])
    actor, critic = split_parameters(policy)
    assert names_of(policy, actor) == {
        "log_std",
        "mlp_extractor.policy_net.0.weight",
        "mlp_extractor.policy_net.0.bias",
        "action_net.weight",
        "action_net.bias",
    }
    assert names_of(policy, critic) == {
        "mlp_extractor.value_net.0.weight",
        "mlp_extractor.value_net.0.bias",
        "value_net.weight",
        "value_net.bias",
    }


@pytest.mark.parametrize("policy_class", [cnn, multi_input])
def test_each_of_actor_and_critic_has_its_own_features_extractor(policy_class: Any) -> None:
    policy = policy_class()
    actor, critic = (names_of(policy, part) for part in split_parameters(policy))
    assert {name for name in actor if "extractor.extractors" in name or "extractor.cnn" in name}
    assert {name for name in critic if "extractor.extractors" in name or "extractor.cnn" in name}
    assert not {name for name in actor if name.startswith("vf_features_extractor")}
    of_the_critic = ("vf_features_extractor", "mlp_extractor.value", "value")
    assert not {name for name in critic if not name.startswith(of_the_critic)}


def test_what_a_layer_is_called_says_nothing_about_whose_it_is() -> None:
    policy = build(MisleadingPolicy)
    actor, critic = (names_of(policy, part) for part in split_parameters(policy))
    assert {"mlp_extractor.value_like.0.weight", "mlp_extractor.value_like.0.bias", "action_net.weight"} <= actor
    assert {"mlp_extractor.policy_like.0.weight", "mlp_extractor.policy_like.0.bias", "value_net.weight"} <= critic


def test_a_parameter_that_the_values_do_not_depend_on_is_the_actors() -> None:
    policy = build(MisleadingPolicy)
    actor, _ = split_parameters(policy)
    assert "mlp_extractor.unused" in names_of(policy, actor)


def test_the_q_critics_head_is_the_critics() -> None:
    policy = build(q_critic=True)
    actor, critic = (names_of(policy, part) for part in split_parameters(policy))
    assert {"q_net.weight", "q_net.bias"} <= critic
    assert not {"q_net.weight", "q_net.bias"} & actor


@pytest.mark.parametrize("policy", list(POLICIES))
def test_a_loss_of_one_has_no_gradient_for_the_parameters_of_the_other(policy: str) -> None:
    built = POLICIES[policy]()
    actor, critic = split_parameters(built)
    values, log_probs, _ = built.evaluate_actions(observations_of(built), actions_of(built))
    for loss, others in ((log_probs.sum(), critic), (values.sum(), actor)):
        gradients = th.autograd.grad(loss, others, allow_unused=True, retain_graph=True)
        assert all(gradient is None for gradient in gradients)


@pytest.mark.parametrize("make", [cnn, multi_input])
def test_a_shared_features_extractor_is_refused_by_name(make: Any) -> None:
    with pytest.raises(ValueError, match=r"share the parameters features_extractor\.") as error:
        split_parameters(make(share_features_extractor=True))
    message = str(error.value)
    assert "joint_optimizer=False" in message
    assert "joint_optimizer=True" in message
    assert "share_features_extractor=False" in message


def test_a_shared_trunk_in_a_users_network_is_refused_by_name() -> None:
    trunk = r"mlp_extractor\.trunk\.weight, mlp_extractor\.trunk\.bias;"
    with pytest.raises(ValueError, match=f"share the parameters {trunk}"):
        split_parameters(build(SharedTrunkPolicy))


@pytest.mark.parametrize("make", [lambda: cnn(share_features_extractor=True), lambda: build(SharedTrunkPolicy)])
def test_without_a_critic_what_is_shared_is_the_actors(make: Any) -> None:
    policy = make()
    actor, critic = (names_of(policy, part) for part in split_parameters(policy, has_critic=False))
    assert {name.split(".")[0] for name in critic} <= {"value_net", "mlp_extractor"}
    assert "value_net.weight" in critic
    assert not any("trunk" in name for name in critic)
    assert any("trunk" in name or name.startswith("features_extractor.") for name in actor)
    assert sorted([*actor, *critic]) == sorted(name for name, _ in policy.named_parameters())


def test_splitting_changes_neither_weights_nor_gradients_nor_random_numbers() -> None:
    policy = build(action_space=ACTION_SPACES["Box"], use_sde=True)
    weights = {name: weight.clone() for name, weight in policy.state_dict().items()}
    torch_state, numpy_state = th.get_rng_state(), np.random.get_state()  # noqa: NPY002
    split_parameters(policy)
    assert th.equal(th.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002
    assert all(th.equal(weight, weights[name]) for name, weight in policy.state_dict().items())
    assert all(parameter.grad is None for parameter in policy.parameters())


@pytest.mark.parametrize(
    "space", [FLAT, IMAGE, DICT, spaces.Discrete(4), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)]
)
def test_a_sample_observation_is_a_batch_of_one(space: spaces.Space[Any]) -> None:
    policy_class = SB3MultiInputPolicy if isinstance(space, spaces.Dict) else SB3ActorCriticPolicy
    policy = build(policy_class, space)
    assert policy.predict_values(sample_observation(policy)).shape == (1, 1)


# -- the optimizers --------------------------------------------------------------------------------------------------


def in_optimizer(optimizer: th.optim.Optimizer) -> list[int]:
    return [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]


@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize("action_space", list(ACTION_SPACES))
def test_the_two_optimizers_have_every_parameter_exactly_once(policy: str, action_space: str) -> None:
    built = POLICIES[policy](action_space=ACTION_SPACES[action_space])
    split_optimizers(built, 0.1, 0.2)
    actor, critic = in_optimizer(built.optimizer), in_optimizer(built.critic_optimizer)
    assert actor
    assert critic
    assert sorted(actor + critic) == sorted(map(id, built.parameters()))


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(action_space=ACTION_SPACES["Box"], use_sde=True),
        dict(action_space=ACTION_SPACES["Box"], use_sde=True, squash_output=True),
        dict(q_critic=True),
        dict(net_arch=[]),
        dict(net_arch=dict(pi=[3, 3], vf=[])),
    ],
    ids=["gSDE", "gSDE, squashed", "Q critic", "no layers", "different layers"],
)
def test_the_two_optimizers_have_every_parameter_of_unusual_policies_too(kwargs: dict[str, Any]) -> None:
    policy = build(**kwargs)
    split_optimizers(policy, 0.1, 0.2)
    both = in_optimizer(policy.optimizer) + in_optimizer(policy.critic_optimizer)
    assert sorted(both) == sorted(map(id, policy.parameters()))


def test_a_frozen_weight_is_given_to_whom_it_belongs_and_stays_frozen() -> None:
    policy = build()
    policy.value_net.weight.requires_grad = policy.action_net.weight.requires_grad = False
    actor, critic = split_parameters(policy)
    assert any(weight is policy.value_net.weight for weight in critic)
    assert any(weight is policy.action_net.weight for weight in actor)
    assert not policy.value_net.weight.requires_grad
    assert not policy.action_net.weight.requires_grad


def test_it_is_seen_where_the_two_optimizers_are_no_longer_the_policys() -> None:
    policy = build()
    assert not has_split_optimizers(policy)
    split_optimizers(policy, 0.1, 0.1)
    assert has_split_optimizers(policy)
    of_both, policy.optimizer = policy.optimizer, th.optim.Adam(policy.parameters())
    assert not has_split_optimizers(policy)
    policy.optimizer = of_both
    policy.value_net = nn.Linear(4, 1)
    assert not has_split_optimizers(policy)


def test_each_optimizer_has_its_learning_rate_and_the_policys_class_and_settings() -> None:
    policy = build(optimizer_class=th.optim.RMSprop, optimizer_kwargs=dict(alpha=0.9, eps=1e-3))
    split_optimizers(policy, 0.1, 0.2)
    for optimizer, rate in ((policy.optimizer, 0.1), (policy.critic_optimizer, 0.2)):
        assert type(optimizer) is th.optim.RMSprop
        assert [(group["lr"], group["alpha"], group["eps"]) for group in optimizer.param_groups] == [(rate, 0.9, 1e-3)]
    assert policy.optimizer_kwargs == dict(alpha=0.9, eps=1e-3)


def test_a_step_of_one_optimizer_leaves_the_others_parameters_alone() -> None:
    policy = build()
    split_optimizers(policy, 0.1, 0.1)
    observations, actions = observations_of(policy), actions_of(policy)
    values = policy.predict_values(observations)
    log_probs, _ = evaluate_log_probs(policy, observations, actions)

    evaluate_log_probs(policy, observations, actions)[0].sum().backward()
    policy.optimizer.step()
    assert th.equal(policy.predict_values(observations), values)
    moved, _ = evaluate_log_probs(policy, observations, actions)
    assert not th.allclose(moved, log_probs)

    policy.predict_values(observations).sum().backward()
    policy.critic_optimizer.step()
    assert not th.allclose(policy.predict_values(observations), values)
    assert th.equal(evaluate_log_probs(policy, observations, actions)[0], moved)


# -- the Q critic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [build, cnn, multi_input])
@pytest.mark.parametrize("shared", [False, True])
def test_the_q_critic_gives_the_value_of_each_action_taken_and_v_as_it_is(make: Any, shared: bool) -> None:
    policy = make(action_space=spaces.Discrete(3), q_critic=True, share_features_extractor=shared)
    assert policy.q_net.out_features == 3
    observations, actions = observations_of(policy), th.tensor([2, 0, 1, 1, 2])
    values, q_values = policy.predict_values_and_q(observations, actions)
    assert values.shape == q_values.shape == (5,)
    assert th.equal(values, policy.predict_values(observations).flatten())
    of_all_actions = th.stack(
        [policy.predict_values_and_q(observations, th.full((5,), action))[1] for action in range(3)], dim=1
    )
    assert len(of_all_actions.unique()) == 15
    assert q_values.tolist() == [of_all_actions[step, action].item() for step, action in enumerate(actions)]


@pytest.mark.parametrize("as_stored", [lambda a: a.float(), lambda a: a.reshape(-1, 1), lambda a: a.to(th.int32)])
def test_the_q_critic_takes_actions_of_any_dtype_and_with_an_axis_more(as_stored: Any) -> None:
    policy = build(q_critic=True)
    observations, actions = observations_of(policy), th.tensor([1, 0, 1, 1, 0])
    expected = policy.predict_values_and_q(observations, actions)[1]
    assert th.equal(policy.predict_values_and_q(observations, as_stored(actions))[1], expected)


def test_the_q_value_of_an_action_trains_its_own_output_only() -> None:
    policy = build(action_space=spaces.Discrete(3), q_critic=True)
    policy.predict_values_and_q(observations_of(policy), th.tensor([1, 1, 1, 1, 1]))[1].sum().backward()
    touched = policy.q_net.weight.grad.abs().sum(dim=1) > 0
    assert touched.tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["Box", "MultiDiscrete", "MultiBinary"])
def test_a_q_critic_for_other_than_discrete_actions_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="need a Discrete action space, not") as error:
        build(action_space=ACTION_SPACES[name], q_critic=True)
    assert str(error.value).endswith(str(ACTION_SPACES[name]))
    assert "estimator='q'" in str(error.value)


def test_sb3s_own_class_loads_a_policy_without_a_q_critic(tmp_path: Any) -> None:
    policy = build()
    policy.save(tmp_path / "policy")
    loaded = SB3ActorCriticPolicy.load(tmp_path / "policy")
    assert all(map(th.equal, loaded.parameters(), policy.parameters()))


def test_without_being_asked_for_there_is_no_q_critic() -> None:
    ours, theirs = build(), build(SB3ActorCriticPolicy)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(th.equal(ours.state_dict()[key], weight) for key, weight in theirs.state_dict().items())


def test_a_policy_with_a_q_critic_is_saved_and_loaded_with_it(tmp_path: Any) -> None:
    policy = build(q_critic=True)
    policy.save(tmp_path / "policy.pt")
    loaded = ActorCriticPolicy.load(tmp_path / "policy.pt", device="cpu")
    observations, actions = observations_of(policy), actions_of(policy)
    for ours, theirs in zip(
        policy.predict_values_and_q(observations, actions),
        loaded.predict_values_and_q(observations, actions),
        strict=True,
    ):
        assert th.equal(ours, theirs)


def test_the_policys_own_optimizer_has_the_q_critic_too() -> None:
    policy = build(q_critic=True)
    assert sorted(in_optimizer(policy.optimizer)) == sorted(map(id, policy.parameters()))


# -- overriding ------------------------------------------------------------------------------------------------------


class OwnValues(ActorCriticPolicy):
    def predict_values(self, obs: Any) -> th.Tensor:
        return super().predict_values(obs) + 1


class OwnEvaluation(ActorCriticPolicy):
    """Twice the log-probability, so that one can see who computed it."""

    def evaluate_actions(self, obs: Any, actions: th.Tensor) -> Any:
        values, log_probs, entropy = super().evaluate_actions(obs, actions)
        return values, 2 * log_probs, entropy


class OwnDistribution(ActorCriticPolicy):
    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Any:
        return super()._get_action_dist_from_latent(3 * latent_pi)


class OwnFeatures(ActorCriticPolicy):
    def extract_features(self, obs: Any, features_extractor: Any = None) -> Any:
        features = super().extract_features(obs, features_extractor)
        return tuple(3 * part for part in features) if isinstance(features, tuple) else 3 * features


METHODS = ("forward", "evaluate_actions", "predict_values", "get_distribution", "extract_features")


@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy", "SB3's own policy"])
def test_a_stock_policy_overrides_nothing(policy: str) -> None:
    assert not overrides(POLICIES[policy](), *METHODS)


def test_a_method_of_a_subclass_is_seen() -> None:
    policy = build(OwnValues)
    assert overrides(policy, "predict_values")
    assert overrides(policy, *METHODS)
    assert not overrides(policy, *(set(METHODS) - {"predict_values"}))


def test_a_method_of_a_subclass_of_a_subclass_is_seen() -> None:
    class Deeper(OwnValues):
        """Nothing of its own."""

    assert overrides(build(Deeper), "predict_values")


def test_a_compiled_policy_overrides_what_the_policy_in_it_does() -> None:
    assert not overrides(th.compile(build(), backend="eager"), "forward", "evaluate_actions")  # type: ignore[arg-type]


def test_a_method_put_on_the_instance_is_seen() -> None:
    policy = build()
    policy.forward = MethodType(lambda self, obs, deterministic=False: None, policy)  # noqa: ARG005
    assert overrides(policy, "forward")
    assert not overrides(policy, "evaluate_actions", "predict_values")


# -- log-probabilities ------------------------------------------------------------------------------------------------


def assert_evaluates_as_sb3_does(policy: Any) -> None:
    observations, actions = observations_of(policy), actions_of(policy)
    log_probs, entropy = evaluate_log_probs(policy, observations, actions)
    _, expected_log_probs, expected_entropy = policy.evaluate_actions(observations, actions)
    assert log_probs.shape == (5,)
    assert th.allclose(log_probs, expected_log_probs, rtol=0, atol=1e-6)
    if expected_entropy is None:
        assert entropy is None
    else:
        assert th.allclose(entropy, expected_entropy, rtol=0, atol=1e-6)


@pytest.mark.parametrize("action_space", list(ACTION_SPACES))
@pytest.mark.parametrize("shared", [False, True])
def test_log_probabilities_and_entropy_are_evaluate_actions_for_every_action_space(
    action_space: str, shared: bool
) -> None:
    assert_evaluates_as_sb3_does(build(action_space=ACTION_SPACES[action_space], share_features_extractor=shared))


@pytest.mark.parametrize("policy", list(POLICIES))
def test_log_probabilities_are_evaluate_actions_for_every_policy(policy: str) -> None:
    assert_evaluates_as_sb3_does(POLICIES[policy]())


@pytest.mark.parametrize("squash_output", [False, True])
def test_log_probabilities_are_evaluate_actions_with_gsde_also_where_the_entropy_has_no_closed_form(
    squash_output: bool,
) -> None:
    policy = build(action_space=ACTION_SPACES["Box"], use_sde=True, squash_output=squash_output)
    assert_evaluates_as_sb3_does(policy)
    _, entropy = evaluate_log_probs(policy, observations_of(policy), actions_of(policy))
    assert (entropy is None) == squash_output


@pytest.mark.parametrize("policy_class", [OwnEvaluation, OwnDistribution, OwnFeatures, SharedTrunkPolicy])
def test_log_probabilities_are_evaluate_actions_for_a_policy_that_overrides_its_parts(policy_class: Any) -> None:
    policy = build(policy_class)
    with th.no_grad():
        policy.action_net.weight.fill_(1).cumsum_(dim=0)  # unlike actions, so that a difference can be seen
    assert_evaluates_as_sb3_does(policy)


def test_an_evaluate_actions_put_on_the_instance_is_used() -> None:
    policy = build()
    policy.evaluate_actions = lambda obs, actions: (None, th.full((len(obs),), -7.0), None)  # noqa: ARG005
    log_probs, entropy = evaluate_log_probs(policy, observations_of(policy), actions_of(policy))
    assert log_probs.tolist() == [-7.0] * 5
    assert entropy is None


def test_the_critic_is_left_out_of_the_log_probabilities_of_a_stock_policy() -> None:
    policy = build()
    policy.value_net.register_forward_hook(lambda *_: pytest.fail("the critic was called"))
    evaluate_log_probs(policy, observations_of(policy), actions_of(policy))


# -- the faster tanh -------------------------------------------------------------------------------------------------


def test_the_numpy_tanh_is_tanh_with_its_gradient() -> None:
    x = th.linspace(-6, 6, 25, dtype=th.float64).reshape(5, 5).requires_grad_()
    assert th.allclose(NumpyTanh()(x), th.tanh(x), rtol=0, atol=1e-15)
    assert th.autograd.gradcheck(NumpyTanh(), (x,))
    single = x.detach().float()
    assert NumpyTanh()(single).dtype == th.float32
    assert th.allclose(NumpyTanh()(single), th.tanh(single), rtol=0, atol=1e-6)


def test_the_numpy_tanh_keeps_a_policys_function_and_the_names_of_its_weights() -> None:
    policy, stock = build(net_arch=[4, 4]), build(net_arch=[4, 4])
    use_numpy_tanh(policy)
    assert sum(isinstance(module, NumpyTanh) for module in policy.modules()) == 4
    assert list(policy.state_dict()) == list(stock.state_dict())
    observations, actions = observations_of(stock), actions_of(stock)
    for ours, theirs in zip(
        policy.evaluate_actions(observations, actions), stock.evaluate_actions(observations, actions), strict=True
    ):
        assert th.allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("policy", [lambda: build(activation_fn=nn.ReLU), lambda: build(MisleadingPolicy)])
def test_other_activations_and_a_users_networks_stay_as_they_are(policy: Any) -> None:
    built = policy()
    before = list(built.modules())
    use_numpy_tanh(built)
    assert list(built.modules()) == before


@pytest.mark.parametrize(
    ("modules", "plain"),
    [
        ([nn.Linear(3, 2)], True),
        ([nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)], True),
        ([nn.Linear(3, 4), NumpyTanh(), nn.Linear(4, 2)], True),
        ([nn.Linear(3, 4), nn.Tanh()], False),
        ([nn.Linear(3, 4), nn.ELU(), nn.Linear(4, 2)], False),
        ([nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)], False),
        ([nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 2)], False),
        ([nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2).double()], False),
        ([], False),
    ],
)
def test_only_linear_layers_with_tanh_or_relu_between_are_a_plain_mlp(modules: list[nn.Module], plain: bool) -> None:
    assert is_plain_mlp(modules) is plain


# torch's own jvp scripts its decompositions
@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:DeprecationWarning")
def test_the_numpy_tanh_goes_through_torchs_function_transforms() -> None:
    x, tangent = th.randn(5, 3, dtype=th.float64), th.randn(5, 3, dtype=th.float64)
    for tanh, reference in ((NumpyTanh(), nn.Tanh()), (nn.Sequential(nn.Linear(3, 3), NumpyTanh()).double(), None)):
        stock = reference or nn.Sequential(tanh[0], nn.Tanh())
        for network in (tanh, stock):
            assert network(x).shape == x.shape
        for transform in (
            lambda network: th.func.vmap(network)(x),
            lambda network: th.func.vmap(th.func.grad(lambda row, network=network: network(row).sum()))(x),
            lambda network: th.func.vmap(th.func.jacrev(network))(x),
            lambda network: th.func.jvp(network, (x,), (tangent,))[1],
        ):
            th.testing.assert_close(transform(tanh), transform(stock))


@pytest.mark.parametrize("dtype", [th.float16, th.bfloat16])
def test_the_numpy_tanh_takes_short_floats_as_torch_does(dtype: th.dtype) -> None:
    x = th.linspace(-2, 2, 7).to(dtype)
    th.testing.assert_close(NumpyTanh()(x), th.tanh(x))
