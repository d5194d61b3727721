"""How much faster is first-hitting than cached ancestral sampling, and what decides it? (arXiv:2409.02908,
wall-clock figure: 5 times at N = 2048, 17 to 20 at N = 10,000; L = 1024, |V| = 50,257.)

Timed parts, exact counts. The decoders run on states as a run of N = 10,000 steps has them: in each of 21
blocks, spread over the run, every sampler takes 10 ancestral steps from a state with that many masks (the
last of the 10 clears them) and draws 4 first-hitting tokens, in turn. Their own clocks give seconds a
network call (t1) and a draw; a run is E-NFE calls and E-draws draws (`mdm.cost`). Ratios are taken within a
block, so that the load of the machine cancels; medians over blocks, BCa. The network is a `Denoiser` with
fresh weights (torch seed 0), which do not matter for time. Its head runs at all positions in ancestral
decoding, at one in first-hitting; "equal calls" gives ancestral decoding first-hitting's cheaper call.
Absolute seconds hang on what else the machine does, and are never the same twice. On CUDA if that is asked
for. Twelve layers: 10 steps and 2 hits of one sampler a block.
Cost: full 6 core-minutes with four layers, 15 with twelve; quick 8 seconds, three blocks of 128
positions.
"""

from functools import cache

import numpy as np
import pandas as pd
import torch

from precision_lab import SAMPLERS, figures
from precision_lab.devices import of_run
from precision_lab.finding import Claim, Finding
from precision_lab.mdm import decode
from precision_lab.mdm.cost import call_worth, expected_draws, expected_nfe
from precision_lab.mdm.denoiser import Denoiser, DenoiserConfig
from precision_lab.statistics import cluster_bootstrap
from precision_lab.study import Analysis, Study

DEVICE = of_run()
STEPS = (1000, 2000, 5000, 10_000)
N = STEPS[-1]
SAMPLED = ("gumbel_max_fp64", "gumbel_max_fp32", "inverse_cdf_fp64")

# ---------------------------------------------------------------- grid

SHAPE = {"layers": 4, "width": 256, "vocab": 50_257, "length": 1024, "timed": 10, "hits": 4, "of": 21}
LARGE = SHAPE | {"layers": 12, "width": 768, "hits": 2}
GRID = {  # timed: ancestral steps of a block; hits: first-hitting tokens; of: blocks
    "smoke": [SHAPE | {"layers": 1, "width": 64, "vocab": 64, "length": 16, "of": 2}],
    "quick": [SHAPE | {"length": 128, "of": 3}],
    "full": [SHAPE, LARGE],
}


def cells(profile):
    return [
        shape | {"block": block, "profile": str(profile)}
        for shape in GRID[profile]
        for block in range(shape["of"])
    ]


# ------------------------------------------------------------- measure


def measure(cell, rng):
    timed, step = cell["timed"], step_of(cell)
    generator = torch.Generator(DEVICE).manual_seed(int(rng.integers(2**62)))
    model = network(cell["layers"], cell["width"], cell["vocab"])
    masks = max(round(cell["length"] * (1 - step / N)), timed)
    places = torch.from_numpy(rng.permutation(cell["length"]))
    tokens = torch.from_numpy(rng.integers(0, cell["vocab"], (1, cell["length"])))
    common = {"batch": 1, "length": cell["length"], "rng": generator}
    ancestral = (
        common
        | {
            "steps": timed,
            "unmask": np.append(np.full(timed - 1, 1 / (N - step)), 1.0),  # the last step takes what is left
            "given": masked(tokens, places[:masks], cell["vocab"]),
        }
    )
    first_hitting = common | {"given": masked(tokens, places[: cell["hits"]], cell["vocab"])}
    rows = []
    for name in in_turn(cell):
        done = {
            "ancestral": decode.ancestral(model, SAMPLERS[name], **ancestral),
            "first_hitting": decode.first_hitting(model, SAMPLERS[name], **first_hitting),
        }
        for decoder, run in done.items():
            row = {"sampler": name, "decoder": decoder, "masks": masks, "nfe": run.nfe, "draws": run.draws}
            clocks = {f"{part}_seconds": run.seconds[part] for part in ("network", "categorical")}
            rows.append(cell | row | clocks)
    return rows


def step_of(cell):
    """The step in the middle of a block's share of the run."""
    return int((cell["block"] + 0.5) / cell["of"] * N)


def masked(tokens, places, mask):
    """A copy of a state, (1, length), with masks at ``places``."""
    state = tokens.clone()
    state[0, places] = mask
    return state


def in_turn(cell):
    """Who begins changes from block to block; a large network takes one sampler."""
    if cell["layers"] >= LARGE["layers"]:
        return SAMPLED[:1]
    turn = cell["block"] % len(SAMPLED)
    return SAMPLED[turn:] + SAMPLED[:turn]


@cache
def network(layers, width, vocab):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Denoiser(DenoiserConfig(vocab, layers, width // 64, width)).to(DEVICE).eval()


# ------------------------------------------------------------- analyse

GROUP = ["profile", "layers", "length", "vocab", "sampler"]
PAPER = 20  # times, at N = 10,000, its largest
CLAIMED = 18.5  # times, -/+ CLAIMED_MARGIN: 17 to 20
CLAIMED_MARGIN = 1.5
PAPER_LENGTH = 1024


def analyse(rows):
    every = blocks(rows)
    table = summary(every)
    findings, notes = [], []
    for (profile, layers, length, _, sampler), part in table.groupby(GROUP):
        at = {(row.quantity, row.steps): row for row in part.itertuples()}
        name = f"{profile}, {layers} layers, L = {length}, {sampler}"
        times = at["ratio", N].estimate
        claim = Finding(f"{name}, times at N = {N:,}", times, CLAIMED, Claim.EQUAL, CLAIMED_MARGIN, digits=1)
        findings.append(claim)
        notes.append(f"{name}: {details(at)}")
    worth = " and ".join(f"{call_worth(ratio, N, PAPER_LENGTH):.0f}" for ratio in (17, PAPER))
    notes.append(f"with the same t1 in both, 17 and 20 times follow where a call is worth {worth} draws")
    head = f"Device {DEVICE}; medians over blocks, 95 % (BCa; three blocks are only an indication)"
    return Analysis(findings, notes, head, table.drop(columns="estimate"), details=every)


def blocks(rows):
    """A row a block and sampler: seconds a network call and a draw, by decoder."""
    rows = rows.assign(call=rows.network_seconds / rows.nfe, draw=rows.categorical_seconds / rows.draws)
    index = [*GROUP, "timed", "block", "masks"]
    wide = rows.pivot(index=index, columns="decoder", values=["call", "draw"])
    wide.columns = [f"{what}_{decoder}" for what, decoder in wide.columns]
    return wide.reset_index()


def summary(every):
    """Medians over blocks with their intervals: t1 (ms a call), t2 (ns a number), whole runs and ratios,
    by N."""
    rows = []
    for key, part in every.groupby(GROUP):
        for (quantity, steps), values in quantities(part).items():
            e = cluster_bootstrap(MedianOf(values), len(values), rng=np.random.default_rng(0))
            row = {"quantity": quantity, "steps": steps, "value": e.value, "low": e.low, "high": e.high}
            size = {"blocks": len(part), "timed": int(part.timed.sum()), "estimate": e}
            rows.append(dict(zip(GROUP, key, strict=True)) | row | size)
    return pd.DataFrame(rows)


def quantities(part):
    """(quantity, N; 0 where it does not depend on N) -> (blocks,)."""
    length, vocab = part.length.iloc[0], part.vocab.iloc[0]
    call = part.call_first_hitting.to_numpy()
    slow_call = part.call_ancestral.to_numpy()
    draw = part.draw_ancestral.to_numpy()
    first_hitting = length * (call + part.draw_first_hitting.to_numpy())
    found = {
        ("t1 ancestral, ms", 0): slow_call * 1e3,
        ("t1 first-hitting, ms", 0): call * 1e3,
        ("t2, ns", 0): draw / vocab * 1e9,
        ("draws a call", 0): call / draw,
        ("first-hitting, s", 0): first_hitting,
    }
    for n in STEPS:
        calls, draws = expected_nfe(n, length), expected_draws(n, length)
        ancestral = calls * slow_call + draws * draw
        found["ancestral, s", n] = ancestral
        found["ratio", n] = ancestral / first_hitting
        found["ratio, equal calls", n] = (calls * call + draws * draw) / first_hitting
    return found


class MedianOf:
    """Statistic of resampled blocks; np.median takes five times as long."""

    def __init__(self, values):
        self.values = values

    def __call__(self, at):
        x = np.sort(self.values[at])
        return float(x[(len(x) - 1) // 2] + x[len(x) // 2]) / 2


def details(at):
    def shown(quantity, steps=0):
        row = at[quantity, steps]
        return f"{row.value:.3g} [{row.low:.3g}, {row.high:.3g}]"

    row = at["ratio", N]
    return (
        f"N = {N:,} {shown('ancestral, s', N)} s against {shown('first-hitting, s')} s "
        f"({shown('ratio, equal calls', N)} times with equal calls; N = 2000 {shown('ratio', 2000)} times), "
        f"{row.timed} steps in {row.blocks} blocks, t1 first-hitting {shown('t1 first-hitting, ms')} ms, "
        f"ancestral {shown('t1 ancestral, ms')} ms, t2 {shown('t2, ns')} ns: "
        f"a call worth {shown('draws a call')} draws"
    )


# -------------------------------------------------------------- figure

LOOKS = {name: figures.precision(name) for name in SAMPLED[:2]}
LOOKS[SAMPLED[2]] = figures.precision("float64") | {"marker": "v", "color": figures.COLOURS[7]}
PAPER_RATIOS = ([2048, N, N], [5, 17, 20])  # steps, times


def figure(rows, analysis):
    table = analysis.summary
    table = table[(table.profile == "full") | ~(table.profile == "full").any()]
    drawn, (ratio, worth) = figures.canvas(2, width=4.8, height=3.7)
    ratios(ratio, table)
    call_worths(worth, analysis.details)
    drawn.legend(*ratio.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return drawn


def ratios(axes, table):
    for (layers, sampler), part in table[table.quantity == "ratio"].groupby(["layers", "sampler"]):
        line = ":" if layers == LARGE["layers"] else "-"
        label = f"{sampler}, {layers} layers"
        figures.sweep(axes, part, "steps", label=label, look=LOOKS[sampler], line=line)
    star = {"ls": "none", "marker": "*", "color": "black", "ms": 8, "zorder": 5}
    axes.plot(*PAPER_RATIOS, label="the paper, on a GPU", **star)
    axes.axhline(PAPER, color="black", ls=":", lw=0.8)
    axes.set(xscale="log", yscale="log", xlabel="steps N", ylabel="wall time, ancestral / first-hitting")
    axes.set_xticks(STEPS, [f"{n:,}" for n in STEPS])
    axes.xaxis.set_minor_formatter("")
    axes.set_title(f"L = {table.length.max()}, |V| = {table.vocab.max():,}, one sequence")


def call_worths(axes, every):
    for (profile, layers, sampler), part in every.groupby(["profile", "layers", "sampler"]):
        face = {} if profile == "full" else {"mfc": "white"}
        size = 8 if layers == LARGE["layers"] else 4.5
        worth = part.call_first_hitting / part.draw_ancestral
        axes.plot(part.masks / part.length, worth, ls="none", ms=size, **LOOKS[sampler] | face)
    axes.axhline(call_worth(PAPER, N, PAPER_LENGTH), color="black", ls=":", lw=0.8)
    axes.set(xlabel="share of positions masked", ylabel="draws that a network call is worth", yscale="log")
    axes.set_title(
        f"each block; large: 12 layers; open: afresh, L = 128\ndotted: 20 times at N = {N:,}, L = 1024"
    )


STUDY = Study(
    name="wall_time",
    question="How much faster is first-hitting than cached ancestral sampling, and what decides it?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    keys=(*GROUP, "block", "decoder"),
    clocked=("network_seconds", "categorical_seconds"),
)
