"""Laws, draws and the declaration of false-fail rates for the tests of the judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp

from precision_lab.laws.law import Law
from precision_lab.statistics import Counts
from precision_lab.types import Guarantee

Test = TypeVar("Test", bound=Callable[..., object])


def statistical(*, false_fail: float) -> Callable[[Test], Test]:
    """Declares that a test fails right code with probability at most ``false_fail`` over the choice of its seed.

    Each item of a parametrised test counts; ``test_guarantees.py`` holds the sum over a run below 1e-5.
    """

    def declare(test: Test) -> Test:
        test.false_fail = false_fail  # type: ignore[attr-defined]
        return test

    return declare


def law(log_weights: np.ndarray) -> Law:
    log_weights = np.asarray(log_weights, dtype=np.float64)
    return Law(log_weights - logsumexp(log_weights), "test", 0.0, Guarantee.EXACT)


def probs(*values: float) -> Law:
    return Law.from_probs(np.array(values), "test", 0.0, Guarantee.EXACT)


def tempered(p: Law, temperature: float) -> Law:
    return law(p.log_probs / temperature)


def zipf(vocab: int) -> Law:
    return law(-np.log(np.arange(1.0, vocab + 1)))


def draws(p: Law, n: int, rng: np.random.Generator) -> Counts:
    return Counts(rng.multinomial(n, p.probs / p.probs.sum()).astype(np.int64), n)


def sequences(p: Law, shape: tuple[int, int], repeat: float, rng: np.random.Generator) -> np.ndarray:
    """Tokens (sequences, length), each a copy of the one before with probability ``repeat``, else a draw from p."""
    tokens = rng.choice(p.vocab, size=shape, p=p.probs / p.probs.sum())
    copied = rng.random(shape) < repeat
    for j in range(1, shape[1]):
        tokens[:, j] = np.where(copied[:, j], tokens[:, j - 1], tokens[:, j])
    return tokens


def covers(covered: int, repeats: int, lowest: float, highest: float, false_fail: float = 1e-8) -> bool:
    """Whether so many covering intervals are likely enough (exact binomial) if coverage is in [lowest, highest]."""
    fewest = stats.binom.ppf(false_fail / 2, repeats, lowest)
    return bool(fewest <= covered <= stats.binom.isf(false_fail / 2, repeats, highest))


# Logits on a grid of 1/4 nat: laws are then equal or clearly different, and never nearly flat.
two_rows = st.integers(2, 12).flatmap(
    lambda vocab: st.tuples(
        *[st.lists(st.integers(-40, 40).map(lambda k: k / 4), min_size=vocab, max_size=vocab)] * 2
    )
)
