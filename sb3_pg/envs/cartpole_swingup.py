"""CartPoleSwingUp: swing a hanging pole up and keep it up, by pushing the cart that it hangs from."""

import math
from dataclasses import dataclass, fields
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

Observation = npt.NDArray[np.float32]
Picture = npt.NDArray[np.float64]
# Cart position (m), cart velocity (m/s), pole angle (rad; 0 upright, counter-clockwise positive), its velocity (rad/s).
State = tuple[float, float, float, float]

_WIDTH, _HEIGHT = 600, 176
_BACKGROUND = (250, 250, 250)
_TRACK = (110, 116, 125)
_CART = (52, 58, 68)
_JOINT = (235, 238, 242)
_POLE_DOWN, _POLE_UP = (206, 82, 62), (46, 150, 86)


def _checked_number(name: str, value: float, zero: bool = False) -> float:
    """Return a finite positive number (or zero, where allowed), or raise ValueError with its name and value."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name}={value!r}: accepted is a finite number {'of at least' if zero else 'above'} 0")
    return float(value)


@dataclass(frozen=True)
class Physics:
    """The constants of the equations of motion; the defaults are the published ones.

    :param gravity: m/s^2
    :param cart_mass: kg
    :param pole_mass: kg, spread evenly along the pole
    :param pole_length: m, from the joint to the tip
    :param friction: of the cart on the track, N s/m; 0 switches it off
    :param dt: seconds a step
    :raises ValueError: for a value that is not finite, not positive (friction: negative)
    """

    gravity: float = 9.82
    cart_mass: float = 0.5
    pole_mass: float = 0.5
    pole_length: float = 0.6
    friction: float = 0.1
    dt: float = 0.01

    def __post_init__(self) -> None:
        """Check every constant."""
        for field in fields(self):
            _checked_number(field.name, getattr(self, field.name), zero=field.name == "friction")


PUBLISHED_PHYSICS = Physics()


def dynamics(state: State, force: float, physics: Physics = PUBLISHED_PHYSICS) -> State:
    """One step of the cart and the pole, a pure function.

    With M, m the masses of cart and pole, l the pole's length, b the friction, s = sin(theta), c = cos(theta), the
    Euler-Lagrange equations of a cart with a uniform rod hinged to it are

        (M + m) x'' - (m l / 2) (c theta'' - s theta'^2) = force - b x'
        (m l^2 / 3) theta'' - (m l / 2) c x'' = (m l / 2) g s

    solved for the accelerations:

        x'' = (4 (force - b x') + m s (3 g c - 2 l theta'^2)) / (4 (M + m) - 3 m c^2)
        theta'' = 3 (g s + c x'') / (2 l)

    and integrated by the explicit Euler method: positions advance with the old velocities. This is the published
    integrator; it adds a little energy with each step (an error of order dt), which is part of the published task.

    :param state: x (m), x' (m/s), theta (rad, 0 upright, counter-clockwise positive), theta' (rad/s)
    :param force: on the cart, N, positive to the right
    :param physics: the constants
    :return: the state ``physics.dt`` seconds later
    """
    x, x_dot, theta, theta_dot = state
    sin, cos = math.sin(theta), math.cos(theta)
    gravity, pole_mass, length, dt = physics.gravity, physics.pole_mass, physics.pole_length, physics.dt
    x_acceleration = (
        4.0 * (force - physics.friction * x_dot)
        + pole_mass * sin * (3.0 * gravity * cos - 2.0 * length * theta_dot * theta_dot)
    ) / (4.0 * (physics.cart_mass + pole_mass) - 3.0 * pole_mass * cos * cos)
    theta_acceleration = 1.5 * (gravity * sin + cos * x_acceleration) / length
    return (
        x + dt * x_dot,
        x_dot + dt * x_acceleration,
        theta + dt * theta_dot,
        theta_dot + dt * theta_acceleration,
    )


class CartPoleSwingUp(gym.Env[Observation, npt.NDArray[np.float32]]):
    """Swing the pole up and balance it, without running off the track.

    The task is ``CartPoleSwingUp-v0`` of the package gym-cartpole-swingup 0.1.4 (Lovatto, 2020,
    https://github.com/angelolovatto/gym-cartpole-swingup), whose equations and constants come from estool (Ha, 2017,
    https://github.com/hardmaru/estool, custom_envs/cartpole_swingup.py; there with steps of 0.05 s and 200 steps) and
    before it from a reproduction of Deep PILCO (https://github.com/zuoxingdong/DeepPILCO). Written anew from the
    equations of motion; no code of theirs is used.

    **Start.** x, x', theta - pi and theta' are normal with mean 0 and standard deviation 0.2: the pole hangs down.
    ``reset(options={"state": (x, x_dot, theta, theta_dot)})`` sets the state.

    **Action.** One number in [-1, 1], clipped to it; the force is ``force_mag`` times this.

    **Observation.** (x, x', cos theta, sin theta, theta'), float32, in m, m/s, 1, 1, rad/s.

    **Reward.** cos(theta) after the step: 1 upright, -1 hanging. This is the package's v0 since its release with two
    versions in May 2020 (its v1 pays (1 + cos theta) / 2; the first releases, of 2019, multiplied that by
    cos(pi x / (2 x_threshold))). While the pole hangs, every step costs; so running off the track at once is a local
    optimum, about -25 an episode, in which published runs get stuck. Good published runs reach about 400.

    **End.** ``terminated`` when abs(x) exceeds ``x_threshold``. The registered ``CartPoleSwingUp-v0`` is ``truncated``
    after 500 steps (5 s), by its ``max_episode_steps``.

    Only the arithmetic differs from the package: the state is kept in double precision.

    :param render_mode: None or "rgb_array" (50 frames a second, as the package says: half of real time)
    :param force_mag: force of the action 1, N
    :param x_threshold: half the length of the track, m
    :param physics: the constants of :func:`dynamics`
    :raises ValueError: for an argument that is not finite and positive, or an unknown render mode
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 (Gymnasium's declaration)

    def __init__(
        self,
        render_mode: str | None = None,
        force_mag: float = 10.0,
        x_threshold: float = 2.4,
        physics: Physics = PUBLISHED_PHYSICS,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode={render_mode!r}: accepted are None and {self.metadata['render_modes']}")
        if not isinstance(physics, Physics):
            raise ValueError(f"physics={physics!r}: accepted is a Physics")
        self.render_mode = render_mode
        self.force_mag = _checked_number("force_mag", force_mag)
        self.x_threshold = _checked_number("x_threshold", x_threshold)
        self.physics = physics
        # Finite bounds, as published: the checkers of SB3 and Gymnasium advise against infinite ones.
        largest = np.finfo(np.float32).max
        high = np.array([largest, largest, 1.0, 1.0, largest], dtype=np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.state: State | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a start near the hanging pole.

        :param seed: seeds the environment's own generator; None goes on with it
        :param options: "state": the four numbers of the state instead of the random ones
        :return: the first observation and an empty info
        :raises ValueError: for another option, or a state that is not four finite numbers with the cart on the track
        """
        super().reset(seed=seed)
        x, x_dot, theta, theta_dot = self.np_random.normal((0.0, 0.0, math.pi, 0.0), 0.2).tolist()
        self.state = (x, x_dot, theta, theta_dot)
        for name, value in (options or {}).items():
            if name != "state":
                raise ValueError(f"options has the key {name!r}: accepted is 'state'")
            self.state = self._checked_state(value)
        return self._observe(self.state), {}

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Push the cart for one step.

        :param action: shape (1,), the force divided by ``force_mag``; clipped to [-1, 1]
        :return: observation, reward, terminated (off the track), truncated (False here), info (empty)
        :raises gymnasium.error.ResetNeeded: before the first reset
        """
        if self.state is None:
            raise gym.error.ResetNeeded("CartPoleSwingUp.step() needs a reset() before the first step")
        # The action comes first in both, so that a NaN is not turned into a valid force.
        force = self.force_mag * max(min(float(action[0]), 1.0), -1.0)
        self.state = dynamics(self.state, force, self.physics)
        return self._observe(self.state), math.cos(self.state[2]), abs(self.state[0]) > self.x_threshold, False, {}

    @staticmethod
    def _observe(state: State) -> Observation:
        """The state with the angle as cosine and sine."""
        x, x_dot, theta, theta_dot = state
        return np.array((x, x_dot, math.cos(theta), math.sin(theta), theta_dot), dtype=np.float32)

    def _checked_state(self, value: Any) -> State:
        """Return the state given in the options, or raise ValueError."""
        given = np.asarray(value, dtype=np.float64)
        if given.shape != (4,) or not np.isfinite(given).all() or abs(given[0]) > self.x_threshold:
            raise ValueError(
                f"options['state']={value!r}: accepted are four finite numbers (x, x_dot, theta, theta_dot) "
                f"with abs(x) at most {self.x_threshold}"
            )
        x, x_dot, theta, theta_dot = given.tolist()
        return x, x_dot, theta, theta_dot

    def render(self) -> npt.NDArray[np.uint8] | None:
        """Draw the track with its two ends, the cart, and the pole, red when it hangs and green when it stands.

        :return: picture, shape (176, 600, 3), or None without a render mode
        :raises gymnasium.error.ResetNeeded: before the first reset
        """
        if self.render_mode is None:
            gym.logger.warn('CartPoleSwingUp.render() without a render mode: make it with render_mode="rgb_array"')
            return None
        if self.state is None:
            raise gym.error.ResetNeeded("CartPoleSwingUp.render() needs a reset() before the first picture")
        x, _, theta, _ = self.state
        length = self.physics.pole_length
        end = self.x_threshold
        # Pixels a meter: the cart and a flat pole at the end of the track, and an upright pole, are inside the picture.
        scale = min((0.5 * _WIDTH - 26.0) / (end + length), 0.42 * _HEIGHT / length)
        joint = (_WIDTH / 2 + scale * x, _HEIGHT / 2)
        tip = (joint[0] - scale * length * math.sin(theta), joint[1] - scale * length * math.cos(theta))
        height = (1.0 + math.cos(theta)) / 2.0
        pole_color = tuple(down + height * (up - down) for down, up in zip(_POLE_DOWN, _POLE_UP, strict=True))
        left, right = _WIDTH / 2 - scale * end, _WIDTH / 2 + scale * end
        image = np.empty((_HEIGHT, _WIDTH, 3))
        image[:] = _BACKGROUND
        _draw_line(image, (left, joint[1] + 14), (right, joint[1] + 14), 1.5, _TRACK)
        for stop in (left, right):
            _draw_line(image, (stop, joint[1] + 4), (stop, joint[1] + 24), 2.5, _TRACK)
        _draw_line(image, (joint[0] - 14, joint[1]), (joint[0] + 14, joint[1]), 9.0, _CART)
        for wheel in (joint[0] - 11, joint[0] + 11):
            _draw_line(image, (wheel, joint[1] + 9), (wheel, joint[1] + 9), 4.5, _CART)
        _draw_line(image, joint, tip, 4.0, pole_color)
        _draw_line(image, joint, joint, 2.5, _JOINT)
        return np.rint(image).astype(np.uint8)


def _draw_line(
    image: Picture,
    start: tuple[float, float],
    end: tuple[float, float],
    radius: float,
    color: tuple[float, ...],
) -> None:
    """Draw a straight line with round ends and smooth edges (a disc if start is end), in place; (x, y) in pixels."""
    (x0, y0), (x1, y1) = start, end
    reach = radius + 1.0
    left, top = max(0, math.floor(min(x0, x1) - reach)), max(0, math.floor(min(y0, y1) - reach))
    window = image[top : max(0, math.ceil(max(y0, y1) + reach)), left : max(0, math.ceil(max(x0, x1) + reach))]
    y = np.arange(top, top + window.shape[0])[:, None] - y0
    x = np.arange(left, left + window.shape[1]) - x0
    squared = (x1 - x0) ** 2 + (y1 - y0) ** 2
    along = np.clip((x * (x1 - x0) + y * (y1 - y0)) / squared, 0.0, 1.0) if squared > 0.0 else 0.0
    distance = np.hypot(x - along * (x1 - x0), y - along * (y1 - y0))
    coverage = np.clip(radius + 0.5 - distance, 0.0, 1.0)[..., None]
    window += coverage * (np.array(color) - window)
