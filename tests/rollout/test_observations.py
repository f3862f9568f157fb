"""Rows of observations, in pieces of bounded memory."""

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_pg.rollout.observations import PIECE_BYTES, piece_slices, take_rows


@pytest.mark.parametrize("make", [np.zeros, th.zeros], ids=["arrays", "tensors"])
def test_a_piece_is_as_large_as_the_memory_allows(make: object) -> None:
    row = PIECE_BYTES // 4 // 3
    assert piece_slices(make((7, row))) == [slice(0, 3), slice(3, 6), slice(6, 7)]  # type: ignore[operator]
    both = {"a": make((7, row)), "b": make((7, row // 2))}  # type: ignore[operator]
    assert piece_slices(both) == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7)]


def test_a_row_that_is_larger_than_the_memory_goes_alone() -> None:
    assert piece_slices(np.zeros((2, PIECE_BYTES), dtype=np.uint8)) == [slice(0, 1), slice(1, 2)]


def test_numbers_count_as_float32_whatever_they_are_stored_in() -> None:
    small, large = (np.zeros((4, PIECE_BYTES // 8), dtype=dtype) for dtype in (np.uint8, np.float64))
    assert piece_slices(small) == piece_slices(large) == [slice(0, 2), slice(2, 4)]


@given(n_rows=st.integers(0, 40), width=st.integers(0, 5), piece=st.integers(1, 200))
def test_pieces_are_all_rows_once_and_in_order(n_rows: int, width: int, piece: int) -> None:
    observations = {"a": np.arange(n_rows * width, dtype=np.float32).reshape(n_rows, width), "b": np.arange(n_rows)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sb3_pg.rollout.observations.PIECE_BYTES", piece)
        slices = piece_slices(observations)
    parts = [take_rows(observations, rows) for rows in slices]
    assert [each for part in parts for each in part["b"].tolist()] == list(range(n_rows))
    assert all(len(part["a"]) == len(part["b"]) for part in parts)
    assert all(
        len(part["b"]) == 1 or part["a"][0].nbytes * len(part["b"]) + 4 * len(part["b"]) <= piece for part in parts
    )


def test_fewer_rows_than_there_are_can_be_cut() -> None:
    assert piece_slices(np.zeros((9, 2)), 4) == [slice(0, 4)]
    assert piece_slices(np.zeros((9, 2)), 0) == []
