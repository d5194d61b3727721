"""What the public doors of `statistics` check, each check once."""

from __future__ import annotations

import numbers
import operator
from typing import Any

import numpy as np

from ..errors import InputError
from ..laws.law import Law
from ..types import Float, Int

_SUM_TOLERANCE = 1e-9  # float64 probabilities sum to 1 within vocab * 2**-53 < 1e-10; float32 ones do not


def check_open_unit(name: str, value: float) -> float:
    """A number strictly between 0 and 1: a confidence, an error rate."""
    if not isinstance(value, numbers.Real) or not 0 < value < 1:
        raise InputError(f"{name} = {value!r}", "a number strictly between 0 and 1", "write 95 % as 0.95")
    return float(value)


def check_numbers(values: Any) -> Float:
    """Real numbers of any shape as flat float64; InputError for text and ragged lists."""
    try:
        return np.asarray(values, dtype=np.float64).ravel()
    except (TypeError, ValueError) as error:
        got = f"values of type {type(values).__name__}"
        raise InputError(got, "numbers in an array of one shape", "convert them to float") from error


def check_whole(name: str, value: Any, least: int) -> int:
    """A whole number of at least ``least``."""
    try:
        whole = operator.index(value)
    except TypeError:
        whole = None
    if whole is None or whole < least or isinstance(value, bool):
        raise InputError(f"{name} = {value!r}", f"a whole number, {least} or more", f"pass {name} as an int")
    return whole


def check_successes(successes: Any, n: Any) -> tuple[int, int]:
    """``0 <= successes <= n`` and ``n >= 1``."""
    total, hits = check_whole("n", n, 1), check_whole("successes", successes, 0)
    if hits > total:
        raise InputError(f"{hits} successes in {total} draws", "successes <= n", "the order is (successes, n)")
    return hits, total


def check_tokens(tokens: Any) -> Int:
    """(sequences, length) integer tokens as int64, or an InputError."""
    remedy = "crop or pad every sequence to one length: entropies of unequal lengths cannot be compared"
    if np.ma.isMaskedArray(tokens) and np.ma.getmaskarray(tokens).any():
        got = f"tokens of which {int(np.ma.getmaskarray(tokens).sum())} are masked"
        raise InputError(got, "tokens that all count", "crop every sequence to one length")
    try:
        rows = np.asarray(tokens)
    except ValueError as error:  # a ragged list
        raise InputError(
            "sequences of unequal length", "tokens of shape (sequences, length)", remedy
        ) from error
    if rows.ndim != 2 or not rows.size or rows.dtype.kind == "O":
        raise InputError(f"tokens of shape {rows.shape}", "(sequences, length), neither of them 0", remedy)
    if rows.dtype.kind not in "iu":
        raise InputError(
            f"tokens of dtype {rows.dtype}", "an integer dtype", "pass token ids, not logits or strings"
        )
    found = rows.astype(np.int64)
    if (found == -100).any():
        got = f"tokens of which {int((found == -100).sum())} are -100, which says that they do not count"
        raise InputError(got, "tokens that all count", "crop every sequence to one length")
    return found


def log_probs_of(law: Law | Float) -> Float:
    """Log probabilities (vocab,) of a Law or of an array of probabilities."""
    if isinstance(law, Law):
        return law.log_probs
    probs = np.asarray(law, dtype=np.float64)
    if probs.ndim != 1 or not probs.size or not (probs >= 0).all():
        raise InputError(
            f"probabilities of shape {probs.shape}",
            "(vocab,) numbers, none negative or NaN",
            "for logits use target_law",
        )
    if abs(probs.sum() - 1) > _SUM_TOLERANCE:
        raise InputError(
            f"probabilities that sum to {probs.sum():.12g}",
            "a sum of 1",
            "divide by the sum in float64, after the cast",
        )
    with np.errstate(divide="ignore"):
        return np.log(probs)


def log_probs_pair(q: Law | Float, p: Law | Float) -> tuple[Float, Float]:
    """The log probabilities of two laws over one vocabulary."""
    log_q, log_p = log_probs_of(q), log_probs_of(p)
    check_same_vocab(len(log_q), len(log_p))
    return log_q, log_p


def check_same_vocab(got: int, expected: int) -> None:
    if got != expected:
        raise InputError(
            f"vocabularies of {got} and {expected} tokens",
            "one vocabulary",
            "compare laws and draws of the same target",
        )
