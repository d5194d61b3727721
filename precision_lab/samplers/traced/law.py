"""The law of a function, from its reading at the logits in question."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ...atoms import Atoms
from ...errors import InputError
from ...formats import FORMATS
from ...laws.argmax import Progress
from ...laws.inverse_cdf import inverse_cdf_law, threshold_law
from ...laws.law import Law
from ...types import Array, Float, Guarantee
from ...uniforms import Source
from ..rules import Enumerated, WithinBound
from ..rules import Race as RaceOf
from .anatomy import DTYPE_NAMES, Draw, GatedDraw, LibraryDraw, RaceDraw, Relabel, ThresholdDraw
from .bounds import budget, roundoff
from .calling import Calling, start
from .chain import NoiseMap
from .confirm import (
    PLANTED,
    Confirmed,
    blur,
    by_itself,
    flattened,
    read,
    replay,
    same_again,
    sequential_sums,
    signature,
)
from .plants import planting
from .record import Record, refused
from .source import named, source_of
from .tokens import decided_by, indices_a_row, origins, tokens_of, weights_behind

DRAWS = 2  # the smallest number of draws that is not one
_COMPANY = 3  # draws of the call of two rows
_AT_ONCE = 1 << 18  # scores of the call that is read
_LOG_REACH = 110.0  # |log| of a score
_MOST = 64  # draws of that call


@dataclass(frozen=True)
class KeyedMap:
    """A noise map that is equal to another of the same ``key``, so that tables of its law are kept and
    found again."""

    key: str
    function: Callable[[Tensor], Tensor] = field(compare=False)

    def __call__(self, values: Tensor) -> Tensor:
        return self.function(values)


@dataclass(frozen=True)
class Reading:
    """A function, read at one row of logits: ``draw``, what it was ``confirmed`` by, and the ``vocab`` of
    the row."""

    calling: Calling
    confirmed: Confirmed
    draw: Draw
    vocab: int

    def law(self, progress: Progress | None = None, *, tolerance: float = 1e-10, relative: float = 1e-7) -> Law:
        """The law of one draw. ``how`` says what was read and by how many replayed draws it was confirmed."""
        found = _law(self.draw, self.vocab, Enumerated(tolerance, relative, overflow=True), progress)
        says_nothing = (
            ", whose roundings are too many for a bound: the error of 1 says nothing"
            if found.error >= 1
            else ""
        )
        how = f"{found.how}{says_nothing}; read from {self.calling.name}, confirmed by {self.confirmed.draws:,} replayed draws"
        return replace(found, how=how)


def reading(calling: Calling, logits: Tensor, confirmed: Confirmed, draws: int = DRAWS) -> Reading:
    """Read ``calling`` at one row, (vocab,), in the dtype that the row has, and replay it there, values too
    rare to be drawn among them. ``draws``: 1 for a call for one draw; else it is read as a call for
    several, ``draws`` or more.

    InputError if this is another recipe than the one that was confirmed, if its draws have different laws,
    or if the weights of a row depend on the number of draws or on the other rows of the batch.
    """
    vocab = len(logits)
    n = 1 if draws == 1 else max(draws, min(_AT_ONCE // vocab, _MOST))
    state = start(0, logits.device)
    shape = (n, 1, vocab)
    for share in (0.0, *PLANTED):
        plant = planting(share, n) if share else None
        taken, parts = read(calling, logits[None].clone(), n, state, plant)
        if plant is None:
            plain = by_itself(calling, logits[None], n, state)
            same_again(calling, logits[None], n, state, taken.ids, plain)
        replay(parts, shape)
        _same_tokens(taken, parts, vocab)
    found = sorted({signature(draw) for draw in parts})
    if " | ".join(found) != confirmed.signature:
        raise refused(
            f"{calling.name}, which at vocab {vocab} draws by {' | '.join(found)}",
            f"the recipe that was confirmed: {confirmed.signature}",
        )
    first = parts[0]
    for other in flattened(parts):
        if not _same_row(_row(first), _row(other)):
            raise refused(
                f"{calling.name}, whose draws of one call have different weights",
                "independent draws of one law",
            )
    _alone_or_in_company(calling, logits, first, single=draws == 1)
    return Reading(calling, confirmed, first, vocab)


def _same_tokens(taken: Record, draws: list[Draw], vocab: int) -> None:
    """Each id that came back is the token that the reading has for its index."""
    ids = taken.ids.reshape(-1).cpu().long()
    for draw, places in zip(draws, origins(taken, draws), strict=True):
        here = places >= 0
        _first_of_several(draw, places[here])
        kept = draw.index.kept
        assert kept is not None
        index = kept.reshape(-1).cpu()[places[here]].long()
        if not isinstance(draw, GatedDraw):
            mine = torch.from_numpy(tokens_of(draw.relabel, max(int(index.max()) + 1, 1)))[index]
        else:
            mine = torch.from_numpy(tokens_of(draw.relabel, max(int(index.max()) + 1, vocab)))[index]
        wrong = mine != ids[here]
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            raise refused(
                f"the id {int(ids[here][at])} for index {int(index[at])}, which is {int(mine[at])} in the reading",
                "ids that are a table of the index",
            )


def _first_of_several(draw: Draw, places: Tensor) -> None:
    """Of several indices that one row gives, the first is among those that come back: the law is its own."""
    several = indices_a_row(draw)
    if several > 1 and not bool((places % several == 0).any()):
        raise refused(
            f"{draw.decision.name} of {several}, of which the first is left out, at {draw.decision.where}",
            "the best index, or all of them",
        )


def _alone_or_in_company(calling: Calling, logits: Tensor, alone: Draw, *, single: bool) -> None:
    """The weights of a row are the same with other numbers of draws and beside another row, to some roundings.
    ``single``: every call is for one draw."""
    beside = logits.roll(1) / 2
    few, more = (1, 1) if single else (DRAWS, _COMPANY)
    expected = [_row(alone), _row(read(calling, beside[None].clone(), few, start(0, logits.device))[1][0])]
    taken, draws = read(calling, torch.stack([logits, beside]), more, start(1, logits.device))
    row_of_id = torch.arange(taken.ids.numel()) % 2
    for draw, places in zip(draws, origins(taken, draws), strict=True):
        for row in (0, 1):
            here = places[(places >= 0) & (row_of_id == row)]
            found = weights_behind(draw, here.to(logits.device)).cpu()
            if not all(_same_row(expected[row], one) for one in found):
                raise refused(
                    f"{calling.name}, whose weights of a row depend on the number of draws or on the other rows",
                    "one law for a row of logits",
                    "let each row depend on itself alone",
                )


def _same_row(one: Tensor, other: Tensor) -> bool:
    """Equal weights, to the roundings that a sum over another layout may have."""
    if one.shape != other.shape:
        return False
    close = 8 * torch.finfo(one.dtype).eps if one.dtype.is_floating_point else 0.0
    return torch.allclose(one.double(), other.double(), rtol=close, atol=0.0, equal_nan=True)


def _row(draw: Draw) -> Tensor:
    """The weights, sums or probabilities of one draw, (tokens,); all draws of the call have the same."""
    if isinstance(draw, GatedDraw):
        return _row(draw.inside)
    if isinstance(draw, RaceDraw):
        return _one_row(decided_by(draw))
    return _one_row(draw.sums if isinstance(draw, ThresholdDraw) else draw.probs)


def _one_row(table: Tensor) -> Tensor:
    rows = table.reshape(-1, table.shape[-1])
    if not bool((rows.nan_to_num() == rows[0].nan_to_num()).all()):
        raise refused("draws of one call whose weights differ", "independent draws of one law")
    return rows[0].cpu()


def _law(draw: Draw, vocab: int, exact: Enumerated, progress: Progress | None) -> Law:
    if isinstance(draw, GatedDraw):
        return _gated_law(draw, vocab, exact, progress)
    if isinstance(draw, RaceDraw):
        found, beyond = race_draw_law(draw, exact, progress), 0.0
    elif isinstance(draw, ThresholdDraw):
        found, beyond = _threshold_law(draw)
    else:
        found, beyond = _library_law(draw, exact, progress), 0.0
    return _relabelled(found, beyond, draw.relabel, vocab)


# -- races


def race_draw_law(draw: RaceDraw, exact: Enumerated, progress: Progress | None) -> Law:
    """The law of the index. Enumerated where the source can be listed, else the target within the bound of
    the map."""
    source, prepare = source_of(draw.noise.draw)
    weights = _one_row(draw.weights).double().numpy()
    if np.isnan(weights).any():
        raise InputError(
            "NaN weights", "numbers where the logits meet the noise", "check the logits and the processors"
        )
    score = FORMATS[DTYPE_NAMES[draw.score]]

    device = draw.weights.device

    def signed(values: Tensor) -> Tensor:
        made = (draw.noise(prepare(values.to(device))) * draw.noise_sign).cpu()
        _usable(draw, made)
        return made

    noise_of = KeyedMap(
        f"{draw.combine} {draw.noise.key()} {draw.noise_sign}",
        signed,
    )
    ties = planted_tie(draw)
    nonfinite = "first index" if draw.nan_rows else "wins"
    race = RaceOf(source, noise_of, draw.combine, score, "first", nonfinite, name="the function")  # type: ignore[arg-type]
    if not source.enumerable:
        found = _bounded_law(draw, race, _row(draw).double().numpy())
    else:
        if not _can_be_infinite(race):
            race = replace(race, nonfinite="wins")
        kept = np.ones(len(weights), dtype=bool)
        if draw.ruled_out is not None:
            kept = ~_one_row(draw.ruled_out).numpy()
        if race.nonfinite == "first index" and not kept[0]:
            raise refused(
                "index 0 ruled out after the noise, where a row of NaN gives index 0", "a mask before the noise"
            )
        if ties != "neither":
            found = exact.law(replace(race, tie=ties), weights[kept], progress)  # type: ignore[arg-type]
        else:
            found = _either_tie(exact, race, weights[kept], progress)
        if not kept.all():
            found = _with_ruled_out(found, kept, race, weights)
    if draw.blurred:
        error = min(found.error + 2 * _blurred(draw, weights), 1.0)
        how = f"{found.how}, rounded again by {' and '.join(step.name for step in draw.blurred)}"
        guarantee = Guarantee.CERTIFIED if found.guarantee is Guarantee.EXACT else found.guarantee
        found = replace(found, error=error, guarantee=guarantee, how=how, relative=math.inf)
    return _labelled(found, source)


def _usable(draw: RaceDraw, noise: Tensor) -> None:
    """InputError for noise that is NaN, or -0 where it divides: such a score is -inf, and NaN where the
    weight is 0."""
    if bool(noise.isnan().any()):
        raise refused(
            f"noise {draw.noise.formula()} that is NaN for some random values",
            "noise that is a number",
            "keep the uniform above 0 and below 1",
        )
    if draw.combine == "divide" and bool(((noise == 0) & noise.signbit()).any()):
        raise refused(
            f"noise {draw.noise.formula()} that is -0 for some random values and divides: the token loses with score -inf",
            "exponential noise of at least +0",
            "take -log1p(-u) in place of -log(1 - u), or clamp it",
        )


def _labelled(law: Law, source: Source) -> Law:
    if source.emulated is None:
        return law
    return replace(law, guarantee=Guarantee.EMULATED, how=f"{law.how}; emulated: {source.emulated}")


def _can_be_infinite(race: RaceOf) -> bool:
    return not math.isfinite(race.noise_atoms().ceiling) or race.score.max < 1e6


def _with_ruled_out(law: Law, kept: Array, race: RaceOf, weights: Float) -> Law:
    """The law of the tokens that are not ruled out, among all. One that is ruled out can win only if the
    noise of all others is -inf: this probability is added to the error."""
    probs = np.zeros(len(kept))
    probs[kept] = law.probs
    noise = race.noise_atoms()
    lowest = float(noise.below(np.array([-1e300]), inclusive=True)[0]) if race.combine == "add" else 0.0
    all_lowest = lowest ** int((weights[kept] > -math.inf).sum())
    return replace(law, log_probs=_log(probs), error=min(law.error + all_lowest, 1.0))


def _either_tie(exact: Enumerated, race: RaceOf, weights: Float, progress: Progress | None) -> Law:
    """Ties whose winner depends on more than the order of the tokens: the mean of both orders, and half
    their distance."""
    first = exact.law(replace(race, tie="first"), weights, progress)
    last = exact.law(replace(race, tie="last"), weights, progress)
    probs = (first.probs + last.probs) / 2
    error = first.error + float(np.abs(first.probs - last.probs).max()) / 2
    how = f"{first.how.split(',')[0]}, ties to the first or the last index as the library has it"
    return Law.from_probs(probs, how, error, Guarantee.HEURISTIC)


def _bounded_law(draw: RaceDraw, race: RaceOf, weights: Float) -> Law:
    """Within the bound of a map that cannot be listed; a power T of the exponential is a temperature."""
    found = budget(draw.noise)
    forms = {
        "add": ("gumbel",),
        "divide": ("exponential",),
        "ratio": ("exponential",),
        "multiply": ("reciprocal",),
    }
    form = found.form if draw.noise_sign > 0 else found.form.replace("minus ", "", 1)
    if form not in forms[draw.combine]:
        raise refused(
            f"noise {draw.noise.formula()} in {draw.combine}, which is no exponential race",
            "Gumbel or exponential noise",
        )
    unit, power = roundoff(draw.score), found.power
    relative = found.relative
    if draw.combine == "add":
        size = abs(float(weights.max())) + 37 * power
        relative += unit * 2.0 ** math.ceil(math.log2(size)) / power
        log_weights = weights / power
    else:
        relative += unit / power
        with np.errstate(divide="ignore"):
            log_weights = np.log(weights) / power
    combined = replace(race, combine="add", nonfinite="wins", tie="first")
    return WithinBound(relative + 2.0**-50, found.spacing).law(combined, log_weights)


def _blurred(draw: RaceDraw, weights: Float) -> float:
    """P(the best two scores lie within what the later operations round away): at most that width, as a
    factor of E."""
    spread = weights[np.isfinite(weights)]
    if draw.combine == "add":
        size = (float(np.abs(spread).max()) if spread.size else 0.0) + 37.0 + draw.shift
    else:
        size = _LOG_REACH if any(step.name == "log" for step in draw.blurred) else 1.0
    return min(blur(draw) * (1 + size), 1.0)


def planted_tie(draw: RaceDraw) -> str:
    """Which of equal best scores the decision takes here, asked with planted ties: first, last or neither."""
    operand = draw.decision.inputs[0]
    rng = torch.Generator().manual_seed(0)
    planted = torch.randint(0, 3, tuple(operand.shape), generator=rng).to(draw.weights.device, operand.dtype)
    answer = draw.decision.run(lambda value: planted if value is operand else value.kept)  # type: ignore[arg-type,return-value]
    index = answer if isinstance(answer, Tensor) else answer[draw.index.output]
    rows = planted.reshape(-1, operand.shape[-1])
    taken = index.reshape(len(rows), -1)[:, 0]
    sought = rows if draw.decision.name not in ("argmin", "min") else -rows
    if bool((taken == sought.argmax(dim=1)).all()):
        return "first"
    last = rows.shape[1] - 1 - sought.flip(-1).argmax(dim=1)
    return "last" if bool((taken == last).all()) else "neither"


# -- one uniform a draw


def _threshold_law(draw: ThresholdDraw) -> tuple[Law, float]:
    source, prepare = source_of(draw.noise.draw)
    sums = _row(draw)
    if bool(sums.isnan().any()):
        raise InputError("NaN in the cumulative sum", "numbers", "check the logits and the processors")
    if draw.beyond != "first" and bool((sums[1:] < sums[:-1]).any()):
        raise refused(
            f"sums that fall, counted or searched at {draw.decision.where}",
            "a cumulative sum that does not decrease",
        )

    device = draw.sums.device

    def uniform_of(values: Tensor) -> Tensor:
        return draw.noise(prepare(values.to(device))).cpu()

    if source.enumerable:
        counted = threshold_law(
            sums.double().numpy(), source.push(KeyedMap(draw.noise.key(), uniform_of)), draw.rule
        )
        how = f"counts of a 2^{counted.bits} grid below the rounded sum ({draw.rule})"
        law = Law.from_probs(counted.probs, how, 2.0**-53, Guarantee.EXACT)
        beyond = float(np.ldexp(float(counted.beyond), -counted.bits))
    else:
        law, beyond = _searched_law(draw, source, uniform_of, sums)
    if draw.beyond == "first":
        probs = law.probs
        probs[0] += beyond
        law, beyond = replace(law, log_probs=_log(probs)), 0.0
    return _labelled(law, source), beyond


def _searched_law(
    draw: ThresholdDraw, source: Source, uniform_of: Callable[[Tensor], Tensor], sums: Tensor
) -> tuple[Law, float]:
    """For a word too wide to list: how many words lie below each sum."""
    c = sums.cummax(-1).values.double()
    bits = source.bits

    def passes(values: Tensor) -> Tensor:
        return values.double() < c if draw.rule == "u < c" else values.double() <= c

    above = _words_that_pass(draw.noise, source, uniform_of, passes, c.shape)
    upto = np.ldexp(above.double().numpy(), -bits)
    probs = np.diff(np.concatenate([[0.0], upto]))
    how = f"counts of a 2^{bits} grid below the rounded sum ({draw.rule})"
    return Law.from_probs(probs, how, 2.0**-52, Guarantee.EXACT), 1.0 - float(upto[-1])


def _words_that_pass(
    noise: NoiseMap,
    source: Source,
    uniform_of: Callable[[Tensor], Tensor],
    passes: Callable[[Tensor], Tensor],
    shape: torch.Size,
) -> Tensor:
    """How many words of a source give a uniform that passes, int64 of a shape, by bisection on the word: the noise
    is monotone, and what passes are its small values."""
    bits = source.bits
    if not noise.monotone:
        raise refused(
            f"a uniform {noise.formula()} of {bits} bits that may rise and fall",
            "casts, clamps, sums and products with constants",
        )
    ends = torch.tensor([0, (1 << bits) - 1], dtype=torch.int64)
    low, high = uniform_of(source.from_words(ends)).double().tolist()
    falls = high < low

    def value_of(places: Tensor) -> Tensor:
        """The uniform at a place in ascending order."""
        words = (1 << bits) - 1 - places if falls else places
        return uniform_of(source.from_words(words))

    least = torch.full(shape, -1, dtype=torch.int64)  # the largest place known to pass
    above = torch.full(shape, 1 << bits, dtype=torch.int64)
    for _ in range(bits + 1):
        middle = (least + above) // 2
        low_enough = passes(value_of(middle.clamp(0, (1 << bits) - 1)))
        inside = (above - least) > 1
        least = torch.where(inside & low_enough, middle, least)
        above = torch.where(inside & ~low_enough, middle, above)
    return above


# -- torch.multinomial


def _library_law(draw: LibraryDraw, exact: Enumerated, progress: Progress | None) -> Law:
    """``torch.multinomial`` on CPU: an exponential race in the dtype of p, or sums searched with a 53-bit
    uniform."""
    probs = _row(draw)
    if not draw.races:
        sums = sequential_sums(probs[None])[0].double().numpy()
        return _labelled(inverse_cdf_law(sums, bits=53, rule="u <= c"), named("rand", torch.float64))
    source = named("exponential", probs.dtype, draw.probs.device.type)
    score = FORMATS[DTYPE_NAMES[probs.dtype]]
    race = RaceOf(source, _unchanged, "divide", score, name="torch.multinomial")
    weights = probs.double().numpy()
    if source.enumerable:
        return _labelled(exact.law(race, weights, progress), source)
    return _labelled(WithinBound(2.5 * 2.0**-score.precision, 2.0**-52).law(race, weights), source)


def _unchanged(values: Tensor) -> Tensor:
    return values


# -- gates


def _gated_law(draw: GatedDraw, vocab: int, exact: Enumerated, progress: Progress | None) -> Law:
    """P(open) times the law inside, and the rest on the id that stays."""
    inside = _law(draw.inside, vocab, exact, progress)
    source, prepare = source_of(draw.noise.draw)

    def uniform_of(values: Tensor) -> Tensor:
        return draw.noise(prepare(values.to(draw.rate.device))).cpu()

    passes = _opens(draw)
    if source.enumerable:
        opened = open_probability(passes, source.push(uniform_of), draw.noise.value.dtype)
    else:
        opened = _searched_gate(draw, source, uniform_of, passes)
    stays = torch.unique(draw.other)
    if stays.numel() != 1:
        raise refused("a gate whose closed side has several ids", "one row of logits, one id that stays")
    if int(stays) < 0:
        raise refused(f"a gate whose closed side is {int(stays)}", "a token id")
    other = int(tokens_of(draw.relabel, int(stays) + 1)[-1])
    if not 0 <= other < max(vocab, int(stays) + 1):
        raise refused(f"a gate whose closed side becomes {other}", "a token id")
    probs = np.zeros(max(inside.vocab, other + 1))
    probs[: inside.vocab] = opened * inside.probs
    probs[other] += 1.0 - opened
    how = f"gate that opens with probability {opened:.9g}, then {inside.how}"
    return _labelled(replace(inside, log_probs=_log(probs), how=how), source)


def _opens(draw: GatedDraw) -> Callable[[Tensor], Tensor]:
    """u rule rate, by the very comparison that the function makes."""
    rates = draw.rate.reshape(-1)
    if not bool((rates == rates[0]).all()):
        raise refused("a gate whose rate differs between draws", "one rate for a row of logits")
    rates = rates.cpu()
    rate = rates[0] if draw.rate.ndim == 0 else rates[:1]
    compare = {"<": torch.lt, "<=": torch.le, ">": torch.gt, ">=": torch.ge}[draw.rule]
    return lambda values: compare(values, rate)


def open_probability(passes: Callable[[Tensor], Tensor], uniform: Atoms, dtype: torch.dtype) -> float:
    """P(the gate opens), counted."""
    opened = passes(torch.from_numpy(uniform.values).to(dtype)).numpy()
    return float(np.ldexp(float(uniform.counts[opened].sum()), -uniform.bits))


def _searched_gate(
    draw: GatedDraw,
    source: Source,
    uniform_of: Callable[[Tensor], Tensor],
    passes: Callable[[Tensor], Tensor],
) -> float:
    """The same for a word too wide to list: the gate opens for the words on one side of one word."""
    if bool(draw.rate.isnan().any()):
        raise InputError("a gate whose rate is NaN", "a number", "check the logits")
    if draw.rule in ("<", "<="):
        upto = _words_that_pass(draw.noise, source, uniform_of, passes, torch.Size([1]))
        return float(np.ldexp(float(upto), -source.bits))
    upto = _words_that_pass(draw.noise, source, uniform_of, lambda values: ~passes(values), torch.Size([1]))
    return float(np.ldexp(float((1 << source.bits) - int(upto)), -source.bits))


# -- from the index to the token


def _relabelled(law: Law, beyond: float, relabel: Relabel, vocab: int) -> Law:
    """The law of what becomes of the index. ``beyond``: the probability of the index after the last."""
    size = law.vocab + (beyond > 0)
    ids = tokens_of(relabel, size)
    probs = np.append(law.probs, beyond) if beyond > 0 else law.probs
    out_of_range = (ids < 0) | (ids >= vocab)
    if bool((out_of_range & (probs > 0)).any()):
        at = int(ids[out_of_range & (probs > 0)][0])
        mass = float(probs[out_of_range].sum())
        raise InputError(
            f"a function that returns the id {at} of {vocab} with probability {mass:.4g}",
            f"ids 0 to {vocab - 1}",
            "clamp the index: the uniform can exceed the last sum",
        )
    if size == vocab and np.array_equal(ids, np.arange(vocab)):
        return law
    total = np.zeros(vocab)
    np.add.at(total, ids[~out_of_range], probs[~out_of_range])
    return replace(law, log_probs=_log(total))


def _log(probs: Float) -> Float:
    with np.errstate(divide="ignore"):
        return np.log(probs)
