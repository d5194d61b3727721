"""Samplers whose noise comes from 32-bit words on a GPU, emulated with a CPU's logarithms."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...atoms import Atoms
from ...uniforms.cuda import Word32
from ..sampler import UniformSampler


def negative_log(exponential: Tensor) -> Tensor:
    """-log E in the dtype of E."""
    return -exponential.log()


@dataclass(frozen=True)
class Word32Sampler(UniformSampler):
    """The noise table is made word block by word block and never holds the uniforms: tens of millions of atoms. Two
    recipes with the same source and noise share it."""

    source: Word32

    def noise_atoms(self) -> Atoms:
        return self.source.push(self.noise_of)
