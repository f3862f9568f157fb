"""One training: what a worker does."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import pickle
import time
import warnings
import zlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_pg.files import write_whole
from sb3_pg.saving import SavingMixin
from sb3_pg.study.results import N_SHARES, RunResult, RunSettings, plain
from sb3_pg.tune.blocks import BlockManager, prepare, silence
from sb3_pg.tune.evaluation import EndlessEpisodeError, returns_of
from sb3_pg.tune.experiment import Experiment
from sb3_pg.tune.packages import version_of
from sb3_pg.tune.training import learn

_VERSIONS = ("sb3_pg", "stable-baselines3", "sb3-contrib", "torch", "gymnasium", "mujoco", "numpy")


@dataclass(frozen=True)
class RunTask:
    """
    One training.

    :param curve: name of the curve that it belongs to
    :param settings: what is trained
    :param seed: its seed
    :param eval_episodes: episodes of the evaluation of the final policy
    :param log_keys: what is kept of the algorithm's log
    :param gym_packages: modules to import for their environments
    :param folder: where checkpoints and the final model go; empty for neither
    :param checkpoint_every: steps between checkpoints; None for none
    :param keep_model: whether the final model is kept
    """

    curve: str
    settings: RunSettings
    seed: int
    eval_episodes: int = 20
    log_keys: tuple[str, ...] = ()
    gym_packages: tuple[str, ...] = ()
    folder: str = ""
    checkpoint_every: int | None = None
    keep_model: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Environment and curve: where its result belongs."""
        return self.settings.env, self.curve


class LearningCurve(BaseCallback):
    """
    Notes every training episode, the time, and what is logged, by shares of the steps.

    :param n_timesteps: steps of the training
    :param log_keys: what is kept of the algorithm's log
    """

    def __init__(self, n_timesteps: int, log_keys: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._n_timesteps = n_timesteps
        self._log_keys = log_keys
        self._episodes: list[list[tuple[float, float, float]]] = [[] for _ in range(N_SHARES)]
        self._logged: dict[str, list[list[float]]] = {key: [[] for _ in range(N_SHARES)] for key in log_keys}
        self._elapsed = 0.0
        self.seconds: list[float] = []

    @property
    def state(self) -> dict[str, Any]:
        """What it has noted so far, for a checkpoint."""
        elapsed = time.perf_counter() - self._begin
        return {"_episodes": self._episodes, "_logged": self._logged, "_elapsed": elapsed, "seconds": self.seconds}

    def go_on(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint was written; other keys may be recorded since."""
        vars(self).update(deepcopy(state))
        self._logged = {key: self._logged.get(key) or [[] for _ in range(N_SHARES)] for key in self._log_keys}

    def _share(self) -> int:
        """Number of the share that the present step ends; steps beyond the last one count to the last share."""
        return max(min(-(-self.num_timesteps * N_SHARES // self._n_timesteps), N_SHARES) - 1, 0)

    def _on_training_start(self) -> None:
        self._begin = time.perf_counter() - self._elapsed

    def _on_step(self) -> bool:
        for info in self.locals.get("infos", ()):
            if "episode" in info:
                episode = info["episode"]
                success = info.get("is_success")  # None for "it cannot be said", as to SB3
                success = np.nan if success is None else float(success)
                self._episodes[self._share()].append((float(episode["r"]), float(episode["l"]), success))
        return True

    def _on_rollout_start(self) -> None:
        # The update of the rollout before has just been made, and logged
        if self.num_timesteps:
            self._note()

    def _on_training_end(self) -> None:
        self._note()
        self.seconds += [self.seconds[-1]] * (N_SHARES - len(self.seconds))

    def _note(self) -> None:
        share, now = self._share(), time.perf_counter() - self._begin
        self.seconds += [now] * (share + 1 - len(self.seconds))
        self.seconds[share] = now  # that of its last rollout
        for key in self._log_keys:
            if key in self.logger.name_to_value:
                self._logged[key][share].append(float(self.logger.name_to_value[key]))
        if self._log_keys:  # as dump() would: means are of one rollout, and what is logged now and then is noted once
            for numbers in (self.logger.name_to_value, self.logger.name_to_count, self.logger.name_to_excluded):
                numbers.clear()

    def result(self, task: RunTask, evaluation: list[float], failure: str) -> RunResult:
        """What is kept of the training."""
        columns = [list(map(list, zip(*share, strict=True))) or [[], [], []] for share in self._episodes]
        returns, lengths = ([_mean(share[number]) for share in columns] for number in range(2))
        # NaN where an episode does not say
        successes = [_mean([value for value in share[2] if not np.isnan(value)]) for share in columns]
        return RunResult(
            seed=task.seed,
            settings=task.settings,
            returns=returns,
            lengths=lengths,
            n_episodes=[len(share) for share in self._episodes],
            seconds=[round(seconds, 2) for seconds in self.seconds],
            logged={key: [_mean(values) for values in shares] for key, shares in self._logged.items()},
            successes=successes if any(success is not None for success in successes) else [],
            evaluation=[round(value, 3) for value in evaluation],
            failure=failure,
            versions={name: version_of(name) for name in _VERSIONS},
        )


class Checkpoints(BaseCallback):
    """
    Writes one file between two updates, from which training goes on; the file before it is replaced.

    :param task: what is trained
    :param curve: what has been noted of it
    """

    def __init__(self, task: RunTask, curve: LearningCurve) -> None:
        super().__init__()
        self._task, self._curve = task, curve
        self._every = task.checkpoint_every or 0

    def _on_training_start(self) -> None:
        self._next = (self.num_timesteps // self._every + 1) * self._every

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self._next:
            self._on_training_start()
            state = {"settings": plain(self._task.settings), "seed": self._task.seed, "curve": self._curve.state}
            _write(self._task, checkpoint_path(self._task), {**state, **packed_model(self.model)})

    def _on_step(self) -> bool:
        return True


class NotKeptWarning(Warning):
    """A checkpoint or a model could not be written."""


def checkpoint_path(task: RunTask) -> Path:
    """Where a training's checkpoint is: another for other settings, so that none takes the place of another's."""
    return Path(task.folder, f"checkpoint_{_mark(task.settings)}.pkl")


def model_path(folder: str | Path, settings: RunSettings) -> Path:
    """Where the final model of a training is kept: another for other settings, as with checkpoints.

    :param folder: of the training
    :param settings: what was trained
    """
    return Path(folder, f"model_{_mark(settings)}.pkl")


def _mark(settings: RunSettings) -> str:
    return f"{zlib.crc32(json.dumps(plain(settings), sort_keys=True).encode()):08x}"


def _write(task: RunTask, path: Path, content: dict[str, Any]) -> None:
    """Write a file into a training's folder; the training is worth more than the file, and goes on without."""
    try:
        write_whole(path, pickle.dumps(content))
    except OSError as error:
        message = f"{path} of curve {task.curve!r}, seed {task.seed}, is not kept: {error.strerror or error}"
        warnings.warn(message, NotKeptWarning, stacklevel=2)


def packed_model(model: BaseAlgorithm) -> dict[str, Any]:
    """A model and the statistics of its VecNormalize, as bytes and arrays."""
    file = io.BytesIO()
    model.save(file)
    normalize = model.get_vec_normalize_env()
    names = ("obs_rms", "ret_rms", "returns")
    statistics = {name: getattr(normalize, name, None) for name in names} if normalize is not None else {}
    return {"algo": type(model).__name__, "model": file.getvalue(), "normalize": statistics}


def unpacked_model(algo: str, packed: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
    """
    Turn what :func:`packed_model` gave into a model again.

    :param algo: RL Zoo's key of the algorithm
    :param packed: the model; a pickle is in it, and so it is read from our own files only
    :param env: its environment, whose VecNormalize gets the statistics
    """
    put_statistics(packed, env)
    return ALGOS[algo].load(io.BytesIO(packed["model"]), env=env, device="cpu")


def put_statistics(packed: dict[str, Any], env: VecEnv) -> None:
    """Give the statistics of a packed model to the VecNormalize of an environment, if it has one."""
    normalize = unwrap_vec_normalize(env)
    for name, value in packed["normalize"].items() if normalize is not None else ():
        if value is not None and np.shape(value) == np.shape(getattr(normalize, name, value)):
            setattr(normalize, name, deepcopy(value))


def _checkpoint_of(task: RunTask) -> dict[str, Any] | None:
    """The checkpoint of this very training, if there is one."""
    path = checkpoint_path(task)
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = pickle.loads(path.read_bytes())
        is_ours = found["seed"] == task.seed and found["settings"] == plain(task.settings)
    except Exception as error:  # a pickle that is cut, or of other versions of libraries, fails in any way
        message = f"{path} of curve {task.curve!r} cannot be read ({error!r}); seed {task.seed} begins anew"
        warnings.warn(message, NotKeptWarning, stacklevel=2)
        return None
    return found if is_ours else None


def _mean(values: list[float]) -> float | None:
    mean = float(np.mean(values)) if values else float("nan")
    return float(f"{mean:.6g}") if np.isfinite(mean) else None


def quiet_mujoco() -> None:
    """Keep MuJoCo from saying, for every environment, that the model files of Gymnasium are from an older MuJoCo."""
    with contextlib.suppress(ImportError, AttributeError):
        importlib.import_module("mujoco").set_mju_user_warning(lambda _: None)


def train(task: RunTask) -> RunResult:
    """
    Train one seed as RL Zoo would, and evaluate the final policy.

    A training that diverges is a result, and says so; any other exception is raised. A long one goes on from its last
    checkpoint: bit for bit with this library's algorithms, with weights, optimizer and statistics with those of SB3.

    :param task: what to train
    :return: its learning curve
    """
    settings = task.settings
    experiment = Experiment(
        settings.algo,
        settings.env,
        settings.n_timesteps,
        eval_episodes=task.eval_episodes,
        n_eval_envs=1,
        env_kwargs=settings.env_kwargs,
        gym_packages=task.gym_packages,
    )
    prepare(task.gym_packages)
    quiet_mujoco()
    set_random_seed(task.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        with silence():
            make_model, env, eval_env, callbacks = BlockManager(experiment, settings.block, seed=task.seed).build()
        curve, evaluation = LearningCurve(settings.n_timesteps, task.log_keys), []
        try:
            model = _begin(task, make_model, env, curve)
            failure = _learn(task, model, callbacks, curve)
            if not failure and task.eval_episodes:
                with contextlib.suppress(EndlessEpisodeError):  # the training is worth keeping without
                    evaluation = returns_of(model, eval_env, experiment)
        finally:
            env.close()
            eval_env.close()
    if task.folder and task.keep_model and not failure:
        packed = {"settings": plain(settings), **packed_model(model)}
        _write(task, model_path(task.folder, settings), packed)
    return curve.result(task, evaluation, failure)


def _begin(task: RunTask, make_model: Callable[[], BaseAlgorithm], env: VecEnv, curve: LearningCurve) -> BaseAlgorithm:
    """A new model, or that of the checkpoint."""
    checkpoint = _checkpoint_of(task) if task.folder else None
    if checkpoint is None:
        return make_model()
    try:
        model = unpacked_model(task.settings.algo, checkpoint, env)
    except Exception as error:
        path = checkpoint_path(task)
        raise RuntimeError(
            f"{path} cannot be gone on from ({error!r}): remove it, and the training begins anew"
        ) from error
    if not isinstance(model, SavingMixin):
        # It has forgotten where its random numbers were, and must not draw the first ones again
        model.set_random_seed((task.seed + model.num_timesteps) % 2**31)
    curve.go_on(checkpoint["curve"])
    return model


def _learn(task: RunTask, model: Any, callbacks: list[BaseCallback], curve: LearningCurve) -> str:
    """Train to the end, and say how it failed; empty if it did not."""
    callbacks = [*callbacks, curve]
    if task.folder and task.checkpoint_every:
        callbacks.append(Checkpoints(task, curve))
    to_go = task.settings.n_timesteps - model.num_timesteps
    begins = model.num_timesteps == 0
    failure = learn(model, to_go, callback=callbacks, log_interval=10**9, reset_num_timesteps=begins)
    if len(curve.seconds) < N_SHARES:
        curve.on_training_end()
    return failure
