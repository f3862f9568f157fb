"""The trajectory buffer keeps what happened, as it happened."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_pg.rollout.buffer import TerminalObservation, TrajectoryBuffer, minibatches, pieces

FLAT = spaces.Box(-1, 1, (3,), np.float64)
IMAGE = spaces.Box(0, 255, (1, 4, 4), np.uint8)
DICT = spaces.Dict({"flat": FLAT, "image": IMAGE, "kind": spaces.Discrete(4)})
OBSERVATION_SPACES = {
    "Box": FLAT,
    "image": IMAGE,
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
    "Dict": DICT,
}
ACTION_SPACES = {
    "Box": spaces.Box(-1, 1, (2,)),
    "Box of float64": spaces.Box(-1, 1, (2,), np.float64),
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
}
N_ENVS = 2
NO_ENDS = np.zeros((4, N_ENVS))


def make(
    observation_space: spaces.Space[Any] = FLAT,
    action_space: spaces.Space[Any] = ACTION_SPACES["Discrete"],
    n_steps: int = 4,
    n_envs: int = N_ENVS,
) -> TrajectoryBuffer:
    return TrajectoryBuffer(n_steps, observation_space, action_space, device="cpu", n_envs=n_envs)


def stack(samples: list[Any]) -> Any:
    """One observation of every environment."""
    if isinstance(samples[0], dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    return np.stack(samples)


def step_of(buffer: TrajectoryBuffer) -> tuple[Any, Any, Any]:
    """Random observations, actions and rewards of one step."""
    n_envs = buffer.n_envs
    observations = stack([buffer.observation_space.sample() for _ in range(n_envs)])
    actions = np.stack([buffer.action_space.sample() for _ in range(n_envs)])
    return observations, actions, buffer.action_space.np_random.normal(size=n_envs)


def seeded(buffer: TrajectoryBuffer) -> TrajectoryBuffer:
    buffer.observation_space.seed(0)
    buffer.action_space.seed(0)
    return buffer


def fill(buffer: TrajectoryBuffer, dones: Any, valid: Any = None) -> list[tuple[Any, Any, Any]]:
    """A whole rollout with episodes ending where ``dones`` says; returns what was put in."""
    steps = []
    for row in np.asarray(dones, dtype=bool):
        steps.append(step_of(buffer))
        buffer.append(*steps[-1], row)
    buffer.close(step_of(buffer)[0], valid)
    return steps


def filled(*args: Any, dones: Any = NO_ENDS, valid: Any = None, **kwargs: Any) -> TrajectoryBuffer:
    """A closed buffer with values, advantages and returns that can be told apart."""
    buffer = seeded(make(*args, **kwargs))
    fill(buffer, dones, valid)
    shape = buffer.rewards.shape
    numbers = np.arange(buffer.rewards.size, dtype=np.float32).reshape(shape)
    buffer.values[:], buffer.log_probs[:] = numbers + 100, numbers + 200
    buffer.advantages, buffer.returns = numbers + 300, numbers + 400
    return buffer


def assert_holds(stored: Any, put_in: list[Any]) -> None:
    """Stored rows are what was put in, up to the rounding to float32."""
    for row, given in enumerate(put_in):
        parts = given if isinstance(given, dict) else {"": given}
        for key, part in parts.items():
            array = stored[key] if isinstance(given, dict) else stored
            assert np.array_equal(array[row], part.astype(array.dtype).reshape(array.shape[1:]))


# -- what is stored ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", list(OBSERVATION_SPACES))
def test_observations_of_every_space_are_stored_as_they_came(space: str) -> None:
    buffer = seeded(make(OBSERVATION_SPACES[space]))
    steps = fill(buffer, NO_ENDS)
    assert_holds(buffer.observations, [observations for observations, _, _ in steps])


@pytest.mark.parametrize("space", list(ACTION_SPACES))
def test_actions_of_every_space_are_stored_as_they_came(space: str) -> None:
    buffer = seeded(make(action_space=ACTION_SPACES[space]))
    steps = fill(buffer, NO_ENDS)
    assert_holds(buffer.actions, [actions for _, actions, _ in steps])


def test_rewards_stay_raw_where_a_time_limit_ends_an_episode() -> None:
    buffer = seeded(make())
    for done in (False, True, False, False):
        observations, actions, _ = step_of(buffer)
        buffer.append(observations, actions, np.array([1.5, -2.0]), np.array([done, False]))
    buffer.terminal_observations.append(TerminalObservation(1, 0, np.ones(3)))
    buffer.close(observations, None)
    assert buffer.rewards.tolist() == [[1.5, -2.0]] * 4
    assert buffer.rewards.dtype == np.float32


def test_floats_of_double_precision_are_stored_in_single_precision() -> None:
    buffer = make(FLAT, ACTION_SPACES["Box of float64"])
    arrays = (buffer.observations, buffer.actions, buffer.rewards, buffer.values, buffer.log_probs)
    assert [array.dtype for array in arrays] == [np.float32] * 5


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_integers_that_are_no_image_have_room_for_what_vec_normalize_makes_of_them(dtype: Any) -> None:
    space = spaces.Box(0, 120, (3,), dtype)
    buffer = make(space, space)
    observations, actions = np.array([[-0.84, 0.25, 7]] * N_ENVS, np.float32), np.array([[-1.38, 3, 119]] * N_ENVS)
    buffer.reset()
    buffer.check_dtype(observations)
    buffer.append(observations, actions, np.zeros(N_ENVS), np.zeros(N_ENVS, bool))
    np.testing.assert_array_equal(buffer.observations[0], observations)
    np.testing.assert_array_equal(buffer.actions[0], actions.astype(np.float32))


@pytest.mark.parametrize("space", [IMAGE, DICT])
def test_images_that_are_no_bytes_are_refused_with_what_is_accepted(space: Any) -> None:
    buffer = make(space)
    buffer.reset()
    observations = step_of(buffer)[0]
    buffer.check_dtype(observations)
    wrong = observations / 255 if space is IMAGE else {**observations, "image": observations["image"] / 255}
    with pytest.raises(ValueError, match=r"(observations are|'image' is) float64, and the .* uint8; .*norm_obs"):
        buffer.check_dtype(wrong)


def test_images_stay_bytes_and_categories_integers() -> None:
    buffer = make(DICT, ACTION_SPACES["MultiDiscrete"])
    assert {key: part.dtype for key, part in buffer.observations.items()} == {
        "flat": np.float32,
        "image": np.uint8,
        "kind": np.int64,
    }
    assert buffer.actions.dtype == np.int64


def test_a_step_in_the_form_of_sb3s_buffer_is_refused() -> None:
    step: list[Any] = [np.zeros((N_ENVS, 3)), np.zeros(N_ENVS), np.zeros(N_ENVS), np.zeros(N_ENVS)]
    with pytest.raises(ValueError, match=r"add\(\) of TrajectoryBuffer is not called; accepted is append\(\)"):
        make().add(*step, th.zeros(N_ENVS), th.zeros(N_ENVS))


def test_the_shapes_are_steps_by_environments() -> None:
    buffer = make(IMAGE, ACTION_SPACES["Box"], n_steps=5, n_envs=3)
    assert buffer.observations.shape == (5, 3, 1, 4, 4)
    assert buffer.actions.shape == (5, 3, 2)
    for name in ("rewards", "values", "log_probs", "dones", "episode_starts"):
        assert getattr(buffer, name).shape == (5, 3), name


def test_what_the_environment_changes_later_does_not_change_what_is_stored() -> None:
    buffer = seeded(make())
    observations, actions, rewards = step_of(buffer)
    dones = np.array([False, True])
    kept = observations.copy().astype(np.float32)
    buffer.append(observations, actions, rewards, dones)
    for array in (observations, rewards, dones):
        array[:] = 0
    assert np.array_equal(buffer.observations[0], kept)
    assert buffer.dones[0].tolist() == [False, True]
    assert buffer.rewards[0].all()


def test_an_episode_starts_where_the_one_before_has_ended() -> None:
    buffer = seeded(make())
    buffer.reset(np.array([True, False]))
    fill(buffer, [[0, 1], [0, 0], [1, 0], [0, 1]])
    assert buffer.dones.astype(int).tolist() == [[0, 1], [0, 0], [1, 0], [0, 1]]
    assert buffer.episode_starts.astype(int).tolist() == [[1, 0], [0, 1], [0, 0], [1, 0]]


def test_the_observations_after_the_last_step_are_kept_for_their_value() -> None:
    buffer = seeded(make(DICT))
    for _ in range(4):
        buffer.append(*step_of(buffer), np.zeros(N_ENVS, bool))
    last = step_of(buffer)[0]
    buffer.close(last, None)
    with_last = buffer.observations_with_last(5)
    assert {key: part.shape[0] for key, part in with_last.items()} == dict.fromkeys(DICT.spaces, 5)
    assert {key: part.shape[0] for key, part in buffer.observations.items()} == dict.fromkeys(DICT.spaces, 4)
    assert_holds({key: part[4:] for key, part in with_last.items()}, [last])
    assert buffer.last_observations is last


# -- growing and writing over -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["Box", "image", "Dict"])
@pytest.mark.parametrize("n_steps", [1, 3, 4])
def test_the_buffer_grows_when_episodes_last_longer_and_keeps_what_it_has(space: str, n_steps: int) -> None:
    buffer = seeded(make(OBSERVATION_SPACES[space], n_steps=n_steps))
    dones = np.arange(13 * N_ENVS).reshape(13, N_ENVS) % 3 == 0
    steps = fill(buffer, dones)
    assert buffer.rewards.shape == buffer.values.shape == buffer.log_probs.shape == (13, N_ENVS)
    assert_holds(buffer.observations, [observations for observations, _, _ in steps])
    assert_holds(buffer.actions, [actions for _, actions, _ in steps])
    assert_holds(buffer.rewards, [rewards for _, _, rewards in steps])
    assert np.array_equal(buffer.dones, dones)
    assert np.array_equal(buffer.episode_starts[1:], dones[:-1])
    assert buffer.episode_starts[0].all()


def test_values_written_step_by_step_survive_growth() -> None:
    buffer = seeded(make(n_steps=2))
    for step in range(7):
        buffer.append(*step_of(buffer), np.zeros(N_ENVS, bool))
        buffer.values[step], buffer.log_probs[step] = step, -step
    buffer.close(step_of(buffer)[0], None)
    assert buffer.values[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert buffer.log_probs[:, 1].tolist() == [0, -1, -2, -3, -4, -5, -6]


def test_a_shorter_rollout_after_a_longer_one_shows_its_own_rows_only() -> None:
    buffer = seeded(make())
    fill(buffer, np.zeros((11, N_ENVS)))
    buffer.reset()
    steps = fill(buffer, np.zeros((3, N_ENVS)))
    assert buffer.rewards.shape == (3, N_ENVS)
    assert_holds(buffer.rewards, [rewards for _, _, rewards in steps])
    assert_holds(buffer.observations, [observations for observations, _, _ in steps])


def test_reset_writes_over_the_memory_of_the_last_rollout() -> None:
    buffer = filled(dones=[[1, 0], [0, 0], [0, 1], [0, 0]])
    first, memory = buffer.rewards.copy(), buffer.rewards
    buffer.terminal_observations.append(TerminalObservation(0, 0, np.ones(3)))
    buffer.valid, buffer.has_step_values = np.ones((4, N_ENVS), bool), True
    buffer.reset()
    assert (buffer.pos, buffer.full, buffer.valid, buffer.terminal_observations) == (0, False, None, [])
    assert not buffer.has_step_values
    fill(buffer, NO_ENDS)
    assert np.shares_memory(buffer.rewards, memory)
    assert not np.array_equal(memory, first)
    assert not buffer.dones.any()


def test_a_new_buffer_is_empty_and_a_closed_one_full() -> None:
    buffer = seeded(make())
    assert (buffer.pos, buffer.full) == (0, False)
    fill(buffer, NO_ENDS)
    assert (buffer.pos, buffer.full) == (4, True)


# -- times ------------------------------------------------------------------------------------------------------------


def test_times_go_on_counting_from_one_rollout_to_the_next() -> None:
    buffer = seeded(make(n_steps=3))
    fill(buffer, [[0, 0], [1, 0], [0, 0]])
    assert buffer.times.tolist() == [[0, 0], [1, 1], [0, 2]]
    buffer.reset(buffer.dones[-1])
    fill(buffer, [[0, 0], [0, 1], [0, 0]])
    assert buffer.times.tolist() == [[1, 3], [2, 4], [3, 0]]
    buffer.reset(buffer.dones[-1])
    fill(buffer, [[0, 0]])
    assert buffer.times.tolist() == [[4, 1]]


def test_an_episode_that_ended_with_the_rollout_is_not_counted_on() -> None:
    buffer = seeded(make(n_steps=2))
    fill(buffer, [[0, 0], [1, 0]])
    buffer.reset(buffer.dones[-1].copy())
    fill(buffer, [[0, 0], [0, 0]])
    assert buffer.times.tolist() == [[0, 2], [1, 3]]


def test_environments_that_were_reset_in_between_begin_with_zero() -> None:
    buffer = seeded(make(n_steps=2))
    fill(buffer, np.zeros((2, N_ENVS)))
    buffer.reset(np.array([True, True]))
    fill(buffer, np.zeros((2, N_ENVS)))
    assert buffer.times.tolist() == [[0, 0], [1, 1]]


def test_a_rollout_that_was_interrupted_counts_as_far_as_it_got() -> None:
    buffer = seeded(make(n_steps=4))
    buffer.reset()
    for dones in ([False, False], [False, True], [False, False]):
        buffer.append(*step_of(buffer), np.array(dones))
    buffer.reset(np.array([False, False]))
    fill(buffer, [[0, 0]])
    assert buffer.times.tolist() == [[3, 1]]
    buffer.count_times()  # as where a callback has stopped the training
    buffer.reset(np.array([False, False]))
    assert buffer.size() == 0


# -- the batch --------------------------------------------------------------------------------------------------------


def test_the_trajectories_are_what_the_buffer_holds() -> None:
    valid = np.array([[1, 1], [1, 1], [1, 0], [1, 0]], dtype=bool)
    buffer = filled(dones=[[0, 0], [0, 1], [0, 0], [1, 0]], valid=valid)
    buffer.next_values = buffer.values + 0.5
    q_values = buffer.values + 0.25
    trajectories = buffer.trajectories(q_values)
    for name in ("rewards", "dones", "values", "next_values", "times", "valid"):
        assert np.array_equal(getattr(trajectories, name), getattr(buffer, name)), name
    assert trajectories.q_values is q_values


def test_all_steps_are_valid_unless_said_otherwise() -> None:
    buffer = filled()
    buffer.next_values = np.zeros_like(buffer.values)
    assert buffer.n_valid == 8
    assert buffer.trajectories().valid.all()


VALID = np.array([[1, 1], [0, 1], [1, 0], [1, 0]], dtype=bool)


@pytest.mark.parametrize("valid", [None, VALID], ids=["all", "some"])
@pytest.mark.parametrize("space", ["Box", "image", "Dict"])
def test_samples_are_the_valid_steps_in_order_of_time(space: str, valid: Any) -> None:
    buffer = filled(OBSERVATION_SPACES[space], valid=valid)
    places = [place for place in np.ndindex(4, N_ENVS) if valid is None or valid[place]]
    assert buffer.n_valid == len(places)
    samples = buffer.samples()
    for index, (step, env) in enumerate(places):
        number = step * N_ENVS + env
        assert samples.old_values[index] == 100 + number
        assert samples.old_log_prob[index] == 200 + number
        assert samples.advantages[index] == 300 + number
        assert samples.returns[index] == 400 + number
        assert samples.actions[index] == buffer.actions[step, env, 0]
        if space == "Dict":
            for key, part in buffer.observations.items():
                assert np.array_equal(samples.observations[key][index].numpy(), part[step, env]), key
        else:
            assert np.array_equal(samples.observations[index].numpy(), buffer.observations[step, env])
    assert len(samples.advantages) == len(samples.actions) == len(places)


def test_other_weights_may_take_the_place_of_the_advantages() -> None:
    buffer = filled(valid=VALID)
    weights = -buffer.advantages
    assert buffer.samples(weights).advantages.tolist() == weights[VALID].tolist()
    assert buffer.samples().advantages.tolist() == buffer.advantages[VALID].tolist()


@pytest.mark.parametrize(
    ("space", "dtype", "shape"),
    [
        ("Box", th.float32, (8, 2)),
        ("Box of float64", th.float32, (8, 2)),
        ("Discrete", th.int64, (8,)),
        ("MultiDiscrete", th.float32, (8, 2)),
        ("MultiBinary", th.float32, (8, 3)),
    ],
)
def test_sampled_actions_are_what_the_distributions_take(space: str, dtype: Any, shape: tuple[int, ...]) -> None:
    actions = filled(action_space=ACTION_SPACES[space]).samples().actions
    assert actions.dtype == dtype
    assert actions.shape == shape


def test_a_batch_of_valid_steps_only_is_not_copied() -> None:
    buffer = filled()
    samples = buffer.samples()
    assert np.shares_memory(samples.observations.numpy(), buffer.observations)
    assert np.shares_memory(samples.advantages.numpy(), buffer.advantages)


# -- minibatches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 3, 8, 100])
@pytest.mark.parametrize("space", [FLAT, DICT], ids=["Box", "Dict"])
def test_the_same_seed_gives_the_minibatches_of_sb3s_buffer(space: Any, batch_size: int | None) -> None:
    ours = seeded(make(space, n_steps=4, n_envs=3))
    theirs_class = DictRolloutBuffer if isinstance(space, spaces.Dict) else RolloutBuffer
    theirs = theirs_class(4, space, ours.action_space, device="cpu", n_envs=3)
    starts = np.ones(3, bool)
    for step in range(4):
        observations, actions, rewards = step_of(ours)
        ours.append(observations, actions, rewards, np.zeros(3, bool))
        numbers = th.arange(3) + 10.0 * step
        ours.values[step], ours.log_probs[step] = numbers.numpy(), -numbers.numpy()
        theirs.add(observations, actions.reshape(3, 1), rewards, starts, numbers, -numbers)
    ours.close(observations, None)
    theirs.compute_returns_and_advantage(th.zeros(3), starts)
    ours.advantages, ours.returns = theirs.advantages.copy(), theirs.returns.copy()

    batches = []
    for buffer in (ours, theirs):
        np.random.seed(7)  # noqa: NPY002
        batches.append(list(buffer.get(batch_size)))
    assert len(batches[0]) == len(batches[1])
    for our_batch, their_batch in zip(*batches, strict=True):
        assert type(our_batch) is type(their_batch)
        for name in ("actions", "old_values", "old_log_prob", "advantages", "returns"):
            our_part, their_part = getattr(our_batch, name), getattr(their_batch, name)
            assert our_part.flatten().tolist() == their_part.flatten().tolist(), name
        for key in space.spaces if isinstance(space, spaces.Dict) else [None]:
            our_part, their_part = (
                batch.observations if key is None else batch.observations[key] for batch in (our_batch, their_batch)
            )
            assert th.equal(our_part.float(), their_part.float()), key


@pytest.mark.parametrize("valid", [None, VALID], ids=["all", "some"])
def test_a_permutation_has_every_step_of_the_batch_once(valid: Any) -> None:
    buffer = filled(valid=valid)
    np.random.seed(3)  # noqa: NPY002
    drawn = [buffer.permutation().tolist() for _ in range(3)]
    assert all(sorted(order) == list(range(buffer.n_valid)) for order in drawn)
    assert drawn[0] != drawn[1] != drawn[2]


@pytest.mark.parametrize("order", [None, np.array([4, 2, 0, 1, 3])])
@pytest.mark.parametrize("batch_size", [None, 1, 2, 5, 9])
def test_minibatches_cut_the_batch_in_the_order_given(order: Any, batch_size: int | None) -> None:
    samples = filled(valid=VALID).samples()
    parts = list(minibatches(samples, batch_size, order))
    size = batch_size or 5
    assert [len(part.advantages) for part in parts] == [min(size, 5 - first) for first in range(0, 5, size)]
    expected = samples.advantages if order is None else samples.advantages[order]
    assert th.cat([part.advantages for part in parts]).tolist() == expected.tolist()
    together = th.cat([part.observations for part in parts])
    assert th.equal(together, samples.observations if order is None else samples.observations[order])


def test_a_whole_batch_in_its_own_order_is_not_copied() -> None:
    samples = filled().samples()
    assert next(minibatches(samples, None, None)) is samples


@pytest.mark.parametrize("space", [FLAT, DICT], ids=["Box", "Dict"])
def test_pieces_are_the_batch_in_its_order_cut_to_the_memory_allowed(
    space: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = filled(space).samples()
    assert list(pieces(samples)) == [samples]
    n_numbers = 3 if space is FLAT else 3 + 16 + 1
    monkeypatch.setattr("sb3_pg.rollout.observations.PIECE_BYTES", 3 * 4 * n_numbers)
    parts = list(pieces(samples))
    assert [len(part.advantages) for part in parts] == [3, 3, 2]
    assert th.cat([part.advantages for part in parts]).tolist() == samples.advantages.tolist()


# -- time limits ------------------------------------------------------------------------------------------------------


def truncate(buffer: TrajectoryBuffer, *places: tuple[int, int]) -> None:
    buffer.terminal_observations += [TerminalObservation(step, env, np.zeros(3)) for step, env in places]


def test_discarding_takes_out_every_step_of_a_truncated_episode_and_no_other() -> None:
    buffer = filled(dones=[[0, 0], [1, 0], [0, 1], [1, 0]])
    truncate(buffer, (3, 0), (2, 1))  # the first episode of environment 0 terminated
    buffer.discard_truncated()
    assert buffer.valid is not None
    assert buffer.valid.astype(int).tolist() == [[1, 0], [1, 0], [0, 0], [0, 1]]
    assert buffer.n_valid == 3


def test_discarding_an_episode_that_began_in_the_rollout_before_stops_at_the_first_row() -> None:
    buffer = filled(dones=np.zeros((3, N_ENVS)))
    buffer.reset(np.array([False, False]))
    fill(buffer, [[0, 0], [1, 0], [0, 0], [0, 0]])
    truncate(buffer, (1, 0))
    buffer.discard_truncated()
    assert buffer.valid is not None
    assert buffer.valid.astype(int).tolist() == [[0, 1], [0, 1], [1, 1], [1, 1]]


def test_discarding_keeps_out_what_was_not_in_the_batch() -> None:
    buffer = filled(dones=[[1, 0], [0, 0], [1, 0], [0, 1]], valid=np.array([[1, 1], [1, 1], [1, 1], [0, 1]], bool))
    truncate(buffer, (2, 0))
    buffer.discard_truncated()
    assert buffer.valid is not None
    assert buffer.valid.astype(int).tolist() == [[1, 1], [0, 1], [0, 1], [0, 1]]


def test_without_a_time_limit_nothing_is_discarded() -> None:
    buffer = filled(dones=[[1, 0], [0, 0], [1, 0], [0, 1]])
    buffer.discard_truncated()
    assert buffer.n_valid == 8


def test_discarding_everything_is_refused_with_what_is_accepted() -> None:
    buffer = filled(dones=[[0, 0], [0, 0], [0, 0], [1, 1]])
    truncate(buffer, (3, 0), (3, 1))
    with pytest.raises(ValueError, match=r"truncation='discard' left none of the 8 steps .*accepted are") as error:
        buffer.discard_truncated()
    assert "truncation='bootstrap' and 'terminal'" in str(error.value)


# -- NaN and infinity -------------------------------------------------------------------------------------------------

BOX_ACTIONS = ACTION_SPACES["Box"]


def test_finite_numbers_pass_however_large() -> None:
    buffer = filled(action_space=BOX_ACTIONS)
    largest = np.finfo(np.float32).max
    buffer.observations[:], buffer.rewards[:] = largest, -largest
    buffer.check_finite(8)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "said"), [("observations", "observation"), ("actions", "action"), ("rewards", "reward")]
)
def test_a_number_that_is_not_finite_is_named_with_its_environment_and_step(name: str, said: str, wrong: float) -> None:
    buffer = filled(action_space=BOX_ACTIONS)
    getattr(buffer, name)[2, 1] = wrong
    with pytest.raises(ValueError, match=rf"^{said} of environment 1 is {wrong} at step 2 ") as error:
        buffer.check_finite(12345)
    assert "timestep 12345" in str(error.value)
    assert "finite numbers are expected" in str(error.value)


def test_the_part_of_a_dict_observation_that_is_not_finite_is_named() -> None:
    buffer = filled(DICT)
    buffer.observations["flat"][3, 0, 1] = np.nan
    with pytest.raises(ValueError, match=r"^observation 'flat' of environment 0 is nan at step 3 "):
        buffer.check_finite(8)


def test_the_first_of_several_numbers_that_are_not_finite_is_named() -> None:
    buffer = filled()
    buffer.rewards[3, 0] = buffer.rewards[1, 1] = buffer.rewards[2, 0] = np.nan
    with pytest.raises(ValueError, match=r"^reward of environment 1 is nan at step 1 "):
        buffer.check_finite(8)


def test_infinities_of_both_signs_do_not_cancel() -> None:
    buffer = filled()
    buffer.rewards[1, 0], buffer.rewards[2, 0] = np.inf, -np.inf
    with pytest.raises(ValueError, match=r"^reward of environment 0 is inf at step 1 "):
        buffer.check_finite(8)


def test_what_an_earlier_rollout_left_behind_is_not_looked_at() -> None:
    buffer = filled()
    buffer.rewards[3, 1] = np.nan
    buffer.reset()
    fill(buffer, np.zeros((2, N_ENVS)))
    buffer.check_finite(8)


def test_an_open_rollout_is_checked_up_to_its_last_step() -> None:
    buffer = seeded(make())
    buffer.append(*step_of(buffer), np.zeros(N_ENVS, bool))
    observations, actions, rewards = step_of(buffer)
    observations[1, 2] = np.nan
    buffer.append(observations, actions, rewards, np.zeros(N_ENVS, bool))
    with pytest.raises(ValueError, match=r"^observation of environment 1 is nan at step 1 "):
        buffer.check_finite(4)


def test_the_observation_after_the_last_step_is_checked_too_since_the_critic_values_it() -> None:
    buffer = seeded(make())
    for _ in range(4):
        buffer.append(*step_of(buffer), np.zeros(N_ENVS, bool))
    last = step_of(buffer)[0]
    last[1, 0] = np.nan
    buffer.close(last, None)
    with pytest.raises(ValueError, match=r"^observation of environment 1 is nan at step 4 "):
        buffer.check_finite(8)


def test_the_terminal_observation_of_a_time_limit_is_checked_too_since_the_critic_values_it() -> None:
    buffer = filled(dones=[[0, 0], [1, 0], [0, 0], [0, 0]])
    buffer.terminal_observations.append(TerminalObservation(1, 0, np.array([0.0, np.nan, 0.0])))
    with pytest.raises(ValueError, match=r"observation of environment 0 .*nan.* step "):
        buffer.check_finite(8)
