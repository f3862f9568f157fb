"""SB3's actor-critic policies with one optimizer for the actor and one for the critic, and a Q critic on request."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import ActorCriticCnnPolicy as SB3CnnPolicy
from stable_baselines3.common.policies import ActorCriticPolicy as SB3ActorCriticPolicy
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.policies import MultiInputActorCriticPolicy as SB3MultiInputPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_pg.schedules import Schedule

STOCK_DISTRIBUTIONS = (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
"""SB3's distributions whose parameters are what a linear layer puts out."""


class QCriticMixin(SB3ActorCriticPolicy):
    """Adds a head for Q(s, a) beside the head for V(s); all else is SB3's policy.

    :param q_critic: build the head; it stands on the critic's latent features and gives one value per action.
        Discrete actions only. VPG sets it for ``estimator="q"`` and ``"q_minus_v"``.
    """

    def __init__(self, *args: Any, q_critic: bool = False, **kwargs: Any) -> None:
        self.q_critic = q_critic  # before SB3's constructor, which calls _build() at its end
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        if self.q_critic:
            if not isinstance(self.action_space, spaces.Discrete):
                raise ValueError(f"estimator='q' and 'q_minus_v' need a Discrete action space, not {self.action_space}")
            self.q_net = nn.Linear(self.mlp_extractor.latent_dim_vf, int(self.action_space.n))
            self.optimizer = self.optimizer_class(
                self.parameters(),
                lr=lr_schedule(1),  # type: ignore[call-arg]
                **self.optimizer_kwargs,
            )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # SB3 leaves share_features_extractor out, and a loaded policy would mix the two extractors up
        own = {"share_features_extractor": self.share_features_extractor}
        if self.q_critic:  # SB3's own class, which can load a policy without it, does not know it
            own["q_critic"] = True
        return {**super()._get_constructor_parameters(), **own}

    def predict_values_and_q(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """V(s) and Q(s, a) of the given actions.

        :param obs: observations, as torch tensors with a batch dimension
        :param actions: actions taken, shape ``(batch,)``
        :return: two tensors of shape ``(batch,)``
        """
        features = BasePolicy.extract_features(self, obs, self.vf_features_extractor)
        latent = self.mlp_extractor.forward_critic(features)
        q_values = self.q_net(latent).gather(1, actions.long().reshape(-1, 1))
        return self.value_net(latent).flatten(), q_values.flatten()


class _NumpyTanhFunction(th.autograd.Function):
    """Hyperbolic tangent by NumPy, whose vectorised version is several times faster than torch's on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: th.Tensor) -> th.Tensor:
        """Return tanh(x)."""
        y = th.from_numpy(np.tanh(x.detach().numpy()))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: th.Tensor) -> th.Tensor:
        """Return the gradient times 1 - tanh(x)^2."""
        (y,) = ctx.saved_tensors
        gradient: th.Tensor = th.ops.aten.tanh_backward(gradients[0], y)
        return gradient


class NumpyTanh(nn.Tanh):
    """``nn.Tanh`` that uses NumPy where that is faster: on a CPU, in 32 or 64 bits, where nothing traces."""

    def forward(self, input: th.Tensor) -> th.Tensor:
        """Return tanh of the input."""
        traced = th.jit.is_tracing() or th.compiler.is_compiling()  # type: ignore[attr-defined,no-untyped-call]
        # torch asks itself so. A function that goes through its transforms costs 30 microseconds more at every call
        transformed = th._C._are_functorch_transforms_active()
        if traced or transformed or input.device.type != "cpu" or input.dtype not in (th.float32, th.float64):
            return super().forward(input)
        tanh: th.Tensor = _NumpyTanhFunction.apply(input)  # type: ignore[no-untyped-call]
        return tanh


def use_numpy_tanh(policy: SB3ActorCriticPolicy) -> None:
    """Replace ``nn.Tanh`` by :class:`NumpyTanh` in the policy's multilayer perceptrons: same function, same weights."""
    for network in (getattr(policy.mlp_extractor, name, None) for name in ("policy_net", "value_net")):
        if isinstance(network, nn.Sequential):
            for index, module in enumerate(network):
                if type(module) is nn.Tanh:
                    network[index] = NumpyTanh()


class ActorCriticPolicy(QCriticMixin, SB3ActorCriticPolicy):
    """MlpPolicy: SB3's ``ActorCriticPolicy``."""


class ActorCriticCnnPolicy(QCriticMixin, SB3CnnPolicy):
    """CnnPolicy: SB3's ``ActorCriticCnnPolicy``."""


class MultiInputActorCriticPolicy(QCriticMixin, SB3MultiInputPolicy):
    """MultiInputPolicy: SB3's ``MultiInputActorCriticPolicy``, for Dict observations."""


MlpPolicy = ActorCriticPolicy
CnnPolicy = ActorCriticCnnPolicy
MultiInputPolicy = MultiInputActorCriticPolicy


def is_plain_mlp(modules: list[nn.Module]) -> bool:
    """Whether the modules are Linear, activation, Linear, ..., Linear, in float32, with Tanh or ReLU between."""
    linear, between = modules[0::2], modules[1::2]
    return (
        len(modules) % 2 == 1
        and all(type(m) is nn.Linear and m.bias is not None and m.weight.dtype == th.float32 for m in linear)
        and all(type(m) in (nn.Tanh, NumpyTanh, nn.ReLU) for m in between)
    )


def why_not_plain(
    policy: SB3ActorCriticPolicy, methods: tuple[str, ...], features_extractor: nn.Module, modules: list[nn.Module]
) -> str:
    """What keeps a multilayer perceptron on flat observations from being exactly one half of this policy.

    :param methods: SB3's methods that the half goes through
    :param features_extractor: the half's
    :param modules: the half's layers, in order
    :return: the first reason; empty if there is none
    """
    space = policy.observation_space
    checks = {
        "not on the CPU": policy.device.type != "cpu",
        f"{type(policy).__name__} overrides how this is made": overrides(policy, *methods),
        "observations are not a Box of numbers": not isinstance(space, spaces.Box) or space.dtype.kind != "f",
        f"features extractor {type(features_extractor).__name__}": type(features_extractor) is not FlattenExtractor,
        f"network {type(policy.mlp_extractor).__name__}": type(policy.mlp_extractor) is not MlpExtractor,
        "a layer that is neither Linear, Tanh nor ReLU": not is_plain_mlp(modules),
        "hooks on the policy": any(module._forward_hooks or module._forward_pre_hooks for module in policy.modules()),
    }
    return next((reason for reason, applies in checks.items() if applies), "")


def rms_prop(eps: float) -> dict[str, Any]:
    """The ``policy_kwargs`` that SB3's A2C adds for ``use_rms_prop``, and VPG as it does."""
    return dict(optimizer_class=th.optim.RMSprop, optimizer_kwargs=dict(alpha=0.99, eps=eps, weight_decay=0))


def sample_observation(policy: SB3ActorCriticPolicy) -> PyTorchObs:
    """One observation of the policy's space, as a batch of one; the global random state is left alone."""
    space = policy.observation_space

    def zeros(part: spaces.Space[Any]) -> np.ndarray[Any, Any]:
        return np.zeros(part.shape or (), dtype=part.dtype)

    observation = {key: zeros(part) for key, part in space.items()} if isinstance(space, spaces.Dict) else zeros(space)
    return policy.obs_to_tensor(observation)[0]


def split_parameters(
    policy: SB3ActorCriticPolicy, has_critic: bool = True
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Divide a policy's parameters into the actor's and the critic's.

    The critic's are those that the values depend on, found by following the graph of one forward pass, so that it
    holds for any policy whatever its layers are called. All others are the actor's.

    :param policy: to be divided
    :param has_critic: whether values will be learnt; if not, parameters that serve both are the actor's
    :raises ValueError: when a parameter serves both; two optimizers would then pull at it
    """
    policy.set_training_mode(False)
    frozen = [parameter for parameter in policy.parameters() if not parameter.requires_grad]
    for parameter in frozen:  # for this once: it may learn later
        parameter.requires_grad = parameter.is_floating_point()
    try:
        actor, critic = _dependencies(policy)
    finally:
        for parameter in frozen:
            parameter.requires_grad = False
    shared = [name for name, parameter in policy.named_parameters() if id(parameter) in actor & critic]
    if not has_critic:
        critic -= actor
    elif shared:
        raise ValueError(
            f"joint_optimizer=False, but actor and critic share the parameters {', '.join(shared[:3])}"
            f"{' ...' if len(shared) > 3 else ''}; accepted are joint_optimizer=True, or a policy that shares none "
            "(policy_kwargs=dict(share_features_extractor=False))"
        )
    parameters = list(policy.parameters())
    return [p for p in parameters if id(p) not in critic], [p for p in parameters if id(p) in critic]


def _dependencies(policy: SB3ActorCriticPolicy) -> tuple[set[int], set[int]]:
    """Identities of the parameters that log-probabilities depend on, and of those that values do."""
    observation = sample_observation(policy)
    action = policy.get_distribution(observation).get_actions(deterministic=True).detach()
    log_prob = evaluate_log_probs(policy, observation, action)[0].sum()
    values = policy.predict_values(observation).sum() + evaluate_values(policy, observation, action).sum()
    if getattr(policy, "q_critic", False):
        first_action = th.zeros(1, device=policy.device)
        with_q: Any = policy  # a QCriticMixin, or one that torch.compile has wrapped
        values = values + sum(part.sum() for part in with_q.predict_values_and_q(observation, first_action))
    actor, critic = _reached(log_prob, policy), _reached(values, policy)
    with th.no_grad():
        policy.get_distribution(observation)  # the policy keeps the last one, and a graph in it could not be copied
    return actor, critic


def has_split_optimizers(policy: SB3ActorCriticPolicy) -> bool:
    """Whether the two optimizers are there, and each has weights of its own, all of them the policy's.

    They are not after a layer was replaced, or another policy was put in, with one optimizer for all as SB3's have.
    """
    critic = getattr(policy, "critic_optimizer", None)
    if critic is None:
        return False
    of_actor, of_critic = ({id(weight) for weight in weights_of(optimizer)} for optimizer in (policy.optimizer, critic))
    return of_actor.isdisjoint(of_critic) and of_actor | of_critic <= {id(weight) for weight in policy.parameters()}


def is_as_built(policy: SB3ActorCriticPolicy) -> bool:
    """Whether ``policy.optimizer`` is what ``optimizer_class`` and ``optimizer_kwargs`` make of all parameters.

    It is not where a policy builds one of its own, or a user has put one in: of another class, with groups, or with
    other options than these and the class's own.
    """
    build: Any = policy.optimizer_class
    if not isinstance(build, type):
        return True  # a function, which may not be asked twice
    if type(policy.optimizer) is not build or len(policy.optimizer.param_groups) != 1:
        return False
    alike = (build([nn.Parameter(th.zeros(1))], **{"lr": 1.0, **kwargs}) for kwargs in (policy.optimizer_kwargs, {}))
    return any(_options(each) == _options(policy.optimizer) for each in alike)


def _options(optimizer: th.optim.Optimizer) -> dict[str, Any]:
    """What changes its steps: without the learning rate, which is set anew, and the kind of kernel."""
    others = ("params", "lr", "initial_lr", "fused", "foreach")
    return {name: value for name, value in optimizer.param_groups[0].items() if name not in others}


def split_optimizers(
    policy: SB3ActorCriticPolicy, learning_rate: float, vf_learning_rate: float, has_critic: bool = True
) -> None:
    """Give the policy two optimizers, ``policy.optimizer`` (actor) and ``policy.critic_optimizer``.

    Both are of the policy's ``optimizer_class`` with its ``optimizer_kwargs``.

    :param learning_rate: the actor's
    :param vf_learning_rate: the critic's
    :param has_critic: see :func:`split_parameters`
    :raises ValueError: see :func:`split_parameters`
    """
    actor, critic = split_parameters(policy, has_critic)
    build: Any = policy.optimizer_class
    kwargs = dict(policy.optimizer_kwargs)
    if build is th.optim.Adam:
        kwargs = {"fused": "foreach" not in kwargs, **kwargs}  # one kernel for all parameters: the same step, faster
    # As groups, which may be empty: values may depend on no weight at all
    policy.optimizer = build([{"params": actor}], lr=learning_rate, **kwargs)
    policy.critic_optimizer = build([{"params": critic}], lr=vf_learning_rate, **kwargs)


def weights_of(optimizer: th.optim.Optimizer) -> list[th.Tensor]:
    """All that an optimizer changes, in its order."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def learns(optimizer: th.optim.Optimizer) -> bool:
    """Whether it has a weight that is not frozen; losses of none have no gradient."""
    return any(weight.requires_grad for weight in weights_of(optimizer))


def overrides(policy: SB3ActorCriticPolicy, *names: str) -> bool:
    """Whether the policy has its own version of one of SB3's methods, by subclassing or on the instance."""
    policy = getattr(policy, "_orig_mod", policy)  # of torch.compile
    return any(
        name in vars(policy) or getattr(type(policy), name) is not getattr(SB3ActorCriticPolicy, name) for name in names
    )


# SB3's forward and evaluate_actions go through these; its get_distribution and predict_values pass extract_features by
_EVALUATING_METHODS = ("evaluate_actions", "extract_features")


def evaluate_values(policy: SB3ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor) -> th.Tensor:
    """Values, without the actor's forward pass where the policy allows it.

    :return: shape ``(batch,)``
    """
    if overrides(policy, *_EVALUATING_METHODS):
        return policy.evaluate_actions(observations, actions)[0].flatten()
    return policy.predict_values(observations).flatten()


def evaluate_log_probs(
    policy: SB3ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor
) -> tuple[th.Tensor, th.Tensor | None]:
    """Log-probability of actions and entropy, without the critic's forward pass where the policy allows it.

    :return: ``(log_probs, entropy)``, each of shape ``(batch,)``; the entropy is None where it has no closed form
    """
    if overrides(policy, *_EVALUATING_METHODS):
        _, log_probs, entropy = policy.evaluate_actions(observations, actions)
    else:
        distribution = policy.get_distribution(observations)
        log_probs, entropy = distribution.log_prob(actions), distribution.entropy()
    return log_probs, entropy


def _reached(output: th.Tensor, policy: nn.Module) -> set[int]:
    """Identities of the parameters that ``output`` depends on."""
    parameters = [p for p in policy.parameters() if p.requires_grad]
    if not output.requires_grad:
        return set()
    gradients = th.autograd.grad(output, parameters, allow_unused=True, retain_graph=True)
    return {id(p) for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
