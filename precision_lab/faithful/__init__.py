"""Faithful samplers: draws whose law is known to be right, for less than the draws whose law is wrong.

``categorical``: integer masses, two random words a draw.
``unmask_step``: a step of masked diffusion, of which only the rows that come are looked at.
``drop_in``: the same behind the signatures that people call.
``exponential_race``, ``certified_argmax``: a word a token, the argmax of real arithmetic.
``gumbel_like``, ``gumbel_topk``: the same noise in float32, to 45 nats, and draws without replacement.
"""

from .categorical import categorical, categorical_masses
from .certified import Certified, certified_argmax
from .race import exponential_race, gumbel_like, gumbel_topk
from .unmask import Unmasked, unmask_step, which_come

__all__ = [
    "Certified",
    "Unmasked",
    "categorical",
    "categorical_masses",
    "certified_argmax",
    "exponential_race",
    "gumbel_like",
    "gumbel_topk",
    "unmask_step",
    "which_come",
]
