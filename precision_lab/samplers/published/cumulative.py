"""Cumulative sums: GIDD's in float32, and three references in float64 (NumPy, TensorFlow on CPU, llama.cpp)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...laws.inverse_cdf import inverse_cdf_law
from ...laws.law import Law
from ...types import Guarantee
from ...uniforms import TORCH_CPU_FP32, TORCH_CPU_FP64, Rng, Source
from ...uniforms.grids import TENSORFLOW_FP64
from ...uniforms.numpy_random import NUMPY_FP64
from ..sampler import Sampler, Stages, chunks


def gidd_sums(logits: Tensor) -> Tensor:
    """cumsum(softmax) in float32, its last value replaced by 1.0001: whatever u is left goes to the last token. (torch on
    CPU accumulates in float64 and rounds each sum; on CUDA it does not.)"""
    sums = torch.cumsum(torch.softmax(logits.float(), dim=-1), dim=-1)
    sums[..., -1] = 1 + 1e-4
    return sums


def numpy_sums(logits: Tensor) -> Tensor:
    """Sequential float64 sums of a float64 softmax, divided by the last."""
    sums = np.cumsum(torch.softmax(logits.double(), dim=-1).cpu().numpy(), axis=-1)
    return torch.from_numpy(sums / sums[..., -1:])


def tensorflow_sums(logits: Tensor) -> Tensor:
    """Sequential float64 sums of exp(l - max), not divided."""
    wide = logits.double()
    return torch.from_numpy(np.cumsum((wide - wide.amax(dim=-1, keepdim=True)).exp().cpu().numpy(), axis=-1))


def llama_cpp_sums(logits: Tensor) -> Tensor:
    """Sequential float64 sums of float32 exp(l - max), not divided."""
    weights = (logits.float() - logits.float().amax(dim=-1, keepdim=True)).exp()
    return torch.from_numpy(np.cumsum(weights.double().cpu().numpy(), axis=-1))


@dataclass(frozen=True)
class CumulativeSum(Sampler):
    """The first token whose sum exceeds (``u < c``) or reaches (``u <= c``) u, or u times the last sum if ``scaled``; what
    is above every sum takes the last token."""

    source: Source
    sums: Callable[[Tensor], Tensor]
    rule: Literal["u < c", "u <= c"] = "u < c"
    scaled: bool = False

    @property
    def ceiling(self) -> float:
        return float("nan")

    def bits_per_draw(self, vocab: int) -> float:
        return self.source.bits

    def decide(self, logits: Tensor, u: Tensor) -> Tensor:
        """logits: (rows, vocab); u: (n, rows). Returns (n, rows)."""
        sums = self.sums(logits)
        target = (u * sums[:, -1] if self.scaled else u).T.contiguous()
        found = torch.searchsorted(sums, target, right=self.rule == "u < c").T
        return found.clamp(max=logits.shape[-1] - 1)

    def sample(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        draws, rows = chunks(logits, n)
        out = torch.empty((n, len(logits)), dtype=torch.int64, device=logits.device)
        for j in range(0, len(logits), rows):
            for i in range(0, n, draws):
                part = logits[j : j + rows]
                out[i : i + draws, j : j + rows] = self.decide(
                    part, self.source.draw((min(draws, n - i), len(part)), rng=rng)
                )
        return out

    def row_law(self, logits: Tensor) -> Law:
        """Exact, but for the rounding of u times the last sum, where ``scaled``: two units in the last place of u."""
        sums = self.sums(logits.unsqueeze(0))[0].double().cpu().numpy()
        law = inverse_cdf_law(sums / sums[-1] if self.scaled else sums, bits=self.source.bits, rule=self.rule)
        return replace(law, error=2.0**-51, guarantee=Guarantee.CERTIFIED) if self.scaled else law


GIDD_FP32 = CumulativeSum(
    name="gidd_fp32",
    publisher="GIDD",
    source_ref="dvruette/gidd gidd/utils.py sample_categorical (f67acc9)",
    stages=Stages.all("fp32"),
    source=TORCH_CPU_FP32,
    sums=gidd_sums,
)
NUMPY_CHOICE = CumulativeSum(
    name="numpy_choice",
    publisher="numpy.random.Generator.choice",
    source_ref="numpy/numpy numpy/random/_generator.pyx choice with p (1f90bbb, 2.4)",
    stages=Stages.all("fp64"),
    source=NUMPY_FP64,
    sums=numpy_sums,
    backend="numpy",
)
TENSORFLOW_CPU = CumulativeSum(
    name="tensorflow_cpu",
    publisher="TensorFlow tf.random.categorical on CPU",
    source_ref="tensorflow/core/kernels/multinomial_op.cc MultinomialFunctor<CPUDevice> (0d2cc41)",
    stages=Stages.all("fp64"),
    source=TENSORFLOW_FP64,
    sums=tensorflow_sums,
    scaled=True,
    backend="tensorflow cpu",
)
# std::uniform_real_distribution<double> makes u of 64 bits, rounded; here of 53.
LLAMA_CPP = CumulativeSum(
    name="llama_cpp",
    publisher="llama.cpp dist sampler",
    source_ref="ggml-org/llama.cpp src/llama-sampler.cpp llama_sampler_dist_apply (00efb3e)",
    stages=Stages("fp32", "fp64", "fp64", "fp64"),
    source=TORCH_CPU_FP64,
    sums=llama_cpp_sums,
    rule="u <= c",
    scaled=True,
    backend="c++ cpu",
)

CUMULATIVE = (GIDD_FP32, NUMPY_CHOICE, TENSORFLOW_CPU, LLAMA_CPP)
