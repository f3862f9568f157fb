"""Short films of trained agents, without a screen: MuJoCo's bodies are drawn as a shadow from the side."""

from __future__ import annotations

import io
import os
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg.study.plan import Study
from sb3_pg.study.results import plain
from sb3_pg.study.runner import folder_of
from sb3_pg.study.training import model_path, put_statistics
from sb3_pg.tune.blocks import BlockManager, silence
from sb3_pg.tune.experiment import Experiment

MAX_BYTES = 300_000
MAX_SECONDS = 8.0
"""What is shown of an episode that goes on for longer than ``WHOLE_SECONDS``; a landing is shown to its end."""
WHOLE_SECONDS = 20.0
FRAMES_PER_SECOND = 12.5
WIDTH = 300
VIEW_METRES = 2.2
"""Height of the picture: the bodies of Gymnasium's tasks are between one and one and a half metres tall."""

SHADOW_SIZE = (600, 360)
"""Width and height of the picture, in pixels."""
N_WALKS = 100

Frame = NDArray[np.uint8]

_SKY, _GROUND, _BODY, _EDGE = (250, 250, 250), (205, 208, 213), (38, 84, 164), (20, 42, 84)
_CAPSULE, _CYLINDER, _BOX = 3, 5, 6
"""MuJoCo's numbers of the shapes that are not drawn as balls."""


def film(study: Study, logs: Path) -> tuple[bytes, str]:
    """
    Play one episode with the model that the first seed of the study's picture left.

    :param study: the plan
    :param logs: folder of models
    :return: a GIF file of 300 kB at most, and why there is none; one of them is empty
    """
    if study.picture is None:
        return b"", "the study asks for none"
    env_id, name = study.picture
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with kept_agent(study, env_id, name, logs, render=True) as (model, env):
                return as_gif(*play(model, env)), ""
        except NoModelError as error:
            return b"", str(error)
        except Exception as error:  # a film is not worth a report
            return b"", f"it could not be drawn: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


class NoModelError(Exception):
    """Says why there is no model to play with."""


class OtherSettingsError(NoModelError):
    """There is a model, of other settings."""


def kept_model(study: Study, env_id: str, name: str, logs: Path) -> dict[str, Any]:
    """
    Read the model that a curve's first seed left.

    :param study: the plan
    :param env_id: id of the environment
    :param name: of the curve
    :param logs: folder of models
    :raises NoModelError: when there is none, or one of other settings
    """
    curve = study.curve(name)
    settings_now = study.settings(curve, env_id)
    folder = folder_of(logs, study, env_id, name, curve.seeds[0])
    path = model_path(folder, settings_now)
    if not path.exists():  # a version before this one had one name for all settings; of others it is said that they are
        path = next(iter(sorted(folder.glob("model*.pkl"))), path)
    try:
        packed: dict[str, Any] = pickle.loads(path.read_bytes())
        settings = packed["settings"]
    except OSError as error:
        why = f"the model of {name} is not in {logs}: training its first seed again puts it there"
        raise NoModelError(why) from error
    except Exception as error:  # whatever a pickle that was cut raises, or one of other versions
        raise NoModelError(f"{path} cannot be read as a model: {type(error).__name__}: {error}") from error
    if settings != plain(settings_now):
        raise OtherSettingsError(f"the model of {name} that is kept here was trained with other settings")
    return packed


@contextmanager
def kept_agent(
    study: Study, env_id: str, name: str, logs: Path, render: bool = False
) -> Iterator[tuple[BaseAlgorithm, VecEnv]]:
    """
    Load the model that a curve's first seed left, with an environment to play in; closed at the end.

    :param study: the plan
    :param env_id: id of the environment
    :param name: of the curve
    :param logs: folder of models
    :param render: whether the environment is to give pictures
    :raises NoModelError: when there is none, or one of other settings
    """
    packed, settings = kept_model(study, env_id, name, logs), study.settings(study.curve(name), env_id)
    kwargs = {**settings.env_kwargs, **({"render_mode": "rgb_array"} if render else {})}
    experiment = Experiment(settings.algo, env_id, 1, n_eval_envs=1, env_kwargs=kwargs, eval_env_kwargs=kwargs)
    with silence():
        _, env, eval_env, _ = BlockManager(experiment, {**settings.block, "n_envs": 1}, seed=1).build()
    env.close()
    try:
        put_statistics(packed, eval_env)
        yield ALGOS[settings.algo].load(io.BytesIO(packed["model"]), device="cpu"), eval_env
    finally:
        eval_env.close()


def play(model: BaseAlgorithm, env: VecEnv) -> tuple[list[Frame], float]:
    """
    Play one episode, to its end where that comes soon enough.

    :param model: who plays
    :param env: one environment that can be drawn
    :return: frames, and the seconds between two of them
    """
    fps = int(env.get_attr("metadata")[0].get("render_fps") or 30)  # a VecEnvWrapper has metadata of its own
    every = max(round(fps / FRAMES_PER_SECOND), 1)
    observation: Any = env.reset()
    frames = []
    for step in range(int(WHOLE_SECONDS * fps)):
        if step % every == 0:
            frames.append(_picture(env))
        action, _ = model.predict(observation, deterministic=True)
        observation, _, done, _ = env.step(action)
        if done[0]:
            return frames, every / fps
    return frames[: int(MAX_SECONDS * fps / every)], every / fps


def walks(model: BaseAlgorithm, env: VecEnv) -> list[list[float]]:
    """
    Walk LineWorld :data:`N_WALKS` times, with actions drawn at random as while training.

    :param model: the agent
    :param env: one environment
    :return: for each episode, cells from the target at each step
    """
    scale = (env.get_attr("unwrapped")[0].grid_size - 1) / 2
    found: list[list[float]] = []
    set_random_seed(1)
    observation: Any = env.reset()
    for _ in range(N_WALKS):
        walk: list[float] = []
        done: Any = [False]
        while not done[0]:
            walk.append(scale * float(observation[0][0] - observation[0][1]))
            action, _ = model.predict(observation, deterministic=False)
            observation, _, done, infos = env.step(action)
        last = infos[0]["terminal_observation"]
        found.append([*walk, scale * float(last[0] - last[1])])
    return found


def _picture(env: VecEnv) -> Frame:
    simulated = env.get_attr("unwrapped")[0]
    if hasattr(simulated, "model") and hasattr(simulated, "data"):
        return shadow(simulated.model, simulated.data)
    rendered = env.render()
    assert rendered is not None
    return np.asarray(rendered, dtype=np.uint8)


def shadow(model: Any, data: Any) -> Frame:
    """
    Draw MuJoCo's bodies as seen from the side, following the first one; what swims is seen from above.

    It needs no OpenGL, which machines without a screen seldom have.

    :param model: MuJoCo's model
    :param data: and its state
    """
    size = SHADOW_SIZE
    from_above = model.opt.viscosity > 0
    up = 1 if from_above else 2
    scale = size[1] / VIEW_METRES
    middle = float(data.xpos[1][0]) if model.nbody > 1 else 0.0
    ground = size[1] / 2 if from_above else 0.86 * size[1]

    def pixel(point: Any) -> tuple[float, float]:
        return size[0] / 2 + scale * (float(point[0]) - middle), ground - scale * float(point[up])

    image = Image.new("RGB", size, _SKY)
    pen = ImageDraw.Draw(image)
    if not from_above:
        pen.rectangle((0, ground, *size), fill=_GROUND)
    first = int(np.floor(middle - size[0] / scale))
    for mark in range(first, first + 2 * int(size[0] / scale) + 2):  # one a metre, so that it is seen to move
        x = pixel((mark, 0, 0))[0]
        pen.line((x, ground, x, ground + 8), fill=_EDGE)
    depth = np.asarray(data.geom_xpos)[:, 3 - up]
    for number in np.argsort(-depth):
        _draw_geom(pen, model, data, int(number), pixel, scale)
    return np.asarray(image, dtype=np.uint8)


def _draw_geom(pen: ImageDraw.ImageDraw, model: Any, data: Any, number: int, pixel: Any, scale: float) -> None:
    kind, size = int(model.geom_type[number]), np.asarray(model.geom_size[number])
    if model.geom_bodyid[number] == 0 and kind != _CAPSULE:
        return  # the floor, and what stands on it
    center, radius = np.asarray(data.geom_xpos[number]), max(float(size[0]), 0.01)
    half = {_CAPSULE: size[1], _CYLINDER: size[1], _BOX: size.max()}.get(kind, 0.0)
    axis = np.asarray(data.geom_xmat[number]).reshape(3, 3)[:, int(size.argmax()) if kind == _BOX else 2] * half
    if kind == _BOX:
        radius = float(np.sort(size)[1])
    ends = pixel(center - axis), pixel(center + axis)
    for color, width in ((_EDGE, scale * radius + 1.5), (_BODY, scale * radius)):
        pen.line((*ends[0], *ends[1]), fill=color, width=max(round(2 * width), 1))
        for x, y in ends:
            pen.ellipse((x - width, y - width, x + width, y + width), fill=color)


def as_gif(frames: list[Frame], seconds: float, max_bytes: int = MAX_BYTES) -> bytes:
    """
    Write frames as a GIF that goes round, with less of everything until it is small enough.

    :param frames: at least one, shape ``(height, width, 3)``
    :param seconds: between two frames
    :param max_bytes: size of the file
    """
    gif = b""
    for width, n_colors, every in ((WIDTH, 64, 1), (WIDTH, 32, 2), (240, 16, 2), (180, 16, 4), (120, 8, 8)):
        images = []
        for frame in frames[::every]:
            image = Image.fromarray(frame)
            height = round(image.height * width / image.width)
            images.append(image.resize((width, height), Image.Resampling.LANCZOS).quantize(n_colors))
        stream = io.BytesIO()
        images[0].save(
            stream, "gif", save_all=True, append_images=images[1:], duration=round(1000 * seconds * every), loop=0,
            optimize=True,
        )  # fmt: skip
        gif = stream.getvalue()
        if len(gif) <= max_bytes:
            break
    return gif
