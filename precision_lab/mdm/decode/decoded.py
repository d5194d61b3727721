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

ROWS = 64  # positions in float64 at once, and no more than 2^19 numbers: 4 MB stay in the cache, 26 MB do not
Progress = Callable[[int], None]
CPU = torch.device("cpu")


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
    """Wall seconds by part, until the device is done."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.seconds, self.device = {"network": 0.0, "categorical": 0.0}, device

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = self.now()
        yield
        self.seconds[part] += self.now() - started

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def device_of(model: Network) -> torch.device:
    """Where the network's weights lie, and decoding with it; a network without ``parameters`` is on the CPU."""
    parameters = getattr(model, "parameters", tuple)
    return next((p.device for p in parameters()), CPU)


def rows_at_once(vocab: int) -> int:
    """Positions that a decoder mixes and draws in one piece."""
    return max(min(ROWS, (ROWS << 13) // vocab), 1)


def beginning(given: Tensor | None, batch: int, length: int, model: Network) -> Tensor:
    """The state to begin with, (batch, length): all masks, or ``given``, what of it is not the mask to stay (infilling)."""
    mask, device = model.config.mask_id, device_of(model)
    if given is None:
        return torch.full((batch, length), mask, device=device)
    fits = given.shape == (batch, length) and given.dtype == torch.int64
    if not (fits and ((given >= 0) & (given <= mask)).all() and (given == mask).any()):
        raise InputError(
            f"given of shape {tuple(given.shape)}, {given.dtype}",
            f"({batch}, {length}) int64 ids from 0 to {mask}, the mask, which is there at least once",
            "put the mask where text is wanted",
        )
    return given.to(device, copy=True)


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
        k = torch.empty(shape, dtype=torch.int64, device=rng.device).random_(0, 1 << 53, generator=rng)
    return (k.double() + 0.5) * 2.0**-53


def permutations(batch: int, length: int, *, rng: Rng, among: Tensor | None = None) -> Tensor:
    """A uniformly random permutation of the positions for each sequence, (batch, length) int64; of those ``among``
    (batch, length) bool, as many in every sequence, where it is given."""
    u = uniforms((batch, length), rng=rng)
    if among is None:
        return u.argsort(1)
    count = among.sum(1)
    if count.min() != count.max():
        got = f"sequences with {int(count.min())} to {int(count.max())} masks"
        raise InputError(got, "as many masks in every sequence", "decode them one by one")
    return u.masked_fill(~among.to(u.device), 2.0).argsort(1)[:, : int(count[0])]
