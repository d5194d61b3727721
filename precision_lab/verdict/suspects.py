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
from ..statistics import Counts, identity_test, lattice_law
from ..statistics.tempered import Tempered
from ..types import Float
from .plan import Question
from .truncations import truncations

LawAt: TypeAlias = "Callable[[Question], Law]"

FAITHFUL = "faithful"
TEMPERATURE = "temperature wrong"
WIDEST = math.log(2.0)  # temperatures from 1/2 to 2 are thought of
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


def suspects(questions: Sequence[Question], counts: Sequence[Counts], *, slow: bool = False) -> list[Suspect]:
    """All recipes, best first: L = sum_i n_i (log q_i - log p_i) over the targets, posterior ~ e^L.

    Probabilities of a candidate are raised by its error bound, so that what it forbids costs much and not
    everything. A wrong temperature is one recipe: its likelihood is averaged over log T uniform on [log
    1/2, log 2], by Laplace.
    ``slow``: the exact laws of float32 races too, 12 s each.
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
    tempered = _temperature([question.law for question in questions], counts)
    if tempered is not None:
        found[TEMPERATURE] = tempered
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
    """The suspect with the p-value of the identity test of its law: the least over targets, times their number."""
    p_values = []
    assert best.law_at is not None
    for question, count in zip(questions, counts, strict=True):
        law = replace(best.law_at(question), error=0.0)
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


CLOSED_FORMS: dict[str, tuple[str, Callable[[Law], Law]]] = {
    "float32 noise, truncated": ("lattice of 24 bits", partial(lattice_law, bits=24)),
    "23-bit noise (JAX, TensorFlow GPU)": ("lattice of 23 bits", partial(lattice_law, bits=23)),
    "float32 noise cast to float64": ("lattice of 24 bits from its third atom", shifted_lattice),
    "float64 noise cut at the float32 ceiling": (
        "truncated Gumbel",
        lambda law: truncated_gumbel_law(law.log_probs, FP32_CEILING),
    ),
}


def _of_law(make: Callable[[Law], Law], question: Question) -> Law:
    return make(question.law)


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
    with np.errstate(divide="ignore", invalid="ignore"):
        log_q = np.log(candidate.probs[seen] + error) if error else candidate.log_probs[seen]
        difference = np.where(np.isneginf(law.log_probs[seen]), 0.0, log_q - law.log_probs[seen])
    return float(np.maximum(difference, -1e6) @ counts.counts[seen])


def _temperature(laws: Sequence[Law], counts: Sequence[Counts]) -> tuple[str, float, LawAt] | None:
    """(how, log evidence against faithful, law); None where every target is flat or draws the impossible."""
    families = [Tempered.of(law) for law in laws]
    if all(family.flat for family in families):
        return None
    totals: list[tuple[Tempered, int, float]] = []
    for family, count in zip(families, counts, strict=True):
        drawn: Float = count.counts[family.tokens].astype(np.float64)
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
    how = f"T = {1 / b:.5g} +- {1.96 * sd / b:.2g} (95 %)"
    return how, evidence, lambda question: Tempered.of(question.law).at(b - 1, question.law.vocab)
