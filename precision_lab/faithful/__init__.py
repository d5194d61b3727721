"""Faithful samplers: draws whose law is known to be right, for less than the draws whose law is wrong.

``categorical``: integer masses, two random words a draw.
"""

from .categorical import categorical, categorical_masses

__all__ = ["categorical", "categorical_masses"]
