"""``torch.multinomial`` on CPU has two laws: one draw per row is an exponential race, several with replacement are an
inverse CDF. Decoders draw one per row, so the plain names mean that path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..formats import FORMATS
from ..laws.argmax import argmax_law, perturbed_law
from ..laws.inverse_cdf import inverse_cdf_law
from ..laws.law import Law
from ..uniforms import DTYPES, TORCH_EXPONENTIAL, Rng, words
from .sampler import Sampler, Stages, chunks, log_normalised

_REF = "pytorch/pytorch aten/src/ATen/native/Distributions.cpp, cpu/MultinomialKernel.cpp (2.13)"


def _torch_rng(rng: Rng) -> torch.Generator:
    """The library draws only from its own generator: a NumPy one seeds it with 63 of its bits."""
    if isinstance(rng, torch.Generator):
        return rng
    return torch.Generator().manual_seed(int(words((1,), 62, rng=rng)))


@dataclass(frozen=True)
class TorchMultinomial(Sampler):
    """``torch.multinomial(softmax(logits), 1)``: argmax(p / E), E = ``exponential_`` in the dtype of p, double inside."""

    @property
    def ceiling(self) -> float:
        """float16 and bfloat16 exponentials can be zero (the 53-bit word 0 always is): an infinite score."""
        return float("inf")

    def bits_per_draw(self, vocab: int) -> float:
        return 53 * vocab

    def probs_of(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits.to(DTYPES[self.stages.weights]), dim=-1)

    def sample(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        generator, probs = _torch_rng(rng), self.probs_of(logits)
        draws, rows = chunks(logits, n)
        out = torch.empty((n, len(logits)), dtype=torch.int64, device=logits.device)
        for i in range(0, n, draws):
            for j in range(0, len(logits), rows):
                part = probs[j : j + rows]
                many = part.expand(min(draws, n - i), *part.shape).reshape(-1, part.shape[-1])
                out[i : i + draws, j : j + rows] = torch.multinomial(many, 1, generator=generator).reshape(
                    -1, len(part)
                )
        return out

    def row_law(self, logits: Tensor) -> Law:
        probs = self.probs_of(logits).double().cpu().numpy()
        format = FORMATS[self.stages.score]
        if format.precision <= 11:
            return argmax_law(probs, TORCH_EXPONENTIAL[format.name].atoms(), combine="divide", score=format)
        # E and p/E are each rounded once: (1 + 2^-p)^2, with a little room for the logarithm itself
        return perturbed_law(log_normalised(probs, "divide"), relative=2.5 * 2.0**-format.precision, lattice=2.0**-52)


@dataclass(frozen=True)
class TorchMultinomialReplacement(TorchMultinomial):
    """``torch.multinomial(softmax(logits), n, replacement=True)``, n > 1: a sequential cumulative sum in the dtype of p
    (float32 for float16 and bfloat16), divided by its last value, searched with a 53-bit u."""

    @property
    def ceiling(self) -> float:
        return float("nan")

    def bits_per_draw(self, vocab: int) -> float:
        return 53

    def sample(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        drawn = torch.multinomial(self.probs_of(logits), max(n, 2), replacement=True, generator=_torch_rng(rng))
        return drawn[:, :n].T.contiguous()

    def row_law(self, logits: Tensor) -> Law:
        wide = np.float64 if self.stages.weights == "fp64" else np.float32
        sums = np.cumsum(self.probs_of(logits).double().cpu().numpy().astype(wide), dtype=wide)
        cumulative = (sums / sums[-1]).astype(np.float64)
        cumulative[-1] = 1.0
        return inverse_cdf_law(cumulative, bits=53, rule="u <= c")


def torch_multinomial(format: str) -> TorchMultinomial:
    return TorchMultinomial(f"torch_multinomial_{format}", "PyTorch", _REF, Stages(format, "fp64", format, format))


def torch_multinomial_replacement(format: str) -> TorchMultinomialReplacement:
    wide = "fp32" if format == "fp16" else format
    return TorchMultinomialReplacement(
        f"torch_multinomial_replacement_{format}", "PyTorch", _REF, Stages(format, "fp64", wide, wide)
    )
