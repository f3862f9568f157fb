"""Problems on which a rule for lambda is judged: the true gradient is known, and so the best lambda of a grid.

Used by judge_lambda.py and by the tests. :data:`DESIGN` is what ``auto`` was made with; :data:`HELD_OUT` was drawn up
afterwards, and nothing was chosen by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from sb3_pg.advantage.estimators import Trajectories, gae
from sb3_pg.advantage.gae_lambda import LAMBDAS, GradientProducts, LambdaBatch, LambdaRule
from sb3_pg.exact.mdp import Array, FiniteMDP, Policy, Solution, softmax_policy, solve
from sb3_pg.exact.problems import random_chain, short_or_long
from sb3_pg.exact.sampling import Rollout, sample, score_sums
from sb3_pg.lambda_rules import products_of

GRID = np.array(sorted({*LAMBDAS, 0.8, 0.97, 1.0}))
CRITICS = ("exact", "noisy", "very noisy", "half", "zero", "of another policy", "too high")


def garnet(seed: int) -> FiniteMDP:
    """Ten states, each action leading to three of them, and episodes of 20 steps."""
    rng, n, n_actions = np.random.default_rng(seed), 10, 3
    transitions = np.zeros((n, n_actions, n))
    for state, action in np.ndindex(n, n_actions):
        transitions[state, action, rng.choice(n, 3, replace=False)] = rng.dirichlet(np.ones(3))
    rewards = np.zeros_like(transitions) + rng.normal(size=(n, n_actions, 1)) / 2 + rng.normal(size=(n, 1, 1))
    start = rng.dirichlet(np.ones(n))
    return FiniteMDP(transitions, rewards, start, np.zeros(n, bool), 0.99, time_limit=20, limit_is_terminal=True)


def line() -> FiniteMDP:
    """Ten states in a row, and a reward only at the end of it."""
    n = 10
    transitions = np.zeros((n + 1, 2, n + 1))
    for state, action in np.ndindex(n, 2):
        step = 1 - 2 * action
        transitions[state, action, max(state + step, 0)] += 0.9
        transitions[state, action, max(state - step, 0)] += 0.1
    rewards = np.zeros_like(transitions)
    rewards[:n, :, n] = 1.0
    start = np.append(np.repeat([0.2, 0.0], 5), 0.0)
    return FiniteMDP(transitions, rewards, start, np.arange(n + 1) == n, 0.99, time_limit=20, limit_is_terminal=True)


def corridor(n: int = 8) -> FiniteMDP:
    """From one end of a corridor to the other: each step costs 0.1, and a fifth of them slip."""
    transitions = np.zeros((n + 1, 2, n + 1))
    for state, action in np.ndindex(n, 2):
        transitions[state, action, max(state + 1 - 2 * action, 0)] += 0.8
        transitions[state, action, state] += 0.2
    rewards = np.zeros_like(transitions) - 0.1
    rewards[:n, :, n] = 1.0
    return FiniteMDP(
        transitions, rewards, np.eye(n + 1)[0], np.arange(n + 1) == n, 0.97, time_limit=30, limit_is_terminal=True
    )


def memory(length: int, seed: int) -> FiniteMDP:
    """The first action decides the last reward; what is paid on the way has nothing to do with it."""
    rng, size = np.random.default_rng(seed), 2 * length + 1
    transitions, rewards = np.zeros((2, size, 2, size))
    for step, bit, action in np.ndindex(length, 2, 2):
        state = 2 * step + bit
        last = step == length - 1
        following = size - 1 if last else 2 * (step + 1) + (action if step == 0 else bit)
        transitions[state, action, following] = 1.0
        rewards[state, action, following] = bit if last else 0.3 * rng.normal() + 0.2 * action * rng.normal()
    return FiniteMDP(
        transitions, rewards, np.eye(size)[0], np.arange(size) == size - 1, 1.0, time_limit=length,
        limit_is_terminal=True,
    )  # fmt: skip


def _ending(mdp: FiniteMDP, time_limit: int) -> FiniteMDP:
    return dataclasses.replace(mdp, time_limit=time_limit, limit_is_terminal=True)


DESIGN: dict[str, Callable[[], FiniteMDP]] = {
    "garnet 0": lambda: garnet(0),
    "garnet 1": lambda: garnet(1),
    "line": line,
}
HELD_OUT: dict[str, Callable[[], FiniteMDP]] = {
    "garnet 10": lambda: garnet(10),
    "garnet 11": lambda: garnet(11),
    "chain 20": lambda: _ending(random_chain(8, 3, seed=20, gamma=0.95), 30),
    "chain 21": lambda: _ending(random_chain(8, 3, seed=21, gamma=0.95), 30),
    "short or long": lambda: _ending(short_or_long(), 13),
    "corridor": corridor,
    "long corridor": lambda: corridor(11),
    "memory 6": lambda: memory(6, 0),
    "memory 10": lambda: memory(10, 1),
}
PROBLEMS = DESIGN | HELD_OUT


def critic_values(critic: str, mdp: FiniteMDP, solution: Solution, rng: np.random.Generator) -> Array:
    """V by time and state, of a critic by its name."""
    exact = solution.values
    if critic == "of another policy":
        return solve(mdp, softmax_policy(rng.normal(size=(mdp.n_states, mdp.n_actions)))).values
    noise = {"noisy": 0.5, "very noisy": 2.0}
    if critic in noise:
        return exact + noise[critic] * exact.std() * rng.normal(size=exact.shape)
    made: dict[str, Array] = {
        "exact": exact, "half": exact / 2, "zero": np.zeros_like(exact), "too high": exact + 2 * exact.std()
    }  # fmt: skip
    return made[critic]


class Cell(NamedTuple):
    """Episodes of one problem with one critic: gradients of each for every lambda, and the true one."""

    gradients: Array
    """Shape ``(n_episodes, n_lambdas, n_parameters)``."""
    scores: Array
    """Sum of the score over the steps, shape ``(n_episodes, n_parameters)``: what centring takes off."""
    sums: Array
    """Of the advantages and their squares, shape ``(2, n_episodes, n_lambdas)``."""
    lengths: Array
    truth: Array

    def blocks(self, n: int, rng: np.random.Generator) -> Array:
        """Gradients of a batch of n episodes, whose advantages are normalised."""
        chosen = rng.integers(0, len(self.gradients), n)
        mean, square = self.sums[:, chosen].sum(axis=1) / self.lengths[chosen].sum()
        centred = self.gradients[chosen] - mean[:, None] * self.scores[chosen][:, None]
        deviations = np.sqrt(np.maximum(square - mean**2, 0.0)) + 1e-8
        return (centred / deviations[:, None]).swapaxes(0, 1)


def with_critic(rollout: Rollout, values: Array, mdp: FiniteMDP) -> Trajectories:
    """Values by time and state."""
    padded = np.concatenate([np.where(mdp.terminal, 0.0, values), np.zeros((1, mdp.n_states))])
    at = np.where(rollout.valid, padded[rollout.times, rollout.states], 0.0)
    following = np.where(rollout.dones, 0.0, padded[rollout.times + 1, rollout.next_states])
    return Trajectories(
        rollout.rewards, rollout.dones, values=at, next_values=following, times=rollout.times, valid=rollout.valid
    )


@cache
def cell(problem: str, critic: str, n_episodes: int = 5000) -> Cell:
    """Episodes of a random policy in a problem."""
    mdp, rng = PROBLEMS[problem](), np.random.default_rng(7)
    policy: Policy = softmax_policy(rng.normal(size=(mdp.n_states, mdp.n_actions)) / 2)
    solution = solve(mdp, policy)
    values = critic_values(critic, mdp, solution, rng)
    rollout = sample(mdp, policy, n_episodes, rng, n_episodes=1)
    psi = gae(with_critic(rollout, values, mdp), gamma=mdp.gamma, gae_lambda=GRID[:, None, None]) * rollout.valid
    return Cell(
        np.stack([score_sums(policy, rollout, each) for each in psi], axis=1),
        score_sums(policy, rollout, np.ones(rollout.states.shape)),
        np.stack([psi.sum(axis=1).T, (psi**2).sum(axis=1).T]),
        rollout.valid.sum(axis=0),
        solution.semi_gradient,
    )


@cache
def cosines(problem: str, critic: str, n: int) -> Array:
    """True expected cosine of the gradient of n episodes with the exact one, for every lambda of the grid."""
    found, rng = cell(problem, critic), np.random.default_rng(99)
    gradients = np.stack([found.blocks(n, rng).sum(axis=1) for _ in range(400)])
    along = gradients.mean(axis=0) @ found.truth / np.linalg.norm(found.truth)
    expected: Array = along / np.sqrt(np.maximum((gradients**2).sum(axis=2).mean(axis=0), 1e-12))
    return expected


def products(blocks: Array) -> GradientProducts:
    """What a rule is told of a batch.

    :param blocks: gradients, shape ``(n_lambdas, n_blocks, n_parameters)``
    """
    return products_of(blocks, np.ones(blocks.shape[1], dtype=np.int64))


def run(
    rule: LambdaRule, draw: Callable[[np.random.Generator], GradientProducts], n_updates: int, seed: int
) -> list[float]:
    """What a rule chooses for one batch after the other.

    :param draw: what the rule is told of a batch
    """
    rng, step = np.random.default_rng(seed), Trajectories(np.zeros((1, 1)), np.ones((1, 1), bool))

    def nothing(*_: Any) -> Any:
        raise AssertionError("this rule has no business with the policy")

    batch = LambdaBatch(step, 0.9, 1.0, lambda _: draw(rng), nothing, nothing, lambda *_: None)
    return [float(np.mean(rule.choose(batch))) for _ in range(n_updates)]
