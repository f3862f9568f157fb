"""The two VecEnvs keep DummyVecEnv's semantics."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import NormalizeObservation, TransformObservation
from helpers import ScriptedEnv, tiny
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from sb3_pg import VPG
from sb3_pg.rollout.vec_env import LeanVecEnv, VectorEnvAdapter

N_ENVS = 3


class Reusing(gym.Env[Any, Any]):
    """Writes every observation into the same array and every info into the same dict; episodes of different lengths."""

    def __init__(self, dict_observations: bool = False) -> None:
        box = spaces.Box(-100, 100, (2,), np.float32)
        self.dict_observations = dict_observations
        self.observation_space = spaces.Dict({"a": box, "b": spaces.Discrete(5)}) if dict_observations else box
        self.action_space = spaces.Discrete(2)
        self.array = np.zeros(2, dtype=np.float32)
        self.info: dict[str, Any] = {}
        self.steps = 0

    def observe(self) -> Any:
        return {"a": self.array, "b": self.steps % 5} if self.dict_observations else self.array

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.steps = 0
        self.length = int(self.np_random.integers(2, 6))
        self.array[:] = self.np_random.normal(size=2)
        return self.observe(), {"length": self.length}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.array += 1 + action
        self.info["steps"] = self.steps
        over = self.steps >= self.length
        return (
            self.observe(),
            float(self.array[0]),
            over and self.length % 2 == 0,
            over and self.length % 2 == 1,
            self.info,
        )


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return bool(np.array_equal(one, other))


@pytest.mark.parametrize("dict_observations", [False, True])
def test_the_lean_vec_env_gives_what_dummy_vec_env_gives(dict_observations: bool) -> None:
    lean = LeanVecEnv([lambda: Reusing(dict_observations)] * N_ENVS)
    dummy = DummyVecEnv([lambda: Reusing(dict_observations)] * N_ENVS)
    kept: list[tuple[Any, ...]] = []
    taken: list[Any] = []
    for env in (lean, dummy):
        env.seed(7)
    first = lean.reset()
    assert equal(first, dummy.reset())
    assert lean.reset_infos == dummy.reset_infos
    for step in range(40):
        taken.append(np.array([step % 2, 0, 1]))
        kept.append((lean.step(taken[-1]), dummy.step(taken[-1])))
    n_terminal, before = 0, first
    for (ours, theirs), actions in zip(kept, taken, strict=True):  # only now: nothing may have been written over
        assert equal(ours[0], theirs[0])
        assert np.array_equal(ours[1], theirs[1])
        assert ours[1].dtype == theirs[1].dtype
        assert np.array_equal(ours[2], theirs[2])
        for index, (info, their_info) in enumerate(zip(ours[3], theirs[3], strict=True)):
            assert info["steps"] == their_info["steps"]
            assert info["TimeLimit.truncated"] == their_info["TimeLimit.truncated"]
            # DummyVecEnv keeps a reference to the array that reset() then writes over: the truth is known otherwise
            assert ("terminal_observation" in info) == ours[2][index]
            if ours[2][index]:
                n_terminal += 1
                last = info["terminal_observation"]
                last, previous = (last["a"], before["a"]) if dict_observations else (last, before)
                assert np.allclose(last, previous[index] + 1 + actions[index])
        before = ours[0]
    assert n_terminal > 10


def test_the_lean_vec_env_takes_over_a_dummy_vec_env_with_its_seed() -> None:
    ours = LeanVecEnv(make_vec_env("CartPole-v1", N_ENVS, seed=5))
    theirs = make_vec_env("CartPole-v1", N_ENVS, seed=5)
    assert np.array_equal(ours.reset(), theirs.reset())
    for _ in range(60):
        a, b = ours.step(np.ones(N_ENVS, dtype=int)), theirs.step(np.ones(N_ENVS, dtype=int))
        assert np.array_equal(a[0], b[0])
        assert ["episode" in info for info in a[3]] == ["episode" in info for info in b[3]]


def test_the_lean_vec_env_refuses_environments_of_other_processes() -> None:
    env = SubprocVecEnv([lambda: gym.make("CartPole-v1")])
    with pytest.raises(ValueError, match="DummyVecEnv"):
        LeanVecEnv(env)
    env.close()


def test_training_on_the_lean_vec_env_gives_the_same_weights() -> None:
    weights = []
    for lean in (False, True):
        env: VecEnv = make_vec_env("CartPole-v1", N_ENVS, seed=0)
        env = VecNormalize(LeanVecEnv(env) if lean else env)
        model = VPG("MlpPolicy", env, n_steps=64, seed=0).learn(600)
        weights.append(model.policy.action_net.weight.detach().numpy())
    assert np.array_equal(*weights)


class LikeEnvpool:
    """What envpool's Gymnasium interface is: spaces of one environment, resets by id, autoreset one step later."""

    def __init__(self, env: SyncVectorEnv, seed: int) -> None:
        self.env = env
        self.config = {"num_envs": env.num_envs, "seed": seed}
        self.observation_space, self.action_space = env.single_observation_space, env.single_action_space
        self.step, self.close, self.render_mode = env.step, env.close, None

    def recv(self) -> Any:
        raise NotImplementedError

    def reset(self, env_id: Any = None) -> Any:
        if env_id is None:
            return self.env.reset(seed=self.config["seed"])
        mask = np.isin(np.arange(self.env.num_envs), env_id)
        observations, infos = self.env.reset(options={"reset_mask": mask})
        return observations[mask], infos


def real_envpool() -> Any:
    """CartPole of the library itself, which is no dependency of ours."""
    import envpool

    return envpool.make("CartPole-v1", env_type="gymnasium", num_envs=N_ENVS, seed=0, max_episode_steps=30)


def vector_envs() -> dict[str, Any]:
    def make_one() -> gym.Env[Any, Any]:
        return gym.make("CartPole-v1", max_episode_steps=30)

    installed = {"envpool": real_envpool} if find_spec("envpool") else {}
    return installed | {
        "like envpool": lambda: LikeEnvpool(SyncVectorEnv([make_one] * N_ENVS), seed=0),
        "native, next step": lambda: gym.make_vec(
            "CartPole-v1", N_ENVS, vectorization_mode="vector_entry_point", max_episode_steps=30
        ),
        "sync, next step": lambda: SyncVectorEnv([make_one] * N_ENVS),
        "sync, same step": lambda: SyncVectorEnv([make_one] * N_ENVS, autoreset_mode=AutoresetMode.SAME_STEP),
    }


@pytest.mark.parametrize("kind", vector_envs())
def test_the_adapter_resets_in_the_step_that_ends_an_episode(kind: str) -> None:
    env = VectorEnvAdapter(vector_envs()[kind]())
    env.seed(0)
    observations = env.reset()
    lengths, returns, truncated = np.zeros(N_ENVS, int), np.zeros(N_ENVS), 0
    rng = np.random.default_rng(0)
    n_done = 0
    for step in range(400):
        # A balancing rule in the second half, so that time limits are met too
        rule = (observations[:, 2] + 0.3 * observations[:, 3] > 0).astype(int)
        actions = rng.integers(2, size=N_ENVS) if step < 200 else rule
        new_observations, rewards, dones, infos = env.step(actions)
        lengths += 1
        returns += rewards
        assert np.all(rewards == 1.0), "a bogus step from one episode to the next would have reward 0"
        for index in np.flatnonzero(dones):
            n_done += 1
            info = infos[index]
            assert np.all(np.abs(new_observations[index]) <= 0.05), "the observation is the first of a new episode"
            failed = abs(info["terminal_observation"][2]) > 0.2095 or abs(info["terminal_observation"][0]) > 2.4
            assert info["TimeLimit.truncated"] == (not failed)
            assert lengths[index] == info["episode"]["l"]
            assert returns[index] == info["episode"]["r"]
            truncated += info["TimeLimit.truncated"]
            assert (lengths[index] == 30) or failed
            lengths[index], returns[index] = 0, 0.0
        assert all("terminal_observation" not in infos[index] for index in np.flatnonzero(~dones))
        # Physics goes on from what was returned: the position moves by tau times the velocity
        going = ~dones
        assert np.allclose(
            new_observations[going, 0], observations[going, 0] + 0.02 * observations[going, 1], atol=1e-5
        )
        observations = new_observations
    assert n_done > 10
    assert truncated > 0
    env.close()


def test_the_adapters_observations_are_the_callers_own() -> None:
    env = VectorEnvAdapter(vector_envs()["native, next step"]())
    first = env.reset()
    copy = np.array(first)
    env.step(np.ones(N_ENVS, dtype=int))
    assert np.array_equal(first, copy)


def test_the_adapter_is_seeded() -> None:
    starts = []
    for seed in (1, 1, 2):
        env = VectorEnvAdapter(vector_envs()["native, next step"]())
        env.seed(seed)
        starts.append(env.reset())
    assert np.array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])


def test_envpool_has_been_seeded_when_it_was_made() -> None:
    env = VectorEnvAdapter(vector_envs()["like envpool"]())
    env.seed(0)
    with pytest.raises(ValueError, match=r"envpool\.make"):
        env.seed(3)


@pytest.mark.parametrize("algorithm", [VPG, A2C])
def test_vpg_and_a2c_train_and_are_evaluated_through_the_adapter(algorithm: Any) -> None:
    for kind, seed in (("native, next step", 0), ("like envpool", None)):
        model = algorithm("MlpPolicy", VectorEnvAdapter(vector_envs()[kind]()), n_steps=64, seed=seed)
        model.learn(600)
        assert len(model.ep_info_buffer) > 0
        evaluate_policy(model, model.get_env(), n_eval_episodes=3)  # a warning would say that no Monitor is there


@pytest.mark.parametrize("kind", ["native, next step", "sync, next step"])
def test_the_adapter_refuses_wrappers_that_cannot_follow_a_reset_in_part(kind: str) -> None:
    with pytest.raises(ValueError, match="put SB3's VecNormalize around the adapter"):
        VectorEnvAdapter(NormalizeObservation(vector_envs()[kind]()))


def test_the_adapter_resets_through_wrappers_of_observations_or_refuses_them() -> None:
    def halved(kind: str) -> TransformObservation:
        env = vector_envs()[kind]()
        return TransformObservation(env, lambda found: found / 2, env.observation_space, env.single_observation_space)

    with pytest.raises(ValueError, match="with its own observations"):
        VectorEnvAdapter(halved("native, next step"))
    plain, wrapped = VectorEnvAdapter(vector_envs()["sync, next step"]()), VectorEnvAdapter(halved("sync, next step"))
    for env in (plain, wrapped):
        env.seed(0)
    np.testing.assert_array_equal(plain.reset() / 2, wrapped.reset())
    n_done = 0
    for _ in range(60):
        (one, _, dones, _), (other, _, _, _) = (env.step(np.zeros(N_ENVS, int)) for env in (plain, wrapped))
        np.testing.assert_array_equal(one / 2, other)
        n_done += int(dones.sum())
    assert n_done > 0


def test_the_adapter_refuses_what_it_cannot_reset_in_part() -> None:
    class NextStepOnly(gym.vector.VectorEnv):
        metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
        num_envs = 2
        single_observation_space = spaces.Box(-1, 1, (2,))
        single_action_space = spaces.Discrete(2)

    with pytest.raises(ValueError, match="SAME_STEP"):
        VectorEnvAdapter(NextStepOnly())
    with pytest.raises(ValueError, match="VectorEnv"):
        VectorEnvAdapter(Monitor(gym.make("CartPole-v1")).observation_space)
    adapter = VectorEnvAdapter(vector_envs()["native, next step"]())
    with pytest.raises(ValueError, match="indices"):
        adapter.set_attr("steps", 0, indices=[0])


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_the_adapter_passes_on_what_an_episode_says_at_its_end(mode: AutoresetMode) -> None:
    def make_one() -> gym.Env[Any, Any]:
        return ScriptedEnv([2, 3], truncated=True)

    env = VectorEnvAdapter(SyncVectorEnv([make_one] * N_ENVS, autoreset_mode=mode))
    env.reset()
    said = []
    for _ in range(5):
        _, _, dones, infos = env.step(np.zeros(N_ENVS, int))
        said += [infos[index]["is_success"] for index in np.flatnonzero(dones)]
        assert not any("is_success" in infos[index] for index in np.flatnonzero(~dones))
    assert said == [True] * N_ENVS + [False] * N_ENVS
    model = tiny(VectorEnvAdapter(SyncVectorEnv([make_one] * N_ENVS, autoreset_mode=mode))).learn(64)
    assert set(model.ep_success_buffer) == {True, False}
