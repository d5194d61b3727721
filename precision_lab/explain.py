"""How a sampler draws, in words: what `precision-lab explain` prints."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .devices import checked
from .errors import InputError
from .samplers import FunctionSampler, Sampler, UniformSampler
from .samplers.on_device import on_device
from .samplers.traced.explain import explain
from .targets import Target
from .targets.synthetic import zipf
from .uniforms import DTYPES

LOGITS = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64"}


def given_logits(sampler: Sampler, target: Target, dtype: str = "float32", device: str = "cpu") -> torch.Tensor:
    """The row that the sampler is given: for a function in ``dtype``, as a model would hand it over; for a
    recipe, which casts by itself, in float64. InputError for a dtype that is none or too narrow, and for a
    device that is not there."""
    if dtype not in LOGITS:
        raise InputError(f"dtype {dtype!r}", ", ".join(LOGITS), "choose one")
    row = torch.from_numpy(np.asarray(target.logits, dtype=np.float64))
    if isinstance(sampler, FunctionSampler):
        wide, row = row, row.to(DTYPES[LOGITS[dtype]])
        if bool((row.isinf() & (row > 0) & wide.isfinite()).any()):
            most = torch.finfo(row.dtype).max
            raise InputError(
                f"a largest logit of {float(wide.max()):g} in {dtype}",
                f"at most {most:g}",
                "subtract the largest logit first",
            )
    return row.to(checked(device))


def explained(
    sampler: Sampler, vocab: int = 1000, *, dtype: str = "float32", device: str = "cpu"
) -> dict[str, Any]:
    """One row in words: how a function draws, read at a Zipf row of ``vocab`` tokens; of a recipe, what it
    declares."""
    if isinstance(sampler, FunctionSampler):
        row = given_logits(sampler, Target("zipf", zipf(vocab), "synthetic"), dtype, device)
        return explain(sampler.reading(row))
    sampler = on_device(sampler, checked(device))
    return {
        "sampler": sampler.name,
        "publisher": sampler.publisher,
        "source": sampler.source_ref,
        "dtypes": str(sampler.stages),
        "randomness": sampler.source.name if isinstance(sampler, UniformSampler) else "",
        "bits_per_draw": sampler.bits_per_draw(vocab),
        "ceiling": sampler.ceiling,
        "arithmetic": sampler.emulated or "this machine's, confirmed",
    }
