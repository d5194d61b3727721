"""The law of ``argmax_i score(weight_i, noise_i)`` when every noise value is one of finitely many atoms.

With F_j(s) = P(score_j <= s) and m_i(s) = P(score_i = s), and the first index winning ties,

    P(i) = sum_s m_i(s) * prod_{j < i} F_j(s-) * prod_{j > i} F_j(s).

Visit all events (token, score) by falling score, then by index, with P = prod_j F_j of what has been seen
so far. An event of odds o = m_i(s) / F_i(s) moves the mass P o from P to token i: no logarithm, no binning,
ties and u = 0 included, and an error in proportion to the mass moved. Thresholds cut the events into
segments, each of which starts from its own P, so that they run in parallel. About 48 times the number of
atoms are visited until P < 1e-21, whatever the vocabulary.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from ..atoms import Atoms
from ..errors import InputError
from ..formats import FP32, FP64, FloatFormat
from ..types import Array, Float, Guarantee, Int
from .law import Law

Combine = Literal["add", "divide", "multiply", "ratio"]
Tie = Literal["first", "last", "highest"]
Nonfinite = Literal["wins", "first index"]
_COMBINES: dict[str, int] = {"add": 0, "divide": 1, "multiply": 2, "ratio": 3}  # the codes of :mod:`._sweep`
_ROUNDINGS = {"bf16": 1, "fp16": 2}  # codes too; 0, the score as computed
Progress = Callable[[float], None]
FLOOR = 1e-15  # Law.relative is stated for tokens above
_ARITHMETIC = 2e-12  # of the arithmetic: 1.3e-12 for classes of equal tokens, the rest a few hundred ulp
_SEGMENTS = 64
_EVENTS = 1 << 34  # of one race: ten minutes or so
_BYTES = 4 << 30


def argmax_law(
    weights: Float,
    noise: Atoms,
    *,
    combine: Combine,
    score: FloatFormat,
    tie: Tie = "first",
    nonfinite: Nonfinite = "wins",
    tolerance: float = 1e-10,
    relative: float = 1e-7,
    progress: Progress | None = None,
) -> Law:
    """Exact law of an argmax sampler.

    ``weights``: (vocab,) float64, the logits (``combine="add"``: score = w + noise) or the probabilities,
    not negative (``"divide"``: w / noise; ``"multiply"``: w noise; ``"ratio"``: -(noise / w), the argmin of
    noise / w) *as the sampler holds them*; ``score``: the format in which the score is rounded (float16 and
    bfloat16 are computed in float32 and rounded again, as torch does; of sums and quotients the second
    rounding is innocuous). u = 0, infinite noise and zero weights follow IEEE arithmetic: NaN (0 / 0, 0
    inf, inf - inf) wins, as in torch's argmax and argmin, and a zero weight in a ratio, noise / 0 = inf,
    loses. Zeros are +0.
    ``tie``: which of equal best scores wins; "last" and "highest" both mean the highest index.
    ``nonfinite``: what a score of NaN or +inf does. "wins": as in argmax, NaN before +inf. "first index":
    one anywhere in the row sends the row to index 0, as does ``softmax(scores).max()``, whose softmax is
    NaN throughout; ties go to the first index then. A token whose every score is NaN or infinite has
    probability 0 there, exactly, unless it is token 0.

    Stops when no token can still gain more than ``tolerance``, nor, above 1e-15, more than ``relative`` of
    what it has: what is left below a threshold is bounded by each token's own mass there times P. So
    ``Law.error`` <= tolerance + 2e-12 and ``Law.relative`` <= relative + 2e-12. ``progress``: called with
    the share of the work done.
    Raises InputError for weights that are not (vocab,) numbers, for a race of more than 2^34 events and for
    tables that do not fit in 4 GiB, before the long computation.
    """
    row = np.asarray(weights, dtype=np.float64)
    if row.ndim != 1:
        raise InputError(
            f"weights of shape {row.shape}", "(vocab,) numbers", "give one row, or use argmax_laws"
        )
    return argmax_laws(
        row[None],
        noise,
        combine=combine,
        score=score,
        tie=tie,
        nonfinite=nonfinite,
        tolerance=tolerance,
        relative=relative,
        progress=progress,
    )[0]


def race_law(
    probs: Float,
    exponential: Atoms,
    *,
    score: FloatFormat,
    tie: Tie = "first",
    tolerance: float = 1e-10,
    relative: float = 1e-7,
) -> Law:
    """The law of argmax_i p_i / E_i: :func:`argmax_law` of an exponential race. ``probs``: (vocab,) need
    not sum to 1."""
    return argmax_law(
        probs, exponential, combine="divide", score=score, tie=tie, tolerance=tolerance, relative=relative
    )


def argmax_laws(
    weights: Float,
    noise: Atoms,
    *,
    combine: Combine,
    score: FloatFormat,
    tie: Tie = "first",
    nonfinite: Nonfinite = "wins",
    tolerance: float = 1e-10,
    relative: float = 1e-7,
    progress: Progress | None = None,
) -> list[Law]:
    """:func:`argmax_law` of each row of (rows, vocab). The tables are shared, and equal rows are computed
    once."""
    w = _checked(np.asarray(weights, dtype=np.float64), noise, combine, score)
    if tie not in ("first", "last", "highest"):
        raise InputError(f"tie {tie!r}", "first, last or highest", "name which of equal scores wins")
    if nonfinite not in ("wins", "first index") or (nonfinite != "wins" and tie != "first"):
        got = f"nonfinite {nonfinite!r} with tie {tie!r}"
        raise InputError(got, "'wins', or 'first index' with ties to the first", "name what a NaN score does")
    if not (0 < tolerance < 1 and relative > 0):
        raise InputError(
            f"tolerance {tolerance}, relative {relative}", "a mass below 1, a ratio", "leave the defaults"
        )
    distinct, which = (
        np.unique(w, axis=0, return_inverse=True) if len(w) > 1 else (w, np.zeros(1, dtype=np.int64))
    )
    table = _Table.of(noise, combine, score)
    races = []
    for row in distinct:
        ordered = row if tie == "first" else row[::-1]
        races.append(_Race.of(ordered, table, tolerance, relative, finite_only=nonfinite == "first index"))
    laws = []
    for done, race in enumerate(races):
        how = f"enumeration of {len(noise.values)} noise atoms, ties to the {tie} index"
        probs, missing = race.solve(lambda part, done=done: progress and progress((done + part) / len(races)))  # type: ignore[misc]
        if nonfinite == "first index":
            probs[0] += race.left_out
            how += ", rows with a score of NaN or +inf to index 0"
        error = _ARITHMETIC + float(missing.max())
        laws.append(
            Law.from_probs(
                probs if tie == "first" else probs[::-1],
                how,
                error,
                Guarantee.EXACT if error < 1e-11 else Guarantee.CERTIFIED,
                relative=_ARITHMETIC + float((missing / np.maximum(probs, FLOOR)).max()),
            )
        )
    return [laws[k] for k in which.reshape(-1)]


@contextmanager
def compiling(score: FloatFormat) -> Iterator[None]:
    """Compile the loops of a law, or load them, while the body makes its noise table. They take some seconds
    in the first process that needs them; ``score`` decides which they are, float64 having its own."""
    with ThreadPoolExecutor(1) as pool:
        ready = pool.submit(_compile, FP64 if score is FP64 else FP32)
        yield
        ready.result()


@cache
def _compile(score: FloatFormat) -> None:
    coin = Atoms(np.array([0.0, 1.0]), np.array([1, 1]), 1)
    argmax_law(np.zeros(2), coin, combine="add", score=score)


def nonfinite_probs(weights: Float, noise: Atoms, *, combine: Combine, score: FloatFormat) -> Float:
    """(vocab,) the probability of each token that its score is NaN or +inf, exact: whole words over 2^bits.

    Arguments and errors as of :func:`argmax_law`; scores that round to +inf count.
    """
    from . import _sweep

    row = np.asarray(weights, dtype=np.float64)
    row = _checked(row[None], noise, combine, score)[0]
    table, order = _Table.of(noise, combine, score), np.argsort(-row)
    held, at = row.astype(table.noise.dtype), np.zeros(len(row), dtype=np.int64)
    _sweep.locate(held, order, table.noise, table.combine, table.format, _sweep.INFINITE, at)
    return np.ldexp((table.remaining[0] - table.remaining[at]).astype(np.float64), -noise.bits)


def _checked(w: Float, noise: Atoms, combine: Combine, score: FloatFormat) -> Float:
    """(rows, vocab) weights that make a race, zeros as +0; else InputError."""
    if combine not in _COMBINES:
        raise InputError(
            f"combine {combine!r}", "add, divide, multiply or ratio", "name how weight and noise are joined"
        )
    if (
        w.ndim != 2
        or not w.size
        or not np.isfinite(w.max(axis=1)).all()
        or (combine != "add" and (w < 0).any())
    ):
        raise InputError(
            f"weights of shape {w.shape[1:]}", "(vocab,) numbers, not all -inf", "check the row of logits"
        )
    if combine != "add" and noise.floor < 0:
        raise InputError("a negative atom", f"noise >= 0 for combine={combine!r}", "check the recipe")
    if score is not FP64 and (largest := float(abs(w.max(axis=1)).max())) > FP32.max:
        raise InputError(
            f"a weight of {largest:.4g}", f"at most {FP32.max:.4g} for {score.name}", "use float64, or scale"
        )
    return w + 0.0


@dataclass(frozen=True)
class _Table:
    """Atoms in order of favour, best first; the score is monotone along them."""

    noise: Array  # (atoms,) float32; float64 for a float64 score
    remaining: Int  # (atoms + 1,) words whose noise is not one of the first k
    combine: int  # a code of :mod:`._sweep`, and so is format
    format: int

    @staticmethod
    def of(noise: Atoms, combine: Combine, score: FloatFormat) -> _Table:
        wide = np.float64 if score is FP64 else np.float32
        largest_first = combine in ("add", "multiply")
        if (size := len(noise.values) * (np.dtype(wide).itemsize + 8)) > _BYTES // 2:
            what = f"a noise table of {size / 2**30:.1f} GiB"
            raise InputError(
                what, f"at most {_BYTES // 2 / 2**30:.0f} GiB", "merge atoms, or use perturbed_law"
            )
        key = (largest_first, wide)
        if key not in noise.cache:
            values = noise.values[::-1] if largest_first else noise.values
            counts = noise.counts[::-1] if largest_first else noise.counts
            remaining = np.empty(len(values) + 1, dtype=np.int64)
            remaining[0] = 1 << noise.bits
            np.cumsum(counts, out=remaining[1:])
            np.subtract(remaining[0], remaining[1:], out=remaining[1:])
            noise.cache[key] = np.ascontiguousarray(values, dtype=wide), remaining
        favour, left = noise.cache[key]
        return _Table(favour, left, _COMBINES[combine], _ROUNDINGS.get(score.name, 0))


@dataclass(frozen=True)
class _Race:
    """One row: its classes of equal weights, in order of their first token, and the thresholds of its segments.

    A threshold is named by x, the exponential at which a token of the top weight has that score."""

    table: _Table
    weights: Array  # (classes,)
    first: Int  # (classes + 1,) where each class begins in members
    members: Int  # (vocab,) tokens, grouped by class, ascending in each
    order: Int  # (classes,) by falling weight
    edges: list[float]
    start: Int  # (classes,) atoms that are left out, best first: those of scores that are not finite, or none
    tolerance: float
    relative: float
    events: int

    @staticmethod
    def of(row: Float, table: _Table, tolerance: float, relative: float, *, finite_only: bool = False) -> _Race:
        from . import _sweep

        if (size := len(row) * 300 * _threads()) > _BYTES // 2:
            what = f"{len(row)} tokens, {size / 2**30:.1f} GiB"
            raise InputError(what, f"at most {_BYTES // 2 / 2**30:.0f} GiB", "take a part of the vocabulary")
        with np.errstate(over="ignore"):  # a weight below the format's least is -inf in it
            held = row.astype(table.noise.dtype)
        weights, lead, inverse = np.unique(held, return_index=True, return_inverse=True)
        rank = np.argsort(lead)
        weights, inverse = weights[rank], np.argsort(rank)[inverse]
        sizes = np.bincount(inverse)
        first, members, order = (
            np.concatenate([[0], np.cumsum(sizes)]),
            np.argsort(inverse, kind="stable"),
            np.argsort(-weights),
        )
        start = np.zeros(len(weights), dtype=np.int64)
        if finite_only:
            _sweep.locate(weights, order, table.noise, table.combine, table.format, _sweep.INFINITE, start)
        top, wide = float(weights.max()), weights.astype(np.float64)
        with np.errstate(over="ignore", under="ignore"):
            rates = (np.exp(wide - top) if table.combine == _COMBINES["add"] else wide / (top or 1.0)) * sizes
        stop = min(tolerance, relative * FLOOR)
        depth, pos = -math.log(stop), np.empty(len(weights), dtype=np.int64)
        near = depth / float(rates.sum() or 1.0)  # by then the top token is exhausted, or all are
        far = 1.1 * depth / max(float(rates.sum()) - 1.0, 1e-300)
        for x in (*sorted([near, 1.1 * near, far, *(near * 2.0**k for k in range(1, 24))]), math.inf):
            limit = _sweep.threshold(x, top, table.combine)
            _sweep.locate(weights, order, table.noise, table.combine, table.format, limit, pos)
            pos = np.maximum(pos, start)
            left = math.exp(_sweep.log_product(table.remaining, first, pos))
            if left <= stop and pos.any():
                break
        if (events := int(pos.sum())) > _EVENTS:
            what = f"a race of {events:.2g} (token, atom) events"
            raise InputError(what, f"at most {_EVENTS:.2g}", "a larger tolerance, or use perturbed_law")
        half = min(max(events >> 17, 1), _SEGMENTS) // 2
        if not half:
            edges = [0.0, x]
        elif x <= 1.1 * near:
            edges = np.linspace(0, x, 2 * half + 1).tolist()
        else:  # most of the work, where the top token is exhausted, is beyond
            beyond = (
                np.linspace(near, x, half + 1) if x < math.inf else [*np.geomspace(near, 1e9 * near, half), x]
            )
            edges = [*np.linspace(0, near, half + 1).tolist(), *list(map(float, beyond))[1:]]
        return _Race(table, weights, first, members, order, edges, start, tolerance, relative, events)

    def solve(self, progress: Progress | None) -> tuple[Float, Float]:
        """Probabilities, and a bound on what each can lack. Segments are added in their order, whoever
        finishes first."""
        probs, segments = np.zeros(len(self.members)), len(self.edges) - 1
        class_of = np.empty(len(self.members), dtype=np.int64)
        class_of[self.members] = np.repeat(np.arange(len(self.weights)), np.diff(self.first))
        bounds = self._beyond() if segments > 1 else []
        in_doubt = np.zeros(len(self.weights))
        pool = ThreadPoolExecutor(_threads())
        try:
            for done, part in enumerate([pool.submit(self._segment, i) for i in range(segments)], 1):
                gain, left, doubt = part.result()
                probs += gain
                in_doubt += doubt
                missing = np.full(len(probs), left)
                if done < segments and left > self.stop:
                    missing = np.minimum(left, bounds[done][class_of])
                missing += in_doubt[class_of]
                enough = done == segments or bool(
                    (missing <= np.minimum(self.tolerance, self.relative * np.maximum(probs, FLOOR))).all()
                )
                if progress is not None:
                    progress(1.0 if enough else done / segments)
                if enough:
                    break
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return probs, missing

    @property
    def left_out(self) -> float:
        """P(some token has one of the scores that are left out)."""
        from . import _sweep

        return -math.expm1(_sweep.log_product(self.table.remaining, self.first, self.start))

    @property
    def stop(self) -> float:
        return min(self.tolerance, self.relative * FLOOR)

    def _stand(self, x: float) -> tuple[Int, float]:
        """Where each class stands at a threshold, and P there."""
        from . import _sweep

        t, pos = self.table, self.start.copy()
        if x > 0:
            limit = _sweep.threshold(x, float(self.weights.max()), t.combine)
            _sweep.locate(self.weights, self.order, t.noise, t.combine, t.format, limit, pos)
            pos = np.maximum(pos, self.start)
        return pos, math.exp(_sweep.log_product(t.remaining, self.first, pos))

    def _beyond(self) -> list[Array]:
        """For each edge, a bound on what one token of each class gains below it: sum over segments of P at
        their top, over F_i there, times the token's own mass inside."""
        pos, left = self._stand(self.edges[-1])
        own, bound = self.table.remaining[pos], np.full(len(pos), left, dtype=np.float32)
        bounds = [bound]
        for x in self.edges[-2::-1]:
            pos, left = self._stand(x)
            before = self.table.remaining[pos]
            bound = bound + np.float32(1.0001) * (left * (1.0 - own / np.maximum(before, 1))).astype(np.float32)
            own, bounds = before, [bound, *bounds]
        return bounds

    def _segment(self, i: int) -> tuple[Float, float, Float]:
        """What each token gains between two thresholds, the mass below the second, and the doubt about what a
        token of each class gains."""
        from . import _sweep

        t, classes, (x0, x1) = self.table, len(self.weights), self.edges[i : i + 2]
        gain, moments = np.zeros((len(self.members), 2)), np.zeros((_sweep.MOMENTS, classes, 2))
        doubt = np.zeros(classes)
        top, (pos, product) = float(self.weights.max()), self._stand(x0)
        step = (x1 - x0) / 16 if x1 < math.inf else max(x0, 1.0)
        room = max(min(self.events, 1 << 17), 2 * classes) + 16
        left, *_ = _sweep.sweep(
            self.weights, t.noise, t.remaining, self.first, self.members, t.combine, t.format,
            top, x0, x1, step, room, self.stop, product, pos, gain, moments, doubt,
        )  # fmt: skip
        _sweep.spread(moments, self.first, self.members, gain)
        return gain[:, 0], left, doubt


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def truncated_gumbel_law(log_probs: Float, ceiling: float) -> Law:
    """Proposition 5.2 of arXiv:2409.02908: Gumbel-max with noise conditioned to lie below ``ceiling`` (M).

    With p ascending, A_i = sum_{k >= i} p_k and p_0 = 0,
        P(n) = p_n sum_{i <= n} beta(i),
        beta(i) = [e^{(K+1-i) e^-M - A_i e^-M / p_i} - e^{(K+1-i) e^-M - A_i e^-M / p_{i-1}}] / A_i.
    The continuum's answer: the lattice of the float is not in it. (vocab,) natural-log probabilities in,
    normalised. A token with e^-M / p_i beyond the floats has beta = 0: below e^(-1e300). Error: vocab 2^-50
    max(1, e^-M), of the cancellation in the exponent. Raises InputError for what is not normalised and for
    M below -30 or NaN.
    """
    p = np.exp(np.asarray(log_probs, dtype=np.float64))
    if p.ndim != 1 or not p.size or not np.isclose(p.sum(), 1.0, atol=1e-6):
        raise InputError(
            f"log_probs of shape {p.shape} and mass {p.sum():.6g}", "(vocab,) summing to one", "normalise"
        )
    if not ceiling >= -30:
        raise InputError(
            f"a ceiling of {ceiling}", "a number, -30 or more", "name the largest Gumbel value, 16.6 in float32"
        )
    order = np.argsort(p, kind="stable")
    order = order[p[order] > 0]
    q = p[order]
    tail = np.cumsum(q[::-1])[::-1]
    floor = np.exp(-ceiling)
    with np.errstate(over="ignore"):
        left = floor / q
    right = np.concatenate([[np.inf], left[:-1]])
    count = np.arange(len(q), 0, -1)
    beta = np.zeros(len(q))
    some = left < np.inf
    gap = right[some] - left[some]
    beta[some] = (
        np.exp(count[some] * floor - tail[some] * left[some]) * -np.expm1(-tail[some] * gap) / tail[some]
    )
    out = np.zeros_like(p)
    out[order] = q * np.cumsum(beta)
    error = min(len(p) * 2.0**-50 * max(1.0, float(floor)), 1.0)
    return Law.from_probs(out, f"Prop. 5.2, Gumbel conditioned below {ceiling:.6g}", error, Guarantee.CERTIFIED)


def perturbed_law(log_probs: Float, *, relative: float, lattice: float) -> Law:
    """The target law with a proved bound on how far a fine-grained race can be from it.

    Let every uniform be rounded to a grid of spacing ``lattice`` and every score be known to within a
    factor ``1 +- r``, r = ``relative`` <= 1/2. If i wins, then ``E_i / (p_i (1 + r)) <= min_j E_j / (p_j (1
    - r))``, which has probability ``p_i (1 + r) / (p_i (1 + r) + (1 - p_i)(1 - r)) <= p_i + 2 r p_i (1 -
    p_i) / (1 - r) <= p_i + r`` with continuous uniforms. In any one uniform that event is a half-line, so
    rounding the uniforms one after another changes its probability by at most ``lattice`` each, however
    coarse E itself is far from 0. The other direction is the same with r -> -r. Hence ``|P'(i) - p_i| <=
    vocab * lattice + relative``; stated with ``2 relative``, which reaches 1, and says nothing, where r >
    1/2.
    """
    log_probs = np.asarray(log_probs, dtype=np.float64)
    error = min(len(log_probs) * lattice + 2 * relative, 1.0)
    return Law(log_probs, "target law within a proved perturbation bound", error, Guarantee.CERTIFIED)
