"""Do the tests keep their word? Every promise of ``precision_lab.statistics``, tried on samplers that are
right by construction and on samplers off by exactly what it says it sees.

Four kinds of promise: a right sampler fails no more often than ``false_fail`` (at 0.01 and 0.001); a sampler
off by ``detectable_x``, or drawn ``draws_needed_x`` times, passes no more often than ``false_pass`` (0.05,
at false_fail 0.01); a 95 % interval holds what it says it holds; an e-value of a right sampler has a mean of
1 at most, at any stop. Each on 20 tokens and on 2,000 with 500 draws, most of them of tokens seen once or
never, where that makes a difference. Promises are in ``precision_lab/calibration``. What is measured is not
used to tune anything. Every run of a promise, long or quick, counts.
Cost: quick 12 seconds, full 40 minutes.
"""

import numpy as np
import pandas as pd

from precision_lab import figures
from precision_lab.calibration import PROMISES, PROVED, SURE, judged
from precision_lab.study import Analysis, Study

# ---------------------------------------------------------------- grid

SECONDS = 25  # of one cell, about
QUICK = [
    "identity",
    "reachability",
    "repeated_vector",
    "chi_square",
    "holm",
    "benjamini_hochberg",
    "e_process",
    "two_laws_log_likelihood",
    "mean",
    "difference",
    "cluster_jackknife",
    "combined_e",
]


def cells(profile):
    if profile == "full":
        return [cell for name in PROMISES for cell in long_cells(name)]
    chosen = [name for name, promise in PROMISES.items() if promise.judge in QUICK and promise.ms <= 1]
    if profile == "smoke":
        return [{"promise": name, "runs": 50, "chunk": 0} for name in chosen[:3]]
    return [{"promise": name, "runs": 400, "chunk": 0} for name in chosen]


def long_cells(name):
    runs = runs_of(PROMISES[name])
    chunks = int(np.ceil(runs * PROMISES[name].ms / 1000 / SECONDS))
    each = int(np.ceil(runs / chunks))
    return [{"promise": name, "runs": each, "chunk": chunk} for chunk in range(chunks)]


def runs_of(promise):
    if promise.kind == "coverage":
        return 10_000 if promise.ms <= 1 else 2_000
    if promise.kind == "false pass":
        return 20_000 if promise.ms <= 0.2 else 2_000
    return 100_000 if promise.ms <= 0.1 else 10_000


# ------------------------------------------------------------- measure


def measure(cell, rng):
    rows = PROMISES[cell["promise"]].tally(cell["runs"], rng)
    return [row | {"chunk": cell["chunk"]} for row in rows]


# ------------------------------------------------------------- analyse

HEAD = ["kind", "judge", "target", "quantity", "stated", "guarantee"]


def analyse(rows):
    table = summary(rows)
    proved = table.guarantee.isin(PROVED)
    broken, off = table[table.verdict == "broken"], table[table.verdict == "off"]
    runs = f"{int(table.runs.min()):,} to {int(table.runs.max()):,} runs each"
    head = f"{len(table)} promises, {runs}, intervals {SURE:.2%} (Clopper-Pearson; Student for a mean of e)"
    notes = [
        f"proved ones: {int(proved.sum())}, broken {len(broken)}{named(broken)}",
        f"asymptotic or heuristic ones: {int((~proved).sum())}, off {len(off)}{named(off)}",
    ]
    return Analysis(notes=notes, head=head, summary=table)


def summary(rows):
    """One row a promise: stated, measured, low, high, runs, verdict."""
    table = rows.groupby(HEAD, sort=False)[["runs", "total", "squares"]].sum().reset_index()
    verdicts = [
        judged(r.quantity, r.guarantee, r.stated, r.runs, r.total, r.squares) for r in table.itertuples()
    ]
    return pd.concat([table[HEAD], table[["runs"]], pd.DataFrame(verdicts)], axis=1)


def named(rows):
    each = [
        f"{r.judge} ({r.target}; {r.quantity}) {r.measured:.3g} [{r.low:.3g}, {r.high:.3g}] for {r.stated:g}"
        for r in rows.itertuples()
    ]
    return f": {', '.join(each)}" if each else ""


# -------------------------------------------------------------- figure

KINDS = {
    "false fail": "A right sampler fails",
    "false pass": "A sampler off by the stated discrepancy passes",
    "coverage": "A 95 % interval misses",
    "e-value": "e-values of a right sampler",
}
LEAST, MOST = 0.02, 30  # of the axes, times the rate stated
BAD = {"broken": figures.COLOURS[1], "off": figures.COLOURS[3]}


def figure(rows, analysis):
    table = analysis.summary
    kinds = [kind for kind in KINDS if (table.kind == kind).any()]
    drawn, panels = figures.canvas(2, (len(kinds) + 1) // 2, width=6.6, height=7.6)
    for spare in panels[len(kinds) :]:
        spare.set_axis_off()
    for axes, kind in zip(panels, kinds, strict=False):
        panel(axes, table[table.kind == kind], kind)
    return drawn


def panel(axes, part, kind):
    """A row a promise, those of one test together: rate measured over rate stated, left of 1 is kept."""
    part = part.sort_values(["judge", "target"], kind="stable")
    names = part.judge + " | " + part.target
    y = {name: -k for k, name in enumerate(dict.fromkeys(names))}
    quantities = list(part.quantity.unique())
    shown = relative_rates(part, kind)
    beside = [(len(quantities) - 1) * 0.13 - quantities.index(quantity) * 0.26 for quantity in part.quantity]
    shown["y"] = names.map(y) + beside
    for k, quantity in enumerate(quantities):
        for proved in (True, False):
            at = shown[(part.quantity == quantity) & (part.guarantee.isin(PROVED) == proved)]
            name = f"{quantity}, " if len(quantities) > 1 else ""
            points(axes, at, k, name, proved)
    for verdict, colour in BAD.items():
        at = shown[part.verdict == verdict]
        label = f"{verdict}: {len(at)}" if len(at) or verdict == "broken" else None
        axes.plot(at.measured, at.y, ls="none", marker="o", ms=9, mfc="none", color=colour, label=label)
    axes.axvline(1.0, color="black", lw=1)
    axes.set_yticks(list(y.values()), list(y), fontsize=6.5)
    axes.set(xlim=(LEAST * 0.8, MOST * 1.2), ylim=(-1.12 * len(y), 1), xscale="log")
    axes.set_xlabel("rate measured / rate stated (0 shown at 0.02; e: mean or rate)", fontsize=7)
    kept = len(part) - int(part.verdict.isin(list(BAD)).sum())
    axes.set_title(f"{KINDS[kind]}\n{kept} of {len(part)} promises kept", fontsize=9)
    axes.legend(fontsize=6.5, loc="lower right", framealpha=1, frameon=True)


def relative_rates(part, kind):
    """measured, low and high over the rate stated; of an interval, the rate at which it misses."""
    rates = part[["measured", "low", "high"]]
    stated = part.stated.where(part.stated > 0, 1.0)
    if kind == "coverage":
        rates = (1 - rates).rename(columns={"low": "high", "high": "low"})
        stated = 1 - part.stated
    return rates.div(stated, axis=0).clip(LEAST, MOST)


def points(axes, at, k, name, proved):
    colour = figures.COLOURS[0 if proved else 4]
    label = name + ("proved" if proved else "asymptotic or heuristic") if len(at) else None
    axes.hlines(at.y, at.low, at.high, color=colour, lw=0.9)
    style = {"ls": "none", "ms": 4, "marker": figures.MARKERS[k], "color": colour}
    axes.plot(at.measured, at.y, mfc=colour if proved else "white", label=label, **style)


STUDY = Study(
    name="judge_calibration",
    question="Does every test, interval and e-value of the judge keep the error rates that it states?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    keys=("judge", "target", "quantity", "runs", "chunk"),
)
