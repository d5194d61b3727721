"""How often is the network called? The law of E-NFE (Eq. 73 of arXiv:2409.02908, its figure of E-NFE)
against real decoding.

models/mdm, 32 tokens (the law knows only N and B L), a network that is not given the time. Sequences are
decoded event-driven, each for itself; a batch of B calls at every step in which one of its sequences got a
token, so the times of the tokens give the calls of every grouping. Groups are disjoint: n = sequences / B.
With the law asked for the count must have the law of occupied boxes: two-sided tests of the sum of n counts,
exact, Bonferroni over N and B, fail a right decoder once in 1000 and see a mean that is 3 % off at N = 256,
B = 1 (99.9 %). With the lattice of float32 noise: does it call less? Beside them `ancestral` in full, every
draw made, whose own count spares complete sequences.
Cost: 0.2 s a sequence on one core; full about three core-minutes.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import signal

from precision_lab import SAMPLERS, figures
from precision_lab.laws.process import faithful_step, lattice_step
from precision_lab.mdm import decode
from precision_lab.mdm.cost import expected_calls, expected_nfe, nfe_law, nfe_variance
from precision_lab.mdm.stored import StoredModel
from precision_lab.statistics import mean
from precision_lab.statistics.estimate import variance
from precision_lab.study import Analysis, Study

MODEL = StoredModel(Path(__file__).parent.parent / "models" / "mdm")
LENGTH = 32
BATCHES = (1, 2, 4, 16)
LAWS = {"faithful": faithful_step, "float32 lattice": lattice_step}

# ---------------------------------------------------------------- grid

PART = 16  # sequences of a cell
SAMPLER = "gumbel_max_fp64"
GRID = {  # profile -> (law or sampler, steps, parts)
    "smoke": [("faithful", 4, 1), (SAMPLER, 2, 1)],
    "quick": [("faithful", 4, 1), ("faithful", 32, 1), (SAMPLER, 4, 1)],
    "full": [
        *(("faithful", steps, 6) for steps in (16, 64, 256, 1024, 5000)),
        *(("float32 lattice", steps, 6) for steps in (1024, 5000)),
        *((SAMPLER, steps, 1) for steps in (16, 64)),
    ],
}


def cells(profile):
    return [
        {"law": law, "steps": steps, "part": part, "length": LENGTH, "weights": MODEL.identity()}
        for law, steps, parts in GRID[profile]
        for part in range(parts)
    ]


# ------------------------------------------------------------- measure


def measure(cell, rng):
    """A row a group: distinct steps (``nfe``), and what the decoder would count or has counted
    (``calls``)."""
    if cell["law"] in LAWS:
        return event_driven(cell, rng)
    return in_full(cell, rng)


def event_driven(cell, rng):
    """All sequences once, grouped afterwards."""
    size = {"batch": PART, "length": LENGTH, "steps": cell["steps"]}
    done = decode.event_driven(MODEL.network(), LAWS[cell["law"]], **size, rng=rng)
    unmasked_at = done.steps.numpy()
    return [
        cell | counted(unmasked_at[first : first + batch], batch, first // batch)
        for batch in BATCHES
        for first in range(0, PART, batch)
    ]


def in_full(cell, rng):
    """One batch of each size, each decoded anew."""
    rows = []
    for batch in BATCHES:
        size = {"batch": batch, "length": LENGTH, "steps": cell["steps"]}
        done = decode.ancestral(MODEL.network(), SAMPLERS[cell["law"]], **size, rng=rng)
        own = {"decoder_calls": done.nfe, "draws": done.draws}
        rows.append(cell | counted(done.steps.numpy(), batch, 0) | own)
    return rows


def counted(unmasked_at, batch, group):
    last = unmasked_at.max(1, keepdims=True)
    before_last = np.unique(unmasked_at[unmasked_at < last])
    calls = 1 + len(before_last)  # to begin, and after a token that is not a sequence's last
    return {"batch": batch, "group": group, "nfe": len(np.unique(unmasked_at)), "calls": calls}


# ------------------------------------------------------------- analyse

LEVEL = 1e-3  # of a right decoder


def analyse(rows):
    table = summary(rows)
    random = table[(table.expected_variance > 1e-9) & (table.n > 1)]  # with few steps every step is hit
    notes = []
    for law, part in random[random.law.isin(LAWS)].groupby("law"):
        least = part.p.min() * len(part)
        seen = "a departure from" if least <= LEVEL else "no departure from"
        notes.append(f"{law}: {seen} Eq. 73, smallest p of {len(part)} points times {len(part)} {least:.2g}")
        notes += [count_text(row) for row in part.itertuples()]
    head = "Mean of the counts, 95 %, for the law's"
    return Analysis(notes=notes + in_full_text(rows, random), head=head, summary=table)


def summary(rows):
    """A row for each law, N and B: mean and variance of the distinct steps with their intervals, the
    laws', and p."""
    found = []
    for (law, steps, batch), part in rows.groupby(["law", "steps", "batch"]):
        nfe, n, size = part.nfe.to_numpy(), len(part), (steps, LENGTH, batch)
        level = mean(nfe)
        row = {"law": law, "steps": steps, "batch": batch, "n": n}
        row |= {"nfe": level.value, "low": level.low, "high": level.high, "expected": expected_nfe(*size)}
        spread = dict.fromkeys(("variance", "variance_low", "variance_high"), np.nan)
        if n > 1:
            estimate = variance(nfe)
            spread = dict(zip(spread, (estimate.value, estimate.low, estimate.high), strict=True))
        row |= spread | {"expected_variance": nfe_variance(*size)}
        row |= {"p": p_value(int(nfe.sum()), n, steps, batch)}
        found.append(row | {"calls": part.calls.mean(), "expected_calls": expected_calls(*size)})
    return pd.DataFrame(found)


def p_value(total, n, steps, batch):
    """Two-sided, exact to 1e-12: where the sum of n independent counts lies in its law. At most 1."""
    law = nfe_law(steps, LENGTH, batch)
    of_sum = np.ones(1)
    for _ in range(n):
        of_sum = signal.convolve(of_sum, law, method="direct")
    return min(1.0, 2 * min(of_sum[: total + 1].sum(), of_sum[total:].sum()))


def count_text(row):
    return (
        f"{row.law}, N = {row.steps} B = {row.batch} {row.nfe:.2f} [{row.low:.2f}, {row.high:.2f}] for "
        f"{row.expected:.2f}, variance {row.variance:.3g} for {row.expected_variance:.3g} (n = {row.n})"
    )


def in_full_text(rows, random):
    if "decoder_calls" not in rows:
        return []
    real = rows[rows.decoder_calls.notna()]
    as_times_say = int((real.decoder_calls == real.calls).sum())
    fewer = (random.expected - random.expected_calls).max() if len(random) else 0
    return [
        f"`ancestral` in full: {as_times_say} of {len(real)} runs called as the times of their tokens say, "
        "once to begin and once after each step with a token that is not its sequence's last; "
        f"by that law up to {fewer:.1f} calls fewer a batch than Eq. 73"
    ]


# -------------------------------------------------------------- figure

STEPS = np.geomspace(4, 20_000, 200).round().astype(int)
SHOWN = {
    "faithful": (None, 1.0, 0.94),
    "float32 lattice": ("white", 1.15, 1.06),
}  # face, shift left and right


def figure(rows, analysis):
    table = analysis.summary
    drawn, (nfe, off) = figures.canvas(2, width=4.6, height=3.6)
    off.axhspan(-1.96, 1.96, color="#dddddd", lw=0, zorder=0)
    for k, batch in enumerate(BATCHES):
        look = figures.series(k)
        nfe.plot(STEPS, [expected_nfe(steps, LENGTH, batch) for steps in STEPS], color=look["color"], lw=1)
        for law, (face, left, right) in SHOWN.items():
            part = table[(table.batch == batch) & (table.law == law)]
            style = look | {"ls": "none", "mfc": face or look["color"]}
            nfe.plot(part.steps * left, part.nfe, label=f"B = {batch}, {law}", **style)
            error = np.sqrt(part.expected_variance.clip(lower=1e-300) / part.n)
            deviation = (part.nfe - part.expected) / error.where(error > 1e-6)
            off.plot(part.steps * right * 1.05 ** (k - 1.5), deviation, **style)
    nfe.set(xscale="log", yscale="log", xlabel="steps N", ylabel=f"network calls, {LENGTH} tokens a sequence")
    nfe.set_title("law (lines) and measured means")
    off.set(xscale="log", xlabel="steps N", ylabel="(mean - law) / its standard deviation")
    off.set_title("filled: faithful; open: float32 lattice; grey: 95 %")
    drawn.legend(*nfe.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return drawn


STUDY = Study(
    name="network_calls",
    question="How often does a cached ancestral decoder call its network, for batches of 1, 2, 4 and 16?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    keys=("law", "steps", "part", "batch", "group"),
)
