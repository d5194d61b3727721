"""Random values that are too rare to be drawn, planted in a run: the ends of a source, where guards,
infinities, NaN and ties lie."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import InputError
from .record import Plant, Step
from .source import source_of


def planting(share: float, seed: int) -> Plant:
    """A plant for :func:`.record.record`: each drawn value is, with probability ``share``, replaced by one
    of the values that the source gives for its words 0, 2^k - 1, 2^k, and as many at the top. What has no
    known source stays as it is.
    """
    rng = torch.Generator().manual_seed(seed)

    def plant(step: Step, drawn: Tensor) -> None:
        values = _rare(step, drawn)
        if values is None:
            return
        chosen = torch.rand(drawn.shape, generator=rng) < share
        which = torch.randint(len(values), tuple(drawn.shape), generator=rng)
        drawn.copy_(torch.where(chosen.to(drawn.device), values[which.to(values.device)], drawn))

    return plant


def _rare(step: Step, drawn: Tensor) -> Tensor | None:
    """The values of the words at both ends, (k,); None for a random operation without a source."""
    if step.name in ("multinomial", "bernoulli", "randint", "randperm") or not drawn.is_floating_point():
        return None
    try:
        source, prepare = source_of(step)
    except InputError:
        return None
    last = (1 << source.bits) - 1 if source.bits < 64 else -1  # of 64 bits, the pattern as an int64
    powers = torch.tensor([1 << k for k in range(min(source.bits, 62))])
    low = torch.cat([torch.tensor([0]), powers, powers - 1])
    return prepare(source.from_words(torch.cat([low, last - low])).to(drawn.device)).to(drawn.dtype)
