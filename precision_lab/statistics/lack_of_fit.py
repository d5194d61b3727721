"""Does any temperature explain the draws? An e-value against all tempered laws of the target at once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ..errors import InputError
from ..laws.law import Law
from ..types import Float, Guarantee, Int
from ._checks import check_open_unit, check_same_vocab
from .counts import Counts
from .temperature import temperature_from_draws
from .tempered import Tempered
from .testing import TestResult, asserting


def lack_of_fit_test(
    counts: Counts, p: Law, alternative: Law | ArrayLike, *, false_fail: float = 1e-6
) -> TestResult:
    """Is the sampler some p_b, p_b ~ p^b? e = L(alternative) / max_b L(p_b), E[e] <= 1 under every p_b; p-value 1 / e.

    ``alternative``, chosen before the draws: a Law; or the inner edges of bands of log p (nats), for the mixture over all
    masses of the bands, with the odds of p inside each: prior Dirichlet(1/2, ...) over masses, so that its likelihood is
    p's times DirichletMultinomial(hits) / prod_B m_B^hits_B, m_B the target mass of band B.
    Valid at any stopping: the ratio to the true p_b is a martingale, and the maximum only lowers it. The error of p is
    left out. ``statistic``: log e, nats. ``detectable``: the KL(q || nearest p_b) at which log e grows to log(1 / false_fail)
    on average if the alternative is q: what :func:`~.temperature.effective_temperature` calls unexplained.
    Errors: InputError for a flat p, unequal vocabularies, or draws that p makes impossible.
    """
    check_open_unit("false_fail", false_fail)
    estimate = temperature_from_draws(counts, p)
    family, n, drawn = Tempered.of(p), counts.n, counts.counts
    if family.flat:
        raise InputError(
            "a flat target", "two different probabilities", "every temperature of it is the same law"
        )
    with np.errstate(divide="ignore"):
        best = n * family.divergence(family.excess_of(np.log(drawn[family.tokens] / n)))
    if isinstance(alternative, Law):
        check_same_vocab(alternative.vocab, p.vocab)
        seen = drawn > 0
        log_e = math.fsum(drawn[seen] * (alternative.log_probs[seen] - p.log_probs[seen])) - best
    else:
        log_e = _mixture(drawn, p, np.asarray(alternative, dtype=np.float64)) - best
    return TestResult(
        p_value=math.exp(min(0.0, -log_e)),
        statistic=log_e,
        n=n,
        detectable=math.log(1 / false_fail) / n,
        false_fail=false_fail,
        test="lack_of_fit_test",
        effect="KL to the nearest tempered law, nats, on average",
        guarantee=Guarantee.ANYTIME,
        estimate=estimate,
    )


assert_some_temperature = asserting(lack_of_fit_test)


def _mixture(drawn: Int, p: Law, edges: Float) -> float:
    """log of the mixture's likelihood over p's, nats."""
    if edges.ndim != 1 or not edges.size or not (edges[1:] > edges[:-1]).all():
        raise InputError(
            f"edges {edges.tolist()}", "one or more increasing numbers", "sort them and drop repeats"
        )
    band = np.digitize(p.log_probs, edges)
    mass = np.bincount(band, weights=p.probs)
    hits = np.bincount(band, weights=drawn)[mass > 0]
    prior = np.full(len(hits), 0.5)
    multinomial = special.gammaln(prior + hits) - special.gammaln(prior)
    whole = special.gammaln(prior.sum()) - special.gammaln(prior.sum() + hits.sum())
    return float(whole + multinomial.sum() - hits @ np.log(mass[mass > 0]))
