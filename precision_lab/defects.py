"""Twelve defects of published samplers: what the exact law says of each, what draws say here, and what the
publisher's own rule of acceptance would have said. Nothing here is estimated where it can be counted."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .laws.law import Law, target_law
from .laws.process import lattice_step
from .samplers import SAMPLERS, UniformSampler, with_tolerance
from .statistics import proportion
from .statistics.independence import Chance, cross_row_test, repeated_vector_test
from .statistics.public_criteria import (
    FLASHINFER_COSINE,
    FLASHSAMPLING_CHI_SQUARE,
    JAX_CHI_SQUARE,
    PYTORCH_CHI_SQUARE,
    VLLM_TAIL,
    Rule,
    forecast_pytorch_repeats,
)
from .targets.synthetic import mdm_step, normal, zipf
from .types import Float, Guarantee
from .uniforms.murmur import murmur3_state

Rng = np.random.Generator


@dataclass(frozen=True)
class Finding:
    """One row of the table. ``true`` and ``law``: the same quantity under the target and under the
    sampler's law."""

    quantity: str
    true: float
    law: float
    draws: str
    their_rule: str


def _law(name: str, logits: Float) -> Law:
    sampler = with_tolerance(SAMPLERS[name], tolerance=1e-9, relative=1e-3)
    return sampler.law(torch.from_numpy(logits).float())


def _hits(name: str, logits: Float, chosen: np.ndarray, n: int, rng: Rng) -> str:
    """How many of n draws fall in a set of tokens, with the exact binomial interval."""
    drawn = SAMPLERS[name].draw(
        torch.from_numpy(logits).float(), n, rng=torch.Generator().manual_seed(int(rng.integers(2**62)))
    )
    found = proportion(int(chosen[drawn.numpy()].sum()), n)
    return f"{found.value:.4g} [{found.low:.4g}, {found.high:.4g}], n = {n:,}"


def _rule(rule: Rule, q: Law, p: Law) -> str:
    """P(it passes), beside P(it passes a right sampler): a rule that fails both has seen nothing."""
    said, right = rule.forecast(q, p), rule.forecast(p, p)
    return f"{rule.publisher} {rule.name}, n = {said.n:,}: passes {said.passes:.3g} (a right sampler {right.passes:.3g})"


def _set(logits: Float, name: str, chosen: np.ndarray, quantity: str, n: int, rule: Rule, rng: Rng) -> Finding:
    p, q = target_law(logits), _law(name, logits)
    return Finding(
        quantity,
        float(p.probs[chosen].sum()),
        float(q.probs[chosen].sum()),
        _hits(name, logits, chosen, n, rng),
        _rule(rule, q, p),
    )


def _top(logits: Float, count: int) -> np.ndarray:
    chosen = np.zeros(len(logits), dtype=bool)
    chosen[np.argsort(-logits)[:count]] = True
    return chosen


def jax_high_bfloat16(rng: Rng) -> Finding:
    logits = np.concatenate([[20.0], np.zeros(32_000)])
    four = np.log([0.1, 0.2, 0.3, 0.4])
    found = _set(
        logits,
        "jax_high_bf16_0_10_2",
        _top(logits, 1),
        "P(head), logit 20 against 32,000 at 0",
        500,
        JAX_CHI_SQUARE,
        rng,
    )
    return replace(
        found,
        their_rule=_rule(JAX_CHI_SQUARE, _law("jax_high_bf16_0_10_2", four), target_law(four))
        + ", 4 categories",
    )


def jax_low_bfloat16(rng: Rng) -> Finding:
    logits, quantity = normal(50_257), "mass of the 100 likeliest, normal sd 3, vocab 50,257"
    found = _set(logits, "jax_low_bf16", _top(logits, 100), quantity, 300, JAX_CHI_SQUARE, rng)
    return replace(found, their_rule=_four_categories("jax_low_bf16"))


def _four_categories(name: str) -> str:
    """JAX judges four categories at most; on these targets its rule was never asked."""
    four = np.log([0.1, 0.2, 0.3, 0.4])
    return _rule(JAX_CHI_SQUARE, _law(name, four), target_law(four)) + ", on 4 categories"


def multinomial_absorbs(rng: Rng) -> Finding:
    logits = np.log(np.concatenate([[1 - 2.0**-9], np.full(1 << 17, 2.0**-26)]))
    return _set(logits, "torch_multinomial_replacement_fp32", ~_top(logits, 1), "mass of 2^17 tokens of 2^-26 after the head",
                1_000_000, PYTORCH_CHI_SQUARE, rng)  # fmt: skip


def float16_zero(rng: Rng) -> Finding:
    logits = np.full(152_000, -math.inf)
    logits[-1] = 0.0
    return _set(logits, "torch_multinomial_fp16", ~_top(logits, 1), "mass on impossible tokens, one-hot, vocab 152,000",
                400, PYTORCH_CHI_SQUARE, rng)  # fmt: skip


def murmur_state(rng: Rng) -> Finding:
    """400,000 (seed, position) pairs: the state that all tokens of a position share has 32 bits, so equal
    states are equal vectors of noise, which independent ones of 1,000 tokens never are."""
    seeds = rng.integers(0, 1 << 62, 4000)
    states = murmur3_state(np.repeat(seeds, 100), np.tile(np.arange(100), 4000))
    test, pairs = repeated_vector_test(states, Chance.of_bits(1000)), len(states) * (len(states) - 1) / 2
    said = forecast_pytorch_repeats(32)
    return Finding(
        "repeated noise vectors among 400,000 positions",
        0.0,
        pairs / 2.0**32,
        f"{test.statistic:.0f}, p = {test.p_value:.2g}",
        f"PyTorch {said.name}, n = {said.n:,}: passes {said.passes:.3g} (a right sampler 1)",
    )


def shared_noise(rng: Rng) -> Finding:
    """Two rows of a batch with one noise vector (``expand``): the same logits give the same token."""
    logits, p, sampler = (
        torch.from_numpy(zipf(1000)).float(),
        target_law(zipf(1000)),
        SAMPLERS["gumbel_max_fp32"],
    )
    assert isinstance(sampler, UniformSampler)
    u = sampler.source.draw((4000, 1000), rng=rng)
    rows = sampler.decide(logits, u[:, None].expand(-1, 2, -1)).numpy()
    test, agree = cross_row_test(rows, p), float((rows[:, 0] == rows[:, 1]).mean())
    quantity = "P(two rows of a batch agree), Zipf, vocab 1,000"
    said = f"{agree:.4g}, n = 4,000, p = {test.p_value:.2g}"
    return Finding(
        quantity, float((p.probs**2).sum()), 1.0, said, _rule(FLASHINFER_COSINE, p, p) + ", row by row"
    )


def flashsampling_infinity(rng: Rng) -> Finding:
    logits, quantity = np.concatenate([[0.0], np.full(152_000, -60.0)]), "mass of 152,000 tokens at gap 60"
    return _set(logits, "flashsampling_cuda", ~_top(logits, 1), quantity, 400, FLASHSAMPLING_CHI_SQUARE, rng)


def aiter_sign(rng: Rng) -> Finding:
    logits = np.concatenate([[0.0], np.full(1000, -15.0)])
    return _set(
        logits,
        "aiter_rocm",
        ~_top(logits, 1),
        "tail mass at gap 15, 1,000 tokens",
        20_000,
        PYTORCH_CHI_SQUARE,
        rng,
    )


def numpy_zero(rng: Rng) -> Finding:
    """The ziggurat takes 23 bits for the abscissa; where they are all zero it returns 0."""
    n, zeros = 1 << 26, 0
    for _ in range(16):
        zeros += int((rng.standard_exponential(n // 16, dtype=np.float32) == 0).sum())
    found = proportion(zeros, n)
    return Finding("P(standard_exponential(dtype=float32) = 0)", 0.0, 2.0**-23,
                   f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}], n = {n:,}", "none found")  # fmt: skip


def tie_order(rng: Rng) -> Finding:
    logits = np.zeros(8192)
    quantity = "mass of the first 1 % of equal tokens, bfloat16 scores"
    return _set(logits, "gumbel_max_bf16", np.arange(8192) < 82, quantity, 3000, FLASHINFER_COSINE, rng)


def flipped_fold(rng: Rng) -> Finding:
    logits = np.concatenate([[0.0], np.full(1000, -20.0)])
    return _set(
        logits, "tl_rand_flipped", ~_top(logits, 1), "tail mass at gap 20, 1,000 tokens", 20_000, VLLM_TAIL, rng
    )


def ancestral_truncation(rng: Rng) -> Finding:
    r, log_p = 1e-3, zipf(50_257)
    logits = mdm_step(log_p, r)
    p = target_law(logits)
    q = np.append(lattice_step(log_p, r), 0.0)
    q[-1] = 1 - q.sum()
    chosen = np.arange(len(logits)) < len(log_p)
    law = Law(np.log(q), "closed form of the lattice", 1.0, Guarantee.HEURISTIC)
    return Finding("P(unmask), r = 1/1000, Zipf, vocab 50,257", r, float(q[:-1].sum()),
                   _hits("gumbel_max_fp32", logits, chosen, 20_000, rng), _rule(FLASHINFER_COSINE, law, p))  # fmt: skip


DEFECTS: dict[str, Callable[[Rng], Finding]] = {
    "1 JAX 0.10.2 high, bfloat16: an atom at G = 87.5": jax_high_bfloat16,
    "2 JAX default, bfloat16: 128 noise values": jax_low_bfloat16,
    "3 torch.multinomial with replacement: absorbed tail": multinomial_absorbs,
    "4 torch CPU float16: E = 0": float16_zero,
    "5 vLLM, SGLang Murmur noise: 2^32 vectors": murmur_state,
    "6 noise shared across the batch": shared_noise,
    "7 FlashSampling, CuPy: +inf at u = 1": flashsampling_infinity,
    "8 AITER: the best bucket can never win": aiter_sign,
    "9 NumPy float32 exponential: exact zeros": numpy_zero,
    "10 order of ties": tie_order,
    "11 tl.rand flipped: two words fold on one": flipped_fold,
    "12 float32 noise in ancestral masked diffusion": ancestral_truncation,
}


def defects(*, seed: int = 0) -> Iterator[dict[str, Any]]:
    """One row a defect; progress on stderr. About two minutes, 3 GiB."""
    for k, (name, measure) in enumerate(DEFECTS.items(), 1):
        print(f"defect {k}/{len(DEFECTS)}", file=sys.stderr, flush=True)
        found = measure(np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, k]))))
        yield {"defect": name, "quantity": found.quantity, "true": found.true, "law": found.law,
               "draws": found.draws, "published_rule": found.their_rule}  # fmt: skip
