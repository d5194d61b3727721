"""Float formats as rows of data, and correct rounding into them from float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .types import Float


@dataclass(frozen=True)
class FloatFormat:
    """A binary format: ``precision`` significant bits, smallest normal exponent ``emin`` (2^emin), largest value ``max``."""

    name: str
    precision: int
    emin: int
    max: float

    def round(self, x: Float) -> Float:
        """Nearest value of this format, ties to even, with subnormals and overflow to infinity; float64 in and out."""
        x = np.asarray(x, dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            if self.name == "fp64":
                return x
            if self.name == "fp32":
                return x.astype(np.float32).astype(np.float64)
            if self.name == "fp16":
                return x.astype(np.float16).astype(np.float64)
            _, exponent = np.frexp(x)
            quantum = np.ldexp(1.0, np.maximum(exponent, self.emin + 1) - self.precision)
            rounded = np.where(np.isfinite(x), np.rint(x / quantum) * quantum, x)
            return np.where(np.abs(rounded) > self.max, np.copysign(np.inf, x), rounded)

    @property
    def largest_below_one(self) -> float:
        return 1.0 - 2.0**-self.precision


FP16 = FloatFormat("fp16", 11, -14, 65504.0)
BF16 = FloatFormat("bf16", 8, -126, float.fromhex("0x1.fep127"))
FP32 = FloatFormat("fp32", 24, -126, float.fromhex("0x1.fffffep127"))
FP64 = FloatFormat("fp64", 53, -1022, float.fromhex("0x1.fffffffffffffp1023"))
FORMATS = {f.name: f for f in (FP16, BF16, FP32, FP64)}
