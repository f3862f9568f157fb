"""SB3's callbacks see what they see in A2C, and may stop the training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import ACTION_SPACES, RandomEnv, ScriptedEnv, same, tiny, weights
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env

from sb3_pg import REINFORCE, VPG


class Recorder(BaseCallback):
    """Calls a function with itself at every step, and counts all the hooks."""

    def __init__(self, at_step: Callable[[Any], Any] = lambda _: None) -> None:
        super().__init__()
        self.at_step = at_step
        self.seen: list[Any] = []
        self.hooks: list[str] = []

    def _on_training_start(self) -> None:
        self.hooks.append("training start")

    def _on_rollout_start(self) -> None:
        self.hooks.append("rollout start")

    def _on_step(self) -> bool:
        self.hooks.append("step")
        self.seen.append(self.at_step(self))
        return True

    def _on_rollout_end(self) -> None:
        self.hooks.append("rollout end")

    def _on_training_end(self) -> None:
        self.hooks.append("training end")


class StopAt(BaseCallback):
    def __init__(self, n_calls: int) -> None:
        super().__init__()
        self.stop_at = n_calls

    def _on_step(self) -> bool:
        return self.n_calls < self.stop_at


BATCHES: list[dict[str, Any]] = [{}, dict(whole_episodes=True), dict(n_episodes=4), dict(per_step_values=True)]


# -- stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", BATCHES, ids=str)
@pytest.mark.parametrize("step", [1, 9])
def test_a_callback_that_returns_false_stops_before_training(step: int, settings: dict[str, Any]) -> None:
    model = tiny(n_envs=2, **settings)
    before = weights(model)
    recorder = Recorder()
    model.learn(1000, CallbackList([recorder, StopAt(step)]))
    assert model.num_timesteps == 2 * step
    assert model._n_updates == 0
    assert same(before, weights(model))
    assert recorder.hooks == ["training start", "rollout start", *["step"] * step, "training end"]


def test_a_callback_that_returns_false_at_the_last_step_of_a_rollout_stops_before_training() -> None:
    model = tiny()
    model.learn(1000, StopAt(32))
    assert model.num_timesteps == 32
    assert model._n_updates == 1


def test_a_function_as_callback_stops_too() -> None:
    model = tiny()
    model.learn(1000, lambda locals_, _: locals_["self"].num_timesteps < 5)
    assert (model.num_timesteps, model._n_updates) == (5, 0)


def test_training_goes_on_after_a_stop() -> None:
    model = tiny()
    model.learn(1000, StopAt(20))
    model.learn(32, reset_num_timesteps=False)
    assert model.num_timesteps == 20 + 32
    assert model._n_updates == 1 + 2


def test_steps_into_the_episode_are_right_after_a_stop_in_the_middle_of_a_rollout() -> None:
    """They weigh the gradient with state_discount; the observation of this environment tells the true count."""
    model = tiny(lambda: ScriptedEnv([1000]), state_discount=True)
    model.learn(1000, StopAt(20))
    model.learn(16, reset_num_timesteps=False)
    buffer = model.rollout_buffer
    np.testing.assert_array_equal(buffer.times[:, 0], range(20, 36))
    np.testing.assert_array_equal(buffer.observations[1:, 0, 0], range(21, 36))


def test_stop_training_on_max_episodes_stops() -> None:
    model = tiny(lambda: ScriptedEnv([4]))
    model.learn(1000, StopTrainingOnMaxEpisodes(3))
    assert model.num_timesteps == 12


# -- SB3's callbacks -------------------------------------------------------------------------------------------------


def test_eval_callback_evaluates_logs_and_keeps_the_best_model(tmp_path: Path) -> None:
    model = tiny(lambda: ScriptedEnv([5]))
    callback = EvalCallback(
        make_vec_env(lambda: ScriptedEnv([5]), 1), eval_freq=16, n_eval_episodes=2, log_path=str(tmp_path),
        best_model_save_path=str(tmp_path), verbose=0,
    )  # fmt: skip
    model.learn(48, callback)
    with np.load(tmp_path / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"].tolist() == [16, 32, 48]
        np.testing.assert_array_equal(evaluations["results"], 5.0)
    assert callback.best_mean_reward == 5.0
    best = VPG.load(tmp_path / "best_model.zip", device="cpu")
    assert best.num_timesteps == 16


def test_stop_training_on_reward_threshold_stops(tmp_path: Path) -> None:
    model = tiny(lambda: ScriptedEnv([5]))
    threshold = StopTrainingOnRewardThreshold(5.0)
    callback = EvalCallback(
        make_vec_env(lambda: ScriptedEnv([5]), 1), callback_on_new_best=threshold, eval_freq=20, n_eval_episodes=1,
        best_model_save_path=str(tmp_path), verbose=0,
    )  # fmt: skip
    model.learn(1000, callback)
    assert model.num_timesteps == 20


def test_checkpoint_callback_writes_models_that_can_be_loaded(tmp_path: Path) -> None:
    for algorithm in (VPG, REINFORCE):
        model = tiny(algorithm=algorithm)
        prefix = algorithm.__name__
        model.learn(32, CheckpointCallback(save_freq=10, save_path=str(tmp_path), name_prefix=prefix))
        for steps in (10, 20, 30):
            loaded = algorithm.load(tmp_path / f"{prefix}_{steps}_steps.zip", device="cpu")
            assert loaded.num_timesteps == steps


def test_every_n_timesteps_fires() -> None:
    recorder = Recorder(lambda callback: callback.num_timesteps)
    tiny(n_envs=2).learn(64, EveryNTimesteps(10, recorder))
    assert recorder.seen == [10, 20, 30, 40, 50, 60]


@pytest.mark.filterwarnings("ignore:rich is experimental")  # tqdm's, about itself
def test_the_progress_bar_reaches_its_end(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    model = tiny().learn(32, progress_bar=True)
    assert model.num_timesteps == 32
    captured = capfd.readouterr()
    assert "32/32" in captured.out + captured.err


# -- what callbacks see ----------------------------------------------------------------------------------------------

EVERY_STEP = {
    "self", "env", "callback", "rollout_buffer", "n_rollout_steps", "n_steps", "actions", "clipped_actions", "new_obs",
    "rewards", "dones", "infos",
}  # fmt: skip


@pytest.mark.parametrize("settings", BATCHES, ids=str)
@pytest.mark.parametrize("space", ACTION_SPACES, ids=lambda space: type(space).__name__)
def test_callbacks_read_sb3s_locals_at_every_step(space: Any, settings: dict[str, Any]) -> None:
    def look(callback: Any) -> Any:
        seen = callback.locals
        assert set(seen) >= EVERY_STEP
        assert seen["self"] is callback.model
        for name in ("actions", "clipped_actions", "new_obs", "rewards", "dones", "infos"):
            assert len(seen[name]) == 2
        assert seen["clipped_actions"].shape == (2, *space.shape)
        assert all(space.contains(action) for action in seen["clipped_actions"].astype(space.dtype))
        if settings.get("per_step_values"):
            assert np.asarray(seen["values"]).size == np.asarray(seen["log_probs"]).size == 2
        return seen["n_steps"]

    recorder = Recorder(look)
    tiny(lambda: RandomEnv(space), n_envs=2, **settings).learn(32, recorder)
    assert recorder.seen[:16] == list(range(16))


def test_the_locals_of_a_step_are_those_of_a2c() -> None:
    """The same arrays, of the same shapes and kinds, from the same seed."""
    names = ("n_steps", "actions", "clipped_actions", "new_obs", "rewards", "dones", "values", "log_probs")

    def look(callback: Any) -> Any:
        return {name: th.as_tensor(callback.locals[name]).flatten().numpy().copy() for name in names}

    seen = {}
    for algorithm, settings in ((VPG, dict(per_step_values=True)), (A2C, {})):
        recorder = Recorder(look)
        tiny(lambda: RandomEnv(ACTION_SPACES[0]), algorithm=algorithm, n_envs=3, **settings).learn(48, recorder)
        seen[algorithm] = recorder.seen
    assert len(seen[VPG]) == len(seen[A2C]) == 16
    for ours, theirs in zip(seen[VPG], seen[A2C], strict=True):
        for name in names:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize("settings", BATCHES, ids=str)
def test_the_number_of_timesteps_is_right_at_every_step(settings: dict[str, Any]) -> None:
    recorder = Recorder(lambda callback: (callback.num_timesteps, callback.model.num_timesteps, callback.n_calls))
    model = tiny(n_envs=3, **settings).learn(100, recorder)
    assert recorder.seen == [(3 * n, 3 * n, n) for n in range(1, len(recorder.seen) + 1)]
    assert model.num_timesteps == 3 * len(recorder.seen) >= 100


@pytest.mark.parametrize("settings", BATCHES, ids=str)
def test_the_last_observation_is_that_of_the_step_before(settings: dict[str, Any]) -> None:
    """As in SB3, where ``_last_obs`` is what the action was taken on."""
    recorder = Recorder(
        lambda callback: (
            callback.model._last_obs.copy(),
            callback.locals["new_obs"].copy(),
            callback.locals["n_steps"],
        )
    )
    tiny(n_envs=2, **settings).learn(32, recorder)
    for (_, new_obs, _), (last_obs, _, n_steps) in zip(recorder.seen, recorder.seen[1:], strict=False):
        if n_steps > 0:
            np.testing.assert_array_equal(last_obs, new_obs)


@pytest.mark.parametrize("settings", BATCHES, ids=str)
def test_the_hooks_are_called_in_sb3s_order(settings: dict[str, Any]) -> None:
    recorder = Recorder()
    tiny(lambda: ScriptedEnv([4]), **settings).learn(32, recorder)
    rollout = ["rollout start", *["step"] * 16, "rollout end"]
    assert recorder.hooks == ["training start", *rollout, *rollout, "training end"]


class AtRolloutEnd(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.ends: list[tuple[Any, Any, Any]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.locals["rollout_buffer"]
        assert buffer is self.model.rollout_buffer
        assert buffer.advantages.shape == buffer.returns.shape == buffer.rewards.shape
        self.ends.append((buffer.advantages.copy(), buffer.returns.copy(), buffer.values.copy()))


@pytest.mark.parametrize("settings", BATCHES, ids=str)
def test_at_the_end_of_a_rollout_advantages_and_returns_are_in_the_buffer(settings: dict[str, Any]) -> None:
    callback = AtRolloutEnd()
    model = tiny(n_envs=2, critic_gae_lambda=None, **settings)
    for _ in range(2):
        model.learn(1, callback, reset_num_timesteps=False)  # a whole rollout
    (first, *_), (second, *_) = callback.ends
    for advantages, returns, values in callback.ends:
        assert advantages.std() > 0
        np.testing.assert_allclose(advantages, returns - values, atol=1e-5)
    assert not np.array_equal(first[:8], second[:8])


def test_what_a_callback_writes_into_the_buffer_is_trained_on() -> None:
    """What is trained on is what the buffer holds after on_rollout_end."""

    class NoAdvantages(Recorder):
        def _on_rollout_end(self) -> None:
            self.model.rollout_buffer.advantages[:] = 0.0

    model = tiny(normalize_advantage=False)
    before = weights(model)
    model.learn(16, NoAdvantages())
    assert th.equal(before["action_net.weight"], weights(model)["action_net.weight"])
    assert not th.equal(before["value_net.weight"], weights(model)["value_net.weight"])


class ReadsTheRollout(BaseCallback):
    """What callbacks written for A2C read at the end of a rollout."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer: Any = self.model.rollout_buffer
        (samples,) = buffer.get(None)
        policy: Any = self.model.policy
        actions = samples.actions.long().flatten()
        with th.no_grad():
            _, log_probs, _ = policy.evaluate_actions(samples.observations, actions)
        assert th.allclose(samples.old_log_prob, log_probs, atol=1e-5)
        assert float(samples.old_log_prob.max()) < 0
        assert np.isfinite(buffer.log_probs).all()
        assert np.allclose(np.sort(buffer.log_probs[buffer.valid_steps]), np.sort(log_probs.numpy()), atol=1e-5)
        assert th.as_tensor(buffer.episode_starts).sub(1.0).max() <= 0
        before = buffer.advantages.copy()
        buffer.compute_returns_and_advantage(last_values=self.locals["values"], dones=self.locals["dones"])
        assert same({"": th.as_tensor(before)}, {"": th.as_tensor(buffer.advantages)})
        self.log_probs = buffer.log_probs.copy()


@pytest.mark.parametrize(
    "kwargs",
    [
        {}, dict(policy_loss="clipped"), dict(per_step_values=True), dict(whole_episodes=True),
        dict(policy_kwargs=dict(activation_fn=th.nn.ELU)), dict(gae_lambda="hoof"),
    ],
)  # fmt: skip
def test_a_callback_of_a2c_finds_log_probabilities_and_the_last_values(kwargs: dict[str, Any]) -> None:
    callback = ReadsTheRollout()
    model = VPG("MlpPolicy", make_vec_env("CartPole-v1", 2), n_steps=16, seed=0, device="cpu", **kwargs)
    model.learn(96, callback)
    assert callback.log_probs.size >= 32


def test_log_probabilities_are_those_of_the_policy_that_acts_whatever_mode_it_is_in() -> None:
    """As SB3's own train() puts it into training mode before it reads the buffer."""
    model = tiny(policy_kwargs=dict(activation_fn=lambda: th.nn.Dropout(0.5)))
    read: list[Any] = []

    def train() -> None:
        model.policy.set_training_mode(True)
        read.append(next(model.rollout_buffer.get()).old_log_prob.clone())
        assert model.policy.training
        samples = model.rollout_buffer.samples()
        model.policy.set_training_mode(False)
        read.append(model.policy.evaluate_actions(samples.observations, samples.actions)[1].detach())

    model.train = train
    model.learn(16)
    assert th.allclose(read[0].sort().values, read[1].sort().values, atol=1e-6)
