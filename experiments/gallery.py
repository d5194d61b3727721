"""How far does each published sampler reach into the tail, and how far is it from its target on logits of a real model?

Reach: a head at logit 0 and 1,000 equal tokens ``gap`` below it; the exact law's tail mass over the true one. A faithful
sampler reads 1 at every gap. Then total variation on an ancestral step (N = 1024 and 50,000) and a first-hitting draw of
our own masked diffusion model. No draws anywhere. First-hitting draws, and samplers whose noise has more
than 2^25 values, are in the long run only.
Cost: quick two minutes, full half an hour.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from precision_lab import SAMPLERS, figures
from precision_lab.errors import InputError
from precision_lab.laws.law import target_law
from precision_lab.result import load_result
from precision_lab.samplers import PUBLISHED, UniformSampler
from precision_lab.statistics import total_variation
from precision_lab.study import Study
from precision_lab.targets import load_capture
from precision_lab.targets.synthetic import mdm_step
from precision_lab.types import Profile

ROOT = Path(__file__).parent.parent
TAIL = 1000
GAPS = {
    Profile.SMOKE: (8, 14),
    Profile.QUICK: (10, 14, 16, 18),
    Profile.FULL: (6, 8, 10, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 24),
}
STEPS = {
    Profile.SMOKE: (1024,),
    Profile.QUICK: (50_000,),
    Profile.FULL: (128, 1024, 16_384, 50_000),
}  # and 0: first-hitting
ROW = 12
SHOWN = ("jax_low_bf16", "fast_dllm_fork_fp16", "candle", "jax_low_fp32", "mdlm_fp32", "torch_cuda_race_fp32",
         "tl_rand_flipped", "vllm_murmur32")  # fmt: skip


TEXTBOOK = [f"gumbel_max_{f}" for f in ("fp16", "bf16", "fp32", "fp64")] + [
    "inverse_cdf_fp32",
    "torch_multinomial_replacement_fp32",
]


def large(sampler):
    return isinstance(sampler, UniformSampler) and sampler.source.bits in (31, 32) and sampler.fine is None


def names(profile):
    if profile is Profile.SMOKE:
        return ["jax_low_bf16", "candle"]
    return TEXTBOOK + [name for name, sampler in PUBLISHED.items() if profile is Profile.FULL or not large(sampler)]


def cells(profile):
    return [
        {
            "sampler": name,
            "gaps": list(GAPS[profile]),
            "steps": [*STEPS[profile], *([0] if profile is Profile.FULL else [])],
        }
        for name in names(profile)
    ]


@cache
def real_row():
    return load_capture(ROOT / "models" / "mdm" / "logits.safetensors").row(ROW).logits


def measure(cell, rng):
    sampler = SAMPLERS[cell["sampler"]]
    if isinstance(sampler, UniformSampler):
        sampler = replace(sampler, tolerance=1e-8, relative=1e-2)
    targets = [("reach", gap, np.concatenate([[0.0], np.full(TAIL, -float(gap))])) for gap in cell["gaps"]]
    log_mu = target_law(np.asarray(real_row(), dtype=np.float64)).log_probs
    targets += [("mdm", n, mdm_step(log_mu, 2 / n) if n else log_mu) for n in cell["steps"]]  # r at half time
    rows = []
    for kind, at, logits in targets:
        try:
            law, true = sampler.law(torch.from_numpy(logits)), target_law(logits)
        except InputError as error:
            rows.append({"sampler": sampler.name, "kind": kind, "at": at, "note": str(error)})
            continue
        rare = slice(1, None) if kind == "reach" else slice(0, len(log_mu))
        rows.append(
            {
                "sampler": sampler.name,
                "kind": kind,
                "at": at,
                "ratio": law.probs[rare].sum() / true.probs[rare].sum(),  # of tail mass, or of unmasking
                "total_variation": total_variation(law, true),
                "unreachable": len(law.unreachable),
                "error": law.error,
                "relative": law.relative,
                "guarantee": str(law.guarantee),
                "note": law.how,
            }
        )
    return rows


def everything(frame):
    """This run and, where it is committed, the long one; what both have is taken once."""
    if not (ROOT / "results" / "full" / "gallery.json").exists():
        return frame
    both = pd.concat([load_result(ROOT / "results" / "full", "gallery").frame, frame], ignore_index=True)
    return both.drop_duplicates(["sampler", "kind", "at"])


def draw(frame):
    frame = everything(frame)
    figure, (left, right) = figures.canvas(2, width=5.4, height=4.6)
    reach = frame[(frame.kind == "reach") & frame["ratio"].notna()]
    for k, name in enumerate(n for n in SHOWN if n in set(reach.sampler)):
        part = reach[reach.sampler == name].sort_values("at")
        left.plot(part["at"], part["ratio"].clip(1e-4, 1e4), label=name, **figures.series(k))
    left.axhline(1, color="black", lw=1, ls=":")
    left.set(xlabel="gap below the head (nats)", ylabel="tail mass drawn / true (0 shown at 1e-4)")
    left.set_yscale("log")
    left.set_title("Reach: a faithful sampler stays at 1")
    left.legend(fontsize=7)
    mdm = frame[(frame.kind == "mdm") & (frame["at"].isin((0, 50_000))) & frame.total_variation.notna()]
    order = mdm.groupby("sampler").total_variation.max().sort_values(ascending=False).index
    for k, (n, what) in enumerate(((50_000, "ancestral step, N = 50,000"), (0, "first-hitting draw"))):
        part = mdm[mdm["at"] == n].set_index("sampler").reindex(order)
        bound = part.guarantee.eq("certified") & (part.error > part.total_variation)
        value = part.total_variation.where(~bound, part.error)
        y = np.arange(len(order))[::-1]
        style = figures.series(k)
        if not part.total_variation.notna().any():
            continue
        right.plot(value[~bound], y[~bound.to_numpy()], ls="none", label=what, **style)
        right.plot(value[bound], y[bound.to_numpy()], ls="none", mfc="white", **style)
    right.set_yticks(np.arange(len(order))[::-1], order, fontsize=6)
    right.set(xscale="log", xlabel="total variation from the target (open: an upper bound)")
    right.set_title("Real logits (8,192 tokens)")
    right.legend(fontsize=7, loc="lower center")
    return figure


def verdict(frame):
    frame = everything(frame)
    reach = frame[(frame.kind == "reach") & frame["ratio"].notna()].sort_values("at")
    half = reach[(reach["ratio"] - 1).abs() > 0.5].groupby("sampler")["at"].first()
    kept = sorted(set(reach.sampler) - set(half.index))
    step = frame[(frame.kind == "mdm") & (frame["at"] == 50_000)].dropna(subset=["total_variation"])
    worst = step.sort_values("total_variation", ascending=False).head(3)
    return (
        f"{reach.sampler.nunique()} samplers. First gap on the grid at which the tail is off by more than half: "
        + ", ".join(f"{name} {gap:g}" for name, gap in half.sort_values().items())
        + f". Within half at every gap: {', '.join(kept)}. Largest total variation on a step of N = 50,000: "
        + ", ".join(f"{r.sampler} {r.total_variation:.3g}" for r in worst.itertuples())
        + "."
    )


STUDY = Study(
    name="gallery",
    question="How far does each published sampler reach into the tail, and how far is it from its target on real logits?",
    cells=cells,
    measure=measure,
    draw=draw,
    verdict=verdict,
)
