"""Does the judge keep its word? Every promise of ``precision_lab.statistics``, tried on samplers that are right by
construction and on samplers off by exactly what it says it sees.

Four kinds of promise: a right sampler fails no more often than ``false_fail`` (at 0.01 and 0.001); a sampler off by
``detectable_x``, or drawn ``draws_needed_x`` times, passes no more often than ``false_pass`` (0.05, at false_fail 0.01); a 95 %
interval holds what it says it holds; an e-value of a right sampler has a mean of 1 at most, at any stop. Each on 20 tokens
and on 2,000 with 500 draws, most of them of tokens seen once or never, where that makes a difference. Promises are in
``precision_lab/calibration``. What is measured is not used to tune anything. Every run of a promise, long or quick, counts.
Cost: quick 12 seconds, full 40 minutes.
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
    "false fail": "A right sampler fails",
    "false pass": "A sampler off by the stated discrepancy passes",
    "coverage": "A 95 % interval misses",
    "e-value": "e-values of a right sampler",
}
LEAST, MOST = 0.02, 30  # of the axes, times the rate stated


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
    """A row a promise, those of one judge together: rate measured over rate stated, left of 1 is kept."""
    part = table[table.kind == kind].sort_values(["judge", "target"], kind="stable")
    names = part.judge + " | " + part.target
    y = {name: -k for k, name in enumerate(dict.fromkeys(names))}
    ends = part[["measured", "low", "high"]]
    ends = (1 - ends).rename(columns={"low": "high", "high": "low"}) if kind == "coverage" else ends
    stated = 1 - part.stated if kind == "coverage" else part.stated.where(part.stated > 0, 1.0)
    shown = ends.div(stated, axis=0).clip(LEAST, MOST)
    quantities = list(part.quantity.unique())
    shown["y"] = names.map(y) + [(len(quantities) - 1) * 0.13 - quantities.index(q) * 0.26 for q in part.quantity]
    for k, quantity in enumerate(quantities):
        for sure in (True, False):
            at = shown[(part.quantity == quantity) & (part.guarantee.isin(PROVED) == sure)]
            colour = figures.COLOURS[0 if sure else 4]
            said = (f"{quantity}, " if len(quantities) > 1 else "") + ("proved" if sure else "asymptotic or heuristic")
            axes.hlines(at.y, at.low, at.high, color=colour, lw=0.9)
            axes.plot(at.measured, at.y, ls="none", ms=4, marker=figures.MARKERS[k], color=colour,
                      mfc=colour if sure else "white", label=said if len(at) else None)  # fmt: skip
    for bad, colour in (("broken", figures.COLOURS[1]), ("off", figures.COLOURS[3])):
        at = shown[part.verdict == bad]
        label = f"{bad}: {len(at)}" if len(at) or bad == "broken" else None
        axes.plot(at.measured, at.y, ls="none", marker="o", ms=9, mfc="none", color=colour, label=label)
    axes.axvline(1.0, color="black", lw=1)
    axes.set_yticks(list(y.values()), list(y), fontsize=6.5)
    axes.set(xlim=(LEAST * 0.8, MOST * 1.2), ylim=(-1.12 * len(y), 1), xscale="log")
    axes.set_xlabel("rate measured / rate stated (0 shown at 0.02; e: mean or rate)", fontsize=7)
    kept = len(part) - int(part.verdict.isin(["broken", "off"]).sum())
    axes.set_title(f"{KINDS[kind]}\n{kept} of {len(part)} promises kept", fontsize=9)
    axes.legend(fontsize=6.5, loc="lower right", framealpha=1, frameon=True)


def draw(frame):
    table = summary(frame)
    kinds = [kind for kind in KINDS if (table.kind == kind).any()]
    figure, axes = figures.canvas(2, (len(kinds) + 1) // 2, width=6.6, height=7.6)
    for spare in axes[len(kinds) :]:
        spare.set_axis_off()
    for each, kind in zip(axes, kinds, strict=False):
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
