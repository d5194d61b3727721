"""Is the time of a whole run NFE t1 + NCS t2? (App. J.3 of arXiv:2409.02908; its small vocabulary: 1.07
times faster.)

Whole runs on models/mdm (L = 128, |V| = 8192), ancestral at N = 64 ... 1024, first-hitting and event-driven
beside the last. t1 (a network call) and t2 (one number of a categorical draw; NCS = draws x |V|) are fitted
to the ancestral runs at N <= 512 by least squares of relative errors, and predict N = 1024 and
first-hitting, which they have not seen. Beside them L = 265, |V| = 256, N = 100 on a network of fresh
weights (4 x 256, torch seed 0), where draws are cheap: measured only. Event-driven decoding has the law of
the ancestral runs and draws a token only where one may come. Seconds are of processor time on one thread:
runs of different length do not see the same load of the machine, so their wall times do not compare. Never
the same twice.
Cost: full 2 core-minutes; quick 3 seconds of 32 positions.
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
from precision_lab.mdm.stored import StoredModel
from precision_lab.study import Analysis, Study

MODEL = StoredModel(Path(__file__).parent.parent / "models" / "mdm")
SAMPLER = "gumbel_max_fp64"

# ---------------------------------------------------------------- grid

HELD_OUT = 1024  # steps that the fit does not see
SMALL = 100  # steps that stand for the small vocabulary
SMALL_LENGTH = 265
GRID = {  # profile -> steps, repeats, positions
    "smoke": ((2, 4), 1, 4),
    "quick": ((2, 8, 32), 1, 32),
    "full": ((64, 128, 256, 512, HELD_OUT, SMALL), 2, 128),
}


def cells(profile):
    steps, repeats, length = GRID[profile]
    return [
        {
            "steps": n,
            "length": SMALL_LENGTH if n == SMALL else length,
            "repeat": repeat,
            "profile": str(profile),
            "beside": n in (SMALL, max(steps)),  # the other decoders run too
        }
        for repeat in range(repeats)
        for n in steps
    ]


# ------------------------------------------------------------- measure


def measure(cell, rng):
    model = small_network() if cell["steps"] == SMALL else MODEL.network()
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    size = {"batch": 1, "length": cell["length"]}
    drawn = size | {"sampler": SAMPLERS[SAMPLER], "rng": generator}
    runs = {"ancestral": partial(decode.ancestral, model, steps=cell["steps"], **drawn)}
    if cell["beside"]:
        runs["first_hitting"] = partial(decode.first_hitting, model, **drawn)
        by_law = {"steps": cell["steps"], "rng": rng}
        runs["event_driven"] = partial(decode.event_driven, model, faithful_step, **by_law, **size)
    rows = []
    for decoder, run in runs.items():
        began = time.process_time()
        done = run()
        clocks = {"seconds": time.process_time() - began}
        clocks["network_share"] = done.seconds["network"] / sum(done.seconds.values())
        cost = {"vocab": model.config.vocab, "nfe": done.nfe, "draws": done.draws}
        rows.append(cell | {"sampler": SAMPLER, "decoder": decoder} | cost | clocks)
    return rows


@cache
def small_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Denoiser(DenoiserConfig(vocab=256, layers=4, width=256)).eval()


# ------------------------------------------------------------- analyse


def analyse(rows):
    table = summary(rows)
    notes = prediction_texts(table) + ratio_texts(table)
    counts = f"{expected_nfe(SMALL, SMALL_LENGTH):.1f}, {expected_draws(SMALL, SMALL_LENGTH):.0f} draws"
    worth = f"1.07 times needs a call worth {call_worth(1.07, SMALL, SMALL_LENGTH):.0f} draws"
    notes.append(f"small vocabulary, N = {SMALL}: E-NFE {counts} against 265 and 265; {worth}")
    return Analysis(notes=notes, summary=table)


def summary(rows):
    """Each run of the longest profile there is, with what the fit predicts (``foretold``), and t1, t2
    with their intervals."""
    rows = rows[(rows.profile == "full") | ~(rows.profile == "full").any()].drop(
        columns="run_seed", errors="ignore"
    )
    found = []
    for _, part in rows.groupby("sampler"):
        fitted = part[(part.decoder == "ancestral") & ~part.steps.isin([HELD_OUT, SMALL])]
        if len(fitted) > 2:
            cost = fit_cost(fitted.nfe, fitted.draws * fitted.vocab, fitted.seconds)
            foretold = [predicted(cost, run) for run in part.itertuples()]
            part = part.assign(foretold=foretold, fitted=part.index.isin(fitted.index), n=len(fitted))
            for name, t in (("t1", cost.t1), ("t2", cost.t2)):
                part = part.assign(**{f"{name}_value": t.value, f"{name}_low": t.low, f"{name}_high": t.high})
        found.append(part)
    return pd.concat(found)


def predicted(cost, run):
    """Seconds of a run; none for the small vocabulary, which has another network."""
    if run.steps == SMALL:
        return None
    return cost.seconds(run.nfe, run.draws * run.vocab).value


def prediction_texts(table):
    text = []
    for sampler, part in table.groupby("sampler"):
        if "foretold" not in part or part.foretold.isna().all():
            continue
        off = part.foretold / part.seconds - 1
        seen = {
            f"N = {HELD_OUT}": off[(part.steps == HELD_OUT) & (part.decoder == "ancestral")],
            "first-hitting": off[(part.steps != SMALL) & (part.decoder == "first_hitting")],
        }
        errors = [
            f"{name} {x.min():+.1%} to {x.max():+.1%} (n = {len(x)})" for name, x in seen.items() if len(x)
        ]
        run = part.iloc[0]
        fit = f"t1 {scaled(run, 't1', 1e3)} ms, t2 {scaled(run, 't2', 1e9)} ns (95 %, {run.n} runs)"
        text.append(f"{sampler}: {fit}; predicted less measured: {', '.join(errors)}")
    return text


def scaled(run, name, unit):
    value, low, high = (run[f"{name}_{end}"] * unit for end in ("value", "low", "high"))
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


def ratio_texts(table):
    ratios = table.pivot(index=["steps", "sampler", "repeat"], columns="decoder", values="seconds")
    text = []
    for (steps, sampler), part in ratios.groupby(["steps", "sampler"]):
        if steps not in (SMALL, max(table.steps)):
            continue
        ancestral, event_driven = part.ancestral / part.first_hitting, part.event_driven / part.first_hitting
        name = f"N = {steps}{', |V| = 256' if steps == SMALL else ''}, {sampler}"
        text.append(
            f"{name}: ancestral {ancestral.median():.3g} times first-hitting ({ancestral.min():.3g} to "
            f"{ancestral.max():.3g}), event-driven {event_driven.median():.3g} times; {len(part)} runs"
        )
    return text


# -------------------------------------------------------------- figure

SECONDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20]


def figure(rows, analysis):
    table = analysis.summary
    table = table[table.steps != SMALL]
    drawn, (axes, share) = figures.canvas(2, width=4.6, height=3.6)
    look = figures.precision(SAMPLER) | {"ls": "none"}
    for decoder, face in (("ancestral", look["color"]), ("first_hitting", "white")):
        part = table[table.decoder == decoder]
        foretold = part.get("foretold", part.seconds)
        axes.plot(part.seconds, foretold, label=f"{SAMPLER}, {decoder}", **look | {"mfc": face})
        share.plot(part.steps, part.network_share, **look | {"mfc": face})
    low, high = axes.get_xlim()
    axes.plot([max(low, 0.1), high], [max(low, 0.1), high], color="black", lw=0.8)
    axes.set(
        xscale="log", yscale="log", xlabel="processor seconds of a whole run", ylabel="seconds predicted"
    )
    axes.set_title("t1, t2 from ancestral runs of N <= 512")
    share.set(xscale="log", xlabel="steps N", ylabel="share of the time in the network", ylim=(0, 1.02))
    share.set_title("what a run spends its time on")
    for axis, ticks in (
        (axes.xaxis, SECONDS),
        (axes.yaxis, SECONDS),
        (share.xaxis, sorted(table.steps.unique())),
    ):
        first, last = axis.get_view_interval()
        axis.set_ticks([tick for tick in ticks if first <= tick <= last])
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return drawn


STUDY = Study(
    name="cost_model",
    question="Is the time of a whole run its network calls times t1 and its drawn numbers times t2?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    keys=("profile", "steps", "repeat", "sampler", "decoder"),
    clocked=("seconds", "network_share"),
)
