"""Which versions of which packages made a result."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import sb3_pg


def version_of(name: str) -> str:
    """
    Version of an installed package.

    A training that is over is not to be lost for want of a number: a checkout on PYTHONPATH has no metadata, and not
    every environment needs every package.

    :param name: of the distribution
    :return: ``"not installed"`` where there is no such distribution
    """
    try:
        return version(name)
    except PackageNotFoundError:
        return sb3_pg.__version__ if name == "sb3_pg" else "not installed"
