"""The share of a tail that a sampler draws, as its law over two classes: quick at every gap."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..errors import InputError
from ..formats import FORMATS
from ..laws.law import Law
from ..laws.two_classes import two_class_law
from ..types import Guarantee
from .rules import Enumerated, WithinBound
from .sampler import Sampler, UniformSampler
from .torch_multinomial import TorchMultinomial


def tail_tokens(gap: float, tail_mass: float = 0.1) -> int:
    """round(tail_mass e^gap). InputError where that is none, or gap is not a number."""
    wanted = tail_mass * math.exp(min(gap, 500.0))
    if not wanted >= 0.5:
        raise InputError(f"{wanted:.3g} tail tokens", "at least one", "a larger gap or tail_mass")
    return max(round(wanted), 1)


def true_tail(gap: float, tail_mass: float = 0.1) -> float:
    """The mass of the tail in softmax of the logits, c e^-gap / (1 + c e^-gap), c = :func:`tail_tokens`."""
    relative = tail_tokens(gap, tail_mass) * math.exp(-gap)
    return relative / (1 + relative)


def head_and_tail_law(sampler: Sampler, gap: float, tail_mass: float = 0.1) -> Law:
    """P(head) and P(tail), (2,), of logits :func:`~precision_lab.targets.synthetic.head_and_tail`: a head
    at 0 and round(tail_mass e^gap) equal tokens ``gap`` nats below.

    The weights are the normalised logits, or their exponentials, each rounded once to the sampler's format,
    where its own softmax can be an ulp off. Enumerated races:
    :func:`~precision_lab.laws.two_classes.two_class_law`, and twice the source's relative bound in
    ``error``. Races within a bound: the target, and that bound. What is emulated says so.
    InputError for other samplers, and a tail of less than half a token.
    """
    if not isinstance(sampler, UniformSampler | TorchMultinomial):
        raise InputError(f"{sampler.name}", "an argmax of independent noise", "use its law at a row of logits")
    race, rule = sampler.race, sampler.rule
    if race.tie != "first" or race.nonfinite != "wins" or getattr(sampler, "weights", None) is not None:
        raise InputError(
            f"{sampler.name}", "a race whose first of equals wins", "use its law at a row of logits"
        )
    count = tail_tokens(gap, tail_mass)
    log_probs = np.array([0.0, -gap]) - math.log1p(count * math.exp(-gap))
    if isinstance(rule, Enumerated):
        format = FORMATS[sampler.stages.weights]
        weights = format.round(log_probs if race.combine == "add" else np.exp(log_probs))
        head, tail = weights.tolist()
        law = two_class_law(head, tail, count, race.noise_atoms(), combine=race.combine, score=race.score)
        if bound := 2 * race.source.relative_bound:
            law = replace(law, error=law.error + bound, guarantee=Guarantee.CERTIFIED)
    elif isinstance(rule, WithinBound) and race.combine == "divide":
        error = min((count + 1) * rule.spacing + 2 * rule.relative, 1.0)
        whole = log_probs + np.array([0.0, math.log(count)])
        law = Law(whole, "target law within a proved perturbation bound", error, Guarantee.CERTIFIED)
    else:
        raise InputError(
            f"{sampler.name}", "a race enumerated or within a bound", "use its law at a row of logits"
        )
    if sampler.emulated is None:
        return law
    return replace(law, guarantee=Guarantee.EMULATED, how=f"{law.how}; {sampler.emulated}")
