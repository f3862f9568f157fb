"""How the library's gradients are measured against exact ones; used by verify_gradients.py and by the tests.

Two levels: estimators and baselines on arrays that are drawn in NumPy, a million episodes in seconds; and VPG itself,
from the environment to the gradients of its actor, with a learning rate of zero.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import combinations_with_replacement, product
from math import factorial
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg import REINFORCE, VPG
from sb3_pg.advantage.baselines import critic_free, get_baseline
from sb3_pg.advantage.estimators import Trajectories, get_estimator, segments
from sb3_pg.checks import TRUNCATIONS
from sb3_pg.envs.finite_mdp import FiniteMDPVectorEnv, line_world
from sb3_pg.exact.expectation import expected_episodes, expected_gradient
from sb3_pg.exact.mdp import Array, FiniteMDP, Policy, Solution, score_sum, softmax_policy, solve
from sb3_pg.exact.problems import random_chain, short_or_long, two_state, two_state_policy
from sb3_pg.exact.sampling import Measurement, Rollout, all_episodes, sample, score_sums
from sb3_pg.policies import ActorCriticPolicy
from sb3_pg.rollout.collector import BatchRule
from sb3_pg.rollout.vec_env import VectorEnvAdapter

# A larger |z| fails. Of a thousand right numbers, one run in sixteen would have one.
LARGEST_Z = 4.0

# -- problems --------------------------------------------------------------------------------------------------------


class Problem(NamedTuple):
    """An MDP, a policy, and critics for it."""

    mdp: FiniteMDP
    policy: Policy
    solution: Solution
    """Of the task without its time limit, unless that is a part of the task."""
    critics: dict[str, tuple[Array, Array]]
    """Values and Q-values, by the name of the critic."""


def make_problem(mdp: FiniteMDP, policy: Policy) -> Problem:
    """Add an exact critic, of the task without its limit, and a wrong one.

    Where the limit is a part of the task, the exact critic is what is best without a clock: the mean over the times at
    which a state is visited.
    """
    solution = solve(mdp if mdp.limit_is_terminal else dataclasses.replace(mdp, time_limit=None), policy)
    values, q_values = solution.values, solution.q_values
    if mdp.limit_is_terminal:
        visits = solution.visits.sum(axis=0)
        shares = solution.visits / np.where(visits > 0, visits, 1.0)
        values, q_values = (shares * values).sum(axis=0), (shares[..., None] * q_values).sum(axis=0)
    noise = np.random.default_rng(5)
    wrong = values + noise.normal(0, 0.7, values.shape), q_values + noise.normal(0, 0.7, q_values.shape)
    nothing = np.zeros_like(values), np.zeros_like(q_values)
    return Problem(mdp, policy, solution, {"none": nothing, "exact": (values, q_values), "wrong": wrong})


@cache
def problem(name: str) -> Problem:
    """The problem of a case."""
    chain_policy = softmax_policy(np.random.default_rng(1).normal(size=(6, 3)))
    if name == "chain":
        return make_problem(random_chain(seed=9), chain_policy)
    if name == "limited chain":
        return make_problem(random_chain(seed=9, time_limit=5), chain_policy)
    if name == "often limited chain":
        return make_problem(random_chain(seed=3, time_limit=2), chain_policy)
    if name == "two-state":
        return make_problem(two_state(), two_state_policy(0.4))
    if name == "short or long":
        return make_problem(short_or_long(12), softmax_policy(np.random.default_rng(1).normal(size=(13, 2))))
    if name == "LineWorld":
        mdp = line_world(gamma=0.9)
        return make_problem(mdp, softmax_policy(np.random.default_rng(2).normal(size=(100, 3))))
    raise ValueError(f"name={name!r} is unknown")


# -- estimators and baselines on arrays ------------------------------------------------------------------------------


class Batch(NamedTuple):
    """When an environment has given its share, in the words of VPG's parameters."""

    n_steps: int = 1
    n_episodes: int | None = None
    whole_episodes: bool = False

    @property
    def n_envs(self) -> int:
        """Environments that make one sample of a gradient: a thousand episodes, more or less."""
        return 1000 // (self.n_episodes or max(1, self.n_steps // 3))

    @property
    def rule(self) -> BatchRule:
        """The library's own."""
        return BatchRule(self.n_steps, self.n_episodes, self.whole_episodes)

    def __str__(self) -> str:
        if self.n_episodes:
            return f"{self.n_episodes} whole episode{'s' * (self.n_episodes > 1)}"
        return f"whole episodes of at least {self.n_steps} steps" if self.whole_episodes else f"{self.n_steps} steps"


class Case(NamedTuple):
    """One combination that the library offers."""

    problem: str
    batch: Batch
    estimator: str
    gae_lambda: float = 1.0
    baseline: str = "value"
    critic: str = "none"
    truncation: str = "bootstrap"
    state_discount: bool = False

    @property
    def words(self) -> str:
        """The combination, without its problem and its batch."""
        words = [self.estimator + (f" λ={self.gae_lambda:g}" if self.estimator == "gae" else "")]
        words += [f"{self.critic} critic"] if self.baseline == "value" else [f"baseline {self.baseline}"]
        words += [self.truncation] if self.is_truncated else []
        words += ["state_discount"] if self.state_discount else []
        return ", ".join(words)

    def __str__(self) -> str:
        return f"{self.words}, {self.batch}, {self.problem}"

    @property
    def is_truncated(self) -> bool:
        """Whether there is a time limit that is no part of the task."""
        mdp = problem(self.problem).mdp
        return mdp.time_limit is not None and not mdp.limit_is_terminal

    @property
    def looks_at_itself(self) -> bool:
        """Whether an action has a part in its own baseline, which takes away a share of the order of 1/N."""
        # In a batch of at least so many steps, the length of an episode decides which others there are
        return self.baseline in ("mean", "time_mean") or (
            self.baseline == "leave_one_out" and self.batch.whole_episodes
        )

    @property
    def is_unbiased(self) -> bool:
        """What theory promises; the page explains it."""
        is_monte_carlo = self.estimator in ("total_return", "reward_to_go") or (
            self.estimator == "gae" and self.gae_lambda == 1.0
        )
        cut, mdp = self.batch.rule.cuts_episodes, problem(self.problem).mdp
        if self.is_truncated and self.truncation == "discard":
            return False
        if self.estimator in ("q", "q_minus_v") and cut:
            return self.critic == "exact"
        if mdp.limit_is_terminal or (self.is_truncated and self.truncation == "terminal"):
            # What is expected at a state depends on the time left, which no critic of the state knows
            return is_monte_carlo and not cut
        bootstraps = self.is_truncated or cut
        return self.critic == "exact" or (is_monte_carlo and not bootstraps)


ONE_EPISODE, SEVERAL = Batch(n_episodes=1), Batch(n_episodes=10)
AT_LEAST, CUT = Batch(25, whole_episodes=True), Batch(7)
CRITICS = ("exact", "wrong")
MONTE_CARLO = (("total_return", 1.0), ("reward_to_go", 1.0))
# GAE with lambda 0 and 1 is td_residual and reward_to_go, number for number: tests/advantage/
WITH_CRITIC = (
    *MONTE_CARLO, ("gae", 0.95), ("gae", 0.5), ("td_residual", 0.0), ("n_step:3", 1.0), ("q", 1.0), ("q_minus_v", 1.0),
)  # fmt: skip


def array_cases() -> Iterator[Case]:
    """Every combination of estimator, baseline, truncation and batch that VPG accepts, on problems that tell."""
    batches = {"chain": (SEVERAL, AT_LEAST, CUT), "limited chain": (ONE_EPISODE, SEVERAL, AT_LEAST, CUT)}
    for name, truncations in (("chain", TRUNCATIONS[:1]), ("limited chain", TRUNCATIONS)):
        for truncation, batch in product(truncations, batches[name]):
            cut = batch.rule.cuts_episodes
            for (estimator, lam), baseline in product(() if cut else MONTE_CARLO, critic_free()):
                yield Case(name, batch, estimator, lam, baseline, truncation=truncation)
            for (estimator, lam), critic in product(WITH_CRITIC[1:] if cut else WITH_CRITIC, CRITICS):
                yield Case(name, batch, estimator, lam, "value", critic, truncation)
    for batch, (estimator, lam), critic in product((SEVERAL, CUT), WITH_CRITIC[1:], CRITICS):
        yield Case("chain", batch, estimator, lam, "value", critic, state_discount=True)
    for baseline in critic_free():
        yield Case("chain", SEVERAL, "reward_to_go", 1.0, baseline, state_discount=True)
        yield Case("LineWorld", ONE_EPISODE, "reward_to_go", 1.0, baseline)
    for (estimator, lam), batch in product(MONTE_CARLO, (SEVERAL, AT_LEAST)):
        yield Case("two-state", batch, estimator, lam, "none")
        yield Case("short or long", batch, estimator, lam, "none")


def expectation(case: Case, *, endless: bool = False) -> Array:
    """What the combination gives in expectation, exactly.

    :param case: the combination
    :param endless: for batches of infinitely many episodes, in which no action has a part in its own baseline;
        otherwise of as many as are measured. What ``mean`` then takes away is below what can be measured; small batches
        are counted out in :func:`counted`
    """
    mdp, policy, _, critics = problem(case.problem)
    values, q_values = critics[case.critic]
    n_steps = case.batch.n_steps if case.batch.rule.cuts_episodes else None
    n_episodes = None
    if case.baseline == "time_mean" and not endless:
        each = case.batch.n_episodes or expected_episodes(mdp, policy, case.batch.n_steps)
        n_episodes = round(each * case.batch.n_envs)
    gradient = expected_gradient(
        mdp, policy, case.estimator, gae_lambda=case.gae_lambda, values=values, q_values=q_values,
        truncation=case.truncation, state_discount=case.state_discount, n_steps=n_steps, n_batches=2,
        baseline=LIMITS.get(case.baseline, "none"), n_episodes=n_episodes,
    )  # fmt: skip
    return gradient * _episodes_by_divisor(case)


# What a baseline is in a batch of very many episodes
LIMITS = {"mean": "mean", "time_mean": "time_mean", "leave_one_out": "time_mean"}


def true_gradient(case: Case) -> Array:
    """The gradient that an unbiased combination gives in expectation."""
    mdp, policy, solution, _ = problem(case.problem)
    discounted = case.state_discount or case.estimator == "total_return"
    limited = solve(mdp, policy)
    if case.batch.rule.cuts_episodes:
        exact = problem(case.problem).critics["exact"][0]
        n_steps = case.batch.n_steps
        return expected_gradient(
            mdp, policy, values=exact, n_steps=n_steps, n_batches=2, state_discount=case.state_discount
        )
    if case.truncation == "bootstrap":
        q_values = solution.q_values
        return (
            score_sum(policy, limited.discounted_visits if discounted else limited.visits, q_values)
        ) * _episodes_by_divisor(case)
    return (limited.gradient if discounted else limited.semi_gradient) * _episodes_by_divisor(case)


def _episodes_by_divisor(case: Case) -> float:
    """Episodes in the batch, in expectation, for each unit of the constant that its sum is divided by."""
    if case.batch.whole_episodes:
        mdp, policy, _, _ = problem(case.problem)
        return expected_episodes(mdp, policy, case.batch.n_steps) / case.batch.n_steps
    return 1.0


def bias(case: Case) -> tuple[float, float]:
    """How the expectation differs from the true gradient: in length (a share of it), and in direction (degrees)."""
    exact, target = expectation(case, endless=True), true_gradient(case)
    cosine = exact @ target / np.linalg.norm(exact) / np.linalg.norm(target)
    return float(exact @ target / (target @ target)) - 1.0, float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def keeps_its_promise(case: Case) -> bool:
    """Whether the exact expectation is the true gradient where theory says so, and is not where it says it is not."""
    exact, target = expectation(case, endless=True), true_gradient(case)
    return bool(np.allclose(exact, target, rtol=0, atol=1e-9)) == case.is_unbiased


def measure_arrays(
    cases: Iterable[Case], n_samples: int, advance: Callable[[int], Any] | None = None
) -> dict[Case, Measurement]:
    """Measure combinations, those of the same problem and batch on the same experience.

    :param cases: what to measure
    :param n_samples: gradients for each, each of about a thousand episodes
    :param advance: called with the number of cases measured
    """
    together: dict[tuple[str, Batch], list[Case]] = defaultdict(list)
    for case in cases:
        together[case.problem, case.batch].append(case)
    measured = {}
    for (name, batch), group in together.items():
        rng, samples = np.random.default_rng(7), defaultdict(list)
        for first in range(0, n_samples, 50):
            rollout = draw(problem(name), batch, rng, min(50, n_samples - first) * batch.n_envs)
            for case in group:
                samples[case].append(gradients(case, rollout, batch.n_envs))
        measured |= {case: Measurement(np.concatenate(parts)) for case, parts in samples.items()}
        if advance is not None:
            advance(len(group))
    return measured


def draw(of: Problem, batch: Batch, rng: np.random.Generator, n_envs: int) -> Rollout:
    """Experience for two batches of fixed steps, one after the other, or for one of whole episodes."""
    if batch.rule.cuts_episodes:
        return sample(of.mdp, of.policy, n_envs, rng, n_steps=2 * batch.n_steps)
    if batch.n_episodes:
        return sample(of.mdp, of.policy, n_envs, rng, n_episodes=batch.n_episodes)
    return sample(of.mdp, of.policy, n_envs, rng, n_steps=batch.n_steps, whole_episodes=True)


def gradients(case: Case, rollout: Rollout, group_size: int) -> Array:
    """The combination's gradient for groups of environments, shape ``(n_groups, n_parameters)``."""
    if case.truncation == "discard":
        rollout = rollout._replace(valid=rollout.valid & _kept(rollout, case.batch))
    n_envs = rollout.states.shape[1]
    groups = np.arange(n_envs) // group_size
    if case.batch.rule.cuts_episodes:
        half = case.batch.n_steps
        weights = np.concatenate([advantages(case, rollout.rows(first, first + half)) for first in (0, half)])
        divisor = 2 * half * group_size
    else:
        # Baselines belong to a batch; the estimators alone take all of them at once
        size = n_envs if case.baseline in ("none", "value") else group_size
        parts = [_columns(rollout, slice(first, first + size)) for first in range(0, n_envs, size)]
        weights = np.concatenate([advantages(case, part) for part in parts], axis=1)
        divisor = case.batch.rule.normaliser(group_size)
    if case.state_discount:
        weights = weights * problem(case.problem).mdp.gamma ** rollout.times
    return score_sums(problem(case.problem).policy, rollout, weights, groups) / divisor


def advantages(case: Case, rollout: Rollout) -> Array:
    """What the library's estimator and baseline make of the experience."""
    mdp, _, _, critics = problem(case.problem)
    values, q_values = critics[case.critic]
    stands_for_rest = ~rollout.terminated if case.truncation == "bootstrap" else ~rollout.dones
    trajectories = Trajectories(
        rewards=rollout.rewards,
        dones=rollout.dones,
        values=values[rollout.states],
        next_values=np.where(stands_for_rest, values[rollout.next_states], 0.0),
        times=rollout.times,
        valid=rollout.valid,
        q_values=q_values[rollout.states, rollout.actions],
    )
    psi = get_estimator(case.estimator).function(trajectories, gamma=mdp.gamma, gae_lambda=case.gae_lambda)
    return psi - get_baseline(case.baseline)(psi, trajectories)


def _columns(rollout: Rollout, which: Any) -> Rollout:
    return Rollout(*(array[:, which] for array in rollout))


def _kept(rollout: Rollout, batch: Batch) -> NDArray[np.bool_]:
    """Steps of episodes that no time limit ends within their batch."""
    _, numbers = segments(rollout.dones, rollout.valid, batch.n_steps if batch.rule.cuts_episodes else None)
    return ~np.isin(numbers, numbers[rollout.truncated])


# -- expectations by counting ----------------------------------------------------------------------------------------


def short_two_state() -> Problem:
    """The two-state problem with a limit of three steps, which has four episodes."""
    return make_problem(dataclasses.replace(two_state(), time_limit=3), two_state_policy(0.4))


def counted(of: Problem, baseline: str, n_envs: int, n_steps: int | None = None) -> Array:
    """Expectation of reward-to-go with a baseline, by going through every batch that there can be.

    :param of: with few episodes
    :param baseline: name
    :param n_envs: environments, with one episode each
    :param n_steps: whole episodes of at least so many steps for each environment, instead of one
    :return: the expected sum of the batch, divided by ``n_envs``
    """
    rollout, probabilities = all_episodes(of.mdp, of.policy)
    if n_steps is not None:
        rollout, probabilities = _sequences(rollout, probabilities, n_steps)
    estimate = get_estimator("reward_to_go").function
    total = np.zeros(of.policy.n_parameters)
    for columns in combinations_with_replacement(range(len(probabilities)), n_envs):
        part = _columns(rollout, list(columns))
        trajectories = Trajectories(part.rewards, part.dones, times=part.times, valid=part.valid)
        psi = estimate(trajectories, gamma=of.mdp.gamma, gae_lambda=1.0)
        weights = psi - get_baseline(baseline)(psi, trajectories)
        orders = factorial(n_envs) / np.prod([factorial(columns.count(each)) for each in set(columns)])
        probability = orders * np.prod(probabilities[list(columns)])
        total += probability * score_sums(of.policy, part, weights).sum(axis=0)
    return total / n_envs


def _sequences(rollout: Rollout, probabilities: Array, n_steps: int) -> tuple[Rollout, Array]:
    """Every row of episodes of one environment that first reaches ``n_steps`` steps."""
    lengths, columns, chances = rollout.valid.sum(axis=0), [], []
    waiting: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
    while waiting:
        episodes, chance = waiting.pop()
        if sum(lengths[list(episodes)]) >= n_steps:
            columns.append(episodes)
            chances.append(chance)
        else:
            waiting += [((*episodes, each), chance * float(p)) for each, p in enumerate(probabilities)]
    longest = max(int(sum(lengths[list(episodes)])) for episodes in columns)
    empty = _columns(rollout, [0] * len(columns))
    joined = Rollout(*(np.zeros((longest, len(columns)), dtype=array.dtype) for array in empty))
    joined.terminated[:] = True
    for column, episodes in enumerate(columns):
        row = 0
        for episode in episodes:
            for array, source in zip(joined, rollout, strict=True):
                array[row : row + lengths[episode], column] = source[: lengths[episode], episode]
            row += lengths[episode]
    return joined, np.array(chances)


# -- variances -------------------------------------------------------------------------------------------------------

# Theory: rewards of the past are only noise for an action; then the closer a baseline comes to what is expected at this
# state and time, the less is left. With the true V, a larger lambda lets in the noise of more rewards.
VARIANCE_ORDER = (
    Case("LineWorld", ONE_EPISODE, "total_return", baseline="none"),
    Case("LineWorld", ONE_EPISODE, "reward_to_go", baseline="none"),
    Case("LineWorld", ONE_EPISODE, "reward_to_go", baseline="mean"),
    Case("LineWorld", ONE_EPISODE, "reward_to_go", baseline="leave_one_out"),
    Case("LineWorld", ONE_EPISODE, "reward_to_go", critic="exact"),
)
LAMBDA_ORDER = tuple(Case("chain", ONE_EPISODE, "gae", lam, critic="exact") for lam in (1.0, 0.95, 0.8, 0.5, 0.0))


def total_variance(case: Case, n_batches: int, n_envs: int = 8) -> tuple[float, float]:
    """Variance of a batch's gradient, summed over its components, and its standard error."""
    of, rng = problem(case.problem), np.random.default_rng(11)
    found = gradients(case, draw(of, case.batch, rng, n_batches * n_envs), n_envs)
    squares = ((found - found.mean(axis=0)) ** 2).sum(axis=1)
    return float(squares.mean()), float(squares.std(ddof=1) / np.sqrt(len(squares)))


# -- VPG itself ------------------------------------------------------------------------------------------------------


class OwnDistribution(ActorCriticPolicy):
    """A policy that takes the slow way: the library asks it for its distribution at every step."""

    def get_distribution(self, obs: Any) -> Any:
        """SB3's."""
        return super().get_distribution(obs)


class Pipeline(NamedTuple):
    """A model whose gradients are collected: its settings, and where they are exact."""

    name: str
    problem: str
    settings: dict[str, Any]
    algorithm: type[VPG] = VPG
    policy: Any = "MlpPolicy"
    critic: str = "exact"
    n_envs: int = 64
    n_batches: int = 2
    """Consecutive batches between two resets of all environments: the second begins in the middle of episodes."""
    features: Array | None = None
    wrap: Callable[[VecEnv], VecEnv] | None = None
    """Puts the environments into a wrapper."""

    def __str__(self) -> str:
        return self.name


def pipelines() -> Iterator[Pipeline]:
    """What VPG and REINFORCE are measured with."""
    cut = dict(n_steps=7, gae_lambda=0.95)
    yield Pipeline("fixed steps, NumPy actor", "chain", cut)
    yield Pipeline("fixed steps, torch actor", "chain", cut, policy=OwnDistribution)
    yield Pipeline("fixed steps, per_step_values", "chain", {**cut, "per_step_values": True})
    yield Pipeline("fixed steps, joint_optimizer", "chain", {**cut, "joint_optimizer": True})
    yield Pipeline("fixed steps, state_discount", "chain", {**cut, "state_discount": True})
    yield Pipeline("fixed steps, clipped", "chain", {**cut, "policy_loss": "clipped"})
    yield Pipeline("fixed steps, importance", "chain", {**cut, "policy_loss": "importance"})
    yield Pipeline("fixed steps, n_step:3", "chain", {"n_steps": 7, "estimator": "n_step:3"})
    yield Pipeline("fixed steps, q_minus_v", "chain", {"n_steps": 7, "estimator": "q_minus_v"})
    yield Pipeline("fixed steps, wrong critic, bootstrap", "limited chain", cut, critic="wrong")
    yield Pipeline(
        "fixed steps, wrong critic, terminal", "limited chain", {**cut, "truncation": "terminal"}, critic="wrong"
    )
    for truncation in TRUNCATIONS:
        settings = dict(n_episodes=3, gae_lambda=0.95, truncation=truncation)
        yield Pipeline(f"n_episodes, wrong critic, {truncation}", "limited chain", settings, critic="wrong")
    critic_free = dict(algorithm=REINFORCE, critic="none")
    for name in ("limited chain", "short or long"):
        yield Pipeline(f"REINFORCE, n_episodes, {name}", name, {"n_episodes": 3}, **critic_free)
        yield Pipeline(f"REINFORCE, whole_episodes, {name}", name, {"n_steps": 12}, **critic_free)
    settings = {"n_episodes": 3, "estimator": "total_return"}
    yield Pipeline("REINFORCE, total_return", "limited chain", settings, **critic_free)
    settings = {"n_episodes": 3, "state_discount": True}
    yield Pipeline("REINFORCE, state_discount", "limited chain", settings, **critic_free)
    settings = {"n_episodes": 3, "baseline": "leave_one_out"}
    yield Pipeline("REINFORCE, leave_one_out", "limited chain", settings, **critic_free)
    scaled = np.linspace(-1, 1, 10)
    features = np.stack([np.repeat(scaled, 10), np.tile(scaled, 10)], axis=1)
    settings = {"n_episodes": 1, "baseline": "none", "estimator": "reward_to_go"}
    yield Pipeline("a network of 16 tanh units", "LineWorld", settings, critic="none", features=features)


def make_model(pipeline: Pipeline) -> Any:
    """A model with the problem's policy and critic for weights, which no update changes."""
    of = problem(pipeline.problem)
    env: VecEnv = VectorEnvAdapter(FiniteMDPVectorEnv(pipeline.n_envs, of.mdp, pipeline.features))
    env = pipeline.wrap(env) if pipeline.wrap else env
    is_table = pipeline.features is None
    settings: dict[str, Any] = dict(
        learning_rate=0.0, gamma=of.mdp.gamma, max_grad_norm=None, normalize_advantage=False, n_critic_updates=1,
        critic_batch_size=None, policy_kwargs=dict(net_arch=[] if is_table else [16]), device="cpu",
        seed=crc32(pipeline.name.encode()),
    )  # fmt: skip
    model = pipeline.algorithm(pipeline.policy, env, **{**settings, **pipeline.settings})
    if is_table:
        values, q_values = of.critics[pipeline.critic]
        with th.no_grad():
            # The probabilities are all that a softmax keeps of its logits
            model.policy.action_net.weight[:] = th.as_tensor(np.log(of.policy.probabilities).T)
            model.policy.action_net.bias.zero_()
            model.policy.value_net.weight[:] = th.as_tensor(values)
            model.policy.value_net.bias.zero_()
            if hasattr(model.policy, "q_net"):
                model.policy.q_net.weight[:] = th.as_tensor(q_values.T)
                model.policy.q_net.bias.zero_()
    return model


def _logits(model: Any) -> th.Tensor:
    """Of every state, shape ``(n_states, n_actions)``."""
    states = th.as_tensor(model.env.get_attr("features")[0])
    return model.policy.get_distribution(states).distribution.logits


def _actor_parameters(model: Any) -> list[th.Tensor]:
    named = model.policy.named_parameters()
    return [parameter for name, parameter in named if "value_net" not in name and "q_net" not in name]


def expectation_of(pipeline: Pipeline) -> Array:
    """The exact expectation of the gradient of every weight of the actor.

    That of the table of logits is exact; the network's own is its product with the network's Jacobian.
    """
    of, settings = problem(pipeline.problem), {"estimator": "gae", "gae_lambda": 1.0, **pipeline.settings}
    model = make_model(pipeline)
    logits = _logits(model)
    policy = softmax_policy(logits.detach().double().numpy())
    estimator = "reward_to_go" if pipeline.algorithm is REINFORCE and "estimator" not in pipeline.settings else None
    values, q_values = of.critics[pipeline.critic]
    rule = model._batch_rule
    table = expected_gradient(
        of.mdp, policy, estimator or settings["estimator"], gae_lambda=settings["gae_lambda"], values=values,
        q_values=q_values, truncation=model.truncation, state_discount=model.state_discount,
        n_steps=rule.n_steps if rule.cuts_episodes else None, n_batches=pipeline.n_batches,
    )  # fmt: skip
    if not rule.cuts_episodes and not rule.n_episodes:
        table *= expected_episodes(of.mdp, policy, rule.n_steps) / rule.n_steps
    (logits * th.as_tensor(table.reshape(logits.shape), dtype=th.float32)).sum().backward()
    return _flat_gradient(model)


def _flat_gradient(model: Any) -> Array:
    return th.cat([parameter.grad.flatten() for parameter in _actor_parameters(model)]).double().numpy()


def measure_pipeline(pipeline: Pipeline, n_samples: int) -> Measurement:
    """Collect the gradients of the actor, as VPG's own update computes them.

    :param n_samples: times that all environments are reset, and ``n_batches`` batches collected
    """
    model = make_model(pipeline)
    samples = []
    for _ in range(n_samples):
        _, callback = model._setup_learn(10**9, None, reset_num_timesteps=True)
        samples.append(np.mean([one_gradient(model, callback) for _ in range(pipeline.n_batches)], axis=0))
    return Measurement(np.stack(samples))


def one_gradient(model: Any, callback: BaseCallback) -> Array:
    """The direction of ascent of one update."""
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    model.train()
    return -_flat_gradient(model)
