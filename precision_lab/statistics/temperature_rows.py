"""One temperature of draws that each come from another row of logits, read in chunks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..types import Array, Float, Int
from ._checks import check_open_unit
from .estimate import Estimate
from .firth import Moments, fit, temperature, undetermined
from .tempered import NEVER

_ENTRIES = 1 << 20  # of one block of rows in float64: 8 MiB, with six such arrays alive


class Rows(NamedTuple):
    """``logits``: (k, vocab) floats, -inf where a token cannot be drawn.  ``tokens``: (k,) the one drawn
    from each row.

    ``sequences``: (k,) whole numbers: rows of one number may depend on each other, also across chunks.
    """

    logits: ArrayLike
    tokens: ArrayLike
    sequences: ArrayLike


def temperature_from_rows(chunks: Iterable[Rows], confidence: float = 0.95) -> Estimate:
    """1/b with b maximising sum_i log p_{i,b}(x_i) + 1/2 log I(b), p_{i,b} = softmax(b logits_i), I = sum_i
    Var_{i,b}.

    As :func:`~.temperature.temperature_from_draws` of sequences, ``n`` of them, but every draw has its own
    target, the one its logits had when it was drawn. b is found to 1e-6 standard errors in about 15 passes
    over ``chunks``, which must therefore begin anew at every ``iter()``; memory: a chunk and one number a
    sequence. Rows that are flat add nothing; all flat: value 1, interval [0, inf]. Errors: InputError for
    no rows, a one-shot iterator, NaN or +inf, a row that is all -inf, a token outside the vocabulary or of
    logit -inf.
    """
    check_open_unit("confidence", confidence)
    if isinstance(chunks, Iterator):
        raise InputError(
            "a one-shot iterator", "chunks that can be read again", "pass a list, or a class with __iter__"
        )
    sizes: dict[int, int] = {}
    at_mode = at_least = True
    for gaps, token, sequence in _blocks(chunks):
        drawn = np.take_along_axis(gaps, token[:, None], 1)[:, 0]
        least = np.where(np.isneginf(gaps), 0.0, gaps).min(axis=1)
        at_mode, at_least = at_mode and bool((drawn == 0).all()), at_least and bool((drawn == least).all())
        for label, count in zip(*np.unique(sequence, return_counts=True), strict=True):
            sizes[int(label)] = sizes.get(int(label), 0) + int(count)
    if not sizes:
        raise InputError("no rows", "at least one draw", "draw first")
    if at_mode and at_least:
        return temperature(undetermined(confidence, len(sizes), "every row is flat"))
    place = {label: at for at, label in enumerate(sizes)}

    def moments(t: float) -> Moments:
        sums = np.zeros(4)
        for gaps, token, _ in _blocks(chunks):
            sums += [math.fsum(part) for part in _moments(gaps, token, t)]
        return Moments(*sums.tolist())

    def scores(t: float) -> tuple[Float, Float]:
        sums = np.zeros(len(sizes))
        for gaps, token, sequence in _blocks(chunks):
            np.add.at(sums, [place[label] for label in sequence.tolist()], _moments(gaps, token, t)[1])
        return sums, np.array(list(sizes.values()), dtype=np.float64)

    b = fit(
        moments,
        scores,
        n=sum(sizes),
        widest=1.0,
        separated=at_mode or at_least,
        confidence=confidence,
        accuracy=1e-6,
    )
    return temperature(b)


def _moments(gaps: Float, token: Int, t: float) -> tuple[Float, Float, Float, Float]:
    """Each (k,): log p_b of the token, log p of it against its mean, variance and third moment of log p,
    under p_b."""
    finite = np.where(np.isneginf(gaps), 0.0, gaps)
    tilted = np.where(np.isneginf(gaps), -np.inf, (1 + t) * finite)
    tilted -= tilted.max(axis=1, keepdims=True)
    probs = np.exp(tilted)
    total = probs.sum(axis=1, keepdims=True)
    probs /= total
    centred = finite - (probs * finite).sum(axis=1, keepdims=True)
    drawn = token[:, None]
    log_b = np.take_along_axis(tilted, drawn, 1)[:, 0] - np.log(total[:, 0])
    squared = probs * centred**2
    score = np.take_along_axis(centred, drawn, 1)[:, 0]
    return log_b, score, squared.sum(axis=1), (squared * centred).sum(axis=1)


def _blocks(chunks: Iterable[Rows]) -> Iterator[tuple[Float, Int, Int]]:
    """Logits below their row's largest, tokens and sequences, a few rows at a time, checked."""
    for chunk in chunks:
        logits, tokens, sequences = (np.asarray(part) for part in chunk)
        if logits.ndim != 2 or not logits.shape[1] or logits.dtype.kind != "f":
            got = f"logits of shape {logits.shape}, dtype {logits.dtype}"
            raise InputError(got, "(k, vocab) floats", "give one row a draw")
        for name, ids in (("tokens", tokens), ("sequences", sequences)):
            if ids.shape != logits.shape[:1] or ids.dtype.kind not in "iu":
                got = f"{name} of shape {ids.shape}, dtype {ids.dtype}"
                raise InputError(got, f"{len(logits)} whole numbers", "give one a row")
        step = max(1, _ENTRIES // logits.shape[1])
        for first in range(0, len(logits), step):
            rows, drawn, labels = (part[first : first + step] for part in (logits, tokens, sequences))
            yield _gaps(rows, drawn), drawn.astype(np.int64), labels.astype(np.int64)


def _gaps(logits: Array, tokens: Array) -> Float:
    rows = logits.astype(np.float64)
    top, vocab = rows.max(axis=1), rows.shape[1]
    if not np.isfinite(top).all():
        raise InputError(
            f"a largest logit of {top[~np.isfinite(top)][0]}", "a finite one in every row", "mask by -inf"
        )
    if tokens.min() < 0 or tokens.max() >= vocab:
        raise InputError(f"tokens from {tokens.min()} to {tokens.max()}", f"0 to {vocab - 1}", "count from 0")
    rows -= top[:, None]
    rows[rows <= NEVER] = -np.inf
    if np.isneginf(rows[np.arange(len(rows)), tokens]).any():
        raise InputError(
            "a draw of a token of logit -inf", "tokens that their row can draw", "compare supports first"
        )
    return rows
