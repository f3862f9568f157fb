"""The environments of the project, registered with Gymnasium when this package is imported.

====================== ========================================================== ================================
id                     task                                                       end of an episode
====================== ========================================================== ================================
``LineWorld-v0``       reach a random cell on a line of 10 cells                  terminated after 10 steps
``GridWorld-v0``       the same on a 10 x 10 grid                                 terminated after 20 steps
``CartPoleSwingUp-v0`` swing a hanging pole up, by pushing the cart it hangs from cart off the track, or 500 steps
``FiniteMDP-v0``       a problem of sb3_pg.exact, by its name                     terminal state, or time limit
====================== ========================================================== ================================

The farthest two cells are 9 steps apart on the line and 18 on the grid, so every target can be reached in time. Both
world ids are :class:`~sb3_pg.envs.line_world.LineWorld`; it has no ``max_episode_steps``, because its fixed length is
part of the task (see there). Entry points are strings, so that the worker processes of a vectorized environment can
make the environments from their ids' specifications alone. This package imports only Gymnasium, NumPy and sb3_pg.exact.
"""

from typing import Any

import gymnasium as gym

from sb3_pg.envs.cartpole_swingup import CartPoleSwingUp
from sb3_pg.envs.finite_mdp import FiniteMDPEnv, FiniteMDPVectorEnv
from sb3_pg.envs.line_world import LineWorld

__all__ = ["CartPoleSwingUp", "FiniteMDPEnv", "FiniteMDPVectorEnv", "LineWorld"]

_SPECIFICATIONS: dict[str, dict[str, Any]] = {
    "LineWorld-v0": {
        "entry_point": "sb3_pg.envs.line_world:LineWorld",
        "kwargs": {"grid_size": 10, "dimensions": 1, "episode_length": 10},
    },
    "GridWorld-v0": {
        "entry_point": "sb3_pg.envs.line_world:LineWorld",
        "kwargs": {"grid_size": 10, "dimensions": 2, "episode_length": 20},
    },
    "CartPoleSwingUp-v0": {
        "entry_point": "sb3_pg.envs.cartpole_swingup:CartPoleSwingUp",
        "max_episode_steps": 500,
    },
    "FiniteMDP-v0": {
        "entry_point": "sb3_pg.envs.finite_mdp:FiniteMDPEnv",
        "vector_entry_point": "sb3_pg.envs.finite_mdp:FiniteMDPVectorEnv",
    },
}

for _env_id, _specification in _SPECIFICATIONS.items():
    # A second import (a reload, a worker that inherits the registry) must not warn that an id is overridden.
    if _env_id not in gym.registry:
        gym.register(id=_env_id, **_specification)
