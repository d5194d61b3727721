"""The law of a plain function: the function is read as it runs, believed only if the reading draws the same ids, and its
law enumerated with its own operations.

    record  one run, every torch operation and what it depends on
    chain   the noise half: random value to noise
    anatomy where noise meets the logits, and what decides
    tokens  from the index that is chosen to the id that comes back
    confirm the same generator state, the same ids
    plants  values too rare to be drawn, in the replay
    bounds  float64 maps: roundings counted
    law     the parts to a law
    explain the parts in words
"""

from __future__ import annotations

from torch import Tensor

from .calling import Calling
from .confirm import confirm, shapes_for
from .law import Reading, reading


def read_function(calling: Calling, logits: Tensor) -> Reading:
    """A function at one row of logits, (vocab,), confirmed in the dtype and on the device of the row. InputError where it
    cannot be read."""
    shapes = shapes_for(calling, logits)
    confirmed = confirm(calling, dtype=logits.dtype, device=logits.device, shapes=shapes)
    return reading(calling, logits, confirmed)


__all__ = ["Calling", "Reading", "read_function"]
