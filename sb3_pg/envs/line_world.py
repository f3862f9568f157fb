"""LineWorld: walk from a random cell to a random target cell, on a line or a grid of cells."""

import operator
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Observation = npt.NDArray[np.float32]

# The cell-by-action table is built at construction: 10,000 cells (a 100 x 100 grid) take a few milliseconds.
MAX_CELLS = 10_000

_BACKGROUND = (250, 250, 250)
_EMPTY = (226, 229, 234)
_TARGET = (111, 191, 115)
_AGENT = (38, 84, 164)
_CLOCK_USED = (90, 96, 105)


def unit_moves(dimensions: int) -> IntArray:
    """Displacement of each action, shape (2 * dimensions + 1, dimensions).

    The middle action stays; the actions above it go one cell up along axis 0, 1, ..., those below it one cell down:
    (-1, 0, +1) on the line, (-y, -x, stay, +x, +y) on the grid.

    :param dimensions: number of axes
    :return: one row an action, entries -1, 0 or 1
    """
    moves = np.zeros((2 * dimensions + 1, dimensions), dtype=np.int64)
    for axis in range(dimensions):
        moves[dimensions + 1 + axis, axis] = 1
        moves[dimensions - 1 - axis, axis] = -1
    return moves


def transition(positions: IntArray, actions: IntArray, grid_size: int) -> IntArray:
    """The dynamics: next = clip(position + move(action), 0, grid_size - 1), deterministic, walls at both ends.

    Pure and vectorized; leading shapes are broadcast against each other.

    :param positions: coordinates in cells, shape (..., dimensions), each in [0, grid_size)
    :param actions: action numbers, shape (...), each in [0, 2 * dimensions]; see :func:`unit_moves`
    :param grid_size: cells along each axis
    :return: the coordinates one step later, shape (..., dimensions)
    """
    next_positions: IntArray = np.clip(positions + unit_moves(positions.shape[-1])[actions], 0, grid_size - 1)
    return next_positions


def distance_reward(positions: IntArray, targets: IntArray, grid_size: int) -> FloatArray:
    """The reward for being at a position: r = -||position - target||_2 / grid_size, 0 at the target.

    :param positions: coordinates after the step, in cells, shape (..., dimensions)
    :param targets: coordinates of the targets, in cells, shape (..., dimensions)
    :param grid_size: cells along each axis
    :return: rewards, shape (...)
    """
    offsets = np.subtract(positions, targets, dtype=np.float64)
    rewards: FloatArray = 0.0 - np.sqrt(np.square(offsets).sum(axis=-1)) / grid_size  # not -0.0 at the target
    return rewards


def cell_positions(grid_size: int, dimensions: int) -> IntArray:
    """Coordinates of every cell, in the order of the cells' numbers (C order, the last axis fastest).

    :param grid_size: cells along each axis
    :param dimensions: number of axes
    :return: shape (grid_size ** dimensions, dimensions)
    """
    return np.indices((grid_size,) * dimensions).reshape(dimensions, -1).T.astype(np.int64)


class LineWorld(gym.Env[Observation, np.int64]):
    """Reach a random target cell from a random start cell, and stay there, in a fixed number of steps.

    The task is ``GridWorldPointTargetEnv`` of the University of Illinois course CS440/ECE448 (Spring 2024), machine
    problem 11, "Policy Gradient Methods": a line of 10 cells and 10 steps, moves -1, 0, +1, no obstacles.
    ``dimensions=2`` is its grid, where a move goes one cell along one axis (or stays).

    **Start.** Start and target are drawn independently and uniformly over the cells (they coincide in 10 % of the
    episodes on the line). ``reset(options={"position": [2], "target": [7]})`` sets one or both.

    **Action.** ``Discrete(2 * dimensions + 1)``, see :func:`unit_moves`. A move into a wall stays. (The course stops
    one cell later at the upper wall, where no target ever is; here a line has exactly ``grid_size`` cells.)

    **Observation.** Position, then target, ``2 * dimensions`` float32 in [-1, 1]: the first cell is -1, the last is 1.
    Scaled, because a small network with the usual initialization learns from inputs of order one, as in the course, and
    so that no VecNormalize is needed.

    **Reward.** At every step the negative distance to the target after the move, in units of the grid size
    (:func:`distance_reward`). Known: the course prints, as means over 100 episodes, 0.0 at 100 % success, -0.035 at
    51 % and -0.318 at 12 %. As means of the last reward these are 0, 35 and 318 cells over 100 episodes of a grid of
    10, and two random cells are 3.3 apart: the reward is minus distance over grid size. (35 is less than the 49
    failures, because the course looks for success before the last move; here it is after it.) The figures cannot show
    that it is paid at every step; the course's class does that. On the grid the distance is Euclidean, as there.

    **End.** After ``episode_length`` steps ``terminated`` is True, ``truncated`` never: the task itself is that long,
    so nothing is earned after its last step and the value there is 0, as in the course. ``truncated`` would say that
    the walk went on and that the value of the last state is to be bootstrapped. The observation holds no clock, as in
    the course, so a value network sees the mean over the steps left. The best action does not depend on the clock:
    going to the target by the shortest way and staying there is best for any number of steps left.

    **Info.** ``info["is_success"]`` after every step: whether the position is the target now. SB3 logs its value at the
    end of the episode as the success rate.

    :param render_mode: None or "rgb_array"
    :param grid_size: cells along each axis, at least 2
    :param dimensions: 1 (line) or 2 (grid); ``grid_size ** dimensions`` at most ``MAX_CELLS``
    :param episode_length: steps an episode, at least 1; ``dimensions * (grid_size - 1)`` is enough to reach any target
    :raises ValueError: for an argument outside these ranges
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (Gymnasium's declaration)

    def __init__(
        self, render_mode: str | None = None, grid_size: int = 10, dimensions: int = 1, episode_length: int = 10
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode={render_mode!r}: accepted are None and {self.metadata['render_modes']}")
        self.render_mode = render_mode
        self.grid_size = _checked_integer("grid_size", grid_size, 2)
        self.dimensions = _checked_integer("dimensions", dimensions, 1, 2)
        self.episode_length = _checked_integer("episode_length", episode_length, 1)
        if self.grid_size**self.dimensions > MAX_CELLS:
            raise ValueError(
                f"grid_size={grid_size} with dimensions={dimensions} makes {self.grid_size**self.dimensions} cells: "
                f"at most {MAX_CELLS} are accepted"
            )
        self.observation_space = spaces.Box(-1.0, 1.0, (2 * self.dimensions,), np.float32)
        self.action_space = spaces.Discrete(2 * self.dimensions + 1)
        self._build_tables()
        self._cell = self._target_cell = 0
        self._steps = self.episode_length  # nothing to step before the first reset
        self._rewards: list[float] = []
        self._observation = np.zeros(2 * self.dimensions, dtype=np.float32)

    def _build_tables(self) -> None:
        """Evaluate the dynamics for every cell and action once: a step is then a look-up, faster than small arrays."""
        self._positions = cell_positions(self.grid_size, self.dimensions)
        self._scaled = (self._positions * (2.0 / (self.grid_size - 1)) - 1.0).astype(np.float32)
        actions = np.arange(2 * self.dimensions + 1)
        next_axes = np.moveaxis(transition(self._positions[:, None], actions, self.grid_size), -1, 0)
        cells = np.ravel_multi_index(tuple(next_axes), (self.grid_size,) * self.dimensions)
        self._next_cell: list[list[int]] = cells.tolist()

    @property
    def position(self) -> tuple[int, ...]:
        """Coordinates of the agent, in cells."""
        return tuple(self._positions[self._cell].tolist())

    @property
    def target(self) -> tuple[int, ...]:
        """Coordinates of the target, in cells."""
        return tuple(self._positions[self._target_cell].tolist())

    @property
    def elapsed_steps(self) -> int:
        """Steps taken in this episode."""
        return self._steps

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a start and a target.

        :param seed: seeds the environment's own generator; None goes on with it
        :param options: "position" and "target": coordinates in cells (a sequence, or one integer on the line)
        :return: the first observation and an empty info
        :raises ValueError: for another option, or coordinates outside the grid
        """
        super().reset(seed=seed)
        self._cell, self._target_cell = self.np_random.integers(len(self._positions), size=2).tolist()
        for name, coordinates in (options or {}).items():
            if name == "position":
                self._cell = self._cell_at(name, coordinates)
            elif name == "target":
                self._target_cell = self._cell_at(name, coordinates)
            else:
                raise ValueError(f"options has the key {name!r}: accepted are 'position' and 'target'")
        self._steps = 0
        target = self._positions[self._target_cell]
        self._rewards = distance_reward(self._positions, target, self.grid_size).tolist()
        self._observation[: self.dimensions] = self._scaled[self._cell]
        self._observation[self.dimensions :] = self._scaled[self._target_cell]
        return self._observation.copy(), {}

    def step(self, action: int | np.integer[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move.

        :param action: action number, see :func:`unit_moves`
        :return: observation, reward, terminated (last step of the episode), truncated (False), info
        :raises ValueError: for an action outside the action space
        :raises gymnasium.error.ResetNeeded: before the first reset and after the last step of an episode
        """
        if self._steps >= self.episode_length:
            raise gym.error.ResetNeeded("LineWorld.step() needs a reset() before the first step of each episode")
        moves = self._next_cell[self._cell]
        number = operator.index(action)
        if not 0 <= number < len(moves):
            raise ValueError(f"action={action}: accepted are the integers from 0 to {len(moves) - 1}")
        self._cell = moves[number]
        self._steps += 1
        self._observation[: self.dimensions] = self._scaled[self._cell]
        info = {"is_success": self._cell == self._target_cell}
        return self._observation.copy(), self._rewards[self._cell], self._steps >= self.episode_length, False, info

    def render(self) -> npt.NDArray[np.uint8] | None:
        """Draw the cells, the agent (blue disc), the target (green cell) and, on top, the steps used (dark) and left.

        :return: picture, shape (height, width, 3), or None without a render mode
        """
        if self.render_mode is None:
            gym.logger.warn('LineWorld.render() without a render mode: make it with render_mode="rgb_array"')
            return None
        cell = max(4, min(56, 560 // self.grid_size))
        rows, columns = (1 if self.dimensions == 1 else self.grid_size), self.grid_size
        margin, clock = 16, 12
        top = 2 * margin + clock
        image = np.empty((top + rows * cell + margin, 2 * margin + columns * cell, 3), dtype=np.uint8)
        image[:] = _BACKGROUND
        for tick in range(self.episode_length):
            left, right = (margin + columns * cell * step // self.episode_length for step in (tick, tick + 1))
            gap = 2 if right - left > 4 else 0
            image[margin : margin + clock, left : right - gap] = _CLOCK_USED if tick < self._steps else _EMPTY
        for row in range(rows):
            for column in range(columns):
                self._corner(image, top, margin, cell, row, column)[:] = _EMPTY
        self._corner(image, top, margin, cell, *self._row_and_column(self.target))[:] = _TARGET
        _draw_disc(self._corner(image, top, margin, cell, *self._row_and_column(self.position)), 0.3 * cell, _AGENT)
        return image

    @staticmethod
    def _corner(
        image: npt.NDArray[np.uint8], top: int, margin: int, cell: int, row: int, column: int
    ) -> npt.NDArray[np.uint8]:
        """The pixels of one cell, as a view; one pixel is left on each side as the grid's line."""
        y, x = top + row * cell, margin + column * cell
        return image[y + 1 : y + cell - 1, x + 1 : x + cell - 1]

    def _row_and_column(self, position: tuple[int, ...]) -> tuple[int, int]:
        """Where a position is in the picture: axis 0 to the right, axis 1 upwards."""
        return (0 if self.dimensions == 1 else self.grid_size - 1 - position[1]), position[0]

    def _cell_at(self, name: str, coordinates: int | Sequence[int]) -> int:
        """The number of the cell at the given coordinates."""
        given = np.atleast_1d(np.asarray(coordinates))
        inside = given.shape == (self.dimensions,) and np.issubdtype(given.dtype, np.integer)
        if not inside or given.min() < 0 or given.max() >= self.grid_size:
            raise ValueError(
                f"options[{name!r}]={coordinates!r}: accepted are {self.dimensions} integer coordinates "
                f"from 0 to {self.grid_size - 1}"
            )
        return int(np.ravel_multi_index(tuple(given), (self.grid_size,) * self.dimensions))


def _checked_integer(name: str, value: int, low: int, high: int | None = None) -> int:
    """Return an integer constructor argument, or raise ValueError with its name, value and range."""
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not integer or value < low or (high is not None and value > high):
        accepted = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
        raise ValueError(f"{name}={value!r}: accepted is {accepted}")
    return int(value)


def _draw_disc(pixels: npt.NDArray[np.uint8], radius: float, color: tuple[int, int, int]) -> None:
    """Draw a disc with smooth edges into the middle of a block of pixels, in place."""
    y, x = (np.arange(size) - (size - 1) / 2 for size in pixels.shape[:2])
    coverage = np.clip(radius + 0.5 - np.hypot(y[:, None], x), 0.0, 1.0)[..., None]
    pixels[:] = np.rint(pixels * (1.0 - coverage) + np.array(color) * coverage).astype(np.uint8)
