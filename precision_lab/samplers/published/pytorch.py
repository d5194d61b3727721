"""PyTorch's own ways to draw: ``torch.distributions.Gumbel``, ``F.gumbel_softmax``, ``torch.multinomial`` on
CUDA (which vLLM V1, SGLang and nano-vllm spell out themselves). ``torch.multinomial`` on CPU:
:mod:`..torch_multinomial`.

``F.gumbel_softmax(logits, hard=True)`` is argmax(logits - log(exponential_())); its ``eps`` is not used. On
CPU E = 0 makes a score +inf (NaN for a token of -inf), the softmax of such a row is NaN throughout, and the
index of its ``max`` is 0. The softmax before ``max`` is monotone; where its rounding makes equals of the two
best scores, ``max`` takes the first, and the samplers here the better.

On CUDA ``exponential_`` takes the fast logarithm ``__logf``, whose table was measured on an H100: the race
there draws too much of the tail at gaps of 14 to 16, too little from 17 on. ``-log(-log(rand))`` takes the
accurate one."""

from __future__ import annotations

from ...uniforms import TORCH_CPU_FP32, TORCH_EXPONENTIAL
from ...uniforms.cuda import TORCH_CUDA_EXPONENTIAL
from ..noise_maps import distributions_gumbel, negative_log, unchanged
from ..rules import WithinBound
from ..sampler import Stages, UniformSampler

_GUMBEL_SOFTMAX = "torch/nn/functional.py gumbel_softmax (2.13)"

TORCH_DISTRIBUTIONS_GUMBEL_FP32 = UniformSampler(
    name="torch_distributions_gumbel_fp32",
    publisher="PyTorch; MDLM (autoregressive baseline)",
    source_ref="torch/distributions/gumbel.py (2.13); kuleshov-group/mdlm diffusion.py _ar_sampler (c112c52)",
    stages=Stages.all("fp32"),
    source=TORCH_CPU_FP32,
    noise_of=distributions_gumbel,
    combine="add",
)
TORCH_GUMBEL_SOFTMAX_CPU_FP32 = UniformSampler(
    name="torch_gumbel_softmax_cpu_fp32",
    publisher="PyTorch",
    source_ref=_GUMBEL_SOFTMAX,
    stages=Stages.all("fp32"),
    source=TORCH_EXPONENTIAL["fp32"],
    noise_of=negative_log,
    combine="add",
    nonfinite="first index",
    # Below 32 -log E errs by one ulp of [16, 32), 2^-19, and E by 2^-24; Gumbel values above 32 have
    # probability e^-32 < 2^-46 each. E = 0, which makes the row NaN, is one of them.
    rule=WithinBound(relative=2.0**-19 + 2.0**-23, spacing=2.0**-46, reach=32.0),
)
TORCH_GUMBEL_SOFTMAX_FP16 = UniformSampler(
    name="torch_gumbel_softmax_fp16",
    publisher="PyTorch",
    source_ref=_GUMBEL_SOFTMAX,
    stages=Stages.all("fp16"),
    source=TORCH_EXPONENTIAL["fp16"],
    noise_of=negative_log,
    combine="add",
    nonfinite="first index",
)
TORCH_GUMBEL_SOFTMAX_CUDA_FP32 = UniformSampler(
    name="torch_gumbel_softmax_cuda_fp32",
    publisher="PyTorch",
    source_ref=f"{_GUMBEL_SOFTMAX}; aten/src/ATen/core/TransformationHelper.h (2.13)",
    stages=Stages.all("fp32"),
    source=TORCH_CUDA_EXPONENTIAL["fp32"],
    noise_of=negative_log,
    combine="add",
    backend="cuda",
)
TORCH_CUDA_RACE_FP32 = UniformSampler(
    name="torch_cuda_race_fp32",
    publisher="torch.multinomial without replacement on CUDA; vLLM V1, SGLang, nano-vllm",
    source_ref="pytorch aten/src/ATen/native/Distributions.cpp, core/TransformationHelper.h (2.13); vllm "
    "v1/sample/ops/topk_topp_sampler.py random_sample; GeeeekExplorer/nano-vllm nanovllm/layers/sampler.py (bb823b3)",
    stages=Stages.all("fp32"),
    source=TORCH_CUDA_EXPONENTIAL["fp32"],
    noise_of=unchanged,
    combine="divide",
    backend="cuda",
)

PYTORCH = (
    TORCH_DISTRIBUTIONS_GUMBEL_FP32,
    TORCH_GUMBEL_SOFTMAX_CPU_FP32,
    TORCH_GUMBEL_SOFTMAX_FP16,
    TORCH_GUMBEL_SOFTMAX_CUDA_FP32,
    TORCH_CUDA_RACE_FP32,
)
