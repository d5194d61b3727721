"""candle's Gumbel-softmax: uniforms that stop at 0.999."""

from __future__ import annotations

from ...uniforms.grids import RUST_RAND_FP32
from ..noise_maps import candle_gumbel
from ..sampler import Stages, UniformSampler

CANDLE_GUMBEL_SOFTMAX = UniformSampler(
    name="candle",
    publisher="candle gumbel_softmax on CPU",
    source_ref="huggingface/candle candle-nn/src/sampling.rs (2a13b0f); crate rand 0.9 distr/uniform_float.rs",
    stages=Stages.all("fp32"),
    source=RUST_RAND_FP32,
    noise_of=candle_gumbel,
    combine="add",
    backend="rust cpu",
)

CANDLE = (CANDLE_GUMBEL_SOFTMAX,)
