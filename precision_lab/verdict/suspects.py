"""Which known recipe's law explains the draws best: likelihoods of whole laws, the faithful one always
among them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import numpy as np
from scipy import optimize, special

from ..errors import InputError
from ..laws.argmax import truncated_gumbel_law
from ..laws.law import Law
from ..samplers import SAMPLERS, with_tolerance
from ..samplers.gumbel_max import FP32_CEILING
from ..statistics import Counts, agreement, identity_test, lattice_law
from ..statistics.row_sharing import LEAST
from ..statistics.tempered import Tempered
from ..types import Array, Float, Guarantee
from .plan import Question
from .truncations import truncations

LawAt: TypeAlias = "Callable[[Question], Law]"

FAITHFUL = "faithful"
TEMPERATURE = "temperature wrong"
MISSING = "a token is missing"
LAST = "the last token is missing"
SHARED = "noise is shared"
MIXED = "rows mixed up"
WIDEST = math.log(2.0)  # temperatures from 1/2 to 2 are thought of
UNLIKELY = 1000  # times less likely beforehand: that a token is missing
UNEXPLAINED = 1e-3  # a fit below this says that no recipe of the list explains the draws

# what it is called -> the sampler whose exact law it is. All of these take well under a second at 50,257
# tokens.
EXACT = {
    "bfloat16 noise, Gumbel-max": "gumbel_max_bf16",
    "bfloat16 noise, exponential race": "exponential_race_bf16",
    "bfloat16 noise, JAX": "jax_low_bf16",
    "float16 noise, Gumbel-max": "gumbel_max_fp16",
    "float16 noise, exponential race": "exponential_race_fp16",
    "float16 cumulative sum absorbs": "inverse_cdf_fp16",
    "float32 cumulative sum absorbs": "torch_multinomial_replacement_fp32",
}
# A float32 race has 2^24 atoms a token: 12 s of a core for each law, so only where the budget is full.
SLOW = {
    "float32 noise, truncated": "gumbel_max_fp32",
    "float32 noise cast to float64": "duo_ar_fp64",
}


@dataclass(frozen=True)
class Suspect:
    """``log_likelihood``: nats above the faithful law's, summed over the targets.  ``posterior``: under
    equal priors.

    ``how``: what law it is; ``law_at``: that law at a question.  ``fit``: Monte Carlo p-value of the draws
    under it, None where it was not asked: a small one means that even the best of the list does not explain
    them.
    """

    recipe: str
    how: str
    log_likelihood: float
    posterior: float
    n: int
    law_at: LawAt | None = field(default=None, repr=False, compare=False)
    fit: float | None = None


@dataclass(frozen=True)
class Pairs:
    """Pairs of draws of one law, none of which shares a draw with another: ``agreed`` of ``pairs``.
    ``which``: say."""

    which: str
    pairs: int
    agreed: int


def pairs_of(tokens: Array) -> list[Pairs]:
    """Rows of a call, calls in a row, and streams of different seeds. ``tokens``: (streams, calls, rows) of
    one law."""
    even = [length // 2 * 2 for length in tokens.shape]
    ways = {
        "between the rows of a call": (tokens[:, :, 0 : even[2] : 2], tokens[:, :, 1 : even[2] : 2]),
        "between draws that follow each other": (tokens[:, 0 : even[1] : 2], tokens[:, 1 : even[1] : 2]),
        "between streams of different seeds": (tokens[0 : even[0] : 2], tokens[1 : even[0] : 2]),
    }
    return [Pairs(which, a.size, int((a == b).sum())) for which, (a, b) in ways.items() if a.size]


def suspects(
    questions: Sequence[Question],
    counts: Sequence[Counts],
    *,
    slow: bool = False,
    pairs: Sequence[Sequence[Pairs]] = (),
) -> list[Suspect]:
    """All recipes, best first: L = sum_i n_i (log q_i - log p_i) over the targets, posterior ~ e^L.

    Probabilities of a candidate are raised by its error bound, though not above the faithful law's, so that
    what it forbids costs much and not everything. A wrong temperature is one recipe: its likelihood is
    averaged over log T uniform on [log 1/2, log 2], by Laplace. Draws of tokens below :data:`LEAST` count
    for the recipes that draw them, and for no other. ``slow``: the exact laws of float32 races too, 12 s
    each.  ``pairs``: :func:`pairs_of` the draws of each question.
    """
    found: dict[str, tuple[str, float, LawAt]] = {
        FAITHFUL: ("softmax in float64", 0.0, lambda question: question.law)
    }
    for recipe, name in (EXACT | (SLOW if slow else {})).items():
        with contextlib.suppress(InputError):  # a law that cannot be computed there is no candidate
            law_at = partial(exact_law, name)
            found[recipe] = (f"exact law of {name}", _total(questions, law_at, counts), law_at)
    for recipe, (how, make) in CLOSED_FORMS.items():
        if recipe not in found:
            law_at = partial(_of_law, make)
            found[recipe] = (f"{how}, closed form", _total(questions, law_at, counts), law_at)
    for recipe, (how, of_row) in OF_LOGITS.items():
        laws = [of_row(question.logits) for question in questions]
        if all(law is not None for law in laws):
            law_at = partial(_of_row, of_row)
            found[recipe] = (f"{how}, closed form", _total(questions, law_at, counts), law_at)
    tempered = _temperature([question.law for question in questions], counts)
    if tempered is not None:
        found[TEMPERATURE] = tempered
    for recipe, last in ((LAST, True), (MISSING, False)):
        missing = _missing(questions, counts, last=last)
        if missing is not None:
            found[recipe] = missing
    shared = _shared(questions, pairs)
    if shared is not None:
        found[SHARED] = shared
    found |= _truncated(questions, counts)
    logs = np.array([log for _, log, _ in found.values()])
    posterior = np.exp(logs - special.logsumexp(logs))
    n = sum(count.n for count in counts)
    listed = [
        Suspect(recipe, how, log, float(share), n, law_at)
        for (recipe, (how, log, law_at)), share in zip(found.items(), posterior, strict=True)
    ]
    return sorted(listed, key=lambda suspect: -suspect.log_likelihood)


def _truncated(questions: Sequence[Question], counts: Sequence[Counts]) -> dict[str, tuple[str, float, LawAt]]:
    """Truncations that explain the draws better than none, and the best of them at another temperature."""
    laws = [question.law for question in questions]
    found: dict[str, tuple[str, float, LawAt]] = {}
    listed = truncations(laws, counts)
    for truncation in listed:
        cut = dict(zip(map(id, questions), truncation.laws(laws), strict=True))
        found[truncation.recipe] = (truncation.how, truncation.evidence, partial(_looked_up, cut))
    if listed:
        best = max(listed, key=lambda truncation: truncation.evidence)
        cut_laws = best.laws(laws)
        tempered = _temperature(cut_laws, counts)
        if tempered is not None and tempered[1] > 0:
            of_question = dict(zip(map(id, questions), cut_laws, strict=True))
            how, gain, law_at = tempered
            found[f"{TEMPERATURE}, and {best.recipe}"] = (
                f"{how}; {best.how}",
                best.evidence + gain,
                lambda question: law_at(replace(question, law=of_question[id(question)])),
            )
    return found


def _looked_up(laws: dict[int, Law], question: Question) -> Law:
    return laws[id(question)]


def with_fit(
    best: Suspect, questions: Sequence[Question], counts: Sequence[Counts], rng: np.random.Generator
) -> Suspect:
    """The suspect with the p-value of the identity test of its law: the least over targets, times their
    number."""
    if best.recipe == SHARED:  # its draws depend on each other: the test supposes that they do not
        return best
    p_values = []
    assert best.law_at is not None
    for question, count in zip(questions, counts, strict=True):
        law = replace(best.law_at(question), error=0.0)
        possible = (question.law.log_probs >= math.log(LEAST)) | (law.log_probs >= math.log(LEAST))
        kept = np.where(possible, count.counts, 0)
        count = Counts(kept, int(kept.sum()))
        p_values.append(identity_test(count, law, rng=rng, false_fail=UNEXPLAINED, resamples=1999).p_value)
    return replace(best, fit=min(1.0, len(p_values) * min(p_values)))


def shifted_lattice(law: Law) -> Law:
    """float32 noise whose largest uniform is 1 - 3 2^-24 (torch.distributions.Gumbel): exponentials 3d, 4d,
    ..., d = 2^-24.

    The lattice's q_i ~ p_i y / (e^y - 1), times e^(-2y): the first two atoms are missing. y = d (1 - p_i) /
    p_i.
    """
    lattice, p = lattice_law(law, 24), law.probs
    with np.errstate(divide="ignore", over="ignore"):
        y = 2.0**-24 * (1 - p) / p
    log_q = np.where(np.isneginf(lattice.log_probs), -np.inf, lattice.log_probs - 2 * y)
    return replace(
        lattice, log_probs=log_q - special.logsumexp(log_q), how="lattice without its first two atoms"
    )


def second_softmax(law: Law) -> Law:
    """q_i ~ e^(p_i): probabilities given to a sampler that takes logits."""
    p = law.probs
    return Law(p - special.logsumexp(p), "softmax of probabilities", 0.0, Guarantee.EXACT)


CLOSED_FORMS: dict[str, tuple[str, Callable[[Law], Law]]] = {
    "float32 noise, truncated": ("lattice of 24 bits", partial(lattice_law, bits=24)),
    "23-bit noise (JAX, TensorFlow GPU)": ("lattice of 23 bits", partial(lattice_law, bits=23)),
    "float32 noise cast to float64": ("lattice of 24 bits from its third atom", shifted_lattice),
    "float64 noise cut at the float32 ceiling": (
        "truncated Gumbel",
        lambda law: truncated_gumbel_law(law.log_probs, FP32_CEILING),
    ),
    "softmax taken twice: probabilities given as logits": ("softmax of probabilities", second_softmax),
}
# what is asked of the logits themselves: recipe -> (how, law of a row of logits or None)
OF_LOGITS: dict[str, tuple[str, Callable[[Float], Law | None]]] = {
    "logits taken for probabilities": (
        "in proportion to the logits above 0",
        lambda logits: _proportional(logits),
    ),
}


def _proportional(logits: Float) -> Law | None:
    """q_i = max(l_i, 0) / sum_j max(l_j, 0); None where no logit is above 0."""
    weights = np.where(np.isfinite(logits), np.maximum(logits, 0.0), 0.0).astype(np.float64)
    if not weights.sum() > 0:
        return None
    return Law.from_probs(weights / weights.sum(), "in proportion to the logits", 0.0, Guarantee.EXACT)


def looks_like_probabilities(rows: Array) -> bool:
    """Whether all values are in [0, 1] and every row sums to 1, as no logits do. ``rows``: (k, vocab)."""
    if rows.shape[-1] < 2 or not ((rows >= 0) & (rows <= 1)).all():
        return False
    total = rows.sum(axis=-1, dtype=np.float64)
    return bool((np.abs(total - 1) < 0.01).all())


def _of_law(make: Callable[[Law], Law], question: Question) -> Law:
    return make(question.law)


def _of_row(make: Callable[[Float], Law | None], question: Question) -> Law:
    law = make(question.logits)
    assert law is not None
    return law


def exact_law(name: str, question: Question) -> Law:
    """The law of one of our samplers at the very logits of the question; InputError where it cannot be
    computed."""
    import torch

    sampler = with_tolerance(SAMPLERS[name], tolerance=1e-9, relative=1e-3)
    return sampler.law(torch.from_numpy(question.recipe_logits))


def _total(questions: Sequence[Question], law_at: LawAt, counts: Sequence[Counts]) -> float:
    each = zip(questions, counts, strict=True)
    return math.fsum(_log_ratio(question.law, law_at(question), count) for question, count in each)


def _log_ratio(law: Law, candidate: Law, counts: Counts) -> float:
    seen = counts.counts > 0
    error = candidate.error if candidate.error < 0.5 else 0.0  # 1: a closed form, no bound
    floor = math.log(LEAST)
    rare = law.log_probs[seen] < floor
    q = candidate.probs[seen]
    with np.errstate(divide="ignore", invalid="ignore"):
        # its error never makes it likelier than the faithful law
        raised = np.maximum(q, np.minimum(q + error, law.probs[seen]))
        log_q = np.log(raised) if error else candidate.log_probs[seen]
        difference = log_q - np.maximum(law.log_probs[seen], floor)
    drawn_by_it = q > max(10 * error, 1e6 * LEAST)
    difference = np.where(rare & ~drawn_by_it, 0.0, difference)
    return float(np.maximum(difference, -1e6) @ counts.counts[seen])


def _missing(
    questions: Sequence[Question], counts: Sequence[Counts], *, last: bool
) -> tuple[str, float, LawAt] | None:
    """A token that was never drawn, though it can be: L = -sum_q n_q log(1 - p_qi) - log(1000 vocab), as
    any could have been.

    A thousandth, as a right sampler misses rare tokens too. ``last``: of the last token of every row alone,
    without the price of its choice. None where L <= 0, which says nothing.
    """
    widest = max(question.law.vocab for question in questions)
    gain = np.zeros(widest)
    due = np.zeros(widest)
    drawn = np.zeros(widest, dtype=bool)
    for question, count in zip(questions, counts, strict=True):
        size = question.law.vocab
        at = slice(widest - size, None) if last else slice(0, size)
        p = question.law.probs
        with np.errstate(divide="ignore"):
            gain[at] -= count.n * np.log1p(-np.minimum(p, 1.0))
        due[at] += count.n * p
        drawn[at] |= count.counts > 0
    gain[drawn] = -np.inf
    back = 1 if last else widest - int(gain.argmax())
    log = float(gain[widest - back]) - math.log(UNLIKELY) - (0.0 if last else math.log(widest))
    if not 0 < log < math.inf:
        return None
    token = questions[0].law.vocab - 1 if last else widest - back
    how = f"token {token}, expected {due[widest - back]:,.0f} draws, got 0"

    def law_at(question: Question) -> Law:
        index = question.law.vocab - 1 if last else token
        return without(question.law, index) if index < question.law.vocab else question.law

    return how, log, law_at


def without(law: Law, token: int) -> Law:
    """The law given that it is not this token."""
    log_probs = law.log_probs.copy()
    log_probs[token] = -np.inf
    return Law(log_probs - special.logsumexp(log_probs), f"without token {token}", law.error, law.guarantee)


def _shared(questions: Sequence[Question], pairs: Sequence[Sequence[Pairs]]) -> tuple[str, float, LawAt] | None:
    """Draws that agree more often than two of them do: of the ways to pair them, the one that says most.

    Equal rows on one vector of noise agree always: with a share f of such pairs they agree with a + f (1 -
    a), a = sum p_i^2. L at the best f, less log(pairs) / 2 for the choice of f; summed over the targets.
    """
    totals: dict[str, tuple[float, int, int, float]] = {}
    for question, each in zip(questions, pairs, strict=False):
        alone = agreement(question.law, question.law)[0]
        for found in each:
            share = found.agreed / found.pairs
            if not alone < share:
                continue
            missed = special.xlogy(found.pairs - found.agreed, (1 - share) / (1 - alone))
            log = special.xlogy(found.agreed, share / alone) + missed - math.log(found.pairs) / 2
            before = totals.get(found.which, (0.0, 0, 0, 0.0))
            totals[found.which] = (
                before[0] + float(log),
                before[1] + found.agreed,
                before[2] + found.pairs,
                before[3] + alone * found.pairs,
            )
    if not totals:
        return None
    which = max(totals, key=lambda name: totals[name][0])
    log, agreed, count, due = totals[which]
    if log <= 0:
        return None
    how = f"{which}: {agreed:,} of {count:,} pairs agree, expected {due:,.0f}"
    return how, log, lambda question: question.law


def temperature_said(temperature: float, half: float) -> str:
    """The fitted temperature with its 95 % interval, or that it is at the edge of those that are thought of."""
    if abs(math.log(temperature)) > WIDEST - 1e-3:
        return f"T = {temperature:.5g}, at the edge of the range 0.5 to 2: it may be further off"
    return f"T = {temperature:.5g} +- {half:.2g} (95 %)"


def _temperature(laws: Sequence[Law], counts: Sequence[Counts]) -> tuple[str, float, LawAt] | None:
    """(how, log evidence against faithful, law); None where every target is flat or draws the impossible."""
    families = [Tempered.of(law) for law in laws]
    if all(family.flat for family in families):
        return None
    totals: list[tuple[Tempered, int, float]] = []
    for family, count in zip(families, counts, strict=True):
        # those too rare for any temperature are set aside
        drawn = np.where(family.log_p < math.log(LEAST), 0.0, count.counts[family.tokens].astype(np.float64))
        totals.append((family, int(drawn.sum()), float(drawn @ family.y)))

    def log_likelihood(log_t: float) -> float:
        t = math.exp(-log_t) - 1
        return math.fsum(t * score - n * family.log_z(t) for family, n, score in totals)

    best = optimize.minimize_scalar(
        lambda x: -log_likelihood(x), bounds=(-WIDEST, WIDEST), method="bounded", options={"xatol": 1e-7}
    )
    b = math.exp(-float(best.x))
    information = math.fsum(n * family.cumulants(b - 1)[1] for family, n, _ in totals) * b**2  # of log T
    sd = 1 / math.sqrt(max(information, 1e-12))
    evidence = -float(best.fun) + math.log(min(1.0, math.sqrt(2 * math.pi) * sd / (2 * WIDEST)))
    how = temperature_said(1 / b, 1.96 * sd / b)
    return how, evidence, lambda question: Tempered.of(question.law).at(b - 1, question.law.vocab)
