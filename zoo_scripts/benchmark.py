"""Measure the training loop against SB3's, in one interleaved run, and write docs/performance.md's table.

    python zoo_scripts/benchmark.py                 # everything, 5 repeats
    python zoo_scripts/benchmark.py --only CartPole --repeats 3

Every contender of a case runs once in each repeat, in turn, so that a machine whose speed drifts slows all of them;
ratios are medians of the repeats' own ratios. One thread, one gradient step for each batch of 2048, networks of
2 x 64 tanh units, lambda .97, unless a case says otherwise. Environment steps per second of whole training.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch read it

import argparse
import importlib.util
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from sb3_pg import VPG
from sb3_pg.files import write_whole
from sb3_pg.pages import as_csv, markdown_table, put_between_marks
from sb3_pg.rollout.vec_env import LeanVecEnv, VectorEnvAdapter

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
BATCH = 2048
# The same learning rate for all: how long episodes last decides how often an environment is reset
COMMON = dict(gae_lambda=0.97, learning_rate=7e-4, seed=0)
ONE_STEP = dict(n_critic_updates=1, critic_batch_size=None)

Contender = Callable[[], Callable[[], int]]
"""Sets itself up and gives a function that runs for about a second and returns the environment steps it took."""


class NullVecEnv(VecEnv):
    """Gives the same arrays at every step: what is left is the algorithm's own time."""

    def __init__(self, n_envs: int, n_inputs: int, action_space: gym.Space[Any]) -> None:
        super().__init__(n_envs, gym.spaces.Box(-1, 1, (n_inputs,), np.float32), action_space)
        self._observations = np.random.default_rng(0).normal(size=(n_envs, n_inputs)).astype(np.float32)
        self._rest = np.ones(n_envs, np.float32), np.zeros(n_envs, bool), [{} for _ in range(n_envs)]

    def reset(self) -> Any:
        """Return the observations."""
        return self._observations

    def step_async(self, actions: Any) -> None:
        """Do nothing."""

    def step_wait(self) -> Any:
        """Return the same step again."""
        return self._observations, *self._rest

    def close(self) -> None:
        """Do nothing."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:  # noqa: ARG002  the interface's signature
        """Return None."""
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Do nothing."""

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:  # noqa: ARG002
        """Return None."""
        return [None] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:  # noqa: ARG002
        """Nothing is wrapped."""
        return [False] * self.num_envs


class NaiveManyUpdates(A2C):
    """A2C's loop with the Spinning Up recipe on top: one policy step, 80 full-batch value steps, by autograd."""

    def train(self) -> None:
        """One policy step, then 80 steps on the value loss."""
        super().train()
        for data in self.rollout_buffer.get(batch_size=None):
            for _ in range(80):
                loss = th.nn.functional.mse_loss(self.policy.predict_values(data.observations).flatten(), data.returns)
                self.policy.optimizer.zero_grad()
                loss.backward()
                self.policy.optimizer.step()


def training(
    algorithm: Any, make_env: Callable[[], VecEnv], policy: Any = "MlpPolicy", batch: int = BATCH, **settings: Any
) -> Contender:
    """A contender that trains."""

    def set_up() -> Callable[[], int]:
        """Build the model, and train for one batch to warm up."""
        env = make_env()
        n_steps = batch // env.num_envs
        model = algorithm(policy, env, n_steps=n_steps, **COMMON, **settings)
        model.learn(n_steps * env.num_envs)
        chunk = n_steps * env.num_envs * 2

        def run() -> int:
            """Train for two batches; return their steps."""
            model.learn(chunk)
            return chunk

        return run

    return set_up


def ours(make_env: Callable[[], VecEnv], policy: Any = "MlpPolicy", **settings: Any) -> Contender:
    """VPG with one gradient step for actor and critic each."""
    return training(VPG, make_env, policy, **{**ONE_STEP, **settings})


def a2c(make_env: Callable[[], VecEnv], policy: Any = "MlpPolicy", **settings: Any) -> Contender:
    """SB3's A2C with Adam."""
    return training(A2C, make_env, policy, use_rms_prop=False, **settings)


def ppo(make_env: Callable[[], VecEnv]) -> Contender:
    """SB3's PPO with one epoch of one minibatch."""
    return training(PPO, make_env, n_epochs=1, batch_size=BATCH)


def raw(make_env: Callable[[], VecEnv]) -> Contender:
    """Stepping alone, with actions drawn beforehand."""

    def set_up() -> Callable[[], int]:
        """Reset the environments, and draw actions for 64 steps, which are taken over and over."""
        env = make_env()
        env.reset()
        actions = [np.array([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(64)]

        def run() -> int:
            """Take 4096 steps, or the multiple of the environments below it; return how many."""
            n_steps = 4096 // env.num_envs
            for step in range(n_steps):
                env.step(actions[step % 64])
            return n_steps * env.num_envs

        return run

    return set_up


def tianshou_reinforce(env_id: str, n_envs: int) -> Contender:
    """Tianshou's REINFORCE (actor only, no critic) with the same network and batch, in its own vector environment."""

    def set_up() -> Callable[[], int]:
        """Build the algorithm and its collector, and train for one batch to warm up."""
        from tianshou.algorithm.algorithm_base import policy_within_training_step
        from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy, ProbabilisticActorPolicy, Reinforce
        from tianshou.algorithm.optim import AdamOptimizerFactory
        from tianshou.data import Collector, VectorReplayBuffer
        from tianshou.env import DummyVectorEnv
        from tianshou.utils.net.common import Net
        from tianshou.utils.net.continuous import ContinuousActorProbabilistic
        from tianshou.utils.net.discrete import DiscreteActor

        envs = DummyVectorEnv([lambda: gym.make(env_id) for _ in range(n_envs)])
        one = gym.make(env_id)
        net = Net(state_shape=one.observation_space.shape, hidden_sizes=[64, 64], activation=th.nn.Tanh)
        space: Any = one.action_space
        policy: Any
        if isinstance(space, gym.spaces.Discrete):
            actor: Any = DiscreteActor(preprocess_net=net, action_shape=int(space.n), softmax_output=False)
            policy = DiscreteActorPolicy(actor=actor, action_space=space)
        else:
            actor = ContinuousActorProbabilistic(preprocess_net=net, action_shape=space.shape, unbounded=True)
            normal = lambda mean_and_std: th.distributions.Independent(th.distributions.Normal(*mean_and_std), 1)  # noqa: E731
            policy = ProbabilisticActorPolicy(actor=actor, dist_fn=normal, action_space=space)
        algorithm = Reinforce(policy=policy, gamma=0.99, optim=AdamOptimizerFactory(lr=7e-4))
        collector = Collector(algorithm, envs, VectorReplayBuffer(BATCH, n_envs))
        collector.reset()

        def run() -> int:
            """Collect one batch and learn from it; return its steps."""
            collector.collect(n_step=BATCH)
            with policy_within_training_step(algorithm.policy):
                algorithm.update(buffer=collector.buffer, batch_size=None, repeat=1)
            collector.reset_buffer(keep_statistics=True)
            return BATCH

        run()
        return run

    return set_up


def dummy(env_id: str, n_envs: int) -> Callable[[], VecEnv]:
    """SB3's own vector environment."""
    # Without a render mode, for which LunarLander would draw particles at every step
    return lambda: make_vec_env(env_id, n_envs, seed=0, env_kwargs={"render_mode": None})


def lean(env_id: str, n_envs: int) -> Callable[[], VecEnv]:
    """The same environments without deep copies."""
    return lambda: LeanVecEnv(dummy(env_id, n_envs)())


def native_cartpoles() -> VecEnv:
    """64 CartPoles that NumPy steps at once."""
    return VectorEnvAdapter(gym.make_vec("CartPole-v1", 64, vectorization_mode="vector_entry_point"))


@dataclass
class Case:
    """Contenders that are compared, and the ratios that are wanted of the first two: (over, at least)."""

    name: str
    contenders: dict[str, Contender]
    goals: list[tuple[str, str, float]] = field(default_factory=list)
    """(faster, slower, ratio that is the goal)"""


def stock(env_id: str, n_envs: int, over_a2c: float | None = None, of_raw: float | None = None) -> Case:
    """VPG, A2C, PPO and raw stepping on the same vector environment."""
    env = dummy(env_id, n_envs)
    goals = [("VPG", "A2C", over_a2c)] if over_a2c else []
    goals += [("VPG", "raw", of_raw)] if of_raw else []
    contenders = {"VPG": ours(env), "A2C": a2c(env), "PPO, 1 epoch": ppo(env), "raw": raw(env)}
    return Case(f"{env_id}, {n_envs} env{'s' * (n_envs > 1)}", contenders, goals)


def cases() -> list[Case]:
    """All comparisons but the one of memory."""
    found = [
        stock("CartPole-v1", 8, 4.2, 0.70),
        stock("CartPole-v1", 1, 12.5, 0.60),
        stock("HalfCheetah-v5", 8, 1.9, 0.90),
        stock("HalfCheetah-v5", 1, 5.3, 0.80),
        stock("LunarLander-v3", 8),
        stock("Humanoid-v5", 8),
        stock("CartPole-v1", 64),
    ]
    for name, space, n_inputs, goals in (
        ("Discrete", gym.spaces.Discrete(2), 4, (25, 13)),
        ("Box", gym.spaces.Box(-1, 1, (6,)), 17, (20, 10)),
    ):
        for n_envs, goal in zip((1, 8), goals, strict=True):
            env = lambda n=n_envs, i=n_inputs, s=space: NullVecEnv(n, i, s)  # noqa: E731
            contenders = {"VPG": ours(env), "A2C": a2c(env)}
            found.append(Case(f"null environment, {name}, n={n_envs}", contenders, [("VPG", "A2C", goal)]))
    for env_id, over_a2c, over_raw in (("CartPole-v1", 5.2, None), ("HalfCheetah-v5", None, 1.0)):
        goals = [("VPG on LeanVecEnv", "A2C", over_a2c)] if over_a2c else []
        goals += [("VPG on LeanVecEnv", "raw", over_raw)] if over_raw else []
        contenders = {
            "VPG on LeanVecEnv": ours(lean(env_id, 8)), "A2C": a2c(dummy(env_id, 8)),
            "raw": raw(dummy(env_id, 8)), "raw LeanVecEnv": raw(lean(env_id, 8)),
        }  # fmt: skip
        found.append(Case(f"LeanVecEnv, {env_id}, 8 envs", contenders, goals))
    for env_id, goal in (("CartPole-v1", 1.8), ("HalfCheetah-v5", 1.35)):
        # An activation that the NumPy actor does not know, so that actions are drawn through torch
        elu: Any = dict(policy_kwargs=dict(activation_fn=th.nn.ELU))
        contenders = {name: maker(dummy(env_id, 8), **elu) for name, maker in (("VPG", ours), ("A2C", a2c))}
        found.append(Case(f"torch path, {env_id}, 8 envs", contenders, [("VPG", "A2C", goal)]))
    for env_id, goal in (("CartPole-v1", 5.9), ("HalfCheetah-v5", 3.9)):
        contenders = {
            "VPG": ours(dummy(env_id, 1), batch=4000, n_critic_updates=80),
            "A2C's loop": training(NaiveManyUpdates, dummy(env_id, 1), batch=4000, use_rms_prop=False),
        }
        name = f"Spinning Up recipe, {env_id}, 1 env, batch 4000, 80 critic updates"
        found.append(Case(name, contenders, [("VPG", "A2C's loop", goal)]))
    native = {"VPG, adapter": ours(native_cartpoles), "A2C, DummyVecEnv": a2c(dummy("CartPole-v1", 64))}
    found.append(Case("64 native vector CartPoles", native, [("VPG, adapter", "A2C, DummyVecEnv", 5.5)]))
    if importlib.util.find_spec("tianshou"):
        for env_id, goal in (("CartPole-v1", 10), ("HalfCheetah-v5", 3.5)):
            contenders = {"VPG": ours(dummy(env_id, 8)), "Tianshou REINFORCE": tianshou_reinforce(env_id, 8)}
            found.append(Case(f"Tianshou, {env_id}, 8 envs", contenders, [("VPG", "Tianshou REINFORCE", goal)]))
    cheetah = dummy("HalfCheetah-v5", 8)
    whole = {
        "whole episodes": ours(cheetah, batch=8000, whole_episodes=True),
        "fixed steps": ours(cheetah, batch=8000),
    }
    found.append(Case("whole-episode batches, HalfCheetah-v5", whole, [("whole episodes", "fixed steps", 0.9)]))
    return found


def measure(case: Case, repeats: int, seconds: float) -> list[dict[str, float]]:
    """Environment steps per second of every contender, once a repeat, in turn.

    Seconds of this process, which works with one thread: on an idle machine they are those of the clock, and on a busy
    one they do not count the time that other programs take.
    """
    running = {name: contender() for name, contender in case.contenders.items()}
    repeated = []
    for _ in range(repeats):
        speeds = {}
        for name, run in running.items():
            start, n_steps = time.process_time(), 0
            while time.process_time() - start < seconds:
                n_steps += run()
            speeds[name] = n_steps / (time.process_time() - start)
        repeated.append(speeds)
    return repeated


def peak_memory() -> float:
    """Megabytes; not by getrusage, whose peak a new process inherits from the one that started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def memory_of_an_update(which: str, pipe: Any) -> None:
    """In a process of its own: time of train() and peak memory above what was there before the model, Humanoid."""
    env = dummy("Humanoid-v5", 8)()
    env.reset()
    before = peak_memory()
    settings: Any = dict(n_steps=6250, **COMMON)
    model: Any = (
        A2C("MlpPolicy", env, use_rms_prop=False, **settings)
        if which == "A2C"
        else VPG("MlpPolicy", env, **ONE_STEP, **settings)
    )
    train, times = model.train, []

    def timed_train() -> None:
        """Do the model's own train(), and note the seconds of this process that it takes."""
        start = time.process_time()
        train()
        times.append(time.process_time() - start)

    model.train = timed_train
    model.learn(100_000)
    pipe.send((statistics.median(times), peak_memory() - before))


def memory_rows(repeats: int) -> list[list[str]]:
    """Humanoid with a batch of 50,000: seconds of train(), megabytes of extra peak memory."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, list[tuple[float, float]]] = {"VPG": [], "A2C": []}
    for _ in range(repeats):
        for which, results in found.items():
            receiver, sender = context.Pipe()
            process = context.Process(target=memory_of_an_update, args=(which, sender))
            process.start()
            results.append(receiver.recv())
            process.join()
    seconds = {which: statistics.median(result[0] for result in results) for which, results in found.items()}
    megabytes = {which: statistics.median(result[1] for result in results) for which, results in found.items()}
    faster, smaller = seconds["A2C"] / seconds["VPG"], megabytes["VPG"] / megabytes["A2C"]
    times = f"VPG {seconds['VPG']:.2f} s, A2C {seconds['A2C']:.2f} s"
    peaks = f"VPG {megabytes['VPG']:.0f} MB, A2C {megabytes['A2C']:.0f} MB"
    name = "Humanoid-v5, batch 50,000"
    return [
        [f"{name}: train()", times, "A2C / VPG", f"{faster:.2f}x", "3.5x", verdict(faster >= 3.5)],
        [
            f"{name}: extra peak memory",
            peaks,
            "VPG / A2C",
            f"{smaller:.2f}x",
            "at most 0.55x",
            verdict(smaller <= 0.55),
        ],
    ]


def verdict(reached: bool) -> str:
    """What the last column says."""
    return "yes" if reached else "**no**"


def rows_of(case: Case, repeated: list[dict[str, float]]) -> list[list[str]]:
    """Lines of the table: medians, and each goal beside the median of the repeats' ratios."""
    medians = {name: statistics.median(speeds[name] for speeds in repeated) for name in case.contenders}
    if case.name.startswith("null"):
        speeds = ", ".join(f"{name} {1e6 / speed:.1f} us/step" for name, speed in medians.items())
    else:
        speeds = ", ".join(f"{name} {speed / 1e3:.3g}k" for name, speed in medians.items())
    rows = []
    for fast, slow, goal in case.goals:
        ratio = statistics.median(one[fast] / one[slow] for one in repeated)
        rows.append([case.name, speeds, f"{fast} / {slow}", f"{ratio:.2f}x", f"{goal:g}x", verdict(ratio >= goal)])
    if not case.goals:
        names = list(case.contenders)
        ratio = statistics.median(one[names[0]] / one[names[1]] for one in repeated)
        rows.append([case.name, speeds, f"{names[0]} / {names[1]}", f"{ratio:.2f}x", "", ""])
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this; docs/performance.md is left alone")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="time for each contender in each repeat")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    rows = []
    chosen = [case for case in cases() if arguments.only in case.name]
    for case in tqdm(chosen, unit="case"):
        rows += rows_of(case, measure(case, arguments.repeats, arguments.seconds))
    if arguments.only in "Humanoid-v5, batch 50,000":
        rows += memory_rows(min(arguments.repeats, 3))
    head = ["case", "medians, environment steps per second", "ratio of", "measured", "goal", "reached"]
    table = markdown_table(head, rows)
    print(table)
    if not arguments.only:
        write_whole(ROOT / "results" / "benchmark.csv", as_csv(head, rows))
        put_between_marks(PAGE, "benchmark", table)


if __name__ == "__main__":
    main()
