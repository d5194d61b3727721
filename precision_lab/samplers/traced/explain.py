"""What a function does when it draws, in words: source, noise map, join, decision, and how far its noise
reaches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...laws.lattice import tail_ratio_of_atoms
from ...types import Float
from ...uniforms import Source
from .anatomy import Draw, GatedDraw, LibraryDraw, RaceDraw, ThresholdDraw
from .law import Reading, planted_tie
from .source import named, source_of

_ENDS = 1 << 17  # words at either end of a source of 24 bits, where every map has its extremes
_STEPS = np.array([-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0])  # nats around the ceiling at which the tail is told
_SHORT = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}


def explain(reading: Reading) -> dict[str, Any]:
    """One row: what the function was found to do. Values are text, but for ``ceiling`` (nats) and
    ``confirmed_draws``."""
    confirmed = reading.confirmed
    row: dict[str, Any] = {"function": reading.calling.name}
    row |= _of_draw(reading.draw)
    row["shared_noise"] = _shared(confirmed.shared)
    row["calling"] = _calling(reading)
    row["confirmed_draws"] = confirmed.draws
    row["confirmed_shapes"] = ", ".join(f"{n} x {rows} x {vocab}" for n, rows, vocab in confirmed.shapes)
    if confirmed.skipped:
        row["shapes_not_taken"] = "; ".join(confirmed.skipped)
    return row


def _of_draw(draw: Draw) -> dict[str, Any]:
    if isinstance(draw, GatedDraw):
        gate = {
            "gate": f"{draw.noise.formula()} {draw.rule} {draw.rate_formula}: then a token is drawn, else the id stays"
        }
        return gate | _of_draw(draw.inside)
    if isinstance(draw, RaceDraw):
        return _of_race(draw)
    return _of_threshold(draw) if isinstance(draw, ThresholdDraw) else _of_library(draw)


def _of_race(draw: RaceDraw) -> dict[str, Any]:
    source, prepare = source_of(draw.noise.draw)
    dtypes = [_SHORT[dtype] for dtype in draw.noise.dtypes()]
    joins = {"add": "{w} + {g}", "divide": "{w} / {g}", "multiply": "{w} * {g}", "ratio": "-({g} / {w})"}
    noise = draw.noise.formula()
    shown = f"-({noise})" if draw.noise_sign < 0 else noise
    values, masses = _smallest_exponentials(draw, source, prepare)
    ceiling = float(-np.log(values[0])) if values.size and values[0] > 0 else math.inf
    return {
        "kind": "Gumbel-max" if draw.combine == "add" else "exponential race",
        "randomness": _randomness(source, "one value for each token"),
        "noise": f"{noise} in {' > '.join(dtypes)}",
        "weights": f"{draw.weights_formula} in {_SHORT[draw.weights.dtype]}",
        "score": f"{joins[draw.combine].format(w='w', g=shown)} in {_SHORT[draw.score]}",
        "decision": _decision(draw),
        "ties": _ties(planted_tie(draw)),
        "ceiling": ceiling,
        "tail": _tail(values, masses, ceiling, source),
        "cast_after_the_draw": _late_cast(draw.noise.dtypes(), draw.score),
    }


def _smallest_exponentials(draw: RaceDraw, source: Source, prepare: Any) -> tuple[Float, Float]:
    """The smallest exponentials that the map makes, ascending, and their probabilities: what a rare token
    must win with. A Gumbel value G is E = e^-G; a power or scale T of it is taken out, as is a shift that
    all tokens share."""
    device = draw.weights.device

    def log_exponential(values: Tensor) -> Float:
        noise = draw.noise(prepare(values.to(device))).double().cpu().numpy() * draw.noise_sign
        with np.errstate(divide="ignore", invalid="ignore"):
            if draw.combine == "add":
                return -noise
            return -np.log(noise) if draw.combine == "multiply" else np.log(noise)

    if source.enumerable and source.format.precision <= 11:
        atoms = source.atoms()
        drawn, masses = torch.from_numpy(atoms.values).to(source.dtype), atoms.probs
    else:
        count = min(max(_ENDS, 1 << max(min(source.bits, 32) - 10, 0)), 1 << min(source.bits, 62))
        ends = torch.arange(count)
        top = (1 << source.bits) - 1 - ends if source.bits < 64 else -1 - ends
        drawn = source.from_words(torch.cat([ends, top]))
        masses = np.full(len(drawn), 2.0**-source.bits)
    shift, scale = _affine(log_exponential, source)
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.exp((log_exponential(drawn) - shift) / scale)
    kept = ~np.isnan(found)
    order = np.argsort(found[kept], kind="stable")[: max(len(found) // 2, 1)]
    return found[kept][order], masses[kept][order]


def _affine(log_exponential: Any, source: Source) -> tuple[float, float]:
    """log E as made = shift + scale log E, from the words at the quantiles where E is 1 and 1/e."""
    size = float(2 ** min(source.bits, 62))
    shares = np.exp(-np.exp(np.array([0.0, -1.0])))  # P(E > 1) and P(E > 1/e)
    for falling in (True, False):
        words = torch.tensor([int((share if falling else 1 - share) * size) for share in shares])
        high, low = log_exponential(source.from_words(words))
        scale = float(high - low)
        if scale > 0.1 and math.isfinite(scale):
            # two words of a coarse grid give the scale to a few per cent only: a plain map is believed to
            # be one
            plain = abs(scale - 1) < 0.05 and abs(high) < 0.05
            return (0.0, 1.0) if plain else (float(high), scale)
    return 0.0, 1.0


def _tail(values: Float, masses: Float, ceiling: float, source: Source) -> str:
    """q / p of one rare token under a head that has the rest, by gap in nats around the ceiling."""
    if source.bits > 32 and source.format.precision > 11:
        return f"right to some {source.bits * math.log(2) - 4:.0f} nats under the head"
    if not math.isfinite(ceiling):
        ceiling = source.bits * math.log(2)
    gaps = np.round(ceiling) + _STEPS
    ratios = tail_ratio_of_atoms(values, masses, gaps)
    return ", ".join(f"{gap:g} nats: {ratio:.3g}" for gap, ratio in zip(gaps, ratios, strict=True))


def _decision(draw: RaceDraw) -> str:
    name = draw.decision.name
    if name in ("topk", "sort") and draw.count > 1:
        text = f"{name}, {draw.count} without replacement (Gumbel-top-k); the law is that of the first"
    else:
        text = name
    if draw.blurred:
        text += f" after {', '.join(step.name.removeprefix('_') for step in reversed(draw.blurred))}"
    return text + (", a row with an infinite score gives index 0" if draw.nan_rows else "")


def _ties(tie: str) -> str:
    return {"first": "the first index wins", "last": "the last index wins"}.get(
        tie, "neither the first nor the last"
    )


def _late_cast(dtypes: list[torch.dtype], score: torch.dtype) -> str:
    """A wider dtype after the draw mends the rounding of the sum and not the grid of the uniform."""
    order = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
    widest = max([*dtypes, score], key=order.index)
    if order.index(widest) <= order.index(dtypes[0]):
        return "none"
    return (
        f"to {_SHORT[widest]} after a draw in {_SHORT[dtypes[0]]}: sums round more finely, but the noise has no more values "
        "and the same ceiling"
    )


def _of_threshold(draw: ThresholdDraw) -> dict[str, Any]:
    source, _ = source_of(draw.noise.draw)
    beyond = "index 0" if draw.beyond == "first" else "one more than the last index"
    return {
        "kind": "cumulative sum",
        "randomness": _randomness(source, "one value for each draw"),
        "noise": f"{draw.noise.formula()} in {' > '.join(_SHORT[dtype] for dtype in draw.noise.dtypes())}",
        "weights": f"c = {draw.weights_formula} in {_SHORT[draw.sums.dtype]}",
        "score": "none",
        "decision": f"{draw.decision.name}: the first index with {draw.rule}; beyond the last sum {beyond}",
        "ties": "none",
        "ceiling": math.nan,
        "tail": f"probabilities are multiples of 2^-{source.bits}; sums near 1 are rounded to {_spacing(draw.sums):.3g}",
        "cast_after_the_draw": _late_cast(draw.noise.dtypes(), draw.noise.value.dtype),
    }


def _spacing(sums: Tensor) -> float:
    return float(torch.finfo(sums.dtype).eps) / 2


def _of_library(draw: LibraryDraw) -> dict[str, Any]:
    dtype, device = draw.probs.dtype, draw.probs.device.type
    if draw.races:
        source = named("exponential", dtype, device)
        how = (
            f"argmax of p / exponential_ in {_SHORT[dtype]}"
            if draw.draws == 1
            else "the largest p / exponential_"
        )
        one = (
            "each draw by itself"
            if draw.draws == 1
            else f"{draw.draws} without replacement; the law is that of the first"
        )
        each = "one value for each token"
    else:
        source = named("rand", torch.float64)
        wide = "float64" if dtype is torch.float64 else "float32"
        how = f"sequential sums in {wide}, divided by the last, searched with a 53-bit uniform"
        one = f"{draw.draws} with replacement; a call for one draw is an exponential race, with another law"
        each = "one value for each draw"
    return {
        "kind": f"torch.multinomial ({'exponential race' if draw.races else 'cumulative sum'})",
        "randomness": _randomness(source, each),
        "noise": "inside the library",
        "weights": f"p = {draw.weights_formula} in {_SHORT[dtype]}",
        "score": how,
        "decision": one,
        "ties": "the first index wins" if draw.races else "none",
        "ceiling": math.inf if draw.races else math.nan,
        "tail": "",
        "cast_after_the_draw": "none",
    }


def _randomness(source: Source, each: str) -> str:
    stands = "confirmed here" if source.emulated is None else source.emulated
    return f"{source.name}, {source.bits} bits, {each}; {stands}"


def _shared(axes: tuple[str, ...]) -> str:
    if not axes:
        return "none"
    return f"one random value serves several {' and '.join(axes)}: the law of one draw is right, draws depend on each other"


def _calling(reading: Reading) -> str:
    calling = reading.calling
    count = {None: "one draw for each row", "": "n draws for each row"}.get(
        calling.count, f"{calling.count} draws a row"
    )
    return f"{calling.takes} in, {count}, {'its own argument generator' if calling.generator else 'the global generator'}"
