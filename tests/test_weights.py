"""Weights on disk: float16 and 8 bits a weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from precision_lab.errors import InputError
from precision_lab.mdm.weights import pack, unpack

MATRICES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=st.floats(-100, 100, width=32)
)


@given(matrix=MATRICES)
def test_eight_bits_are_off_by_half_a_step_of_their_row(matrix):
    found = unpack(pack({"w": torch.from_numpy(matrix)}, 8))["w"].numpy()
    step = np.abs(matrix).max(1, keepdims=True) / 127
    assert (np.abs(found - matrix) <= step * 0.5001 + 1e-30).all()
    largest = np.abs(matrix).max(1)
    np.testing.assert_allclose(np.abs(found).max(1), largest, rtol=1e-5, atol=1e-28)  # the ends of a row stay


@given(matrix=MATRICES)
def test_sixteen_bits_are_float16(matrix):
    kept = pack({"w": torch.from_numpy(matrix)})
    assert kept["w"].dtype == torch.float16
    np.testing.assert_array_equal(unpack(kept)["w"].numpy(), matrix.astype(np.float16).astype(np.float32))


def test_vectors_stay_float16_and_names_stay():
    weights = {"m": torch.ones(2, 3), "v": torch.tensor([1.0, 0.1])}
    kept = pack(weights, 8)
    assert {name: value.dtype for name, value in kept.items()} == {
        "m": torch.int8,
        "m.scale": torch.float32,
        "v": torch.float16,
    }
    assert set(unpack(kept)) == set(weights)


@pytest.mark.parametrize("scale", [None, torch.ones(3, 1), torch.ones(2, 1, dtype=torch.float64)])
def test_a_matrix_without_its_scale(scale):
    kept = pack({"m": torch.ones(2, 3)}, 8) | {"m.scale": scale}
    with pytest.raises(InputError, match=r"m in 8 bits with .* expected m\.scale"):
        unpack({name: value for name, value in kept.items() if value is not None})


@pytest.mark.parametrize(
    ("weights", "bits"),
    [
        ([1.0, 7e4], 16),  # float16 ends at 65,504
        ([1.0, 7e4], 8),  # vectors stay float16
        *((row, bits) for row in ([[1.0, np.nan]], [[1.0, -np.inf]]) for bits in (8, 16)),
    ],
)
def test_what_cannot_be_kept(weights, bits):
    with pytest.raises(InputError, match=r"got m with NaN, infinity or a value beyond float16"):
        pack({"v": torch.ones(2), "m": torch.tensor(weights)}, bits)


def test_eight_bits_with_a_scale_hold_what_float16_cannot():
    found = unpack(pack({"m": torch.tensor([[1e30, -1e30], [0.0, 0.0]])}, 8))["m"]
    torch.testing.assert_close(found, torch.tensor([[1e30, -1e30], [0.0, 0.0]]))


def test_other_widths():
    with pytest.raises(InputError, match="weights of 4 bits"):
        pack({}, 4)
