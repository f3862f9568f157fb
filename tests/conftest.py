"""The order of the tests."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
LONGEST = ("zoo", "test_packaging.py", "study", "test_exact_gradients.py", "tune", "advantage", "rollout")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Put the longest files first.

    pytest-xdist hands whole files out in this order; a long one at the end would leave a worker idle.
    """
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.relative_to(HERE).parts[0], len(LONGEST)))
