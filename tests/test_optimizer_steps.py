"""Steps and clipped gradients are torch's own, bit for bit, whatever takes part in them."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from helpers import same
from torch.optim.optimizer import register_optimizer_step_post_hook

from sb3_pg.optimizer_steps import clip_gradient, take_step

SHAPES = [(4, 3), (4,), (2, 4), (2,), ()]


def weights_with_gradients(seed: int, scale: float = 1.0, without: int | None = None) -> list[th.Tensor]:
    generator = th.Generator().manual_seed(seed)
    weights = [th.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]
    for number, weight in enumerate(weights):
        weight.grad = None if number == without else scale * th.randn(weight.shape, generator=generator)
    return weights


def trained(step: Any, build: Any, n_steps: int = 20, **kwargs: Any) -> tuple[list[th.Tensor], dict[str, Any]]:
    """Weights and state after steps along gradients that are the same for all."""
    weights = weights_with_gradients(0)
    optimizer = build(weights, **kwargs)
    for number in range(n_steps):
        for weight, other in zip(weights, weights_with_gradients(number, without=number % 7), strict=True):
            weight.grad = other.grad
        optimizer.param_groups[0]["lr"] = 0.1 / (number + 1)
        step(optimizer)
    return [weight.detach() for weight in weights], optimizer.state_dict()


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(fused=True), dict(fused=True, weight_decay=0.1), dict(fused=True, maximize=True, betas=(0.5, 0.9)),
        dict(fused=True, eps=1e-3), dict(fused=True, amsgrad=True), dict(fused=False), dict(foreach=True), {},
        dict(fused=True, decoupled_weight_decay=True, weight_decay=0.1),
    ],
    ids=str,
)  # fmt: skip
def test_a_step_of_adam_is_adam_s(kwargs: dict[str, Any]) -> None:
    ours, theirs = trained(take_step, th.optim.Adam, **kwargs), trained(lambda o: o.step(), th.optim.Adam, **kwargs)
    assert same(ours, theirs)


@pytest.mark.parametrize("build", [th.optim.SGD, th.optim.RMSprop, th.optim.AdamW, th.optim.Adagrad])
def test_a_step_of_another_optimizer_is_its_own(build: Any) -> None:
    assert same(trained(take_step, build, lr=0.1), trained(lambda o: o.step(), build, lr=0.1))


class Twice(th.optim.Adam):
    """An optimizer of the user's."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        return super().step(closure)


def test_a_subclass_of_adam_takes_its_own_step() -> None:
    assert same(trained(take_step, Twice, fused=True), trained(lambda o: o.step(), Twice, fused=True))


def test_groups_with_learning_rates_of_their_own_keep_them() -> None:
    def build(weights: list[th.Tensor]) -> th.optim.Adam:
        return th.optim.Adam([dict(params=weights[:2]), dict(params=weights[2:], lr=0.5)], lr=0.1, fused=True)

    assert same(trained(take_step, build), trained(lambda o: o.step(), build))


@pytest.mark.parametrize("which", ["pre", "post", "scheduler", "global"])
def test_whatever_takes_part_in_the_step_is_called(which: str) -> None:
    weights = weights_with_gradients(0)
    optimizer, calls = th.optim.Adam(weights, fused=True), []
    handles: list[Any] = []
    if which == "pre":
        handles.append(optimizer.register_step_pre_hook(lambda *_: calls.append(1)))
    elif which == "post":
        handles.append(optimizer.register_step_post_hook(lambda *_: calls.append(1)))
    elif which == "global":
        handles.append(register_optimizer_step_post_hook(lambda *_: calls.append(1)))
    else:
        scheduler = th.optim.lr_scheduler.StepLR(optimizer, 1)
        calls.append(scheduler.last_epoch)
    try:
        for _ in range(3):
            take_step(optimizer)
    finally:
        for handle in handles:
            handle.remove()
    counted = optimizer._opt_called if which == "scheduler" else len(calls) == 3  # type: ignore[attr-defined]
    assert counted


@pytest.mark.parametrize("longest", [0.01, 0.5, 3.0, float("inf")])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("without", [None, 2])
def test_a_clipped_gradient_is_torch_s(longest: float, scale: float, without: int | None) -> None:
    for seed in range(20):
        ours, theirs = (weights_with_gradients(seed, scale, without) for _ in range(2))
        assert clip_gradient(ours, longest) == th.nn.utils.clip_grad_norm_(theirs, longest).item()
        assert same([weight.grad for weight in ours], [weight.grad for weight in theirs])


def test_gradients_of_several_kinds_and_none_at_all_are_left_to_torch() -> None:
    ours, theirs = (weights_with_gradients(0), weights_with_gradients(0))
    for weights in (ours, theirs):
        weights.append(th.ones(2, dtype=th.float64).requires_grad_())
        weights[-1].grad = th.ones(2, dtype=th.float64)
    assert clip_gradient(ours, 0.1) == th.nn.utils.clip_grad_norm_(theirs, 0.1).item()
    assert same([weight.grad for weight in ours], [weight.grad for weight in theirs])
    assert clip_gradient([th.ones(2)], 0.1) == 0
