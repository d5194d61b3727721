"""A race for those who need noise for every token: Gumbel values, tokens without replacement, coupled draws.

The words of a row are those of its key, its place in the batch (not with generators or seeds of its own), the
position, the draw and the token, and of nothing else: a row's noise does not depend on its batch, and two
rows of logits with the same seed and position are coupled, token by token, as a draft and its target must be.
``exponential_race`` draws with the noise that ``gumbel_like`` returns."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from . import noise
from .categorical import CHUNK, _check, _heat, _rows_of, _whole
from .certified import Rows, _Source, certified_argmax
from .noise import TILE
from .threads import over_rows
from .words import Randomness

DEAD = -1  # in the place of a token that cannot be drawn


def gumbel_like(logits: Tensor, *, generator: Randomness, position: int | Tensor = 0) -> Tensor:
    """Standard Gumbel noise for each token of ``logits``, (..., vocab): float32, of the same shape, on the
    same device.

    G = -log E of :mod:`.noise`, from -3.81 to 45.05 = 65 log 2, in float32 arithmetic.
    Law of the noise, all words enumerated: a token of probability p wins against the continuous noise of the
    rest with probability p (1 +- 3e-8), p from 1 - 2e-5 to 1e-15: 1.5e-8 in total variation, whatever the row.
    Law of argmax(l + G), proved: scores of 32 nats at most are within 2^-18 nats of those of real arithmetic
    (G 0.7 2^-19, its words and logarithm 2^-20.5, the sum 2^-20), so that the total variation is below 2^-19,
    1.9e-6, and vocab 2^-44. These roundings have no sign and average out; what stays are ties, of a
    probability below 2^-19, which the first index wins. ``exponential_race`` has neither.
    ``generator``, ``position``: as for :func:`~precision_lab.faithful.categorical`; it looks at the shape of
    ``logits`` alone.
    Time: 0.3 to 0.4 of ``-log(-log(rand))`` by torch on one core. Memory: the noise, and 12 KB a thread.
    Errors: InputError for what is no floating tensor of 1 to 2^18 tokens, or no generator.
    """
    rows = _rows_of(logits)
    source = _Source.of_generator(generator, rows, position)
    out = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    if out.numel():
        if rows.device.type == "cpu":
            _fill(source, out)
        else:
            _fill_eagerly(source, out)
    return out.reshape(logits.shape)


def exponential_race(
    logits: Tensor,
    n: int = 1,
    *,
    generator: Randomness,
    temperature: float | Tensor | None = None,
    position: int | Tensor = 0,
) -> Tensor:
    """``n`` tokens for each row of ``logits``, (..., vocab): argmax_i exp(l_i / T) / E_i. Returns (n, ...)
    int64.

    The tokens of :func:`~precision_lab.faithful.certified_argmax`, which says what they cost, what a
    temperature does and what is refused: float32 where that decides, real arithmetic where it does not. Total
    variation from softmax at most vocab 2^-64, below 1.5e-14, with a temperature 2^-45 more."""
    return certified_argmax(logits, n, generator=generator, temperature=temperature, position=position).tokens


def gumbel_topk(
    logits: Tensor,
    k: int,
    *,
    generator: Randomness,
    temperature: float | Tensor | None = None,
    position: int | Tensor = 0,
) -> Tensor:
    """``k`` different tokens for each row of ``logits``, (..., vocab), drawn one after another without
    replacement from softmax(l / T): the k largest of l / T + G, largest first; of equal scores the first token.
    Returns (..., k) int64 on the device of the logits. ``temperature``: a number above 0, or one for each row.

    The first follows softmax, the second softmax without the first, and so on (Kool, van Hoof and Welling
    2019). Noise: :func:`gumbel_like`, of the same words. Scores (l - max l) + G are rounded to float32 twice,
    each time by 2^-19 nats at most where they lie above -16, which moves the probability of a place by 2^-17
    of itself at most.
    Time: that of gumbel_like and a heap of k. Memory: 8 k bytes, 4 vocab where the device is no CPU.
    Errors: InputError as for categorical, for a temperature of 0, and where a row has fewer than k tokens
    above -inf.
    """
    given = _rows_of(logits)
    k = _whole("k", k)
    top = given.amax(-1)
    _check(given, top)
    heat = None if temperature is None else _heat(temperature, given)
    if heat is not None and bool((heat == 0).any()):
        raise InputError("temperature 0 of several tokens", "above 0", "at 0 torch.topk has the answer")
    if k > given.shape[1]:
        raise InputError(f"k = {k} of {given.shape[1]} tokens", "no more than there are", "ask for fewer")
    source = _Source.of_generator(generator, given, position)
    found = torch.empty((len(given), k), dtype=torch.int64, device=given.device)
    if found.numel():
        fast = _topk if given.device.type == "cpu" else _topk_eagerly
        fast(Rows(given, top, heat), source, found)
        if bool((found[:, -1] == DEAD).any()):
            at = int((found[:, -1] == DEAD).long().argmax())
            alive = int((given[at] > -torch.inf).sum())
            raise InputError(
                f"k = {k} of {alive} tokens above -inf in row {at}", "no more than there are", "ask for fewer"
            )
    return found.reshape(*logits.shape[:-1], k)


def _fill(source: _Source, out: Tensor) -> None:
    array = out.numpy()
    loop = _noise_loop()

    def part(start: int, stop: int) -> None:
        lane = slice(start, stop)
        loop(source.keys[lane], source.numbers[lane], source.positions[lane], array[lane])

    over_rows(part, *out.shape)


def _fill_eagerly(source: _Source, out: Tensor) -> None:
    count, vocab = out.shape
    step = max(1, (CHUNK << 3) // vocab)
    for start in range(0, count, step):
        rows = slice(start, start + step)
        out[rows] = noise.gumbels_of(noise.exponentials_of(source.pair(0, rows, vocab, out.device)))


def _topk(rows: Rows, source: _Source, found: Tensor) -> None:
    count, vocab = rows.shape
    ids = found.numpy()
    step = max(1, CHUNK // vocab)
    loop = _topk_loop()

    def part(start: int, stop: int) -> None:
        for i in range(start, stop, step):
            chunk = slice(i, min(i + step, stop))
            values, peaks = rows.part(chunk)
            loop(
                values.contiguous().numpy(),
                peaks.numpy(),
                source.keys[chunk],
                source.numbers[chunk],
                source.positions[chunk],
                ids[chunk],
            )

    over_rows(part, count, vocab)


def _topk_eagerly(rows: Rows, source: _Source, found: Tensor) -> None:
    count, vocab = rows.shape
    step = max(1, (CHUNK << 3) // vocab)
    lowest = torch.finfo(torch.float32).min
    for start in range(0, count, step):
        part = slice(start, start + step)
        wide, peak = rows.part(part)
        x = (wide - peak.unsqueeze(-1)).float().clamp(min=lowest)
        gumbel = noise.gumbels_of(noise.exponentials_of(source.pair(0, part, vocab, rows.device)))
        scores = (x + gumbel).masked_fill(wide == -torch.inf, -torch.inf)
        ranked = torch.sort(scores, dim=-1, descending=True, stable=True)
        k = found.shape[1]
        found[part] = torch.where(ranked.values[:, :k] > -torch.inf, ranked.indices[:, :k], DEAD)


@cache
def _noise_loop() -> Any:
    """``loop(keys, numbers, positions, out)``: Gumbel values, (rows, vocab) float32."""
    import numba

    fill, exponential, _ = noise.exponential_loops()
    derived, gumbels = noise.derive(), noise.gumbel_loop()
    size = TILE

    @numba.njit(nogil=True, error_model="numpy")
    def loop(keys, numbers, positions, out):
        rows, vocab = out.shape
        key = np.zeros(4, dtype=np.uint64)
        word, none = np.empty(size, dtype=np.uint32), np.empty(0, dtype=np.uint32)
        e = np.empty(size, dtype=np.float32)
        for r in range(rows):
            derived(keys[r], numbers[r], positions[r], 0, key)
            for start in range(0, vocab, size):
                stop = min(start + size, vocab)
                here = stop - start
                fill(key, start // size, word)
                exponential(word[:here], none, key, start, False, e[:here])
                gumbels(e[:here], out[r, start:stop])

    return loop


@cache
def _topk_loop() -> Any:
    """``loop(logits, peaks, keys, numbers, positions, ids)``: the k best of a row in a heap, the worst on
    top."""
    import numba

    fill, exponential, _ = noise.exponential_loops()
    derived, gumbels = noise.derive(), noise.gumbel_loop()
    size = TILE
    lowest = np.float32(np.finfo(np.float32).min)
    dead = np.int64(DEAD)
    sign_place, magnitude = np.int32(31), np.int32(0x7FFFFFFF)

    @numba.njit(nogil=True, error_model="numpy")
    def sift(scores, tokens, root, count):
        """Put ``root`` in its place in a heap with the lowest score on top, of equal ones the last token."""
        while 2 * root + 1 < count:
            child = 2 * root + 1
            right = child + 1
            if right < count and (
                scores[right] < scores[child]
                or (scores[right] == scores[child] and tokens[right] > tokens[child])
            ):
                child = right
            if scores[root] < scores[child]:
                return
            if scores[root] == scores[child] and tokens[root] > tokens[child]:
                return
            scores[root], scores[child] = scores[child], scores[root]
            tokens[root], tokens[child] = tokens[child], tokens[root]
            root = child

    @numba.njit(nogil=True, error_model="numpy")
    def add(row, peak, g):
        """g += max(l - peak, the lowest float), -inf where l is; and the largest. Whole numbers that are
        ordered as the floats of their bits are sought, which a processor does many at a time."""
        bits = g.view(np.int32)
        for i in range(len(g)):
            x = max(np.float32(row[i] - peak), lowest)
            g[i] = x + g[i] if row[i] > -np.inf else np.float32(-np.inf)
        most = np.int32(-magnitude)
        for i in range(len(g)):
            most = np.int32(max(most, np.int32(bits[i] ^ ((bits[i] >> sign_place) & magnitude))))
        return np.int32(most ^ ((most >> sign_place) & magnitude))

    @numba.njit(nogil=True, error_model="numpy")
    def loop(logits, peaks, keys, numbers, positions, ids):
        rows, vocab = logits.shape
        k = ids.shape[1]
        key = np.zeros(4, dtype=np.uint64)
        word, none = np.empty(size, dtype=np.uint32), np.empty(0, dtype=np.uint32)
        e, g = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.float32)
        scores, tokens = np.empty(k, dtype=np.float32), np.empty(k, dtype=np.int64)
        for r in range(rows):
            derived(keys[r], numbers[r], positions[r], 0, key)
            count = 0
            for start in range(0, vocab, size):
                here = min(start + size, vocab) - start
                fill(key, start // size, word)
                exponential(word[:here], none, key, start, False, e[:here])
                gumbels(e[:here], g[:here])
                most = add(logits[r, start : start + here], peaks[r], g[:here])
                if count == k and np.int32(most).view(np.float32) <= scores[0]:
                    continue
                for i in range(here):
                    if count < k:
                        scores[count], tokens[count] = g[i], start + i
                        count += 1
                        if count == k:
                            for root in range(k // 2 - 1, -1, -1):
                                sift(scores, tokens, root, k)
                    elif g[i] > scores[0]:
                        scores[0], tokens[0] = g[i], start + i
                        sift(scores, tokens, 0, k)
            for last in range(k - 1, -1, -1):
                ids[r, last] = tokens[0] if scores[0] > -np.inf else dead
                scores[0], tokens[0] = scores[last], tokens[last]
                sift(scores, tokens, 0, last)

    return loop
