"""One line of code on three devices: what do CPU, CUDA and compiled CUDA make of ``torch.multinomial(p, 1)``?

A head at logit 0 and round(0.1 e^gap) equal tokens at -gap: P(tail) over the true one, from laws, beside counts of draws
recorded on an H100 (results/gpu) and fresh draws on this CPU; intervals are Clopper-Pearson's, 95 %. Then the same laws on
logits of real models: an ancestral step of masked diffusion with r = 1 / (N t), t the masked share, a first-hitting draw, and
SmolLM2's next token at temperatures 1 and 0.7. CPU laws are exact, or (multinomial) the target within a proved bound;
CUDA laws are emulated: torch's arithmetic here, with the fast logarithm measured on an H100. Inductor leaves
``torch.multinomial`` to the eager kernel, so "compiled" is the race written out, argmax(p / exponential_()).

n of the CPU draws: ((z_a + z_b) / d)^2 (1 - p) / p, p = 1/11, for a tail off by the factor 1 +- d, d from the laws: at gap
15 the excess of CUDA's multinomial, 0.113, with false fails 1e-3 and misses 1e-2; else 5 % and 20 %, for multinomial
again what CUDA does (0.14 and 0.21), for Gumbel-max its own loss (0.095, 0.24, 0.56). Quick has 250 draws at gap 17: they see a
multinomial that loses what Gumbel-max does. Cost: quick 40 seconds of a core, full fifteen minutes.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from precision_lab import SAMPLERS, figures
from precision_lab.compare import compare
from precision_lab.files import read_json
from precision_lab.result import with_long_run
from precision_lab.samplers import with_tolerance
from precision_lab.samplers.head_and_tail import head_and_tail_law
from precision_lab.statistics import ratio_of_proportion
from precision_lab.study import Study
from precision_lab.targets import Target, load_capture
from precision_lab.targets.synthetic import head_and_tail, mdm_step
from precision_lab.uniforms.cuda import TORCH_CUDA_RAND
from precision_lab.uniforms.wide import wide_law

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "models"
RECORDED = ROOT / "results" / "gpu" / "h100_head_and_tail.json"
EAGER_GUMBEL = replace(SAMPLERS["gumbel_max_fp32"], source=TORCH_CUDA_RAND["fp32"], backend="cuda")
LINES = {  # series -> (line of code, device, sampler)
    "multinomial, CPU": ("multinomial", "CPU", SAMPLERS["torch_multinomial_fp32"]),
    "multinomial, CUDA": ("multinomial", "CUDA", SAMPLERS["torch_cuda_race_fp32"]),
    "race, compiled": ("multinomial", "compiled", SAMPLERS["torch_compiled_race_fp32"]),
    "Gumbel, CPU": ("Gumbel", "CPU", SAMPLERS["gumbel_max_fp32"]),
    "Gumbel, CUDA": ("Gumbel", "CUDA", EAGER_GUMBEL),
    "Gumbel, compiled": ("Gumbel", "compiled", SAMPLERS["torch_compiled_gumbel_fp32"]),
}
OF_RECORD = {  # name in the recorded file -> series whose law it should follow
    "torch.multinomial(p, 1)": "multinomial, CUDA",
    "argmax(p / exponential_)": "multinomial, CUDA",
    "argmax(logits - log(-log(rand)))": "Gumbel, CUDA",
}
GAPS = np.arange(8, 20.25, 0.25).tolist()
SHORT = {"mdm": [], "steps": [], "first_hitting": [], "smollm2": []}  # rows of each model; steps N
ONE_ROW = SHORT | {"mdm": [2], "steps": [1024, 50_000]}
LONG = {"mdm": [0, 1, 2, 3, 4], "steps": [1024, 4096, 16_384, 50_000], "first_hitting": [0, 1], "smollm2": [0, 1]}
DRAWS = {  # profile -> (series, gap, draws)
    "smoke": [],
    "quick": [("multinomial, CPU", 17.0, 250)],
    "full": [
        ("multinomial, CPU", 15.0, 24_700),
        ("multinomial, CPU", 16.0, 4060),
        ("Gumbel, CPU", 15.0, 8700),
        ("Gumbel, CPU", 16.0, 1330),
        ("Gumbel, CPU", 17.0, 250),
    ],
}


def cells(profile):
    if profile == "smoke":
        return [{"series": "Gumbel, CPU", "gaps": [10.0, 14.0]} | SHORT]
    found = [{"series": name, "gaps": GAPS} | (LONG if profile == "full" else SHORT) for name in LINES]
    if profile == "quick":
        found.append({"series": "multinomial, CUDA", "gaps": []} | ONE_ROW)
    drawn = [{"series": name, "gap": gap, "draws": n} for name, gap, n in DRAWS[profile]]
    return [*drawn, *found, {"recorded": RECORDED.name}]


def measure(cell, rng):
    if "recorded" in cell:
        points = read_json(RECORDED)["draws"]["points"]
        return [counted(OF_RECORD[p["sampler"]], p["sampler"], p["gap"], p["tail_draws"], p["n"]) for p in points]
    sampler = LINES[cell["series"]][2]
    if "draws" in cell:
        hits = sampler.draw(torch.from_numpy(head_and_tail(cell["gap"])), cell["draws"], rng=rng) > 0
        return [counted(cell["series"], "CPU draws", cell["gap"], int(hits.sum()), cell["draws"])]
    rows = []
    for gap in cell["gaps"]:
        law = head_and_tail_law(sampler, gap)
        found = {"kind": "tail", "at": gap, "ratio": law.probs[1] / true_tail(gap)}
        rows.append(found | {"error": law.error, "guarantee": str(law.guarantee)})
    if cell["series"] != "multinomial, CPU":  # whose law is the target, within the bound
        sampler = with_tolerance(sampler, 1e-8, np.inf)
        rows += [on_row(sampler, step_of(row, n), row, n) for row in cell["mdm"] for n in cell["steps"]]
        rows += [on_row(sampler, first_hitting(row), row, 0) for row in cell["first_hitting"]]
        rows += [on_row(sampler, next_token(row, t), row, t) for row in cell["smollm2"] for t in (1.0, 0.7)]
    wide_law.cache_clear()  # 2 GB a device
    return [{"series": cell["series"]} | row for row in rows]


def true_tail(gap):
    """The tail's true share."""
    tail = round(0.1 * np.exp(gap)) * np.exp(-gap)
    return tail / (1 + tail)


def counted(series, source, gap, hits, n):
    found = ratio_of_proportion(hits, n, true_tail(gap))
    row = {"series": series, "kind": "draws", "source": source, "at": gap, "ratio": found.value}
    return row | {"low": found.low, "high": found.high, "n": n, "hits": hits}


def first_hitting(row):
    """One draw from what the masked model predicts; no mask is in the race."""
    return replace(load_capture(MODELS / "mdm" / "logits.safetensors").row(row), name="first-hitting")


def step_of(row, steps):
    """An ancestral step, of N = ``steps``, at a position of text with a share t masked: r = 1 / (N t)."""
    capture = load_capture(MODELS / "mdm" / "logits.safetensors")
    logits = mdm_step(capture.row(row).logits, 1 / (steps * float(capture.mask_ratio[row])))
    return Target("step", logits, capture.row(row).provenance, mask=len(logits) - 1)


def next_token(row, temperature):
    token = load_capture(MODELS / "smollm2" / "logits.safetensors").row(row)
    return replace(token, name="next token", logits=token.logits / temperature)


def on_row(sampler, target, row, at):
    found = compare(sampler, target)
    columns = ["total_variation", "unmask_multiplier", "token_temperature", "token_entropy_lost", "error", "guarantee"]
    return {"kind": target.name, "row": row, "at": at} | {name: found.get(name) for name in columns}


def draw(frame):
    raise NotImplementedError


def verdict(frame):
    return "?"


QUESTION = "What does one line of code, on a CPU, on CUDA and compiled, do to rare tokens?"
STUDY = Study("devices", QUESTION, cells, measure, draw, verdict)
