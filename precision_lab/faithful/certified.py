"""Certified argmax: the race of real arithmetic, decided in float32 where that decides it.

Token i has U_i = (K_i + 1/2) 2^-64, and the one with the largest w_i / E_i wins, w_i = exp(l_i - max l), E_i
= -log(1 - U_i): the argmax of l_i - log E_i. In float32 a score is known to 4.7e-6, relative:

    2^-24 60          of l - max l: no token more than 48.9 nats down can win, and below 60 the weight is 0
    1.3 2^-23         of its exponential
    2^-21 + 1.5 2^-23 of E (:mod:`.noise`), whose second word is not looked at
    2^-24             of the quotient

So if the second score is below 1 - 2^-16 of the best, the best is the best in real arithmetic too, on every
machine. Else, once in 65,536 draws at most, the tokens within 2^-16 of the best are compared in float64,
whose scores are off by less than 2^-44 nats; and those within 2^-40 nats of its best in decimals, of as many
digits as it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from . import noise
from .categorical import CHUNK, _check, _heat, _places, _rows_of, _whole
from .masses import compiled_exponential, exponentials
from .noise import TILE, Pair
from .quick import quick_rows, with_words
from .threads import over_rows
from .words import Randomness, keys_of, words_from

LEAST = -60.0  # nats: weights below are 0. A head of E = 45.06 beats E = 2^-65 from 48.9 nats on
MARGIN = 2.0**-16  # relative, between the best two float32 scores: nearer ones are looked at again
MARGIN_64 = 2.0**-40  # nats, between float64 scores
_DIGITS = 60  # of the first try in decimals
_MOST_DIGITS = 4000
_LOW = 0xFFFFFFFF


@dataclass(frozen=True)
class Certified:
    """``tokens``: (n, ...) int64. ``refined``: how many of the ``draws`` float32 left open; ``exact``: how
    many of these float64 did, too."""

    tokens: Tensor
    draws: int
    refined: int
    exact: int

    @property
    def share(self) -> float:
        """Of the draws, those that were refined; 0 of none."""
        return self.refined / self.draws if self.draws else 0.0


def certified_argmax(
    logits: Tensor,
    n: int = 1,
    *,
    generator: Randomness | None = None,
    words: Tensor | None = None,
    temperature: float | Tensor | None = None,
    position: int | Tensor = 0,
) -> Certified:
    """argmax_i (l_i - log(-log(1 - U_i))) of real arithmetic, ``n`` times for each row of ``logits``, (...,
    vocab).

    ``temperature``: a number, or one for each row: in place of l_i stands (l_i - max l) / T, in float64, whose
    two roundings move the law by less than 2^-45 in total variation. 0: the first of the largest logits.

    U_i = (K_i + 1/2) 2^-64. K: from ``generator``, as for :func:`~precision_lab.faithful.categorical`; or
    ``words``, (n, ..., vocab) uint64, or int64 of the same bits. The token is the same on every machine, as
    float32 decides only what it knows: see above.
    Equal logits with equal words: the first. (For unequal ones no tie is known; scores alike in 4,000 digits
    are taken for one.)
    Law: |P(A) - softmax(A)| <= vocab 2^-64 for every set A of tokens, since rounding one U to its grid moves
    the end of a half-line by at most 2^-65, and a tie is 2^-64: total variation below 1.5e-14, whatever the
    row.
    Time: 0.3 to 0.45 of float32 Gumbel-max by torch on one core. Memory: 4 vocab bytes a thread, and 256 KB;
    with a temperature 3 to 4 float64 arrays of max(CHUNK, vocab) values.
    Errors: InputError as for categorical; for both or none of ``generator`` and ``words``; for words of
    another shape or dtype."""
    if (generator is None) == (words is None):
        raise InputError("both or none of generator and words", "one of them", "leave the other out")
    count = _whole("n", n)
    if generator is not None and temperature is None:
        quick = quick_rows(logits, generator, position)
        if quick is not None:
            return _quickly(logits, quick, generator, position, count)
    given = _rows_of(logits)
    heat = None if temperature is None else _heat(temperature, given)
    top = given.amax(-1)
    _check(given, top)
    if generator is None:
        assert words is not None
        source = _Source.of_words(words, (count, *logits.shape), given.device)
    else:
        source = _Source.of_generator(generator, given, position)
    found = torch.empty((count, len(given)), dtype=torch.int64, device=given.device)
    rows = Rows(given, top, heat)
    if found.numel():
        fast = _compiled if given.device.type == "cpu" else _eager
        fast(rows, source, found)
    refined, exact = _settle_all(rows, source, found)
    return Certified(found.reshape(count, *logits.shape[:-1]), found.numel(), refined, exact)


class Rows:
    """Rows of logits, (rows, vocab), the largest of each, and their temperatures, if any, 0 among them."""

    def __init__(self, given: Tensor, top: Tensor, heat: Tensor | None = None) -> None:
        self.shape = given.shape
        self.device = given.device
        self._given = given
        self._top = top
        self._heat = heat

    def part(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Some rows as they race, in float32 or float64, and the largest value of each."""
        given = self._given if rows.start == 0 and rows.stop >= self.shape[0] else self._given[rows]
        top = self._top[rows]
        if self._heat is None:
            return _widened(given), _widened(top)
        heat = self._heat[rows, None]
        x = (given.double() - top[:, None].double()) / torch.where(heat == 0, 1.0, heat)
        first = (given == top[:, None]).long().argmax(-1, keepdim=True)
        only = torch.full_like(x, -torch.inf).scatter(-1, first, 0.0)
        return torch.where(heat == 0, only, x), torch.zeros_like(x[:, 0])


class _Source:
    """Where words come from: keys (rows, 4), numbers and positions of rows; or the words themselves, (n,
    rows, vocab)."""

    def __init__(
        self, keys: np.ndarray, numbers: np.ndarray, positions: np.ndarray, given: Pair | None = None
    ) -> None:
        self.keys = keys
        self.numbers = numbers
        self.positions = positions
        self.given = given

    @staticmethod
    def of_generator(generator: Randomness, rows: Tensor, position: int | Tensor) -> _Source:
        keys = keys_of(generator, rows.shape[0])
        own = not isinstance(generator, torch.Generator)
        numbers = np.zeros(len(keys), dtype=np.int64) if own else np.arange(len(keys))
        return _Source(keys, numbers, _places(position, rows))

    @staticmethod
    def of_words(words: Tensor, shape: tuple[int, ...], device: torch.device) -> _Source:
        if not isinstance(words, Tensor) or words.dtype not in (torch.int64, torch.uint64):
            got = str(words.dtype) if isinstance(words, Tensor) else f"words of type {type(words).__name__}"
            raise InputError(got, "a tensor of uint64, or int64 of the same bits", "use .view(torch.int64)")
        if tuple(words.shape) != shape:
            raise InputError(f"words of shape {tuple(words.shape)}", f"{shape}, a word a token", "reshape them")
        each = words.view(torch.int64).reshape(shape[0], -1, shape[-1]).to(device)
        rows = each.shape[1]
        none = np.zeros(rows, dtype=np.int64)
        pair = Pair((each >> 32) & _LOW, each & _LOW)
        return _Source(np.zeros((rows, 4), dtype=np.uint32), none, none, pair)

    def pair(self, draw: int, rows: slice, vocab: int, device: torch.device) -> Pair:
        """The words of a draw of some rows, (rows, vocab)."""
        if self.given is not None:
            return Pair(self.given.first[draw, rows], self.given.second[draw, rows])
        keys = torch.from_numpy(self.keys[rows].astype(np.int64)).to(device)
        numbers = torch.from_numpy(self.numbers[rows]).to(device)
        positions = torch.from_numpy(self.positions[rows].copy()).to(device)
        return noise.words_of(keys, numbers, positions, draw, vocab)


def _scores(rows: Tensor, top: Tensor, pair: Pair) -> Tensor:
    """(rows, vocab) float32 w / E, as the compiled loop has it; ``rows`` of float32 or float64, ``top``
    (rows, 1)."""
    x = (rows - top).float()
    weights = torch.where(x < LEAST, 0.0, exponentials(x.clamp(min=LEAST)))
    return weights / noise.exponentials_of(pair)


def _widened(rows: Tensor) -> Tensor:
    return rows if rows.dtype in (torch.float32, torch.float64) else rows.float()


def _quickly(
    logits: Tensor, rows: np.ndarray, generator: Randomness, position: int | Tensor, n: int
) -> Certified:
    """A call that :mod:`.quick` takes."""
    assert isinstance(generator, torch.Generator)
    assert isinstance(position, int)
    drawn = np.empty((n, rows.shape[0]), dtype=np.int64)
    words = words_from(generator)
    if _whole_loop()(rows, words, position, drawn) >= 0:
        _check(logits, logits.amax(-1).reshape(-1))
    found = torch.from_numpy(drawn)
    refined = exact = 0
    if drawn.size and drawn.min() < 0:
        count = rows.shape[0]
        keys = np.repeat(words.view(np.uint32)[None], count, axis=0)
        source = _Source(keys, np.arange(count), np.full(count, position))
        given = torch.from_numpy(rows)
        refined, exact = _settle_all(Rows(given, given.amax(-1)), source, found)
    return Certified(found if logits.dim() == 2 else found[:, 0], drawn.size, refined, exact)


def _eager(rows: Rows, source: _Source, found: Tensor) -> None:
    """The race by torch operations one by one. Writes tokens, and -1 where float32 does not decide."""
    count, vocab = rows.shape
    step = max(1, (CHUNK << 3) // vocab)
    for start in range(0, count, step):
        part = slice(start, start + step)
        wide, top = rows.part(part)
        peak = top.unsqueeze(-1)
        for draw in range(len(found)):
            scores = _scores(wide, peak, source.pair(draw, part, vocab, rows.device))
            best, at = scores.max(-1)
            near = scores >= (best * (1 - MARGIN)).unsqueeze(-1)
            found[draw, part] = torch.where(near.sum(-1) == 1, at, -1)


def _compiled(rows: Rows, source: _Source, found: Tensor) -> None:
    """The same by the compiled loop, a thread for every half a million values."""
    draws, count = found.shape
    vocab = rows.shape[1]
    ids = found.numpy()
    step = max(1, CHUNK // vocab)
    loop = race_loop()
    none = np.empty((0, 0, 0), dtype=np.uint32)

    def part(start: int, stop: int) -> None:
        for i in range(start, stop, step):
            chunk = slice(i, min(i + step, stop))
            values, peaks = rows.part(chunk)
            first = second = none
            if source.given is not None:
                first = source.given.first[:, chunk].numpy().astype(np.uint32)
                second = source.given.second[:, chunk].numpy().astype(np.uint32)
            loop(
                values.contiguous().numpy(),
                peaks.numpy(),
                source.keys[chunk],
                source.numbers[chunk],
                source.positions[chunk],
                first,
                second,
                ids[:, chunk],
            )

    over_rows(part, count, draws * vocab)


@cache
def _whole_loop() -> Any:
    """The compiled loop of a quick call: see :mod:`.quick`."""
    import numba

    loop = race_loop()

    @numba.njit(nogil=True, error_model="numpy")
    def draw(logits, peaks, keys, numbers, positions, ids):
        none = np.empty((0, 0, 0), dtype=np.uint32)
        loop(logits, peaks, keys, numbers, positions, none, none, ids)

    return with_words(draw)


@cache
def race_loop() -> Any:
    """The compiled loop over the rows of a chunk: ids (draws, rows), -1 where float32 does not decide."""
    import numba

    fill, exponential, _ = noise.exponential_loops()
    derived = noise.derive()
    exp = compiled_exponential()
    least = np.float32(LEAST)
    keep = np.float32(1 - MARGIN)
    size = TILE

    @numba.njit(nogil=True, error_model="numpy")
    def weigh(row, peak, weights):
        for i in range(len(row)):
            x = np.float32(row[i] - peak)
            w = exp(max(x, least))
            weights[i] = w if x >= least else np.float32(0)

    @numba.njit(nogil=True, error_model="numpy")
    def score(weights, e, out):
        """out = w / e, and the bits of the largest, whose order is that of floats not negative."""
        bits = out.view(np.int32)
        most = np.int32(0)
        for i in range(len(out)):
            out[i] = weights[i] / e[i]
        for i in range(len(out)):
            most = np.int32(max(most, bits[i]))
        return most

    @numba.njit(nogil=True, error_model="numpy")
    def loop(logits, peaks, keys, numbers, positions, first, second, ids):
        rows, vocab = logits.shape
        given = len(first) > 0
        weights = np.empty(vocab, dtype=np.float32)
        key = np.zeros(4, dtype=np.uint64)
        word, none = np.empty(size, dtype=np.uint32), np.empty(0, dtype=np.uint32)
        e, scores = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.float32)
        for r in range(rows):
            weigh(logits[r], peaks[r], weights)
            for draw in range(len(ids)):
                if not given:
                    derived(keys[r], numbers[r], positions[r], draw, key)
                best = np.float32(0)
                runner_up = np.float32(0)
                at = -1
                for start in range(0, vocab, size):
                    stop = min(start + size, vocab)
                    here = stop - start
                    if given:
                        exponential(
                            first[draw, r, start:stop],
                            second[draw, r, start:stop],
                            key,
                            start,
                            True,
                            e[:here],
                        )
                    else:
                        fill(key, start // size, word)
                        exponential(word[:here], none, key, start, False, e[:here])
                    most = score(weights[start:stop], e[:here], scores[:here])
                    if np.int32(most).view(np.float32) < best * keep:
                        continue
                    for i in range(here):
                        if scores[i] > best:
                            runner_up = best
                            best = scores[i]
                            at = start + i
                        elif scores[i] > runner_up:
                            runner_up = scores[i]
                ids[draw, r] = at if runner_up < best * keep else -1

    return loop


def _settle_all(rows: Rows, source: _Source, found: Tensor) -> tuple[int, int]:
    """Put a token in each place of ``found`` that is -1. Returns how many there were, and how many took
    decimals."""
    refined, exact = 0, 0
    for draw, r in np.argwhere(found.cpu().numpy() == -1).tolist():
        row = slice(r, r + 1)
        wide, peak = rows.part(row)
        top = peak.unsqueeze(-1)
        pair = source.pair(draw, row, rows.shape[1], rows.device)
        scores = _scores(wide, top, pair)[0]
        near = (scores >= scores.max() * (1 - MARGIN)).nonzero().flatten()
        values = (wide[0, near].double() - top.double().flatten()).cpu()
        numbers = [
            (high << 32) | low
            for high, low in zip(pair.first[0, near].tolist(), pair.second[0, near].tolist(), strict=True)
        ]
        open_still = _nearest_in_float64(values.numpy(), numbers)
        chosen = open_still[0]
        if len(open_still) > 1:
            given = [Decimal(float(wide[0, int(near[i])])) for i in open_still]
            chosen = open_still[_first_best(given, [numbers[i] for i in open_still])]
            exact += 1
        found[draw, r] = near[chosen]
        refined += 1
    return refined, exact


def _nearest_in_float64(values: np.ndarray, numbers: Sequence[int]) -> list[int]:
    """The places whose score value - log E comes within :data:`MARGIN_64` of the best, ascending; E of U =
    (number + 1/2) 2^-64."""
    top = (1 << 64) - 1
    lower = np.array([number < top // 2 for number in numbers])
    folded = np.array([min(number, top - number) for number in numbers], dtype=np.float64)
    v = (folded + 0.5) * 2.0**-64
    with np.errstate(divide="ignore"):
        e = np.where(lower, -np.log1p(-v), -np.log(v))
    scores = values - np.log(e)
    return np.flatnonzero(scores >= scores.max() - MARGIN_64).tolist()


def _first_best(values: Sequence[Decimal], numbers: Sequence[int]) -> int:
    """The place of the largest value - log(-log(1 - U)), U = (number + 1/2) 2^-64; the first of equal pairs.

    A difference, a logarithm and a sum are each rounded once in so many digits: a score, below 110, is off by
    less than 1000 units of the last place; the digits are doubled until the best stands out by ten times
    that."""
    contenders = list(
        {pair: place for place, pair in reversed(list(enumerate(zip(values, numbers, strict=True))))}.values()
    )
    contenders.sort()
    digits = _DIGITS
    while len(contenders) > 1 and digits <= _MOST_DIGITS:
        context = Context(prec=digits)
        scores = [_score(values[i], values[contenders[0]], numbers[i], context) for i in contenders]
        edge = context.subtract(max(scores), Decimal(10) ** (4 - digits))
        contenders = [i for i, score in zip(contenders, scores, strict=True) if score >= edge]
        digits *= 2
    return contenders[0]


def _score(value: Decimal, reference: Decimal, number: int, context: Context) -> Decimal:
    exactly = Context(prec=200)  # 1 - U has 65 digits
    left = exactly.divide(Decimal((1 << 65) - 2 * number - 1), Decimal(1 << 65))
    e = context.minus(context.ln(left))
    return context.subtract(context.subtract(value, reference), context.ln(e))
