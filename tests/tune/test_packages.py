"""Versions are noted, and nothing is lost where there are none."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from typing import Any

import numpy as np
import pytest

import sb3_pg
from sb3_pg.tune import packages
from sb3_pg.tune.packages import version_of


def test_a_version_is_that_of_the_distribution() -> None:
    assert version_of("numpy") == np.__version__
    assert version_of("sb3_pg") == sb3_pg.__version__


def test_a_checkout_and_a_package_that_is_missing_are_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packages, "version", missing)
    assert version_of("sb3_pg") == sb3_pg.__version__
    assert version_of("mujoco") == "not installed"
