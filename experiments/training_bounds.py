"""Are the two training bounds one number on real text, and how much variance does the way to draw times take
out?

Prop. 3.1 of arXiv:2409.02908 (its Table of equivalences) and its remark on low-discrepancy sampling.
models/mdm on 16 held-out windows, always the same, so that all variance is of times and masks. Continuous
time: every position masked with probability m, weight 1/m; discrete: n masks exactly, weight 1/n. Each with
times independent, shared (one u and even steps) and stratified (one u in each of 16 parts). The bounds agree
exactly on an enumerable network (tests); here by Monte Carlo.
Cost: half a second a batch; quick 20 batches of each of the six, full 300.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from precision_lab import figures
from precision_lab.finding import Claim, Finding
from precision_lab.mdm.loss import continuous_bound, mask_counts, masked_cross_entropy, random_subset
from precision_lab.mdm.stored import StoredModel
from precision_lab.statistics import difference, mean
from precision_lab.statistics.estimate import variance
from precision_lab.study import Analysis, Study

MODEL = StoredModel(Path(__file__).parent.parent / "models" / "mdm")
WINDOWS = 16

# ---------------------------------------------------------------- grid

FORMS = ("continuous", "discrete")
SCHEMES = ("independent", "shared", "stratified")
GRID = {  # profile -> forms, cells of each form and scheme, batches of a cell
    "smoke": (FORMS[1:], 1, 3),
    "quick": (FORMS, 1, 10),
    "full": (FORMS, 15, 20),
}


def cells(profile):
    forms, parts, batches = GRID[profile]
    return [
        {"form": form, "scheme": scheme, "part": part, "batches": batches, "weights": MODEL.identity()}
        for form in forms
        for scheme in SCHEMES
        for part in range(parts)
    ]


# ------------------------------------------------------------- measure


def measure(cell, rng):
    text = np.load(MODEL.folder / "validation.npy", allow_pickle=False).astype(np.int64)
    tokens = torch.from_numpy(text[:: len(text) // WINDOWS][:WINDOWS])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    rows = []
    for batch in range(cell["batches"]):
        # In the same order window i would always have the i-th part of the times.
        shuffled = tokens[torch.randperm(WINDOWS, generator=generator)]
        with torch.no_grad():
            losses = bound(cell["form"], shuffled, cell["scheme"], generator)
        row = {name: cell[name] for name in ("form", "scheme", "part")}
        rows.append(row | {"batch": batch, "loss": float(losses.mean())})
    return rows


def bound(form, tokens, scheme, generator):
    """Nats per token of each window, one draw of times and masks."""
    if form == "continuous":
        return continuous_bound(MODEL.network(), tokens, rng=generator, scheme=scheme)
    windows, length = tokens.shape
    counts = mask_counts(windows, length, rng=generator, scheme=scheme)
    return masked_cross_entropy(MODEL.network(), tokens, random_subset(counts, length, rng=generator))


# ------------------------------------------------------------- analyse


def analyse(rows):
    table = summary(rows)
    notes = [
        f"{r.form} {r.scheme}: {r.bound:.3f} [{r.low:.3f}, {r.high:.3f}], variance of a batch "
        f"{r.variance:.2g} [{r.variance_low:.2g}, {r.variance_high:.2g}] (n = {r.n})"
        for r in table.itertuples()
    ]
    return Analysis(findings(rows), notes, "Nats per token, 95 %", table)


def findings(rows):
    """Prop. 3.1, by the scheme of least variance."""
    best = {form: part.loss.to_numpy() for form, part in rows[rows.scheme == "stratified"].groupby("form")}
    if len(best) < 2:
        return []
    gap = difference(mean(best["continuous"]), mean(best["discrete"]))
    return [Finding("Prop. 3.1, continuous less discrete, stratified", gap, claim=Claim.EQUAL)]


def summary(rows):
    """One row a form and scheme: mean with its t interval, variance of the mean of a batch with its
    chi-square interval."""
    found = []
    for (form, scheme), part in rows.groupby(["form", "scheme"]):
        level, spread = mean(part.loss.to_numpy()), variance(part.loss.to_numpy())
        row = {"form": form, "scheme": scheme, "n": len(part)}
        row |= {"bound": level.value, "low": level.low, "high": level.high}
        row |= {"variance": spread.value, "variance_low": spread.low, "variance_high": spread.high}
        found.append(row)
    return pd.DataFrame(found)


# -------------------------------------------------------------- figure


def figure(rows, analysis):
    drawn, (left, right) = figures.canvas(2)
    for k, (form, part) in enumerate(analysis.summary.groupby("form")):
        part = part.assign(
            at=np.arange(len(part)) + 0.15 * (k - 0.5), bound_low=part.low, bound_high=part.high
        )
        style = {"label": form, "look": figures.series(k), "line": "none"}
        figures.sweep(left, part, "at", "bound", **style)
        figures.sweep(right, part, "at", "variance", **style)
    for axes in (left, right):
        axes.set_xticks(range(len(part)), part.scheme)
        axes.set_xlim(-0.5, len(part) - 0.5)
    left.set(ylabel="nats per token", title="The bound (95 %, t)")
    right.set(ylabel="nats squared", yscale="log", title="Variance of the mean of a batch of 16 (95 %)")
    left.legend()
    return drawn


STUDY = Study(
    name="training_bounds",
    question="Are the two training bounds one number on real text, and what does the way to draw times cost?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    version=2,
)
