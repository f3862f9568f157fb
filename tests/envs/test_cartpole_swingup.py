import copy
import importlib
import math
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_with_gymnasium
from stable_baselines3.common.env_checker import check_env as check_with_sb3

import sb3_pg.envs
from sb3_pg.envs.cartpole_swingup import CartPoleSwingUp, Physics, dynamics

PUSH = np.array([1.0], dtype=np.float32)
REST = np.array([0.0], dtype=np.float32)


def swing_up(state, **arguments):
    env = CartPoleSwingUp(**arguments)
    env.reset(seed=0, options={"state": state})
    return env


def energy(state, physics):
    """Kinetic and potential energy of the cart and a uniform rod, J."""
    _, x_dot, theta, theta_dot = state
    half = physics.pole_length / 2
    cart = 0.5 * physics.cart_mass * x_dot**2
    pole_x_dot = x_dot - half * math.cos(theta) * theta_dot
    pole_y_dot = -half * math.sin(theta) * theta_dot
    inertia = physics.pole_mass * physics.pole_length**2 / 12
    pole = 0.5 * physics.pole_mass * (pole_x_dot**2 + pole_y_dot**2) + 0.5 * inertia * theta_dot**2
    return cart + pole + physics.pole_mass * physics.gravity * half * math.cos(theta)


def energy_drift(dt):
    """Largest change of the energy in one second of free fall from near the top."""
    physics = Physics(friction=0.0, dt=dt)
    state = (0.0, 0.0, 0.5, 0.0)
    start, drift = energy(state, physics), 0.0
    for _ in range(round(1.0 / dt)):
        state = dynamics(state, 0.0, physics)
        drift = max(drift, abs(energy(state, physics) - start))
    return drift


def rollout(env, seed, steps=60):
    record = [env.reset(seed=seed)[0]]
    env.action_space.seed(seed)
    for _ in range(steps):
        observation, reward, terminated, _, _ = env.step(env.action_space.sample())
        record.append(np.append(observation, [reward, terminated]))
    return np.concatenate(record)


def test_the_constants_are_the_published_ones():
    assert Physics() == Physics(gravity=9.82, cart_mass=0.5, pole_mass=0.5, pole_length=0.6, friction=0.1, dt=0.01)
    env = CartPoleSwingUp()
    assert (env.force_mag, env.x_threshold) == (10.0, 2.4)


@pytest.mark.parametrize(
    ("state", "force", "x_acceleration", "theta_acceleration"),
    [
        # upright at rest: x'' = 4 * 10 / (4 - 1.5), theta'' = 1.5 * 16 / 0.6
        ((0.0, 0.0, 0.0, 0.0), 10.0, 16.0, 40.0),
        # hanging, the friction of 1 m/s takes 0.1 N: x'' = 4 * 9.9 / 2.5, the pole lags behind
        ((0.0, 1.0, math.pi, 0.0), 10.0, 15.84, -39.6),
        # flat: gravity turns the pole, nothing couples: x'' = 4 * 10 / 4, theta'' = 1.5 * 9.82 / 0.6
        ((0.0, 0.0, math.pi / 2, 0.0), 10.0, 10.0, 24.55),
        # flat and turning at 2 rad/s: the pole's inward pull on the cart is 0.5 * 0.3 * 4 N = 0.6 N
        ((0.0, 0.0, math.pi / 2, 2.0), 10.0, 9.4, 24.55),
        # the same on the other side is the mirror image
        ((0.0, 0.0, -math.pi / 2, -2.0), -10.0, -9.4, -24.55),
    ],
)
def test_the_accelerations_are_those_computed_by_hand(state, force, x_acceleration, theta_acceleration):
    x, x_dot, theta, theta_dot = dynamics(state, force)
    assert (x_dot - state[1]) / 0.01 == pytest.approx(x_acceleration)
    assert (theta_dot - state[3]) / 0.01 == pytest.approx(theta_acceleration)
    assert x == pytest.approx(state[0] + 0.01 * state[1])
    assert theta == pytest.approx(state[2] + 0.01 * state[3])


def test_the_accelerations_solve_the_equations_of_motion_for_other_constants_too():
    random = np.random.default_rng(0)
    for _ in range(50):
        physics = Physics(*random.uniform(0.1, 3.0, size=5), dt=1.0)
        x, x_dot, theta, theta_dot = random.normal(size=4)
        force = 5.0 * random.normal()
        total, moment = physics.cart_mass + physics.pole_mass, physics.pole_mass * physics.pole_length / 2
        masses = [
            [total, -moment * math.cos(theta)],
            [-moment * math.cos(theta), physics.pole_mass * physics.pole_length**2 / 3],
        ]
        forces = [
            force - physics.friction * x_dot - moment * math.sin(theta) * theta_dot**2,
            moment * physics.gravity * math.sin(theta),
        ]
        expected = np.linalg.solve(masses, forces)
        following = dynamics((x, x_dot, theta, theta_dot), force, physics)
        np.testing.assert_allclose([following[1] - x_dot, following[3] - theta_dot], expected, rtol=1e-9)


def test_energy_is_kept_without_friction_and_force_up_to_the_first_order_of_the_step():
    coarse, fine = energy_drift(1e-3), energy_drift(1e-4)
    assert fine < 0.01
    assert 8.0 < coarse / fine < 12.0


def test_friction_takes_energy_away():
    physics = Physics(dt=1e-4)
    state = (0.0, 1.0, math.pi, 0.0)
    start = energy(state, physics)
    for _ in range(10_000):
        state = dynamics(state, 0.0, physics)
    assert energy(state, physics) < start - 0.01


def test_the_class_steps_with_the_pure_dynamics_and_scales_the_action():
    state = (0.1, -0.2, 3.0, 0.4)
    env = swing_up(state)
    observation, reward, terminated, truncated, info = env.step(np.array([0.5], dtype=np.float32))
    x, x_dot, theta, theta_dot = dynamics(state, 5.0)
    assert env.state == (x, x_dot, theta, theta_dot)
    np.testing.assert_allclose(observation, [x, x_dot, math.cos(theta), math.sin(theta), theta_dot], rtol=1e-6)
    assert observation.dtype == np.float32
    assert reward == math.cos(theta)
    assert (terminated, truncated, info) == (False, False, {})


@pytest.mark.parametrize(("action", "clipped"), [(3.0, 1.0), (-7.0, -1.0)])
def test_an_action_beyond_its_bounds_is_clipped(action, clipped):
    beyond, within = swing_up((0.0, 0.0, 3.0, 0.0)), swing_up((0.0, 0.0, 3.0, 0.0))
    beyond.step(np.array([action], dtype=np.float32))
    within.step(np.array([clipped], dtype=np.float32))
    assert beyond.state == within.state


def test_a_nan_action_is_not_turned_into_a_force():
    observation, *_ = swing_up((0.0, 0.0, 3.0, 0.0)).step(np.array([np.nan], dtype=np.float32))
    assert np.isnan(observation[1])


@pytest.mark.parametrize(("theta", "reward"), [(0.0, 1.0), (math.pi, -1.0), (math.pi / 3, 0.5)])
def test_the_reward_is_the_cosine_of_the_angle(theta, reward):
    assert swing_up((0.0, 0.0, theta, 0.0)).step(REST)[1] == pytest.approx(reward, abs=1e-12)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_the_episode_is_terminated_when_the_cart_passes_the_end_of_the_track(side):
    env = swing_up((side * 2.395, side * 1.0, math.pi, 0.0))
    assert [env.step(side * PUSH)[2] for _ in range(2)] == [True, True]
    assert swing_up((side * 2.385, side * 1.0, math.pi, 0.0)).step(side * PUSH)[2] is False


def test_pushing_sideways_to_the_edge_is_the_poor_local_optimum_of_the_published_curves():
    env = gym.make("CartPoleSwingUp-v0")
    env.reset(seed=0, options={"state": (0.0, 0.0, math.pi, 0.0)})
    total, terminated = 0.0, False
    while not terminated:
        _, reward, terminated, truncated, _ = env.step(PUSH)
        assert not truncated
        total += reward
    assert -45.0 < total < -15.0


def test_the_registered_episode_is_truncated_after_500_steps():
    env = gym.make("CartPoleSwingUp-v0")
    env.reset(seed=0, options={"state": (0.0, 0.0, math.pi, 0.0)})
    ends = [env.step(REST)[2:4] for _ in range(500)]
    assert ends == [(False, False)] * 499 + [(False, True)]


def test_starts_are_normal_around_the_hanging_pole_at_rest():
    env = CartPoleSwingUp()
    env.reset(seed=0)
    starts = []
    for _ in range(2000):
        env.reset()
        starts.append(env.state)
    np.testing.assert_allclose(np.mean(starts, axis=0), [0.0, 0.0, math.pi, 0.0], atol=0.02)
    np.testing.assert_allclose(np.std(starts, axis=0), 0.2, atol=0.015)


def test_the_same_seed_gives_the_same_episode_and_another_seed_another():
    first, second = CartPoleSwingUp(), CartPoleSwingUp()
    np.testing.assert_array_equal(rollout(first, 7), rollout(second, 7))
    assert not np.array_equal(rollout(first, 7), rollout(second, 8))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_in_mid_episode_goes_on_alike_and_apart(duplicate):
    env = swing_up((0.0, 0.0, 3.0, 0.0), physics=Physics(friction=0.0))
    env.step(PUSH)
    twin = duplicate(env)
    np.testing.assert_array_equal(env.step(PUSH)[0], twin.step(PUSH)[0])
    twin.step(PUSH)
    assert env.state != twin.state
    np.testing.assert_array_equal(env.reset()[0], twin.reset()[0])


def test_the_checkers_of_gymnasium_and_sb3_have_nothing_to_say():
    check_with_gymnasium(gym.make("CartPoleSwingUp-v0").unwrapped)
    check_with_sb3(gym.make("CartPoleSwingUp-v0", render_mode="rgb_array"), warn=True)


def test_the_picture_has_a_fixed_shape_and_changes_with_cart_and_pole_but_not_with_their_speeds():
    pictures = [
        swing_up(state, render_mode="rgb_array").render()
        for state in [(0, 0, 0, 0), (0, 1, 0, -1), (0.5, 0, 0, 0), (0, 0, 0.3, 0), (0, 0, -0.3, 0), (-2.4, 0, 1.5, 0)]
    ]
    assert {picture.shape for picture in pictures} == {(176, 600, 3)}
    assert pictures[0].dtype == np.uint8
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert len({picture.tobytes() for picture in pictures}) == 5


def test_a_positive_angle_leans_the_drawn_pole_to_the_left():
    left = swing_up((0.0, 0.0, 1.0, 0.0), render_mode="rgb_array").render()
    right = swing_up((0.0, 0.0, -1.0, 0.0), render_mode="rgb_array").render()
    dark_left, dark_right = (255 - picture[:75].astype(int).sum(axis=2) // 3 for picture in (left, right))
    assert dark_left[:, :300].sum() > dark_left[:, 300:].sum()
    assert dark_right[:, :300].sum() < dark_right[:, 300:].sum()


@pytest.mark.parametrize("x", [2.4, -2.4])
@pytest.mark.parametrize("pole_length", [0.1, 0.6, 5.0])
def test_a_flat_pole_at_the_end_of_the_track_is_inside_the_picture(x, pole_length):
    env = swing_up((x, 0.0, math.copysign(math.pi / 2, -x), 0.0), physics=Physics(pole_length=pole_length))
    env.render_mode = "rgb_array"
    picture = env.render()
    assert len(np.unique(picture[:, [0, -1]].reshape(-1, 3), axis=0)) == 1


def test_rendering_without_a_render_mode_warns_and_returns_nothing():
    with pytest.warns(UserWarning, match="render_mode"):
        assert swing_up((0.0, 0.0, 0.0, 0.0)).render() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"force_mag": 0.0}, r"force_mag=0\.0: accepted is a finite number above 0"),
        ({"force_mag": "10"}, r"force_mag='10': accepted is a finite number above 0"),
        ({"x_threshold": -1.0}, r"x_threshold=-1\.0: accepted is a finite number above 0"),
        ({"x_threshold": math.inf}, r"x_threshold=inf: accepted is a finite number above 0"),
        ({"physics": {"friction": 0.0}}, r"physics=\{'friction': 0\.0\}: accepted is a Physics"),
        ({"render_mode": "ansi"}, r"render_mode='ansi': accepted are None and \['rgb_array'\]"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        CartPoleSwingUp(**arguments)


@pytest.mark.parametrize("name", ["gravity", "cart_mass", "pole_mass", "pole_length", "friction", "dt"])
@pytest.mark.parametrize("value", [-0.5, math.nan])
def test_a_wrong_constant_is_named_with_what_is_accepted(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value}: accepted is a finite number"):
        Physics(**{name: value})


@pytest.mark.parametrize(
    "options", [{"state": (0.0, 0.0, 0.0)}, {"state": (0.0, 0.0, math.nan, 0.0)}, {"state": (2.5, 0, 0, 0)}, {"x": 1}]
)
def test_a_wrong_reset_option_is_named_with_what_is_accepted(options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))}.*accepted"):
        CartPoleSwingUp().reset(options=options)


def test_a_step_or_a_picture_before_the_first_reset_asks_for_a_reset():
    env = CartPoleSwingUp(render_mode="rgb_array")
    with pytest.raises(gym.error.ResetNeeded):
        env.step(PUSH)
    with pytest.raises(gym.error.ResetNeeded):
        env.render()


def test_importing_the_environments_again_keeps_the_registered_ids_without_a_warning():
    before = gym.registry["CartPoleSwingUp-v0"]
    importlib.reload(sb3_pg.envs)
    assert gym.registry["CartPoleSwingUp-v0"] is before
