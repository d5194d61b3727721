"""Are the two training bounds one number on real text, and how much variance does the way to draw times take out?

Prop. 3.1 of arXiv:2409.02908 (its Table of equivalences) and its remark on low-discrepancy sampling. models/mdm on 16 held-out
windows, always the same, so that all variance is of times and masks. Continuous time: every position masked with probability
m, weight 1/m; discrete: n masks exactly, weight 1/n. Each with times independent, shared (one u and even steps) and
stratified (one u in each of 16 parts). The bounds agree exactly on an enumerable network (tests); here by Monte Carlo.
Cost: half a second a batch; quick 20 batches of each of the six, full 300.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from precision_lab import figures
from precision_lab.files import read_json
from precision_lab.mdm.loss import continuous_bound, mask_counts, masked_cross_entropy, random_subset
from precision_lab.mdm.train import load_model
from precision_lab.statistics import mean
from precision_lab.study import Study

MODEL = Path(__file__).parent.parent / "models" / "mdm"
FORMS, SCHEMES, WINDOWS, PER_CELL = ("continuous", "discrete"), ("independent", "shared", "stratified"), 16, 20
CELLS = {"smoke": 1, "quick": 1, "full": 15}
model = cache(lambda: load_model(MODEL))


def cells(profile):
    weights = read_json(MODEL / "manifest.json")["weights_sha256"][:12]
    batches = 3 if profile == "smoke" else PER_CELL
    forms = FORMS[1:] if profile == "smoke" else FORMS
    return [
        {"form": form, "scheme": scheme, "part": part, "batches": batches, "weights": weights}
        for form in forms
        for scheme in SCHEMES
        for part in range(CELLS[profile])
    ]


def measure(cell, rng):
    text = np.load(MODEL / "validation.npy", allow_pickle=False).astype(np.int64)
    tokens, form, scheme = torch.from_numpy(text[:: len(text) // WINDOWS][:WINDOWS]), cell["form"], cell["scheme"]
    generator, rows = torch.Generator().manual_seed(int(rng.integers(2**62))), []
    for batch in range(cell["batches"]):
        shuffled = tokens[
            torch.randperm(WINDOWS, generator=generator)
        ]  # else window i would always have the i-th part of the times
        with torch.no_grad():
            if form == "continuous":
                losses = continuous_bound(model(), shuffled, rng=generator, scheme=scheme)
            else:
                counts = mask_counts(WINDOWS, tokens.shape[1], rng=generator, scheme=scheme)
                losses = masked_cross_entropy(model(), shuffled, random_subset(counts, tokens.shape[1], rng=generator))
        rows.append(
            {"form": form, "scheme": scheme, "part": cell["part"], "batch": batch, "loss": float(losses.mean())}
        )
    return rows


def summary(frame):
    """One row a form and scheme: mean with its t interval, variance of the mean of a batch with its chi-square interval."""
    rows = []
    for (form, scheme), part in frame.groupby(["form", "scheme"]):
        n, variance, found = len(part), float(part.loss.var()), mean(part.loss.to_numpy())
        low, high = variance * (n - 1) / stats.chi2.isf([0.025, 0.975], n - 1)
        rows.append({"form": form, "scheme": scheme, "n": n, "bound": found.value, "low": found.low, "high": found.high,
                     "variance": variance, "variance_low": low, "variance_high": high})  # fmt: skip
    return pd.DataFrame(rows)


def draw(frame):
    table = summary(frame)
    figure, (left, right) = figures.canvas(2)
    for k, (form, part) in enumerate(table.groupby("form")):
        at = np.arange(len(part)) + 0.15 * (k - 0.5)
        figures.interval(left, at, part.bound, part.low, part.high, label=form, index=k, line="none")
        figures.interval(
            right, at, part.variance, part.variance_low, part.variance_high, label=form, index=k, line="none"
        )
    for axes in (left, right):
        axes.set_xticks(range(len(part)), part.scheme)
        axes.set_xlim(-0.5, len(part) - 0.5)
    left.set(ylabel="nats per token", title="The bound (95 %, t)")
    right.set(ylabel="nats squared", yscale="log", title="Variance of the mean of a batch of 16 (95 %)")
    left.legend()
    return figure


def verdict(frame):
    table = summary(frame).set_index(["form", "scheme"])
    text = [f"{form} {scheme}: {r.bound:.3f} [{r.low:.3f}, {r.high:.3f}] nats per token, variance of a batch "
            f"{r.variance:.2g} [{r.variance_low:.2g}, {r.variance_high:.2g}] (n = {int(r.n)})"
            for (form, scheme), r in table.iterrows()]  # fmt: skip
    best = {form: part.loss.to_numpy() for form, part in frame[frame.scheme == "stratified"].groupby("form")}
    if len(best) == 2:
        test = stats.ttest_ind(best["continuous"], best["discrete"], equal_var=False).confidence_interval(0.95)
        found = "reproduced within that" if test.low <= 0 <= test.high else "not reproduced"
        text.append(
            f"Prop. 3.1: continuous less discrete, stratified, [{test.low:.3f}, {test.high:.3f}] (95 %, Welch): {found}"
        )
    return ". ".join(text) + "."


QUESTION = "Are the two training bounds one number on real text, and what does the way to draw times cost?"
STUDY = Study("training_bounds", QUESTION, cells, measure, draw, verdict, version=2, summary=summary)
