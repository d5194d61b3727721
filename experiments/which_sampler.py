"""Which sampler should I use? What each draws wrongly in four uses, beside what it costs there.

Uses, on logits recorded from real models (SmolLM2-135M, 49,152 tokens; models/mdm, 8,192): a next token at
temperature 1, and at 0.7 with top-p 0.95; a token of first-hitting sampling; an ancestral step of N steps
at a place of a half-masked text. Total variation is from the laws, no draws: of a step as a share of the
probability r that a token comes, so that uses compare. Seconds are of a batch of equal rows, the samplers
in turn, medians over rounds; of a step the rows with the mask mixed in are made beforehand, which favours
all but ``unmask_step``: it takes mu, r and 64 masked places, and looks at those that come. "whole run":
``decode.ancestral`` without a sampler beside ``decode.first_hitting`` with the same sampler, one sequence
of a network of fresh weights (4 layers, width 256, 50,257 tokens), in turn. One core; ratios are within a
cell. Cost: quick two core-minutes, full 40 core-minutes.
"""

import time
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from precision_lab import SAMPLERS, figures, target_law
from precision_lab.faithful import unmask_step
from precision_lab.mdm import decode
from precision_lab.mdm.denoiser import Denoiser, DenoiserConfig
from precision_lab.samplers import with_tolerance
from precision_lab.statistics import total_variation
from precision_lab.study import Analysis, Study
from precision_lab.targets import load_capture
from precision_lab.targets.synthetic import mdm_step

DATA = Path(__file__).parent.parent / "models"
OURS = "faithful_masses"
STEP = "unmask_step"
RIVAL = "gumbel_max_fp32"
NAMES = (OURS, RIVAL, "gumbel_max_fp64", "torch_multinomial_fp32", "inverse_cdf_fp32", "inverse_cdf_fp64")
PRECISION = {
    OURS: "integers",
    RIVAL: "float32",
    "gumbel_max_fp64": "float64",
    "torch_multinomial_fp32": "float32",
    "inverse_cdf_fp32": "float32",
    "inverse_cdf_fp64": "float64",
    STEP: "integers",
}
LEAST = 1e-17  # where a total variation of less is drawn
ENOUGH = 1e-6  # total variation, as a share of what comes: a chi-square test sees it after about 1e12 draws
# ---------------------------------------------------------------- grid

TOKENS = [  # model, use, temperature, top-p, steps
    ("smollm2", "next token, T = 1", 1.0, 1.0, 0),
    ("smollm2", "next token, T = 0.7, top-p 0.95", 0.7, 0.95, 0),
    ("mdm", "first-hitting token", 1.0, 1.0, 0),
]
GRID = {  # profile -> rows of each use, steps N, rounds, lengths and blocks of whole runs
    "smoke": (1, [64], 1, [4], 1),
    "quick": (2, [64, 1024, 50_000], 3, [128], 3),
    "full": (4, [64, 1024, 16_384, 50_000], 9, [128, 1024], 3),
}


def cells(profile):
    rows, steps, rounds, lengths, blocks = GRID[profile]
    common = {"profile": str(profile), "rounds": rounds}
    seen = TOKENS[2:] if str(profile) == "smoke" else TOKENS
    seen = seen + [("mdm", f"ancestral step, N = {n:,}", 1.0, 1.0, n) for n in steps]
    uses = [dict(zip(("model", "use", "temperature", "top_p", "steps"), use, strict=True)) for use in seen]
    found = [use | {"row": row} | common for use in uses for row in range(rows)]
    runs = [{"use": f"whole run, L = {l}", "length": l, "steps": 10_000} for l in lengths]
    return found + [run | {"block": block} | common for run in runs for block in range(blocks)]


# ------------------------------------------------------------- measure


@cache
def capture(model):
    return load_capture(DATA / model / "logits.safetensors")


def processed(cell):
    """The row as a sampler gets it: over the temperature, all below the top-p nucleus at -inf; float32."""
    logits = (
        torch.from_numpy(capture(cell["model"]).logits[cell["row"]].astype(np.float64)) / cell["temperature"]
    )
    mass, order = torch.softmax(logits, 0).sort(descending=True)
    cut = order[mass.cumsum(0) - mass >= cell["top_p"]]
    return logits.index_fill(0, cut, -torch.inf).float()


def measure(cell, rng):
    if "length" in cell:
        return whole_run(cell, rng)
    row, seed = processed(cell), int(rng.integers(2**62))
    mu = target_law(row.double().numpy())
    r = 2 / cell["steps"] if cell["steps"] else 1.0  # half of the steps are left
    at, batch = row.double().numpy(), 64 if cell["model"] == "mdm" else 16
    if cell["steps"]:
        at = mdm_step(mu.log_probs, r)
    target, rows = target_law(at), torch.from_numpy(at).expand(batch, -1).contiguous()
    rows = rows if cell["steps"] else rows.float()
    ways = {name: lambda g, name=name: SAMPLERS[name].draw(rows, 1, rng=g) for name in NAMES}
    found = {}
    for name in NAMES:
        law = with_tolerance(SAMPLERS[name], tolerance=1e-7 * r, relative=np.inf).law(at)
        comes = law.probs[:-1].sum() / target.probs[:-1].sum() if cell["steps"] else 1.0
        share = total_variation(law, target) / r
        found[name] = {"total_variation": share, "comes": comes, "law_error": law.error / r}
    if cell["steps"]:
        places = row.expand(batch, -1).contiguous()
        ways[STEP] = lambda g: [unmask_step(places, r, generator=g) for _ in range(20)]
        law = SAMPLERS[OURS].law(row)
        found[STEP] = {"total_variation": total_variation(law, mu), "comes": 1.0, "law_error": law.error}
    taken = timed(ways, cell["rounds"], seed)
    taken[STEP] = taken.get(STEP, 0.0) / 20
    return [cell | {"sampler": name, "seconds": taken[name] / batch} | found[name] for name in found]


def timed(ways, rounds, seed):
    """Seconds of each way, the median over rounds that visit them in turn; the first round warms up."""
    seconds = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            generator, started = torch.Generator().manual_seed(seed + turn), time.perf_counter()
            way(generator)
            seconds[name].append(time.perf_counter() - started)
    return {name: float(np.median(taken[1:])) for name, taken in seconds.items()}


@cache
def network(vocab):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Denoiser(DenoiserConfig(vocab, 4, 4, 256)).eval()


def whole_run(cell, rng):
    model, size = network(50_257), {"batch": 1, "length": cell["length"]}
    seed, rows = int(rng.integers(2**62)), []
    decode.ancestral(model, steps=2, rng=torch.Generator().manual_seed(0), **size)  # compile
    for name in (STEP, OURS) if cell["block"] % 2 else (OURS, STEP):
        generator, started = torch.Generator().manual_seed(seed), time.perf_counter()
        if name == STEP:
            done = decode.ancestral(model, steps=cell["steps"], rng=generator, **size)
        else:
            done = decode.first_hitting(model, SAMPLERS[OURS], rng=generator, **size)
        rows.append(cell | {"sampler": name, "seconds": time.perf_counter() - started, "nfe": done.nfe})
    return rows


# ------------------------------------------------------------- analyse


def summary(frame):
    """A row a use and sampler: total variation (the largest of the rows), and time against the rival in the
    same cell."""
    rows, key = [], ["profile", "use", "row", "block"]
    frame = frame.assign(**{k: frame[k].fillna(-1) if k in frame else -1 for k in ("row", "block")})
    whole = frame.use.str.startswith("whole")
    rival = frame[frame.sampler == np.where(whole, OURS, RIVAL)].set_index(key).seconds
    rivals = rival.loc[pd.MultiIndex.from_frame(frame[key])].to_numpy()
    frame = frame.assign(ratio=frame.seconds.to_numpy() / rivals)
    for (profile, use, sampler), part in frame.groupby(["profile", "use", "sampler"], sort=False):
        found = {
            "profile": profile,
            "use": use,
            "sampler": sampler,
            "against": OURS if "whole" in use else RIVAL,
        }
        found |= {"ratio": part.ratio.median(), "ratio_low": part.ratio.min(), "ratio_high": part.ratio.max()}
        found |= {"microseconds": part.seconds.median() * 1e6, "total_variation": part.total_variation.max()}
        rows.append(
            found | {"law_error": part.law_error.max(), "comes": part.comes.median(), "cells": len(part)}
        )
    return pd.DataFrame(rows)


def analyse(rows):
    table = summary(rows)
    notes = []
    for use, part in table.groupby("use", sort=False):
        if use.startswith("whole"):
            r = part[part.sampler == STEP].iloc[0]
            notes.append(
                f"{use}, N = 10,000: ancestral takes {r.ratio:.2f} [{r.ratio_low:.2f}, {r.ratio_high:.2f}] "
                "of first-hitting"
            )
            continue
        best = part[part.total_variation <= ENOUGH].sort_values("ratio").iloc[0]
        notes.append(
            f"{use}: {best.sampler}, {best.ratio:.3g} times, total variation {best.total_variation:.2g}"
        )
    head = (
        f"The cheapest of those within {ENOUGH:g} of total variation, times float32 Gumbel-max's time in the "
        "same cell"
    )
    return Analysis(notes=notes, head=head, summary=table)


# -------------------------------------------------------------- figure


def figure(rows, analysis):
    """Bars: time, the range over rows; total variation, up to the bound that the law's own error leaves."""
    table = analysis.summary
    table = table[~table.use.str.startswith("whole")]
    uses = list(dict.fromkeys(table.use))
    drawn, axes = figures.canvas(min(3, len(uses)), -(-len(uses) // 3), width=3.6, height=2.9)
    for ax, use in zip(axes, uses, strict=False):
        for k, (name, precision) in enumerate(PRECISION.items()):
            for r in table[(table.use == use) & (table.sampler == name)].itertuples():
                wrong = max(r.total_variation, LEAST)
                bound = max(r.total_variation + r.law_error, LEAST)
                time = r.ratio, r.ratio_low, r.ratio_high
                look = figures.precise(precision, k)
                figures.box(ax, (wrong, wrong, bound), time, label=name, **look)
        ax.axvline(ENOUGH, color="black", ls=":", lw=0.8)
        ax.set(xscale="log", yscale="log", xlabel="total variation, share of what comes", title=use)
        ax.set_ylabel("time / float32 Gumbel-max")
        ax.yaxis.set_minor_formatter("")
    handles = {label: h for ax in axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    title = "noise or sums in whole numbers: filled; float32: open; float64: half filled"
    at = {"loc": "outside lower center", "ncols": 4, "fontsize": 7, "title": title, "title_fontsize": 7}
    drawn.legend(handles.values(), handles, **at)
    return drawn


STUDY = Study(
    name="which_sampler",
    question="Which sampler should I use, by what I sample for?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    clocked=("seconds",),
)
