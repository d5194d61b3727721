"""Is the time of a whole run NFE t1 + NCS t2? (App. J.3 of arXiv:2409.02908; its small vocabulary: 1.07 times faster.)

Whole runs on models/mdm (L = 128, |V| = 8192), ancestral at N = 64 ... 1024, first-hitting and event-driven beside the last.
t1 (a network call) and t2 (one number of a categorical draw; NCS = draws x |V|) are fitted to the ancestral runs at
N <= 512 by least squares of relative errors, and must foretell N = 1024 and first-hitting, which they have not seen. Beside
them L = 265, |V| = 256, N = 100 on a network of fresh weights (4 x 256, torch seed 0), where draws are cheap: measured only.
Event-driven decoding has the law of the ancestral runs and draws a token only where one may come.
Seconds are of processor time on one thread: runs of different length do not see the same load of the machine, so their wall
times do not compare. Never the same twice. Cost: full 2 core-minutes; quick 3 seconds of 32 positions.
"""

import time
from functools import cache, partial
from pathlib import Path

import pandas as pd
import torch

from precision_lab import SAMPLERS, figures
from precision_lab.laws.process import faithful_step
from precision_lab.mdm import decode
from precision_lab.mdm.cost import call_worth, expected_draws, expected_nfe, fit_cost
from precision_lab.mdm.denoiser import Denoiser, DenoiserConfig
from precision_lab.mdm.train import load_model
from precision_lab.result import with_long_run
from precision_lab.study import Study

ROOT, HELD_OUT, SMALL = Path(__file__).parent.parent, 1024, 100
NAMES = ("gumbel_max_fp64",)
GRID = {  # profile -> (steps, repeats, positions); SMALL: the small vocabulary
    "smoke": ((2, 4), 1, 4),
    "quick": ((2, 8, 32), 1, 32),
    "full": ((64, 128, 256, 512, HELD_OUT, SMALL), 2, 128),
}
KEY = ["profile", "steps", "repeat", "sampler", "decoder"]


def cells(profile):
    steps, repeats, length = GRID[profile]
    return [
        {"steps": n, "length": 265 if n == SMALL else length, "repeat": i, "profile": str(profile)}
        | {"beside": n in (SMALL, max(steps))}
        for i in range(repeats)
        for n in steps
    ]


@cache
def network(small):
    if not small:
        return load_model(ROOT / "models" / "mdm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Denoiser(DenoiserConfig(vocab=256, layers=4, width=256)).eval()


def measure(cell, rng):
    small, rows = cell["steps"] == SMALL, []
    model, common = network(small), {"batch": 1, "length": cell["length"]}
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    for name in NAMES:
        drawn = {"sampler": SAMPLERS[name], "rng": generator} | common
        runs = {
            "ancestral": partial(decode.ancestral, model, steps=cell["steps"], **drawn),
            "first_hitting": partial(decode.first_hitting, model, **drawn),
            "event_driven": partial(decode.event_driven, model, faithful_step, steps=cell["steps"], rng=rng, **common),
        }
        for decoder in list(runs) if cell["beside"] else ["ancestral"]:
            began = time.process_time()
            done = runs[decoder]()
            taken = {
                "seconds": time.process_time() - began,
                "network_share": done.seconds["network"] / sum(done.seconds.values()),
            }
            cost = {"vocab": model.config.vocab, "nfe": done.nfe, "draws": done.draws}
            rows.append(cell | {"sampler": name, "decoder": decoder} | cost | taken)
    return rows


def summary(frame):
    """Each run of the longest profile there is, with what the fit foretells, and t1, t2 with their intervals."""
    every, found = with_long_run(frame, ROOT, "cost_model", KEY), []
    every = every[(every.profile == "full") | ~(every.profile == "full").any()]
    for _, part in every.groupby("sampler"):
        fitted = part[(part.decoder == "ancestral") & ~part.steps.isin([HELD_OUT, SMALL])]
        if len(fitted) > 2:
            cost = fit_cost(fitted.nfe, fitted.draws * fitted.vocab, fitted.seconds)
            foretold = [
                cost.seconds(r.nfe, r.draws * r.vocab).value if r.steps != SMALL else None for r in part.itertuples()
            ]
            ends = {
                f"{t}_{end}": getattr(getattr(cost, t), end) for t in ("t1", "t2") for end in ("value", "low", "high")
            }
            part = part.assign(foretold=foretold, fitted=part.index.isin(fitted.index), n=len(fitted), **ends)
        found.append(part)
    return pd.concat(found)


def draw(frame):
    table = summary(frame)
    figure, (axes, share) = figures.canvas(2, width=4.6, height=3.6)
    for k, (sampler, part) in enumerate(table[table.steps != SMALL].groupby("sampler")):
        look = figures.series(k)
        for decoder, face in (("ancestral", look["color"]), ("first_hitting", "white")):
            r = part[part.decoder == decoder]
            axes.plot(
                r.seconds,
                r.get("foretold", r.seconds),
                ls="none",
                label=f"{sampler}, {decoder}",
                **look | {"mfc": face},
            )
            share.plot(r.steps, r.network_share, ls="none", **look | {"mfc": face})
    low, high = axes.get_xlim()
    axes.plot([max(low, 0.1), high], [max(low, 0.1), high], color="black", lw=0.8)
    axes.set(xscale="log", yscale="log", xlabel="processor seconds of a whole run", ylabel="seconds foretold")
    share.set(xscale="log", xlabel="steps N", ylabel="share of the time in the network", ylim=(0, 1.02))
    seconds, steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20], sorted(table.steps[table.steps != SMALL].unique())
    for axis, ticks in ((axes.xaxis, seconds), (axes.yaxis, seconds), (share.xaxis, steps)):
        limits = axis.get_view_interval()
        axis.set_ticks([t for t in ticks if limits[0] <= t <= limits[1]])
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.set_title("t1, t2 from ancestral runs of N <= 512")
    share.set_title("what a run spends its time on")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def verdict(frame):
    table, text = summary(frame), []
    for sampler, part in table.groupby("sampler"):
        if "foretold" in part and part.foretold.notna().any():
            r, off = part.iloc[0], part.foretold / part.seconds - 1
            t1, t2 = (
                f"{r[t + '_value'] * u:.3g} [{r[t + '_low'] * u:.3g}, {r[t + '_high'] * u:.3g}]"
                for t, u in (("t1", 1e3), ("t2", 1e9))
            )
            ahead = off[(part.steps == HELD_OUT) & (part.decoder == "ancestral")]
            hits = off[(part.steps != SMALL) & (part.decoder == "first_hitting")]
            named = [(name, x) for name, x in ((f"N = {HELD_OUT}", ahead), ("first-hitting", hits)) if len(x)]
            errors = [f"{name} {x.min():+.1%} to {x.max():+.1%} (n = {len(x)})" for name, x in named]
            text.append(
                f"{sampler}: t1 {t1} ms, t2 {t2} ns (95 %, {r.n} runs); foretold less measured: {', '.join(errors)}"
            )
    ratios = table.pivot(index=["steps", "sampler", "repeat"], columns="decoder", values="seconds")
    for (steps, sampler), t in ratios.groupby(["steps", "sampler"]):
        x, y = t.ancestral / t.first_hitting, t.event_driven / t.first_hitting
        if steps in (SMALL, max(table.steps)):
            text.append(
                f"N = {steps}{', |V| = 256' if steps == SMALL else ''}, {sampler}: ancestral {x.median():.3g} times "
                f"first-hitting ({x.min():.3g} to {x.max():.3g}), event-driven {y.median():.3g} times; {len(t)} runs"
            )
    counts = f"E-NFE {expected_nfe(SMALL, 265):.1f}, {expected_draws(SMALL, 265):.0f} draws against 265 and 265"
    worth = f"1.07 times needs a call worth {call_worth(1.07, SMALL, 265):.0f} draws"
    return "; ".join(text) + f". Small vocabulary, N = {SMALL}: {counts}; {worth}."


QUESTION = "Is the time of a whole run its network calls times t1 and its drawn numbers times t2?"
CLOCKED = ("seconds", "network_share")
STUDY = Study("cost_model", QUESTION, cells, measure, draw, verdict, summary=summary, clocked=CLOCKED)
