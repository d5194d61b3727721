"""Uniforms on a grid of 2^bits points, at the left end or in the centre of each cell."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..atoms import Atoms
from ..errors import InputError
from ..formats import FORMATS, FloatFormat
from .source import Source, evaluated_here


@dataclass(frozen=True)
class Grid(Source):
    """k 2^-bits, or (k + 1/2) 2^-bits if ``centred``, k uniform on [0, 2^bits), rounded to ``format`` (to
    nearest, ties to even): exact up to ``format.precision`` bits, one fewer if centred; beyond, the top can
    round to 1.

    ``whose``: the library whose generator this grid stands for, if any. Raises InputError unless 1 <= bits <=
    53 and the format is float32 or float64."""

    centred: bool = False
    whose: str = field(default="", kw_only=True, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 53:
            raise InputError(f"a grid of {self.bits} bits", "1..53", "float64 holds no more")
        if self.format.name not in ("fp32", "fp64"):
            raise InputError(f"a grid in {self.format.name}", "fp32 or fp64", "cast what it returns")

    @property
    def emulated(self) -> str | None:
        return evaluated_here(self.whose) if self.whose else None

    @property
    def enumerable(self) -> bool:
        """2^26 atoms are a gibibyte."""
        return self.bits <= 26

    def from_words(self, words: Tensor) -> Tensor:
        return ((words.double() + self.centred / 2) * 2.0**-self.bits).to(self.dtype)

    def native(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        return self.from_words(torch.randint(0, 1 << self.bits, shape, generator=rng, device=rng.device))

    def atoms(self) -> Atoms:
        if not self.enumerable:
            raise InputError(f"{self.name}, 2^{self.bits} atoms", "at most 2^26", "use its certified law")
        centres = np.ldexp(np.arange(1 << self.bits, dtype=np.float64) + self.centred / 2, -self.bits)
        return Atoms.of(self.format.round(centres), 1, self.bits)


def grid(bits: int, *, centred: bool = False, format: FloatFormat = FORMATS["fp32"]) -> Grid:
    return Grid(f"{'centred ' if centred else ''}{bits}-bit grid, {format.name}", format, bits, centred)


# tensorflow/core/lib/random/random_distributions_utils.h: the low 23 bits are the mantissa of a float in [1,
# 2), less 1; in double, 52 bits.
_TENSORFLOW = "TensorFlow's Philox and its logarithm, logf on CUDA or the C library's on CPU"
TENSORFLOW_FP32 = Grid("tensorflow uniform float32", FORMATS["fp32"], 23, whose=_TENSORFLOW)
TENSORFLOW_FP64 = Grid("tensorflow uniform float64", FORMATS["fp64"], 52, whose=_TENSORFLOW)
# The Rust crate rand (0.9), distr/uniform_float.rs: the high 23 bits, the same way.
RUST_RAND_FP32 = Grid(
    "rand::distr::Uniform f32", FORMATS["fp32"], 23, whose="the Rust crate rand 0.9 and Rust's f32 logarithm"
)
