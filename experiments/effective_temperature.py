"""What one ancestral step really draws from, on logits recorded from real models. No draws: exact laws.

At a masked position of real text with a share t of it masked, a step of an N-step run unmasks with
probability r = 1 / (N t) (linear schedule). For each sampler: how much of that survives (the multiplier),
the effective temperature of the token given that it is unmasked with the share of the KL that it explains,
and the entropy the token loses. Rows: our masked diffusion model (8,192 tokens, the mask ratio of the text)
and SmolLM2-135M (49,152 tokens, taken as the token law at t = 0.5).
Cost: one to three seconds a law.
"""

from functools import cache
from pathlib import Path

import numpy as np

from precision_lab import SAMPLERS, figures, target_law
from precision_lab.finding import Claim, Finding
from precision_lab.laws.law import Law
from precision_lab.samplers import with_tolerance
from precision_lab.statistics import effective_temperature, entropy, mean
from precision_lab.study import Analysis, Study
from precision_lab.targets import load_capture
from precision_lab.targets.synthetic import mdm_step

MODELS = Path(__file__).parent.parent / "models"

# ---------------------------------------------------------------- grid

SAMPLED = [
    "gumbel_max_fp32",
    "mdlm_fp32",
    "gumbel_max_fp64_truncated",
    "gumbel_max_fp64",
    "gumbel_max_fp16",
    "gumbel_max_bf16",
]
GRID = {  # profile -> (rows of each model, steps, samplers)
    "smoke": ({"mdm": 2}, [128, 1024], ["gumbel_max_bf16", "gumbel_max_fp64_truncated"]),
    "quick": ({"mdm": 4, "smollm2": 1}, [128, 1024, 4096, 16384], [s for s in SAMPLED if s != "mdlm_fp32"]),
    "full": ({"mdm": 25, "smollm2": 4}, [32, 128, 1024, 4096, 16384, 50000], SAMPLED),
}


def cells(profile):
    rows, steps, samplers = GRID[profile]
    return [
        {"model": model, "row": row, "steps": n, "sampler": sampler, "logits": identity(model)}
        for model, count in rows.items()
        for row in range(count)
        for sampler in samplers
        for n in steps
    ]


@cache
def capture(model):
    return load_capture(MODELS / model / "logits.safetensors")


def identity(model):
    return capture(model).manifest["sha256"][:12]


# ------------------------------------------------------------- measure

TOLERANCE = 1e-9  # of a law: under 0.1 % of r in every quantity below
LEAST_KL = 1e-12  # below it a share of the KL is a share of rounding errors
OF_TOKEN = ("effective_temperature", "temperature_share", "kl_divergence", "token_entropy")


def measure(cell, rng):
    recorded = capture(cell["model"])
    ratio = recorded.mask_ratio[cell["row"]]
    masked = 0.5 if np.isnan(ratio) else float(ratio)
    unmask = 1.0 / (cell["steps"] * masked)
    target = target_law(recorded.logits[cell["row"]].astype(np.float64))
    sampler = with_tolerance(SAMPLERS[cell["sampler"]], tolerance=TOLERANCE, relative=np.inf)
    law = sampler.law(mdm_step(target.log_probs, unmask))
    drawn = law.probs[:-1].sum()
    return [
        cell
        | {"mask_ratio": masked, "unmask": unmask, "multiplier": drawn / unmask}
        | of_token(law, drawn, target)
        | {"target_entropy": entropy(target), "error": law.error, "guarantee": str(law.guarantee)}
    ]


def of_token(law, drawn, target):
    """The law of the token given that one comes, against the target; NaN where none comes."""
    if drawn <= 0:
        return dict.fromkeys(OF_TOKEN, np.nan)
    token = Law(law.log_probs[:-1] - np.log(drawn), law.how, law.error / drawn, law.guarantee)
    fit = effective_temperature(token, target)
    return {
        "effective_temperature": fit.temperature.value,
        "temperature_share": fit.share if fit.kl > LEAST_KL else np.nan,
        "kl_divergence": fit.kl,
        "token_entropy": entropy(token),
    }


# ------------------------------------------------------------- analyse

NOTED = ("multiplier", "effective_temperature", "temperature_share")


def analyse(rows):
    """Of the masked diffusion model and the first sampler."""
    part = rows[(rows.model == "mdm") & (rows.sampler == rows.sampler.iloc[0])]
    sampler = part.sampler.iloc[0]
    most = part[part.steps == part.steps.max()]
    found = mean(most.effective_temperature.dropna())
    name = f"{sampler}, effective temperature at N = {part.steps.max()}"
    finding = Finding(name, found, null=1, claim=Claim.BELOW)
    notes = [f"N = {steps}: {step_text(each)}" for steps, each in part.groupby("steps") if len(each) > 1]
    count = part.groupby("steps").size().min()
    return Analysis(
        [finding], notes, f"{sampler} on {count} rows of the masked diffusion model; 95 %, t over rows"
    )


def step_text(part):
    found = [f"{name} {mean(part[name].dropna()).text()}" for name in NOTED]
    lost = mean(part.target_entropy - part.token_entropy)
    return ", ".join(found) + f", entropy lost {lost.text()} nats"


# -------------------------------------------------------------- figure

PANELS = {
    "multiplier": "share of the intended unmasking",
    "effective_temperature": "effective temperature of the token",
    "lost": "entropy lost (nats)",
}


def figure(rows, analysis):
    rows = rows[rows.model == "mdm"].assign(lost=lambda frame: frame.target_entropy - frame.token_entropy)
    drawn, panels = figures.canvas(3, width=3.5)
    for axes, (column, title) in zip(panels, PANELS.items(), strict=True):
        for sampler in SAMPLED:
            part = rows[(rows.sampler == sampler) & rows[column].notna()]
            if len(part) and sampler != "mdlm_fp32":  # as gumbel_max_fp32
                steps = sorted(set(part.steps))
                found = [mean(part[part.steps == n][column]) for n in steps]
                look = figures.precision(sampler)
                figures.estimates(axes, np.array(steps), found, label=sampler, look=look, line="-")
        axes.set(xscale="log", xlabel="steps N", title=title)
    panels[0].set(yscale="log")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=7)
    return drawn


STUDY = Study(
    name="effective_temperature",
    question="What does each sampler do to one ancestral step, on real logits?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
)
