"""How far does each published sampler reach into the tail, and how far is it from its target on logits of a real model?

Reach: a head at logit 0 and 1,000 equal tokens ``gap`` below it; the exact law's tail mass over the true one. A
faithful sampler reads 1 at every gap. Then total variation on an ancestral step (N = 128 to 50,000) and a
first-hitting draw of our own masked diffusion model, beside the least that any sampler could have with one such word a
draw (an argmax sampler takes one a *token*, with which 0 could be had but for 2^-100,000). No draws anywhere. A law is
emulated where the arithmetic is another's and was evaluated here. First-hitting draws, and samplers whose noise has
more than 2^25 values, are in the long run only. Cost: quick two minutes, full an hour and a half.
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
from precision_lab.result import with_long_run
from precision_lab.samplers import PUBLISHED, UniformSampler, with_tolerance
from precision_lab.statistics import total_variation
from precision_lab.study import Study
from precision_lab.targets import load_capture
from precision_lab.targets.synthetic import mdm_step

ROOT, TAIL, ROW = Path(__file__).parent.parent, 1000, 12
GRID = {  # profile -> (gaps, steps; 0 is first-hitting)
    "smoke": ([8, 14], [1024]),
    "quick": ([10, 14, 16, 18], [50_000]),
    "full": ([6, 8, 10, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 24], [128, 1024, 16_384, 50_000, 0]),
}
TEXTBOOK = ["gumbel_max_fp16", "gumbel_max_bf16", "gumbel_max_fp32", "gumbel_max_fp64", "inverse_cdf_fp32",
            "torch_multinomial_fp16", "torch_multinomial_fp32", "torch_multinomial_replacement_fp32"]  # fmt: skip
SHOWN = ["jax_low_bf16", "fast_dllm_fork_fp16", "torch_compiled_race_fp32", "jax_low_fp32", "mdlm_fp32",
         "torch_cuda_race_fp32", "tl_rand_flipped", "vllm_murmur32"]  # fmt: skip
NEAR_ONE = SHOWN[2:]


def large(sampler):
    return isinstance(sampler, UniformSampler) and sampler.source.enumerable and sampler.source.bits in (31, 32)


def cells(profile):
    names = TEXTBOOK + [n for n, sampler in PUBLISHED.items() if profile == "full" or not large(sampler)]
    names = ["jax_low_bf16", "candle"] if profile == "smoke" else names
    names.sort(key=lambda name: SAMPLERS[name].stages.score != "fp64")  # the longest first
    gaps, steps = GRID[profile]
    return [{"sampler": name, "gaps": gaps, "steps": steps} for name in names]


@cache
def real_row():
    logits = load_capture(ROOT / "models" / "mdm" / "logits.safetensors").row(ROW).logits
    return target_law(np.asarray(logits, dtype=np.float64)).log_probs


def measure(cell, rng):
    sampler = with_tolerance(SAMPLERS[cell["sampler"]], tolerance=1e-8, relative=1e-2)
    log_mu = real_row()
    targets = [("reach", gap, np.concatenate([[0.0], np.full(TAIL, -float(gap))])) for gap in cell["gaps"]]
    targets += [("mdm", n, mdm_step(log_mu, 2 / n) if n else log_mu) for n in cell["steps"]]  # r at half time
    rows = []
    for kind, at, logits in targets:
        row = {"sampler": sampler.name, "kind": kind, "at": at}
        try:
            law, true = sampler.law(torch.from_numpy(logits)), target_law(logits)
        except InputError as error:
            rows.append(row | {"note": str(error)})
            continue
        rare = slice(1, None) if kind == "reach" else slice(0, len(log_mu))
        bits = sampler.bits_per_draw(len(logits))
        row |= {"ratio": law.probs[rare].sum() / true.probs[rare].sum()}  # of tail mass, or of unmasking
        row |= {"total_variation": total_variation(law, true), "error": law.error, "relative": law.relative}
        row |= {"unreachable": len(law.unreachable), "guarantee": str(law.guarantee), "bits": bits}
        row |= {"best_with_these_bits": best_total_variation(true.probs, int(bits))}
        row |= {"best_of_one_word": best_total_variation(true.probs, int(bits if bits <= 64 else bits / len(logits)))}
        rows.append(row | {"note": law.how})
    return rows


def known(frame):
    """This run and the long one, without refusals; ``shown``: total variation, or its bound where the law is no nearer."""
    frame = with_long_run(frame, ROOT, "gallery", ["sampler", "kind", "at"])
    frame = frame[frame["ratio"].notna()].copy()
    frame["bound"] = frame.guarantee.isin(("certified", "emulated")) & (frame.error > frame.total_variation)
    frame["shown"] = frame.total_variation.where(~frame.bound, frame.error)
    return frame


def summary(frame):
    """One row a sampler: total variation by target, largest first, an upper bound where marked; reach by gap."""
    frame = known(frame)
    reach = frame[frame.kind == "reach"].pivot(index="sampler", columns="at", values="ratio")
    steps = frame[frame.kind == "mdm"].pivot(index="sampler", columns="at", values="shown")
    table = pd.DataFrame(index=steps.index)
    table["publisher"] = [SAMPLERS[name].publisher for name in table.index]
    table["ceiling"] = [SAMPLERS[name].ceiling for name in table.index]
    for n in sorted(steps, key=lambda n: n or np.inf):
        table[f"tv_ancestral_{n}" if n else "tv_first_hitting"] = steps[n]
    last = frame[frame.kind == "mdm"].sort_values("at").drop_duplicates("sampler", keep="last").set_index("sampler")
    table["is_bound"], table["bits"], table["best_of_one_word"] = last.bound, last.bits, last.best_of_one_word
    for gap in reach:
        table[f"reach_{gap}"] = reach[gap]
    order = steps.max(axis=1).sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index()


def draw_reach(axes, reach, names, emulated):
    """Tail mass over the true one, by gap; bars: the law's error, which is of the probability, not of the ratio."""
    for k, name in enumerate(SHOWN):
        part = reach[(reach.sampler == name) & (name in names)].sort_values("at")
        true = TAIL * np.exp(-part["at"]) / (1 + TAIL * np.exp(-part["at"]))
        style = figures.series(k) | {"label": f"{name} (emulated)" if name in emulated else name}
        axes.errorbar(part["at"], part["ratio"], yerr=part.error / true, elinewidth=0.8, **style)
    axes.axhline(1, color="black", lw=1, ls=":")


def draw(frame):
    frame = known(frame)
    figure, (left, middle, right) = figures.canvas(3, width=5.2, height=6.4)
    emulated = set(frame[frame.guarantee == "emulated"].sampler)
    reach = frame[frame.kind == "reach"]
    draw_reach(left, reach.assign(ratio=reach["ratio"].clip(1e-4, 1e4), error=np.nan), SHOWN, emulated)
    left.set(yscale="log", xticks=range(6, 25, 2), title="Reach: a faithful sampler stays at 1")
    left.set(xlabel="gap below the head (nats)", ylabel="tail mass drawn / true (0 shown at 1e-4)")
    draw_reach(middle, reach[reach["at"].between(12, 18)], NEAR_ONE, emulated)
    middle.set(ylim=(0, 1.4), xlim=(11.7, 18.3), title="The same near 1, float32 samplers")
    middle.set(xlabel="gap below the head (nats)", ylabel="tail mass drawn / true (bars: the law's error)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    mdm = frame[frame.kind == "mdm"]
    titles = {1024: "ancestral step, N = 1024", 50_000: "ancestral step, N = 50,000", 0: "first-hitting draw"}
    asked = [n for n in (50_000, 0) if (mdm["at"] == n).any()] or [1024]
    order = mdm.groupby("sampler").shown.max().sort_values().index
    y = pd.Series(np.arange(len(order)), order)
    for k, n in enumerate(asked):
        for bound, part in mdm[mdm["at"] == n].groupby("bound"):
            style = figures.series(k) | ({"mfc": "white"} if bound else {"label": titles[n]})
            right.plot(part.shown, y[part.sampler], ls="none", **style)
    word = mdm.sort_values("at").drop_duplicates("sampler", keep="last")
    least = word.best_of_one_word.clip(1e-17)
    right.plot(least, y[word.sampler], ls="none", marker="|", color="black", label="least possible with one word")
    right.plot([], [], ls="none", marker="$*$", color="black", label="emulated: another's arithmetic")
    right.set_yticks(y, [f"{name} *" if name in emulated else name for name in y.index], fontsize=6.5)
    right.set(xscale="log", xlabel="total variation from the target (open: an upper bound)")
    right.set(ylim=(-1, len(y)), title="Real logits (8,192 tokens)")
    right.legend(fontsize=7, loc="upper left")
    return figure


def verdict(frame):
    frame = known(frame)
    reach = frame[frame.kind == "reach"].sort_values("at")
    half = reach[(reach["ratio"] - 1).abs() > 0.5].groupby("sampler")["at"].first().sort_values(kind="stable")
    kept = sorted(set(reach.sampler) - set(half.index))
    before = reach[reach["at"] < reach.sampler.map(half).fillna(np.inf)]
    peak = before.sort_values("ratio").drop_duplicates("sampler", keep="last").set_index("sampler")
    peak = peak[peak["ratio"] > 1.05]
    worst = frame[frame.kind == "mdm"].sort_values("shown", ascending=False).drop_duplicates("sampler").head(3)
    return (
        f"{reach.sampler.nunique()} samplers. First gap on the grid at which the tail is off by more than half: "
        + ", ".join(f"{name} {gap:g}" for name, gap in half.items())
        + ". Drawn too often by more than 5 % at a smaller gap: "
        + (", ".join(f"{r.Index} {r.ratio:.3g} at {r.at:g}" for r in peak.itertuples()) or "none")
        + f". Within half at every gap: {', '.join(kept)}. Largest total variation on real logits: "
        + ", ".join(f"{r.sampler} {r.shown:.3g}" for r in worst.itertuples())
        + "."
    )


QUESTION = "How far does each published sampler reach into the tail, and how far is it from its target on real logits?"
STUDY = Study("gallery", QUESTION, cells, measure, draw, verdict, version=3, summary=summary)
