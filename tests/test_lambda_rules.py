"""Rules for lambda in the algorithms: what they are told, what they change, what is kept, saved and refused."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import (
    ACTION_SPACES,
    DICT,
    IMAGE,
    AskedThroughTorch,
    Counting,
    PerStep,
    RandomEnv,
    Saying,
    ScriptedEnv,
    one_rollout,
    same,
    tiny,
    weights,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_pg import REINFORCE, VPG
from sb3_pg.advantage.estimators import gae, lambda_returns
from sb3_pg.advantage.gae_lambda import GradientAgreement, Hoof, LambdaBatch, Scheduled
from sb3_pg.gradient.per_episode import Factors, gradients_from_factors, output_layer, split_episodes
from sb3_pg.lambda_rules import LambdaRules, as_lambda_rule, lambda_batch
from sb3_pg.zoo.extend import extend_all

extend_all()
from rl_zoo3.exp_manager import ExperimentManager  # noqa: E402 - as sb3_pg.train does, after the extension
from rl_zoo3.utils import StoreDict  # noqa: E402

RULES = ["length:0.5", "explained_variance", "auto", "hoof"]


class FasterActor:
    learning_rate_factor = 1.0

    def choose(self, _: LambdaBatch) -> float:
        self.learning_rate_factor = 3.0
        return 0.9


def expected_advantages(buffer: Any, gae_lambda: Any, gamma: float = 0.99) -> Any:
    return gae(buffer.trajectories(), gamma=gamma, gae_lambda=gae_lambda)


# -- what is trained on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [0.5, "lin_0.5_0.25", *RULES, Counting(), PerStep()], ids=lambda rule: f"{rule}"[:12])
def test_advantages_and_targets_are_those_of_the_lambda_that_was_chosen(rule: Any) -> None:
    model = tiny(n_envs=2, gae_lambda=rule, n_steps=40)
    buffer = one_rollout(model)
    np.testing.assert_allclose(buffer.advantages, expected_advantages(buffer, buffer.gae_lambda), atol=1e-6)
    of_the_critic = 0.97 if rule in ("auto", "hoof") else buffer.gae_lambda
    target = lambda_returns(buffer.trajectories(), gamma=0.99, gae_lambda=of_the_critic)
    np.testing.assert_allclose(buffer.returns, target, atol=1e-6)


def test_a_rule_that_judges_policy_gradients_leaves_the_critic_at_its_default() -> None:
    buffer = one_rollout(tiny(gae_lambda=Saying(0.1, default=0.6)))
    np.testing.assert_allclose(buffer.advantages, expected_advantages(buffer, 0.1), atol=1e-6)
    target = lambda_returns(buffer.trajectories(), gamma=0.99, gae_lambda=0.6)
    np.testing.assert_allclose(buffer.returns, target, atol=1e-6)


def expected_target(model: Any, buffer: Any, rule: Any) -> Any:
    """Of the critic, with the lambda that the rule chooses when it is asked apart from the model."""
    chosen = as_lambda_rule(rule, "critic_gae_lambda").choose(
        lambda_batch(model, buffer, buffer.trajectories(), LambdaRules())
    )
    return lambda_returns(buffer.trajectories(), gamma=0.99, gae_lambda=chosen)


@pytest.mark.parametrize("rule", ["length:0.5", "explained_variance:0.3_0.6", PerStep()], ids=["length", "ev", "own"])
def test_the_critic_takes_rules_of_its_own(rule: Any) -> None:
    model = tiny(n_envs=2, gae_lambda="auto:0.9", critic_gae_lambda=rule)
    buffer = one_rollout(model)
    np.testing.assert_allclose(buffer.returns, expected_target(model, buffer, rule), atol=1e-6)
    np.testing.assert_allclose(buffer.advantages, expected_advantages(buffer, 0.9), atol=1e-6)


def test_reinforce_with_a_critic_takes_a_rule_for_its_target() -> None:
    model = tiny(algorithm=REINFORCE, baseline="value", gae_lambda="length:0.5", n_envs=2)
    buffer = one_rollout(model)
    expected = expected_target(model, buffer, "length:0.5")
    np.testing.assert_allclose(buffer.returns[buffer.valid], expected[buffer.valid], atol=1e-6)
    model.train()
    assert model._n_updates == 1


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "kind",
    [
        dict(env=lambda: RandomEnv(ACTION_SPACES[0])),
        dict(env=lambda: RandomEnv(ACTION_SPACES[2])),
        dict(env=lambda: RandomEnv(ACTION_SPACES[3])),
        dict(whole_episodes=True),
        dict(n_episodes=2, state_discount=True, normalize_advantage=False),
        dict(truncation="discard", n_steps=48),
        dict(joint_optimizer=True, per_step_values=True),
        dict(policy_loss="clipped", n_epochs=2, batch_size=8, target_kl=0.1),
        dict(env=lambda: RandomEnv(ACTION_SPACES[1], DICT), policy="MultiInputPolicy"),
    ],
    ids=["Box", "MultiDiscrete", "MultiBinary", "whole", "n_episodes", "discard", "joint", "clipped", "Dict"],
)
def test_every_rule_trains_wherever_a_number_does(rule: str, kind: dict[str, Any]) -> None:
    if rule == "hoof" and kind.get("joint_optimizer"):  # but for this one, whose steps are the actor's alone
        with pytest.raises(ValueError, match="joint_optimizer=False"):
            tiny(n_envs=2, gae_lambda=rule, **kind)
        return
    model = tiny(n_envs=2, gae_lambda=rule, **kind)
    before = weights(model)
    model.learn(96)
    assert not same(before, weights(model))
    assert 0 <= model.logger.name_to_value["train/gae_lambda"] <= 1


def test_a_schedule_begins_again_with_another_training() -> None:
    model = tiny(gae_lambda="lin_0.9_0.5").learn(64).learn(16)
    assert model.logger.name_to_value["train/gae_lambda"] == pytest.approx(0.9)


def test_a_schedule_may_have_a_training_of_no_steps() -> None:
    assert tiny(gae_lambda="lin_0.9_0.5").learn(0)._n_updates == 0


def test_images_and_a_policy_with_methods_of_its_own_can_be_tuned_too() -> None:
    of_images = dict(env=lambda: RandomEnv(spaces.Discrete(3), IMAGE), policy="CnnPolicy", n_steps=8)
    for kind in (of_images, dict(policy=AskedThroughTorch)):
        model = tiny(gae_lambda="auto", **kind)
        model.learn(2 * model.n_steps)
        assert auto_memory(model).n_updates == 1  # the first batch gives the unit


def test_the_weights_of_a_constant_rule_are_those_of_the_number() -> None:
    one, other = (tiny(gae_lambda=value, n_envs=2).learn(96) for value in (0.9, Saying(0.9)))
    assert same(weights(one), weights(other))


@pytest.mark.parametrize("rule", ["auto:0.9", "hoof:0.9"])
def test_a_rule_that_stays_on_its_default_changes_no_bit_of_the_training(rule: str) -> None:
    """It asks the policy, its optimizer and its gradients, and draws no random number."""
    chosen: Any = Hoof(0.9, (0.9, 1.0), min_ess=1.0) if rule.startswith("hoof") else rule
    one, other = (tiny(gae_lambda=value, n_envs=2).learn(96) for value in (0.9, chosen))
    assert other.logger.name_to_value["train/gae_lambda"] == 0.9
    assert same(weights(one), weights(other))


def test_a_learning_rate_factor_holds_for_the_update_that_follows() -> None:
    model = tiny(gae_lambda=FasterActor(), learning_rate=0.01, vf_learning_rate=0.02).learn(32)
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.03)
    assert model.logger.name_to_value["train/learning_rate"] == pytest.approx(0.03)
    assert model.policy.critic_optimizer.param_groups[0]["lr"] == 0.02
    model.gae_lambda = 0.9
    model.learn(16)
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.01


# -- what rules are told ---------------------------------------------------------------------------------------------


def told(model: Any) -> tuple[LambdaBatch, Any]:
    buffer = one_rollout(model)
    return lambda_batch(model, buffer, buffer.trajectories(), LambdaRules()), buffer


def test_a_rule_is_told_gamma_and_the_progress_and_is_asked_once_a_batch() -> None:
    model = tiny(gae_lambda=Counting(), gamma=0.8).learn(64)
    assert model.gae_lambda.n_batches == 4
    assert [gamma for gamma, _ in model.gae_lambda.seen] == [0.8] * 4
    progress = [progress for _, progress in model.gae_lambda.seen]
    assert progress[0] == 1
    assert progress == sorted(progress, reverse=True)


def test_the_log_probabilities_are_the_policys() -> None:
    model = tiny(n_envs=2, per_step_values=True)
    batch, buffer = told(model)
    np.testing.assert_allclose(batch.log_probs(), buffer.log_probs.reshape(-1), atol=1e-5)


def slow_block_gradients(model: Any, samples: Any, psi: Any, blocks: Any) -> Any:
    """By autograd, one block and one choice of psi at a time."""
    layer = model.policy.action_net
    found = []
    for weights_of_all in psi:
        for block in range(int(blocks.max()) + 1):
            rows = th.as_tensor(np.flatnonzero(blocks == block))
            _, log_probs, _ = model.policy.evaluate_actions(samples.observations[rows], samples.actions[rows])
            loss = (th.as_tensor(weights_of_all)[rows] * log_probs).sum()
            gradients = th.autograd.grad(loss, [layer.weight, layer.bias])
            found.append(th.cat([gradient.flatten() for gradient in gradients]).numpy())
    return np.array(found).reshape(len(psi), -1, len(found[0]))


class Wide(FlattenExtractor):
    """Flat features in float64, once the rest of the policy is."""

    wide = False

    def forward(self, observations: th.Tensor) -> th.Tensor:
        features = super().forward(observations)
        return features.double() if self.wide else features


@pytest.mark.parametrize("space", ACTION_SPACES, ids=lambda space: type(space).__name__)
def test_the_gradients_of_blocks_and_lambdas_are_autograds(space: Any) -> None:
    kwargs = dict(features_extractor_class=Wide)
    model = tiny(lambda: RandomEnv(space), n_envs=3, n_steps=20, policy_kwargs=kwargs)
    _, buffer = told(model)
    model.policy.double()
    Wide.wide = True
    try:
        compare_with_autograd(model, buffer)
    finally:
        Wide.wide = False


def compare_with_autograd(model: Any, buffer: Any) -> None:
    samples = buffer.samples()
    if samples.actions.dtype == th.float32:
        samples = samples._replace(actions=samples.actions.double())
    data = buffer.trajectories()
    psi = gae(data, gamma=0.99, gae_lambda=np.array([0.0, 0.9, 1.0])[:, None, None]).reshape(3, -1).astype(np.float64)
    blocks, counts = split_episodes(data.dones)
    inputs, delta = output_layer(model.policy, samples.observations, samples.actions)
    fast = gradients_from_factors([Factors(delta, inputs), Factors(delta)], psi, blocks.ravel(), len(counts))
    np.testing.assert_allclose(fast, slow_block_gradients(model, samples, psi, blocks.ravel()), rtol=0, atol=1e-10)


@pytest.mark.parametrize("normalize_advantage", [True, "center", False])
def test_the_products_are_of_the_gradients_that_the_update_would_take(normalize_advantage: Any) -> None:
    """Unequal episodes, steps outside the batch, gamma^t: every pair of blocks, by hand."""
    model = tiny(
        n_envs=3, n_steps=10, whole_episodes=True, state_discount=True, gamma=0.9,
        normalize_advantage=normalize_advantage,
    )  # fmt: skip
    batch, buffer = told(model)
    data, lambdas = buffer.trajectories(), np.array([0.3, 1.0])
    valid = data.valid
    assert not valid.all()
    advantages = gae(data, gamma=0.9, gae_lambda=lambdas[:, None, None])
    psi = advantages[:, valid]
    if normalize_advantage is not False:
        psi = psi - psi.mean(axis=1, keepdims=True)
    if normalize_advantage is True:
        psi /= psi.std(axis=1, keepdims=True, ddof=1)
    psi = psi * 0.9 ** data.times[valid]
    blocks, _ = split_episodes(data.dones, valid)
    c = slow_block_gradients(model, buffer.samples(), psi.astype(np.float32), blocks[valid]).astype(np.float64)
    n = c.shape[1]
    assert 3 < n <= 32  # each episode its own block
    found = batch.gradient_products(advantages)
    assert found is not None
    for k in range(2):
        cross = np.mean([c[k, i] @ c[1, j] for i in range(n) for j in range(n) if i != j])
        square = c[k].sum(axis=0) @ c[k].sum(axis=0) / n**2
        assert found.cross[k] == pytest.approx(cross, rel=1e-3, abs=1e-5)
        assert found.square[k] == pytest.approx(square, rel=1e-3)


def test_equal_advantages_have_no_gradient_instead_of_the_one_of_their_rounding() -> None:
    batch, buffer = told(tiny(lambda: ScriptedEnv([3, 4]), n_envs=2, n_steps=14, normalize_advantage=True))
    varied = np.random.default_rng(0).normal(size=buffer.rewards.shape).astype(np.float32)
    equal = np.full_like(varied, -0.1)
    assert (equal - equal.mean()).any()  # or there would be nothing to see
    found = batch.gradient_products(np.stack([equal, varied]))
    assert found is not None
    assert found.square[0] == 0.0
    assert found.square[1] > 0.0


def test_a_batch_of_one_episode_has_no_products() -> None:
    batch, buffer = told(tiny(lambda: ScriptedEnv([100])))
    assert batch.gradient_products(buffer.rewards[None]) is None


def test_where_all_episodes_are_one_step_long_auto_stays_on_its_default() -> None:
    class Bandit(ScriptedEnv):
        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, float(action), *rest

    model = tiny(lambda: Bandit([1]), gae_lambda="auto:0.8", n_steps=64, n_envs=2).learn(25 * 128)
    rule = model._lambda_rules._kept["gae_lambda"][1]
    assert rule.n_updates > 15
    assert model.logger.name_to_value["train/gae_lambda"] == 0.8


# -- what is logged and kept -----------------------------------------------------------------------------------------


def test_lambda_in_use_is_logged_as_a_mean_over_the_steps_of_the_batch() -> None:
    model = tiny(gae_lambda=PerStep(), critic_gae_lambda=0.5, n_steps=15)
    model.learn(15)
    logged = model.logger.name_to_value
    assert logged["train/gae_lambda"] == pytest.approx(sum(range(15)) / 15 / 16)
    assert logged["train/critic_gae_lambda"] == 0.5
    assert "train/critic_gae_lambda" not in tiny(gae_lambda=PerStep()).learn(16).logger.name_to_value
    assert tiny(gae_lambda="hoof:0.9").learn(16).logger.name_to_value["train/critic_gae_lambda"] == 0.9


def test_what_a_rule_records_is_logged_when_the_update_is_complete() -> None:
    model = tiny(gae_lambda=Counting())
    one_rollout(model)
    assert "gradient/lambda_score" not in model.logger.name_to_value
    model.train()
    assert model.logger.name_to_value["gradient/lambda_score"] == 1.0


def test_a_rule_learns_from_completed_updates_only() -> None:
    model = tiny(gae_lambda=Counting())
    for _ in range(3):
        one_rollout(model)
        assert model.gae_lambda.n_batches == 0
        assert model.rollout_buffer.gae_lambda == 0.5
    model.train()
    assert model.gae_lambda.n_batches == 1
    before = weights(model)
    one_rollout(model)
    model.policy.optimizer.step = lambda *_: 1 / 0  # the update fails
    with pytest.raises(ZeroDivisionError):
        model.train()
    assert model.gae_lambda.n_batches == 1
    assert same(before, weights(model))


def test_the_parameter_stays_what_the_user_gave() -> None:
    for given in ("auto:0.9", "lin_0.9_0.5", 0.5, "hoof"):
        assert tiny(gae_lambda=given).learn(48).gae_lambda == given
    rule = Counting()
    one, other = tiny(gae_lambda=rule).learn(48), tiny(gae_lambda=rule).learn(16)
    assert rule.n_batches == 0, "it is copied, so that two models share nothing"
    assert (one.gae_lambda.n_batches, other.gae_lambda.n_batches) == (3, 1)


def test_another_rule_on_the_model_counts_from_the_next_update() -> None:
    model = tiny(gae_lambda="auto:0.9").learn(16)
    model.gae_lambda = "auto:0.8"
    model.learn(16)
    assert model.logger.name_to_value["train/gae_lambda"] == 0.8
    model.gae_lambda = Counting()
    model.learn(16)
    assert "gradient/lambda_score" in model._lambda_rules.log
    model.gae_lambda = 0.3
    model.learn(16)
    assert model._lambda_rules.log == {"train/gae_lambda": 0.3}, "what other rules recorded is not logged again"


def auto_memory(model: Any) -> GradientAgreement:
    rule = model._lambda_rules._kept["gae_lambda"][1]
    assert isinstance(rule, GradientAgreement)
    return rule


def test_what_a_rule_has_learned_is_saved_and_goes_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = dict(n_envs=2, gae_lambda="auto", critic_gae_lambda="explained_variance")
    through = tiny(**settings).learn(256)
    broken = tiny(**settings).learn(128)
    broken.save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", tiny(**settings).env, device="cpu")
    assert loaded.gae_lambda == "auto"
    assert auto_memory(loaded).n_updates == auto_memory(broken).n_updates == 3
    loaded.learn(128, reset_num_timesteps=False)
    assert auto_memory(loaded).n_updates == auto_memory(through).n_updates
    np.testing.assert_array_equal(auto_memory(loaded)._sum, auto_memory(through)._sum)
    assert same(weights(loaded), weights(through))


def test_a_model_saved_between_rollout_and_update_has_not_learned_from_the_rollout(tmp_path: Path) -> None:
    model = tiny(n_envs=2, gae_lambda=Counting()).learn(32)
    one_rollout(model)
    model.save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", model.env, device="cpu")
    assert loaded.gae_lambda.n_batches == 1
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded.gae_lambda.n_batches == loaded._n_updates == 3  # the rollout is collected again, and the next one


@pytest.mark.parametrize(
    "other", ["auto:0.8", "length:0.5", 0.5, "lin_0.8_0.8", Counting()], ids=lambda rule: f"{rule}"[:8]
)
def test_a_model_is_loaded_with_another_rule(tmp_path: Path, other: Any) -> None:
    def of_length_five(**kwargs: Any) -> Any:
        return tiny(lambda: ScriptedEnv([5]), n_envs=2, **kwargs)

    of_length_five(gae_lambda="auto").learn(96).save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", of_length_five().env, device="cpu", gae_lambda=other)
    loaded.learn(32)
    expected = of_length_five(gae_lambda=other).learn(32)
    assert loaded.logger.name_to_value["train/gae_lambda"] == expected.logger.name_to_value["train/gae_lambda"]
    if other == "auto:0.8":
        assert auto_memory(loaded).n_updates == auto_memory(expected).n_updates == 0


def test_a_model_from_before_there_were_rules_is_loaded(tmp_path: Path) -> None:
    tiny().save(tmp_path / "model", exclude=["_lambda_rules"])
    VPG.load(tmp_path / "model", tiny().env, device="cpu").learn(16)


# -- RL Zoo ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["auto:0.97", "length:0.05", "explained_variance:0.8_1.0", "hoof", "lin_0.99_0.9"])
def test_rules_are_read_from_the_zoos_files_and_command_line(tmp_path: Path, text: str) -> None:
    config = tmp_path / "mine.yml"
    config.write_text(f"CartPole-v1: {{n_timesteps: 64, policy: MlpPolicy, n_steps: 16, gae_lambda: {text}}}")
    parser = argparse.ArgumentParser()
    parser.add_argument("-params", nargs="+", action=StoreDict)
    typed = parser.parse_args(["-params", f"gae_lambda:'{text}'"]).params
    for hyperparams in (None, typed):
        manager = ExperimentManager(
            argparse.Namespace(), "vpg", "CartPole-v1", str(tmp_path), config=str(config), hyperparams=hyperparams
        )
        read, _ = manager.read_hyperparameters()
        gae_lambda = manager._preprocess_hyperparams(read)[0]["gae_lambda"]
        assert gae_lambda == text
        tiny(make_vec_env("CartPole-v1"), gae_lambda=gae_lambda)


# -- wrong rules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gae_lambda", "critic_gae_lambda"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            "atuo",
            ("'atuo'", "[0, 1]", "lin_START", "'auto'", "'hoof'", "'length:ALPHA'", "explained_variance", "choose"),
        ),
        ("", ("''", "'auto'")),
        ("0.9", ("'0.9'", "a number")),
        ("length", ("'length'", "'length:ALPHA'")),
        ("length:x", ("'length:x'", "'x'", "'length:ALPHA'")),
        ("length:0", ("'length:0'", "alpha=0.0", "above 0")),
        ("explained_variance:0.9", ("'explained_variance:0.9'", "LOW_HIGH")),
        ("explained_variance:0.9_0.8", ("low=0.9, high=0.8",)),
        ("explained_variance:0.9_1.8", ("high=1.8",)),
        ("auto:1.5", ("'auto:1.5'", "default=1.5", "[0, 1]")),
        ("hoof:x", ("'hoof:x'", "'hoof:DEFAULT'")),
        (GradientAgreement, ("class", "GradientAgreement(...)")),
        ([0.9], ("[0.9]", "callable")),
        ("lin_0.9_1.2", ("1.2", "[0, 1]")),
    ],
    ids=lambda value: f"{getattr(value, '__name__', value)}"[:24] if not isinstance(value, tuple) else "",
)
def test_what_is_no_rule_is_refused_with_what_is_accepted(name: str, value: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=name) as error:
        tiny(**{name: value})
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan"), None, "high", np.full((3, 1), 0.5), np.full((16, 1), 2.0)])
@pytest.mark.parametrize("name", ["gae_lambda", "critic_gae_lambda"])
def test_a_rule_that_chooses_nonsense_is_refused_by_name_and_nothing_is_trained(name: str, value: Any) -> None:
    model = tiny(**{name: Saying(value)})
    before = weights(model)
    with pytest.raises(ValueError, match=rf"{name}.*\[0, 1\].*\(16, 1\)"):
        model.learn(16)
    assert same(before, weights(model))


def test_a_default_that_is_no_lambda_is_refused() -> None:
    rule = Saying(0.1, default=6.0)
    with pytest.raises(ValueError, match=r"default of gae_lambda.*6.*\[0, 1\]"):
        tiny(gae_lambda=rule).learn(16)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(critic_gae_lambda="auto"), ("critic_gae_lambda='auto'", "policy gradients", "explained_variance")),
        (dict(critic_gae_lambda=Hoof()), ("critic_gae_lambda=", "None")),
        (dict(gae_lambda="auto", estimator="td_residual"), ("gae_lambda='auto'", "'td_residual'", "estimator='gae'")),
        (dict(gae_lambda="hoof", estimator="n_step:3"), ("gae_lambda='hoof'", "'n_step:3'")),
        (dict(gae_lambda="length:1", baseline="none", whole_episodes=True), ("baseline='none'", "baseline='value'")),
        (
            dict(gae_lambda="auto", baseline="mean", estimator="reward_to_go", whole_episodes=True),
            ("gae_lambda='auto'", "baseline='mean'", "gae_lambda=1.0"),
        ),
        (
            dict(algorithm=REINFORCE, critic_gae_lambda="explained_variance"),
            ("critic_gae_lambda='explained_variance'", "baseline='none'"),
        ),
        (
            dict(gae_lambda="auto", use_sde=True, env=lambda: RandomEnv(ACTION_SPACES[0])),
            ("use_sde=True", "use_sde=False"),
        ),
    ],
    ids=lambda value: ",".join(map(str, value))[:40] if isinstance(value, dict) else "",
)
def test_rules_that_cannot_go_with_the_rest_are_refused(settings: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="accepted are") as error:
        tiny(**settings)
    for word in words:
        assert word in str(error.value)


def test_gsde_goes_with_the_rules_that_need_no_gradient_of_the_last_layer() -> None:
    for rule in ("hoof", "length:0.5", "explained_variance"):
        tiny(lambda: RandomEnv(ACTION_SPACES[0]), use_sde=True, gae_lambda=rule).learn(32)


def test_numbers_and_schedules_are_read_as_ever() -> None:
    def halved(progress: float) -> float:
        return progress / 2

    schedules: list[tuple[Any, float]] = [(0.5, 0.5), ("lin_1_0.5", 0.75), (halved, 0.25)]
    for value, halfway in schedules:
        rule = as_lambda_rule(value, "gae_lambda")
        assert isinstance(rule, Scheduled)
        assert rule.schedule(0.5) == halfway
