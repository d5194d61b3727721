"""A distribution over tokens, with how it was obtained and how wrong it can be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..types import Float, Guarantee


@dataclass(frozen=True)
class Law:
    """Probabilities of the tokens 0..vocab-1.

    ``log_probs``: (vocab,) float64, natural log, -inf where the token cannot be drawn.
    ``how``: one phrase, the method.  ``error``: bound on max_i |p_i - p_true,i|; 1 where none is known.
    ``guarantee``: what stands behind it.
    ``relative``: bound on |p_i / p_true,i - 1| for tokens above 1e-15; inf where none is known.
    Raises InputError for what is not one row, for log probabilities that are NaN or +inf, and for an error
    that is NaN or negative.
    """

    log_probs: Float
    how: str
    error: float
    guarantee: Guarantee
    relative: float = math.inf

    def __post_init__(self) -> None:
        if self.log_probs.ndim != 1 or not len(self.log_probs):
            raise InputError(f"log_probs of shape {self.log_probs.shape}", "(vocab,)", "give one law at a time")
        if not (self.log_probs < np.inf).all():
            at = int((~(self.log_probs < np.inf)).argmax())
            raise InputError(
                f"a log probability of {self.log_probs[at]} at token {at} ({self.how})",
                "numbers or -inf",
                "the computation broke down: check the weights, and that no probability is negative",
            )

        if not (self.error >= 0 and self.relative >= 0):
            raise InputError(
                f"an error of {self.error}, relative {self.relative} ({self.how})",
                "bounds of at least 0",
                "state 1, and inf relative, where no bound is known",
            )

    @property
    def probs(self) -> Float:
        return np.exp(self.log_probs)

    @property
    def vocab(self) -> int:
        return len(self.log_probs)

    @property
    def unreachable(self) -> np.ndarray:
        """Tokens with probability zero."""
        return np.flatnonzero(np.isneginf(self.log_probs))

    @staticmethod
    def from_probs(
        probs: Float, how: str, error: float, guarantee: Guarantee, relative: float = math.inf
    ) -> Law:
        """A law from probabilities (vocab,), 0 included; InputError where one is NaN or negative."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return Law(np.log(probs), how, error, guarantee, relative)


def check_logits(logits: np.ndarray, *, where: str = "logits") -> Float:
    """One row of logits as float64, or an InputError that says what is wrong with it.

    Accepted: (vocab,) real floats, -inf for tokens that cannot be drawn, at least one finite.
    """
    if getattr(logits, "ndim", None) != 1:
        raise InputError(
            f"{where} of shape {np.shape(logits)}",
            "one row, shape (vocab,)",
            "index the row you mean, logits[i]",
        )
    row = np.asarray(logits)
    if row.dtype.kind != "f":
        raise InputError(f"{where} of dtype {row.dtype}", "a floating dtype", "convert to float32 or float64")
    row = row.astype(np.float64)
    if not row.size:
        raise InputError(f"empty {where}", "at least one token", "check the vocabulary axis")
    if np.isnan(row).any():
        raise InputError(
            f"NaN in {where} at {int(np.isnan(row).argmax())}", "numbers or -inf", "mask the token with -inf"
        )
    if np.isposinf(row).any():
        at = int(np.isposinf(row).argmax())
        raise InputError(
            f"+inf in {where} at {at}", "numbers or -inf", "give the certain token 0 and the others -inf"
        )
    if np.isneginf(row).all():
        raise InputError(
            f"{where} that are all -inf", "at least one finite value", "every token is masked: check the mask"
        )
    return row


def target_law(logits: np.ndarray) -> Law:
    """softmax(logits) in float64: what a perfect sampler draws from.

    ``p_i = exp(l_i - m) / sum_j exp(l_j - m)``. Error: (vocab + 4) ulp of float64, relative.
    """
    row = check_logits(logits)
    shifted = row - row.max()
    log_probs = shifted - np.log(np.exp(shifted).sum())
    return Law(log_probs, "softmax in float64", (len(row) + 4) * 2.0**-53, Guarantee.CERTIFIED)
