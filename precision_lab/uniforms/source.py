"""Sources of randomness: integer word -> u, each with the exact law of what it returns.

A source draws with the library's own generator (``torch.Generator``) or from our own words
(``np.random.Generator``, Philox by custom: counter-based and as fast as ``torch.rand``). Two precisions fed
the same words are *coupled*."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..atoms import Atoms
from ..errors import InputError
from ..formats import FloatFormat

Rng = torch.Generator | np.random.Generator
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


def words(shape: tuple[int, ...], bits: int, *, rng: np.random.Generator) -> Tensor:
    """Uniform integers in [0, 2^bits), int32 up to 31 bits (half the memory and time), else int64; for 64
    bits the int64 has the pattern of the word, its sign bit included."""
    if bits == 64:
        return torch.from_numpy(rng.integers(0, 1 << 64, size=shape, dtype=np.uint64).view(np.int64))
    dtype = np.int32 if bits <= 31 else np.int64
    return torch.from_numpy(rng.integers(0, 1 << bits, size=shape, dtype=dtype))


def evaluated_here(whose: str) -> str:
    """What :attr:`Source.emulated` says of another's arithmetic that stands on this machine's."""
    return f"{whose}, evaluated by torch on this CPU"


@dataclass(frozen=True)
class Source(ABC):
    """``name``; ``format`` of the values returned; ``bits`` of the word that each value uses."""

    name: str
    format: FloatFormat
    bits: int

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.format.name]

    @property
    def enumerable(self) -> bool:
        """Whether :meth:`atoms` can list the law."""
        return self.bits <= 24

    @property
    def emulated(self) -> str | None:
        """Whose arithmetic this is and on what it is evaluated, where it was not confirmed on this machine;
        None where it was."""
        return None

    @property
    def relative_bound(self) -> float:
        """Bound r on |value / true value - 1|, before a cast, where the published value is not known to the
        last bit; 0 where it is. For sources of exponentials.

        The law of a race is then off by 2 r at most. Exchange one token's E for the true one at a time: the
        winner changes only if E lies within r of the t below which the token wins, a window of mass 2 r t
        e^-t. Here t is p times the least E / p of the others, of density (1 - p) e^{-(1 - p) t / p} / p, so
        that the windows add up to 2 r sum p (1 - p) <= 2 r. Roundings after E, monotone, move t and not the
        window; the spacing of E is in r."""
        return 0.0

    @abstractmethod
    def from_words(self, words: Tensor) -> Tensor:
        """The published map, word -> value, in its own rounding."""

    @abstractmethod
    def native(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        """The library's own call."""

    @abstractmethod
    def atoms(self) -> Atoms:
        """The exact law of one value. InputError where it has too many atoms to list."""

    def push(self, function: Callable[[Tensor], Tensor]) -> Atoms:
        """The law of ``function(value)``, computed by torch in the dtype of the source; it need not be
        monotone. The last few laws are kept, as long as the same function object is asked for."""
        return pushed_law(self, function)

    def draw(self, shape: tuple[int, ...], *, rng: Rng) -> Tensor:
        if isinstance(rng, np.random.Generator):
            return self.from_words(words(shape, self.bits, rng=rng))
        if isinstance(rng, torch.Generator):
            return self.native(shape, rng=rng)
        raise InputError(
            f"rng of type {type(rng).__name__}", "torch.Generator or numpy.random.Generator", "pass rng=..."
        )


@lru_cache(maxsize=6)  # up to 270 MB each
def pushed_law(source: Source, function: Callable[[Tensor], Tensor]) -> Atoms:
    def mapped(values: np.ndarray) -> np.ndarray:
        return function(torch.from_numpy(np.ascontiguousarray(values)).to(source.dtype)).double().numpy()

    return source.atoms().push(mapped)
