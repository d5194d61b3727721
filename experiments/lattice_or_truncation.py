"""Is float32 Gumbel noise a truncated continuum (Prop. 5.2) or a lattice? One axis, three predictions, real
draws.

A head at logit 0 and round(0.1 e^gap) equal tokens at -gap: true tail mass 0.0909. The exact law enumerates
the 2^24 noise values; Prop. 5.2 is the closed form of noise conditioned below the ceiling; the lattice's
closed form is y / (e^y - 1), y = 2^-24 e^gap. Draws come from ``gumbel_max_fp32`` itself.
Cost: e^gap uniforms per tail token drawn.
"""

import numpy as np
import torch

from precision_lab import SAMPLERS, figures
from precision_lab.finding import Claim, Finding, evidence
from precision_lab.laws.argmax import truncated_gumbel_law
from precision_lab.laws.law import target_law
from precision_lab.samplers.gumbel_max import FP32_CEILING
from precision_lab.statistics import ratio_of_proportion
from precision_lab.study import Analysis, Study
from precision_lab.targets.synthetic import head_and_tail

EXACT, CONTINUUM, LATTICE, DRAWS = "exact law", "Prop. 5.2", "lattice, y/(e^y - 1)", "draws"

# ---------------------------------------------------------------- grid

DRAWN = {  # profile -> gap -> draws; about 0.09 of them land in the tail
    "smoke": {10.0: 400},
    "quick": {16.0: 2_000, 15.0: 3_000},
    "full": {14.0: 40_000, 15.0: 40_000, 16.0: 16_000, 17.0: 6_000},
}
GAPS = {
    "smoke": [10.0],
    "quick": [11.0, 12.0, 13.0, 14.0, 15.0, 16.0],
    "full": np.arange(10, 17.5, 0.5).tolist(),
}


def cells(profile):
    laws = [{"gap": gap, "what": "laws"} for gap in GAPS[profile]]
    draws = [{"gap": gap, "what": "draws", "draws": n} for gap, n in DRAWN[profile].items()]
    return draws + laws  # the longest first


# ------------------------------------------------------------- measure


def measure(cell, rng):
    gap, logits = cell["gap"], head_and_tail(cell["gap"])
    sampler = SAMPLERS["gumbel_max_fp32"]
    target = target_law(logits)
    tail = -np.expm1(target.log_probs[0])
    common = {"gap": gap, "vocab": len(logits)}
    if cell["what"] == "draws":
        hits = int((sampler.draw(torch.from_numpy(logits), cell["draws"], rng=rng) > 0).sum())
        found = ratio_of_proportion(hits, cell["draws"], tail)
        drawn = {"series": DRAWS, "ratio": found.value, "low": found.low, "high": found.high}
        return [common | drawn | {"n": cell["draws"]}]
    y = 2.0**-24 * np.exp(gap)
    ratios = {
        EXACT: sampler.law(logits).probs[1:].sum() / tail,
        CONTINUUM: truncated_gumbel_law(target.log_probs, FP32_CEILING).probs[1:].sum() / tail,
        LATTICE: y / np.expm1(y),
    }
    nothing = {"low": None, "high": None, "n": 0}
    return [common | {"series": name, "ratio": ratio} | nothing for name, ratio in ratios.items()]


# ------------------------------------------------------------- analyse


def analyse(rows):
    nats, notes = 0.0, []
    for gap, part in rows.groupby("gap"):
        series = part.set_index("series")
        if {DRAWS, EXACT} <= set(series.index):
            nats += log_likelihood_ratio(gap, series)
            notes.append(gap_text(gap, series))
    name = "Prop. 5.2 as the law of float32 noise, nats of the lattice over it"
    finding = Finding(name, evidence(nats), claim=Claim.BELOW, digits=1)
    head = "Likelihood ratio -/+ log(1e6); draws over the true tail, 95 %, Clopper-Pearson"
    return Analysis([finding], notes, head)


def log_likelihood_ratio(gap, series):
    """Of the draws at one gap, the exact lattice law over Prop. 5.2."""
    draws, tail = series.loc[DRAWS], -np.expm1(target_law(head_and_tail(gap)).log_probs[0])
    exact, continuum = series.ratio[EXACT], series.ratio[CONTINUUM]
    hits = round(draws.ratio * draws.n * tail)
    others = np.log1p(-exact * tail) - np.log1p(-continuum * tail)
    return hits * np.log(exact / continuum) + (draws.n - hits) * others


def gap_text(gap, series):
    draws = series.loc[DRAWS]
    laws = []
    for name in (EXACT, CONTINUUM):
        inside = "inside" if draws.low <= series.ratio[name] <= draws.high else "outside"
        laws.append(f"{name} {series.ratio[name]:.3f} ({inside})")
    found = f"{draws.ratio:.3f} [{draws.low:.3f}, {draws.high:.3f}] (n = {int(draws.n)})"
    return f"gap {gap:g}: draws {found}, {', '.join(laws)}"


# -------------------------------------------------------------- figure

LOOKS = {
    EXACT: figures.precision("float32") | {"ls": "-"},
    LATTICE: figures.series(7) | {"marker": "s", "ls": "--"},
    CONTINUUM: figures.precision("truncated") | {"ls": "-."},
}


def figure(rows, analysis):
    drawn, (axes,) = figures.canvas(width=5.6, height=3.6)
    for name, look in LOOKS.items():
        part = rows[rows.series == name].sort_values("gap")
        axes.plot(part.gap, part.ratio, label=name, **look)
    part = rows[rows.series == DRAWS].assign(value=lambda frame: frame.ratio)
    figures.sweep(axes, part, "gap", label="draws (95 %)", look=figures.series(6), line="none")
    axes.set(xlabel="gap between head and tail (nats)", ylabel="P(tail) as drawn / true")
    axes.set_title("the draws follow the lattice")
    axes.legend()
    return drawn


STUDY = Study(
    name="lattice_or_truncation",
    question="Who predicts the draws of float32 Gumbel-max: the lattice or the truncated continuum?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
)
