"""Faithful categorical draws: integer masses, one uniform integer below their sum, a block, a token.

The law is m_i / M, a rational number: independent of the order of summation, the block, the threads and the
batch. Two random words a draw in place of one uniform a token, so it costs less than the samplers whose law
is worse.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from . import kernels, words
from . import masses as mass_maps
from .eager import draw_eagerly
from .quick import quick_rows, with_words
from .threads import over_rows
from .truncated import draw_truncated
from .truncation import PipelineLike, Plan, masses_kept, plan_of, tempers
from .words import Randomness, keys_of

BLOCK = 256  # tokens whose masses are summed before any is looked at
CHUNK = 1 << 17  # values of half-precision logits that are widened at once: half a megabyte
_EVERYTHING = Plan((), 1.0)


def categorical(
    logits: Tensor,
    n: int = 1,
    *,
    generator: Randomness,
    temperature: float | Tensor | None = None,
    pipeline: PipelineLike | None = None,
    position: int | Tensor = 0,
) -> Tensor:
    """``n`` tokens for each row of ``logits``, (..., vocab). Returns (n, ...) int64 on the device of the
    logits.

    P(i) = m_i / M, M = sum_j m_j, m_i = rint(2^44 exp((l_i - max l) / T)) as :mod:`.masses` computes it.
    Against 2^44 exp((l_i - max l) / T): relative error of the mass m_i at most 2^-22.6 + c 2^-24 gap +
    1 / (2 m_i), gap = (max l - l_i) / T in nats; c = 1, as the difference is rounded, and with a temperature 3,
    as the divisor and the quotient are too. P(i) is off from softmax by that and by its mean over P, that of M.
    A token more than 31.2 nats down cannot be drawn, in all less than vocab e^-31. Total
    variation below 1e-7 on Zipf and normal rows of 151,936 tokens. ``generator``: a torch.Generator, from
    which two words are taken; or a generator or seed for every row.  The words of a draw depend on the
    row's key, its place in the batch (not with generators or seeds of its own), ``position`` and the draw:
    rows never share them, and a row's tokens do not depend on the others. ``temperature``: a number, or one
    for each row; 0: the first of the largest logits.  ``pipeline``: top-k, top-p, min-p and temperatures,
    as ``"temperature=0.7 > top_k=50 > top_p=0.95"``, a Pipeline or steps, after ``temperature``; masses are
    then those of the tokens left, by :mod:`.truncation`, at the product of the temperatures.  ``position``:
    a whole number, or one for each row, that sets apart calls with the same seeds: the place in a text.
    Time: one pass over the logits, about a fifth of float32 Gumbel-max. Memory of a thread:
    8 vocab / 256 bytes; 8 vocab more where n > vocab / 64, for sums; with a pipeline that truncates 32 vocab
    (of float64 logits 40).
    A CUDA tensor is drawn from by :mod:`.kernels` where there is Triton; the tokens are the same. Errors:
    InputError for NaN or +inf, a row of -inf, more than 2^18 tokens, bad temperatures, a pipeline that
    cannot be read, or what is no generator.
    """
    plain = temperature is None and pipeline is None
    quick = quick_rows(logits, generator, position) if plain else None
    if quick is not None:
        assert isinstance(generator, torch.Generator)
        count = _whole("n", n)
        drawn = np.empty((count, quick.shape[0]), dtype=np.int64)
        if _whole_loop()(quick, words.words_from(generator), position, drawn) < 0:
            return torch.from_numpy(drawn if logits.dim() == 2 else drawn[:, 0])
        _check(logits, logits.amax(-1).reshape(-1))
    rows = _rows_of(logits)
    count = _whole("n", n)
    keys = keys_of(generator, rows.shape[0])
    own = not isinstance(generator, torch.Generator)
    places = _places(position, rows)
    heat = None if temperature is None else _heat(temperature, rows)
    plan = None if pipeline is None else plan_of(pipeline)
    numbers = np.zeros(len(keys), dtype=np.int64) if own else np.arange(len(keys))
    words_of = _Words(keys, numbers, places)
    if rows.device.type == "cuda" and rows.dtype in kernels.DTYPES and kernels.available():
        ids, top = _draw_by_kernels(rows, heat, plan, words_of, count)
        _check(rows, top)  # last, as it waits for the card
    else:
        top = rows.amax(-1)
        _check(rows, top)
        ids = _draw(rows, top, heat, plan or _EVERYTHING, words_of, count)
    return ids.reshape(count, *logits.shape[:-1])


def categorical_masses(
    logits: Tensor,
    temperature: float | Tensor | None = None,
    *,
    pipeline: PipelineLike | None = None,
) -> Tensor:
    """The integer masses m of :func:`categorical`, (..., vocab) int64: its law is m / m.sum(-1), exactly.

    ``pipeline`` as there; tokens that it drops have mass 0. Against ``parse_pipeline(text).law``: the
    tokens left are the same, but that top-p may take or leave a token where a cumulative share of mass is
    within 2^-20 of p; the relative error of each mass is that of :func:`categorical`. Errors: InputError as
    there, and for temperatures of 0.
    """
    rows = _rows_of(logits)
    heat = None if temperature is None else _heat(temperature, rows)
    if heat is not None and not bool((heat > 0).all()):
        raise InputError(f"temperature {heat.min().item()}", "above 0", "at 0 the draw is certain")
    plan = _EVERYTHING if pipeline is None else plan_of(pipeline)
    _check(rows, rows.amax(-1))
    return masses_kept(rows, plan, heat).reshape(logits.shape)


def _rows_of(logits: Tensor) -> Tensor:
    """(rows, vocab), detached. InputError for what is no floating tensor of at least one token."""
    if not isinstance(logits, Tensor) or not logits.dtype.is_floating_point:
        got = f"logits of type {type(logits).__name__}" if not isinstance(logits, Tensor) else str(logits.dtype)
        raise InputError(got, "a floating tensor, (..., vocab)", "convert it, for example with .float()")
    if logits.dim() < 1 or not 1 <= logits.shape[-1] <= mass_maps.MOST_VOCAB:
        raise InputError(
            f"logits of shape {tuple(logits.shape)}",
            f"(..., vocab), 1 to {mass_maps.MOST_VOCAB} tokens",
            "check the axis",
        )
    plain = logits.detach() if logits.requires_grad else logits
    return plain if plain.dim() == 2 else plain.reshape(-1, logits.shape[-1])


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**32:
        raise InputError(f"{name} = {value!r}", "a whole number, 0 to 2^32 - 1", "give an int in that range")
    return int(value)


def _per_row(name: str, value: float | Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """(rows,) of a number or of one for each row."""
    try:
        found = torch.as_tensor(value, dtype=dtype, device=rows.device).reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"{name} = {value!r}", "a number, or one a row", f"a tensor of {len(rows)} numbers"
        ) from None
    if found.numel() not in (1, rows.shape[0]):
        raise InputError(
            f"{found.numel()} values of {name} for {len(rows)} rows", "one, or one a row", "repeat it"
        )
    return found.expand(len(rows))


def _heat(temperature: float | Tensor, rows: Tensor) -> Tensor:
    """(rows,) float64 temperatures, 0 or more. InputError for others."""
    heat = _per_row("temperature", temperature, rows, torch.float64)
    good = (heat >= 0) & heat.isfinite()
    if not bool(good.all()):
        got = float(heat[good.logical_not()][0])
        raise InputError(f"temperature {got}", "0 or more", "0 takes the largest logit")
    return heat


def _places(position: int | Tensor, rows: Tensor) -> np.ndarray:
    """(rows,) int64: the position of each row."""
    if type(position) is int and -(2**63) <= position < 2**63:
        return np.full(rows.shape[0], position)
    if isinstance(position, float) or (isinstance(position, Tensor) and position.dtype.is_floating_point):
        raise InputError(f"position = {position!r}", "whole numbers", "convert it")
    return _per_row("position", position, rows, torch.int64).cpu().numpy()


def _check(rows: Tensor, top: Tensor) -> None:
    """InputError with the row's number for NaN, +inf and a row of -inf; the largest value of a row shows
    all three."""
    peaks = top.double().cpu().numpy()
    good = np.isfinite(peaks)
    if not good.all():
        at = int(good.argmin())
        value = float(peaks[at])
        what = "NaN" if value != value else "+inf" if value > 0 else "only -inf"
        raise InputError(
            f"{what} in row {at} of the logits", "numbers or -inf, one of them finite", "mend that row"
        )


class _Words:
    """What the words of a draw are made of: ``keys`` (rows, 4), ``rows`` (rows,) and ``positions`` (rows,)."""

    def __init__(self, keys: np.ndarray, rows: np.ndarray, positions: np.ndarray) -> None:
        self.keys = keys
        self.rows = rows
        self.positions = positions


def _draw(rows: Tensor, top: Tensor, heat: Tensor | None, plan: Plan, words_of: _Words, n: int) -> Tensor:
    """(n, rows) tokens of checked rows, without kernels."""
    count, vocab = rows.shape
    ids = np.empty((n, count), dtype=np.int64)
    if not ids.size:
        return torch.from_numpy(ids).to(rows.device)
    if rows.device.type != "cpu":
        return draw_eagerly(rows, heat, words_of.keys, words_of.rows, words_of.positions, n, plan)
    if plan.cuts:
        return draw_truncated(rows, plan, heat, words_of.keys, words_of.rows, words_of.positions, n)
    step = max(1, CHUNK // vocab)
    loop = _loop()
    temper = tempers(heat, plan.temperature, rows).numpy()
    peak = (top if top.dtype in (torch.float32, torch.float64) else top.float()).numpy()

    def part(start: int, stop: int) -> None:
        for i in range(start, stop, step):
            chunk = slice(i, min(i + step, stop))
            values = rows if chunk.stop - i == count else rows[chunk]
            if values.dtype not in (torch.float32, torch.float64):
                values = values.float()
            loop(
                values.contiguous().numpy(),
                peak[chunk],
                temper[chunk],
                words_of.keys[chunk],
                words_of.rows[chunk],
                words_of.positions[chunk],
                ids[:, chunk],
            )

    over_rows(part, count, vocab)
    return torch.from_numpy(ids)


def _draw_by_kernels(
    rows: Tensor, heat: Tensor | None, plan: Plan | None, words_of: _Words, n: int
) -> tuple[Tensor, Tensor]:
    """(n, rows) tokens, and the largest logit of each row, which is yet to be checked."""
    from .kernels import launch

    words_there = launch.words_on(rows.device, words_of.keys, words_of.rows, words_of.positions)
    drawn = launch.draw(rows, words_there, n, heat=heat, plan=plan)
    return drawn.ids, drawn.peaks


@cache
def _whole_loop() -> Any:
    """The compiled loop of a quick call: see :mod:`.quick`."""
    import numba

    loop = _loop()

    @numba.njit(nogil=True, error_model="numpy")
    def draw(logits, peaks, keys, numbers, positions, ids):
        loop(logits, peaks, np.ones(len(logits), dtype=np.float32), keys, numbers, positions, ids)

    return with_words(draw)


@cache
def _loop() -> Any:
    """The compiled loop over the rows of a chunk."""
    import numba

    mass, uniform_below = mass_maps.compiled(), words.below()
    size = BLOCK

    @numba.njit(nogil=True, error_model="numpy")
    def place_in(running, value):
        """The first i with running[i] > value."""
        low, high = 0, len(running) - 1
        while low < high:
            middle = (low + high) // 2
            if running[middle] > value:
                high = middle
            else:
                low = middle + 1
        return low

    @numba.njit(nogil=True, error_model="numpy")
    def loop(logits, top, heat, keys, numbers, positions, ids):
        draws = ids.shape[0]
        rows, vocab = logits.shape
        blocks = (vocab + size - 1) // size
        sums = np.empty(blocks, dtype=np.int64)
        many = draws * size > 4 * vocab  # then every partial sum is kept
        running = np.empty(vocab if many else 0, dtype=np.int64)
        for r in range(rows):
            peak, t = top[r], heat[r]
            if t == 0:
                first = 0
                while logits[r, first] != peak:
                    first += 1
                ids[:, r] = first
                continue
            total = np.int64(0)
            for b in range(blocks):
                part = np.int64(0)
                for i in range(b * size, min((b + 1) * size, vocab)):
                    part += mass(np.float32((logits[r, i] - peak) / t))
                sums[b] = part
                total += part
            if many:
                part = np.int64(0)
                for i in range(vocab):
                    part += mass(np.float32((logits[r, i] - peak) / t))
                    running[i] = part
            for draw in range(draws):
                left = uniform_below(total, keys[r], numbers[r], positions[r], draw)
                if many:
                    ids[draw, r] = place_in(running, left)
                    continue
                b = 0
                while left >= sums[b]:
                    left -= sums[b]
                    b += 1
                i = b * size
                m = mass(np.float32((logits[r, i] - peak) / t))
                while left >= m:
                    left -= m
                    i += 1
                    m = mass(np.float32((logits[r, i] - peak) / t))
                ids[draw, r] = i

    return loop
