"""What can go wrong while training, each fault as a function that brings it about and checks what is left.

Used by the tests and by ``zoo_scripts/verify_faults.py``, which writes what they report into docs/reliability.md. Every
function takes an empty folder and returns a :class:`Report`; it fails with an AssertionError where something was lost
that must not be. They fork and send signals, so that they run in a process of their own.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from helpers import Runaway, SaveAtEveryRollout, ScriptedEnv, same, tiny, weights
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_pg import VPG

LONG = 10_000
"""Steps, far more than it takes to the fault."""

SECONDS = 60.0
"""How long a process may take to get where it is to be disturbed."""


class Report(NamedTuple):
    """A line of the table."""

    seen: str
    """What the user sees."""
    outcome: str
    lost: str


# -- what is checked after every fault ---------------------------------------------------------------------------------


def check_saved(path: Path) -> Any:
    """The model in the file, which must load, have finite weights, and train on."""
    model = VPG.load(path, DummyVecEnv([ScriptedEnv] * 3), device="cpu")
    before = weights(model)
    assert all(bool(th.isfinite(tensor).all()) for tensor in before.values())
    n_updates, n_timesteps = model._n_updates, model.num_timesteps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its environment is another one now
        model.learn(1, reset_num_timesteps=False)
    assert model._n_updates == n_updates + 1
    assert model.num_timesteps > n_timesteps
    return VPG.load(path, device="cpu")


def no_remains(folder: Path) -> None:
    """Nothing of an unfinished file is left."""
    assert not list(folder.rglob("*unfinished*")), list(folder.iterdir())


def as_seen(error: BaseException, folder: Path) -> str:
    """The last lines of the traceback, without the path of a temporary folder."""
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    lines += [] if sys.version_info >= (3, 11) else getattr(error, "__notes__", [])
    return "\n".join(lines).replace(f"{folder}{os.sep}", "").removeprefix("sb3_pg.faults.")


def stops(
    folder: Path, model: Any, kind: type[BaseException], *words: str, more: list[BaseCallback] | None = None
) -> Report:
    """Training that saves at every rollout ends with this error, and nothing but the rollout is lost."""
    path, seen = folder / "model.zip", "training went on"
    try:
        model.learn(LONG, CallbackList([SaveAtEveryRollout(path), *(more or [])]))
    except kind as error:
        seen = as_seen(error, folder)
    assert seen != "training went on"
    for word in (*words, *(["last saved: model.zip"] if issubclass(kind, Exception) else [])):
        assert word in seen, seen
    saved = check_saved(path)
    assert saved._n_updates == model._n_updates >= 2
    assert same(weights(saved), weights(model))
    assert same(saved.policy.optimizer.state_dict(), model.policy.optimizer.state_dict())
    no_remains(folder)
    return Report(
        seen,
        "training stops; weights and optimizers are those of the last complete update",
        f"the unfinished rollout ({model.num_timesteps - saved.num_timesteps} steps)",
    )


def vectorised(make: Callable[[], gym.Env[Any, Any]]) -> DummyVecEnv:
    """Three environments, the second of which is the faulty one."""
    return DummyVecEnv([ScriptedEnv, make, ScriptedEnv])


# -- numbers -----------------------------------------------------------------------------------------------------------


def nan_in_an_observation(folder: Path) -> Report:
    env = vectorised(lambda: ScriptedEnv(faults={18: ("observation", np.nan)}))
    return stops(folder, tiny(env, n_steps=8), ValueError, "observation of environment 1 is nan at step 2")


def nan_in_an_observation_with_vecnormalize(folder: Path) -> Report:
    env = VecNormalize(vectorised(lambda: ScriptedEnv(faults={18: ("observation", np.nan)})))
    report = stops(folder, tiny(env, n_steps=8), ValueError, "observation of environment 1 is nan at step 2")
    assert np.isfinite(env.obs_rms.mean).all()
    return report._replace(outcome=f"{report.outcome}; the statistics are those from before the rollout")


def infinite_reward(folder: Path) -> Report:
    env = vectorised(lambda: ScriptedEnv(faults={18: ("reward", np.inf)}))
    return stops(folder, tiny(env, n_steps=8), ValueError, "reward of environment 1 is inf at step 1")


def rewards_of_1e30(folder: Path) -> Report:
    env = vectorised(lambda: ScriptedEnv(faults={18: ("reward", 1e30)}))
    return stops(folder, tiny(env, n_steps=8), ValueError, "update 3", "1e+30, of environment 1 at step 1")


class AtRollout(BaseCallback):
    """Does something to the model at the end or at the beginning of the third rollout."""

    def __init__(self, do: Callable[[Any], None], *, at_its_end: bool = False) -> None:
        super().__init__()
        self.do, self.at_its_end, self.rollouts = do, at_its_end, 0

    def _on_rollout_start(self) -> None:
        self.rollouts += 1
        if self.rollouts == 3 and not self.at_its_end:
            self.do(self.model)

    def _on_rollout_end(self) -> None:
        if self.rollouts == 3 and self.at_its_end:
            self.do(self.model)

    def _on_step(self) -> bool:
        return True


def nan_in_a_gradient(folder: Path) -> Report:
    model, calls = tiny(vectorised(ScriptedEnv), n_steps=8, joint_optimizer=True, batch_size=4), 0

    def spoil(gradient: th.Tensor) -> th.Tensor:
        nonlocal calls
        calls += 1
        return gradient * np.nan if calls == 3 else gradient

    hook = AtRollout(lambda m: m.policy.action_net.weight.register_hook(spoil), at_its_end=True)
    report = stops(folder, model, ValueError, "gradient", "nan", "update 3", more=[hook])
    assert calls == 3
    return report


def an_infinite_step_of_the_optimizer(folder: Path) -> Report:
    model = tiny(vectorised(ScriptedEnv), n_steps=8, n_critic_updates=1, policy_kwargs=dict(optimizer_class=Runaway))
    return stops(folder, model, ValueError, "weight action_net.bias inf at update 3")


def an_exploding_deviation(folder: Path) -> Report:
    def explode(model: Any) -> None:
        with th.no_grad():
            model.policy.log_std.fill_(60.0)

    env = vectorised(lambda: ScriptedEnv(action_space=spaces.Box(-1, 1, (1,))))
    env.action_space = spaces.Box(-1, 1, (1,))
    model, path, seen = tiny(env, n_steps=8), folder / "model.zip", ""
    try:
        model.learn(LONG, [SaveAtEveryRollout(path), AtRollout(explode)])
    except ValueError as error:
        seen = as_seen(error, folder)
    assert "log_std" in seen
    assert seen.endswith("last saved: model.zip")
    saved = VPG.load(path, device="cpu")
    assert saved._n_updates == 2
    no_remains(folder)
    return Report(seen, "training stops before an action is taken", "nothing")


# -- environments ------------------------------------------------------------------------------------------------------


class FaultyEnv(ScriptedEnv):
    """Right until its 18th step.

    :param what: ``"observation"``, ``"reward"``, ``"terminated"`` or ``"info"``: what is wrong in the answer; otherwise
        a function that is called then
    """

    def __init__(self, what: str | Callable[[], Any], value: Any = None, at: int = 18) -> None:
        super().__init__()
        self.what, self.value, self.at = what, value, at

    def step(self, action: Any) -> Any:
        answer = super().step(action)
        if self.all_steps != self.at:
            return answer
        if callable(self.what):
            self.what()
            return answer
        names = ("observation", "reward", "terminated", "truncated", "info")
        return tuple(self.value if name == self.what else part for name, part in zip(names, answer, strict=True))


def fail() -> None:
    raise ZeroDivisionError("division by zero")


class FailsInReset(ScriptedEnv):
    def reset(self, **kwargs: Any) -> Any:
        if self.episode == 3:
            raise OSError("the simulator does not answer")
        return super().reset(**kwargs)


def from_environment_1(folder: Path, make: Callable[[], Any], kind: type[Exception], *words: str) -> Report:
    return stops(folder, tiny(vectorised(make), n_steps=8), kind, *words, "from environment 1 at step")


def an_error_in_step(folder: Path) -> Report:
    return from_environment_1(folder, lambda: FaultyEnv(fail), ZeroDivisionError, "division by zero", "at step 1 of")


def an_error_in_reset(folder: Path) -> Report:
    return from_environment_1(folder, FailsInReset, OSError, "the simulator does not answer")


def an_observation_of_another_shape(folder: Path) -> Report:
    return from_environment_1(folder, lambda: FaultyEnv("observation", np.zeros(3)), ValueError, "(3,)", "(2,)")


def an_observation_of_another_type(folder: Path) -> Report:
    return from_environment_1(folder, lambda: FaultyEnv("observation", "left"), ValueError, "float", "'left'")


class Categories(FaultyEnv):
    observation_space = spaces.Discrete(4)  # type: ignore[assignment]

    def _observation(self) -> Any:
        return self.steps % 4


def a_category_that_there_is_not(folder: Path) -> Report:
    env = DummyVecEnv([lambda at=at: Categories("observation", 7, at) for at in (0, 18, 0)])  # type: ignore[misc]
    model, path, seen = tiny(env, n_steps=8), folder / "model.zip", ""
    try:
        model.learn(LONG, SaveAtEveryRollout(path))
    except Exception as error:
        seen = as_seen(error, folder)
    assert "environment 1 gave an observation that is not in Discrete(4), at step 2 of" in seen, seen
    assert seen.endswith("last saved: model.zip")
    assert same(weights(VPG.load(path, device="cpu")), weights(model))
    return Report(
        seen, "training stops; weights and optimizers are those of the last complete update",
        f"the unfinished rollout ({model.num_timesteps - 48} steps)",
    )  # fmt: skip


def a_reward_that_is_none(folder: Path) -> Report:
    env = vectorised(lambda: FaultyEnv("reward", None))
    return stops(folder, tiny(env, n_steps=8), ValueError, "reward of environment 1 is nan at step 1")


def a_reward_that_is_an_array(folder: Path) -> Report:
    return from_environment_1(folder, lambda: FaultyEnv("reward", np.zeros(2)), ValueError, "sequence")


def a_reward_that_is_text(folder: Path) -> Report:
    return from_environment_1(folder, lambda: FaultyEnv("reward", "much"), ValueError, "much")


def an_end_that_is_an_array(folder: Path) -> Report:
    return from_environment_1(folder, lambda: FaultyEnv("terminated", np.zeros(2, bool)), ValueError, "truth value")


class AlwaysTwo(ScriptedEnv):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, 2 if terminated else 0, truncated, info


def an_end_that_is_a_number(folder: Path) -> Report:
    """SB3 takes the truth of it, and Gymnasium's checker says so for environments that gym.make builds."""
    gym.register("TwoIsTheEnd-v0", AlwaysTwo)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = tiny(DummyVecEnv([lambda: gym.make("TwoIsTheEnd-v0")]), n_steps=8).learn(24)
    del gym.registry["TwoIsTheEnd-v0"]
    seen = next(str(each.message) for each in caught if "terminated" in str(each.message))
    assert model.rollout_buffer.dones.dtype == bool
    model.save(folder / "model.zip")
    check_saved(folder / "model.zip")
    return Report(
        seen.replace("\x1b[33m", "").replace("\x1b[0m", ""),
        "training goes on with the truth of it (SB3). Gymnasium warns at the first step of an environment from "
        "`gym.make`; nobody does for others: SB3's `check_env` finds it",
        "nothing",
    )


def an_info_that_is_none(folder: Path) -> Report:
    return from_environment_1(folder, lambda: FaultyEnv("info", None), TypeError, "NoneType")


def a_worker_that_is_killed(folder: Path) -> Report:
    env = SubprocVecEnv([ScriptedEnv, lambda: FaultyEnv(lambda: os.kill(os.getpid(), signal.SIGKILL)), ScriptedEnv])
    report = stops(
        folder, tiny(env, n_steps=8), RuntimeError,
        "worker process of environment 1 was ended by signal 9 (SIGKILL), at step 1 of the rollout",
    )  # fmt: skip
    env.close()
    assert not any(process.is_alive() for process in env.processes)
    return report._replace(outcome=f"{report.outcome}; the other workers are ended")


def a_worker_that_fails(folder: Path) -> Report:
    env = SubprocVecEnv([ScriptedEnv, lambda: FaultyEnv(lambda: os._exit(3)), ScriptedEnv])
    report = stops(folder, tiny(env, n_steps=8), RuntimeError, "worker process of environment 1 ended with exit code 3")
    return report._replace(outcome=f"{report.outcome}; the other workers are ended")


def a_worker_with_an_observation_of_another_shape(folder: Path) -> Report:
    env = SubprocVecEnv([ScriptedEnv, lambda: FaultyEnv("observation", np.zeros(3)), ScriptedEnv])
    words = ("environment 1 gave an observation that is not in Box", "at step 1 of the rollout")
    report = stops(folder, tiny(env, n_steps=8), ValueError, *words)
    for process in env.processes:
        process.terminate()
    return report


# -- files -------------------------------------------------------------------------------------------------------------


class AtStep(BaseCallback):
    """Does something after the 18th vector step."""

    def __init__(self, do: Callable[[], Any], at: int = 18) -> None:
        super().__init__()
        self.do, self.at = do, at

    def _on_step(self) -> bool:
        if self.n_calls == self.at:
            self.do()
        return True


def _fill_the_disk(folder: Path, connection: Connection) -> None:
    """No file may grow beyond some bytes from the third rollout on: writing fails amid the checkpoint."""
    model = tiny(vectorised(ScriptedEnv), n_steps=8)
    path = folder / "model.zip"

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))

    try:
        model.learn(LONG, [AtStep(fill), SaveAtEveryRollout(path)])
    except Exception as error:
        connection.send((as_seen(error, folder), model.num_timesteps, (folder / "model.zip").stat().st_size))


def a_full_disk(folder: Path) -> Report:
    seen, n_timesteps, size = ended(_fill_the_disk, folder)
    assert size > 4000
    assert "Error" in seen, seen
    assert seen.endswith("last saved: model.zip"), seen
    saved = check_saved(folder / "model.zip")
    assert saved._n_updates == 2
    no_remains(folder)
    lost = n_timesteps - saved.num_timesteps
    return Report(seen, "training stops; the file of the save before is whole", f"one rollout ({lost} steps)")


def a_folder_that_cannot_be_written(folder: Path) -> Report:
    """A file stands where the folder was; that stops root, too."""
    kept, place, seen = folder / "kept", folder / "checkpoints", ""
    model = tiny(vectorised(ScriptedEnv), n_steps=8)

    def replace() -> None:
        place.rename(kept)
        place.write_text("a file")

    try:
        model.learn(LONG, [SaveAtEveryRollout(place / "model.zip"), AtStep(replace)])
    except OSError as error:
        seen = as_seen(error, folder)
    assert seen.endswith("last saved: checkpoints/model.zip"), seen
    saved = check_saved(kept / "model.zip")
    assert saved._n_updates == 2
    no_remains(folder)
    lost = model.num_timesteps - saved.num_timesteps
    return Report(seen, "training stops; what was saved is whole", f"one rollout ({lost} steps)")


def a_log_folder_that_cannot_be_made(folder: Path) -> Report:
    (folder / "logs").write_text("a file")
    model, seen = tiny(vectorised(ScriptedEnv), n_steps=8, tensorboard_log=str(folder / "logs")), ""
    try:
        model.learn(LONG)
    except OSError as error:
        seen = as_seen(error, folder)
    assert "before the first step" in seen, seen
    assert seen.endswith("nothing was saved yet")
    return Report(seen, "training does not begin", "nothing")


# -- signals -----------------------------------------------------------------------------------------------------------


def interrupt() -> None:
    """What Ctrl-C does."""
    signal.raise_signal(signal.SIGINT)


def ctrl_c_in_a_rollout(folder: Path) -> Report:
    model = tiny(vectorised(lambda: FaultyEnv(interrupt)), n_steps=8)
    report = stops(folder, model, KeyboardInterrupt)
    return report._replace(outcome="training stops; `model.save()` after it keeps the last complete update")


def ctrl_c_in_an_update(folder: Path) -> Report:
    model, calls = tiny(vectorised(ScriptedEnv), n_steps=8, joint_optimizer=True, batch_size=4), 0

    def disturb(gradient: th.Tensor) -> th.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            interrupt()
        return gradient

    hook = AtRollout(lambda m: m.policy.action_net.weight.register_hook(disturb), at_its_end=True)
    report = stops(folder, model, KeyboardInterrupt, more=[hook])
    assert calls == 3
    return report._replace(outcome="training stops; the update is undone", lost="one rollout (24 steps)")


def ctrl_c_while_saving(folder: Path) -> Report:
    model, path = tiny(vectorised(ScriptedEnv), n_steps=8), folder / "model.zip"
    seen, members = "", 0
    write = zipfile.ZipFile.writestr

    def disturbed(*args: Any, **kwargs: Any) -> None:
        nonlocal members
        members += 1
        if members == 20:
            interrupt()
        write(*args, **kwargs)

    with mock.patch.object(zipfile.ZipFile, "writestr", disturbed):
        try:
            model.learn(LONG, SaveAtEveryRollout(path))
        except KeyboardInterrupt as error:
            seen = as_seen(error, folder)
    saved = check_saved(path)
    assert 0 < saved._n_updates < model._n_updates
    no_remains(folder)
    lost = model.num_timesteps - saved.num_timesteps
    return Report(seen, "training stops; the file of the save before is whole", f"one rollout ({lost} steps)")


def _train_and_hang(folder: Path, connection: Connection) -> None:
    """The environment never comes back from its 18th step."""

    def hang() -> None:
        connection.send("hangs")
        while True:
            time.sleep(1.0)

    model = tiny(vectorised(lambda: FaultyEnv(hang)), n_steps=8)
    try:
        model.learn(LONG, SaveAtEveryRollout(folder / "model.zip"))
    except KeyboardInterrupt as error:
        connection.send((as_seen(error, folder), model.num_timesteps))


def a_hang_and_ctrl_c(folder: Path) -> Report:
    process, connection = started(_train_and_hang, folder)
    assert receive(connection) == "hangs"
    os.kill(process.pid, signal.SIGINT)
    seen, n_timesteps = receive(connection)
    process.join(SECONDS)
    saved = check_saved(folder / "model.zip")
    no_remains(folder)
    lost = n_timesteps - saved.num_timesteps
    return Report(seen, "training stops; the last save is whole", f"the unfinished rollout ({lost} steps)")


def a_hang_and_sigterm(folder: Path) -> Report:
    process, connection = started(_train_and_hang, folder)
    assert receive(connection) == "hangs"
    process.terminate()
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGTERM
    check_saved(folder / "model.zip")
    no_remains(folder)
    return Report("Terminated (exit status 143)", "the process ends; the last save is whole", "the unfinished rollout")


def _train(folder: Path, connection: Connection) -> None:
    """Trains and saves for as long as it may."""
    model = tiny(vectorised(ScriptedEnv), n_steps=8)
    model.learn(10**9, [SaveAtEveryRollout(folder / "model.zip"), AtStep(lambda: connection.send("trains"))])


def sigterm(folder: Path) -> Report:
    process, connection = started(_train, folder)
    assert receive(connection) == "trains"
    process.terminate()
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGTERM
    check_saved(folder / "model.zip")
    return Report("Terminated (exit status 143)", "the process ends; the last save is whole", "what came after it")


# -- RL Zoo's command --------------------------------------------------------------------------------------------------


def _zoo(folder: Path, connection: Connection) -> None:
    """``python -m rl_zoo3.train`` in a process that has imported it."""
    os.chdir(folder)
    log = os.open("printed.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import rl_zoo3.train

    arguments = "--algo vpg --env CartPole-v1 -f logs -n 1000000000 --save-freq 400 --eval-freq -1 --seed 1"
    sys.argv = ["rl_zoo3.train", *arguments.split(), "-params", "n_steps:25"]
    rl_zoo3.train.train()
    connection.send("came to its end")


def zoo_disturbed(folder: Path, by: signal.Signals) -> tuple[Path, list[Path], int]:
    """Run folder, checkpoints before the signal in order, and exit code of a Zoo run that gets a signal."""
    process, connection = started(_zoo, folder)
    run = folder / "logs" / "vpg" / "CartPole-v1_1"
    until = time.monotonic() + SECONDS
    while len(checkpoints(run)) < 4:
        assert time.monotonic() < until, (folder / "printed.txt").read_text()
        assert process.is_alive(), (folder / "printed.txt").read_text()
        time.sleep(0.01)
    found = checkpoints(run)
    os.kill(process.pid, by)
    process.join(SECONDS)
    assert process.exitcode is not None
    try:
        came_to_its_end = bool(connection.recv())
    except EOFError:
        came_to_its_end = False
    assert came_to_its_end == (by == signal.SIGINT)
    return run, found, process.exitcode


def checkpoints(folder: Path) -> list[Path]:
    """From the first to the last."""
    return sorted(folder.glob("rl_model_*_steps.zip"), key=steps_of)


def ctrl_c_to_the_zoo(folder: Path) -> Report:
    run, found, exit_code = zoo_disturbed(folder, signal.SIGINT)
    assert exit_code == 0
    printed = (folder / "printed.txt").read_text()
    assert "Saving to logs/vpg/CartPole-v1_1" in printed
    final, last = (VPG.load(path, device="cpu") for path in (run / "CartPole-v1.zip", checkpoints(run)[-1]))
    assert final._n_updates >= last._n_updates
    assert (run / "CartPole-v1" / "vecnormalize.pkl").is_file()
    VecNormalize.load(str(run / "CartPole-v1" / "vecnormalize.pkl"), make_vec_env("CartPole-v1"))
    no_remains(folder)
    assert found
    return Report("Saving to logs/vpg/CartPole-v1_1", "the Zoo saves the model and ends with status 0", "nothing")


def sigterm_to_the_zoo(folder: Path) -> Report:
    run, found, exit_code = zoo_disturbed(folder, signal.SIGTERM)
    assert exit_code == -signal.SIGTERM
    assert not (run / "CartPole-v1.zip").exists()
    last = checkpoints(run)[-1]
    assert last in found or len(checkpoints(run)) > len(found)
    model = VPG.load(last, make_vec_env("CartPole-v1", 8), device="cpu")
    assert model.num_timesteps == steps_of(last)
    return Report(
        "Terminated (exit status 143)",
        "the process ends without a final model; the last checkpoint is whole",
        "what came after it (`--save-freq`)",
    )


# -- processes ---------------------------------------------------------------------------------------------------------


def preload() -> None:
    """Let every process that this one starts find the imports done; call it before the first."""
    # Before Python 3.13 the server of the forks does not get this process's path
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    # The last is what the first step of an optimizer imports
    importlib.import_module("rl_zoo3.train")  # it patches Gymnasium's wrappers: they shall be the same everywhere
    multiprocessing.set_forkserver_preload([__name__, "rl_zoo3.train", "torch._dynamo"])


def started(target: Callable[..., None], *arguments: Any) -> tuple[Any, Connection]:
    """Start a process, which gets the arguments and one end of a pipe; the other end is returned."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def receive(connection: Connection) -> Any:
    assert connection.poll(SECONDS), "the process does not get where it is to be disturbed"
    return connection.recv()


def ended(target: Callable[..., None], *arguments: Any) -> Any:
    """What a process sends before its end."""
    process, connection = started(target, *arguments)
    answer = receive(connection)
    process.join(SECONDS)
    return answer


# -- kill -9 -----------------------------------------------------------------------------------------------------------

CHECKPOINT_EVERY = 200
AMID = ("a rollout", "an update", "saving the model", "saving a checkpoint", "an evaluation")


class Amid(BaseCallback):
    """Tells what is going on from here; as the first callback also how far training is.

    :param progress: shared memory: steps taken, and the index in :data:`AMID`
    """

    def __init__(self, progress: Any, what: str, *, is_first: bool = False) -> None:
        super().__init__()
        self.progress, self.what, self.is_first = progress, what, is_first

    def _on_rollout_start(self) -> None:
        self.progress[1] = AMID.index("a rollout")

    def _on_rollout_end(self) -> None:
        self.progress[1] = AMID.index("an update")

    def _on_step(self) -> bool:
        self.progress[1] = AMID.index(self.what)
        if self.is_first:
            self.progress[0] = self.num_timesteps
        return True


class SaveOverAndOver(BaseCallback):
    """Writes one and the same file again, as the best and the final model are written."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def _on_step(self) -> bool:
        if self.num_timesteps % CHECKPOINT_EVERY == 0:
            self.model.save(self.path)
        return True


def normalised_cartpoles() -> VecNormalize:
    return VecNormalize(make_vec_env("CartPole-v1", 4, seed=0))


def evaluation(folder: Path) -> EvalCallback:
    env = make_vec_env("CartPole-v1", env_kwargs={"max_episode_steps": 1})
    every = CHECKPOINT_EVERY // 4
    return EvalCallback(
        VecNormalize(env, training=False), n_eval_episodes=1, eval_freq=every, log_path=str(folder), verbose=0
    )


def train_until_killed(folder: Path, progress: Any, connection: Connection) -> None:
    """Train on from the latest checkpoint, with a checkpoint every 200 steps, until killed.

    :param folder: of the checkpoints
    :param progress: see :class:`Amid`
    :param connection: gets the steps that training begins with
    """
    found, env = checkpoints(folder), normalised_cartpoles()
    if found:
        model = VPG.load(found[-1], env, device="cpu")
    else:
        model = VPG("MlpPolicy", env, n_steps=100, seed=0, device="cpu", n_critic_updates=1)
    connection.send(model.num_timesteps)
    callbacks: list[BaseCallback] = [
        Amid(progress, "saving the model", is_first=True),
        SaveOverAndOver(folder / "model.zip"),
        Amid(progress, "saving a checkpoint"),
        CheckpointCallback(CHECKPOINT_EVERY // 4, str(folder), save_vecnormalize=True),
        Amid(progress, "an evaluation"),
        evaluation(folder),
        Amid(progress, "a rollout"),
    ]
    model.learn(10**9, CallbackList(callbacks), reset_num_timesteps=False)


class Kill(NamedTuple):
    """What was found after a kill."""

    amid: str
    """What was going on."""
    lost: int
    """Steps since the latest checkpoint."""
    statistics: bool
    """Whether SB3's file with the statistics of VecNormalize beside the latest checkpoint could be read."""
    evaluations: bool
    """Whether SB3's evaluations.npz could be read."""
    remains: int
    """Unfinished files."""


def kill_once(folder: Path, delay: float) -> Kill:
    """Let training run for a while after its first new checkpoint, kill it, and check what is left.

    :param folder: of the run; training goes on from the latest checkpoint in it
    :param delay: seconds from the first checkpoint to the kill
    """
    progress = multiprocessing.get_context("forkserver").Array("q", 2, lock=False)
    process, connection = started(train_until_killed, folder, progress)
    first, until = receive(connection), time.monotonic() + SECONDS
    while progress[0] <= first + CHECKPOINT_EVERY:
        assert process.is_alive()
        assert time.monotonic() < until
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGKILL
    steps, amid = progress[0], AMID[progress[1]]

    latest = checkpoints(folder)[-1]
    model = VPG.load(latest, normalised_cartpoles(), device="cpu")
    assert model.num_timesteps == steps_of(latest)
    n_updates = model._n_updates
    model.learn(CHECKPOINT_EVERY, reset_num_timesteps=False)
    assert model._n_updates > n_updates
    assert all(bool(th.isfinite(tensor).all()) for tensor in weights(model).values())
    assert 0 <= steps - VPG.load(folder / "model.zip", device="cpu").num_timesteps <= CHECKPOINT_EVERY

    statistics = latest.with_name(latest.name.replace("model_", "model_vecnormalize_")).with_suffix(".pkl")
    remains = list(folder.glob("*unfinished*"))
    kill = Kill(
        amid,
        steps - steps_of(latest),
        can_be_read(statistics, lambda path: pickle.loads(path.read_bytes())),
        can_be_read(folder / "evaluations.npz", lambda path: np.load(path)["timesteps"]),
        len(remains),
    )
    for path in [*checkpoints(folder)[:-1], *folder.glob("*vecnormalize*"), *remains]:
        path.unlink()
    return kill


def steps_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.split("_")[2])


def can_be_read(path: Path, read: Callable[[Path], Any]) -> bool:
    try:
        read(path)
    except Exception:
        return False
    return True


def _half_of(write: Callable[..., None], path_of: Callable[..., Path]) -> Callable[..., None]:
    """What writes a file, killed when half of it is written."""

    def killed(*arguments: Any, **kwargs: Any) -> None:
        write(*arguments, **kwargs)
        path = path_of(*arguments)
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    return killed


def _killed_while_writing(folder: Path, what: str, connection: Connection) -> None:
    """The moment that random ones hardly meet, since these files are small."""
    env = normalised_cartpoles()
    model = VPG("MlpPolicy", env, n_steps=100, seed=0, device="cpu").learn(CHECKPOINT_EVERY)
    callbacks = [CheckpointCallback(CHECKPOINT_EVERY // 4, str(folder), save_vecnormalize=True), evaluation(folder)]
    model.learn(2 * CHECKPOINT_EVERY, CallbackList(callbacks), reset_num_timesteps=False)
    connection.send("wrote them once")
    if what == "statistics":
        VecNormalize.save = _half_of(VecNormalize.save, lambda _, path: Path(path))  # type: ignore[method-assign]
    else:
        np.savez = _half_of(np.savez, lambda path: Path(f"{path}.npz"))
    model.learn(2 * CHECKPOINT_EVERY, CallbackList(callbacks), reset_num_timesteps=False)


def killed_while_writing_statistics(folder: Path) -> Report:
    """The checkpoint itself holds them, too, and learn() puts them back."""
    process, connection = started(_killed_while_writing, folder, "statistics")
    receive(connection)
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGKILL
    latest = checkpoints(folder)[-1]
    statistics = latest.with_name(latest.name.replace("model_", "model_vecnormalize_")).with_suffix(".pkl")
    assert not can_be_read(statistics, lambda path: pickle.loads(path.read_bytes()))
    env = normalised_cartpoles()
    model = VPG.load(latest, env, device="cpu")
    count = env.obs_rms.count
    model._setup_learn(CHECKPOINT_EVERY, reset_num_timesteps=False)
    assert env.obs_rms.count > count + CHECKPOINT_EVERY
    model.learn(CHECKPOINT_EVERY, reset_num_timesteps=False)
    return Report(
        "Killed (exit status 137)",
        "the half file cannot be read; the checkpoint beside it is whole and holds the statistics, too: "
        "`load` and `learn(reset_num_timesteps=False)` put them back",
        "the file (SB3 writes it in place)",
    )


def killed_while_writing_evaluations(folder: Path) -> Report:
    process, connection = started(_killed_while_writing, folder, "evaluations")
    receive(connection)
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGKILL
    assert not can_be_read(folder / "evaluations.npz", lambda path: np.load(path)["timesteps"])
    check_latest(folder)
    return Report(
        "Killed (exit status 137)",
        "the half file cannot be read; models and checkpoints are whole",
        "the evaluations so far (SB3 writes them all again in place); TensorBoard and `progress.csv` have their means",
    )


def check_latest(folder: Path) -> None:
    model = VPG.load(checkpoints(folder)[-1], normalised_cartpoles(), device="cpu")
    model.learn(CHECKPOINT_EVERY, reset_num_timesteps=False)


SCENARIOS: dict[str, dict[str, Callable[[Path], Report]]] = {
    "Numbers": {
        "NaN in an observation": nan_in_an_observation,
        "NaN in an observation, with `VecNormalize`": nan_in_an_observation_with_vecnormalize,
        "an infinite reward": infinite_reward,
        "a reward of 1e30": rewards_of_1e30,
        "NaN in a gradient, amid an update": nan_in_a_gradient,
        "an optimizer's step makes a weight infinite": an_infinite_step_of_the_optimizer,
        "the deviation of the actions explodes": an_exploding_deviation,
    },
    "Environments": {
        "`step` raises": an_error_in_step,
        "`reset` raises": an_error_in_reset,
        "an observation of another shape": an_observation_of_another_shape,
        "an observation that is text": an_observation_of_another_type,
        "an observation outside of a `Discrete` space": a_category_that_there_is_not,
        "a reward that is `None`": a_reward_that_is_none,
        "a reward that is an array": a_reward_that_is_an_array,
        "a reward that is text": a_reward_that_is_text,
        "`terminated` is an array": an_end_that_is_an_array,
        "`terminated` is a number": an_end_that_is_a_number,
        "`info` is `None`": an_info_that_is_none,
        "a worker of `SubprocVecEnv` is killed": a_worker_that_is_killed,
        "a worker of `SubprocVecEnv` exits": a_worker_that_fails,
        "an observation of another shape in `SubprocVecEnv`": a_worker_with_an_observation_of_another_shape,
        "`step` hangs: Ctrl-C": a_hang_and_ctrl_c,
        "`step` hangs: SIGTERM": a_hang_and_sigterm,
    },
    "Files": {
        "the disk is full": a_full_disk,
        "the checkpoints' folder cannot be written any more": a_folder_that_cannot_be_written,
        "the log's folder cannot be made": a_log_folder_that_cannot_be_made,
    },
    "Signals": {
        "Ctrl-C in a rollout": ctrl_c_in_a_rollout,
        "Ctrl-C in an update": ctrl_c_in_an_update,
        "Ctrl-C while a model is saved": ctrl_c_while_saving,
        "SIGTERM": sigterm,
        "Ctrl-C to `rl_zoo3.train`": ctrl_c_to_the_zoo,
        "SIGTERM to `rl_zoo3.train`": sigterm_to_the_zoo,
        "kill -9 while SB3 writes the statistics of `VecNormalize`": killed_while_writing_statistics,
        "kill -9 while SB3 writes `evaluations.npz`": killed_while_writing_evaluations,
    },
}
"""All faults but kill -9, by their kind and by their names in the table."""
