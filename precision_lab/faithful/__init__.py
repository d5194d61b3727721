"""Faithful samplers: draws whose law is known to be right, for less than the draws whose law is wrong.

``categorical``: integer masses, two random words a draw. ``unmask_step``: a step of masked diffusion, of which only the rows
that come are looked at. ``drop_in``: the same behind the signatures that people call.
"""

from .categorical import categorical, categorical_masses
from .unmask import Unmasked, unmask_step, which_come

__all__ = ["Unmasked", "categorical", "categorical_masses", "unmask_step", "which_come"]
