"""``jax.random.categorical``: argmax(logits + gumbel), all in the dtype of the logits, in three modes of noise.

The words are JAX's bits; the logarithms are torch's. In bfloat16 and float16 the noise is JAX's bit for bit
on CPU; in float32 XLA's own logarithm moves it by up to 1 ulp at 16 (mode "low") and 2 ulp at 32 and above
("high", "highest").
"""

from __future__ import annotations

from ...uniforms.jax_random import JAX_HIGH, JAX_HIGHEST, JAX_LOW
from ..noise_maps import flipped, gumbel, negative_log
from ..rules import WithinBound
from ..sampler import Stages, UniformSampler

# float32 noise from fine words: u (or 1 - u) is right to a factor 1 + 2^-23 and log1p or log to 2 ulp,
# 2^-22; -log E then rounds by one ulp of [16, 32), 2^-19. Spacing: P(G > 31) < 2^-44.7, and the grid of
# 2^-46 in mode "high". There u above 1/2 keeps 23 bits only: P(E_j <= t) is off by up to 2^-23 for t > ln
# 2. Token j meets such a t with probability 2^(1 - 1/p_j), and these sum to at most 1: 2^-23 in all,
# whatever the vocabulary, inside ``relative``.
GUMBEL_FP32_OF_FINE_WORDS = WithinBound(relative=2.0**-19 + 2.0**-21, spacing=2.0**-44, reach=31.0)


def _low(format: str) -> UniformSampler:
    return UniformSampler(
        name=f"jax_low_{format}",
        publisher="JAX",
        source_ref='jax-ml/jax jax/_src/random/core.py _gumbel (0.10.2), mode "low", the default',
        stages=Stages.all(format),
        source=JAX_LOW[format],
        noise_of=gumbel,
        combine="add",
        backend="jax cpu",
    )


JAX_HIGH_BF16_0_10_2 = UniformSampler(
    name="jax_high_bf16_0_10_2",
    publisher="JAX",
    source_ref='jax-ml/jax jax/_src/random/core.py _gumbel (0.10.2), mode "high", bfloat16; mended after 0.10.2',
    stages=Stages.all("bf16"),
    source=JAX_HIGH["bf16"],
    noise_of=flipped,
    combine="add",
    backend="jax cpu",
)
JAX_HIGH_FP32 = UniformSampler(
    name="jax_high_fp32",
    publisher="JAX",
    source_ref='jax-ml/jax jax/_src/random/core.py _gumbel (0.10.2), mode "high"',
    stages=Stages.all("fp32"),
    source=JAX_HIGH["fp32"],
    noise_of=flipped,
    combine="add",
    rule=GUMBEL_FP32_OF_FINE_WORDS,
    backend="jax cpu",
)
JAX_HIGHEST_FP32 = UniformSampler(
    name="jax_highest_fp32",
    publisher="JAX",
    source_ref='jax-ml/jax jax/_src/random/core.py _gumbel (0.10.2), mode "highest"',
    stages=Stages.all("fp32"),
    source=JAX_HIGHEST,
    noise_of=negative_log,
    combine="add",
    rule=GUMBEL_FP32_OF_FINE_WORDS,
    backend="jax cpu",
)

JAX = (
    _low("fp32"),
    _low("bf16"),
    _low("fp16"),
    JAX_HIGH_FP32,
    JAX_HIGH_BF16_0_10_2,
    JAX_HIGHEST_FP32,
)
