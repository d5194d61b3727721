"""How often is the network called? The law of E-NFE (Eq. 73 of arXiv:2409.02908, its figure of E-NFE) against real decoding.

models/mdm, 32 tokens (the law knows only N and B L), a network that is not told the time. Sequences are decoded
event-driven, each for itself; a batch of B calls at every step in which one of its sequences got a token, so the times of
the tokens give the calls of every grouping.
Groups are disjoint: n = sequences / B. With the faithful law of a step the count must have the law of occupied boxes: two-sided
tests of the sum of n counts, exact, Bonferroni over N and B, fail a right decoder once in 1000 and see a mean that is 3 % off
at N = 256, B = 1 (99.9 %). With the lattice of float32
noise: does it call less? Beside them `ancestral` in full, every draw made, whose own count spares complete sequences.
Cost: 0.2 s a sequence on one core; full about three core-minutes.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import signal, stats

from precision_lab import SAMPLERS, figures
from precision_lab.files import read_json
from precision_lab.laws.process import faithful_step, lattice_step
from precision_lab.mdm import decode
from precision_lab.mdm.cost import expected_calls, expected_nfe, nfe_law, nfe_variance
from precision_lab.mdm.train import load_model
from precision_lab.result import with_long_run
from precision_lab.statistics import mean
from precision_lab.study import Study

ROOT, LENGTH, PART, BATCHES, LEVEL = Path(__file__).parent.parent, 32, 16, (1, 2, 4, 16), 1e-3
LAWS = {"faithful": faithful_step, "float32 lattice": lattice_step}
GRID = {  # profile -> (law or sampler, steps, parts of 16 sequences)
    "smoke": [("faithful", 4, 1), ("gumbel_max_fp64", 2, 1)],
    "quick": [("faithful", 4, 1), ("faithful", 32, 1), ("gumbel_max_fp64", 4, 1)],
    "full": [("faithful", steps, 6) for steps in (16, 64, 256, 1024, 5000)]
    + [("float32 lattice", steps, 6) for steps in (1024, 5000)]
    + [("gumbel_max_fp64", 16, 1), ("gumbel_max_fp64", 64, 1)],
}
KEY = ["law", "steps", "part", "batch", "group"]
model = cache(lambda: load_model(ROOT / "models" / "mdm"))


def cells(profile):
    weights = read_json(ROOT / "models" / "mdm" / "manifest.json")["weights_sha256"][:12]
    return [
        {"law": law, "steps": steps, "part": part, "length": LENGTH, "weights": weights}
        for law, steps, parts in GRID[profile]
        for part in range(parts)
    ]


def measure(cell, rng):
    """A row a group: distinct steps (``nfe``), and what the decoder would count or has counted (``calls``)."""
    common = {"length": LENGTH, "steps": cell["steps"], "rng": rng}
    if cell["law"] in LAWS:
        came = decode.event_driven(model(), LAWS[cell["law"]], batch=PART, **common).steps.numpy()
        return [cell | row(came[i : i + batch], batch, i // batch) for batch in BATCHES for i in range(0, PART, batch)]
    rows = []
    for batch in BATCHES:  # each decoded anew, in one batch
        done = decode.ancestral(model(), SAMPLERS[cell["law"]], batch=batch, **common)
        rows.append(cell | row(done.steps.numpy(), batch, 0) | {"decoder_calls": done.nfe, "draws": done.draws})
    return rows


def row(came, batch, group):
    last = came.max(1, keepdims=True)
    calls = 1 + len(np.unique(came[came < last]))  # to begin, and after a token that is not a sequence's last
    return {"batch": batch, "group": group, "nfe": len(np.unique(came)), "calls": calls}


def summary(frame):
    """A row for each law, N and B: mean and variance of the distinct steps with their intervals, the laws', and p."""
    frame, rows = with_long_run(frame, ROOT, "network_calls", KEY), []
    for (law, steps, batch), part in frame.groupby(["law", "steps", "batch"]):
        nfe, n, e = part.nfe.to_numpy(), len(part), expected_nfe(steps, LENGTH, batch)
        found, variance = mean(nfe), nfe_variance(steps, LENGTH, batch)
        spread, chi2 = nfe.var(ddof=1) if n > 1 else np.nan, stats.chi2.isf([0.025, 0.975], max(n - 1, 1))
        rows.append({"law": law, "steps": steps, "batch": batch, "n": n, "nfe": found.value, "low": found.low, "high": found.high,
                     "expected": e, "variance": spread, "variance_low": spread * (n - 1) / chi2[0],
                     "variance_high": spread * (n - 1) / chi2[1], "expected_variance": variance,
                     "p": p_value(int(nfe.sum()), n, steps, batch), "calls": part.calls.mean(),
                     "expected_calls": expected_calls(steps, LENGTH, batch)})  # fmt: skip
    return pd.DataFrame(rows)


def p_value(total, n, steps, batch):
    """Two-sided, exact to 1e-12: where the sum of n independent counts lies in its law. At most 1."""
    law, of_sum = nfe_law(steps, LENGTH, batch), np.ones(1)
    for _ in range(n):
        of_sum = signal.convolve(of_sum, law, method="direct")
    return min(1.0, 2 * min(of_sum[: total + 1].sum(), of_sum[total:].sum()))


def draw(frame):
    table, grid = summary(frame), np.geomspace(4, 20_000, 200).round().astype(int)
    figure, (nfe, off) = figures.canvas(2, width=4.6, height=3.6)
    for k, batch in enumerate(BATCHES):
        style, law = figures.series(k), [expected_nfe(steps, LENGTH, batch) for steps in grid]
        nfe.plot(grid, law, color=style["color"], lw=1, label=f"B = {batch}: law")
        for face, name, shift in ((style["color"], "faithful", 0.94), ("white", "float32 lattice", 1.06)):
            part = table[(table.batch == batch) & (table.law == name)]
            nfe.plot(part.steps, part.nfe, ls="none", mfc=face, **style)
            sd, at = np.sqrt(part.expected_variance.clip(lower=1e-300) / part.n), part.steps * shift * 1.05 ** (k - 1.5)
            off.plot(at, (part.nfe - part.expected) / sd.where(sd > 1e-6), ls="none", mfc=face, **style)
    off.axhspan(-1.96, 1.96, color="#dddddd", lw=0, zorder=0)
    nfe.set(xscale="log", yscale="log", xlabel="steps N", ylabel=f"network calls, {LENGTH} tokens a sequence")
    nfe.set_title("law (lines) and measured means")
    off.set(xscale="log", xlabel="steps N", ylabel="(mean - law) / its standard deviation")
    off.set_title("filled: faithful; open: float32 lattice; grey: 95 %")
    figure.legend(*nfe.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def verdict(frame):
    table, text = summary(frame), []
    table = table[
        (table.expected_variance > 1e-9) & (table.n > 1)
    ]  # with few steps every step is hit: nothing is random
    for law, part in table[table.law.isin(LAWS)].groupby("law"):
        least = part.p.min() * len(part)
        said = "Eq. 73 reproduced" if law == "faithful" else "no difference from Eq. 73 seen"
        found = [
            f"N = {r.steps} B = {r.batch} {r.nfe:.2f} [{r.low:.2f}, {r.high:.2f}] for {r.expected:.2f}, variance "
            f"{r.variance:.3g} for {r.expected_variance:.3g} (n = {r.n})"
            for r in part.itertuples()
        ]
        said = said if least > LEVEL else "not Eq. 73"
        text.append(f"{law}: {said}, smallest p of {len(part)} times {len(part)} = {least:.2g}; " + "; ".join(found))
    if (real := with_long_run(frame, ROOT, "network_calls", KEY)).get("decoder_calls") is not None:
        real = real[real.decoder_calls.notna()]
        text.append(
            f"`ancestral` in full: {int((real.decoder_calls == real.calls).sum())} of {len(real)} runs called as the times of "
            "their tokens say, once to begin and once after each step with a token that is not its sequence's last; by that "
            f"law up to {(table.expected - table.expected_calls).max() if len(table) else 0:.1f} calls fewer a batch than Eq. 73"
        )
    return ". ".join(text) + "."


QUESTION = "How often does a cached ancestral decoder call its network, for batches of 1, 2, 4 and 16?"
STUDY = Study("network_calls", QUESTION, cells, measure, draw, verdict, summary=summary)
