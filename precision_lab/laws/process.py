"""Masked diffusion under an imprecise sampler: the law of one ancestral step in closed form, and of a whole
run.

A step keeps the mask with probability 1 - r and gives token j the mass r p_j. Each step law below returns
what the token
*gets*, so that its sum over tokens is the probability of unmasking, and that sum over r the unmasking multiplier.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import xlogy

from ..errors import InputError
from ..types import Float, Guarantee
from .argmax import truncated_gumbel_law
from .law import Law, check_logits

StepLaw = Callable[[Float, float], Float]  # (log p (vocab,), r) -> (vocab,) probabilities of the unmasked token
_NODES = 20  # points at which a step law is asked in one octave of 1/r


def faithful_step(log_probs: Float, r: float) -> Float:
    """r p_j: what the model asks for, and what float64 noise gives to within 2^-40."""
    _check_share(r)
    return r * np.exp(log_probs)


def lattice_step(log_probs: Float, r: float, *, bits: int = 24) -> Float:
    """Gumbel-max whose uniform is k 2^-bits: ``(1 - d) (1 + l) r p_j f(y_j) + d p_j``, f(y) = y / (e^y -
    1), d = 2^-bits, y_j = d (1 - r p_j) / (r p_j), l = sum_k r p_k (1 - f(y_k)).

    Token j's exponential takes the values -log(1 - k d), k = 1, 2, ..., each with mass d, against the
    continuous minimum of the others, of rate (1 - r p_j) / (r p_j): a geometric sum. What the tokens lose
    so, l, falls to everyone in proportion. The last term is the word u = 0 of the mask itself, whose score
    is -inf. Left out: ties, the rounding of the logarithms and of the score. Against the exact float32 law
    the relative error of the unmasking probability is below 3e-5 on rows of a real model (tested). At r = 1
    there is no mask, and p_j f(y_j), renormalised, is one draw from p itself: total variation from the
    exact law below 1e-7 on real rows, where the law is 2e-4 from p; tokens of exactly equal probability
    tie, and the share 2^-bits / 2 per token that the first of them gains is not in it.
    """
    _check_share(r)
    d, p = 2.0**-bits, np.exp(log_probs)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        y = d * (1.0 - r * p) / (r * p)
        share = np.nan_to_num(np.where(y > 0, y / np.expm1(y), 1.0))
    lost = float((r * p * (1.0 - share)).sum())
    return (1.0 - d) * (1.0 + lost) * r * p * share + d * p


def truncated_step(log_probs: Float, r: float, *, ceiling: float) -> Float:
    """Prop. 5.2 of arXiv:2409.02908 for the step's law: noise conditioned to lie below ``ceiling``."""
    return truncated_gumbel_law(_with_mask(log_probs, r), ceiling).probs[:-1]


def two_stage_step(log_probs: Float, r: float, *, token_law: StepLaw = lattice_step) -> Float:
    """r times one draw of ``token_law`` from mu itself (its r = 1, renormalised): whether is decided first
    and exactly, then what, so that no token races against the mask and the step says nothing of the token."""
    _check_share(r)
    q = token_law(log_probs, 1.0)
    return r * q / q.sum()


def tokens_alone(step_law: StepLaw) -> StepLaw:
    """The step law with the right rate: r q_j / Q, Q = sum_k q_k. Whether is as asked, which token as
    ``step_law`` has it."""

    def law(log_probs: Float, r: float) -> Float:
        _check_share(r)
        q = step_law(log_probs, r)
        return r * q / q.sum()

    return law


def times_alone(step_law: StepLaw) -> StepLaw:
    """The step law with the right tokens: Q p_j. Whether is as ``step_law`` has it, which token as asked."""
    return lambda log_probs, r: step_law(log_probs, r).sum() * np.exp(log_probs)


def step_law_of(row_law: Callable[[Float], Law]) -> StepLaw:
    """The step law of any sampler whose law of one row is known, ``row_law`` = ``SAMPLERS[name].law``: the
    mask is the row's last entry. As exact as ``row_law``; it costs one such law a step, so ask it for few
    r."""
    return lambda log_probs, r: row_law(_with_mask(log_probs, r)).probs[:-1]


def _whole(name: str, number: int) -> int:
    """A whole number of at least 1, as an int."""
    try:
        whole = operator.index(number)
    except TypeError:
        whole = 0
    if whole < 1 or isinstance(number, bool):
        raise InputError(f"{name} = {number!r}", "a whole number, 1 or more", f"pass {name} as an int")
    return whole


def _check_share(r: float) -> None:
    """Refuse what is no probability of unmasking."""
    if not isinstance(r, numbers.Real) or not 0 <= r <= 1:
        raise InputError(
            f"r = {r!r}", "a probability, 0 to 1", "give the share of masked tokens to unmask in this step"
        )


def _with_mask(log_probs: Float, r: float) -> Float:
    _check_share(r)
    with np.errstate(divide="ignore"):
        return np.append(log_probs + np.log(r), np.log1p(-r))


@dataclass(frozen=True)
class RunLaw:
    """One masked position in a run of N steps, as long as its prediction mu stays what it is.

    ``asked``: (N,) r_i.  ``given``: (N,) P(unmasked in step i | masked before it); the last is 1.
    ``entropy``: (N,) nats, of the token given that it comes in step i.  ``target_entropy``: nats, of mu.
    ``token``: the law of the token in the end, sum_i P(masked before i) q_i, with its error bound. Its
    effective temperature is the run's: E[log mu], which decides it, is the mean over the steps in which
    tokens come.
    """

    asked: Float
    given: Float
    entropy: Float
    target_entropy: float
    token: Law

    @property
    def survival(self) -> Float:
        """(N,) P(still masked after step i); for a faithful sampler 1 - (i + 1) / N."""
        return np.asarray(np.cumprod(1.0 - self.given), dtype=np.float64)

    @property
    def time(self) -> Float:
        """(N,) P(unmasked in step i); sums to 1."""
        return self._before * self.given

    @property
    def left(self) -> float:
        """P(still masked before the last step): what r = 1 has to clear. 1/N for a faithful sampler."""
        return float(self._before[-1])

    @property
    def multiplier(self) -> Float:
        """(N,) P(unmasked in step i | masked before) / r_i."""
        return self.given / self.asked

    @property
    def mean_multiplier(self) -> float:
        """1 / sum_i P(masked before i) r_i: unmaskings seen over unmaskings asked for, along the run."""
        return float(1.0 / (self._before * self.asked).sum())

    @property
    def entropy_lost(self) -> float:
        """H(mu) - sum_i P(unmasked in step i) H(token | step i), nats."""
        return self.target_entropy - float((self.time * self.entropy).sum())

    @property
    def _before(self) -> Float:
        return np.append(1.0, self.survival[:-1])


def run_law(log_probs: Float, steps: int, step_law: StepLaw, *, smooth: bool = True) -> RunLaw:
    """The law of a whole run at one position, linear schedule: r_i = 1 / k, k = steps - i, the last step
    renormalised.

    ``log_probs``: (vocab,) nats, normalised here. ``smooth``: k q_j is interpolated in log k from 20 points
    an octave, so that 50,000 steps cost 250 step laws; else, and always for k <= 20, every step is
    evaluated (label exact).
    Error of the interpolation (label certified): let |k q_j| <= C p_j on the strip |Im log k| <= 1.2. By
    Trefethen, Approximation Theory and Approximation Practice, Theorem 8.2, with the ellipse of that
    height, R = 7.06, the interpolant is off by at most 4 C p_j R^-19 / (R - 1) < 5e-17 C p_j: below the
    rounding, which ``token.error`` covers. C < 7 for the laws above: q_j(k) is a mixture of e^(-s k), s >=
    0, if the mask's noise is a Gumbel variable, so that
    |k q_j(k)| <= |k| q_j(Re k) (faithful, Prop. 5.2), and |f(y)| <= 1 / cos(arg y) (lattice). A law with jumps in r is not
    of this kind (half precision; the exact float32 law at the level of 1e-6): one step of every octave is
    evaluated and compared, and a difference above 1e-9 of r is an InputError. ``entropy`` is interpolated
    alike, unproved. Memory: 20 rows of the vocabulary. InputError for what is not one row of logits, steps
    < 1, masses outside [0, 1].
    """
    log_p = check_logits(log_probs, where="log_probs")
    log_p = log_p - np.logaddexp.reduce(log_p)
    steps = _whole("steps", steps)
    given, entropy, token, alive = np.empty(steps), np.empty(steps), np.zeros(len(log_p)), 1.0
    interpolated = False
    for k in _runs(steps, smooth):
        nodes, weight = interpolation(k, _NODES)
        q = np.array([step_law(log_p, 1.0 / x) for x in nodes])
        with np.errstate(divide="ignore", invalid="ignore"):
            q[-1] /= q[-1].sum() if k[-1] == 1.0 else 1.0
            total = q.sum(1)
            entropies = np.nan_to_num(np.log(total) - xlogy(q, q).sum(1) / total)
        if not (q.min() >= 0 and total.max() <= 1 + 1e-9):
            raise InputError(
                f"a step law of mass {total.min():.6g} to {total.max():.6g}", "0 to 1", "check the law"
            )
        if len(k) > len(nodes):
            interpolated, middle = True, len(k) // 2
            misfit = np.abs((weight[middle] * nodes) @ q - k[middle] * step_law(log_p, 1.0 / k[middle])).sum()
            if not misfit < 1e-9:
                raise InputError(
                    f"a step law {misfit:.2g} r off its interpolant", "a smooth one", "use smooth=False"
                )
        part = slice(steps - int(k[0]), steps - int(k[-1]) + 1)
        given[part], entropy[part] = weight @ (total * nodes) / k, weight @ entropies
        before = alive * np.cumprod(np.append(1.0, 1.0 - given[part]))
        token += ((before[:-1] / k) @ weight * nodes) @ q
        alive = before[-1]
    p = np.exp(log_p)
    law = Law.from_probs(
        np.maximum(token, 0.0),
        f"sum over {steps} steps" + (", interpolated in log r" if interpolated else ""),
        (steps + len(p)) * 2.0**-50,
        Guarantee.CERTIFIED if interpolated else Guarantee.EXACT,
    )
    return RunLaw(1.0 / np.arange(steps, 0, -1), given, entropy, -float(xlogy(p, p).sum()), law)


def autoregressive_law(log_probs: Float, step_law: StepLaw) -> RunLaw:
    """One draw from mu and no mask in the race: a run of one step."""
    return run_law(log_probs, 1, step_law)


def first_hitting_law(log_probs: Float, length: int, step_law: StepLaw) -> RunLaw:
    """A position of ``length`` under the first-hitting sampler (Prop. 4.1): its turn is uniform over the
    ``length`` network calls, whatever the precision, and its token one draw from mu, as in
    :func:`autoregressive_law`."""
    length = _whole("length", length)
    once, asked = autoregressive_law(log_probs, step_law), 1.0 / np.arange(length, 0, -1)
    return RunLaw(asked, asked, np.repeat(once.entropy, length), once.target_entropy, once.token)


def interpolation(k: Float, points: int = _NODES) -> tuple[Float, Float]:
    """(nodes, weights) with f(k) = weights @ f(nodes) for f smooth in log k; k: remaining steps 1/r,
    descending.

    Chebyshev points of the first kind and the barycentric formula; up to ``points`` steps are their own nodes.
    """
    if len(k) <= points:
        return k, np.eye(len(k))
    angle = (2 * np.arange(points) + 1) * np.pi / (2 * points)
    x, low, high = np.cos(angle), np.log(k[-1]), np.log(k[0])
    at = (2 * np.log(k) - low - high) / (high - low)
    difference = at[:, None] - x
    difference[difference == 0] = 1e-300
    cardinal = (-1.0) ** np.arange(points) * np.sin(angle) / difference
    return np.exp((low + high + (high - low) * x) / 2), cardinal / cardinal.sum(1, keepdims=True)


def _runs(steps: int, smooth: bool) -> Iterator[Float]:
    """k = steps .. 1: octaves where they are interpolated, else 20 at a time."""
    high = steps
    while high > 0:
        low = high // 2 if smooth and high > 2 * _NODES else max(high - _NODES, 0)
        yield np.arange(high, low, -1.0)
        high = low
