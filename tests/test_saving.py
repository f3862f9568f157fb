"""Models are saved whole, loaded whole, and a wrong file or keyword is refused."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import pickle
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import ACTION_SPACES, DICT, IMAGE, RandomEnv, one_rollout, same, tiny, weights
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_pg import REINFORCE, VPG, TunableA2C


def random_env(n_envs: int = 1, space: Any = ACTION_SPACES[1], seed: int = 9, **kwargs: Any) -> Any:
    return make_vec_env(lambda: RandomEnv(space, **kwargs), n_envs, seed=seed)


def halved(progress_remaining: float) -> float:
    return 0.5 * progress_remaining


KINDS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    **{type(space).__name__: (lambda space=space: RandomEnv(space), "MlpPolicy", {}) for space in ACTION_SPACES},
    "image": (
        lambda: RandomEnv(ACTION_SPACES[1], IMAGE), "CnnPolicy",
        dict(policy_kwargs=dict(features_extractor_kwargs=dict(features_dim=8)), n_steps=4),
    ),
    "dict": (
        lambda: RandomEnv(ACTION_SPACES[1], DICT), "MultiInputPolicy",
        dict(policy_kwargs=dict(features_extractor_kwargs=dict(cnn_output_dim=8)), n_steps=4),
    ),
    "gSDE": (lambda: RandomEnv(ACTION_SPACES[0]), "MlpPolicy", dict(use_sde=True)),
    "joint": (None, "MlpPolicy", dict(joint_optimizer=True)),
    "RMSprop": (None, "MlpPolicy", dict(use_rms_prop=True, rms_prop_eps=1e-4)),
    "q": (None, "MlpPolicy", dict(estimator="q_minus_v")),
    "whole episodes": (None, "MlpPolicy", dict(n_episodes=2, baseline="leave_one_out", estimator="reward_to_go")),
    "per step": (None, "MlpPolicy", dict(per_step_values=True)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_has_the_same_predictions_weights_and_optimizers(tmp_path: Path, kind: str) -> None:
    env, policy, settings = KINDS[kind]
    model = tiny(env, policy, **settings).learn(32)
    model.save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", device="cpu")
    assert same(weights(loaded), weights(model))
    assert same(loaded.policy.optimizer.state_dict(), model.policy.optimizer.state_dict())
    assert model.policy.optimizer.state_dict()["state"]
    if not model.joint_optimizer:
        assert same(loaded.policy.critic_optimizer.state_dict(), model.policy.critic_optimizer.state_dict())
    observations = model.env.reset()
    # The noise of gSDE is drawn anew, and is not part of the weights
    for deterministic in (True,) if model.use_sde else (True, False):
        actions = []
        for each in (model, loaded):
            set_random_seed(0)
            actions.append(each.predict(observations, deterministic=deterministic)[0])
        np.testing.assert_array_equal(*actions)


@pytest.mark.parametrize("kind", ["Box", "Discrete", "joint", "RMSprop", "q"])
def test_the_next_update_of_a_loaded_model_is_that_of_the_saved_one(tmp_path: Path, kind: str) -> None:
    """Momentum and all: from the same batch both go to the same weights, bit for bit."""
    env, policy, settings = KINDS[kind]
    model = tiny(env, policy, **settings).learn(32)
    model.save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", model.env, device="cpu")
    loaded._setup_learn(16, reset_num_timesteps=False)
    buffer = one_rollout(model)
    loaded.rollout_buffer = buffer
    loaded._current_progress_remaining = model._current_progress_remaining
    before = weights(model)
    for each in (model, loaded):
        set_random_seed(0)
        each.train()
    assert same(weights(model), weights(loaded))
    assert not same(before, weights(model))
    assert same(model.policy.optimizer.state_dict(), loaded.policy.optimizer.state_dict())
    assert model._n_updates == loaded._n_updates == 3


def test_training_goes_on_after_loading(tmp_path: Path) -> None:
    model = tiny(n_envs=2, learning_rate="lin_0.01").learn(64)
    model.save(tmp_path / "model.zip")
    loaded = VPG.load(tmp_path / "model.zip", random_env(2), device="cpu")
    assert (loaded.num_timesteps, loaded._n_updates) == (64, 2)
    before = weights(loaded)
    loaded.learn(64, reset_num_timesteps=False)
    assert (loaded.num_timesteps, loaded._n_updates) == (128, 4)
    assert not same(before, weights(loaded))
    steps = {int(state["step"]) for state in loaded.policy.optimizer.state.values()}
    assert steps == {4}


def test_a_model_can_be_loaded_with_another_number_of_environments(tmp_path: Path) -> None:
    tiny(n_envs=2).learn(32).save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", random_env(3), device="cpu")
    with pytest.warns(UserWarning, match="there were 2 and are 3"):
        loaded.learn(48, reset_num_timesteps=False)
    assert loaded.rollout_buffer.rewards.shape == (16, 3)


@pytest.mark.parametrize("joint_optimizer", [False, True])
def test_a_learning_rate_given_at_loading_is_that_of_the_next_update(tmp_path: Path, joint_optimizer: bool) -> None:
    tiny(learning_rate=0.01, joint_optimizer=joint_optimizer).learn(16).save(tmp_path / "model")
    kwargs: dict[str, Any] = dict(learning_rate=0.001)
    if not joint_optimizer:
        kwargs["vf_learning_rate"] = 0.0005
    loaded = VPG.load(tmp_path / "model", random_env(), device="cpu", **kwargs)
    loaded.learn(16, reset_num_timesteps=False)
    assert {group["lr"] for group in loaded.policy.optimizer.param_groups} == {0.001}
    assert loaded.logger.name_to_value["train/learning_rate"] == 0.001
    if not joint_optimizer:
        assert {group["lr"] for group in loaded.policy.critic_optimizer.param_groups} == {0.0005}


def test_a_learning_rate_given_at_loading_holds_for_a_critic_that_has_none_of_its_own(tmp_path: Path) -> None:
    tiny(learning_rate=0.01).learn(16).save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", random_env(), device="cpu", learning_rate="lin_0.1_0.05")
    loaded.learn(16)
    assert loaded.policy.critic_optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_other_parameters_can_be_changed_at_loading(tmp_path: Path) -> None:
    tiny().learn(16).save(tmp_path / "model")
    changes = dict(n_steps=8, gae_lambda=0.5, n_critic_updates=1, normalize_advantage="center", estimator="n_step:2")
    loaded = VPG.load(tmp_path / "model", random_env(), device="cpu", **changes).learn(8)
    assert {name: getattr(loaded, name) for name in changes} == changes
    assert len(loaded.rollout_buffer.rewards) == 8


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(gea_lambda=0.9), ("gea_lambda=0.9", "VPG", "gae_lambda")),
        (dict(vf_lr=0.9), ("vf_lr=0.9", "VPG")),
        (dict(learning_rat=1e-3), ("learning_rat=0.001", "learning_rate")),
        (dict(n_critic_update=3), ("n_critic_update=3", "n_critic_updates")),
        (dict(clip_rnge=0.1), ("clip_rnge=0.1", "clip_range")),
    ],
    ids=str,
)
def test_an_unknown_keyword_at_loading_is_refused_with_a_suggestion(tmp_path: Path, wrong: Any, words: Any) -> None:
    for algorithm in (VPG, REINFORCE):
        tiny(algorithm=algorithm).save(tmp_path / algorithm.__name__)
        with pytest.raises(ValueError, match=words[0]) as error:
            algorithm.load(tmp_path / algorithm.__name__, device="cpu", **wrong)
        assert all(word.replace("VPG", algorithm.__name__) in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (dict(gae_lambda=1.5), "gae_lambda"),
        (dict(learning_rate=-1.0), "learning_rate"),
        (dict(estimator="gea"), "estimator"),
        (dict(baseline="none"), "baseline"),
        (dict(joint_optimizer=True), "joint_optimizer"),
        (dict(estimator="q"), "whose critic has no Q"),
        (dict(policy="CnnPolicy"), "policy"),
    ],
    ids=str,
)
def test_a_wrong_value_at_loading_is_refused_by_name(tmp_path: Path, wrong: dict[str, Any], word: str) -> None:
    tiny().learn(16).save(tmp_path / "model")
    with pytest.raises(ValueError, match=word):
        VPG.load(tmp_path / "model", device="cpu", **wrong)


def test_other_policy_kwargs_at_loading_are_refused(tmp_path: Path) -> None:
    tiny().save(tmp_path / "model")
    with pytest.raises(ValueError, match="policy"):
        VPG.load(tmp_path / "model", device="cpu", policy_kwargs=dict(net_arch=[3]))


# -- files that are none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [A2C, PPO])
def test_a_model_of_another_algorithm_is_refused(tmp_path: Path, other: Any) -> None:
    settings = dict(batch_size=8) if other is PPO else {}
    tiny(algorithm=other, **settings).save(tmp_path / "other.zip")
    for algorithm in (VPG, REINFORCE):
        with pytest.raises(ValueError, match=r"other\.zip.*another algorithm.*VPG and REINFORCE"):
            algorithm.load(tmp_path / "other.zip", device="cpu")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, part: float) -> None:
    tiny().save(tmp_path / "whole.zip")
    content = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "part.zip").write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=r"part\.zip.*save\(\)"):
        VPG.load(tmp_path / "part.zip", device="cpu")


def test_a_zip_with_something_else_in_it_is_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"arrays\.npz.*save\(\)"):
        VPG.load(tmp_path / "arrays.npz", device="cpu")


def test_a_missing_file_is_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing_here"):
        VPG.load(tmp_path / "nothing_here.zip")
    with pytest.raises(FileNotFoundError, match="nothing_here"):
        VPG.load(str(tmp_path / "nothing_here"))


def test_refused_files_are_left_as_they_were(tmp_path: Path) -> None:
    tiny(algorithm=A2C).save(tmp_path / "other.zip")
    content = (tmp_path / "other.zip").read_bytes()
    with pytest.raises(ValueError, match="another algorithm"):
        VPG.load(tmp_path / "other.zip")
    assert (tmp_path / "other.zip").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["other.zip"]


# -- ways of saving --------------------------------------------------------------------------------------------------


def test_a_model_can_be_saved_to_and_loaded_from_memory() -> None:
    model, file = tiny().learn(16), io.BytesIO()
    model.save(file)
    file.seek(0)
    assert same(weights(VPG.load(file, device="cpu")), weights(model))


def test_reinforce_goes_to_a_file_and_back(tmp_path: Path) -> None:
    model = tiny(algorithm=REINFORCE, baseline="mean", gamma=0.9).learn(32)
    model.save(tmp_path / "model")
    loaded = REINFORCE.load(tmp_path / "model", random_env(), device="cpu")
    assert type(loaded) is REINFORCE
    assert (loaded.estimator, loaded.baseline, loaded.whole_episodes) == ("reward_to_go", "mean", True)
    assert same(weights(loaded), weights(model))
    before = weights(loaded)
    loaded.learn(32, reset_num_timesteps=False)
    assert not same(before, weights(loaded))


def test_a_model_without_an_environment_predicts_and_gets_one_later(tmp_path: Path) -> None:
    tiny().learn(16).save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", device="cpu")
    assert loaded.env is None
    env = random_env()
    assert loaded.predict(env.reset())[0].shape == (1,)
    rewards, lengths = evaluate_policy(loaded, env, n_eval_episodes=2, return_episode_rewards=True)
    assert len(rewards) == len(lengths) == 2
    loaded.set_env(random_env())
    loaded.learn(16)
    assert loaded._n_updates == 2


def test_the_networks_shape_is_saved_with_the_model(tmp_path: Path) -> None:
    kwargs: dict[str, Any] = dict(net_arch=dict(pi=[4, 3], vf=[5]), activation_fn=nn.ReLU, ortho_init=False)
    tiny(policy_kwargs=kwargs).save(tmp_path / "model")
    policy = VPG.load(tmp_path / "model", device="cpu").policy
    assert [m.out_features for m in policy.mlp_extractor.policy_net if isinstance(m, nn.Linear)] == [4, 3]
    assert [m.out_features for m in policy.mlp_extractor.value_net if isinstance(m, nn.Linear)] == [5]
    assert isinstance(policy.mlp_extractor.policy_net[1], nn.ReLU)


def test_schedules_are_saved_with_the_model(tmp_path: Path) -> None:
    schedules: dict[str, Any] = dict(
        learning_rate="lin_0.01_0.001", vf_learning_rate=halved, gae_lambda=halved, critic_gae_lambda="lin_0.5_1",
        ent_coef="lin_0.1", clip_range=0.3, policy_loss="clipped",
    )  # fmt: skip
    tiny(**schedules).learn(16).save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", random_env(), device="cpu")
    for name in schedules:
        saved = getattr(loaded, name)
        assert saved(0.5) == 0.25 if callable(saved) else saved == schedules[name]
    loaded.learn(64)
    assert loaded.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.001)
    assert loaded.policy.critic_optimizer.param_groups[0]["lr"] == 0.0


def test_an_estimator_of_the_users_is_saved_with_the_model(tmp_path: Path) -> None:
    tiny(estimator=lambda trajectories, **_: 3 * trajectories.rewards).save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", random_env(), device="cpu")
    buffer = one_rollout(loaded)
    np.testing.assert_array_equal(buffer.advantages, 3 * buffer.rewards)


def test_a_run_with_vecnormalize_goes_on_from_its_two_files(tmp_path: Path) -> None:
    env = VecNormalize(random_env(2, ACTION_SPACES[0]))
    model = tiny(env).learn(64)
    model.save(tmp_path / "model.zip")
    env.save(str(tmp_path / "vecnormalize.pkl"))
    again = VecNormalize.load(str(tmp_path / "vecnormalize.pkl"), random_env(2, ACTION_SPACES[0]))
    loaded = VPG.load(tmp_path / "model.zip", again, device="cpu")
    assert loaded.get_vec_normalize_env() is again
    raw = np.full((2, 3), 0.3)
    np.testing.assert_array_equal(
        model.predict(env.normalize_obs(raw), deterministic=True)[0],
        loaded.predict(again.normalize_obs(raw), deterministic=True)[0],
    )
    loaded.learn(64, reset_num_timesteps=False)
    assert again.obs_rms.count > env.obs_rms.count


def test_attributes_can_be_left_out_and_taken_in(tmp_path: Path) -> None:
    model = tiny().learn(16)
    model.save(tmp_path / "less", exclude=["ep_info_buffer"])
    model.save(tmp_path / "more", include=["rollout_buffer"])
    less, _, _ = load_from_zip_file(tmp_path / "less", device="cpu")
    more, _, _ = load_from_zip_file(tmp_path / "more", device="cpu")
    assert less is not None
    assert more is not None
    assert "ep_info_buffer" not in less
    assert "ep_info_buffer" in more
    assert "rollout_buffer" not in less
    np.testing.assert_array_equal(more["rollout_buffer"].rewards, model.rollout_buffer.rewards)
    assert same(weights(VPG.load(tmp_path / "less", device="cpu")), weights(model))
    assert same(weights(VPG.load(tmp_path / "more", device="cpu")), weights(model))


def test_objects_that_cannot_be_unpickled_can_be_replaced(tmp_path: Path) -> None:
    """RL Zoo's enjoy does so with schedules of other Python versions."""
    tiny(learning_rate=halved).save(tmp_path / "model")
    custom = dict(learning_rate=0.0001, lr_schedule=lambda _: 0.0, clip_range=lambda _: 0.1)
    loaded = VPG.load(tmp_path / "model", device="cpu", custom_objects=custom)
    assert loaded.learning_rate == 0.0001
    assert loaded.clip_range(1.0) == 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_alone_goes_to_a_file_and_back(tmp_path: Path, kind: str) -> None:
    env, policy, settings = KINDS[kind]
    model = tiny(env, policy, **settings)
    with th.no_grad():
        model.policy.action_net.weight.mul_(50.0)
    model.policy.save(tmp_path / "policy.pth")
    loaded = type(model.policy).load(tmp_path / "policy.pth", device="cpu")
    assert same(loaded.state_dict(), model.policy.state_dict())
    observations = model.env.reset()
    ours, theirs = (each.predict(observations, deterministic=True)[0] for each in (model.policy, loaded))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_parameters_can_be_read_and_set() -> None:
    model, other = tiny().learn(32), tiny(seed=5)
    names = set(model.get_parameters())
    assert names == {"policy", "policy.optimizer", "policy.critic_optimizer"}
    other.set_parameters(model.get_parameters(), device="cpu")
    assert same(weights(other), weights(model))
    assert same(other.policy.critic_optimizer.state_dict(), model.policy.critic_optimizer.state_dict())


def test_a_model_saved_before_outlives_a_save_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    model.save(tmp_path / "model")
    before = weights(model)
    model.learn(16)

    def half(path: Any, **_: Any) -> None:
        Path(path).write_bytes(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr("stable_baselines3.common.base_class.save_to_zip_file", half)
    with pytest.raises(OSError, match="No space left"):
        model.save(tmp_path / "model")
    assert [file.name for file in tmp_path.iterdir()] == ["model.zip"]
    assert same(weights(VPG.load(tmp_path / "model")), before)


def test_a_model_is_saved_under_the_name_that_sb3_would_give_it(tmp_path: Path) -> None:
    model = tiny()
    for given, written in (
        ("a", "a.zip"),
        ("b.zip", "b.zip"),
        ("c.model", "c.model"),
    ):
        model.save(str(tmp_path / given))
        assert (tmp_path / written).is_file()
    with (tmp_path / "e.zip").open("wb") as file:
        model.save(file)
    assert same(weights(VPG.load(tmp_path / "e.zip")), weights(model))


# -- files of strangers ----------------------------------------------------------------------------------------------


class Attack:
    """A pickle that creates a file when it is read: it could as well send one away."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def with_member(path: Path, name: str, content: bytes) -> Path:
    """A copy of a model file in which one member is another."""
    changed = path.with_name("changed.zip")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(changed, "w") as copy:
        for member in archive.namelist():
            copy.writestr(member, content if member == name else archive.read(member))
    return changed


def attack_in_data(path: Path, trace: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    pickled = base64.b64encode(pickle.dumps(Attack(trace))).decode()
    data["learning_rate"] = {":type:": "<class 'float'>", ":serialized:": pickled}
    return with_member(path, "data", json.dumps(data).encode())


@pytest.mark.parametrize("other", [VPG, REINFORCE, A2C])
def test_weights_alone_are_taken_from_the_files_of_several_algorithms(tmp_path: Path, other: Any) -> None:
    source = tiny(algorithm=other, seed=5, policy_kwargs=dict(share_features_extractor=False))
    source.learn(32)
    source.save(tmp_path / "model")
    model = tiny().learn(16)
    optimizers = [deepcopy(o.state_dict()) for o in (model.policy.optimizer, model.policy.critic_optimizer)]
    model.load_weights(tmp_path / "model")
    assert same(weights(model), weights(source))
    assert same([o.state_dict() for o in (model.policy.optimizer, model.policy.critic_optimizer)], optimizers)
    assert model.num_timesteps == 16
    before = weights(model)
    model.learn(16, reset_num_timesteps=False)
    assert not same(before, weights(model))


def test_weights_alone_are_taken_from_memory() -> None:
    source, file = tiny(seed=5), io.BytesIO()
    source.save(file)
    file.seek(0)
    model = tiny()
    model.load_weights(file)
    assert same(weights(model), weights(source))


def test_taking_weights_alone_runs_no_code_of_the_files_and_loading_does(tmp_path: Path) -> None:
    source, trace = tiny(seed=5), tmp_path / "trace"
    source.save(tmp_path / "model.zip")
    changed = attack_in_data(tmp_path / "model.zip", trace)
    model = tiny()
    model.load_weights(changed)
    assert same(weights(model), weights(source))
    tiny().set_parameters(str(changed), device="cpu")
    assert not trace.exists()
    with contextlib.suppress(Exception):
        VPG.load(changed, device="cpu")
    assert trace.exists(), "docs/reliability.md says that load() runs what is in the file"


def test_the_state_of_training_runs_no_code_before_training_goes_on(tmp_path: Path) -> None:
    tiny().save(tmp_path / "model.zip")
    trace = tmp_path / "trace"
    changed = with_member(tmp_path / "model.zip", "training_state.pkl", pickle.dumps(Attack(trace)))
    tiny().load_weights(changed)
    loaded = VPG.load(changed, random_env(), device="cpu")
    loaded.predict(loaded.env.reset())  # type: ignore[union-attr]
    VPG.load(changed, random_env(), device="cpu", custom_objects={"training_state": None}).learn(
        16, reset_num_timesteps=False
    )
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", "attack", "list"])
def test_weights_that_are_something_else_are_refused_by_name_and_not_run(tmp_path: Path, content: Any) -> None:
    model, trace = tiny(), tmp_path / "trace"
    model.save(tmp_path / "model.zip")
    if isinstance(content, str):
        file = io.BytesIO()
        th.save(Attack(trace) if content == "attack" else [1, 2], file)
        content = file.getvalue()
    changed, before = with_member(tmp_path / "model.zip", "policy.pth", content), weights(model)
    with pytest.raises(ValueError, match=r"changed\.zip .*tensors with the names and shapes"):
        model.load_weights(changed)
    assert not trace.exists()
    assert same(before, weights(model))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (dict(policy_kwargs=dict(net_arch=dict(pi=[8], vf=[5]))), "value_net.0.weight is [5, 3], not [8, 3]"),
        (dict(policy_kwargs=dict(net_arch=dict(pi=[8], vf=[]))), "value_net.0.weight is missing, not [8, 3]"),
        (dict(estimator="q"), "q_net.weight is [3, 8], not missing"),
    ],
    ids=["shape", "missing", "new"],
)
def test_weights_of_another_network_are_refused_and_none_is_taken(tmp_path: Path, source: Any, words: str) -> None:
    tiny(seed=5, **source).learn(16).save(tmp_path / "other")
    model = tiny()
    before = weights(model)
    with pytest.raises(ValueError, match=r"other holds the weights of another network.*tensors with the") as error:
        model.load_weights(tmp_path / "other")
    assert same(before, weights(model))
    assert words in str(error.value)


def test_weights_from_a_file_that_is_none_are_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    (tmp_path / "text.zip").write_text("text")
    for name in ("arrays.npz", "text.zip"):
        with pytest.raises(ValueError, match=rf"{name}.*save\(\)"):
            tiny().load_weights(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="nothing_here"):
        tiny().load_weights(tmp_path / "nothing_here")


def test_plain_sb3_reads_our_files(tmp_path: Path) -> None:
    model = tiny().learn(32)
    model.save(tmp_path / "model.zip")
    data, parameters, _ = load_from_zip_file(tmp_path / "model.zip", device="cpu")
    assert data is not None
    assert data["num_timesteps"] == 32
    assert not {"_loaded_state", "_kept_state", "_keeper", "_last_save"} & set(data)
    assert set(parameters) == {"policy", "policy.optimizer", "policy.critic_optimizer"}
    loaded = BaseAlgorithm.load.__func__(VPG, tmp_path / "model.zip", random_env(), device="cpu")  # type: ignore[attr-defined]
    assert same(weights(loaded), weights(model))
    assert loaded.learn(32, reset_num_timesteps=False).num_timesteps == 64


@pytest.mark.parametrize(
    ("built", "wrong"),
    [
        (dict(use_rms_prop=False), dict(use_rms_prop=True)),
        (dict(use_rms_prop=True), dict(use_rms_prop=False)),
        (dict(use_rms_prop=True), dict(use_rms_prop=True, rms_prop_eps=1e-3)),
        (dict(use_rms_prop=True), dict(rms_prop_eps=1e-3, policy_kwargs=dict(net_arch=[4]))),
    ],
)
def test_how_the_optimizer_is_built_cannot_be_changed_at_loading(tmp_path: Path, built: Any, wrong: Any) -> None:
    tiny(**built).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"(rms_prop_eps=0.001|use_rms_prop=).* cannot be changed by.*set_parameters"):
        VPG.load(tmp_path / "model", **wrong)


OWN_OPTIMIZER = dict(net_arch=[8], optimizer_class=th.optim.RMSprop, optimizer_kwargs=dict(alpha=0.9, eps=1e-3))


@pytest.mark.parametrize("algorithm", [VPG, TunableA2C])
@pytest.mark.parametrize(
    "built",
    [
        dict(use_rms_prop=False, rms_prop_eps=1e-4),
        dict(use_rms_prop=True, policy_kwargs=OWN_OPTIMIZER),
        dict(use_rms_prop=False, rms_prop_eps=1e-4, policy_kwargs=OWN_OPTIMIZER),
        dict(use_rms_prop=True, rms_prop_eps=1e-4, policy_kwargs=dict(net_arch=[4])),
        dict(use_rms_prop=True, policy_kwargs=dict(net_arch=[4], optimizer_kwargs=dict(eps=1.0))),
    ],
    ids=["eps without effect", "own optimizer", "own optimizer, nothing asked", "network", "kwargs without a class"],
)
def test_all_that_built_a_model_may_be_said_again_at_loading(tmp_path: Path, algorithm: Any, built: Any) -> None:
    model = tiny(algorithm=algorithm, **deepcopy(built)).learn(16)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", random_env(), **deepcopy(built))
    assert same(weights(loaded), weights(model))
    assert type(loaded.policy.optimizer) is type(model.policy.optimizer)
    assert loaded.policy.optimizer.defaults == model.policy.optimizer.defaults


def test_an_optimizers_own_arguments_say_what_use_rms_prop_would(tmp_path: Path) -> None:
    kwargs = dict(alpha=0.99, eps=1e-5, weight_decay=0)
    spelt_out = dict(net_arch=[8], optimizer_class=th.optim.RMSprop, optimizer_kwargs=kwargs)
    tiny(policy_kwargs=spelt_out).save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", use_rms_prop=False, policy_kwargs=spelt_out)
    assert type(loaded.policy.optimizer) is th.optim.RMSprop


@pytest.mark.parametrize("algorithm", [VPG, TunableA2C])
@pytest.mark.parametrize("use_rms_prop", [True, False])
def test_how_the_optimizer_was_built_may_be_said_again_at_loading(
    tmp_path: Path, algorithm: Any, use_rms_prop: bool
) -> None:
    built = dict(use_rms_prop=use_rms_prop, **(dict(rms_prop_eps=1e-4) if use_rms_prop else {}))
    model = tiny(algorithm=algorithm, **built).learn(16)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", random_env(), **built)
    assert same(weights(loaded), weights(model))
    with pytest.raises(ValueError, match=r"use_rms_prop=.* cannot be changed"):
        algorithm.load(tmp_path / "model", use_rms_prop=not use_rms_prop)


def test_the_window_of_the_logged_means_can_be_changed_at_loading(tmp_path: Path) -> None:
    tiny().learn(16).save(tmp_path / "model")
    model = VPG.load(tmp_path / "model", random_env(), stats_window_size=5).learn(16)
    assert model.ep_info_buffer is not None
    assert model.ep_info_buffer.maxlen == 5
    with pytest.raises(ValueError, match="stats_window_size=0"):
        VPG.load(tmp_path / "model", stats_window_size=0)


def test_a_symbolic_link_stays_one_and_the_model_goes_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    real, link = tmp_path / "run" / "real.zip", tmp_path / "latest.zip"
    model = tiny()
    model.save(real)
    link.symlink_to(real)
    model.learn(16).save(tmp_path / "latest")
    assert link.is_symlink()
    assert VPG.load(real).num_timesteps == 16
