import copy
import itertools
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_with_gymnasium
from stable_baselines3.common.env_checker import check_env as check_with_sb3

import sb3_pg.envs  # noqa: F401 (registers the ids)
from sb3_pg.envs.line_world import LineWorld, cell_positions, distance_reward, transition, unit_moves

IDS = ("LineWorld-v0", "GridWorld-v0")
DOWN, STAY, UP = 0, 1, 2


def line(position, target, **arguments):
    env = LineWorld(**arguments)
    env.reset(seed=0, options={"position": position, "target": target})
    return env


def way_to_target(env):
    """The action that goes towards the target along the axis with the larger distance, or stays."""
    offsets = np.subtract(env.target, env.position)
    axis = int(np.abs(offsets).argmax())
    return env.dimensions + int(np.sign(offsets[axis])) * (axis + 1)


def rollout(env, seed, steps=45):
    record = [env.reset(seed=seed)[0]]
    env.action_space.seed(seed)
    for _ in range(steps):
        observation, reward, terminated, _, info = env.step(env.action_space.sample())
        record.append(np.concatenate([observation, [reward, terminated, info["is_success"]]]))
        if terminated:
            record.append(env.reset()[0])
    return np.concatenate(record)


def test_the_moves_on_the_line_are_those_of_the_course():
    assert unit_moves(1).tolist() == [[-1], [0], [1]]


def test_the_moves_on_the_grid_are_mirrored_around_staying():
    assert unit_moves(2).tolist() == [[0, -1], [-1, 0], [0, 0], [1, 0], [0, 1]]


def test_the_transition_moves_one_cell_and_stops_at_both_walls():
    positions = np.array([[0], [0], [4], [4], [9], [9]])
    actions = np.array([DOWN, UP, DOWN, STAY, UP, DOWN])
    assert transition(positions, actions, 10).tolist() == [[0], [1], [3], [4], [9], [8]]


def test_the_transition_broadcasts_cells_against_actions_and_leaves_its_inputs_alone():
    cells = cell_positions(3, 2)
    before = cells.copy()
    next_cells = transition(cells[:, None], np.arange(5), 3)
    assert next_cells.shape == (9, 5, 2)
    assert next_cells[4].tolist() == [[1, 0], [0, 1], [1, 1], [2, 1], [1, 2]]
    np.testing.assert_array_equal(cells, before)


def test_the_reward_is_minus_the_euclidean_distance_over_the_grid_size():
    rewards = distance_reward(np.array([[0, 0], [3, 4], [5, 4]]), np.array([3, 4]), 10)
    np.testing.assert_allclose(rewards, [-0.5, 0.0, -0.2])


def test_the_reward_at_the_target_is_not_a_negative_zero():
    assert not np.signbit(distance_reward(np.array([3]), np.array([3]), 10))


@pytest.mark.parametrize("dimensions", [1, 2])
def test_every_step_of_the_class_is_the_pure_transition(dimensions):
    env = LineWorld(grid_size=4, dimensions=dimensions)
    cells = cell_positions(4, dimensions)
    for cell, action in itertools.product(cells, range(env.action_space.n)):
        env.reset(options={"position": cell, "target": cells[5 % len(cells)]})
        _, reward, _, _, _ = env.step(action)
        expected = transition(cell, np.array(action), 4)
        assert env.position == tuple(expected)
        assert reward == distance_reward(expected, cells[5 % len(cells)], 4)


def test_an_episode_computed_by_hand():
    env = line([2], [4], episode_length=4)
    steps = [env.step(action) for action in (UP, UP, UP, STAY)]
    np.testing.assert_allclose([step[1] for step in steps], [-0.1, 0.0, -0.1, -0.1])
    assert [step[4]["is_success"] for step in steps] == [False, True, False, False]
    np.testing.assert_allclose([step[0][0] for step in steps], [-1 / 3, -1 / 9, 1 / 9, 1 / 9], rtol=1e-6)
    np.testing.assert_allclose([step[0][1] for step in steps], [-1 / 9] * 4, rtol=1e-6)


def test_the_observation_is_position_then_target_and_reaches_both_ends_of_its_range():
    env = LineWorld(dimensions=2)
    observation, _ = env.reset(options={"position": [0, 9], "target": [9, 0]})
    assert observation.tolist() == [-1.0, 1.0, 1.0, -1.0]


def test_an_observation_is_not_changed_by_the_next_step():
    env = line([2], [4])
    first = env.step(UP)[0]
    kept = first.copy()
    env.step(UP)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(("env_id", "length"), [("LineWorld-v0", 10), ("GridWorld-v0", 20)])
def test_the_registered_episode_is_terminated_after_exactly_its_length_and_never_truncated(env_id, length):
    env = gym.make(env_id)
    env.reset(seed=1)
    ends = [env.step(0)[2:4] for _ in range(length)]
    assert ends == [(False, False)] * (length - 1) + [(True, False)]
    assert env.spec.max_episode_steps is None


@pytest.mark.parametrize("env_id", IDS)
def test_going_to_the_target_and_staying_succeeds_from_every_start(env_id):
    env = gym.make(env_id).unwrapped
    for seed in range(50):
        env.reset(seed=seed)
        terminated = False
        while not terminated:
            _, reward, terminated, _, info = env.step(way_to_target(env))
        assert info["is_success"]
        assert reward == 0.0


def test_starts_and_targets_are_drawn_from_all_cells():
    env = LineWorld(grid_size=5)
    pairs = set()
    for seed in range(400):
        env.reset(seed=seed)
        pairs.add(env.position + env.target)
    assert pairs == set(itertools.product(range(5), repeat=2))


def test_an_option_fixes_the_start_and_leaves_the_target_random():
    env = LineWorld()
    targets = set()
    for seed in range(30):
        env.reset(seed=seed, options={"position": 3})
        assert env.position == (3,)
        targets.add(env.target)
    assert len(targets) > 3


@pytest.mark.parametrize("env_id", IDS)
def test_the_same_seed_gives_the_same_episodes_and_another_seed_others(env_id):
    first, second = gym.make(env_id).unwrapped, gym.make(env_id).unwrapped
    np.testing.assert_array_equal(rollout(first, 7), rollout(second, 7))
    assert not np.array_equal(rollout(first, 7), rollout(second, 8))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_in_mid_episode_goes_on_alike_and_apart(duplicate):
    env = line([2], [6])
    env.step(UP)
    twin = duplicate(env)
    np.testing.assert_array_equal(env.step(UP)[0], twin.step(UP)[0])
    twin.step(UP)
    assert (env.position, twin.position) == ((4,), (5,))
    assert (env.elapsed_steps, twin.elapsed_steps) == (2, 3)
    np.testing.assert_array_equal(env.reset()[0], twin.reset()[0])


@pytest.mark.parametrize("env_id", IDS)
def test_the_checkers_of_gymnasium_and_sb3_have_nothing_to_say(env_id):
    check_with_gymnasium(gym.make(env_id).unwrapped)
    check_with_sb3(gym.make(env_id, render_mode="rgb_array"), warn=True)


@pytest.mark.parametrize(("env_id", "shape"), [("LineWorld-v0", (116, 592, 3)), ("GridWorld-v0", (620, 592, 3))])
def test_the_picture_has_a_fixed_shape_and_shows_position_target_and_step(env_id, shape):
    env = gym.make(env_id, render_mode="rgb_array")
    corner, middle, stay = [0] * env.unwrapped.dimensions, [5] * env.unwrapped.dimensions, env.unwrapped.dimensions

    def picture(position, target, steps):
        env.reset(options={"position": position, "target": target})
        for _ in range(steps):
            env.step(stay)
        return env.render()

    reference = picture(corner, middle, 1)
    assert reference.shape == shape
    assert reference.dtype == np.uint8
    np.testing.assert_array_equal(reference, picture(corner, middle, 1))
    for other in (picture(middle, middle, 1), picture(corner, corner, 1), picture(corner, middle, 2)):
        assert not np.array_equal(reference, other)


def test_the_picture_of_a_grid_has_the_first_axis_to_the_right_and_the_second_upwards():
    env = line([9, 0], [0, 9], dimensions=2, render_mode="rgb_array")
    image = env.render().astype(int)
    bluest = np.unravel_index((image[..., 2] - image[..., 0]).argmax(), image.shape[:2])
    greenest = np.unravel_index((image[..., 1] - image[..., 0]).argmax(), image.shape[:2])
    assert bluest[0] > 310
    assert bluest[1] > 296
    assert greenest[0] < 310
    assert greenest[1] < 296


def test_rendering_without_a_render_mode_warns_and_returns_nothing():
    env = line([0], [5])
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid_size": 1}, r"grid_size=1: accepted is an integer of at least 2"),
        ({"grid_size": 10.0}, r"grid_size=10\.0: accepted is an integer"),
        ({"grid_size": 101, "dimensions": 2}, r"grid_size=101 with dimensions=2 makes 10201 cells: at most 10000"),
        ({"dimensions": 0}, r"dimensions=0: accepted is an integer from 1 to 2"),
        ({"dimensions": 3}, r"dimensions=3: accepted is an integer from 1 to 2"),
        ({"dimensions": True}, r"dimensions=True: accepted is an integer"),
        ({"episode_length": 0}, r"episode_length=0: accepted is an integer of at least 1"),
        ({"episode_length": None}, r"episode_length=None: accepted is an integer"),
        ({"render_mode": "ansi"}, r"render_mode='ansi': accepted are None and \['rgb_array'\]"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        LineWorld(**arguments)


@pytest.mark.parametrize(
    "options", [{"position": [10]}, {"position": [-1]}, {"target": [1, 2]}, {"target": [0.5]}, {"start": [1]}]
)
def test_a_wrong_reset_option_is_named_with_what_is_accepted(options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))}.*accepted are"):
        LineWorld().reset(options=options)


@pytest.mark.parametrize("action", [-1, 3])
def test_an_action_outside_the_space_is_an_error_and_moves_nothing(action):
    env = line([2], [4])
    with pytest.raises(ValueError, match=rf"action={action}: accepted are the integers from 0 to 2"):
        env.step(action)
    assert (env.position, env.elapsed_steps) == ((2,), 0)


def test_a_step_before_the_first_reset_or_after_the_end_asks_for_a_reset():
    env = LineWorld(episode_length=1)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(STAY)
    env.reset(seed=0)
    env.step(STAY)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(STAY)
