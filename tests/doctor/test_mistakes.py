"""Every classical mistake is found where it was planted, and right arrays raise no flag."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import ACTION_SPACES, RandomEnv, one_rollout, tiny

from sb3_pg.advantage.estimators import Trajectories, gae, lambda_returns
from sb3_pg.doctor.arrays import check_rollout
from sb3_pg.doctor.mistakes import MISTAKES, Variant, compute, examine, right_advantages

GAMMA, LAMBDA = 0.97, 0.9


def arrays(seed: int = 0, n_steps: int = 40, n_envs: int = 3, scale: float = 3.0, **instead: Any) -> dict[str, Any]:
    """A random rollout with both kinds of ends inside, all episodes going on at its end, and right estimates."""
    rng = np.random.default_rng(seed)
    shape = (n_steps, n_envs)
    ends = rng.random(shape)
    ends[-1] = 1.0
    terminated, truncated = ends < 0.08, (ends >= 0.08) & (ends < 0.15)
    values, next_values = rng.normal(2.0, scale, shape), rng.normal(2.0, scale, shape)
    going_on = ~(terminated | truncated)
    next_values[:-1][going_on[:-1]] = values[1:][going_on[:-1]]
    found: dict[str, Any] = dict(
        rewards=rng.normal(0, scale, shape), terminated=terminated, truncated=truncated, values=values,
        next_values=next_values, gamma=GAMMA, gae_lambda=LAMBDA,
    )  # fmt: skip
    found["advantages"] = library_advantages(found)
    found["returns"] = found["advantages"] + values
    assert terminated[:-1].any()
    assert truncated[:-1].any()
    return {**found, **instead}


def library_advantages(found: dict[str, Any]) -> Any:
    """By the library's estimator."""
    next_values = np.where(found["terminated"], 0.0, found["next_values"])
    dones = found["terminated"] | found["truncated"]
    return gae(Trajectories(found["rewards"], dones, found["values"], next_values), gamma=GAMMA, gae_lambda=LAMBDA)


def kinds(found: dict[str, Any]) -> list[str]:
    return [finding.kind for finding in examine(check_rollout(found)) if finding.advice.level != "good"]


def planted(kind: str, found: dict[str, Any]) -> Any:
    """Advantages with one mistake, each written out as people write it."""
    r, v, te, tr = (found[name] for name in ("rewards", "values", "terminated", "truncated"))
    nv = np.where(te, 0.0, found["next_values"])
    dones, last = te | tr, found["next_values"][-1]
    advantages, following = np.zeros_like(r), np.zeros(r.shape[1])
    for t in reversed(range(len(r))):
        following_value = nv[t]
        if kind == "leak_values":
            following_value = last if t == len(r) - 1 else v[t + 1]
        if kind == "cut_twice" and t == len(r) - 1:
            following_value = 2 * last
        if kind == "cut_dropped" and t == len(r) - 1:
            following_value = 0 * last
        if kind == "limit_dropped":
            following_value = np.where(tr[t], 0.0, following_value)
        if kind == "limit_twice":
            following_value = np.where(tr[t], 2 * following_value, following_value)
        if kind == "limit_same":
            following_value = np.where(tr[t], v[t], following_value)
        goes_on = 1.0 if kind == "leak_recursion" else 1.0 - dones[t]
        following = r[t] + GAMMA * following_value - v[t] + GAMMA * LAMBDA * goes_on * following
        advantages[t] = following
    return advantages


SCALINGS = {
    "raw": lambda a: a,
    "centred": lambda a: a - a.mean(),
    "standardised": lambda a: (a - a.mean()) / (a.std() + 1e-8),
    "by torch's deviation": lambda a: (a - a.mean()) / (a.std(ddof=1) + 1e-8),
}


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("seed", range(2))
def test_right_arrays_raise_no_flag(scaling: str, seed: int) -> None:
    found = arrays(seed)
    found["advantages"] = SCALINGS[scaling](found["advantages"])
    assert kinds(found) == []
    titles = [finding.advice.title for finding in examine(check_rollout(found))]
    assert titles == ["Advantages are right", "Returns are right"]


def test_the_planting_is_right_where_nothing_is_planted() -> None:
    found = arrays()
    np.testing.assert_allclose(planted("", found), found["advantages"])
    np.testing.assert_allclose(compute(check_rollout(found), LAMBDA), found["advantages"])


@pytest.mark.parametrize("scaling", ["raw", "standardised"])
@pytest.mark.parametrize("kind", MISTAKES)
def test_a_planted_mistake_is_named(kind: str, scaling: str) -> None:
    found = arrays()
    found["advantages"] = SCALINGS[scaling](planted(kind, found))
    if kind == "leak_values":
        found["last_values"] = found["next_values"][-1]
    assert kinds(found) == [kind]
    (advice,) = [finding.advice for finding in examine(check_rollout(found)) if finding.kind]
    assert advice.level == "bad"
    assert advice.title == MISTAKES[kind][0]
    assert "the worst is step" in advice.text


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_planted_mistake_in_returns_is_named(kind: str) -> None:
    found = arrays()
    found["returns"] = planted(kind, found) + found["values"]
    if kind == "leak_values":
        found["last_values"] = found["next_values"][-1]
    assert kinds(found) == [kind]


def test_the_right_advantages_are_put_on_the_scale_of_the_wrong_ones() -> None:
    found = arrays()
    wrong = planted("limit_dropped", found)
    scaled = (wrong - wrong.mean()) / wrong.std()
    rollout = check_rollout({**found, "advantages": scaled})
    right = right_advantages(rollout)
    assert right is not None
    np.testing.assert_allclose(right, (found["advantages"] - wrong.mean()) / wrong.std(), rtol=1e-6, atol=1e-9)
    unknown = np.random.default_rng(0).normal(size=wrong.shape)
    of_unknown = right_advantages(check_rollout({**found, "advantages": unknown}))
    assert of_unknown is not None
    np.testing.assert_allclose(of_unknown, found["advantages"])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["", "limit_same", "limit_dropped"])
def test_values_that_are_alike_hide_no_mistake_at_time_limits_and_make_none(kind: str, seed: int) -> None:
    """What a critic is like before it has learnt: a formula that is wrong at time limits fits to a thousandth.

    Without ``next_values`` the right formula is known of the one episode that the rollout cuts.
    """
    rng = np.random.default_rng(seed)
    found = arrays(seed, n_steps=96, n_envs=1)
    found["truncated"][:], found["terminated"][:] = np.arange(96)[:, None] % 20 == 19, False
    found["values"] = 2.0 + 0.003 * rng.normal(size=(96, 1))
    found["next_values"] = np.concatenate([found["values"][1:], [[2.0]]])
    found["next_values"][19::20] = 2.0 + 0.003 * rng.normal(size=(4, 1))
    found["advantages"] = np.float32(planted(kind, found))
    told = {**found, "last_values": found["next_values"][-1]}
    del told["next_values"], told["returns"]
    findings = examine(check_rollout(told))
    if kind:
        assert [finding.kind for finding in findings if finding.advice.level == "bad"] == [kind]
    else:
        assert [finding.advice.level for finding in findings] == ["unknown"]
        assert "are right where it can be told" in findings[0].advice.title
    del told["truncated"], told["terminated"]
    told["dones"] = found["truncated"]
    levels = [finding.advice.level for finding in examine(check_rollout(told))]
    assert levels == ["good" if kind == "limit_dropped" else "unknown"]


def test_the_tutorials_own_function_is_caught() -> None:
    """A blog's ``calculate_advantages``: no (1 - done) in the recursion, and the last value twice."""
    found = arrays()
    last = found["next_values"][-1]
    rewards, values = found["rewards"].copy(), np.concatenate([found["values"], last[None]])
    rewards[-1] += GAMMA * last
    following, advantages = 0.0, np.zeros_like(rewards)
    for t in reversed(range(len(rewards))):
        following = rewards[t] + GAMMA * values[t + 1] - values[t] + GAMMA * LAMBDA * following
        advantages[t] = following
    found["advantages"] = advantages
    del found["returns"]
    assert kinds(found) == ["leak_recursion", "leak_values", "cut_twice"]


def test_normalising_by_the_variance_is_named() -> None:
    found = arrays()
    raw = found["advantages"]
    found["advantages"] = (raw - raw.mean()) / (raw.var() + 1e-8)
    assert kinds(found) == ["variance"]


def test_a_variance_of_one_is_no_mistake() -> None:
    found = arrays()
    scale = found["advantages"].std()
    for name in ("rewards", "values", "next_values", "advantages", "returns"):
        found[name] = found[name] / scale
    raw = found["advantages"]
    found["advantages"] = (raw - raw.mean()) / raw.var()
    assert kinds(found) == []


def test_other_scalings_are_noted() -> None:
    found = arrays()
    raw = found["advantages"]
    assert kinds({**found, "advantages": raw / raw.std()}) == ["not_centred"]
    assert kinds({**found, "advantages": 0.01 * raw}) == ["scale"]
    assert kinds({**found, "advantages": -raw}) == ["sign"]
    assert kinds({**found, "advantages": raw + 3 * raw.std()}) == ["shift"]
    assert kinds({**found, "advantages": raw - raw.mean()}) == []


def test_two_mistakes_are_both_named() -> None:
    found = arrays()
    wrong = planted("limit_dropped", found)
    found["advantages"] = (wrong - wrong.mean()) / wrong.var()
    assert kinds(found) == ["limit_dropped", "variance"]


def test_another_lambda_than_stated_is_named() -> None:
    found = arrays(gae_lambda=0.5)
    del found["returns"]
    found["advantages"] = lambda_of(found, 0.95)
    assert kinds(found) == ["lambda"]


def lambda_of(found: dict[str, Any], gae_lambda: float) -> Any:
    next_values = np.where(found["terminated"], 0.0, found["next_values"])
    trajectories = Trajectories(
        found["rewards"], found["terminated"] | found["truncated"], found["values"], next_values
    )
    return gae(trajectories, gamma=GAMMA, gae_lambda=gae_lambda)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
def test_targets_of_any_lambda_are_right(gae_lambda: float) -> None:
    found = arrays()
    next_values = np.where(found["terminated"], 0.0, found["next_values"])
    trajectories = Trajectories(
        found["rewards"], found["terminated"] | found["truncated"], found["values"], next_values
    )
    found["returns"] = lambda_returns(trajectories, gamma=GAMMA, gae_lambda=gae_lambda)
    assert kinds(found) == []


def test_returns_of_normalised_advantages_are_named() -> None:
    found = arrays()
    found["advantages"] = SCALINGS["standardised"](found["advantages"])
    found["returns"] = found["advantages"] + found["values"]
    assert kinds(found) == ["normalised_returns"]


def test_what_matches_nothing_is_said_to() -> None:
    found = arrays()
    found["advantages"] = np.random.default_rng(9).normal(size=found["advantages"].shape)
    found["returns"] = found["advantages"]
    assert kinds(found) == ["unmatched", "unmatched"]


# -- what the file may lack ------------------------------------------------------------------------------------------


def test_without_values_at_time_limits_the_other_steps_are_compared() -> None:
    found = arrays()
    del found["next_values"]
    found["last_values"] = arrays()["next_values"][-1]
    assert kinds(found) == []
    texts = [finding.advice.text for finding in examine(check_rollout(found))]
    assert "terminal_values or next_values would tell" in texts[0]
    found["advantages"] = planted("limit_dropped", arrays())
    found["returns"] = found["advantages"] + found["values"]
    assert kinds(found) == ["limit_dropped", "limit_dropped"]


@pytest.mark.parametrize("n_envs", [3, 12])  # two ways of summing
def test_terminal_values_are_read_where_a_time_limit_was(n_envs: int) -> None:
    found = arrays(n_envs=n_envs)
    at_limits = np.full(found["rewards"].shape, np.nan)
    at_limits[found["truncated"]] = found["next_values"][found["truncated"]]
    found["last_values"] = found.pop("next_values")[-1]
    found["terminal_values"] = at_limits
    assert kinds(found) == []
    assert "on " not in examine(check_rollout(found))[0].advice.text.partition("deviation")[2]


def test_ends_that_are_not_told_apart_are_noted() -> None:
    found = arrays()
    dones = found.pop("terminated") | found.pop("truncated")
    everything = {**found, "dones": dones}
    everything["terminated"] = dones
    everything["truncated"] = np.zeros_like(dones)
    found["advantages"] = library_advantages(everything)
    found["returns"] = found["advantages"] + found["values"]
    found["dones"] = dones
    assert kinds(found) == []
    assert "truncated would tell" in examine(check_rollout(found))[0].advice.text


def test_one_environment_may_leave_its_axis_out() -> None:
    found = {name: value[:, 0] if np.ndim(value) else value for name, value in arrays(n_envs=1).items()}
    assert kinds(found) == []


def test_our_own_rollouts_are_right() -> None:
    model = tiny(lambda: RandomEnv(ACTION_SPACES[0]), n_envs=3, n_steps=32, gamma=GAMMA, gae_lambda=LAMBDA)
    buffer = one_rollout(model)
    policy, samples = model.policy, buffer.samples()
    distribution = policy.get_distribution(samples.observations).distribution
    found = dict(
        rewards=buffer.rewards, dones=buffer.dones, values=buffer.values, next_values=buffer.next_values,
        advantages=model.policy_weights(), returns=buffer.returns, gamma=GAMMA, gae_lambda=LAMBDA,
        actions=buffer.actions, log_probs=distribution.log_prob(samples.actions).sum(dim=1).detach().numpy(),
        means=distribution.mean.detach().numpy(), stds=distribution.stddev[0].detach().numpy(),
        truncated=np.zeros_like(buffer.dones),
    )  # fmt: skip
    for step, env_index, _ in buffer.terminal_observations:
        found["truncated"][step, env_index] = True
    assert found["truncated"].any()
    assert kinds(found) == []
    assert len(examine(check_rollout(found))) == 3


# -- log-probabilities -----------------------------------------------------------------------------------------------


def gaussian(**instead: Any) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    actions, means, stds = rng.normal(size=(10, 2, 3)), rng.normal(size=(10, 2, 3)), np.array([0.5, 1.0, 2.0])
    each = -0.5 * ((actions - means) / stds) ** 2 - np.log(stds) - 0.5 * np.log(2 * np.pi)
    return dict(rewards=np.zeros((10, 2)), dones=np.zeros((10, 2)), actions=actions, means=means, stds=stds,
                log_probs=each.sum(axis=-1), each=each, **instead)  # fmt: skip


def test_summed_log_probabilities_are_right() -> None:
    found = gaussian()
    del found["each"]
    assert kinds(found) == []
    assert kinds({**found, "log_probs": found["log_probs"].ravel()}) == []


@pytest.mark.parametrize("wrong", ["not summed", "flat", "mean", "first", "drawn again"])
def test_log_probabilities_of_single_dimensions_are_named(wrong: str) -> None:
    found = gaussian()
    each = found.pop("each")
    if wrong == "drawn again":
        found["log_probs"] = found["log_probs"][::-1]
        assert kinds(found) == ["log_probs_of_others"]
        return
    found["log_probs"] = {"not summed": each, "flat": each.ravel(), "mean": each.mean(axis=-1), "first": each[..., 0]}[
        wrong
    ]
    assert kinds(found) == ["log_probs_not_summed"]


def test_without_the_distribution_only_the_shape_is_judged() -> None:
    found = gaussian()
    each = found.pop("each")
    del found["means"], found["stds"]
    assert kinds(found) == []
    assert kinds({**found, "log_probs": each}) == ["log_probs_not_summed"]


def test_categorical_log_probabilities_are_compared() -> None:
    rng = np.random.default_rng(4)
    logits, actions = rng.normal(size=(10, 2, 4)), rng.integers(0, 4, (10, 2))
    normalised = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    log_probs = np.take_along_axis(normalised, actions[..., None], axis=-1)[..., 0]
    found = dict(
        rewards=np.zeros((10, 2)), dones=np.zeros((10, 2)), actions=actions, logits=logits, log_probs=log_probs
    )
    assert kinds(found) == []
    assert kinds({**found, "log_probs": normalised[..., 0]}) == ["log_probs_of_others"]


def test_a_file_with_nothing_to_examine_says_so() -> None:
    assert kinds(dict(rewards=np.zeros(20), dones=np.zeros(20))) == ["nothing"]


def test_variants_count_their_mistakes() -> None:
    assert Variant().mistakes == []
    assert Variant("both", "twice", "dropped").mistakes == [
        "leak_recursion",
        "leak_values",
        "cut_twice",
        "limit_dropped",
    ]
    assert {kind for leak in ("recursion", "values") for kind in Variant(leak).mistakes} <= set(MISTAKES)
