"""The laws of a step by which event-driven decoding knows a sampler: closed forms where there are any."""

from __future__ import annotations

from functools import partial

from ...laws.process import StepLaw, faithful_step, lattice_step, step_law_of, truncated_step
from ...samplers import SAMPLERS, Sampler, resolve
from ...samplers.gumbel_max import FP32_CEILING

STEP_LAWS: dict[
    str, StepLaw
] = {  # samplers whose law of a step costs milliseconds: closed forms, enumerations of few atoms
    "gumbel_max_fp32": lattice_step,
    "gumbel_max_fp64": faithful_step,
    "gumbel_max_fp64_truncated": partial(truncated_step, ceiling=FP32_CEILING),
    "gumbel_max_fp16": step_law_of(SAMPLERS["gumbel_max_fp16"].law),
    "gumbel_max_bf16": step_law_of(SAMPLERS["gumbel_max_bf16"].law),
}
EXCESS = {
    "gumbel_max_fp16": 2.0**-11,
    "gumbel_max_bf16": 2.0**-8,
}  # twice P(u = 0): what a step law may give above r
USUAL_EXCESS = 2.0**-24


def law_and_excess(sampler: StepLaw | Sampler | str) -> tuple[StepLaw, float]:
    """The step law of a sampler by name, or of a law as it is, and what it may give above r."""
    if not isinstance(sampler, str | Sampler):
        return sampler, USUAL_EXCESS
    found = resolve(sampler)
    return STEP_LAWS.get(found.name) or step_law_of(found.law), EXCESS.get(found.name, USUAL_EXCESS)
