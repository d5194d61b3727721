"""Does the judge keep its word? Every promise of ``precision_lab.statistics``, tried on samplers that are right by
construction and on samplers off by exactly what it says it sees.

Four kinds of promise: a right sampler fails no more often than ``false_fail`` (at 0.01 and 0.001); a sampler off by
``detectable_x``, or drawn ``draws_needed_x`` times, passes no more often than ``false_pass`` (0.05, at false_fail 0.01); a 95 %
interval holds what it says it holds; an e-value of a right sampler has a mean of 1 at most, at any stop. Each on 20 tokens
and on 2,000 with 500 draws, most of them of tokens seen once or never, where that makes a difference. Promises are in
``precision_lab/calibration``. What is measured is not used to tune anything. Every run of a promise, long or quick, counts.
Cost: quick 10 seconds, full half an hour.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from precision_lab import figures
from precision_lab.calibration import PROMISES, PROVED, SURE, judged
from precision_lab.result import with_long_run
from precision_lab.study import Study

ROOT = Path(__file__).parent.parent
KEYS = ["judge", "target", "quantity", "runs", "chunk"]
HEAD = ["kind", "judge", "target", "quantity", "stated", "guarantee"]
SECONDS = 25  # of one cell, about
QUICK = ["identity", "reachability", "repeated_vector", "chi_square", "holm", "benjamini_hochberg", "e_process",
         "two_laws_log_likelihood", "mean", "difference", "cluster_jackknife", "combined_e"]  # fmt: skip
KINDS = {
    "false fail": "False fails of a right sampler\nmeasured / stated",
    "false pass": "False passes at the stated discrepancy\nmeasured / stated",
    "coverage": "Coverage of 95 % intervals",
    "e-value": "E-values of a right sampler\nmeasured / stated",
}


def runs_of(promise):
    if promise.kind == "coverage":
        return 10_000 if promise.ms <= 1 else 2_000
    if promise.kind == "false pass":
        return 20_000 if promise.ms <= 0.2 else 2_000
    return 100_000 if promise.ms <= 0.1 else 10_000


def cells(profile):
    if profile != "full":
        chosen = [key for key, promise in PROMISES.items() if promise.judge in QUICK and promise.ms <= 1]
        chosen, runs = (chosen[:3], 50) if profile == "smoke" else (chosen, 400)
        return [{"promise": key, "runs": runs, "chunk": 0} for key in chosen]
    grid = []
    for key, promise in PROMISES.items():
        chunks = int(np.ceil(runs_of(promise) * promise.ms / 1000 / SECONDS))
        each = int(np.ceil(runs_of(promise) / chunks))
        grid += [{"promise": key, "runs": each, "chunk": chunk} for chunk in range(chunks)]
    return grid


def measure(cell, rng):
    rows = PROMISES[cell["promise"]].tally(cell["runs"], rng)
    return [row | {"chunk": cell["chunk"]} for row in rows]


def summary(frame):
    """One row a promise: stated, measured, low, high, runs, verdict, of this run and the long one together."""
    frame = with_long_run(frame, ROOT, "judge_calibration", KEYS)
    table = frame.groupby(HEAD, sort=False)[["runs", "total", "squares"]].sum().reset_index()
    verdicts = [judged(r.quantity, r.guarantee, r.stated, r.runs, r.total, r.squares) for r in table.itertuples()]
    return pd.concat([table[HEAD], table[["runs"]], pd.DataFrame(verdicts)], axis=1)


def panel(axes, table, kind):
    """A row a promise; the interval of a rate that was never met reaches in from the left."""
    part = table[table.kind == kind]
    names = part.judge + ": " + part.target
    y = {name: -k for k, name in enumerate(dict.fromkeys(names))}
    scale = 1.0 if kind == "coverage" else part.stated.where(part.stated > 0, 1.0)
    frame = pd.DataFrame(
        {"y": names.map(y), "v": part.measured / scale, "low": part.low / scale, "high": part.high / scale}
    )
    quantities = list(part.quantity.unique())
    frame["y"] += [(len(quantities) - 1) * 0.12 - quantities.index(q) * 0.24 for q in part.quantity]
    least = frame.v.min() - 0.02 if kind == "coverage" else 0.02
    for k, quantity in enumerate(quantities):
        for sure in (True, False):
            at = (part.quantity == quantity) & (part.guarantee.isin(PROVED) == sure)
            v = frame[at]
            style = {
                "color": figures.COLOURS[0 if sure else 4],
                "marker": figures.MARKERS[k],
                "mfc": None if sure else "white",
            }
            axes.hlines(v.y, v.low.clip(least), v.high.clip(least), color=style["color"], lw=0.8)
            said = f"{quantity}, {'proved' if sure else 'asymptotic or heuristic'}"
            axes.plot(v.v.clip(least), v.y, ls="none", ms=3.5, label=said if len(v) else None, **style)
    bad = part.verdict.isin(["broken", "off"])
    for found, colour in (("broken", figures.COLOURS[1]), ("off", figures.COLOURS[3])):
        at = part.verdict == found
        axes.plot(frame.v[at].clip(least), frame.y[at], ls="none", marker="o", ms=9, mfc="none", color=colour,
                  label=f"{found} ({at.sum()})" if at.any() else None)  # fmt: skip
    axes.axvline(0.95 if kind == "coverage" else 1.0, color="black", lw=1)
    axes.set_yticks(list(y.values()), list(y), fontsize=5.5)
    axes.set(ylim=(-len(y), 1), xscale="linear" if kind == "coverage" else "log")
    axes.set_title(f"{KINDS[kind]}: {len(part) - bad.sum()} of {len(part)} kept", fontsize=8)
    axes.legend(fontsize=5.5, loc="lower left" if kind != "false pass" else "lower right")


def draw(frame):
    table = summary(frame)
    kinds = [kind for kind in KINDS if (table.kind == kind).any()]
    figure, axes = figures.canvas(len(kinds), width=5.0, height=9.5)
    for each, kind in zip(axes, kinds, strict=True):
        panel(each, table, kind)
    return figure


def verdict(frame):
    table = summary(frame)
    proved = table.guarantee.isin(PROVED)
    say = lambda rows: ", ".join(  # noqa: E731
        f"{r.judge} ({r.target}; {r.quantity}) {r.measured:.3g} [{r.low:.3g}, {r.high:.3g}] for {r.stated:g}"
        for r in rows.itertuples()
    )
    broken, off = table[table.verdict == "broken"], table[table.verdict == "off"]
    return (
        f"{len(table)} promises, {int(table.runs.min()):,} to {int(table.runs.max()):,} runs each, intervals {SURE:.2%} "
        f"(Clopper-Pearson; Student for a mean of e). Proved ones: {int(proved.sum())}, broken {len(broken)}"
        + (f": {say(broken)}" if len(broken) else "")
        + f". Asymptotic or heuristic ones: {int((~proved).sum())}, off {len(off)}"
        + (f": {say(off)}" if len(off) else "")
        + "."
    )


QUESTION = "Does every test, interval and e-value of the judge keep the error rates that it states?"
STUDY = Study("judge_calibration", QUESTION, cells, measure, draw, verdict, summary=summary)
