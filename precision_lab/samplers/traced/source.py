"""Which source a recorded random operation draws from, as this machine was measured."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...uniforms import Source
from ...uniforms.measured import confirmed
from .anatomy import DTYPE_NAMES
from .record import Step, refused


def named(name: str, dtype: torch.dtype, device: str = "cpu") -> Source:
    """The source of ``torch.rand`` ("rand") or ``exponential_`` ("exponential") in a dtype, confirmed on this machine."""
    return confirmed("rand" if name == "rand" else "exponential_", dtype, device)


def source_of(step: Step) -> tuple[Source, Callable[[Tensor], Tensor]]:
    """The source, and what the operation does to its value: ``uniform_(a, b)`` is (b - a) u + a. InputError for others."""
    value = step.outputs[0]
    dtype = value.dtype
    device = value.kept.device.type if value.kept is not None else "cpu"
    if dtype not in DTYPE_NAMES:
        raise refused(f"{step.name} in {dtype}, at {step.where}", "float16, bfloat16, float32 or float64")
    if step.name in ("rand", "rand_like"):
        return named("rand", dtype, device), _unchanged
    if step.name == "exponential":
        if step.argument(1, "lambd", 1.0) != 1.0:
            raise refused(
                f"exponential_ of rate {step.argument(1, 'lambd')} at {step.where}", "rate 1", "scale it after"
            )
        return named("exponential", dtype, device), _unchanged
    if step.name == "uniform":
        low, high = float(step.argument(1, "from", 0.0)), float(step.argument(2, "to", 1.0))
        if (low, high) == (0.0, 1.0):
            return named("rand", dtype, device), _unchanged
        return named("rand", dtype, device), lambda u: u * (high - low) + low
    raise refused(
        f"the random operation {step.name} at {step.where}", "torch.rand, uniform_, exponential_ or torch.multinomial"
    )


def _unchanged(values: Tensor) -> Tensor:
    return values
