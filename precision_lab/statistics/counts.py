"""How often each token was drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..types import Float, Int
from ._checks import check_same_vocab, check_whole


@dataclass(frozen=True, eq=False)
class Counts:
    """``counts``: (vocab,) int64, how often each token was drawn.  ``n``: their sum, 1 or more."""

    counts: Int
    n: int

    def __post_init__(self) -> None:
        shape, dtype = np.shape(self.counts), getattr(self.counts, "dtype", type(self.counts).__name__)
        if len(shape) != 1 or dtype != np.int64:
            raise InputError(
                f"counts of shape {shape}, dtype {dtype}", "(vocab,) int64", "use Counts.from_tokens"
            )
        if (self.counts < 0).any():
            raise InputError(
                f"a negative count at {int(self.counts.argmin())}", "0 or more", "use Counts.from_tokens"
            )
        if self.n != self.counts.sum() or self.n < 1:
            raise InputError(
                f"n = {self.n} for counts that sum to {self.counts.sum()}",
                "n = sum of counts >= 1",
                "count the draws",
            )

    @staticmethod
    def from_tokens(tokens: ArrayLike, vocab: int) -> Counts:
        """Count drawn token ids of any shape and any integer dtype, each in 0..vocab-1, at least one."""
        vocab = check_whole("vocab", vocab, 1)
        try:
            drawn = np.asarray(tokens).ravel()
        except ValueError as error:  # a ragged list
            raise InputError(
                "lists of unequal length", "tokens of one shape", "concatenate them first"
            ) from error
        if not drawn.size:
            raise InputError("no tokens", "at least one draw", "draw with n >= 1")
        if drawn.dtype.kind not in "iu":
            raise InputError(
                f"tokens of dtype {drawn.dtype}", "an integer dtype", "pass token ids, not probabilities"
            )
        if drawn.min() < 0 or drawn.max() >= vocab:
            raise InputError(
                f"tokens from {drawn.min()} to {drawn.max()}",
                f"0 to {vocab - 1}",
                "pass the size of the last axis as vocab",
            )
        return Counts(np.bincount(drawn.astype(np.int64), minlength=vocab).astype(np.int64), drawn.size)

    def __add__(self, other: Counts) -> Counts:
        check_same_vocab(other.vocab, self.vocab)
        return Counts(self.counts + other.counts, self.n + other.n)

    @property
    def vocab(self) -> int:
        return len(self.counts)

    @property
    def probs(self) -> Float:
        """The empirical distribution counts / n, (vocab,)."""
        return self.counts / self.n
