"""What a function does when it draws, in words: source, noise map, join, decision, and how far its noise reaches."""

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

_ENDS = 1 << 17  # words at either end of a source, where every map has its extremes
GAPS = (12.0, 14.0, 15.0, 16.0, 17.0, 18.0, 20.0, 22.0, 24.0)
_SHORT = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float64: "float64"}


def explain(reading: Reading) -> dict[str, Any]:
    """One row: what the function was found to do. Values are text, but for ``ceiling`` (nats) and ``confirmed_draws``."""
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
        gate = {"gate": f"{draw.noise.formula()} {draw.rule} {draw.rate_formula}: then a token is drawn, else the id stays"}
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
    ends = _extreme_exponentials(draw, source, prepare)
    return {
        "kind": "Gumbel-max" if draw.combine == "add" else "exponential race",
        "randomness": _randomness(source, "one value for each token"),
        "noise": f"{noise} in {' > '.join(dtypes)}",
        "weights": f"{draw.weights_formula} in {_SHORT[draw.weights.dtype]}",
        "score": f"{joins[draw.combine].format(w='w', g=shown)} in {_SHORT[draw.score]}",
        "decision": _decision(draw),
        "ties": _ties(planted_tie(draw)),
        "ceiling": float(-np.log(ends.min())) if ends.size and ends.min() > 0 else math.inf,
        "tail": _tail(ends, source),
        "cast_after_the_draw": _late_cast(draw.noise.dtypes(), draw.score),
    }


def _extreme_exponentials(draw: RaceDraw, source: Source, prepare: Any) -> Float:
    """The smallest exponentials that the map makes, one for each word, ascending: what a rare token must win with. A
    Gumbel value G is E = e^-G, a power or a scale T of it is taken out, as is a shift that all tokens share."""
    bits = source.bits
    count = min(_ENDS, 1 << min(bits, 62))
    first = torch.arange(count)
    last = (1 << bits) - 1 - first if bits < 64 else -1 - first
    device = draw.weights.device

    def log_exponential(words: Tensor) -> Float:
        values = draw.noise(prepare(source.from_words(words).to(device))).double().cpu().numpy() * draw.noise_sign
        with np.errstate(divide="ignore", invalid="ignore"):
            if draw.combine == "add":
                return -values
            return -np.log(values) if draw.combine == "multiply" else np.log(values)

    ends = np.concatenate([log_exponential(first), log_exponential(last)])
    # two words whose exponentials are known, 1 and e^-1, on either side of the uniform, give shift and scale
    shift, scale = _affine(log_exponential, source)
    with np.errstate(over="ignore"):
        small = np.exp((ends - shift) / scale)
    return np.sort(small[~np.isnan(small)])[:count]


def _affine(log_exponential: Any, source: Source) -> tuple[float, float]:
    """log E as made = shift + scale log E, from the words of the quantiles P(E > 1) and P(E > 1/e)."""
    size = float(2 ** min(source.bits, 62))
    shares = np.exp(-np.exp(np.array([0.0, -1.0])))  # P(E > 1) and P(E > 1/e): where E falls as the word grows
    falling = torch.tensor([int(share * size) for share in shares])
    rising = torch.tensor([int((1 - share) * size) for share in shares])
    best: tuple[float, float] = (0.0, 1.0)
    for words in (falling, rising):
        high, low = log_exponential(words)
        scale = float(high - low)
        if scale > 0 and math.isfinite(scale):
            best = (float(high), scale)
    return best


def _tail(ends: Float, source: Source) -> str:
    """q / p of one rare token under a head that has the rest, by gap in nats: what its smallest exponentials still win."""
    if not ends.size:
        return "not known"
    ratios = tail_ratio_of_atoms(ends, 2.0**-source.bits, np.array(GAPS))
    return ", ".join(f"{gap:g}: {ratio:.3g}" for gap, ratio in zip(GAPS, ratios, strict=True))


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
    return {"first": "the first index wins", "last": "the last index wins"}.get(tie, "neither the first nor the last")


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
        how = f"argmax of p / exponential_ in {_SHORT[dtype]}" if draw.draws == 1 else "the largest p / exponential_"
        one = "each draw by itself" if draw.draws == 1 else f"{draw.draws} without replacement; the law is that of the first"
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
    count = {None: "one draw for each row", "": "n draws for each row"}.get(calling.count, f"{calling.count} draws a row")
    return f"{calling.takes} in, {count}, {'its own argument generator' if calling.generator else 'the global generator'}"
