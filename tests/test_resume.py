"""A run that was saved and goes on in another process is the run that was never interrupted, bit for bit.

Where that cannot be, one warning says what differs.
"""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.utils import EzPickle
from gymnasium.vector import SyncVectorEnv
from helpers import ACTION_SPACES, DICT, RandomEnv, one_rollout, same, tiny, weights
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_pg import REINFORCE, VPG, training_state
from sb3_pg.rollout import env_state
from sb3_pg.rollout.vec_env import LeanVecEnv, VectorEnvAdapter
from sb3_pg.saving import MEMBER, SavingMixin

NOT_TO_THE_BIT = "not bit for bit"


TWO_KEYS = spaces.Dict({key: DICT[key] for key in ("flat", "kind")})


# -- environments ----------------------------------------------------------------------------------------------------


def vectorised(env: Any, n_envs: int = 1, seed: int = 7, **kwargs: Any) -> VecEnv:
    return make_vec_env(env, n_envs=n_envs, seed=seed, **kwargs)


def normalised(env: Any, n_envs: int = 1) -> VecEnv:
    return VecNormalize(vectorised(env, n_envs))


def normalised_and_stacked() -> VecEnv:
    return VecFrameStack(normalised("CartPole-v1", 2), 3)


def native_cartpoles() -> VecEnv:
    return VectorEnvAdapter(gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point"))


def synchronous_cartpoles() -> VecEnv:
    return VectorEnvAdapter(SyncVectorEnv([partial(gym.make, "CartPole-v1")] * 2))


class Coin:
    """Two attributes of :class:`Toy` share one."""

    def __init__(self) -> None:
        self.thrown = 0

    def throw(self, number: int) -> None:
        self.thrown = (self.thrown + number) % 11


class Toy(gym.Env[Any, Any]):
    """State in many kinds of attributes.

    :param scale: of the reward
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.coin = Coin()
        self.same_coin = self.coin
        self.throw = self.coin.throw
        self.history: list[float] = []
        self.reward_function = lambda x: self.scale * x
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def _observation(self) -> Any:
        noise = self.observation_space.sample()[0]
        return np.array([sum(self.history) + 0.1 * noise, self.same_coin.thrown])

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.history = [float(np.random.normal())]  # noqa: NPY002  the global generators have to go on, too
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.throw(int(self.np_random.integers(6)))
        self.history.append(random.random() - 0.5 + int(action))
        over = len(self.history) == 9
        return self._observation(), self.reward_function(self.history[-1]), False, over, {"is_success": action == 1}


class Engine:
    """A simulator that cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.numbers = np.random.default_rng()


class Native(Toy):
    """The state is out of Python's reach, and the environment clones it."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, *rest = super().step(action)
        return observation, reward + self.engine.numbers.random(), *rest  # type: ignore[return-value]

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.engine.numbers = np.random.default_rng(seed)
        return super().reset(seed=seed, **kwargs)

    def clone_state(self, *, include_rng: bool) -> Any:
        return self.engine.numbers.bit_generator.state if include_rng else None

    def restore_state(self, state: Any) -> None:
        self.engine.numbers.bit_generator.state = state


class Sticky(Native):
    """As Atari, where a frame may repeat an action that the clone does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.ale = SimpleNamespace(getFloat=lambda name: 0.25 if name == "repeat_action_probability" else 0.0)


class Unkept(Toy):
    """The state is out of Python's reach, and nobody clones it."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine()


class Linked(Toy):
    """Keeps a simulator under the name that wrappers have for the environment in them."""

    def __init__(self) -> None:
        super().__init__()
        self.env = self.coin


class Outer(Toy):
    """Steps another environment."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Toy()


class Viewed(Toy):
    """Two attributes are views of a third."""

    def __init__(self) -> None:
        super().__init__()
        self.state = np.zeros(2)
        self.position, self.velocity = self.state[:1], self.state[1:]


class Remade(EzPickle):
    """Comes out of a pickle as it was constructed."""


class Handle:
    """Closes something outside of Python when it goes."""

    n_closed = 0

    def __del__(self) -> None:
        Handle.n_closed += 1


class Proxy:
    """Can be pickled, and not be unpickled: then it looks for what it hands on to before it is there."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)


def with_attribute(name: str, make: Callable[[], Any]) -> Callable[[], VecEnv]:
    def build() -> VecEnv:
        env = vectorised(Toy)
        setattr(env.envs[0].unwrapped, name, make())  # type: ignore[attr-defined]
        return env

    return build


def controlled_cheetah() -> VecEnv:
    """An object in the environment has its simulation."""
    env = vectorised("HalfCheetah-v5")
    inner = env.envs[0].unwrapped  # type: ignore[attr-defined]
    inner.controller = SimpleNamespace(data=inner.data)
    return env


class Furnished(Toy):
    """Has data of two megabytes."""

    def __init__(self) -> None:
        super().__init__()
        self.prices = np.zeros(2**18)


# -- runs ------------------------------------------------------------------------------------------------------------


class Recorder(KVWriter):
    """Keeps what was logged last of the rollouts; the rest, of the updates, is in the logger after training."""

    def __init__(self) -> None:
        self.rollout: dict[str, Any] = {}

    def write(self, key_values: dict[str, Any], *_: Any, **__: Any) -> None:
        self.rollout = {key: value for key, value in key_values.items() if key.startswith("rollout/")}

    def close(self) -> None:
        pass


class SavesAt(BaseCallback):
    """Saves at the ``count``-th call of a hook, and goes on, or stops in one of two ways.

    :param ending: ``"returns"`` False, ``"interrupts"`` as Ctrl-C does, or empty
    """

    def __init__(self, path: Path, hook: str, count: int, ending: str = "") -> None:
        super().__init__()
        self.path, self.hook, self.count, self.ending = path, hook, count, ending
        self.calls = 0

    def _called(self, hook: str) -> bool:
        self.calls += hook == self.hook
        if hook != self.hook or self.calls != self.count:
            return True
        if not self.ending:
            self.model.save(self.path)
        elif self.ending == "interrupts":
            raise KeyboardInterrupt
        return not self.ending

    def _on_rollout_start(self) -> None:
        self._called("rollout_start")

    def _on_step(self) -> bool:
        return self._called("step")

    def _on_rollout_end(self) -> None:
        self._called("rollout_end")


@dataclass
class Case:
    """One run: four rollouts, saved after two, or in the third at a hook of the callback."""

    env: Callable[[], VecEnv]
    settings: dict[str, Any] = field(default_factory=dict)
    algorithm: Any = VPG
    policy: str = "MlpPolicy"
    hook: str = ""
    count: int = 0
    ending: str = ""
    total: int = 64

    def build(self) -> Any:
        return tiny(self.env(), self.policy, self.algorithm, **self.settings)

    def save(self, path: Path) -> dict[str, Any] | None:
        """Train and save; what the whole run comes to, if this one is not interrupted."""
        model = self.build()
        total = self.total * model.n_envs
        if not self.hook:
            model.learn(total // 2)
            model.save(path)
            return None
        try:
            return learn(model, total, SavesAt(path, self.hook, self.count, self.ending))
        except KeyboardInterrupt:
            return None
        finally:
            if self.ending:
                model.env.close()  # as RL Zoo does before it saves
                model.save(path)

    def go_on(self, path: Path) -> dict[str, Any]:
        """Load and train up to the same number of steps."""
        model = self.algorithm.load(path, self.env(), device="cpu")
        return learn(model, self.total * model.n_envs - model.num_timesteps, reset_num_timesteps=False)

    def whole(self) -> dict[str, Any]:
        """What it comes to without an interruption."""
        model = self.build()
        return learn(model, self.total * model.n_envs)


def tensors(observations: Any) -> list[th.Tensor]:
    parts = observations.values() if isinstance(observations, dict) else [observations]
    return [th.as_tensor(part) for part in parts]


def learn(model: Any, total: int, callback: BaseCallback | None = None, **kwargs: Any) -> dict[str, Any]:
    """Train; return all that a run comes to."""
    recorder = Recorder()
    model.set_logger(Logger(None, [recorder]))
    model.learn(total, callback, log_interval=1, **kwargs)
    optimizers = [model.policy.optimizer, getattr(model.policy, "critic_optimizer", None)]
    statistics = model.get_vec_normalize_env()
    return {
        "weights": weights(model),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers if optimizer],
        "counts": (model.num_timesteps, model._n_updates, model._current_progress_remaining),
        "episodes": [(info["r"], info["l"]) for info in model.ep_info_buffer],
        "successes": list(model.ep_success_buffer),
        "log": {**recorder.rollout, **model.logger.name_to_value},
        "observations": tensors(model._last_obs),
        "random": (th.get_rng_state(), th.as_tensor(np.random.random(3)), random.random()),  # noqa: NPY002
        "statistics": [] if statistics is None else [th.as_tensor(statistics.ret_rms.var), statistics.ret_rms.count],
    }


STEPS: dict[str, Any] = dict(hook="step")
CASES: dict[str, Case] = {
    "one CartPole": Case(partial(vectorised, "CartPole-v1")),
    "eight CartPoles": Case(partial(vectorised, "CartPole-v1", 8)),
    "one LineWorld": Case(partial(vectorised, "LineWorld-v0")),
    "eight LineWorlds": Case(partial(vectorised, "LineWorld-v0", 8)),
    "LeanVecEnv": Case(lambda: LeanVecEnv(vectorised("CartPoleSwingUp-v0", 2))),
    "VecNormalize": Case(partial(normalised, "CartPole-v1", 8)),
    "VecNormalize and VecFrameStack": Case(normalised_and_stacked),
    "values at every step": Case(partial(vectorised, "CartPole-v1", 8), dict(per_step_values=True, batch_size=24)),
    "joint optimizer": Case(partial(vectorised, "CartPole-v1", 2), dict(joint_optimizer=True, use_rms_prop=True)),
    "gSDE": Case(
        partial(vectorised, "CartPoleSwingUp-v0", 2), dict(use_sde=True, sde_sample_freq=5), **STEPS, count=37
    ),
    "REINFORCE": Case(partial(vectorised, "CartPole-v1", 2), {}, REINFORCE, total=256),
    "REINFORCE in an episode": Case(partial(vectorised, "CartPole-v1", 8), {}, REINFORCE, **STEPS, count=60, total=128),
    "time of the episode": Case(partial(vectorised, "CartPoleSwingUp-v0", 2), dict(state_discount=True)),
    "discarded episodes": Case(
        lambda: vectorised(lambda: RandomEnv(ACTION_SPACES[1]), 2), dict(truncation="discard"), **STEPS, count=40
    ),
    "dictionary": Case(
        lambda: vectorised(lambda: RandomEnv(ACTION_SPACES[1], TWO_KEYS)), policy="MultiInputPolicy",
    ),
    "HalfCheetah": Case(partial(normalised, "HalfCheetah-v5", 2)),
    "Ant": Case(partial(vectorised, "Ant-v5"), **STEPS, count=41),
    "native CartPoles": Case(native_cartpoles),
    "SyncVectorEnv": Case(synchronous_cartpoles, **STEPS, count=41),
    "many attributes": Case(partial(vectorised, Toy, 2)),
    "a simulator called env": Case(partial(vectorised, Linked, 2), **STEPS, count=41),
    "an environment that clones its state": Case(partial(vectorised, Native, 2), **STEPS, count=41),
    # A schedule needs to know the end: the first process was asked for the whole run
    "schedule, saved after a step": Case(
        partial(normalised, "CartPole-v1", 2), dict(learning_rate="lin_0.01"), **STEPS, count=37
    ),
    "schedule, saved after a rollout's last step": Case(
        partial(normalised, "CartPole-v1", 2), dict(learning_rate="lin_0.01", gae_lambda="lin_0.99_0.5"),
        **STEPS, count=32,
    ),
    "schedule, saved at the start of a rollout": Case(
        partial(vectorised, "CartPole-v1", 8), dict(ent_coef="lin_0.1"), hook="rollout_start", count=3
    ),
    "schedule, saved at the end of a rollout": Case(
        partial(vectorised, "CartPole-v1"), dict(vf_learning_rate="lin_0.1"), hook="rollout_end", count=3
    ),
    "schedule, stopped by the callback": Case(
        partial(vectorised, "CartPole-v1", 8), dict(learning_rate="lin_0.01"), **STEPS, count=37, ending="returns"
    ),
    "schedule, Ctrl-C": Case(
        partial(normalised, "CartPole-v1", 2), dict(learning_rate="lin_0.01"), **STEPS, count=37, ending="interrupts"
    ),
}  # fmt: skip


def go_on_with_all(folder: Path) -> None:
    """What the second process does."""
    warnings.simplefilter("error")
    for index, case in enumerate(CASES.values()):
        result = case.go_on(folder / f"{index}.zip")
        (folder / f"{index}.pkl").write_bytes(pickle.dumps(result))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any, Any]]:
    """Of each case: the whole run; the run that was saved, where it went on; the run that goes on in a new process."""
    folder = tmp_path_factory.mktemp("resume")
    whole = {name: case.whole() for name, case in CASES.items()}
    saved = {name: case.save(folder / f"{index}.zip") for index, (name, case) in enumerate(CASES.items())}
    code = "import sys; from pathlib import Path; import test_resume as t; t.go_on_with_all(Path(sys.argv[1]))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, cwd=folder, check=True)
    return {
        name: (whole[name], saved[name], pickle.loads((folder / f"{index}.pkl").read_bytes()))
        for index, name in enumerate(CASES)
    }


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_goes_on_in_a_new_process_is_the_run_without_an_interruption(name: str, runs: Any) -> None:
    whole, _, resumed = runs[name]
    assert whole["counts"] == resumed["counts"]
    for part in whole:
        assert same(whole[part], resumed[part]), part


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.hook and not case.ending])
def test_saving_leaves_the_run_that_goes_on_as_it_was(name: str, runs: Any) -> None:
    whole, saved, _ = runs[name]
    for part in whole:
        assert same(whole[part], saved[part]), part


# -- what differs is said --------------------------------------------------------------------------------------------


class Market(Toy):
    """Keeps something that is made of an argument, under another name."""

    def __init__(self, growth: float) -> None:
        super().__init__()
        self._prices = np.exp(growth * np.arange(20.0))


class Diary(Toy):
    """Writes down everything that it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def step(self, action: Any) -> Any:
        self.lines.append(f"line {len(self.lines)}: {action}")
        return super().step(action)


def limited(scale: float = 1.0) -> gym.Env[Any, Any]:
    return gym.wrappers.TimeLimit(Toy(scale), 5)


FORK = dict(vec_env_cls=SubprocVecEnv, vec_env_kwargs=dict(start_method="fork"))
DIFFERENCES: dict[str, tuple[Callable[[], VecEnv], Callable[[], VecEnv], dict[str, Any], str]] = {
    "another number": (
        partial(vectorised, Toy, 2), partial(vectorised, Toy, 3), {},
        "all environments begin new episodes: there were 2 and are 3",
    ),
    "subprocesses": (
        partial(vectorised, Toy, 2, **FORK), partial(vectorised, Toy, 2, **FORK), {},
        "all environments begin new episodes: SubprocVecEnv keeps its environments out of reach",
    ),
    "Box2D": (
        partial(vectorised, "LunarLander-v3"), partial(vectorised, "LunarLander-v3"), {},
        "the environment begins a new episode: .* of LunarLander cannot be pickled",
    ),
    "a simulator": (
        partial(vectorised, Unkept, 2), partial(vectorised, Unkept, 2), {},
        "all environments begin new episodes: engine of Unkept cannot be pickled",
    ),
    "views of one array": (
        partial(vectorised, Viewed), partial(vectorised, Viewed), {},
        "the environment begins a new episode: arrays among their attributes are views of the same numbers",
    ),
    "an environment of its own": (
        partial(vectorised, Outer), partial(vectorised, Outer), {},
        "the environment begins a new episode: inner of Outer is an environment of its own",
    ),
    "a simulation in an object": (
        controlled_cheetah, controlled_cheetah, {},
        "the environment begins a new episode: controller of HalfCheetahEnv cannot be pickled .it holds a simulation",
    ),
    "an EzPickle": (
        with_attribute("part", Remade), with_attribute("part", Remade), {},
        "the environment begins a new episode: part of Toy cannot be pickled .it holds an EzPickle",
    ),
    "a handle": (
        with_attribute("handle", Handle), with_attribute("handle", Handle), {},
        "the environment begins a new episode: handle of Toy cannot be pickled .it holds something that is closed",
    ),
    "what cannot be unpickled": (
        with_attribute("proxy", lambda: Proxy([1])), with_attribute("proxy", lambda: Proxy([1])), {},
        "the environment begins a new episode: their state cannot be read .RecursionError",
    ),
    "another parameter": (
        partial(vectorised, Toy, 2), partial(vectorised, partial(Toy, scale=2.0), 2), {},
        "all environments begin new episodes: scale of environment 0 is 2.0 and was 1.0; scale of environment 1",
    ),
    "another argument of gymnasium.make": (
        partial(vectorised, "FrozenLake-v1"),
        partial(vectorised, partial(gym.make, "FrozenLake-v1", is_slippery=False)), {},
        "the environment begins a new episode: is_slippery of environment 0 is False and was not given",
    ),
    "something made of an argument": (
        partial(vectorised, partial(Market, 1.0)), partial(vectorised, partial(Market, 2.0)), {},
        r"the environment begins a new episode: _prices of environment 0 is array.* and was array",
    ),
    "another wrapper": (
        partial(vectorised, Toy), partial(vectorised, limited), {},
        "the environment begins a new episode: TimeLimit of environment 0 is new",
    ),
    "without VecNormalize": (
        partial(normalised, Toy), partial(vectorised, Toy), {},
        "statistics of VecNormalize are not put back.*the environment begins a new episode: VecNormalize .* is missing",
    ),
    "another seed": (
        partial(vectorised, Toy), partial(vectorised, Toy), dict(seed=5),
        "seed=5 instead of 0 draws other random numbers and new episodes",
    ),
    "Atari": (
        partial(vectorised, Sticky, 2), partial(vectorised, Sticky, 2), {},
        "the last action of Atari is not in the file",
    ),
    "much data": (
        partial(vectorised, Furnished), partial(vectorised, Furnished), {},
        "prices of Furnished is not in the file, and taken to be the same",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning", "ignore:builtin type:DeprecationWarning")
@pytest.mark.parametrize("name", DIFFERENCES)
def test_one_warning_says_what_differs_from_a_run_without_an_interruption(name: str, tmp_path: Path) -> None:
    before, after, changes, words = DIFFERENCES[name]
    model = tiny(before()).learn(64)
    model.save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", after(), device="cpu", **changes)
    with pytest.warns(UserWarning, match=f"{NOT_TO_THE_BIT}.*{words}") as caught:
        loaded.learn(64, reset_num_timesteps=False)
    assert len(caught) == 1
    assert loaded.num_timesteps >= model.num_timesteps + 64
    model.env.close()
    loaded.env.close()


def test_an_environment_with_much_data_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = tiny(vectorised(Furnished)).learn(64)
    tiny(vectorised(Furnished)).learn(32).save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", vectorised(Furnished), device="cpu")
    with pytest.warns(UserWarning, match="prices"):
        loaded.learn(32, reset_num_timesteps=False)
    assert same(weights(whole), weights(loaded))
    assert (tmp_path / "model.zip").stat().st_size < 2**18


def test_what_the_user_changes_in_the_environment_is_not_undone(tmp_path: Path) -> None:
    """A curriculum: the same constructor, another parameter. And a parameter that training itself changes goes on."""
    tiny(vectorised(Toy)).learn(16).save(tmp_path / "model")
    harder = vectorised(partial(Toy, scale=2.0))
    with pytest.warns(UserWarning, match="scale"):
        VPG.load(tmp_path / "model", harder, device="cpu").learn(16, reset_num_timesteps=False)
    assert harder.get_attr("scale") == [2.0]
    model = tiny(vectorised(Toy)).learn(16)
    model.env.env_method("set_wrapper_attr", "scale", 3.0)
    model.learn(16, reset_num_timesteps=False).save(tmp_path / "model")
    env = vectorised(Toy)
    VPG.load(tmp_path / "model", env, device="cpu").learn(16, reset_num_timesteps=False)
    assert env.envs[0].unwrapped.scale == 3.0  # type: ignore[attr-defined]


def test_what_grows_without_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_pg.rollout.env_state.LARGEST_ATTRIBUTE", 2**14)
    monkeypatch.setattr("sb3_pg.rollout.env_state._SMALL", 2**10)
    model = tiny(vectorised(Diary))
    sizes = []
    for _ in range(40):
        model.learn(16, reset_num_timesteps=False)
        state = model._kept_state["environments"]
        sizes.append(len(state["values"]))
    assert max(sizes) < 2**14
    assert sizes[-1] < 2**11
    assert state["missing"] == ["lines of Diary is not in the file, and taken to be the same"]


class Columns(Toy):
    """Has several arrays of data, and one that is state."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.position = np.zeros(2000), np.ones(3000), np.zeros(2)


def test_of_an_environment_with_much_data_the_largest_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_pg.rollout.env_state.LARGEST_ATTRIBUTE", 2**15)
    model = tiny(vectorised(Columns)).learn(16)
    state = model._kept_state["environments"]
    assert state["missing"] == ["high of Columns is not in the file, and taken to be the same"]
    names = [names for _, kind, names in state["layers"] if kind == "Columns"]
    assert names
    assert all({"low", "position"} < set(each) for each in names)


class Ledger(Toy):
    """Has the same numbers in an array and in a list, which takes longer to read."""

    def __init__(self) -> None:
        super().__init__()
        self.array = np.arange(30_000.0)
        self.entries = self.array.tolist()


def test_lists_are_taken_for_data_sooner_than_arrays() -> None:
    state = tiny(vectorised(Ledger)).learn(16)._kept_state["environments"]
    assert state["missing"] == ["entries of Ledger is not in the file, and taken to be the same"]
    names = [names for _, kind, names in state["layers"] if kind == "Ledger"]
    assert names
    assert all("array" in each for each in names)


class FirstObservation(BaseCallback):
    """Keeps what the first rollout began with."""

    value: Any = None

    def _on_rollout_start(self) -> None:
        if self.value is None:
            self.value = self.model._last_obs

    def _on_step(self) -> bool:
        return True


class PatchedTimeLimit(gym.wrappers.TimeLimit):
    """RL Zoo has one of this name, and puts it in the place of Gymnasium's when it is imported."""


def test_a_model_that_rl_zoo_trained_goes_on_without_it(tmp_path: Path) -> None:
    whole = tiny(vectorised(limited)).learn(32)
    tiny(vectorised(lambda: PatchedTimeLimit(Toy(), 5))).learn(16).save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", vectorised(limited), device="cpu").learn(16, reset_num_timesteps=False)
    assert same(weights(whole), weights(loaded))


def test_new_episodes_are_new_and_the_same_at_every_resumption(tmp_path: Path) -> None:
    first, second, third = FirstObservation(), FirstObservation(), FirstObservation()
    tiny(vectorised(Unkept)).learn(64, first).save(tmp_path / "model")
    for callback in (second, third):
        with pytest.warns(UserWarning, match="new episode"):
            VPG.load(tmp_path / "model", vectorised(Unkept), device="cpu").learn(
                16, callback, reset_num_timesteps=False
            )
    assert not np.array_equal(first.value, second.value)
    np.testing.assert_array_equal(second.value, third.value)


@pytest.mark.parametrize("n_envs", [2, 3])
def test_the_statistics_are_those_of_the_file_whatever_becomes_of_the_environments(n_envs: int, tmp_path: Path) -> None:
    env = normalised(Unkept, 2)
    tiny(env).learn(64).save(tmp_path / "model")
    count = env.obs_rms.count  # type: ignore[attr-defined]
    tiny(env).learn(64)  # the same VecNormalize goes on, as its only file does
    with pytest.warns(UserWarning, match="new episodes"):
        VPG.load(tmp_path / "model", again := normalised(Unkept, n_envs), device="cpu").learn(
            16 * n_envs, reset_num_timesteps=False
        )
    assert again.obs_rms.count == count + 17 * n_envs  # type: ignore[attr-defined]


# -- nobody is disturbed ---------------------------------------------------------------------------------------------


def generators() -> list[Any]:
    """Not torch's: building a network draws its weights."""
    _, key, position, *_ = np.random.get_state()  # noqa: NPY002
    return [th.as_tensor(key), position, random.getstate()]


def test_loading_and_acting_leave_random_numbers_and_environments_alone(tmp_path: Path) -> None:
    model = tiny(vectorised(Toy), seed=None).learn(32)
    model.save(tmp_path / "model")
    th.rand(3), np.random.random(3), random.random()  # noqa: NPY002
    env = vectorised(Toy)
    observation = env.reset()
    toy = env.envs[0].unwrapped  # type: ignore[attr-defined]
    before, history = generators(), list(toy.history)
    loaded = VPG.load(tmp_path / "model", env, device="cpu")
    loaded.predict(observation, deterministic=True)
    assert same(before, generators())
    assert toy.history == history
    loaded.save(tmp_path / "again")
    assert same(before, generators())


def test_a_run_that_begins_anew_takes_nothing_from_the_state_of_training(tmp_path: Path) -> None:
    tiny(normalised(Toy)).learn(32).save(tmp_path / "model")
    ends = []
    for objects in ({}, {"training_state": None}):
        loaded = VPG.load(tmp_path / "model", normalised(Toy), device="cpu", custom_objects=objects)
        ends.append(learn(loaded, 32, reset_num_timesteps=True))
    assert all(same(ends[0][part], ends[1][part]) for part in ends[0])
    assert ends[0]["counts"][0] == 32


def test_the_state_of_training_is_used_once(tmp_path: Path) -> None:
    whole = tiny(vectorised(Toy)).learn(16).learn(32, reset_num_timesteps=False)
    tiny(vectorised(Toy)).learn(16).save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", vectorised(Toy), device="cpu")
    for _ in range(2):
        loaded.learn(16, reset_num_timesteps=False)
    assert same(weights(whole), weights(loaded))


def test_a_resumption_that_fails_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny(vectorised(Toy)).learn(32)
    tiny(vectorised(Toy)).learn(16).save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", vectorised(Toy), device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(Toy, "reset", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            loaded.learn(16, reset_num_timesteps=False)
    assert same(weights(whole), weights(loaded.learn(16, reset_num_timesteps=False)))


def test_an_evaluation_between_training_and_saving_changes_nothing(tmp_path: Path) -> None:
    whole = tiny(vectorised(Toy)).learn(32)
    model = tiny(vectorised(Toy)).learn(16)
    evaluate_policy(model, model.env, n_eval_episodes=2, deterministic=False)
    model.save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", vectorised(Toy), device="cpu").learn(16, reset_num_timesteps=False)
    assert same(weights(whole), weights(loaded))


def test_a_model_that_was_loaded_and_saved_again_goes_on_as_well(tmp_path: Path) -> None:
    whole = tiny(vectorised(Toy)).learn(32)
    tiny(vectorised(Toy)).learn(16).save(tmp_path / "model")
    VPG.load(tmp_path / "model", device="cpu").save(tmp_path / "copy")
    loaded = VPG.load(tmp_path / "copy", device="cpu")
    loaded.set_env(vectorised(Toy))
    assert same(weights(whole), weights(loaded.learn(16, reset_num_timesteps=False)))


def test_a_model_that_was_never_trained_begins_as_it_would_have(tmp_path: Path) -> None:
    model = tiny(vectorised(Toy))
    model.save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", vectorised(Toy), device="cpu").learn(32, reset_num_timesteps=False)
    assert same(weights(tiny(vectorised(Toy)).learn(32)), weights(loaded))


def test_an_environment_that_is_not_to_be_reset_is_left_where_it_is(tmp_path: Path) -> None:
    model = tiny(vectorised(Toy)).learn(16)
    model.save(tmp_path / "model")
    model.learn(13, reset_num_timesteps=False)
    toy = model.env.envs[0].unwrapped
    history = list(toy.history)
    loaded = VPG.load(tmp_path / "model", model.env, device="cpu", force_reset=False)
    loaded._setup_learn(16, reset_num_timesteps=False)
    assert toy.history == history


def test_an_environment_that_is_not_to_be_reset_is_as_far_in_its_episode_as_it_was(tmp_path: Path) -> None:
    model = tiny(vectorised(Toy, 2), n_steps=13).learn(26)
    model.save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", model.env, device="cpu", force_reset=False)
    taken = [len(env.unwrapped.history) - 1 for env in model.env.envs]
    one_rollout(loaded)
    assert min(taken) > 0
    np.testing.assert_array_equal(loaded.rollout_buffer.times[0], taken)


@pytest.mark.parametrize("copied", [deepcopy, lambda model: cloudpickle.loads(cloudpickle.dumps(model))])
def test_a_copy_of_a_model_saves_the_state_of_its_own_environment(tmp_path: Path, copied: Any) -> None:
    whole = tiny(vectorised(Toy)).learn(48)
    model = tiny(vectorised(Toy)).learn(16)
    model.predict(np.zeros(2), deterministic=True)  # SB3's models cannot be copied while they hold a graph
    copy = copied(model)
    copy.learn(16, reset_num_timesteps=False).save(tmp_path / "copy")
    loaded = VPG.load(tmp_path / "copy", vectorised(Toy), device="cpu").learn(16, reset_num_timesteps=False)
    assert same(weights(whole), weights(loaded))


class TrainsAsA2C(VPG):
    """A user's update."""

    def train(self) -> None:
        A2C.train(self)  # type: ignore[arg-type]


def test_an_update_of_the_users_own_is_not_done_twice(tmp_path: Path) -> None:
    settings: Any = dict(algorithm=TrainsAsA2C, joint_optimizer=True, normalize_advantage=False)
    whole = tiny(vectorised(Toy), **settings).learn(48)
    tiny(vectorised(Toy), **settings).learn(32).save(tmp_path / "model")
    loaded = TrainsAsA2C.load(tmp_path / "model", vectorised(Toy), device="cpu")
    assert loaded.num_timesteps == 32
    loaded.learn(16, reset_num_timesteps=False)
    assert (loaded.num_timesteps, loaded._n_updates) == (48, 3)
    assert same(weights(whole), weights(loaded))


def test_a_model_without_an_environment_says_what_it_needs_to_learn(tmp_path: Path) -> None:
    tiny().save(tmp_path / "model")
    for goes_on in (True, False):
        with pytest.raises(ValueError, match=r"has no environment: give one to load\(\.\.\., env=\.\.\.\) or set_env"):
            VPG.load(tmp_path / "model", device="cpu").learn(16, reset_num_timesteps=goes_on)


def test_the_state_of_training_of_a_loaded_model_prints_in_a_few_words(tmp_path: Path) -> None:
    tiny().learn(16).save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", device="cpu")
    assert max(len(str(value)) for name, value in vars(loaded).items() if name.startswith("_loaded")) < 60


@pytest.mark.parametrize("settings", [{}, {"estimator": "q"}])
def test_a_model_is_loaded_with_the_policy_kwargs_that_it_was_built_with(tmp_path: Path, settings: Any) -> None:
    given = dict(net_arch=[8])
    built = tiny(policy_kwargs=dict(given), **settings)
    built.save(tmp_path / "model")
    with open(tmp_path / "model.zip", "rb") as file:
        for path in (tmp_path / "model", file):
            loaded = VPG.load(path, device="cpu", policy_kwargs=dict(given))
            assert same(weights(built), weights(loaded))
    with pytest.raises(ValueError, match="policy kwargs"):
        VPG.load(tmp_path / "model", device="cpu", policy_kwargs=dict(net_arch=[4]))


# -- the file --------------------------------------------------------------------------------------------------------


def without_member(path: Path, member: str = MEMBER) -> Path:
    """The file as it would be from a version that had no such member."""
    older = path.with_name("older.zip")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(older, "w") as copy:
        for name in archive.namelist():
            if name != member:
                copy.writestr(name, archive.read(name))
    return older


def members(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_a_file_without_a_state_of_training_loads_and_goes_on(tmp_path: Path) -> None:
    model = tiny(vectorised(Toy)).learn(32)
    model.save(tmp_path / "model.zip")
    loaded = VPG.load(without_member(tmp_path / "model.zip"), vectorised(Toy), device="cpu")
    assert same(weights(loaded), weights(model))
    assert loaded.learn(32, reset_num_timesteps=False).num_timesteps == 64


def test_the_state_of_training_can_be_left_out(tmp_path: Path) -> None:
    model = tiny(vectorised(Toy)).learn(32)
    model.save(tmp_path / "with.zip")
    model.save(tmp_path / "without.zip", exclude=["training_state"])
    assert members(tmp_path / "with.zip") == [*members(tmp_path / "without.zip"), MEMBER]
    VPG.load(tmp_path / "without.zip", vectorised(Toy), device="cpu").learn(16, reset_num_timesteps=False)


def test_the_state_of_training_is_small_and_holds_no_rollout(tmp_path: Path) -> None:
    sizes = {}
    for n_steps in (16, 512):
        tiny(vectorised("CartPole-v1", 8), n_steps=n_steps).learn(1).save(tmp_path / "model.zip")
        with zipfile.ZipFile(tmp_path / "model.zip") as archive:
            sizes[n_steps] = archive.getinfo(MEMBER).compress_size
    assert max(sizes.values()) < 2**14


@pytest.mark.parametrize(
    "content", [b"", b"no pickle", pickle.dumps([]), pickle.dumps({}), pickle.dumps({"error": "E"}), b"cnowhere\nx\n."]
)
def test_a_state_of_training_that_cannot_be_read_is_no_reason_to_lose_the_model(tmp_path: Path, content: bytes) -> None:
    tiny(vectorised(Toy)).learn(16).save(tmp_path / "model.zip")
    damaged = without_member(tmp_path / "model.zip")
    with zipfile.ZipFile(damaged, "a") as archive:
        archive.writestr(MEMBER, content)
    loaded = VPG.load(damaged, vectorised(Toy), device="cpu")
    with pytest.warns(UserWarning, match=f"{NOT_TO_THE_BIT}.*random numbers and episodes begin anew"):
        loaded.learn(16, reset_num_timesteps=False)
    assert loaded.num_timesteps == 32


class Moody:
    """Can be pickled at first, and later not."""

    refuses = False

    def __reduce__(self) -> Any:
        if Moody.refuses:
            raise RuntimeError("not today")
        return Moody, ()


def test_an_environment_that_cannot_be_pickled_any_more_never_makes_saving_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = vectorised(Toy)
    env.envs[0].unwrapped.mood = Moody()  # type: ignore[attr-defined]
    model = tiny(env).learn(16)
    monkeypatch.setattr(Moody, "refuses", True)
    model.learn(16, reset_num_timesteps=False).save(tmp_path / "model")
    monkeypatch.setattr(Moody, "refuses", False)
    with pytest.warns(UserWarning, match="mood of Toy cannot be pickled .not today"):
        VPG.load(tmp_path / "model", vectorised(Toy), device="cpu").learn(16, reset_num_timesteps=False)


def test_nothing_about_the_state_of_training_makes_saving_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(vectorised(Toy)).learn(16)

    def fails(*_: Any) -> bytes:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("sb3_pg.training_state.pack", fails)
        model.save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", vectorised(Toy), device="cpu")
    with pytest.warns(UserWarning, match="could not be saved: MemoryError: no room"):
        loaded.learn(16, reset_num_timesteps=False)


def test_an_attribute_that_holds_the_environment_is_not_copied_with_it(tmp_path: Path) -> None:
    env = vectorised(Toy)
    env.envs[0].unwrapped.helper = {"env": env.envs[0].unwrapped}  # type: ignore[attr-defined]
    tiny(env).learn(16).save(tmp_path / "model")
    with pytest.warns(UserWarning, match="helper of Toy cannot be pickled .it holds an environment"):
        VPG.load(tmp_path / "model", vectorised(Toy), device="cpu").learn(16, reset_num_timesteps=False)


def test_training_closes_nothing_that_an_environment_holds(tmp_path: Path) -> None:
    env = with_attribute("handle", Handle)()
    before = Handle.n_closed
    tiny(env).learn(32).save(tmp_path / "model")
    tiny(env).learn(32)
    assert Handle.n_closed == before


@pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor`")
def test_the_statistics_of_vec_monitor_are_no_hindrance(tmp_path: Path) -> None:
    tiny(VecMonitor(vectorised(Toy, 2))).learn(64).save(tmp_path / "model")
    whole = tiny(VecMonitor(vectorised(Toy, 2))).learn(128)
    loaded = VPG.load(tmp_path / "model", VecMonitor(vectorised(Toy, 2)), device="cpu")
    assert same(weights(loaded.learn(64, reset_num_timesteps=False)), weights(whole))


def test_only_a_monitors_list_of_returns_says_that_an_episode_has_ended() -> None:
    def recorded() -> gym.Env[Any, Any]:
        return gym.wrappers.RecordEpisodeStatistics(Toy())

    env = vectorised(recorded)
    keeper = env_state.EnvironmentKeeper(env)
    env.reset()
    for n_steps, expected in ((3, []), (9, ["environment 0"])):
        for _ in range(n_steps):
            env.step(np.ones(1, dtype=int))
        state = keeper.take()
        assert state is not None
        assert list(dict.fromkeys(state["have_ended"])) == expected


def test_a_state_whose_given_attributes_were_saved_as_they_are_is_put_back() -> None:
    env = vectorised(Toy)
    keeper = env_state.EnvironmentKeeper(env)
    env.reset()
    env.step(np.ones(1, dtype=int))
    state = keeper.take()
    assert state is not None
    saved = keeper.pack({**state, "given": [pickle.loads(each) for each in state["given"]]})
    other = vectorised(Toy)
    other.reset()
    assert env_state.EnvironmentKeeper(other).put(saved) == []
    inner, theirs = (each.envs[0].unwrapped for each in (env, other))  # type: ignore[attr-defined]
    assert theirs.history == inner.history


def test_attributes_that_come_later_are_kept_too(tmp_path: Path) -> None:
    whole = vectorised(Toy)
    model = tiny(whole).learn(16)
    whole.envs[0].unwrapped.late = [1]  # type: ignore[attr-defined]
    model.learn(16, reset_num_timesteps=False).save(tmp_path / "model")
    env = vectorised(Toy)
    VPG.load(tmp_path / "model", env, device="cpu").learn(16, reset_num_timesteps=False)
    assert env.envs[0].unwrapped.late == [1]  # type: ignore[attr-defined]


def test_monitor_files_stay_with_their_run(tmp_path: Path) -> None:
    first, second = (vectorised("CartPole-v1", monitor_dir=str(tmp_path / name)) for name in ("first", "second"))
    tiny(first).learn(128).save(tmp_path / "model")
    first.close()
    written = (tmp_path / "first" / "0.monitor.csv").read_text()
    VPG.load(tmp_path / "model", second, device="cpu").learn(128, reset_num_timesteps=False)
    second.close()
    assert (tmp_path / "first" / "0.monitor.csv").read_text() == written
    whole = vectorised("CartPole-v1", monitor_dir=str(tmp_path / "whole"))
    tiny(whole).learn(256)
    whole.close()
    lengths = {name: logged_lengths(tmp_path / name / "0.monitor.csv") for name in ("first", "second", "whole")}
    assert lengths["first"] + lengths["second"] == lengths["whole"]


def logged_lengths(path: Path) -> list[int]:
    return [int(row.split(",")[1]) for row in path.read_text().splitlines()[2:]]


# -- when it is saved ------------------------------------------------------------------------------------------------


def test_the_steps_of_an_unfinished_rollout_are_taken_again(tmp_path: Path) -> None:
    model = tiny(vectorised(Toy, 2))
    model.learn(64, CheckpointCallback(20, str(tmp_path)))
    loaded = VPG.load(tmp_path / "rl_model_40_steps", vectorised(Toy, 2), device="cpu")
    assert loaded.num_timesteps == 40
    loaded.learn(64 - 40, reset_num_timesteps=False)
    assert (loaded.num_timesteps, loaded._n_updates) == (64, 2)
    assert same(weights(model), weights(loaded))


def test_an_interrupted_update_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny(vectorised(Toy)).learn(48)
    model = tiny(vectorised(Toy)).learn(16)
    with monkeypatch.context() as patch:
        patch.setattr("sb3_pg.vpg.NumpyCritic", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.learn(32, reset_num_timesteps=False)
    assert model.num_timesteps == 32
    model.save(tmp_path / "model")
    loaded = VPG.load(tmp_path / "model", vectorised(Toy), device="cpu").learn(16, reset_num_timesteps=False)
    assert same(weights(whole), weights(loaded))


def interrupted(*_: Any) -> Any:
    raise KeyboardInterrupt


class OurA2C(SavingMixin, A2C):
    """What the mixin does for another algorithm."""

    _file_marks = ("rms_prop_eps_of_ours",)
    _file_owners = "OurA2C"

    def __init__(self, *args: Any, rms_prop_eps_of_ours: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(*args, rms_prop_eps=rms_prop_eps_of_ours, **kwargs)
        self.rms_prop_eps_of_ours = rms_prop_eps_of_ours


@pytest.mark.parametrize("count", [0, 20])
def test_the_mixin_does_the_same_for_an_algorithm_of_sb3s(tmp_path: Path, count: int) -> None:
    whole = tiny(vectorised(Toy), algorithm=OurA2C).learn(64)
    model = tiny(vectorised(Toy), algorithm=OurA2C)
    if count:
        model.learn(64, SavesAt(tmp_path / "model", "step", count))
    else:
        model.learn(32).save(tmp_path / "model")
    loaded = OurA2C.load(tmp_path / "model", vectorised(Toy), device="cpu")
    loaded.learn(64 - loaded.num_timesteps, reset_num_timesteps=False)
    assert same(weights(whole), weights(loaded))
    assert loaded.logger is not None
    with pytest.raises(ValueError, match=r"gamm=.*OurA2C; did you mean gamma"):
        OurA2C.load(tmp_path / "model", gamm=0.9)
    with pytest.raises(ValueError, match="another algorithm; VPG"):
        VPG.load(tmp_path / "model")
    tiny().save(tmp_path / "vpg")
    with pytest.raises(ValueError, match="another algorithm; OurA2C"):
        OurA2C.load(tmp_path / "vpg")


def test_the_random_numbers_of_the_models_gpu_are_kept_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: torch's two functions are stood in for."""
    put: dict[str, Any] = {}
    monkeypatch.setattr("torch.cuda.get_rng_state", lambda device: th.tensor([device.index], dtype=th.uint8))
    monkeypatch.setattr("torch.cuda.set_rng_state", lambda state, device: put.update({str(device): state.tolist()}))
    model = tiny(vectorised(Toy))
    state = training_state.take(model, None)
    training_state.restore_generators(model, state)
    assert put == {}
    model.device = th.device("cuda:3")
    state = training_state.take(model, None)
    training_state.restore_generators(model, pickle.loads(training_state.pack(state, None)))
    assert put == {"cuda:3": [3]}


# -- small parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1, 1.0, False),
        (float("nan"), float("nan"), True),
        ([1, (2, {"a": np.ones(2)})], [1, (2, {"a": np.ones(2)})], True),
        ([1, (2, {"a": np.ones(2)})], [1, (2, {"a": np.zeros(2)})], False),
        ({"a": 1}, {"b": 1}, False),
        (np.array([1, np.nan]), np.array([1, np.nan]), True),
        (Coin(), Coin(), True),
        ("a", "b", False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_of_attributes_are_compared(one: Any, other: Any, equal: bool) -> None:
    assert env_state._same(one, other) is equal


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937])
def test_a_generator_goes_on_and_has_the_same_children_after_a_pickle(bits: Any) -> None:
    generator = np.random.Generator(bits(3))
    generator.random(5)
    generator.spawn(2)
    copy = pickle.loads(env_state.dumps(generator))
    assert copy.random() == generator.random()
    assert copy.spawn(1)[0].random() == generator.spawn(1)[0].random()
