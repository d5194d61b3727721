"""What decoding costs: the laws of network calls and of categorical draws, and the time that follows from them.

A masked position comes in step i with probability d_i = alpha_i - alpha_(i-1) (alpha_i after step i), whatever the network
says and independently of the others (Eq. 10 of arXiv:2409.02908, faithful sampler). So tokens are balls, steps are boxes, and
a cached network that is not told the time is called once for every occupied box (section 2 and Eq. 73).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ..errors import InputError
from ..statistics import Estimate
from ..statistics._checks import check_open_unit, check_whole
from ..types import Float, Guarantee
from .schedule import LINEAR, Schedule, unmask_probabilities


def step_shares(steps: int, schedule: Schedule = LINEAR) -> Float:
    """d_i = P(a token comes in step i), (steps,) float64, in order of decoding: r_i (1 - alpha_(i-1)), no difference taken.

    Linear: 1 / steps. InputError for steps < 1 and for a schedule that does not fall from 1 to 0.
    """
    r = unmask_probabilities(check_whole("steps", steps, 1), schedule)
    return np.full(steps, 1.0 / steps) if schedule is LINEAR else r * _masked_before(steps, schedule)


def expected_nfe(steps: int, length: int, batch: int = 1, schedule: Schedule = LINEAR) -> float:
    """Eq. 73: sum_i 1 - (1 - d_i)^(batch length), linear N (1 - (1 - 1/N)^(batch length)): steps in which a token comes.

    By log1p and expm1, to 1e-13 relative. At most min(steps, batch length), and batch length as steps -> infinity.
    One call serves a whole batch, and is counted for any sequence that changed: what :func:`expected_calls` counts is less.
    """
    tokens = _size(length, batch)
    return -math.fsum(np.expm1(tokens * _log_empty(steps, schedule)))


def nfe_variance(steps: int, length: int, batch: int = 1, schedule: Schedule = LINEAR) -> float:
    """Var of the number of occupied steps: sum_i q_i (1 - q_i) + sum_(i != j) q_i q_j expm1(M log1p(-o_i o_j)).

    M = batch length, q_i = (1 - d_i)^M, o_i = d_i / (1 - d_i); the bracket is (1 - d_i - d_j)^M - q_i q_j. The two sums
    nearly cancel where steps >> M: absolute error 1e-13 min(steps, M). Equal steps are taken together; N^2 / 2 numbers else.
    """
    tokens, (share, times) = _size(length, batch), np.unique(step_shares(steps, schedule), return_counts=True)
    if steps == 1:
        return 0.0
    empty, odds = np.exp(tokens * np.log1p(-share)), share / (1.0 - share)
    weight, apart = times * empty, [float(times @ (empty * (1.0 - empty)))]
    for i, (q, o) in enumerate(zip(empty, odds, strict=True)):
        with np.errstate(divide="ignore"):
            pair = np.expm1(tokens * np.log1p(-np.minimum(o * odds[i:], 1.0)))  # 1: two steps hold everything
        pair[0] *= (times[i] - 1) / 2 / times[i]
        apart.append(float(2 * times[i] * q * (weight[i:] @ pair)))
    return max(math.fsum(apart), 0.0)


def nfe_law(steps: int, length: int, batch: int = 1) -> Float:
    """P(k steps are occupied), k = 0 .. min(steps, batch length), linear schedule; float64, every term to 1e-12 relative.

    Ball by ball, P(k) <- P(k) k/N + P(k - 1) (N - k + 1)/N: sums of positive terms. Cost: batch length times that many k.
    """
    tokens, steps = _size(length, batch), check_whole("steps", steps, 1)
    k = np.arange(min(steps, tokens) + 1)
    law, new = (k == 0).astype(np.float64), (steps - k[1:] + 1) / steps
    for _ in range(tokens):
        law[1:] = law[1:] * (k[1:] / steps) + law[:-1] * new
        law[0] = 0.0
    return law


def expected_calls(steps: int, length: int, batch: int = 1, schedule: Schedule = LINEAR) -> float:
    """What ``decode.ancestral`` calls: once to begin, and after a step in which a token came to a sequence that is not yet full.

    1 + sum_i 1 - (a_i + f_i)^batch, with a_i = (1 - d_i)^length: nothing comes to a sequence in step i; f_i = alpha_i^length -
    alpha_(i-1)^length: its last token comes. Equal to :func:`expected_nfe` for batch = 1, up to batch - 1 less for more.
    """
    _size(length, batch)
    done = 1.0 - np.append(_masked_before(steps, schedule)[1:], 0.0)  # alpha_i
    with np.errstate(divide="ignore"):
        full = np.exp(length * np.log(np.append(0.0, done)))
        busy = -np.expm1(length * _log_empty(steps, schedule)) - np.diff(full)
        return 1.0 - math.fsum(np.expm1(batch * np.log1p(-np.clip(busy, 0.0, 1.0))))


def expected_draws(steps: int, length: int, batch: int = 1, schedule: Schedule = LINEAR) -> float:
    """Categorical draws of ancestral decoding, masked positions summed over steps: batch length sum_i (1 - alpha_(i-1)).

    Linear: batch length (steps + 1) / 2. Steps after the last token cost nothing, and none is counted. First-hitting
    decoding: ``length`` network calls a batch (one token a sequence each) and batch length draws, for certain.
    """
    return _size(length, batch) * math.fsum(_masked_before(steps, schedule))


def call_worth(ratio: float, steps: int, length: int) -> float:
    """x at which an ancestral run takes ``ratio`` times as long as a first-hitting one, where a network call takes as long as x
    draws in both: (E-NFE x + E-draws) / (length x + length) = ratio. One sequence, linear schedule.

    The ratio falls from E-draws / length (x = 0) to E-NFE / length (x -> infinity); InputError outside.
    """
    nfe, draws = expected_nfe(steps, length), expected_draws(steps, length)
    if not nfe < ratio * length <= draws:
        raise InputError(
            f"ratio = {ratio}",
            f"above {nfe / length:.4g}, at most {draws / length:.4g}",
            "more steps reach more",
        )
    return (draws - ratio * length) / (ratio * length - nfe)


@dataclass(frozen=True)
class CostModel:
    """App. J.3: seconds = NFE t1 + NCS t2, NCS = categorical draws x vocabulary. ``t1``, ``t2``: seconds; ``spread``: the
    standard deviation of a run about it, relative; ``covariance``: (2, 2) of t1 and t2."""

    t1: Estimate
    t2: Estimate
    spread: float
    covariance: Float

    def seconds(self, nfe: float, ncs: float) -> Estimate:
        """Of the mean of such runs, with the interval of the fit."""
        at = np.array([nfe, ncs])
        return _student(
            nfe * self.t1.value + ncs * self.t2.value,
            math.sqrt(at @ self.covariance @ at),
            self.t1.n,
            self.t1.confidence,
        )


def fit_cost(nfe: ArrayLike, ncs: ArrayLike, seconds: ArrayLike, confidence: float = 0.95) -> CostModel:
    """Least squares of *relative* errors: sum ((nfe t1 + ncs t2) / seconds - 1)^2, for timings err in proportion.

    One value a run; at least three, positive finite seconds, and NFE not in proportion to NCS, else InputError.
    Intervals: Student with n - 2 degrees of freedom, right if runs are independent and the model holds.
    """
    confidence, runs = (
        check_open_unit("confidence", confidence),
        [np.asarray(v, float) for v in (nfe, ncs, seconds)],
    )
    one = runs[0].ndim == 1 and len(runs[0]) >= 3 and len({v.shape for v in runs}) == 1
    if not (one and np.isfinite(runs).all() and (runs[2] > 0).all()):
        got = f"nfe, ncs and seconds of shapes {', '.join(str(v.shape) for v in runs)}"
        raise InputError(got, "three runs or more, one finite value each, seconds > 0", "time more runs")
    x, y = np.stack(runs[:2], axis=-1), runs[2]
    scale = np.linalg.norm(x / y[:, None], axis=0)
    design = x / y[:, None] / np.where(scale > 0, scale, 1.0)
    if np.linalg.cond(design) > 1e6:
        raise InputError("runs whose NFE and NCS are in proportion", "runs that differ in it", "vary the steps")
    found = np.linalg.lstsq(design, np.ones(len(y)), rcond=None)[0]
    spread = float(np.linalg.norm(design @ found - 1.0) / math.sqrt(len(y) - 2))
    covariance = spread**2 * np.linalg.inv(design.T @ design) / np.outer(scale, scale)
    t1, t2 = (
        _student(v, math.sqrt(c), len(y), confidence)
        for v, c in zip(found / scale, covariance.diagonal(), strict=True)
    )
    return CostModel(t1, t2, spread, covariance)


def _student(value: float, error: float, n: int, confidence: float) -> Estimate:
    half = float(stats.t.ppf((1 + confidence) / 2, n - 2)) * error
    return Estimate(
        float(value), value - half, value + half, confidence, n, "least squares, t", Guarantee.ASYMPTOTIC
    )


def _masked_before(steps: int, schedule: Schedule) -> Float:
    """1 - alpha before each step: masked(1 - i / steps), (steps,)."""
    unmask_probabilities(check_whole("steps", steps, 1), schedule)  # the door: the schedule is checked there
    return np.asarray(schedule.masked(np.arange(steps, 0, -1) / steps), dtype=np.float64)


def _log_empty(steps: int, schedule: Schedule) -> Float:
    """log P(a token does not come in step i); -inf where there is one step."""
    with np.errstate(divide="ignore"):
        return np.log1p(-np.minimum(step_shares(steps, schedule), 1.0))


def _size(length: int, batch: int) -> int:
    return check_whole("length", length, 1) * check_whole("batch", batch, 1)
