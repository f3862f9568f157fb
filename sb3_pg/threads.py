"""How many threads torch may use while a small network is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th
from torch import nn

# Up to this many weights one thread does the work of an update in milliseconds, and waiting for a second thread that
# shares its core with another process takes longer than it could save (measured: up to ten times slower).
SMALL_NETWORK = 100_000


@contextmanager
def one_thread_if_small(network: nn.Module) -> Iterator[None]:
    """Let torch use one thread for a small network on a CPU, and put the number of threads back afterwards.

    :param network: has at most :data:`SMALL_NETWORK` weights to count as small
    """
    before = th.get_num_threads()
    parameters = list(network.parameters())
    small = sum(parameter.numel() for parameter in parameters) <= SMALL_NETWORK
    if before == 1 or not small or any(parameter.device.type != "cpu" for parameter in parameters):
        yield
        return
    th.set_num_threads(1)
    try:
        yield
    finally:
        th.set_num_threads(before)
