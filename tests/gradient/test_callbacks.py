"""The callback logs what the batch says, for every algorithm, and training does not notice it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTION_SPACES, DICT, RandomEnv, ScriptedEnv, same, tiny, weights
from sb3_contrib import TRPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import KVWriter, Logger

from sb3_pg import REINFORCE, VPG, TunableA2C, TunablePPO
from sb3_pg.gradient.callbacks import GradientStatisticsCallback, read_batch
from sb3_pg.gradient.per_episode import split_episodes
from sb3_pg.gradient.statistics import gradient_statistics
from sb3_pg.policies import evaluate_log_probs

KEYS = {
    f"gradient/{name}"
    for name in ("signal", "variance", "snr", "cosine_squared", "half_cosine", "n_blocks", "noise_scale")
}
CRITIC_KEYS = {"gradient/explained_variance_early", "gradient/explained_variance_late"}


class Rows(KVWriter):
    """Keeps every row that is logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], *_: Any, **__: Any) -> None:
        self.rows.append({key: value for key, value in key_values.items() if key.startswith("gradient/")})

    def close(self) -> None:
        pass


class Ask(BaseCallback):
    """Asks a question at the end of every rollout and keeps the answers."""

    def __init__(self, question: Any) -> None:
        super().__init__()
        self.question, self.answers = question, []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.answers.append(self.question(self.model))


def trained(algorithm: Any = VPG, callback: Any = None, n_updates: int = 4, **kwargs: Any) -> tuple[Any, list[Any]]:
    """A model that has trained with a callback, and the rows that were logged."""
    settings: dict[str, Any] = dict(n_steps=24, n_envs=2, **kwargs)
    if algorithm in (PPO, TRPO):
        settings["batch_size"] = 16
    model = tiny(algorithm=algorithm, **settings)
    rows = Rows()
    model.set_logger(Logger(None, [rows]))
    model.learn(n_updates * 48, callback, log_interval=1)
    return model, rows.rows


EVERY_ALGORITHM = pytest.mark.parametrize("algorithm", [VPG, REINFORCE, A2C, PPO, TRPO])


@pytest.mark.parametrize(
    ("algorithm", "all_layers"),
    [(VPG, True), (VPG, False), (REINFORCE, False), (A2C, True), (PPO, False), (TRPO, False)],
)
def test_training_does_not_notice_the_callback(algorithm: Any, all_layers: bool) -> None:
    plain, _ = trained(algorithm)
    state = th.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    watched, rows = trained(algorithm, GradientStatisticsCallback(every=1, all_layers=all_layers))
    assert any(rows)
    assert same(weights(plain), weights(watched))
    assert same(plain.policy.optimizer.state_dict(), watched.policy.optimizer.state_dict())
    assert th.equal(state[0], th.get_rng_state())
    assert (state[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert same(plain.get_parameters(), watched.get_parameters())


@EVERY_ALGORITHM
def test_every_algorithm_logs_every_key(algorithm: Any) -> None:
    _, rows = trained(algorithm, GradientStatisticsCallback(every=1), n_updates=6)
    logged = set().union(*rows)
    assert logged == (KEYS if algorithm is REINFORCE else KEYS | CRITIC_KEYS)
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_every_so_many_rollouts() -> None:
    _, rows = trained(callback=GradientStatisticsCallback(every=3), n_updates=7)
    assert [number for number, row in enumerate(rows, 1) if row] == [3, 6]


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        dict(whole_episodes=True, baseline="none", estimator="reward_to_go"),
        dict(normalize_advantage=False, state_discount=True, gamma=0.8),
        dict(env=lambda: RandomEnv(ACTION_SPACES[0]), all_layers=True),
    ],
    ids=["batch of steps", "whole episodes", "state discount", "Gaussian"],
)
def test_the_numbers_are_those_of_the_losses_own_gradient(kwargs: dict[str, Any]) -> None:
    kwargs = dict(kwargs)
    all_layers = kwargs.pop("all_layers", False)

    def by_hand(model: Any) -> Any:
        buffer, policy = model.rollout_buffer, model.policy
        valid = np.ones(buffer.dones.shape, dtype=bool) if buffer.valid is None else buffer.valid
        blocks, counts = split_episodes(buffer.dones, valid)
        samples = buffer.samples(model.policy_weights())
        log_probs = evaluate_log_probs(policy, samples.observations, samples.actions)[0]
        named = [*policy.mlp_extractor.policy_net.parameters()] if all_layers else []
        named += [policy.log_std] if all_layers and hasattr(policy, "log_std") else []
        parameters = [*named, *policy.action_net.parameters()]
        rows = []
        for block in range(len(counts)):
            chosen = th.as_tensor(blocks[valid] == block)
            loss = (log_probs * samples.advantages)[chosen].sum()
            gradients = th.autograd.grad(loss, parameters, retain_graph=True)
            rows.append(th.cat([gradient.flatten() for gradient in gradients]).numpy())
        return gradient_statistics(np.stack(rows), int(valid.sum()), counts)

    expected = Ask(by_hand)
    _, rows = trained(callback=CallbackList([expected, GradientStatisticsCallback(1, all_layers)]), **kwargs)
    for row, statistics in zip(rows, expected.answers, strict=True):
        for name in ("signal", "variance", "snr", "cosine_squared", "half_cosine", "n_blocks"):
            assert row[f"gradient/{name}"] == pytest.approx(getattr(statistics, name), rel=1e-3, abs=1e-6)


def test_the_noise_scale_is_a_ratio_of_averages() -> None:
    _, rows = trained(callback=GradientStatisticsCallback(1), n_updates=6)
    signal = variance = 0.0
    for number, row in enumerate(rows):
        signal += 0.9 ** (len(rows) - 1 - number) * row["gradient/signal"]
        variance += 0.9 ** (len(rows) - 1 - number) * row["gradient/variance"]
    assert signal > 0
    assert rows[-1]["gradient/noise_scale"] == pytest.approx(48 * variance / signal)


def test_without_a_signal_there_is_no_noise_scale() -> None:
    class NoReward(RandomEnv):
        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, 0.0, *rest

    _, rows = trained(REINFORCE, GradientStatisticsCallback(1), env=lambda: NoReward(ACTION_SPACES[1]))
    assert "gradient/n_blocks" in rows[0]
    assert "gradient/noise_scale" not in rows[0]


@pytest.mark.parametrize("algorithm", [VPG, A2C])
def test_two_long_episodes_are_cut_into_blocks(algorithm: Any) -> None:
    class Endless(RandomEnv):
        def step(self, action: Any) -> Any:
            observation, reward, *_ = super().step(action)
            return observation, reward, False, False, {}

    _, rows = trained(algorithm, GradientStatisticsCallback(1), env=lambda: Endless(ACTION_SPACES[1]))
    assert {row["gradient/n_blocks"] for row in rows} == {16}


def test_a_batch_of_one_step_is_passed_over() -> None:
    _, rows = trained(callback=GradientStatisticsCallback(1), n_updates=1)
    assert rows
    model = tiny(n_steps=1, normalize_advantage=False)
    rows_of_one = Rows()
    model.set_logger(Logger(None, [rows_of_one]))
    model.learn(3, GradientStatisticsCallback(1), log_interval=1)
    assert all("gradient/snr" not in row for row in rows_of_one.rows)


@pytest.mark.parametrize("algorithm", [VPG, A2C])
@pytest.mark.parametrize(
    ("action_space", "kwargs"),
    [(space, {}) for space in ACTION_SPACES] + [(ACTION_SPACES[0], dict(use_sde=True))],
    ids=[*[type(space).__name__ for space in ACTION_SPACES], "gSDE"],
)
def test_every_action_space_is_read(algorithm: Any, action_space: Any, kwargs: dict[str, Any]) -> None:
    _, rows = trained(algorithm, GradientStatisticsCallback(1), 1, env=lambda: RandomEnv(action_space), **kwargs)
    assert "gradient/snr" in rows[0]


@pytest.mark.parametrize("algorithm", [VPG, A2C])
def test_dict_observations_are_read(algorithm: Any) -> None:
    settings: dict[str, Any] = dict(env=lambda: RandomEnv(ACTION_SPACES[1], DICT), policy="MultiInputPolicy")
    _, rows = trained(algorithm, GradientStatisticsCallback(1), 1, **settings)
    assert "gradient/snr" in rows[0]


def test_episodes_are_told_apart_in_sb3s_buffer_as_in_ours() -> None:
    asked: list[Any] = []
    for algorithm in (VPG, A2C):
        ask = Ask(lambda model: read_batch(model))
        trained(algorithm, ask, 1, seed=0, **(dict(per_step_values=True) if algorithm is VPG else {}))
        asked.append(ask.answers[0])
    ours, theirs = asked
    assert ours.dones[:-1].any()
    np.testing.assert_array_equal(ours.dones[:-1], theirs.dones[:-1])
    np.testing.assert_array_equal(ours.times, theirs.times)
    np.testing.assert_allclose(ours.observations.numpy(), theirs.observations.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(ours.actions.numpy(), theirs.actions.numpy())


@pytest.mark.parametrize("algorithm", [VPG, A2C, PPO, TunableA2C, TunablePPO])
def test_early_and_late_are_told_by_how_old_the_episode_is(algorithm: Any) -> None:
    def by_hand(model: Any) -> list[float]:
        buffer = model.rollout_buffer
        times, values, returns = buffer.observations[..., 0], buffer.values, buffer.returns
        late = times > np.median(times)
        return [1 - np.var((returns - values)[half]) / np.var(returns[half]) for half in (~late, late)]

    more: dict[str, Any] = dict(batch_size=10) if issubclass(algorithm, PPO) else {}
    model = tiny(lambda: ScriptedEnv([31, 17]), algorithm=algorithm, n_steps=5, n_envs=2, gamma=0.9, **more)
    rows, ask = Rows(), Ask(by_hand)
    model.set_logger(Logger(None, [rows]))
    watch = GradientStatisticsCallback(every=2)
    model.learn(60, CallbackList([ask, watch]), log_interval=1)
    model.learn(60, CallbackList([ask, watch]), log_interval=1, reset_num_timesteps=False)
    found = [[row[f"gradient/explained_variance_{half}"] for half in ("early", "late")] for row in rows.rows if row]
    assert len(found) == 6
    np.testing.assert_allclose(found, ask.answers[1::2], rtol=1e-4)


def test_a_buffer_that_was_flattened_is_refused() -> None:
    model, _ = trained(A2C)
    with pytest.raises(ValueError, match="rollout_buffer has been flattened"):
        read_batch(model)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "10", None])
def test_a_wrong_interval_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"every=.* must be a whole number of at least 1"):
        GradientStatisticsCallback(every=wrong)


def test_a_wrong_choice_of_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="all_layers='yes' must be True or False"):
        GradientStatisticsCallback(all_layers="yes")  # type: ignore[arg-type]


def test_algorithms_without_a_policy_gradient_are_refused() -> None:
    box = spaces.Box(-1, 1, (3,), np.float32)
    dqn = tiny(lambda: RandomEnv(ACTION_SPACES[1], box), algorithm=DQN, n_steps=1)
    with pytest.raises(ValueError, match="cannot read DQN with DQNPolicy; accepted are on-policy algorithms"):
        dqn.learn(1, GradientStatisticsCallback())
    recurrent = tiny(algorithm=RecurrentPPO, policy="MlpLstmPolicy")
    with pytest.raises(ValueError, match="cannot read RecurrentPPO"):
        recurrent.learn(1, GradientStatisticsCallback())


def test_rl_zoo_builds_it_from_yaml() -> None:
    import yaml
    from rl_zoo3.utils import get_callback_list

    text = (
        "callback:\n  - sb3_pg.gradient.callbacks.GradientStatisticsCallback:\n      every: 5\n      all_layers: true\n"
    )
    (callback,) = get_callback_list(yaml.safe_load(text))
    assert isinstance(callback, GradientStatisticsCallback)
    assert (callback.every, callback.all_layers) == (5, True)
