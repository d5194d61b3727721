"""How large can the noise get? The paper's Table 1, for every recipe we ship, measured by enumeration.

Every word of the source is pushed through the sampler's own noise map (2^24 words for float16, bfloat16 and float32);
the 2^53 words of float64 are represented by those next to 0 and 1. Cost: half a minute.
"""

import numpy as np

from precision_lab import SAMPLERS, figures
from precision_lab.formats import FORMATS
from precision_lab.samplers import UniformSampler
from precision_lab.samplers.gumbel_max import FP32_CEILING
from precision_lab.study import Study
from precision_lab.uniforms import TORCH_RAND

# Those fed by torch.rand, whose largest uniform the formula takes; the experiment `gallery` has the others.
NAMES = [n for n, s in SAMPLERS.items() if isinstance(s, UniformSampler) and s.source in TORCH_RAND.values()]
SMOKE = [name for name in NAMES if not name.endswith("fp32") or name == "gumbel_max_fp32"]
DRAWN = ["gumbel_max_bf16", "gumbel_max_fp16", "gumbel_max_fp32", "mdlm_fp32"]


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
    row |= {
        "atoms": len(atoms.values),
        "probability_of_ceiling": atoms.probs[best],
        "method": "enumeration of 2^24 words",
    }
    rows = [row | {"gumbel": None, "survival_ratio": None}]
    if sampler.name in DRAWN:  # P(G >= g) / (1 - exp(-e^-g)) on a fine axis
        g = np.linspace(0, 18, 361)
        ascending = atoms if sampler.combine == "add" else atoms.push(lambda e: -np.log(np.maximum(e, 1e-300)))
        reach = (1 - ascending.below(g, inclusive=False)) / -np.expm1(-np.exp(-g))
        rows += [row | {"gumbel": a, "survival_ratio": b} for a, b in zip(g.tolist(), reach.tolist(), strict=True)]
    return rows


def draw(frame):
    figure, (left, right) = figures.canvas(2)
    for k, name in enumerate(DRAWN):
        part = frame[(frame.sampler == name) & frame.gumbel.notna()]
        left.plot(
            part.gumbel, part.survival_ratio, label=name, color=figures.COLOURS[k], lw=1.2, ls=("-", "-", "-", ":")[k]
        )
    left.axhline(1, color="black", lw=0.8, ls=":")
    left.set(
        ylim=(0, 1.45),
        xlabel="g",
        ylabel="P(G ≥ g) as drawn / as intended",
        title="the noise is a staircase, then nothing",
    )
    left.legend(loc="upper left", ncols=2)
    table = frame.drop_duplicates("sampler").iloc[::-1]
    right.scatter(table.formula, table.sampler, marker="|", s=90, color="black", label="−log(−log u_max)")
    right.scatter(table.ceiling, table.sampler, color=figures.COLOURS[1], s=18, label="measured")
    right.set(xlabel="largest Gumbel noise", title="ceiling of every recipe")
    right.legend(loc="upper right")
    return figure


def verdict(frame):
    table = frame.drop_duplicates("sampler").set_index("sampler")
    fp32, fp64 = table.ceiling["gumbel_max_fp32"], table.ceiling["gumbel_max_fp64"]
    off = table[(table.ceiling - table.formula).abs() > 0.005].index.tolist()
    return (
        f"Reproduced: float32 Gumbel noise ends at {fp32:.4f} (paper: 16.6355), float64 at {fp64:.4f} (36.7368). "
        f"The formula of u alone is off by more than 0.005 for: {', '.join(off) or 'none'}."
    )


STUDY = Study(
    name="noise_ceiling",
    question="What is the largest noise each recipe can make, and with what probability?",
    cells=lambda profile: [{"sampler": name} for name in (SMOKE if profile == "smoke" else NAMES)],
    measure=measure,
    draw=draw,
    verdict=verdict,
)
