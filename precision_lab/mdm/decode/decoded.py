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
from ..schedule import whole

ROWS = 64  # positions in float64 at once, and no more than 2^19 numbers: 4 MB stay in the cache, 26 MB do not
Progress = Callable[[int], None]
CPU = torch.device("cpu")


class Network(Protocol):
    """What a decoder needs of a model. ``config``: ``vocab`` (real tokens), ``mask_id`` = vocab, and
    ``timed`` where
    :meth:`hidden` also takes the times. :class:`~precision_lab.mdm.denoiser.Denoiser` is one."""

    @property
    def config(self) -> Any: ...

    def hidden(self, tokens: Tensor, /) -> Tensor:
        """(batch, length) ids, mask included -> (batch, length, ...); called as hidden(tokens, t), t
        (batch,), if timed."""

    def log_probs(self, hidden: Tensor, /) -> Tensor:
        """(..., width) -> (..., vocab) natural-log probabilities."""


@dataclass(frozen=True)
class Decoded:
    """``tokens``: (batch, length) int64, the model's own ids, no mask left. ``nfe``: network calls, each of
    any number of sequences; ``asked``: sequences in them, summed. ``draws``: categorical draws. ``steps``:
    (batch, length) int64, the step (or network call) in which each token came, where the decoder tells; -1
    where it was ``given``. ``seconds``: wall time by part, "network" (with its head) and "categorical" (rows
    and draws)."""

    tokens: Tensor
    nfe: int
    draws: int
    steps: Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    asked: int = field(default=0, kw_only=True)


class Clock:
    """Wall seconds by part, until the device is done. A part within a part counts for itself alone."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.seconds, self.device = {"network": 0.0, "categorical": 0.0}, device
        self.within = 0.0  # seconds of the parts inside the one that runs

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started, before = self.now(), self.within
        self.within = 0.0
        yield
        spent = self.now() - started
        self.seconds[part] += spent - self.within
        self.within = before + spent

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def device_of(model: Network) -> torch.device:
    """Where the network's weights lie, and decoding with it: its ``device``, or that of its ``parameters``,
    or the CPU."""
    if (device := getattr(model, "device", None)) is not None:
        return torch.device(device)
    return next((p.device for p in getattr(model, "parameters", tuple)()), CPU)


def check_rng(rng: Rng, device: torch.device | None = None) -> None:
    """A generator, whose draws lie where the network does (on ``device``): numpy's are on the CPU."""
    if not isinstance(rng, torch.Generator | np.random.Generator):
        raise InputError(
            f"rng of type {type(rng).__name__}", "torch.Generator or numpy.random.Generator", "pass rng=..."
        )
    found = rng.device if isinstance(rng, torch.Generator) else CPU
    if device is not None and found.type != device.type:
        got = f"a network on {device} and a {type(rng).__module__} generator on {found}"
        raise InputError(
            got, "both on one device", f"pass rng=torch.Generator({str(device)!r}), or move the network"
        )


def rows_at_once(vocab: int) -> int:
    """Positions that a decoder mixes and draws in one piece."""
    return max(min(ROWS, (ROWS << 13) // vocab), 1)


def ours(model: Network, ids: Tensor) -> Tensor:
    """The model's own ids in the numbering of decoders, which an adapter changes."""
    return model.from_public(ids) if hasattr(model, "from_public") else ids


def public(model: Network, tokens: Tensor) -> Tensor:
    """Back from :func:`ours`."""
    return model.to_public(tokens) if hasattr(model, "to_public") else tokens


def kept_as_it_came(model: Network) -> bool:
    """Whether rows of what the network says are normalised where they are asked for: its log_probs is no
    matrix product."""
    return bool(getattr(model.config, "rowwise", False))


def put(kept: Tensor | None, todo: Tensor, found: Tensor) -> Tensor:
    """``found`` in the rows ``todo``, (batch,) bool, of what is kept for all sequences; of one sequence itself, for it
    may be large. What a network returned is never written to."""
    if len(todo) == 1:
        return found
    kept = found.new_empty(len(todo), *found.shape[1:]) if kept is None else kept
    kept[todo] = found
    return kept


def beginning(given: Tensor | None, batch: int, length: int, model: Network) -> Tensor:
    """The state to begin with, (batch, length), in the numbering of decoders: all masks, or ``given``, in the
    model's own ids, what of it is not the mask to stay (infilling)."""
    mask, device = model.config.mask_id, device_of(model)
    if given is None:
        return torch.full((batch, length), mask, device=device)
    if not isinstance(given, Tensor):
        raise InputError(f"given of type {type(given).__name__}", "a tensor", "use torch.as_tensor(given)")
    fits = given.shape == (batch, length) and given.dtype == torch.int64
    inside = fits and bool(((given >= 0) & (given <= mask)).all())
    state = ours(model, given) if inside else given
    if not (inside and (state == mask).any()):
        own = int(public(model, torch.tensor([mask]))[0])
        raise InputError(
            f"given of shape {tuple(given.shape)}, {given.dtype}",
            f"({batch}, {length}) int64 ids from 0 to {mask}; {own} is the mask, which is there at least once",
            "put the mask where text is wanted",
        )
    return state.to(device, copy=True)


def check_size(batch: int, length: int, steps: int = 1) -> None:
    if not whole(batch, length, steps):
        got = f"batch {batch!r}, length {length!r}, steps {steps!r}"
        raise InputError(got, "whole numbers, at least 1 of each", "change the smallest")


def check_temperature(temperature: float) -> float:
    """A number, 0 or more; 0: the likeliest token, the first of those that tie."""
    try:
        sound = 0 <= temperature < float("inf")
    except TypeError:
        sound = False
    if not sound:
        raise InputError(
            f"temperature {temperature!r}", "a number, 0 or more", "1 is the model itself, 0 is greedy"
        )
    return temperature


def timed(model: Network) -> bool:
    """Whether the network is told the time; if not, an unchanged state need not be asked again."""
    return bool(getattr(model.config, "timed", False))


def ask(model: Network, tokens: Tensor, t: Tensor) -> Tensor:
    """The network's hidden state at times t, (batch,)."""
    with torch.no_grad():
        return model.hidden(tokens, t.float()) if timed(model) else model.hidden(tokens)  # type: ignore[call-arg]


def tempered(log_mu: Tensor, temperature: float) -> Tensor:
    """log of mu^(1/temperature), normalised; float64. Before the mask is mixed in, which has no
    temperature. At temperature 0 the likeliest token is certain, the first of those that tie. InputError for
    rows that nothing can be drawn from."""
    wide = log_mu.double()
    if temperature == 0.0:
        best = drawable(wide).argmax(-1, keepdim=True)
        return torch.full_like(wide, -torch.inf).scatter_(-1, best, 0.0)
    return drawable(wide if temperature == 1.0 else torch.log_softmax(wide / temperature, dim=-1))


def drawable(log_mu: Tensor) -> Tensor:
    """(..., vocab), as it is, if every row's maximum is finite: -inf is a token that cannot come; else
    InputError."""
    if not bool(torch.isfinite(log_mu.amax(-1)).all()):
        raise InputError(
            "log-probabilities with NaN, +inf or nothing but -inf",
            "a token that can be drawn at every masked position",
            "look at what the network returns; a temperature near 0 overflows",
        )
    return log_mu


def uniforms(shape: tuple[int, ...], *, rng: Rng) -> Tensor:
    """float64 uniforms in (0, 1]: (k + 1/2) 2^-53, rounded to float64; so the largest, of probability
    2^-53, is 1."""
    check_rng(rng)
    if isinstance(rng, np.random.Generator):
        k = words(shape, 53, rng=rng)
    else:
        k = torch.empty(shape, dtype=torch.int64, device=rng.device).random_(0, 1 << 53, generator=rng)
    return (k.double() + 0.5) * 2.0**-53


def permutations(batch: int, length: int, *, rng: Rng, among: Tensor | None = None) -> Tensor:
    """A uniformly random permutation of the positions for each sequence, (batch, length) int64; of those
    ``among`` (batch, length) bool, where it is given: as many as the most in a sequence, in others of them all
    come first."""
    u = uniforms((batch, length), rng=rng)
    if among is None:
        return u.argsort(1)
    return u.masked_fill(~among.to(u.device), 2.0).argsort(1)[:, : int(among.sum(1).max())]
