"""Sources of randomness: integer word -> u (or noise), each with the exact law of what it returns."""

from .source import DTYPES, Rng, Source, words
from .torch_cpu import (
    TORCH_CPU_BF16,
    TORCH_CPU_FP16,
    TORCH_CPU_FP32,
    TORCH_CPU_FP64,
    TORCH_EXPONENTIAL,
    TORCH_RAND,
    TorchExponential,
    TorchRand,
)

__all__ = [
    "DTYPES",
    "TORCH_CPU_BF16",
    "TORCH_CPU_FP16",
    "TORCH_CPU_FP32",
    "TORCH_CPU_FP64",
    "TORCH_EXPONENTIAL",
    "TORCH_RAND",
    "Rng",
    "Source",
    "TorchExponential",
    "TorchRand",
    "words",
]
