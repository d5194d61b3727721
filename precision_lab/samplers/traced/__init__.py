"""The law of a plain function: the function is read as it runs, believed only if the reading draws the same
ids, and its law enumerated with its own operations.

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

from ...errors import InputError
from .calling import Calling
from .confirm import confirm, shapes_for
from .law import Reading, reading


def read_function(calling: Calling, logits: Tensor, draws: int = 2) -> Reading:
    """A function at one row of logits, (vocab,), as a call for ``draws`` draws, confirmed in the dtype and
    on the device of the row. InputError where it cannot be read."""
    if draws < 1:
        raise InputError(
            f"draws = {draws}", "at least 1", "ask for the law of a call for one draw, or for several"
        )
    shapes = shapes_for(calling, logits, draws)
    confirmed = confirm(calling, dtype=logits.dtype, device=logits.device, shapes=shapes)
    return reading(calling, logits, confirmed, draws)


__all__ = ["Calling", "Reading", "read_function"]
