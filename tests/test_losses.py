"""The losses against hand numbers, finite differences and the closed-form gradients of a two-armed bandit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical

from sb3_pg.losses import approximate_kl, clipped_loss, entropy_loss, importance_loss, value_loss, vanilla_loss

quick = settings(deadline=None, max_examples=50, derandomize=True)

Loss = Callable[[th.Tensor], th.Tensor]


def tensor(*numbers: float, **kwargs: Any) -> th.Tensor:
    return th.tensor(numbers, dtype=th.float64, **kwargs)


def gradient(loss: Loss, at: th.Tensor) -> list[float]:
    leaf = at.clone().requires_grad_()
    return th.autograd.grad(loss(leaf), leaf)[0].tolist()


def finite_differences(loss: Loss, at: th.Tensor, step: float = 1e-5) -> list[float]:
    moves = step * th.eye(len(at), dtype=at.dtype)
    return [((loss(at + move) - loss(at - move)) / (2 * step)).item() for move in moves]


# A two-armed bandit, softmax policy. Arm 0 has probability 3/4, and in a batch where three of four pulls are of arm 0
# an average over the batch is the expectation under the policy, exactly.
LOGITS = tensor(float(np.log(3)), 0.0)
PULLS = th.tensor([0, 0, 0, 1])
REWARDS = tensor(5.0, -2.0)
PSI = REWARDS[PULLS]
GRADIENT_OF_J = [0.75 * 0.25 * (5 + 2), -0.75 * 0.25 * (5 + 2)]  # p_0 p_1 (r_0 - r_1), and the opposite


def log_probs_of(logits: th.Tensor, pulls: th.Tensor = PULLS) -> th.Tensor:
    return th.log_softmax(logits, dim=0)[pulls]


OLD = log_probs_of(LOGITS)
MOVED = tensor(0.3, 0.5)  # another policy: the ratios are about 0.60 and 2.20

BANDIT_LOSSES: dict[str, Loss] = {
    "vanilla": lambda logits: vanilla_loss(log_probs_of(logits), PSI),
    "importance": lambda logits: importance_loss(log_probs_of(logits), PSI, OLD),
    "clipped": lambda logits: clipped_loss(log_probs_of(logits), PSI, OLD, 0.2),
    "entropy from samples": lambda logits: entropy_loss(None, log_probs_of(logits)),
    "entropy in closed form": lambda logits: entropy_loss(Categorical(logits=logits).entropy()[None], OLD),
    "value": lambda values: value_loss(values, tensor(1.0, -3.0)),
    "kl": lambda logits: approximate_kl(log_probs_of(logits), OLD),
}


@pytest.mark.parametrize("name", list(BANDIT_LOSSES))
@pytest.mark.parametrize("at", [MOVED, tensor(-1.0, 0.4), tensor(1.2, 0.05)], ids=["moved", "far", "near"])
def test_the_gradient_of_every_loss_is_its_finite_difference(name: str, at: th.Tensor) -> None:
    loss = BANDIT_LOSSES[name]
    assert loss(at).shape == ()
    assert gradient(loss, at) == pytest.approx(finite_differences(loss, at), abs=1e-8)


def test_the_vanilla_loss_by_hand() -> None:
    log_probs, advantages = tensor(-1.0, -0.5, -2.0), tensor(2.0, 4.0, -3.0)
    assert vanilla_loss(log_probs, advantages).item() == pytest.approx(-((2 * -1) + (4 * -0.5) + (-3 * -2)) / 3)


def test_the_vanilla_gradient_is_minus_the_expected_score_times_psi() -> None:
    assert gradient(BANDIT_LOSSES["vanilla"], LOGITS) == pytest.approx([-x for x in GRADIENT_OF_J], abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(-10, 10)), min_size=1, max_size=8), st.floats(-3, 3))
@quick
def test_the_vanilla_gradient_of_any_batch_is_minus_the_mean_score_times_psi(
    batch: list[tuple[int, float]], logit: float
) -> None:
    """The score of a softmax is the unit vector of the arm minus the probabilities."""
    logits = tensor(logit, 0.0)
    probabilities = logits.softmax(0).numpy()
    expected = -np.mean([psi * (np.eye(2)[pull] - probabilities) for pull, psi in batch], axis=0)
    pulls, psi = th.tensor([pull for pull, _ in batch]), tensor(*(psi for _, psi in batch))
    result = gradient(lambda at: vanilla_loss(log_probs_of(at, pulls), psi), logits)
    assert result == pytest.approx(expected.tolist(), abs=1e-12)


def test_at_the_old_policy_all_three_losses_have_the_vanilla_gradient() -> None:
    vanilla = gradient(BANDIT_LOSSES["vanilla"], LOGITS)
    assert gradient(BANDIT_LOSSES["importance"], LOGITS) == pytest.approx(vanilla, abs=1e-12)
    assert gradient(BANDIT_LOSSES["clipped"], LOGITS) == pytest.approx(vanilla, abs=1e-12)


def test_importance_weights_give_the_new_policys_gradient_from_the_old_policys_samples() -> None:
    first, second = MOVED.softmax(0).tolist()
    expected = -first * second * (5 + 2)
    assert gradient(BANDIT_LOSSES["importance"], MOVED) == pytest.approx([expected, -expected], abs=1e-12)
    # and minus the new policy's expected reward as the loss itself
    assert BANDIT_LOSSES["importance"](MOVED).item() == pytest.approx(-(first * 5 + second * -2))


CLIPPED_BY_HAND = [
    # ratio, advantage, loss for clip_range 0.2, derivative by the new log-probability: -advantage * ratio, or zero
    (1.5, 2.0, -(1.2 * 2.0), 0.0),  # good and more likely already: held
    (1.5, -2.0, 1.5 * 2.0, 3.0),  # bad and more likely: pushed back
    (0.5, 2.0, -(0.5 * 2.0), -1.0),  # good and less likely: pushed back
    (0.5, -2.0, 0.8 * 2.0, 0.0),  # bad and less likely already: held
    (1.1, 2.0, -(1.1 * 2.0), -2.2),
    (1.1, -2.0, 1.1 * 2.0, 2.2),
    (0.9, 2.0, -(0.9 * 2.0), -1.8),
    (0.9, -2.0, 0.9 * 2.0, 1.8),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "derivative"), CLIPPED_BY_HAND)
def test_the_clipped_loss_by_hand(ratio: float, advantage: float, loss: float, derivative: float) -> None:
    old = tensor(-1.3)
    new = old + np.log(ratio)
    assert clipped_loss(new, tensor(advantage), old, 0.2).item() == pytest.approx(loss)
    assert gradient(lambda at: clipped_loss(at, tensor(advantage), old, 0.2), new) == pytest.approx([derivative])


def test_a_clipped_step_takes_nothing_from_the_gradient_of_the_others() -> None:
    ratios, advantages, losses, derivatives = (tensor(*column) for column in zip(*CLIPPED_BY_HAND, strict=True))
    old = th.full((8,), -0.7, dtype=th.float64)
    new = old + ratios.log()
    assert clipped_loss(new, advantages, old, 0.2).item() == pytest.approx(losses.mean().item())
    result = gradient(lambda at: clipped_loss(at, advantages, old, 0.2), new)
    assert result == pytest.approx((derivatives / 8).tolist())


log_ratios = st.lists(st.tuples(st.floats(-2, 2), st.floats(-10, 10)), min_size=1, max_size=8)


@given(log_ratios, st.floats(0.01, 0.9))
@quick
def test_clipping_never_lowers_the_loss_and_without_effect_is_importance(
    batch: list[tuple[float, float]], clip_range: float
) -> None:
    log_ratio, advantages = tensor(*(x for x, _ in batch)), tensor(*(a for _, a in batch))
    old = th.full_like(log_ratio, -1.0)
    importance = importance_loss(old + log_ratio, advantages, old).item()
    assert clipped_loss(old + log_ratio, advantages, old, clip_range).item() >= importance - 1e-9
    assert clipped_loss(old + log_ratio, advantages, old, 100.0).item() == pytest.approx(importance, abs=1e-9)


def test_the_value_loss_by_hand() -> None:
    values, returns = tensor(1.0, 2.0), tensor(3.0, 5.0)
    assert value_loss(values, returns).item() == (2**2 + 3**2) / 2
    assert gradient(lambda at: value_loss(at, returns), values) == [2 * (1 - 3) / 2, 2 * (2 - 5) / 2]


def test_the_entropy_loss_with_a_closed_form_is_minus_its_mean_and_ignores_the_samples() -> None:
    assert entropy_loss(tensor(1.0, 2.0, 6.0), tensor(-9.0, -9.0, -9.0)).item() == -(1 + 2 + 6) / 3


def test_the_entropy_loss_without_a_closed_form_is_the_mean_log_probability() -> None:
    assert entropy_loss(None, tensor(-1.0, -2.0, -6.0)).item() == -(1 + 2 + 6) / 3


def test_both_ways_to_the_entropy_agree_in_expectation() -> None:
    closed_form = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert entropy_loss(None, OLD).item() == pytest.approx(-closed_form)
    assert entropy_loss(tensor(closed_form), OLD).item() == pytest.approx(-closed_form)


def test_lowering_the_entropy_loss_makes_the_policy_more_even() -> None:
    first, second = gradient(BANDIT_LOSSES["entropy in closed form"], LOGITS)
    assert first > 0 > second  # a step against it lowers the logit of the likelier arm


def test_the_approximate_kl_in_expectation_is_the_kl_divergence() -> None:
    old, new = LOGITS.softmax(0), MOVED.softmax(0)
    expected = (old * (old / new).log()).sum().item()
    assert approximate_kl(log_probs_of(MOVED), OLD).item() == pytest.approx(expected)


def test_the_approximate_kl_by_hand() -> None:
    expected = ((2 - 1) - np.log(2) + (0.5 - 1) - np.log(0.5)) / 2
    assert approximate_kl(tensor(np.log(2), np.log(0.5)), tensor(0.0, 0.0)).item() == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(-5, 0), st.floats(-5, 0)), min_size=1, max_size=8))
@quick
def test_the_approximate_kl_is_never_negative_and_zero_at_equality(pairs: list[tuple[float, float]]) -> None:
    new, old = tensor(*(x for x, _ in pairs)), tensor(*(x for _, x in pairs))
    assert approximate_kl(new, old).item() >= -1e-15  # rounding
    assert approximate_kl(old, old).item() == 0


def test_the_approximate_kl_of_any_move_is_above_zero() -> None:
    for log_ratio in (-1.0, -0.01, 0.01, 1.0):
        assert approximate_kl(tensor(log_ratio), tensor(0.0)).item() > 0
