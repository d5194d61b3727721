"""PyTorch's race and its Gumbel line inside ``torch.compile``, which replaces both the generator and the
logarithm.

Inductor draws ``tl.rand``, 31 bits where eager CUDA has 32 and eager CPU 24 or 53, and takes the accurate
logarithm where eager ``exponential_`` on CUDA takes the fast one: :mod:`precision_lab.uniforms.inductor`.
"""

from __future__ import annotations

from ...uniforms.inductor import COMPILED_EXPONENTIAL, COMPILED_RAND
from ..noise_maps import gumbel, unchanged
from ..sampler import Stages, UniformSampler

_INDUCTOR = "torch/_inductor/lowering.py inductor_random, torch/_refs/__init__.py exponential (2.13)"

TORCH_COMPILED_RACE_FP32 = UniformSampler(
    name="torch_compiled_race_fp32",
    publisher="PyTorch, argmax(softmax(logits) / torch.empty_like(logits).exponential_()) under torch.compile",
    source_ref=_INDUCTOR,
    stages=Stages.all("fp32"),
    source=COMPILED_EXPONENTIAL,
    noise_of=unchanged,
    combine="divide",
    backend="cuda",
)
# u = 0, of probability 2^-31, gives G = -inf.
TORCH_COMPILED_GUMBEL_FP32 = UniformSampler(
    name="torch_compiled_gumbel_fp32",
    publisher="PyTorch, argmax(logits - log(-log(torch.rand_like(logits)))) under torch.compile",
    source_ref=_INDUCTOR,
    stages=Stages.all("fp32"),
    source=COMPILED_RAND,
    noise_of=gumbel,
    combine="add",
    backend="cuda",
)

TORCH_COMPILE = (TORCH_COMPILED_RACE_FP32, TORCH_COMPILED_GUMBEL_FP32)
