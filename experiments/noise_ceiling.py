"""How large can the noise get? The paper's Table 1, for every recipe we ship, measured by enumeration.

Every word of the source is pushed through the sampler's own noise map (2^24 words for float16, bfloat16 and
float32); the 2^53 words of float64 are represented by those next to 0 and 1.
Cost: half a minute.
"""

import numpy as np

from precision_lab import SAMPLERS, figures
from precision_lab.finding import Claim, Finding
from precision_lab.formats import FORMATS
from precision_lab.samplers import UniformSampler
from precision_lab.samplers.gumbel_max import FP32_CEILING
from precision_lab.statistics import Estimate
from precision_lab.study import Analysis, Study
from precision_lab.uniforms import TORCH_RAND

# ---------------------------------------------------------------- grid


def by_torch_rand(sampler):
    """Whose largest uniform the paper's formula takes; the experiment `gallery` has the others."""
    return isinstance(sampler, UniformSampler) and sampler.source in TORCH_RAND.values()


NAMES = [name for name, sampler in SAMPLERS.items() if by_torch_rand(sampler)]
SMOKE = [name for name in NAMES if not name.endswith("fp32") or name == "gumbel_max_fp32"]


def cells(profile):
    return [{"sampler": name} for name in (SMOKE if profile == "smoke" else NAMES)]


# ------------------------------------------------------------- measure

STAIRCASES = ["gumbel_max_bf16", "gumbel_max_fp16", "gumbel_max_fp32", "mdlm_fp32"]
AXIS = np.linspace(0, 18, 361)  # of the noise


def measure(cell, rng):
    sampler = SAMPLERS[cell["sampler"]]
    largest_u = FORMATS[sampler.stages.uniform].largest_below_one
    if sampler.name.endswith("_truncated"):
        largest_u = np.exp(-np.exp(-FP32_CEILING))
    row = {
        "sampler": sampler.name,
        "noise": "gumbel" if sampler.combine == "add" else "exponential",
        "largest_u": largest_u,
        "formula": -np.log(-np.log(largest_u)),
        "ceiling": sampler.ceiling,
        "atoms": None,
        "probability_of_ceiling": None,
        "method": "words next to 0 and 1",
    }
    if not sampler.source.enumerable:
        return [row]
    atoms = sampler.noise_atoms()
    best = -1 if sampler.combine == "add" else 0
    row["atoms"] = len(atoms.values)
    row["probability_of_ceiling"] = atoms.probs[best]
    row["method"] = "enumeration of 2^24 words"
    rows = [row | {"gumbel": None, "survival_ratio": None}]
    if sampler.name in STAIRCASES:
        ratios = survival_ratio(sampler, atoms).tolist()
        rows += [row | {"gumbel": g, "survival_ratio": r} for g, r in zip(AXIS.tolist(), ratios, strict=True)]
    return rows


def survival_ratio(sampler, atoms):
    """P(G >= g) / (1 - exp(-e^-g)) on AXIS."""
    gumbel = atoms if sampler.combine == "add" else atoms.push(negative_log)
    return (1 - gumbel.below(AXIS, inclusive=False)) / -np.expm1(-np.exp(-AXIS))


def negative_log(e):
    return -np.log(np.maximum(e, 1e-300))


# ------------------------------------------------------------- analyse

PAPER = {"gumbel_max_fp32": 16.6355, "gumbel_max_fp64": 36.7368}  # Table 1
PRINTED = 5e-5  # half of the last digit printed there
OFF = 0.005


def analyse(rows):
    table = rows.drop_duplicates("sampler").set_index("sampler")
    findings = [
        Finding(
            f"{name}, largest noise",
            Estimate.exact(table.ceiling[name]),
            value,
            Claim.EQUAL,
            PRINTED,
            digits=4,
        )
        for name, value in PAPER.items()
    ]
    off = table[(table.ceiling - table.formula).abs() > OFF].index
    return Analysis(
        findings, [f"the formula of u alone is off by more than {OFF} for {', '.join(off) or 'none'}"]
    )


# -------------------------------------------------------------- figure

STYLES = {name: {"color": figures.precision(name)["color"], "lw": 1.2} for name in STAIRCASES}
STYLES["mdlm_fp32"] |= {"color": "black", "ls": ":"}


def figure(rows, analysis):
    drawn, (left, right) = figures.canvas(2)
    for name in STAIRCASES:
        part = rows[(rows.sampler == name) & rows.gumbel.notna()]
        left.plot(part.gumbel, part.survival_ratio, label=name, **STYLES[name])
    left.axhline(1, color="black", lw=0.8, ls=":")
    left.set(ylim=(0, 1.45), xlabel="g", ylabel="P(G ≥ g) as drawn / as intended")
    left.set_title("the noise is a staircase, then nothing")
    left.legend(loc="upper left", ncols=2)
    table = rows.drop_duplicates("sampler").iloc[::-1]
    right.scatter(table.formula, table.sampler, marker="|", s=90, color="black", label="−log(−log u_max)")
    right.scatter(table.ceiling, table.sampler, color=figures.COLOURS[1], s=18, label="measured")
    right.set(xlabel="largest Gumbel noise", title="ceiling of every recipe")
    right.legend(loc="upper right")
    return drawn


STUDY = Study(
    name="noise_ceiling",
    question="What is the largest noise each recipe can make, and with what probability?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
)
