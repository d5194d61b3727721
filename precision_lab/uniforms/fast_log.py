"""``-__logf(u)``, the fast logarithm of an NVIDIA H100 that ``Tensor.exponential_`` takes on CUDA, as
measured there.

The table holds u = 1 - k 2^-24 for k = 1 .. 2^21, E from 8.2e-9 to 0.1335: 86 % too small at k = 1, 0.3 % at
k = 256, 2e-4 at 4096 and below 1e-6 from 2^20 on. Beyond it NVIDIA's CUDA C++ Programming Guide (Intrinsic
Functions, ``__logf``) bounds the error: 2^-21.41 absolute for 0.5 <= x <= 2, otherwise 3 ulp."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import read_npz
from ..types import Array, Float

TABLE = Path(__file__).parent / "tables" / "logf_h100.npz"
SHA256 = (
    "ea11fdb0a1ad5df7e660f161a2894b94f1979300b15c1080eac0f327f4ee1fa9"  # of the float32 values, little-endian
)
PROVENANCE = "NVIDIA H100 80GB HBM3, torch 2.11.0+cu130"
LENGTH = 1 << 21
# E beyond the table is at least 0.1335: 2^-21.41 of it, one ulp of the logarithm that stands in, 2^-23, and
# the spacing of u, 2^-24 of it, are 3.3e-6 together.
RELATIVE_BOUND = 2.0**-18


def series(x: Float) -> Float:
    """-log(1 - x) for 0 <= x <= 1/8 in float64, by 24 terms of its series: additions and products alone,
    which every IEEE machine rounds alike."""
    total = np.zeros_like(x)
    for n in range(24, 0, -1):
        total = (1.0 / n + total) * x
    return total


def pack(values: Array) -> Array:
    """float32 values at k = 1 .. n as how many floats each lies above the series' own, in four planes of
    bytes, (4, n)."""
    base = series(np.arange(1, len(values) + 1, dtype=np.float64) * 2.0**-24).astype("<f4")
    apart = values.astype("<f4").view("<i4") - base.view("<i4")
    return np.ascontiguousarray(apart.astype("<i4").view(np.uint8).reshape(-1, 4).T)


def unpack(planes: Array) -> Array:
    """:func:`pack`, undone."""
    apart = np.ascontiguousarray(planes.T).view("<i4")[:, 0]
    base = series(np.arange(1, len(apart) + 1, dtype=np.float64) * 2.0**-24).astype("<f4")
    return (base.view("<i4") + apart).view("<f4")


@cache
def fast_log_table() -> Tensor:
    """-__logf(1 - k 2^-24), (2^21,) float32, k = 1 first. Raises InputError if the file is not the one
    shipped."""
    planes = read_npz(TABLE, dtypes={"planes": ("|u1",)}, most=4 * LENGTH)["planes"]
    if planes.shape != (4, LENGTH):
        raise InputError(f"{TABLE.name} of shape {planes.shape}", f"(4, {LENGTH})", "install the package again")
    values = unpack(planes)
    found = hashlib.sha256(values.tobytes()).hexdigest()
    if found != SHA256:
        raise InputError(
            f"{TABLE.name} of sha256 {found[:16]}...", f"{SHA256[:16]}...", "install the package again"
        )
    return torch.from_numpy(values.astype(np.float32))


def fast_exponential(u: Tensor) -> Tensor:
    """-__logf(u) of float32 u in (0, 1): the measured value for u >= 7/8, beyond it this machine's own -log
    u."""
    k = ((1 - u) * 2.0**24).long()  # exact for u >= 1/2
    known = (k >= 1) & (k <= LENGTH)
    table = fast_log_table().to(u.device)
    return torch.where(known, table[(k - 1).clamp(0, LENGTH - 1)], -torch.log(u))
