"""What every decoder returns, how it asks the network, and how it keeps time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...uniforms import Rng, words

ROWS = 64  # positions in float64 at once
Progress = Callable[[int], None]


class Network(Protocol):
    """What a decoder needs of a model. ``config``: ``vocab`` (real tokens), ``mask_id`` = vocab, and ``timed`` where
    :meth:`hidden` also takes the times. :class:`~precision_lab.mdm.denoiser.Denoiser` is one."""

    @property
    def config(self) -> Any: ...

    def hidden(self, tokens: Tensor, /) -> Tensor:
        """(batch, length) ids, mask included -> (batch, length, ...); called as hidden(tokens, t), t (batch,), if timed."""

    def log_probs(self, hidden: Tensor, /) -> Tensor:
        """(..., width) -> (..., vocab) natural-log probabilities."""


@dataclass(frozen=True)
class Decoded:
    """``tokens``: (batch, length) int64, no mask left. ``nfe``: network calls. ``draws``: categorical draws.
    ``steps``: (batch, length) int64, the step (or network call) in which each token came, where the decoder tells.
    ``seconds``: wall time by part, "network" (with its head) and "categorical" (rows and draws)."""

    tokens: Tensor
    nfe: int
    draws: int
    steps: Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict, compare=False)


class Clock:
    """Wall seconds by part."""

    def __init__(self) -> None:
        self.seconds = {"network": 0.0, "categorical": 0.0}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - started


def check_size(batch: int, length: int, steps: int = 1) -> None:
    if min(batch, length, steps) < 1:
        raise InputError(f"batch {batch}, length {length}, steps {steps}", "at least 1 of each", "change the smallest")


def check_temperature(temperature: float) -> float:
    if not 0 < temperature < float("inf"):
        raise InputError(f"temperature {temperature}", "a positive number", "1 is the model itself")
    return temperature


def timed(model: Network) -> bool:
    """Whether the network is told the time; if not, an unchanged state need not be asked again."""
    return bool(getattr(model.config, "timed", False))


def ask(model: Network, tokens: Tensor, t: Tensor) -> Tensor:
    """The network's hidden state at times t, (batch,)."""
    with torch.no_grad():
        return model.hidden(tokens, t.float()) if timed(model) else model.hidden(tokens)  # type: ignore[call-arg]


def tempered(log_mu: Tensor, temperature: float) -> Tensor:
    """log of mu^(1/temperature), normalised; float64. Before the mask is mixed in, which has no temperature."""
    wide = log_mu.double()
    return wide if temperature == 1.0 else torch.log_softmax(wide / temperature, dim=-1)


def uniforms(shape: tuple[int, ...], *, rng: Rng) -> Tensor:
    """float64 uniforms (k + 1/2) 2^-53, never 0 nor 1."""
    if isinstance(rng, np.random.Generator):
        k = words(shape, 53, rng=rng)
    else:
        k = torch.empty(shape, dtype=torch.int64).random_(0, 1 << 53, generator=rng)
    return (k.double() + 0.5) * 2.0**-53


def permutations(batch: int, length: int, *, rng: Rng) -> Tensor:
    """A uniformly random permutation of the positions for each sequence, (batch, length) int64."""
    return uniforms((batch, length), rng=rng).argsort(1)
