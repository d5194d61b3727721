"""``torch.multinomial`` on CPU has two laws: one draw per row is an exponential race, several with
replacement are an inverse CDF. Decoders draw one per row, so the plain names mean that path."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from ..formats import FORMATS
from ..laws.inverse_cdf import inverse_cdf_law
from ..laws.law import Law
from ..uniforms import TORCH_CPU_FP64, TORCH_EXPONENTIAL, Rng, words
from .chunks import draw_in_chunks
from .noise_maps import unchanged
from .rules import Enumerated, LawRule, Race, WithinBound
from .sampler import Sampler, Stages, emulated_arithmetic
from .weights import Softmax

_REF = "pytorch/pytorch aten/src/ATen/native/Distributions.cpp, cpu/MultinomialKernel.cpp (2.13)"


def as_torch_rng(rng: Rng) -> torch.Generator:
    """The library draws only from its own generator: a NumPy one seeds it with 63 of its bits."""
    if isinstance(rng, torch.Generator):
        return rng
    return torch.Generator().manual_seed(int(words((1,), 62, rng=rng)))


def _probs_of(sampler: Sampler, logits: Tensor) -> Tensor:
    return Softmax().of(logits, format=sampler.stages.weights, sampler=sampler.name)


@final
@dataclass(frozen=True)
class TorchMultinomial(Sampler):
    """``torch.multinomial(softmax(logits), 1)``: argmax(p / E), E = ``exponential_`` in the dtype of p,
    double inside.
    ``rule``: how the law is computed."""

    rule: LawRule

    @property
    def race(self) -> Race:
        """What is drawn and compared, without logits."""
        format = self.stages.score
        return Race(TORCH_EXPONENTIAL[format], unchanged, "divide", FORMATS[format], name=self.name)

    @property
    def ceiling(self) -> float:
        """The 53-bit word 0 is E = 0, in float16 and bfloat16 words near it too: an infinite score."""
        return math.inf

    def bits_per_draw(self, vocab: int) -> float:
        return vocab * self.race.source.bits

    @property
    def emulated(self) -> str | None:
        return emulated_arithmetic(self.race.source, self.backend)

    def sample(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        generator = as_torch_rng(rng)

        def draw_part(probs: Tensor, count: int) -> Tensor:
            many = probs.expand(count, *probs.shape).reshape(-1, probs.shape[-1])
            return torch.multinomial(many, 1, generator=generator).reshape(count, len(probs))

        def probs_of(part: Tensor) -> Tensor:
            return _probs_of(self, part)

        return draw_in_chunks(draw_part, logits, n, values_per_row=logits.shape[-1], prepare=probs_of)

    def row_law(self, logits: Tensor) -> Law:
        return self.rule.law(self.race, _probs_of(self, logits).double().cpu().numpy())


@final
@dataclass(frozen=True)
class TorchMultinomialReplacement(Sampler):
    """``torch.multinomial(softmax(logits), n, replacement=True)``, n > 1: a sequential cumulative sum in
    the dtype of p (float32 for float16 and bfloat16), divided by its last value, searched with a 53-bit u."""

    @property
    def ceiling(self) -> float:
        return math.nan

    def bits_per_draw(self, vocab: int) -> float:
        return 53

    @property
    def emulated(self) -> str | None:
        return emulated_arithmetic(TORCH_CPU_FP64, self.backend)

    def sample(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        probs = _probs_of(self, logits)
        drawn = torch.multinomial(probs, max(n, 2), replacement=True, generator=as_torch_rng(rng))
        return drawn[:, :n].T.contiguous()

    def row_law(self, logits: Tensor) -> Law:
        wide = np.float64 if self.stages.weights == "fp64" else np.float32
        sums = np.cumsum(_probs_of(self, logits).double().cpu().numpy().astype(wide), dtype=wide)
        cumulative = (sums / sums[-1]).astype(np.float64)
        cumulative[-1] = 1.0
        return inverse_cdf_law(cumulative, bits=53, rule="u <= c")


def torch_multinomial(format: str) -> TorchMultinomial:
    """One draw a row in ``format``: fp16, bf16, fp32 or fp64. float16 and bfloat16 quotients may overflow."""
    precision = FORMATS[format].precision
    rule: LawRule = Enumerated(overflow=True)
    if not TORCH_EXPONENTIAL[format].enumerable:
        # E and p/E are each rounded once: (1 + 2^-p)^2, with a little room for the logarithm itself.
        rule = WithinBound(relative=2.5 * 2.0**-precision, spacing=2.0**-52)
    return TorchMultinomial(
        f"torch_multinomial_{format}", "PyTorch", _REF, Stages(format, "fp64", format, format), rule
    )


def torch_multinomial_replacement(format: str) -> TorchMultinomialReplacement:
    """Several draws a row with replacement in ``format``: fp16, bf16, fp32 or fp64."""
    wide = "fp64" if format == "fp64" else "fp32"
    return TorchMultinomialReplacement(
        f"torch_multinomial_replacement_{format}", "PyTorch", _REF, Stages(format, "fp64", wide, wide)
    )
