"""What one ancestral step really draws from, on logits recorded from real models. No draws: exact laws.

At a masked position of real text with a share t of it masked, a step of an N-step run unmasks with probability
r = 1 / (N t) (linear schedule). For each sampler: how much of that survives (the multiplier), the effective temperature
of the token given that it is unmasked with the share of the KL that it explains, and the entropy the token loses.
Rows: our masked diffusion model (8,192 tokens, the mask ratio of the text) and SmolLM2-135M (49,152 tokens, taken as the
token law at t = 0.5). Cost: one to three seconds a law.
"""

from functools import cache
from pathlib import Path

import numpy as np

from precision_lab import SAMPLERS, figures, target_law
from precision_lab.laws.law import Law
from precision_lab.samplers import with_tolerance
from precision_lab.statistics import effective_temperature, entropy, mean
from precision_lab.study import Study
from precision_lab.targets import load_capture
from precision_lab.targets.synthetic import mdm_step

DATA = Path(__file__).parent.parent / "models"
FILES = {"mdm": DATA / "mdm" / "logits.safetensors", "smollm2": DATA / "smollm2" / "logits.safetensors"}
SHOWN = [
    "gumbel_max_fp32",
    "mdlm_fp32",
    "gumbel_max_fp64_truncated",
    "gumbel_max_fp64",
    "gumbel_max_fp16",
    "gumbel_max_bf16",
]
GRID = {  # profile -> (rows of each model, steps, samplers)
    "smoke": ({"mdm": 2}, [128, 1024], ["gumbel_max_bf16", "gumbel_max_fp64_truncated"]),
    "quick": ({"mdm": 6, "smollm2": 1}, [128, 1024, 4096, 16384], SHOWN[:1] + SHOWN[2:]),
    "full": ({"mdm": 25, "smollm2": 4}, [32, 128, 1024, 4096, 16384, 50000], SHOWN),
}


@cache
def capture(model):
    return load_capture(FILES[model])


def cells(profile):
    rows, steps, samplers = GRID[profile]
    return [
        {"model": model, "row": row, "steps": n, "sampler": sampler, "logits": capture(model).manifest["sha256"][:12]}
        for model, count in rows.items()
        for row in range(count)
        for sampler in samplers
        for n in steps
    ]


def measure(cell, rng):
    recorded = capture(cell["model"])
    ratio = recorded.mask_ratio[cell["row"]]
    masked = 0.5 if np.isnan(ratio) else float(ratio)
    unmask = 1.0 / (cell["steps"] * masked)
    target = target_law(recorded.logits[cell["row"]].astype(np.float64))
    # The errors asked for are under 0.1 % of r in every quantity below.
    sampler = with_tolerance(SAMPLERS[cell["sampler"]], tolerance=1e-9, relative=np.inf)
    law = sampler.law(mdm_step(target.log_probs, unmask))
    drawn = law.probs[:-1].sum()
    if drawn > 0:
        token = Law(law.log_probs[:-1] - np.log(drawn), law.how, law.error / drawn, law.guarantee)
        fit = effective_temperature(token, target)
        found = {
            "effective_temperature": fit.temperature.value,
            "temperature_share": fit.share if fit.kl > 1e-12 else np.nan,  # a share of rounding errors means nothing
            "kl_divergence": fit.kl,
            "token_entropy": entropy(token),
        }
    else:
        found = dict.fromkeys(("effective_temperature", "temperature_share", "kl_divergence", "token_entropy"), np.nan)
    return [
        cell
        | {"mask_ratio": masked, "unmask": unmask, "multiplier": drawn / unmask, **found}
        | {"target_entropy": entropy(target), "error": law.error, "guarantee": str(law.guarantee)}
    ]


def draw(frame):
    panels = [
        ("multiplier", "share of the intended unmasking"),
        ("effective_temperature", "effective temperature of the token"),
        ("lost", "entropy lost (nats)"),
    ]
    figure, axes = figures.canvas(3, width=3.5)
    frame = frame[frame.model == "mdm"].assign(lost=lambda f: f.target_entropy - f.token_entropy)
    for k, sampler in enumerate(s for s in SHOWN if s in set(frame.sampler) and s != "mdlm_fp32"):  # as fp32's
        part = frame[frame.sampler == sampler]
        for ax, (column, title) in zip(axes, panels, strict=True):
            found = [(n, mean(g[column].dropna())) for n, g in part.groupby("steps") if g[column].notna().any()]
            x = np.array([n for n, _ in found])
            value, low, high = (np.array([getattr(e, a) for _, e in found]) for a in ("value", "low", "high"))
            figures.interval(ax, x, value, low, high, label=sampler, index=k)
            ax.set(xscale="log", xlabel="steps N", title=title)
    axes[0].set(yscale="log")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=7)
    return figure


def verdict(frame):
    part = frame[(frame.model == "mdm") & (frame.sampler == frame.sampler.iloc[0])]
    lines = []
    for steps, rows in part.groupby("steps"):
        if len(rows) < 2:
            continue
        parts = [
            (name, mean(rows[name].dropna())) for name in ("multiplier", "effective_temperature", "temperature_share")
        ]
        lost = mean(rows.target_entropy - rows.token_entropy)
        text = ", ".join(f"{name} {e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for name, e in parts)
        lines.append(f"N = {steps}: {text}, entropy lost {lost.value:.3f} [{lost.low:.3f}, {lost.high:.3f}] nats")
    rows = part.groupby("steps").size().min()
    most = mean(part[part.steps == part.steps.max()].effective_temperature.dropna())
    found = "reproduced" if most.high < 1 else "not reproduced" if most.low > 1 else "not decided"
    return (
        f"That the noise lowers the temperature (arXiv:2409.02908): {found} at N = {part.steps.max()}. "
        f"{part.sampler.iloc[0]} on {rows} rows of the masked diffusion model: "
        + "; ".join(lines)
        + ". 95 %, t over rows."
    )


STUDY = Study(
    name="effective_temperature",
    question="What does each sampler do to one ancestral step, on real logits?",
    cells=cells,
    measure=measure,
    draw=draw,
    verdict=verdict,
)
