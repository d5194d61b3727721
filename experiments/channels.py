"""Where else is precision lost in decoding, and is it more or less than in the noise? Each channel alone,
all else in float64.

On rows of logits of two real models, an ancestral step at half time, r = 2 / N. *float32 noise*: the
lattice's law. *Log-softmax in bfloat16 (or float16, float32) before the cast to float64*, as public code has
it: the token masses do not sum to one, and the mask competes with the wrong total; the truth is the float64
softmax of the same rounded logits. *Schedule in float32*: alpha_s - alpha_t cancels (not where N is a power
of two: no such N here). *Temperature of the whole step*, mask included, in place of the tokens': the wrong
order. *Top-p by a cumulative sum* in float32 or bfloat16: another nucleus. *Top-k of rounded logits*: all
not below the k-th stay, so ties at the cut let more than k in. *Confidence in bfloat16*: in how many rows
the largest probability rounds to 1, so that confidence-ordered decoding goes by position (its text:
``decoders``). Other sources of error than the noise of arXiv:2409.02908; no draws.
Cost: a few seconds.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from precision_lab import figures
from precision_lab.formats import BF16, FP32
from precision_lab.laws.process import lattice_step
from precision_lab.mdm.schedule import cancelling, unmask_probabilities
from precision_lab.statistics import mean, proportion
from precision_lab.study import Analysis, Study
from precision_lab.targets import load_capture
from precision_lab.uniforms import DTYPES

MODELS = Path(__file__).parent.parent / "models"

# ---------------------------------------------------------------- grid

STEPS = [100, 1000, 5000, 20_000, 50_000]
NO_MODEL = "none"  # of a cell of the schedule, whose row is N
ROWS = {  # profile -> model -> rows
    "smoke": {"mdm": 2},
    "quick": {"mdm": 25, "smollm2": 16},
    "full": {"mdm": 25, "smollm2": 16},
}


def cells(profile):
    schedules = [{"model": NO_MODEL, "row": n} for n in STEPS]
    rows = [
        {"model": model, "row": row, "logits": capture(model).manifest["sha256"][:12], "steps_asked": STEPS}
        for model, count in ROWS[profile].items()
        for row in range(count)
    ]
    return schedules + rows


@cache
def capture(model):
    return load_capture(MODELS / model / "logits.safetensors")


# ------------------------------------------------------------- measure

TOP_P = 0.9
TOP_K = 50
TEMPERATURE = 0.9
CUTS = ("bf16", "fp32")
NOISE = "float32 noise"
SCHEDULE = "schedule in float32"
WHOLE_STEP = f"temperature {TEMPERATURE} of all"
CONFIDENCE = "confidence is 1 in bf16"


def measure(cell, rng):
    if cell["model"] == NO_MODEL:
        return [{"model": NO_MODEL, "row": -1} | schedule(cell["row"])]
    logits = torch.from_numpy(np.asarray(capture(cell["model"]).row(cell["row"]).logits))
    channels = (softmaxes, noise, whole_step_temperature, cuts, confidence)
    which = {"model": cell["model"], "row": cell["row"]}
    return [which | row for channel in channels for row in channel(logits)]


def row(channel, steps, multiplier_off, total_variation):
    """``multiplier_off``: |unmasking / intended - 1|; ``total_variation`` of the token's law; steps 0: at
    any N."""
    return {
        "channel": channel,
        "steps": steps,
        "multiplier_off": multiplier_off,
        "total_variation": total_variation,
    }


def schedule(n):
    """Unmasking probabilities of every step by float32's difference; the law of the step in which a token
    comes."""
    computed, right = cancelling(n, FP32), unmask_probabilities(n)
    comes = computed * np.append(1.0, np.cumprod(1 - computed[:-1]))
    uniform = np.full(n, 1 / n)
    off = np.sqrt(np.mean((computed / right - 1)[:-1] ** 2))
    return row(SCHEDULE, n, off, np.abs(comes - uniform).sum() / 2)


def noise(logits):
    log_p = torch.log_softmax(logits.double(), -1).numpy()
    for n in STEPS:
        q = lattice_step(log_p, 2 / n)
        variation = np.abs(q / q.sum() - np.exp(log_p)).sum() / 2
        yield row(NOISE, n, abs(q.sum() * n / 2 - 1), variation)


def softmaxes(logits):
    for name in ("fp16", "bf16", "fp32"):
        rounded = logits.to(DTYPES[name])
        q = torch.log_softmax(rounded, -1).double().exp().numpy()
        p = torch.softmax(rounded.double(), -1).numpy()
        total = q.sum()
        variation = np.abs(q / total - p).sum() / 2
        for n in STEPS:
            r = 2 / n
            off = abs(total / (r * total + 1 - r) - 1)
            yield row(f"log-softmax in {name}", n, off, variation)


def whole_step_temperature(logits):
    """(r p)^(1/T) on tokens and (1 - r)^(1/T) on the mask, for r p^(1/T) / sum p^(1/T): the same token,
    another r."""
    log_p = torch.log_softmax(logits.double(), -1).numpy()
    for n in STEPS:
        tokens = np.exp((log_p + np.log(2 / n)) / TEMPERATURE).sum()
        mask = (1 - 2 / n) ** (1 / TEMPERATURE)
        yield row(WHOLE_STEP, n, abs(tokens / (tokens + mask) * n / 2 - 1), 0.0)


def cuts(logits):
    """Top-p: tokens are kept, likeliest first, while the sum before them is below TOP_P. Top-k: as in
    this file's head."""
    p = torch.softmax(logits.double(), -1)
    descending = np.sort(p.numpy())[::-1]
    nucleus = np.where(np.cumsum(descending) - descending < TOP_P, descending, 0.0)
    best = torch.where(logits >= logits.topk(TOP_K).values[-1], p, 0.0).numpy()
    for name in CUTS:
        sums = torch.cumsum(torch.from_numpy(descending.copy()).to(DTYPES[name]), -1).double().numpy()
        kept = np.where(np.append(0.0, sums[:-1]) < TOP_P, descending, 0.0)
        yield row(f"top-p, sum in {name}", 0, None, variation_of_kept(kept, nucleus))
        rounded = logits.to(DTYPES[name])
        kept = torch.where(rounded >= rounded.topk(TOP_K).values[-1], p, 0.0).numpy()
        yield row(f"top-k of {name} logits", 0, None, variation_of_kept(kept, best))


def variation_of_kept(kept, right):
    return np.abs(kept / kept.sum() - right / right.sum()).sum() / 2


def confidence(logits):
    largest = torch.softmax(logits.double(), -1).max().item()
    yield row(CONFIDENCE, 0, None, float(BF16.round(np.array(largest)) == 1.0))


# ------------------------------------------------------------- analyse

NOTED_AT = (0, 1000, 50_000)


def analyse(rows):
    table = summary(rows)
    notes = [channel_text(row) for row in table[table.steps.isin(NOTED_AT)].itertuples()]
    return Analysis(notes=notes, head="Means over rows", summary=table)


def summary(rows):
    """Means over rows with their t intervals; of confidence, the share of rows with Clopper and Pearson's."""
    found = []
    for (model, channel, n), part in rows.groupby(["model", "channel", "steps"]):
        line = {"model": model, "channel": channel, "steps": n, "rows": len(part)}
        for column in ("multiplier_off", "total_variation"):
            values = part[column].dropna().to_numpy(dtype=float)
            estimate = estimated(values, share=channel == CONFIDENCE and column == "total_variation")
            line[column] = values.mean() if len(values) else None
            line[f"{column}_low"] = estimate and estimate.low
            line[f"{column}_high"] = estimate and estimate.high
        found.append(line)
    return pd.DataFrame(found)


def estimated(values, share):
    if share:
        return proportion(int(values.sum()), len(values))
    return mean(values) if len(values) > 1 else None


def channel_text(row):
    if row.channel == CONFIDENCE:
        share = f"{row.total_variation:.0%} of {row.rows} rows"
        return f"{row.model}: the largest probability rounds to 1 in bfloat16 in {share}"
    off = "" if pd.isna(row.multiplier_off) else f"unmasking off by {row.multiplier_off:.2g}, "
    at = f" N = {row.steps:,}" if row.steps else ""
    return f"{row.model} {row.channel}{at}: {off}total variation {row.total_variation:.2g}"


# -------------------------------------------------------------- figure

LOOKS = {
    NOISE: figures.precision("float32"),
    "log-softmax in bf16": figures.precision("bfloat16"),
    "log-softmax in fp16": figures.precision("float16"),
    "log-softmax in fp32": figures.precision("float32") | {"mfc": "white", "ls": "--"},
    SCHEDULE: figures.precision("float32") | {"mfc": "white", "ls": ":"},
    WHOLE_STEP: figures.series(7),
}
OF_TOKENS = [
    *list(LOOKS)[:4],
    *(f"top-p, sum in {name}" for name in CUTS),
    *(f"top-k of {name} logits" for name in CUTS),
]


def figure(rows, analysis):
    drawn, (left, right) = figures.canvas(2, width=4.8)
    unmasking(left, analysis.summary)
    which_token(right, analysis.summary)
    return drawn


def unmasking(axes, table):
    for channel, look in LOOKS.items():
        part = table[(table.channel == channel) & table.model.isin(["mdm", NO_MODEL])].sort_values("steps")
        axes.plot(part.steps, part.multiplier_off, label=channel, **look)
    axes.set(
        xscale="log", yscale="log", xlabel="steps N", ylabel="|unmasking / intended - 1|", ylim=(1e-7, 50)
    )
    axes.set_title("Unmasking, masked diffusion model")
    axes.legend(fontsize=7, ncols=2, loc="upper left")


def which_token(axes, table):
    at = np.arange(len(OF_TOKENS))[::-1]
    for k, model in enumerate(("mdm", "smollm2")):
        part = table[(table.model == model) & table.channel.isin(OF_TOKENS) & table.steps.isin((0, 1000))]
        if len(part):
            variation = part.set_index("channel").reindex(OF_TOKENS).total_variation.clip(1e-17)
            axes.plot(variation, at, ls="none", label=model, **figures.series(2 + k))
    names = [f"{name}, N = 1000" if name == NOISE else name for name in OF_TOKENS]
    axes.set_yticks(at, names, fontsize=7)
    axes.set(
        xscale="log", xlabel="total variation of the token's law (0 shown at 1e-17)", title="Which token"
    )
    axes.legend(fontsize=7)


STUDY = Study(
    name="channels",
    question="Where else is precision lost in decoding, and is it more or less than in the noise?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    version=2,
)
