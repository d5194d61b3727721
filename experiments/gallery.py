"""How far does each published sampler reach into the tail, and how far is it from its target on logits of a
real model?

Reach: a head at logit 0 and 1,000 equal tokens ``gap`` below it; the exact law's tail mass over the true
one, which is 1 at every gap for a right sampler. Then total variation on an ancestral step (N = 128 to
50,000) and a first-hitting draw of our own masked diffusion model, beside the least that any sampler could
have with one such word a draw (an argmax sampler takes one a *token*, with which 0 could be had but for
2^-100,000). No draws anywhere. A law is emulated where the arithmetic is another's and was evaluated here.
First-hitting draws, and samplers whose noise has more than 2^25 values, are in the long run only.
Cost: quick two minutes, full an hour and a half.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from precision_lab import SAMPLERS, figures
from precision_lab.errors import InputError
from precision_lab.laws.lattice import best_total_variation
from precision_lab.laws.law import target_law
from precision_lab.samplers import PUBLISHED, UniformSampler, with_tolerance
from precision_lab.statistics import total_variation
from precision_lab.study import Analysis, Study
from precision_lab.targets import load_capture
from precision_lab.targets.synthetic import mdm_step

LOGITS = Path(__file__).parent.parent / "models" / "mdm" / "logits.safetensors"
ROW = 12  # of the recorded logits

# ---------------------------------------------------------------- grid

FIRST_HITTING = 0  # in place of the steps N
GRID = {  # profile -> gaps, steps
    "smoke": ([8, 14], [1024]),
    "quick": ([10, 14, 16, 18], [50_000]),
    "full": (
        [6, 8, 10, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 24],
        [128, 1024, 16_384, 50_000, FIRST_HITTING],
    ),
}
TEXTBOOK = [
    "gumbel_max_fp16",
    "gumbel_max_bf16",
    "gumbel_max_fp32",
    "gumbel_max_fp64",
    "inverse_cdf_fp32",
    "torch_multinomial_fp16",
    "torch_multinomial_fp32",
    "torch_multinomial_replacement_fp32",
]


def cells(profile):
    gaps, steps = GRID[profile]
    return [{"sampler": name, "gaps": gaps, "steps": steps} for name in names(profile)]


def names(profile):
    """The longest first."""
    if profile == "smoke":
        found = ["jax_low_bf16", "candle"]
    else:
        found = TEXTBOOK + [n for n, sampler in PUBLISHED.items() if profile == "full" or not large(sampler)]
    return sorted(found, key=lambda name: SAMPLERS[name].stages.score != "fp64")


def large(sampler):
    """Whether its law takes many minutes."""
    return (
        isinstance(sampler, UniformSampler) and sampler.source.enumerable and sampler.source.bits in (31, 32)
    )


# ------------------------------------------------------------- measure

TAIL = 1000  # tokens


def measure(cell, rng):
    sampler = with_tolerance(SAMPLERS[cell["sampler"]], tolerance=1e-8, relative=1e-2)
    return [of_target(sampler, *target) for target in targets(cell)]


def targets(cell):
    """(kind, gap or N, logits, tokens whose mass is compared)."""
    found = []
    for gap in cell["gaps"]:
        logits = np.concatenate([[0.0], np.full(TAIL, -float(gap))])
        found.append(("reach", gap, logits, slice(1, None)))
    log_mu = real_row()
    for n in cell["steps"]:
        logits = log_mu if n == FIRST_HITTING else mdm_step(log_mu, 2 / n)  # r at half time
        found.append(("mdm", n, logits, slice(0, len(log_mu))))
    return found


@cache
def real_row():
    logits = load_capture(LOGITS).row(ROW).logits
    return target_law(np.asarray(logits, dtype=np.float64)).log_probs


def of_target(sampler, kind, at, logits, rare):
    row = {"sampler": sampler.name, "kind": kind, "at": at}
    try:
        law, true = sampler.law(torch.from_numpy(logits)), target_law(logits)
    except InputError as error:
        return row | {"note": str(error)}
    bits = sampler.bits_per_draw(len(logits))
    one_word = bits if bits <= 64 else bits / len(logits)
    return row | {
        "ratio": law.probs[rare].sum() / true.probs[rare].sum(),  # of tail mass, or of unmasking
        "total_variation": total_variation(law, true),
        "error": law.error,
        "relative": law.relative,
        "unreachable": len(law.unreachable),
        "guarantee": str(law.guarantee),
        "bits": bits,
        "best_with_these_bits": best_total_variation(true.probs, int(bits)),
        "best_of_one_word": best_total_variation(true.probs, int(one_word)),
        "note": law.how,
    }


# ------------------------------------------------------------- analyse

HALF = 0.5  # off by so much of the tail
TOO_OFTEN = 1.05
WORST = 3  # samplers named


def analyse(rows):
    rows = with_laws(rows)
    reach = rows[rows.kind == "reach"].sort_values("at")
    off = reach[(reach["ratio"] - 1).abs() > HALF].groupby("sampler")["at"].first().sort_values(kind="stable")
    kept = sorted(set(reach.sampler) - set(off.index))
    peaks = drawn_too_often(reach, off)
    largest = (
        rows[rows.kind == "mdm"].sort_values("shown", ascending=False).drop_duplicates("sampler").head(WORST)
    )
    notes = [
        "first gap on the grid at which the tail is off by more than half: "
        + ", ".join(f"{name} {gap:g}" for name, gap in off.items()),
        "drawn too often by more than 5 % at a smaller gap: "
        + (", ".join(f"{r.Index} {r.ratio:.3g} at {r.at:g}" for r in peaks.itertuples()) or "none"),
        f"within half at every gap: {', '.join(kept)}",
        "largest total variation on real logits: "
        + ", ".join(f"{r.sampler} {r.shown:.3g}" for r in largest.itertuples()),
    ]
    return Analysis(notes=notes, head=f"{reach.sampler.nunique()} samplers", summary=summary(rows))


def with_laws(rows):
    """Without refusals; ``shown``: total variation, or its bound where the law is no nearer."""
    rows = rows[rows["ratio"].notna()].copy()
    rows["bound"] = rows.guarantee.isin(("certified", "emulated")) & (rows.error > rows.total_variation)
    rows["shown"] = rows.total_variation.where(~rows.bound, rows.error)
    return rows


def drawn_too_often(reach, off):
    """Each sampler's largest ratio before its tail is off by half, where it is more than 5 % too much."""
    before = reach[reach["at"] < reach.sampler.map(off).fillna(np.inf)]
    peak = before.sort_values("ratio").drop_duplicates("sampler", keep="last").set_index("sampler")
    return peak[peak["ratio"] > TOO_OFTEN]


def summary(rows):
    """One row a sampler: total variation by target, largest first, an upper bound where marked; reach by
    gap."""
    reach = rows[rows.kind == "reach"].pivot(index="sampler", columns="at", values="ratio")
    steps = rows[rows.kind == "mdm"].pivot(index="sampler", columns="at", values="shown")
    table = pd.DataFrame(index=steps.index)
    table["publisher"] = [SAMPLERS[name].publisher for name in table.index]
    table["ceiling"] = [SAMPLERS[name].ceiling for name in table.index]
    for n in sorted(steps, key=lambda n: n or np.inf):
        table[f"tv_ancestral_{n}" if n else "tv_first_hitting"] = steps[n]
    last = of_most_steps(rows).set_index("sampler")
    for column, name in (("bound", "is_bound"), ("bits", "bits"), ("best_of_one_word", "best_of_one_word")):
        table[name] = last[column]
    for gap in reach:
        table[f"reach_{gap}"] = reach[gap]
    order = steps.max(axis=1).sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index()


def of_most_steps(rows):
    return rows[rows.kind == "mdm"].sort_values("at").drop_duplicates("sampler", keep="last")


# -------------------------------------------------------------- figure

SHOWN = [
    "jax_low_bf16",
    "fast_dllm_fork_fp16",
    "torch_compiled_race_fp32",
    "jax_low_fp32",
    "mdlm_fp32",
    "torch_cuda_race_fp32",
    "tl_rand_flipped",
    "vllm_murmur32",
]
NEAR_ONE = SHOWN[2:]
TITLES = {
    1024: "ancestral step, N = 1024",
    50_000: "ancestral step, N = 50,000",
    FIRST_HITTING: "first-hitting draw",
}


def figure(rows, analysis):
    rows = with_laws(rows)
    emulated = set(rows[rows.guarantee == "emulated"].sampler)
    reach = rows[rows.kind == "reach"]
    drawn, (left, middle, right) = figures.canvas(3, width=5.2, height=6.4)
    all_gaps = reach.assign(ratio=reach["ratio"].clip(1e-4, 1e4), error=np.nan)
    draw_reach(left, all_gaps, SHOWN, emulated)
    left.set(yscale="log", xticks=range(6, 25, 2), title="Reach: a faithful sampler stays at 1")
    left.set(xlabel="gap below the head (nats)", ylabel="tail mass drawn / true (0 shown at 1e-4)")
    draw_reach(middle, reach[reach["at"].between(12, 18)], NEAR_ONE, emulated)
    middle.set(ylim=(0, 1.4), xlim=(11.7, 18.3), title="The same near 1, float32 samplers")
    middle.set(xlabel="gap below the head (nats)", ylabel="tail mass drawn / true (bars: the law's error)")
    draw_distance(right, rows, emulated)
    drawn.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return drawn


def draw_reach(axes, reach, names, emulated):
    """Tail mass over the true one, by gap; bars: the law's error, which is of the probability, not of the
    ratio."""
    for k, name in enumerate(SHOWN):
        part = reach[(reach.sampler == name) & (name in names)].sort_values("at")
        true = TAIL * np.exp(-part["at"]) / (1 + TAIL * np.exp(-part["at"]))
        label = f"{name} (emulated)" if name in emulated else name
        axes.errorbar(
            part["at"],
            part["ratio"],
            yerr=part.error / true,
            elinewidth=0.8,
            label=label,
            **figures.series(k),
        )
    axes.axhline(1, color="black", lw=1, ls=":")


def draw_distance(axes, rows, emulated):
    """Total variation on real logits, a row a sampler."""
    mdm = rows[rows.kind == "mdm"]
    order = mdm.groupby("sampler").shown.max().sort_values().index
    y = pd.Series(np.arange(len(order)), order)
    for k, n in enumerate([n for n in (50_000, FIRST_HITTING) if (mdm["at"] == n).any()] or [1024]):
        for bound, part in mdm[mdm["at"] == n].groupby("bound"):
            style = figures.series(k) | ({"mfc": "white"} if bound else {"label": TITLES[n]})
            axes.plot(part.shown, y[part.sampler], ls="none", **style)
    last = of_most_steps(rows)
    least = last.best_of_one_word.clip(1e-17)
    tick = {"ls": "none", "marker": "|", "color": "black"}
    axes.plot(least, y[last.sampler], label="least possible with one word", **tick)
    axes.plot([], [], ls="none", marker="$*$", color="black", label="emulated: another's arithmetic")
    axes.set_yticks(y, [f"{name} *" if name in emulated else name for name in y.index], fontsize=6.5)
    axes.set(xscale="log", xlabel="total variation from the target (open: an upper bound)")
    axes.set(ylim=(-1, len(y)), title="Real logits (8,192 tokens)")
    axes.legend(fontsize=7, loc="upper left")


STUDY = Study(
    name="gallery",
    question=(
        "How far does each published sampler reach into the tail, "
        "and how far is it from its target on real logits?"
    ),
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    keys=("sampler", "kind", "at"),
    version=3,
)
