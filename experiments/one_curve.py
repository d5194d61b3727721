"""One curve for all models: what float32 Gumbel-max unmasks, over what was asked, as a function of one
number.

In a step of N at a masked share t a token of probability p is asked to come with r p, r = 1 / (N t). With
uniforms k 2^-24 it comes with r p x / (e^x - 1), x = 2^-24 (1 - r p) / (r p), nearly 2^-24 N t / p:
whatever the network, the vocabulary, N and t (but for 2^-24 / r, when the mask itself draws u = 0 and
loses). Prop. 5.2 of arXiv:2409.02908, noise conditioned below its ceiling, would give e^-x. Points: tokens
of recorded rows of three networks by their exact laws, in bins of x; draws of a head and equal tokens at
-gap, here and on an H100 (results/gpu), Clopper-Pearson 95 %. n of the full draws here: at each gap e^-x is
refused and x / (e^x - 1) is not, with errors of 1e-3 each.
Cost: ten seconds a law; quick half a core-minute, full 20 core-minutes.
"""

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from precision_lab import SAMPLERS, figures, target_law
from precision_lab.files import read_json
from precision_lab.samplers.head_and_tail import true_tail
from precision_lab.statistics import ratio_of_proportion, tail_test
from precision_lab.study import Analysis, Study
from precision_lab.targets import load_capture
from precision_lab.targets.synthetic import head_and_tail, mdm_step

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "results" / "gpu" / "h100_head_and_tail.json"
GUMBEL = "argmax(logits - log(-log(rand)))"
SAMPLER = SAMPLERS["gumbel_max_fp32"]
NETWORKS = {"mdm": "mdm, 8,192 tokens", "h100": "mdm, 16,384 tokens", "smollm2": "SmolLM2, 49,152 tokens"}
SPACING = 2.0**-24
BINS = np.geomspace(2e-3, 20, 33)  # of x: eight a decade

# ---------------------------------------------------------------- grid

LAWS = {  # profile -> (network, row, N)
    "smoke": [("mdm", 0, 1024)],
    "quick": [("mdm", 0, 1024), ("h100", 2, 50_000)],
    "full": [
        (network, row, steps)
        for network, rows in {"mdm": (0, 7, 19), "h100": (0, 2, 4), "smollm2": (0, 1)}.items()
        for row in rows
        for steps in (1024, 4096, 50_000)
    ],
}
DRAWS = {  # profile -> gap -> draws, about 0.09 of which are due in the tail
    "smoke": {10.0: 400},
    "quick": {16.0: 1000},
    "full": {15.0: 45_000, 16.0: 9000, 17.0: 3300},
}


@cache
def capture(network):
    return load_capture(ROOT / "models" / network / "logits.safetensors")


def curve(x):
    """x / (e^x - 1): what the lattice of uniforms leaves."""
    return x / np.expm1(x)


def cells(profile):
    laws = [
        {"network": network, "row": row, "steps": steps, "logits": capture(network).manifest["sha256"][:12]}
        for network, row, steps in LAWS[profile]
    ]
    draws = [{"gap": gap, "draws": n} for gap, n in DRAWS[profile].items()]
    return [*draws, *laws, {"recorded": RECORDED.name}]


# ------------------------------------------------------------- measure


def measure(cell, rng):
    if "recorded" in cell:
        points = [p for p in read_json(RECORDED)["draws"]["points"] if p["sampler"] == GUMBEL]
        return [counted("draws, H100", p["gap"], p["tail_draws"], p["n"]) for p in points]
    if "gap" in cell:
        tokens = SAMPLER.draw(torch.from_numpy(head_and_tail(cell["gap"])), cell["draws"], rng=rng)
        return [counted("draws, here", cell["gap"], int((tokens > 0).sum()), cell["draws"])]
    return of_a_law(cell)


def counted(series, gap, hits, n):
    """Draws of a head and equal tokens: all of one x."""
    asked = true_tail(gap)
    alone = asked / (len(head_and_tail(gap)) - 1)  # probability of one of them
    estimate = ratio_of_proportion(hits, n, asked)
    x = SPACING * (1 - alone) / alone
    found = {
        "series": series,
        "gap": gap,
        "x": x,
        "ratio": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
    }
    return found | {"n": n, "p_value": tail_test(hits, n, asked * float(curve(x))).p_value}


def of_a_law(cell):
    """Every token of one step by its exact law, in bins of x."""
    recorded = capture(cell["network"])
    ratio = float(recorded.mask_ratio[cell["row"]])
    unmask = 1.0 / (cell["steps"] * (0.5 if np.isnan(ratio) else ratio))
    target = target_law(recorded.logits[cell["row"]].astype(np.float64))
    asked = unmask * target.probs
    law = SAMPLER.law(mdm_step(target.log_probs, unmask))
    came = law.probs[:-1]
    with np.errstate(divide="ignore"):
        x = SPACING * (1 - asked) / asked
    rows = []
    for low, high in pairwise(BINS):
        inside = (x >= low) & (x < high)
        if not inside.any():
            continue
        mass = asked[inside].sum()
        departure = came[inside] / asked[inside] - curve(x[inside])
        rows.append(
            cell
            | {
                "series": NETWORKS[cell["network"]],
                "unmask": unmask,
                "x": float(asked[inside] @ x[inside] / mass),
                "ratio": float(came[inside].sum() / mass),
                "departure": float(np.abs(departure).max()),
                "n": int(inside.sum()),
                "error": law.error / mass,
            }
        )
    return rows


# ------------------------------------------------------------- analyse


def analyse(rows):
    laws = rows[rows.departure.notna()]
    draws = rows[rows.low.notna()]
    steps = laws.groupby(["network", "row", "steps"]).ngroups
    told = int(((draws.low > np.exp(-draws.x)) | (draws.high < np.exp(-draws.x))).sum())
    smallest = draws.p_value.min() * len(draws)
    notes = [
        f"{laws.n.sum():,.0f} tokens of {steps} exact laws lie on x / (e^x - 1) to within "
        f"{laws.departure.max():.2g} each, x from {laws.x.min():.2g} to {laws.x.max():.2g}",
        f"of {len(draws)} counts of draws the smallest p under it, times {len(draws)}, is {smallest:.2g}",
        f"{told} of their 95 % intervals leave e^-x (Prop. 5.2) out",
    ]
    return Analysis(notes=notes, head="Share of the intended unmasking, Clopper-Pearson")


# -------------------------------------------------------------- figure


def figure(rows, analysis):
    drawn, (axes,) = figures.canvas(width=5.8, height=3.9)
    x = np.geomspace(BINS[0], BINS[-1], 300)
    axes.plot(x, curve(x), color="black", lw=1.2, label="lattice, $x / (e^x - 1)$")
    axes.plot(x, np.exp(-x), color="black", lw=1.2, ls="--", label="truncated noise (Prop. 5.2), $e^{-x}$")
    for k, (series, part) in enumerate(rows.groupby("series", sort=True)):
        look = figures.series(k)
        if series.startswith("draws"):
            hollow = look | {"markerfacecolor": "white", "markersize": 7}
            part = part.assign(value=part.ratio)
            figures.sweep(axes, part, "x", label=f"{series} (95 %)", look=hollow, line="none")
        else:
            label = f"{series}: exact laws of {part.n.sum():,} tokens"
            axes.plot(part.x, part.ratio, ls="none", ms=3.5, alpha=0.8, label=label, **look)
    axes.set(xscale="log", ylim=(-0.03, 1.05), xlabel="$x = 2^{-24} N t / p$")
    axes.set_ylabel("share of the intended unmasking")
    axes.legend(loc="lower left", fontsize=7)
    return drawn


STUDY = Study(
    name="one_curve",
    question="Is what float32 noise loses one function of one number, for every network, N and mask ratio?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
)
