"""Twelve defective samplers, each with the target that tells: what a judge is for. Evidence: ``precision_lab.defects``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..laws.law import Law
from ..laws.process import lattice_step
from ..samplers import SAMPLERS
from ..targets.synthetic import mdm_step, normal, zipf
from ..types import Array, Float, Guarantee
from .promise import Rng

UNMASK, ZERO = 1e-3, 2.0**-23  # of the step; P(standard_exponential(dtype=float32) = 0)
STEP = "mdm step, 50,258"
COMMON: dict[str, Callable[[], Float]] = {
    "Zipf, 50,257": lambda: zipf(50_257),
    STEP: lambda: mdm_step(zipf(50_257), UNMASK),
}


@dataclass(frozen=True)
class Defective:
    """``sampler``: a name in SAMPLERS; or "states", "shared" (two rows, one noise) or "numpy" (a race with exact zeros)."""

    what: str
    sampler: str
    telling: str
    make: Callable[[], Float]

    @property
    def marginal(self) -> bool:
        """Whether one draw shows it; else two draws know of each other and each by itself is right."""
        return self.sampler not in ("states", "shared")

    def logits(self, target: str) -> Float:
        """(vocab,) of its telling target, or of a common one."""
        return (self.make if target == self.telling else COMMON[target])()

    def law(self, logits: Float, p: Law) -> Law:
        """Of one draw: exact, but for closed forms of float32 on the step (3e-5 of the unmasking), of the zeros and of
        31 folded bits over 50,000 tokens, whose race has too many events.

        Of the zeros: the first token of noise 0 scores inf and wins; without one, a draw of p.
        """
        if not self.marginal:
            return p
        if self.sampler == "numpy":
            probs = ZERO * (1 - ZERO) ** np.arange(p.vocab) + (1 - ZERO) ** p.vocab * p.probs
            return Law.from_probs(probs, "closed form", 0.0, Guarantee.HEURISTIC)
        if self.sampler == "gumbel_max_fp32" and np.array_equal(logits, COMMON[STEP]()):
            q = lattice_step(zipf(50_257), UNMASK)
            return Law(
                np.log(np.append(q, 1 - q.sum())), "closed form of the lattice", 0.0, Guarantee.HEURISTIC
            )
        if self.sampler == "tl_rand_flipped" and p.vocab > 10_000:
            return folded(p)
        return SAMPLERS[self.sampler].law(torch.from_numpy(logits).float())

    def draw(self, logits: Float, n: int, rng: Rng) -> Array:
        """(n,) tokens; (n, 2) where two rows share their noise."""
        p = np.exp(logits) / np.exp(logits).sum()
        if self.sampler == "shared":
            one = np.array([(logits + rng.gumbel(size=len(p))).argmax() for _ in range(n)])
            return np.stack([one, one], axis=1)
        if self.sampler == "states":
            return rng.choice(len(p), n, p=p)
        if self.sampler == "numpy":
            with np.errstate(divide="ignore"):
                race = (
                    p.astype(np.float32) / rng.standard_exponential(len(p), dtype=np.float32) for _ in range(n)
                )
                return np.array([scores.argmax() for scores in race])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return np.asarray(SAMPLERS[self.sampler].draw(torch.from_numpy(logits).float(), n, rng=generator))


def folded(p: Law, bits: int = 31) -> Law:
    """q_i ~ p_i y (e^-y + 1 / (e^y - 1)), y = 2^-bits (1 - p_i) / p_i: uniforms k / 2^bits whose 0 is lifted to 2^-bits."""
    y = 2.0**-bits * (1 - p.probs) / p.probs
    probs = p.probs * y * (np.exp(-y) + 1 / np.expm1(y))
    return Law.from_probs(probs / probs.sum(), "closed form", 0.0, Guarantee.HEURISTIC)


def _head(head: float, tail: float, count: int) -> Float:
    return np.append(float(head), np.full(count, float(tail)))


DEFECTIVE = {
    1: Defective("JAX high, bf16: atom at 87.5", "jax_high_bf16_0_10_2", "head of 20 in 32,001", lambda: _head(20, 0, 32_000)),
    2: Defective("JAX low, bf16: 128 noise values", "jax_low_bf16", "normal, 50,257", lambda: normal(50_257)),
    3: Defective("torch.multinomial: absorbed tail", "torch_multinomial_replacement_fp32", "2^17 tokens of 2^-26",
                 lambda: np.log(_head(1 - 2.0**-9, 2.0**-26, 1 << 17))),
    4: Defective("torch fp16: E = 0", "torch_multinomial_fp16", "one-hot in 152,000",
                 lambda: _head(0, -np.inf, 151_999)[::-1].copy()),
    5: Defective("Murmur: 2^32 noise vectors", "states", "Zipf, 1,000", lambda: zipf(1000)),
    6: Defective("noise shared by two rows", "shared", "Zipf, 1,000", lambda: zipf(1000)),
    7: Defective("FlashSampling: +inf at u = 1", "flashsampling_cuda", "152,000 at gap 60", lambda: _head(0, -60, 152_000)),
    8: Defective("AITER: top bucket never wins", "aiter_rocm", "1,000 at gap 15", lambda: _head(0, -15, 1000)),
    9: Defective("NumPy fp32 exponential: zeros", "numpy", "Zipf, 1,000", lambda: zipf(1000)),
    10: Defective("bf16 ties to the first index", "gumbel_max_bf16", "8,192 equal", lambda: np.zeros(8192)),
    11: Defective("tl.rand flipped: folded words", "tl_rand_flipped", "1,000 at gap 20", lambda: _head(0, -20, 1000)),
    12: Defective("float32 noise", "gumbel_max_fp32", STEP, COMMON[STEP]),
}  # fmt: skip
