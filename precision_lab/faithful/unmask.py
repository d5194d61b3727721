"""One step of masked diffusion: which places come, by an exact Bernoulli draw each, and then their tokens.

Drawing "r mu on the tokens, 1 - r on the mask" at every masked place looks at masked x vocab numbers, and
asks noise to resolve a token of probability r mu against a mask of probability 1 - r. Here the mask is
never raced: one word a masked place decides whether it comes, and only rows of places that come are looked
at.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from . import words
from .categorical import categorical
from .words import Randomness, keys_of

LogitsOf: TypeAlias = Callable[[Tensor], Tensor]
MOST_POSITION = 1 << 31
_TEXTS_OWN = 1 << 32  # place and position share one counter of 64 bits
_COIN = 0xFFFFFFFF  # in the counter's place of the draw, where no draw of a token ever is


class Unmasked(NamedTuple):
    """``comes``: (...) bool, the places that come. ``tokens``: (k,) int64, theirs, in the order of
    ``comes.nonzero()``, so that ``text[comes] = tokens`` is the step."""

    comes: Tensor
    tokens: Tensor


def unmask_step(
    logits: Tensor | LogitsOf,
    unmask_probability: float | Tensor,
    *,
    generator: Randomness,
    masked: Tensor | None = None,
    temperature: float | None = None,
    position: int = 0,
) -> Unmasked:
    """Each masked place comes with probability r, and draws its token from softmax(logits / T) if it does.

    ``logits``: (..., vocab) of every place, of which only the rows that come are read; or a function
    (``comes``, (...) bool) -> (k, vocab) that makes those rows alone, and is not called where none comes.
    ``unmask_probability``: r, a number or what broadcasts to (...), in float64. P(a place comes) = r
    exactly, to the last bit of r: see :func:`which_come`. The token's law is that of :func:`.categorical`,
    m_i / M. ``masked``: (...) bool; all places where it is None, and needed with a function. ``generator``:
    one torch.Generator (two words are taken for the places, and two more for the tokens if any come); or a
    generator or seed for every text, that is, for every index of the first axis: a text is then the same in
    any batch. ``temperature``: of the tokens alone; the probability of coming has none. 0: the likeliest
    token. ``position``: sets apart calls with the same seeds: the number of the step, below 2^31. Time: a
    word for each masked place and vocab for each that comes, not masked x vocab. Errors: InputError for r
    outside [0, 1], shapes that do not fit, and what :func:`.categorical` refuses in a row that comes.
    """
    hidden = _masked(logits, masked)
    comes = which_come(hidden, unmask_probability, generator=generator, position=position)
    at = comes.nonzero()
    if not len(at):
        return Unmasked(comes, torch.empty(0, dtype=torch.int64, device=comes.device))
    rows = logits(comes) if callable(logits) else logits[comes]
    _check_rows(rows, len(at))
    own, places = _words_of_rows(generator, at, comes.shape, position)
    tokens = categorical(rows, generator=own, temperature=temperature, position=places)[0]
    return Unmasked(comes, tokens.to(comes.device))


def which_come(
    masked: Tensor, unmask_probability: float | Tensor, *, generator: Randomness, position: int = 0
) -> Tensor:
    """(...) bool: the masked places that come, each with probability exactly r. Arguments as
    :func:`unmask_step` has them.

    r in float64 is a whole number over a power of two. A word W of 64 bits is compared with r 2^64: below
    its floor the place comes, above it does not; at it (probability 2^-64) the next word is compared with
    what is left, (r 2^64 - floor) 2^64, until nothing is left. Every product and difference is exact, so
    the law is r and not its neighbour. Words are made on the CPU, the same for every device.
    """
    if not isinstance(masked, Tensor) or masked.dtype != torch.bool or masked.dim() < 1:
        got = f"{masked.dtype}, {tuple(masked.shape)}" if isinstance(masked, Tensor) else type(masked).__name__
        raise InputError(f"masked: {got}", "a tensor of bool with an axis or more", "for example text == mask")
    at = _position(position)
    r = _probabilities(unmask_probability, masked.shape)
    shared = isinstance(generator, torch.Generator)
    texts = 1 if shared else masked.shape[0]
    keys = keys_of(generator, texts)
    flat = masked.detach().cpu().numpy().reshape(texts, -1)
    if flat.shape[1] >= _TEXTS_OWN:
        raise InputError(f"{flat.shape[1]} places", "fewer than 2^32", "take them in parts")
    comes = np.zeros(flat.shape, dtype=bool)
    if comes.size:
        r = np.ascontiguousarray(r.reshape(flat.shape))
        _coins()(np.ascontiguousarray(flat), r, keys, at, comes)
    return torch.from_numpy(comes.reshape(masked.shape)).to(masked.device)


def _masked(logits: Tensor | LogitsOf, masked: Tensor | None) -> Tensor:
    """Which places are masked; InputError where that is not said or does not fit the logits."""
    if isinstance(logits, Tensor):
        shape = logits.shape[:-1]
        if logits.dim() < 2:
            raise InputError(
                f"logits of shape {tuple(logits.shape)}", "(..., vocab) with a place or more", "unsqueeze(0)"
            )
        if masked is None:
            return torch.ones(shape, dtype=torch.bool, device=logits.device)
        if isinstance(masked, Tensor) and masked.shape != shape:
            got = f"masked of shape {tuple(masked.shape)} for logits of shape {tuple(logits.shape)}"
            raise InputError(got, f"{tuple(shape)}", "give one bool a row")
        return masked
    if not callable(logits):
        raise InputError(
            f"logits of type {type(logits).__name__}", "a tensor, or a function of the places", "convert them"
        )
    if masked is None:
        raise InputError(
            "a function of the places without masked", "masked, (...) bool", "pass masked=text == mask"
        )
    return masked


def _position(position: int) -> int:
    whole = isinstance(position, int | np.integer) and not isinstance(position, bool)
    if not whole or not 0 <= position < MOST_POSITION:
        raise InputError(f"position = {position!r}", "a whole number below 2^31", "number the steps from 0")
    return int(position)


def _probabilities(given: float | Tensor, shape: torch.Size) -> np.ndarray:
    """r of every place, float64; a tensor that broadcasts to ``shape`` is not copied."""
    try:
        r = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        got = f"an unmask probability of type {type(given).__name__}"
        raise InputError(got, "a number, or a tensor of them", "convert it") from None
    if not bool(((r >= 0) & (r <= 1)).all()):
        bad = r.flatten()[int((~((r >= 0) & (r <= 1))).flatten().long().argmax())]
        raise InputError(f"an unmask probability of {float(bad)}", "0 to 1", "clip what rounding did")
    try:
        return r.expand(shape).numpy()
    except RuntimeError:
        got = f"unmask probabilities of shape {tuple(r.shape)} for places of shape {tuple(shape)}"
        raise InputError(got, "a number, or what broadcasts", "for one r a text: r[:, None]") from None


def _check_rows(rows: Any, count: int) -> None:
    if not isinstance(rows, Tensor) or rows.dim() != 2 or len(rows) != count:
        got = f"a tensor of shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        raise InputError(
            f"{got} for {count} places that come", f"({count}, vocab)", "return one row for each True"
        )


def _words_of_rows(
    generator: Randomness, at: Tensor, shape: torch.Size, position: int
) -> tuple[Randomness, int | Tensor]:
    """The randomness and the position of each row that comes, as :func:`.categorical` takes them."""
    if isinstance(generator, torch.Generator):
        return generator, 0
    place = torch.zeros(len(at), dtype=torch.int64, device=at.device)
    for axis in range(1, len(shape)):
        place = place * shape[axis] + at[:, axis]
    own = generator.tolist() if isinstance(generator, Tensor) else generator
    return [own[text] for text in at[:, 0].tolist()], (position << 32) | place


@cache
def _coins() -> Any:
    """The compiled loop over places."""
    import numba

    pair = words.compiled()
    whole, low = 2.0**64, np.uint64(0xFFFFFFFF)

    @numba.njit(nogil=True, error_model="numpy")
    def comes_at(r, key, place, position):
        if r >= 1.0:
            return True
        c2 = np.uint64(key[2]) ^ np.uint64(place)
        c3 = np.uint64(key[3]) ^ np.uint64(position)
        attempt = 0
        while r > 0.0:
            for word in pair(key[0], key[1], _COIN, attempt, c2 & low, c3 & low):
                scaled = r * whole
                least = np.floor(scaled)
                if word != np.uint64(least):
                    return word < np.uint64(least)
                r = scaled - least
            attempt += 1
        return False

    @numba.njit(nogil=True, error_model="numpy")
    def loop(masked, r, keys, position, comes):
        for text in range(masked.shape[0]):
            for place in range(masked.shape[1]):
                if masked[text, place]:
                    comes[text, place] = comes_at(r[text, place], keys[text], place, position)

    return loop
