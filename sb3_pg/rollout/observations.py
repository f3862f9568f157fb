"""Observations of a batch, an array or a dict of arrays (or of tensors): taken by rows, and cut to bounded memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray

Observations = NDArray[Any] | dict[str, NDArray[Any]]
PIECE_BYTES = 2**25
"""Memory for the observations of one forward pass: what the networks need on top stays small beside the rollout."""


def piece_slices(observations: Any, n_rows: int | None = None) -> list[slice]:
    """
    Consecutive rows whose observations, as float32, fit into :data:`PIECE_BYTES`.

    :param observations: shape ``(batch, ...)``, or a dict of such arrays or tensors
    :param n_rows: how many rows are cut; the whole batch when not given
    """
    parts = list(observations.values()) if isinstance(observations, dict) else [observations]
    n_rows = len(parts[0]) if n_rows is None else n_rows
    step = max(1, PIECE_BYTES // max(1, sum(4 * math.prod(part.shape[1:]) for part in parts)))
    return [slice(first, min(first + step, n_rows)) for first in range(0, n_rows, step)]


def take_rows(observations: Any, rows: slice | th.Tensor | NDArray[Any]) -> Any:
    """Rows of an array or a tensor, or of each of a dict."""
    if isinstance(observations, dict):
        return {key: part[rows] for key, part in observations.items()}
    return observations[rows]


def own(observation: Any) -> Any:
    """A copy, since an environment may write its next observation into the same array."""
    if isinstance(observation, dict):
        return {key: own(part) for key, part in observation.items()}
    if isinstance(observation, tuple):
        return tuple(own(part) for part in observation)
    return np.array(observation)
