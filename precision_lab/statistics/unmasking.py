"""What a law does to one ancestral step of masked diffusion: how often the mask goes, and which token comes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from ..laws.law import Law
from ..types import Float
from .entropies import entropy
from .temperature import effective_temperature


@dataclass(frozen=True)
class Unmasking:
    """``multiplier``: P(unmask) over what was asked, r.  ``temperature``: effective temperature of the
    token, given that one comes.  ``entropy_lost``: nats, H(token asked for) - H(token that comes)."""

    multiplier: float
    temperature: float
    entropy_lost: float


def unmasking(law: Law, target: Law) -> Unmasking:
    """``law`` against ``target``, both of one step with the mask as the last token: target masses r p_j and
    1 - r.

    The multiplier is sum_j q_j / r, computed from the tokens' masses, not from 1 - P(mask). Errors of the
    laws are not propagated. InputError where the target never unmasks, or the law never does.
    """
    asked, given = target.probs[:-1], law.probs[:-1]
    if len(asked) != len(given):
        raise InputError(
            f"{law.vocab} tokens against {target.vocab}", "two laws of one step", "give the same target"
        )
    if not asked.sum() > 0 or not given.sum() > 0:
        raise InputError(
            "a step that never unmasks", "a target with r > 0 and a law that unmasks", "change the step"
        )
    tokens, wanted = _token(law), _token(target)
    temperature = effective_temperature(tokens, wanted).temperature.value
    return Unmasking(float(given.sum() / asked.sum()), temperature, entropy(wanted) - entropy(tokens))


def _token(law: Law) -> Law:
    """The law of the token, given that the mask goes."""
    log_probs: Float = law.log_probs[:-1] - np.log(law.probs[:-1].sum())
    return replace(law, log_probs=log_probs)
