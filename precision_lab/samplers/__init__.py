"""Samplers on trial. ``SAMPLERS`` is the registry: one literal table; entry points and plain functions add
to it."""

from __future__ import annotations

from .exponential_race import exponential_race
from .faithful_race import FAITHFUL_RACE
from .function import FunctionSampler
from .gumbel_max import GUMBEL_MAX_FP64_TRUNCATED, gumbel_max
from .integer_masses import FAITHFUL_MASSES
from .inverse_cdf import inverse_cdf
from .published import PUBLISHED
from .resolve import resolve
from .sampler import Sampler, Stages, UniformSampler, with_tolerance
from .torch_multinomial import torch_multinomial, torch_multinomial_replacement

SAMPLERS: dict[str, Sampler] = {
    sampler.name: sampler
    for sampler in (
        gumbel_max("fp16"),
        gumbel_max("bf16"),
        gumbel_max("fp32"),
        gumbel_max("fp64"),
        GUMBEL_MAX_FP64_TRUNCATED,
        exponential_race("fp16"),
        exponential_race("bf16"),
        exponential_race("fp32"),
        exponential_race("fp64"),
        inverse_cdf("fp16"),
        inverse_cdf("fp32"),
        inverse_cdf("fp64"),
        torch_multinomial("fp16"),
        torch_multinomial("fp32"),
        torch_multinomial("fp64"),
        torch_multinomial_replacement("fp16"),
        torch_multinomial_replacement("fp32"),
        torch_multinomial_replacement("fp64"),
        FAITHFUL_MASSES,
        FAITHFUL_RACE,
        *PUBLISHED.values(),
    )
}

__all__ = [
    "PUBLISHED",
    "SAMPLERS",
    "FunctionSampler",
    "Sampler",
    "Stages",
    "UniformSampler",
    "resolve",
    "with_tolerance",
]
