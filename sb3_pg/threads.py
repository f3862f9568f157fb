"""How many threads torch and NumPy's BLAS may use while a small network is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from threading import Lock

import torch as th
from threadpoolctl import ThreadpoolController
from torch import nn

# Up to this many weights one thread does the work of an update in milliseconds, and waiting for a second thread that
# shares its core with another process takes longer than it could save (measured: ten times for torch, a hundred times
# for a matrix product of OpenBLAS).
SMALL_NETWORK = 100_000


@cache
def _controller() -> ThreadpoolController:
    """The BLAS libraries of this process; looked for once, since that takes longer than an update."""
    return ThreadpoolController()


class _OneThreadOfBlas:
    """BLAS has one number of threads for all threads of Python: the last one to leave puts it back."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._n_inside = 0
        self._limit = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_inside:
                self._limit.enter_context(_controller().limit(limits=1, user_api="blas"))
            self._n_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if not self._n_inside:
                self._limit.close()


_one_thread_of_blas = _OneThreadOfBlas()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch and BLAS use one thread, and put their numbers back afterwards."""
    before = th.get_num_threads()
    th.set_num_threads(1)
    try:
        with _one_thread_of_blas:
            yield
    finally:
        th.set_num_threads(before)


@contextmanager
def one_thread_if_small(network: nn.Module) -> Iterator[None]:
    """Let torch and BLAS use one thread for a small network on a CPU, and put their numbers back afterwards.

    :param network: has at most :data:`SMALL_NETWORK` weights to count as small
    """
    parameters = list(network.parameters())
    small = sum(parameter.numel() for parameter in parameters) <= SMALL_NETWORK
    if not small or any(parameter.device.type != "cpu" for parameter in parameters):
        yield
        return
    with one_thread():
        yield
