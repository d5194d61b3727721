"""Where else is precision lost in decoding, and is it more or less than in the noise? Each channel alone, all else in float64.

On rows of logits of two real models, an ancestral step at half time, r = 2 / N. *float32 noise*: the lattice's law. *Log-softmax
in bfloat16 (or float16, float32) before the cast to float64*, as public code has it: the token masses do not sum to one, and
the mask competes with the wrong total; the truth is the float64 softmax of the same rounded logits. *Schedule in float32*:
alpha_s - alpha_t cancels (not where N is a power of two: no such N here). *Temperature of the whole step*, mask included, in
place of the tokens': the wrong order. *Top-p by a cumulative sum* in float32 or bfloat16: another nucleus. *Top-k of rounded
logits*: all not below the k-th stay, so ties at the cut let more than k in. *Confidence in bfloat16*: in how many rows the
largest probability rounds to 1, so that confidence-ordered decoding goes by position (its text: ``decoders``). Other sources
of error than the noise of arXiv:2409.02908; no draws. Cost: a few seconds.
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
from precision_lab.study import Study
from precision_lab.targets import load_capture
from precision_lab.uniforms import DTYPES

MODELS = Path(__file__).parent.parent / "models"
STEPS, TOP_P, TOP_K, HEAT = [100, 1000, 5000, 20_000, 50_000], 0.9, 50, 0.9
CUTS = ("bf16", "fp32")
ROWS = {"smoke": {"mdm": 2}, "quick": {"mdm": 25, "smollm2": 16}, "full": {"mdm": 25, "smollm2": 16}}


@cache
def capture(model):
    return load_capture(MODELS / model / "logits.safetensors")


def cells(profile):
    rows = [{"model": model, "row": row} for model, count in ROWS[profile].items() for row in range(count)]
    rows = [row | {"logits": capture(row["model"]).manifest["sha256"][:12], "steps_asked": STEPS} for row in rows]
    return [{"model": "none", "row": n} for n in STEPS] + rows


def measure(cell, rng):
    if cell["model"] == "none":
        n = cell["row"]
        given, right = cancelling(n, FP32), unmask_probabilities(n)
        when, due = given * np.append(1.0, np.cumprod(1 - given[:-1])), np.full(n, 1 / n)
        off = np.sqrt(np.mean((given / right - 1)[:-1] ** 2))
        return [{"model": "none", "row": -1, "channel": "schedule in float32", "steps": n, "multiplier_off": off,
                 "total_variation": np.abs(when - due).sum() / 2}]  # fmt: skip
    logits = torch.from_numpy(np.asarray(capture(cell["model"]).row(cell["row"]).logits))
    kept = {"model": cell["model"], "row": cell["row"]}
    return [
        kept | found
        for found in (*softmaxes(logits), *noise(logits), *heated(logits), *cut(logits), confidence(logits))
    ]


def noise(logits):
    log_p = torch.log_softmax(logits.double(), -1).numpy()
    for n in STEPS:
        q = lattice_step(log_p, 2 / n)
        tv = np.abs(q / q.sum() - np.exp(log_p)).sum() / 2
        off = abs(q.sum() * n / 2 - 1)
        yield {"channel": "float32 noise", "steps": n, "multiplier_off": off, "total_variation": tv}


def softmaxes(logits):
    for name in ("fp16", "bf16", "fp32"):
        rounded = logits.to(DTYPES[name])
        q, p = torch.log_softmax(rounded, -1).double().exp().numpy(), torch.softmax(rounded.double(), -1).numpy()
        tv, total = np.abs(q / q.sum() - p).sum() / 2, q.sum()
        for n in STEPS:
            r = 2 / n
            off = abs(total / (r * total + 1 - r) - 1)
            yield {"channel": f"log-softmax in {name}", "steps": n, "multiplier_off": off, "total_variation": tv}


def heated(logits):
    """(r p)^(1/T) on tokens and (1 - r)^(1/T) on the mask, for r p^(1/T) / sum p^(1/T): the same token, another r."""
    log_p = torch.log_softmax(logits.double(), -1).numpy()
    for n in STEPS:
        tokens, mask = np.exp((log_p + np.log(2 / n)) / HEAT).sum(), (1 - 2 / n) ** (1 / HEAT)
        off = abs(tokens / (tokens + mask) * n / 2 - 1)
        yield {"channel": f"temperature {HEAT} of all", "steps": n, "multiplier_off": off, "total_variation": 0.0}


def cut(logits):
    """Top-p: tokens are kept, likeliest first, while the sum before them is below TOP_P. Top-k: as in this file's head."""
    p = np.sort(torch.softmax(logits.double(), -1).numpy())[::-1]

    def row(channel, kept, right):
        tv = np.abs(kept / kept.sum() - right / right.sum()).sum() / 2
        return {"channel": channel, "steps": 0, "multiplier_off": None, "total_variation": tv}

    for name in CUTS:
        sums = torch.cumsum(torch.from_numpy(p.copy()).to(DTYPES[name]), -1).double().numpy()
        kept = np.where(np.append(0.0, sums[:-1]) < TOP_P, p, 0.0)
        yield row(f"top-p, sum in {name}", kept, np.where(np.cumsum(p) - p < TOP_P, p, 0.0))
        rounded = logits.to(DTYPES[name])
        q, at = torch.softmax(logits.double(), -1), rounded >= rounded.topk(TOP_K).values[-1]
        right = torch.where(logits >= logits.topk(TOP_K).values[-1], q, 0.0)
        yield row(f"top-k of {name} logits", torch.where(at, q, 0.0).numpy(), right.numpy())


def confidence(logits):
    top = torch.softmax(logits.double(), -1).max().item()
    return {"channel": "confidence is 1 in bf16", "steps": 0, "multiplier_off": None,
            "total_variation": float(BF16.round(np.array(top)) == 1.0)}  # fmt: skip


def summary(frame):
    """Means over rows with their t intervals; of confidence, the share of rows with Clopper and Pearson's."""
    rows = []
    for (model, channel, n), part in frame.groupby(["model", "channel", "steps"]):
        row = {"model": model, "channel": channel, "steps": n, "rows": len(part)}
        for column in ("multiplier_off", "total_variation"):
            values = part[column].dropna().to_numpy(dtype=float)
            share = channel.startswith("confidence") and column == "total_variation"
            found = proportion(int(values.sum()), len(values)) if share else mean(values) if len(values) > 1 else None
            row |= {column: values.mean() if len(values) else None}
            row |= {f"{column}_low": found and found.low, f"{column}_high": found and found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def draw(frame):
    table = summary(frame)
    figure, (left, right) = figures.canvas(2, width=4.8)
    lines = ["float32 noise", *(f"log-softmax in {name}" for name in ("bf16", "fp16", "fp32"))]
    lines += ["schedule in float32", f"temperature {HEAT} of all"]
    for k, channel in enumerate(lines):
        part = table[(table.channel == channel) & table.model.isin(["mdm", "none"])].sort_values("steps")
        left.plot(part.steps, part.multiplier_off, label=channel, **figures.series(k))
    left.set(xscale="log", yscale="log", xlabel="steps N", ylabel="|unmasking / intended - 1|")
    left.set_title("Unmasking, masked diffusion model")
    left.set_ylim(1e-7, 50)
    left.legend(fontsize=7, ncols=2, loc="upper left")
    names = [*lines[:4], *(f"top-p, sum in {name}" for name in CUTS), *(f"top-k of {name} logits" for name in CUTS)]
    for k, model in enumerate(m for m in ("mdm", "smollm2") if m in set(table.model)):
        part = table[(table.model == model) & table.channel.isin(names)]
        part = part[part.steps.isin((0, 1000))].set_index("channel").reindex(names)
        right.plot(
            part.total_variation.clip(1e-17), np.arange(len(names))[::-1], ls="none", label=model, **figures.series(k)
        )
    right.set_yticks(np.arange(len(names))[::-1], [f"{n}, N = 1000" if n == lines[0] else n for n in names], fontsize=7)
    right.set(xscale="log", xlabel="total variation of the token's law (0 shown at 1e-17)", title="Which token")
    right.legend(fontsize=7)
    return figure


def verdict(frame):
    table = summary(frame)
    text = []
    for r in table[table.steps.isin((0, 1000, 50_000))].itertuples():
        if r.channel.startswith("confidence"):
            text.append(
                f"{r.model}: the largest probability rounds to 1 in bfloat16 in {r.total_variation:.0%} of {r.rows} rows"
            )
            continue
        off = "" if pd.isna(r.multiplier_off) else f"unmasking off by {r.multiplier_off:.2g}, "
        at = f" N = {r.steps:,}" if r.steps else ""
        text.append(f"{r.model} {r.channel}{at}: {off}total variation {r.total_variation:.2g}")
    return "Means over rows. " + "; ".join(text) + "."


QUESTION = "Where else is precision lost in decoding, and is it more or less than in the noise?"
STUDY = Study("channels", QUESTION, cells, measure, draw, verdict, version=2, summary=summary)
