"""The order of the tests, and one thread for each, as `make test` has it: sums of several differ in their last bit."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

HERE = Path(__file__).parent
LONGEST = ("zoo", "test_packaging.py", "study", "test_exact_gradients.py", "tune", "advantage", "rollout")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Put the longest files first.

    pytest-xdist hands whole files out in this order; a long one at the end would leave a worker idle.
    """
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.relative_to(HERE).parts[0], len(LONGEST)))
