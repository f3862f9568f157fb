"""The command that trains a curve without this package's studies."""

from __future__ import annotations

import shlex
from inspect import Parameter
from typing import Any

from rl_zoo3.utils import ALGOS

from sb3_pg.study.plan import Curve, Study, block_of_the_zoo
from sb3_pg.tune.blocks import as_words, environment_flags, parameters_of
from sb3_pg.tune.experiment import Block

_OF_THE_ZOO: dict[str, Any] = {"n_envs": 1, "normalize": False}
"""What a block without these means; of other keys of RL Zoo's it is None."""


def command(study: Study, curve: Curve, env: str) -> str:
    """
    Write the ``rl_zoo3.train`` command of a curve's first seed.

    :param study: the plan
    :param curve: one of its curves
    :param env: one of its environments
    """
    settings = study.settings(curve, env)
    words = ["python", "-m", "rl_zoo3.train", "--algo", curve.algo, "--env", env]
    words += ["-n", str(settings.n_timesteps), "--seed", str(curve.seeds[0])]
    words += environment_flags(study.gym_packages, settings.env_kwargs)
    own = {key: settings.block[key] for key in curve.hyperparams if key in settings.block}  # whatever the block has
    changed = {**own, **difference(curve.algo, env, settings.block)}
    if changed:
        words += ["-params", *as_words(changed)]
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """For a shell, with double quotes around single ones where that is enough: people are to read it."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`!\\') else shlex.quote(word)


def difference(algo: str, env: str, block: Block) -> Block:
    """
    What has to be put over the block that RL Zoo takes by itself to get this one.

    :param algo: RL Zoo's key of the algorithm
    :param env: id of the environment
    :param block: hyperparameters
    """
    theirs, _ = block_of_the_zoo(algo, env)
    changed = {key: value for key, value in block.items() if key not in theirs or theirs[key] != value}
    parameters = parameters_of(ALGOS[algo])
    for key in theirs:
        if key not in block:
            default = parameters[key].default if key in parameters else _OF_THE_ZOO.get(key)
            changed[key] = None if default is Parameter.empty else default
    changed.pop("n_timesteps", None)  # which -n says
    return changed
