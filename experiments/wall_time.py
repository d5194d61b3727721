"""How much faster is first-hitting than cached ancestral sampling, and what decides it? (arXiv:2409.02908, wall-clock figure:
5 times at N = 2048, 17 to 20 at N = 10,000; L = 1024, |V| = 50,257.)

Timed parts, exact counts. The decoders run on states as a run of N = 10,000 steps has them: in each of 21 blocks, spread over
the run, every sampler takes 10 ancestral steps from a state with that many masks (the last of the 10 clears them) and draws 4
first-hitting tokens, in turn. Their own clocks give seconds a network call (t1) and a draw; a run is E-NFE calls and E-draws
draws (`mdm.cost`). Ratios are taken within a block, so that the load of the machine cancels; medians over blocks, BCa.
The network is a `Denoiser` with fresh weights (torch seed 0), which do not matter for time. Its head runs at all positions in
ancestral decoding, at one in first-hitting; "equal calls" gives ancestral decoding first-hitting's cheaper call.
Absolute seconds hang on what else the machine does, and are never the same twice. On CUDA if there is one.
Twelve layers: 10 steps and 2 hits of one sampler a block.
Cost: full 6 core-minutes with four layers, 15 with twelve; quick 8 seconds, three blocks of 128 positions.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from precision_lab import SAMPLERS, figures
from precision_lab.devices import of_run
from precision_lab.mdm import decode
from precision_lab.mdm.cost import call_worth, expected_draws, expected_nfe
from precision_lab.mdm.denoiser import Denoiser, DenoiserConfig
from precision_lab.result import with_long_run
from precision_lab.statistics import cluster_bootstrap
from precision_lab.study import Study

ROOT, STEPS, N = Path(__file__).parent.parent, (1000, 2000, 5000, 10_000), 10_000
DEVICE = of_run()
SHAPE = {"layers": 4, "width": 256, "vocab": 50_257, "length": 1024, "timed": 10, "hits": 4, "of": 21}
LARGE = SHAPE | {"layers": 12, "width": 768, "hits": 2}
GRID = {
    "smoke": [SHAPE | {"layers": 1, "width": 64, "vocab": 64, "length": 16, "of": 2}],
    "quick": [SHAPE | {"length": 128, "of": 3}],
    "full": [SHAPE, LARGE],
}
NAMES = ("gumbel_max_fp64", "gumbel_max_fp32", "inverse_cdf_fp64")
KEY = ["profile", "layers", "length", "vocab", "sampler"]


def cells(profile):
    return [shape | {"block": b, "profile": str(profile)} for shape in GRID[profile] for b in range(shape["of"])]


@cache
def network(layers, width, vocab):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Denoiser(DenoiserConfig(vocab, layers, width // 64, width)).to(DEVICE).eval()


def measure(cell, rng):
    length, timed, vocab, step = (
        cell["length"],
        cell["timed"],
        cell["vocab"],
        int((cell["block"] + 0.5) / cell["of"] * N),
    )
    common = {"batch": 1, "length": length, "rng": torch.Generator(DEVICE).manual_seed(int(rng.integers(2**62)))}
    masks, at, rows = max(round(length * (1 - step / N)), timed), torch.from_numpy(rng.permutation(length)), []
    state = torch.from_numpy(rng.integers(0, vocab, (1, length)))
    few, state[0, at[:masks]] = state.clone(), vocab
    few[0, at[: cell["hits"]]] = vocab
    model, r, turn = network(cell["layers"], cell["width"], vocab), np.full(timed, 1 / (N - step)), cell["block"] % 3
    r[-1] = 1.0  # the last step, as everywhere, takes what is left
    every = NAMES[turn:] + NAMES[:turn]  # who begins changes from block to block
    for name in every if cell["layers"] < LARGE["layers"] else NAMES[:1]:
        done = {
            "ancestral": decode.ancestral(model, SAMPLERS[name], steps=timed, unmask=r, given=state, **common),
            "first_hitting": decode.first_hitting(model, SAMPLERS[name], given=few, **common),
        }
        rows += [
            cell | {"sampler": name, "decoder": k, "masks": masks, "nfe": d.nfe, "draws": d.draws}
            | {"network_seconds": d.seconds["network"], "categorical_seconds": d.seconds["categorical"]}
            for k, d in done.items()
        ]  # fmt: skip
    return rows


def blocks(frame):
    """A row a block and sampler, the committed long run's too: seconds a network call and a draw, by decoder."""
    part = with_long_run(frame, ROOT, "wall_time", [*KEY, "block", "decoder"])
    part = part.assign(call=part.network_seconds / part.nfe, draw=part.categorical_seconds / part.draws)
    wide = part.pivot(index=[*KEY, "timed", "block", "masks"], columns="decoder", values=["call", "draw"])
    wide.columns = [f"{what}_{decoder}" for what, decoder in wide.columns]
    return wide.reset_index()


def median(x):
    x = np.sort(x)  # np.median takes five times as long
    return float(x[(len(x) - 1) // 2] + x[len(x) // 2]) / 2


def summary(frame):
    """Medians over blocks with their intervals: t1 (ms a call), t2 (ns a number), whole runs and ratios, by N."""
    rows = []
    for key, b in blocks(frame).groupby(KEY):
        length, vocab = key[2:4]
        call, draw = b.call_first_hitting.to_numpy(), b.draw_ancestral.to_numpy()
        fast = length * (call + b.draw_first_hitting.to_numpy())
        found = {("t1 ancestral, ms", 0): b.call_ancestral.to_numpy() * 1e3, ("t1 first-hitting, ms", 0): call * 1e3,
                 ("t2, ns", 0): draw / vocab * 1e9, ("draws a call", 0): call / draw, ("first-hitting, s", 0): fast}  # fmt: skip
        for n in STEPS:
            calls, draws = expected_nfe(n, length), expected_draws(n, length)
            slow, equal = calls * b.call_ancestral.to_numpy() + draws * draw, calls * call + draws * draw
            found |= {("ancestral, s", n): slow, ("ratio", n): slow / fast, ("ratio, equal calls", n): equal / fast}
        for (quantity, n), x in found.items():
            e = cluster_bootstrap(lambda i, x=x: median(x[i]), len(x), rng=np.random.default_rng(0))
            row = [*key, quantity, n, e.value, e.low, e.high, len(b), int(b.timed.sum())]
            rows.append(
                dict(zip([*KEY, "quantity", "steps", "value", "low", "high", "blocks", "timed"], row, strict=True))
            )
    return pd.DataFrame(rows)


def draw(frame):
    table, every = summary(frame), blocks(frame)
    figure, (ratio, worth) = figures.canvas(2, width=4.8, height=3.7)
    table = table[(table.profile == "full") | ~(table.profile == "full").any()]
    for (layers, sampler), r in table[table.quantity == "ratio"].groupby(["layers", "sampler"]):
        look = {"index": NAMES.index(sampler), "line": ":" if layers == LARGE["layers"] else "-"}
        figures.interval(ratio, r.steps, r.value, r.low, r.high, label=f"{sampler}, {layers} layers", **look)
    for (profile, layers, sampler), b in every.groupby(["profile", "layers", "sampler"]):
        look = figures.series(NAMES.index(sampler)) | ({} if profile == "full" else {"mfc": "white"})
        size = 8 if layers == LARGE["layers"] else 4.5
        worth.plot(b.masks / b.length, b.call_first_hitting / b.draw_ancestral, ls="none", ms=size, **look)
    ratio.plot(
        [2048, N, N], [5, 17, 20], ls="none", marker="*", color="black", ms=8, zorder=5, label="the paper, on a GPU"
    )
    ratio.axhline(20, color="black", ls=":", lw=0.8)
    ratio.set(xscale="log", yscale="log", xlabel="steps N", ylabel="wall time, ancestral / first-hitting")
    ratio.set_xticks(STEPS, [f"{n:,}" for n in STEPS])
    ratio.xaxis.set_minor_formatter("")
    ratio.set_title(f"L = {table.length.max()}, |V| = {table.vocab.max():,}, one sequence")
    worth.axhline(call_worth(20, N, 1024), color="black", ls=":", lw=0.8)
    worth.set(xlabel="share of positions masked", ylabel="draws that a network call is worth", yscale="log")
    worth.set_title(f"each block; large: 12 layers; open: afresh, L = 128\ndotted: 20 times at N = {N:,}, L = 1024")
    figure.legend(*ratio.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def verdict(frame):
    text = [f"Device {DEVICE}; medians over blocks, 95 % (BCa; three blocks are only an indication)"]
    for (profile, layers, length, _, sampler), part in summary(frame).groupby(KEY):
        at = {(r.quantity, r.steps): r for r in part.itertuples()}
        show = lambda q, n=0, at=at: f"{at[q, n].value:.3g} [{at[q, n].low:.3g}, {at[q, n].high:.3g}]"  # noqa: E731
        r = at["ratio", N]
        said = "20 times or more" if r.low >= 20 else "less than 20 times" if r.high < 20 else "20 times not decided"
        text.append(
            f"{profile}, {layers} layers, L = {length}, {sampler}: N = {N:,} {show('ancestral, s', N)} s against "
            f"{show('first-hitting, s')} s, {show('ratio', N)} times: {said} ({show('ratio, equal calls', N)} with equal calls; "
            f"N = 2000 {show('ratio', 2000)}); {r.timed} steps in {r.blocks} blocks; t1 first-hitting "
            f"{show('t1 first-hitting, ms')} ms, ancestral {show('t1 ancestral, ms')} ms, t2 {show('t2, ns')} ns: a call worth "
            f"{show('draws a call')} draws"
        )
    worth = " and ".join(f"{call_worth(ratio, N, 1024):.0f}" for ratio in (17, 20))
    return ". ".join(text) + f". With the same t1 in both, 17 and 20 times follow where a call is worth {worth} draws."


QUESTION = "How much faster is first-hitting than cached ancestral sampling, and what decides it?"
STUDY = Study(
    "wall_time",
    QUESTION,
    cells,
    measure,
    draw,
    verdict,
    summary=summary,
    clocked=("network_seconds", "categorical_seconds"),
)
