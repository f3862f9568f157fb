"""Files are read as documented, and wrong ones get errors that name what is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_pg.doctor import arrays
from sb3_pg.doctor.arrays import KEYS, check_rollout, read_rollout

SHAPE = (10, 2)
ONES = np.ones(SHAPE)
VALUES: dict[str, Any] = dict(values=ONES, next_values=ONES, gamma=0.9, gae_lambda=0.9)


def complete(**instead: Any) -> dict[str, Any]:
    found = dict(rewards=ONES, terminated=np.zeros(SHAPE), truncated=np.zeros(SHAPE), advantages=ONES, **VALUES)
    return {name: value for name, value in {**found, **instead}.items() if value is not None}


@pytest.mark.parametrize(
    ("instead", "message"),
    [
        (dict(reward=ONES), r"has the key 'reward'; accepted are rewards, dones,"),
        (dict(rewards=None), r"needed are rewards, and dones or terminated and truncated"),
        (dict(terminated=None), r"has truncated without terminated; both are needed, or dones|needed are rewards"),
        (dict(truncated=None), r"has terminated without truncated; both are needed, or dones"),
        (dict(terminated=None, truncated=None), r"needed are rewards, and dones or"),
        (dict(values=None), r"has advantages without values, which it is checked with"),
        (dict(gamma=None, gae_lambda=None), r"has advantages without gamma, gae_lambda"),
        (dict(next_values=None), r"values without last_values or next_values"),
        (dict(next_values=None, last_values=np.ones(3)), r"last_values has shape \(3,\); expected is \(2,\)"),
        (dict(advantages=np.ones((9, 2))), r"advantages has shape \(9, 2\); expected is that of rewards, \(10, 2\)"),
        (dict(rewards=np.ones((2, 2))), r"rewards has shape \(2, 2\).*at least 16 steps"),
        (dict(rewards=np.ones((3, 3, 3))), r"rewards has shape \(3, 3, 3\)"),
        (dict(rewards=np.full(SHAPE, np.nan)), r"rewards holds nan; expected are finite numbers"),
        (dict(rewards=np.full(SHAPE, "a")), r"rewards has dtype <U1; expected are numbers"),
        (dict(terminated=2 * ONES), r"terminated holds 2.0; expected are 0 and 1"),
        (dict(gamma=1.5), r"gamma is 1.5; expected is one number in \[0, 1\]"),
        (dict(gae_lambda=np.ones(2)), r"gae_lambda has shape \(2,\); expected is one number, for all steps"),
        (dict(log_probs=np.ones(7)), r"log_probs has shape \(7,\); expected is \(10, 2\)"),
        (dict(actions=np.ones(7)), r"actions has shape \(7,\); expected is \(10, 2, 'action_dim'\)"),
        (dict(means=ONES), r"has means without stds, actions, log_probs"),
        (dict(log_probs=ONES, actions=ONES, means=ONES, stds=np.ones(7)), r"stds has shape \(7,\)"),
        (dict(log_probs=ONES, actions=ONES, logits=np.ones(7)), r"logits has shape \(7,\)"),
    ],
)
def test_wrong_arrays_are_refused(instead: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_rollout(complete(**instead))


def test_complete_arrays_are_accepted() -> None:
    assert check_rollout(complete()).ends_are_told_apart
    assert not check_rollout(complete(terminated=None, truncated=None, dones=np.zeros(SHAPE))).ends_are_told_apart


def test_a_step_that_is_both_terminated_and_truncated_is_terminated() -> None:
    found = check_rollout(complete(terminated=ONES, truncated=ONES))
    assert found.terminated.all()
    assert not found.truncated.any()


def test_time_limits_may_come_with_dones() -> None:
    truncated = np.zeros(SHAPE)
    truncated[3] = 1
    found = check_rollout(complete(terminated=None, dones=ONES, truncated=truncated))
    assert found.truncated.sum() == 2
    assert found.terminated.sum() == 18


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such file"):
        read_rollout(tmp_path / "none.npz")
    text, objects, single = (tmp_path / name for name in ("text.npz", "objects.npz", "single.npy"))
    text.write_text("rewards")
    np.savez(objects, rewards=np.array([{}], dtype=object))
    np.save(single, np.ones(20))
    for path in (text, objects, single):
        with pytest.raises(ValueError, match=r"expected is a file of numpy\.savez without Python objects"):
            read_rollout(path)


def test_a_file_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **complete())
    assert read_rollout(tmp_path / "mine.npz").gamma == 0.9


def test_every_key_is_documented() -> None:
    documented = (arrays.__doc__ or "").replace(",", " ").split()
    assert set(KEYS) <= set(documented)
