"""Is float32 Gumbel noise a truncated continuum (Prop. 5.2) or a lattice? One axis, three predictions, real draws.

A head at logit 0 and round(0.1 e^gap) equal tokens at -gap: true tail mass 0.0909. The exact law enumerates the 2^24
noise values; Prop. 5.2 is the closed form of noise conditioned below the ceiling; the lattice's closed form is
y / (e^y - 1), y = 2^-24 e^gap. Draws come from ``gumbel_max_fp32`` itself. Cost: e^gap uniforms per tail token drawn.
"""

import numpy as np
import torch

from precision_lab import SAMPLERS, figures
from precision_lab.laws.argmax import truncated_gumbel_law
from precision_lab.laws.law import target_law
from precision_lab.samplers.gumbel_max import FP32_CEILING
from precision_lab.statistics import ratio_of_proportion
from precision_lab.study import Study
from precision_lab.targets.synthetic import head_and_tail

DRAWS = {  # gap -> draws; about 0.09 of them land in the tail
    "smoke": {10.0: 400},
    "quick": {16.0: 4_000, 15.0: 6_000},
    "full": {14.0: 40_000, 15.0: 40_000, 16.0: 16_000, 17.0: 6_000},
}
GAPS = {"smoke": [10.0], "quick": [11.0, 12.0, 13.0, 14.0, 15.0, 16.0], "full": np.arange(10, 17.5, 0.5).tolist()}
CERTAIN = np.log(1e6)  # nats by which a wrong law overtakes the right one at most once in a million


def cells(profile):
    laws = [{"gap": gap, "what": "laws"} for gap in GAPS[profile]]
    draws = [{"gap": gap, "what": "draws", "draws": n} for gap, n in DRAWS[profile].items()]
    return draws + laws  # the longest first


def measure(cell, rng):
    gap, logits = cell["gap"], head_and_tail(cell["gap"])
    target, sampler = target_law(logits), SAMPLERS["gumbel_max_fp32"]
    tail = -np.expm1(target.log_probs[0])
    row = lambda series, estimate, n=0, low=None, high=None: {  # noqa: E731
        "gap": gap, "vocab": len(logits), "series": series, "ratio": estimate, "low": low, "high": high, "n": n,
    }  # fmt: skip
    if cell["what"] == "laws":
        exact, truncated = sampler.law(logits), truncated_gumbel_law(target.log_probs, FP32_CEILING)
        y = 2.0**-24 * np.exp(gap)
        return [
            row("exact law", exact.probs[1:].sum() / tail),
            row("Prop. 5.2", truncated.probs[1:].sum() / tail),
            row("lattice, y/(e^y - 1)", y / np.expm1(y)),
        ]
    hits = int((sampler.draw(torch.from_numpy(logits), cell["draws"], rng=rng) > 0).sum())
    estimate = ratio_of_proportion(hits, cell["draws"], tail)
    return [row("draws", estimate.value, cell["draws"], estimate.low, estimate.high)]


def draw(frame):
    figure, (axes,) = figures.canvas(width=5.6, height=3.6)
    for k, name in enumerate(["exact law", "lattice, y/(e^y - 1)", "Prop. 5.2"]):
        part = frame[frame.series == name].sort_values("gap")
        axes.plot(
            part.gap,
            part.ratio,
            label=name,
            ls=("-", "--", "-.")[k],
            color=figures.COLOURS[k],
            marker=figures.MARKERS[k],
        )
    part = frame[frame.series == "draws"]
    figures.interval(axes, part.gap, part.ratio, part.low, part.high, label="draws (95 %)", index=6, line="none")
    axes.set(
        xlabel="gap between head and tail (nats)",
        ylabel="P(tail) as drawn / true",
        title="the draws follow the lattice",
    )
    axes.legend()
    return figure


def verdict(frame):
    lines, evidence = [], 0.0
    for gap, part in frame.groupby("gap"):
        value = part.set_index("series")
        if "draws" not in value.index or "exact law" not in value.index:
            continue
        seen, tail = value.loc["draws"], -np.expm1(target_law(head_and_tail(gap)).log_probs[0])
        exact, truncated = value.ratio["exact law"], value.ratio["Prop. 5.2"]
        hits = round(seen.ratio * seen.n * tail)
        evidence += hits * np.log(exact / truncated)
        evidence += (seen.n - hits) * (np.log1p(-exact * tail) - np.log1p(-truncated * tail))
        inside = ["inside" if seen.low <= ratio <= seen.high else "outside" for ratio in (exact, truncated)]
        lines.append(
            f"gap {gap:g}: draws {seen.ratio:.3f} [{seen.low:.3f}, {seen.high:.3f}] (n = {int(seen.n)}), exact lattice law "
            f"{exact:.3f} ({inside[0]}), Prop. 5.2 {truncated:.3f} ({inside[1]})"
        )
    found = "different, a lattice" if evidence > CERTAIN else "reproduced" if evidence < -CERTAIN else "not decided"
    lines[:0] = [f"Prop. 5.2 as the law of float32 noise: {found}. 95 %, Clopper-Pearson"]
    return "; ".join(lines) + f". Log likelihood ratio of the draws, lattice over Prop. 5.2: {evidence:+.1f} nats."


STUDY = Study(
    name="lattice_or_truncation",
    question="Who predicts the draws of float32 Gumbel-max: the lattice or the truncated continuum?",
    cells=cells,
    measure=measure,
    draw=draw,
    verdict=verdict,
)
