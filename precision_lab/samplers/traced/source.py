"""Which source a recorded random operation draws from, as this machine was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from ...uniforms import Source
from ...uniforms.measured import confirmed
from .anatomy import DTYPE_NAMES
from .record import Step, refused


def named(name: str, dtype: torch.dtype, device: str = "cpu") -> Source:
    """The source of ``torch.rand`` ("rand") or ``exponential_`` ("exponential") in a dtype, confirmed on
    this machine."""
    return confirmed("rand" if name == "rand" else "exponential_", dtype, device)


def source_of(step: Step) -> tuple[Source, Callable[[Tensor], Tensor]]:
    """The source, and what the operation does to its value: ``uniform_(a, b)`` is (b - a) u + a. InputError
    for others."""
    value = step.outputs[0]
    dtype = value.dtype
    device = value.kept.device.type if value.kept is not None else "cpu"
    if dtype not in DTYPE_NAMES:
        raise refused(f"{step.name} in {dtype}, at {step.where}", "float16, bfloat16, float32 or float64")
    if step.name in ("rand", "rand_like"):
        return named("rand", dtype, device), _unchanged
    if step.name == "exponential":
        rate = float(step.argument(1, "lambd", 1.0))
        if rate == 1.0:
            return named("exponential", dtype, device), _unchanged
        if not divides_here(rate, dtype, device):
            raise refused(
                f"exponential_ of rate {rate:g} in {dtype}, at {step.where}, whose rounding is not known here",
                "rate 1, or on CPU a power of two (in float32 and float64 any rate)",
                "draw with rate 1 and divide",
            )
        return named("exponential", dtype, device), lambda drawn: drawn / rate
    if step.name == "uniform":
        low, high = float(step.argument(1, "from", 0.0)), float(step.argument(2, "to", 1.0))
        if (low, high) == (0.0, 1.0):
            return named("rand", dtype, device), _unchanged
        stretch = stretch_here(low, high, dtype, device)
        if stretch is None:
            raise refused(
                f"uniform_({low:g}, {high:g}) in {dtype}, at {step.where}, whose rounding is not known here",
                "uniform_(), torch.rand, or other bounds in float32 or float64 on CPU",
                "draw torch.rand and scale it: u * (b - a) + a",
            )
        return named("rand", dtype, device), lambda u: stretch(u, low, high)
    raise refused(
        f"the random operation {step.name} at {step.where}",
        "torch.rand, uniform_, exponential_ or torch.multinomial",
    )


def rounded_once(u: Tensor, low: float, high: float) -> Tensor:
    """``uniform_(a, b)`` as a fused multiply-add: (b - a) u + a, where b - a is rounded before."""
    a = torch.tensor(low, dtype=u.dtype, device=u.device)
    width = torch.tensor(high, dtype=u.dtype, device=u.device) - a
    if u.dtype == torch.float32:
        return (u.double() * width.double() + a.double()).float()
    return torch.addcmul(a.expand_as(u), u, width.expand_as(u))


def rounded_twice(u: Tensor, low: float, high: float) -> Tensor:
    """``uniform_(a, b)`` as a product and a sum: u (b - a) + a."""
    a = torch.tensor(low, dtype=u.dtype, device=u.device)
    width = torch.tensor(high, dtype=u.dtype, device=u.device) - a
    return u * width + a


Stretch = Callable[[Tensor, float, float], Tensor]


@lru_cache(maxsize=64)
def stretch_here(low: float, high: float, dtype: torch.dtype, device: str) -> Stretch | None:
    """What ``uniform_(a, b)`` makes of its uniforms on this machine, found on 4,096 draws: one rounding or two, by the
    instructions that torch was compiled to; None where it is neither."""
    if device != "cpu" or dtype not in (torch.float32, torch.float64):
        return None
    drawn = torch.empty(4096, dtype=dtype).uniform_(low, high, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(4096, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for stretch in (rounded_once, rounded_twice):
        if torch.equal(drawn, stretch(uniform, low, high)):
            return stretch
    return None


@lru_cache(maxsize=64)
def divides_here(rate: float, dtype: torch.dtype, device: str) -> bool:
    """Whether ``exponential_(rate)`` is that of rate 1, divided, on this machine, tried on 4,096 draws: to the last
    bit for a power of two, to two ulp for other rates in float32 and float64, which :mod:`.bounds` counts.
    """
    if device != "cpu" or not 2.0**-60 <= rate <= 2.0**60:
        return False
    power_of_two = math.frexp(rate)[0] == 0.5
    if dtype is torch.float16 and not 2.0**-10 <= rate <= 1.0:  # E / rate would be subnormal, or infinite
        return False
    if not power_of_two and dtype not in (torch.float32, torch.float64):
        return False
    drawn = torch.empty(4096, dtype=dtype).exponential_(rate, generator=torch.Generator().manual_seed(0))
    divided = torch.empty(4096, dtype=dtype).exponential_(generator=torch.Generator().manual_seed(0)) / rate
    if power_of_two:
        return torch.equal(drawn, divided)
    return torch.allclose(drawn, divided, rtol=2 * torch.finfo(dtype).eps, atol=0.0)


def _unchanged(values: Tensor) -> Tensor:
    return values
