"""The law of speculative sampling: a drafted token is kept or replaced, and what comes out must be the
target's.

A draft model draws x from q. The token is kept with probability min(1, p(x) / q(x)); else one is drawn from
(p - q)+ normalised (Leviathan, Kalman and Matias 2023, arXiv:2211.17192, algorithm 1; Chen et al. 2023,
arXiv:2302.01318). Then

    P(kept, x) = q(x) min(1, p(x) / q(x)) = min(p(x), q(x)),
    P(replaced) = 1 - sum min(p, q) = sum (p - q)+,
    P(x) = min(p(x), q(x)) + (p(x) - q(x))+ = p(x), whatever q.

Of gamma drafted tokens with rates a_1, a_2, ... the first j are kept with probability a_1 ... a_j, so that
sum_j a_1 ... a_j are kept on average, and one more token is emitted; with equal rates that is
(1 - a^(gamma + 1)) / (1 - a) tokens (their equation 1).

**Accept if equal to the target's own draw.** The target draws t from p, and the drafted token d is kept if
d = t; t is emitted either way. Is that biased? The token emitted at a position is t, and t does not look at d:
P(x) = p(x) whatever q, whatever noise the draft and the target share at this position. The next position is
reached if d = t, an event of this position's noise alone; the token there is again a draw of its own row from
noise of its own. By induction the emitted text is the target's. What misleads is that tokens *that were kept*
have the law p q / sum p q: they lean to where both models agree, and the tokens that replace, p (1 - q)
normalised, lean away from it by as much; p q + p (1 - q) = p. Only acceptance is lost: sum p q against
sum min(p, q) >= sum p q, for equal rows sum p^2 against 1. Shared noise does no harm here, and helps:
acceptance is then that of the coupling, up to sum min(p, q); under the ratio rule it is a bias, as there the
token that replaces must not know why the drafted one was drafted. Two other published rules have this very
law given the drafted token d: keep d if u < p(d), else draw from p without d (drafts taken for certain, q = 1);
and the inverse-CDF walk that adds p over the drafted tokens and keeps the first that exceeds u.

**In b bits.** Real u are words k 2^-b, and the comparison rounds. "u < r" keeps with probability
ceil(r 2^b) / 2^b, at least 2^-b for any r > 0; "u <= r" with (floor(r 2^b) + 1) / 2^b, also for r = 0: a
drafted token *that the target cannot draw* is kept once in 2^b, 6e-8 with float32's 24 bits, 1/2048 with
float16's 11.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..errors import InputError
from ..formats import FP64, FloatFormat
from ..types import Float, Guarantee, Int
from .law import Law

Comparison = Literal["u < p / q", "u <= p / q", "u q < p", "u q <= p"]
Promise = Literal["ratio", "match"]  # min(p, q) is kept; p q is kept


@dataclass(frozen=True)
class AcceptanceRule:
    """When a drafted token is kept, as data.

    ``comparison``: what keeps it, of a uniform u = k 2^-``bits``, k = 0..2^bits - 1, in a format that holds it.
    ``format``: p and q are cast to it, and the quotient, the product and p - q are rounded to it.  ``certain``:
    q = 1 for the drafted token whatever drew it, and what replaces it is p without it.
    """

    comparison: Comparison = "u < p / q"
    bits: int = 53
    format: FloatFormat = FP64
    certain: bool = False

    def __post_init__(self) -> None:
        if self.comparison not in get_args(Comparison):
            known = ", ".join(get_args(Comparison))
            raise InputError(f"comparison {self.comparison!r}", f"one of {known}", "name what keeps a token")
        if not 1 <= self.bits <= 53:
            raise InputError(f"bits = {self.bits}", "1 to 53", "a float64 holds no more")

    def __str__(self) -> str:
        drafted = ", drafts taken for certain" if self.certain else ""
        return f"{self.comparison}, u of {self.bits} bits, {self.format.name}{drafted}"


@dataclass(frozen=True)
class AcceptanceLaw:
    """One position under a rule.

    ``words``: (vocab,) of the 2^bits words of u, how many keep the drafted token.  ``rate``: share of drafts
    kept.  ``residual``: (vocab,) law of the token that replaces a rejected one; zeros where none is rejected.
    ``token``: law of the token emitted.  ``target``: (vocab,) p, normalised.  ``overlap``: sum min(p, q), q
    normalised: the rate of the exact rule.
    """

    words: Int
    bits: int
    rate: float
    residual: Float
    token: Law
    target: Float
    overlap: float

    @property
    def accept(self) -> Float:
        """(vocab,) P(kept | drafted)."""
        return np.ldexp(self.words.astype(np.float64), -self.bits)

    @property
    def total_variation(self) -> float:
        """Of the token emitted, from the target."""
        return math.fsum(np.abs(self.token.probs - self.target)) / 2

    @property
    def leaked(self) -> float:
        """Mass of tokens that the target cannot draw."""
        return math.fsum(self.token.probs[self.target == 0])


def accepting_words(p: Float, q: Float, rule: AcceptanceRule) -> Int:
    """(vocab,) how many of the 2^bits words of u keep each token, p and q given as probabilities (vocab,).

    The comparison is monotone in u, also as rounded, so the first word that rejects is found by bisection.
    Exact: integers. A quotient 0 / 0 keeps nothing.
    """
    kept = rule.format.round(np.asarray(p, dtype=np.float64))
    drafted = rule.format.round(np.asarray(q, dtype=np.float64))
    if rule.certain:
        drafted = np.ones_like(kept)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = rule.format.round(kept / drafted)

    def keeps(word: Int) -> np.ndarray:
        u = np.ldexp(word.astype(np.float64), -rule.bits)
        left, right = (
            (u, ratio) if rule.comparison.endswith("p / q") else (rule.format.round(u * drafted), kept)
        )
        return left <= right if "<=" in rule.comparison else left < right

    few = np.zeros(len(kept), dtype=np.int64)
    many = np.full(len(kept), 1 << rule.bits, dtype=np.int64)
    while (few < many).any():
        middle = (few + many) // 2
        kept_there = keeps(middle) & (few < many)
        few = np.where(kept_there, middle + 1, few)
        many = np.where(kept_there, many, np.minimum(many, middle))
    return few


def acceptance_law(p: Float, q: Float, rule: AcceptanceRule, *, drawn: Float | None = None) -> AcceptanceLaw:
    """The law of the token emitted at one position: q(x) a(x) + P(rejected) r(x).

    ``p``, ``q``: (vocab,) probabilities of the target and of the draft as the rule is given them, each summing
    to 1 but for rounding.  ``drawn``: the law that drew the draft, where it is another, say that of bfloat16
    logits. What replaces a rejected token is drawn in proportion to its weights, exactly. Laws are normalised
    before they draw. Error: (vocab + 8) ulp of float64; the words are exact.
    Errors: InputError for rows that are no probabilities, and where tokens are rejected and nothing can
    replace them.
    """
    target, draft = _row(p, "p"), _row(q, "q")
    drafts = draft if drawn is None else _row(drawn, "drawn")
    if not len(target) == len(draft) == len(drafts):
        lengths = f"{len(target)}, {len(draft)} and {len(drafts)}"
        raise InputError(f"rows of {lengths} tokens", "one vocabulary", "pad the draft's with zeros")
    proposed = drafts / math.fsum(drafts)
    words = accepting_words(target, draft, rule)
    kept = proposed * np.ldexp(words.astype(np.float64), -rule.bits)
    rejected = proposed * np.ldexp(((1 << rule.bits) - words).astype(np.float64), -rule.bits)
    rest = math.fsum(rejected)
    cast = rule.format.round(target)
    if rule.certain:
        replaced = _without_drafted(cast, rejected)
    else:
        weights = np.maximum(rule.format.round(cast - rule.format.round(draft)), 0.0)
        total = math.fsum(weights)
        if total == 0 and rest > 0:
            got = f"{rest:.3g} of drafts rejected and (p - q)+ = 0 everywhere"
            raise InputError(got, "a residual to draw from", "fall back to p, and judge that rule")
        replaced = rest * weights / total if total > 0 else weights
    emitted = kept + replaced
    token = Law.from_probs(
        emitted, f"speculative sampling: {rule}", (len(target) + 8) * 2.0**-52, Guarantee.EXACT
    )
    return AcceptanceLaw(
        words,
        rule.bits,
        math.fsum(kept),
        replaced / rest if rest > 0 else np.zeros_like(replaced),
        token,
        target / math.fsum(target),
        overlap(target / math.fsum(target), draft / math.fsum(draft)),
    )


def overlap(p: Float, q: Float) -> float:
    """sum min(p, q): the share of drafts that the ratio rule keeps; 1 - total variation."""
    return math.fsum(np.minimum(p, q))


def match_rate(p: Float, q: Float) -> float:
    """sum p q: the share of drafts that equal the target's own, independent draw."""
    return math.fsum(np.asarray(p) * np.asarray(q))


def split(p: Float, q: Float, promise: Promise) -> tuple[Float, Float]:
    """(P(kept, x), P(replaced by x)), (vocab,) each, under an exact rule: they add up to p.

    ratio: min(p, q) and (p - q)+.  match: p q and p (1 - q).
    """
    if promise == "ratio":
        return np.minimum(p, q), np.maximum(p - q, 0.0)
    if promise == "match":
        return p * q, p * (1 - q)
    raise InputError(f"promise {promise!r}", "'ratio' or 'match'", "name the rule")


def accepted_law(rates: Sequence[float]) -> Float:
    """(gamma + 1,) P(0, 1, ..., gamma drafted tokens are kept), ``rates`` given that those before were."""
    a = np.asarray(rates, dtype=np.float64)
    if a.ndim != 1 or not ((a >= 0) & (a <= 1)).all():
        raise InputError(f"rates {a.tolist()!s:.60}", "a list of probabilities", "one rate a drafted token")
    reached = np.cumprod(np.append(1.0, a))
    return reached - np.append(reached[1:], 0.0)


def expected_accepted(rates: Sequence[float]) -> float:
    """sum_j a_1 ... a_j: drafted tokens kept on average. One more token is emitted."""
    return float(accepted_law(rates) @ np.arange(len(rates) + 1))


def _without_drafted(p: Float, rejected: Float) -> Float:
    """(vocab,) sum over rejected d of P(d rejected) p(x) / (total - p(d)), x other than d."""
    others = math.fsum(p) - p
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(rejected > 0, rejected / others, 0.0)
    if not np.isfinite(each).all():
        raise InputError("a rejected token that is the only one", "another token to replace it", "keep it")
    return p * np.maximum(each.sum() - each, 0.0)


def _row(row: Float, name: str) -> Float:
    values = np.asarray(row, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not (values >= 0).all():
        raise InputError(f"{name} of shape {values.shape}", "(vocab,) probabilities", "softmax the logits")
    if not abs(math.fsum(values) - 1) <= 0.01:
        raise InputError(f"{name} of sum {math.fsum(values):.6g}", "probabilities", "softmax the logits")
    return values
