"""Small networks are trained on one thread, and nothing of it is left afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch as th
from threadpoolctl import ThreadpoolController
from torch import nn

from sb3_pg import VPG
from sb3_pg.threads import SMALL_NETWORK, one_thread_if_small


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = th.get_num_threads()
    th.set_num_threads(2)
    yield
    th.set_num_threads(before)


def test_a_small_network_has_one_thread_inside_and_the_old_number_after() -> None:
    with one_thread_if_small(nn.Linear(4, 64)):
        assert th.get_num_threads() == 1
    assert th.get_num_threads() == 2


def blas_threads() -> set[int]:
    found = {pool["num_threads"] for pool in ThreadpoolController().info() if pool["user_api"] == "blas"}
    assert found, f"NumPy {np.__version__} should bring a BLAS library"
    return found


def test_numpys_blas_has_one_thread_inside_and_the_old_number_after() -> None:
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        before = blas_threads()
        with one_thread_if_small(nn.Linear(4, 64)):
            assert blas_threads() == {1}
        assert blas_threads() == before == {2}


def test_the_number_comes_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="inside"), one_thread_if_small(nn.Linear(4, 64)):
        raise ValueError("inside")
    assert th.get_num_threads() == 2


def test_a_large_network_keeps_its_threads() -> None:
    with one_thread_if_small(nn.Linear(SMALL_NETWORK, 1)):
        assert th.get_num_threads() == 2


def test_an_update_runs_on_one_thread_and_callbacks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {}
    step = VPG._step

    def watched_step(self: VPG, *args: Any) -> float:
        seen["update"] = th.get_num_threads()
        return step(self, *args)

    def callback(_locals: dict[str, Any], _globals: dict[str, Any]) -> bool:
        seen["callback"] = th.get_num_threads()
        return True

    monkeypatch.setattr(VPG, "_step", watched_step)
    VPG("MlpPolicy", "CartPole-v1", n_steps=32).learn(32, callback=callback)
    assert seen == {"update": 1, "callback": 2}


def test_blas_has_its_threads_again_when_two_trainings_overlap() -> None:
    network = nn.Linear(4, 64)

    def n_of_blas() -> list[int]:
        return [each["num_threads"] for each in ThreadpoolController().select(user_api="blas").info()]

    before = n_of_blas()
    first, second = one_thread_if_small(network), one_thread_if_small(network)
    first.__enter__()
    second.__enter__()
    assert set(n_of_blas()) == {1}
    first.__exit__(None, None, None)
    assert set(n_of_blas()) == {1}
    second.__exit__(None, None, None)
    assert n_of_blas() == before
