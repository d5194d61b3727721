"""The tempered laws p_b proportional to p^b of one target p: an exponential family in b."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp

from ..laws.law import Law
from ..types import Float, Guarantee, Int
from .divergence import difference, relative_entropy

_UNDERFLOW = 1e-290  # a mean below has lost digits of its smallest terms
NEVER = (
    -1e150
)  # log p below: as good as -inf at any temperature that float64 can tell, and its square overflows


@dataclass(frozen=True, eq=False)
class Tempered:
    """p_b on the support of p, by its excess t = b - 1: ``p_b = p e^(t y - log Z(t))``, ``y = log p - centre``.

    ``tokens``: (support,) indices into the vocabulary.  ``log_p``, ``y``: (support,) nats.  ``centre``:
    E_p[log p].
    """

    tokens: Int
    log_p: Float
    y: Float
    centre: float

    @staticmethod
    def of(p: Law) -> Tempered:
        tokens = np.flatnonzero(p.log_probs > NEVER)
        log_p = p.log_probs[tokens] - logsumexp(p.log_probs[tokens])
        for end in (log_p.max(), log_p.min()):
            log_p[np.abs(log_p - end) <= 4 * np.spacing(abs(end))] = end  # or rounding would have a temperature
        centre = math.fsum(np.exp(log_p) * log_p)
        return Tempered(tokens, log_p, log_p - centre, centre)

    def tilting(self, log_q: Float) -> Tempered:
        """The family q e^(t y - log Z(t)) of another law q, (support,) nats, tilted by the log p of this
        one."""
        drawn = ~np.isneginf(log_q)
        log_p, log_q = (self.y + self.centre)[drawn], log_q[drawn]
        centre = math.fsum(np.exp(log_q) * log_p)
        return Tempered(self.tokens[drawn], log_q, log_p - centre, centre)

    @property
    def flat(self) -> bool:
        """No draw tells p_b from p: all are :attr:`alike`, or but one probability is above underflow."""
        return self.alike or not np.sum(np.exp(self.log_p) * self.y**2) > 0

    @property
    def alike(self) -> bool:
        """Every p_b is p: probabilities equal up to the rounding of their logarithms; one token."""
        return bool(np.ptp(self.log_p) <= 4 * np.spacing(np.abs(self.log_p).max()))

    def log_ratio(self, t: float) -> Float:
        """log p_b - log p = t y - log Z(t). At t = -/+ inf: uniform over the least (most) likely tokens."""
        if math.isinf(t):
            edge = self.y == (self.y.max() if t > 0 else self.y.min())
            return np.where(edge, -math.log(edge.sum()) - self.log_p, -np.inf)
        if self._small(t):
            return t * self.y - self.log_z(t)
        with np.errstate(over="ignore"):
            likeliest = int(
                (self.log_p + t * self.y).argmax()
            )  # under p_b: the others in terms of it lose no digit
            gain = t * (self.y - self.y[likeliest])
            others = np.exp(self.log_p - self.log_p[likeliest] + gain)
        others[likeliest] = 0.0
        return gain - self.log_p[likeliest] - math.log1p(np.sum(others))

    def log_z(self, t: float) -> float:
        """log E_p[e^(t y)], >= 0, to relative accuracy where t y is small."""
        if self._small(t):
            return math.log1p(np.sum(np.exp(self.log_p) * np.expm1(t * self.y)))
        return float(logsumexp(self.log_p + t * self.y))

    def cumulants(self, t: float, origin: float | None = None) -> tuple[float, float, float]:
        """Mean of y less ``origin``, by default that of the mode, variance and third central moment of log
        p under p_b, each to relative accuracy; the mean where origin is the least or the largest y."""
        probs = np.exp(self.log_p + self.log_ratio(t))
        gap = self.y - (self.y.max() if origin is None else origin)
        centre = float(np.sum(probs * gap))
        off = gap - centre
        squares = probs * off * off  # a power of 3 would take most of a test's time
        return centre, float(np.sum(squares)), float(np.sum(squares * off))

    def at(self, t: float, vocab: int) -> Law:
        """p_b over the whole vocabulary."""
        log_probs = np.full(vocab, -np.inf)
        log_probs[self.tokens] = self.log_p + self.log_ratio(t)
        return Law(log_probs, f"tempered by {1 + t:.6g}", 0.0, Guarantee.EXACT)

    def mean(self, t: float) -> float:
        """E_{p_b}[y], increasing in t and 0 at 0: near 0 taken as a difference from E_p, to relative
        accuracy."""
        if self._small(t):
            grown = np.exp(self.log_p) * np.expm1(t * self.y)
            return float(np.sum(grown * self.y) / (1 + np.sum(grown)))
        return float(np.sum(np.exp(self.log_p + self.log_ratio(t)) * self.y))

    def divergence(self, t: float, s: float = 0.0) -> float:
        """KL(p_t || p_s) = (t - s) E_{p_t}[y] - log Z(t) + log Z(s), nats, t -/+ inf allowed."""
        if math.isinf(t):
            return relative_entropy(self.log_p + self.log_ratio(s), self.log_ratio(t) - self.log_ratio(s))
        if s == 0 and self._small(t):  # a square of t, of which the difference of the means keeps no digit
            return relative_entropy(self.log_p, self.log_ratio(t))
        return max(0.0, (t - s) * self.mean(t) - self.log_z(t) + self.log_z(s))

    def excess_of(self, log_q: Float) -> float:
        """The t with E_{p_b}[log p] = E_q[log p]: p_b is the tempered law nearest to q, argmin_b KL(q || p_b).

        ``log_q``: (support,), normalised here. -/+ inf where q draws only the least (most) likely tokens.
        Where the others' part of the mean underflows, the logarithms of the two parts are made equal
        instead. Near t = 0 both means are taken as differences from E_p, so t has the relative accuracy of
        log q - log p; elsewhere they are taken from whichever of the mode, the mean and the least likely
        token q stays nearest to.
        """
        q, y = np.exp(log_q), self.y
        for way, gap in ((1, y.max() - y), (-1, y - y.min())):
            if np.sum(q * gap) < _UNDERFLOW:
                return self._excess_near_an_end(log_q, gap, way)
        mass = math.fsum(q)
        moved = math.fsum(difference(log_q, self.log_p) * y) / mass
        if moved == 0:
            return 0.0
        origin = min((y.max(), 0.0, y.min()), key=lambda at: float(np.sum(q * np.abs(y - at))))
        goal = math.fsum(q * (y - origin)) / mass

        def beyond(t: float) -> float:
            """E_{p_b}[y] - E_q[y], increasing in t."""
            if self._small(t):
                return self.mean(t) - moved
            return float(np.sum(np.exp(self.log_p + self.log_ratio(t)) * (y - origin)) - goal)

        return root(beyond, 0.0, math.copysign(self.step(abs(moved)), moved))

    def _excess_near_an_end(self, log_q: Float, gap: Float, way: int) -> float:
        """The t with E_{p_b}[gap] = E_q[gap], gap the distance of log p from its largest (way = 1) or least
        (-1) value."""
        inside = (gap > 0) & ~np.isneginf(log_q)
        if not inside.any():
            return way * math.inf
        goal = logsumexp(log_q[inside] + np.log(gap[inside])) - logsumexp(log_q)
        others = gap > 0
        log_gap = np.log(gap[others])

        def beyond(t: float) -> float:
            """log E_q[gap] - log E_{p_b}[gap], times ``way``: increasing in t."""
            return float(way * (goal - logsumexp((self.log_p + self.log_ratio(t))[others] + log_gap)))

        at_p = beyond(0.0)
        return root(beyond, 0.0, -math.copysign(1 / float(np.ptp(self.y)), at_p)) if at_p else 0.0

    def step(self, change: float, t: float = 0.0) -> float:
        """A step in t that moves E_{p_b}[log p] by about ``change``, cut where a weight would change e-fold."""
        variance, most = self.cumulants(t)[1], 1 / float(np.ptp(self.y))
        return change / variance if change < most * variance else most

    def _small(self, t: float) -> bool:
        return abs(t) * float(np.abs(self.y).max()) < 1


def root(function: Callable[[float], float], start: float, step: float, accuracy: float = 0.0) -> float:
    """The root between ``start`` and the first of start + step, + 2 step, + 4 step, ... past a change of sign.

    Ends at relative accuracy 2**-50 or absolute ``accuracy``, or at ``start`` where the function is 0 there.
    """
    at_start = function(start)
    if at_start == 0:
        return start
    near, far = start, start + step
    while math.copysign(1, function(far)) == math.copysign(1, at_start):
        near, step = far, 2 * step
        far = start + step
    return float(brentq(function, near, far, xtol=max(accuracy, 1e-300), rtol=2.0**-50, maxiter=1000))
