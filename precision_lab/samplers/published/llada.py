"""LLaDA and its heirs, Fast-dLLM and d1: exp(logits) / E with no softmax.

A row whose largest exp leaves the format of the weights is refused here; scores may overflow, and tie at
+inf. In float64, with its certified law, a largest exp below 2^-950 is refused too, and from logits of 673
on a score can overflow, which is in the error of the law.
"""

from __future__ import annotations

from ...uniforms import TORCH_CPU_BF16, TORCH_CPU_FP16, TORCH_CPU_FP32, TORCH_CPU_FP64
from ..exponential_race import RACE_FP64
from ..noise_maps import exponential
from ..rules import Enumerated, Overflowing
from ..sampler import Stages, UniformSampler
from ..weights import Exponentials

LLADA_FP64 = UniformSampler(
    name="llada_fp64",
    publisher="LLaDA, Fast-dLLM",
    source_ref="ML-GSAI/LLaDA generate.py, temperature 1",
    stages=Stages.all("fp64"),
    source=TORCH_CPU_FP64,
    noise_of=exponential,
    combine="divide",
    weights=Exponentials(least=2.0**-950),
    rule=Overflowing(RACE_FP64),
)
D1_FP32 = UniformSampler(
    name="d1_fp32",
    publisher="d1 (evaluation)",
    source_ref="dllm-reasoning/d1 eval/generate.py add_gumbel_noise (837888f), temperature 1",
    stages=Stages.all("fp32"),
    source=TORCH_CPU_FP32,
    noise_of=exponential,
    combine="divide",
    weights=Exponentials(),
    rule=Enumerated(overflow=True),
)
D1_BF16 = UniformSampler(
    name="d1_bf16",
    publisher="d1 (rollouts of diffu-GRPO)",
    source_ref="dllm-reasoning/d1 diffu-grpo/diffu_grpo_trainer.py add_gumbel_noise, dtype of the model (837888f)",
    stages=Stages.all("bf16"),
    source=TORCH_CPU_BF16,
    noise_of=exponential,
    combine="divide",
    weights=Exponentials(),
    rule=Enumerated(overflow=True),
)
FAST_DLLM_FORK_FP16 = UniformSampler(
    name="fast_dllm_fork_fp16",
    publisher="a fork of Fast-dLLM",
    source_ref="RohitNagraj/Fast-dLLM llada/generate.py, PRECISION_MAX = float16 (2025; later versions have float64)",
    stages=Stages.all("fp16"),
    source=TORCH_CPU_FP16,
    noise_of=exponential,
    combine="divide",
    weights=Exponentials(),
    rule=Enumerated(overflow=True),
)

LLADA = (LLADA_FP64, D1_FP32, D1_BF16, FAST_DLLM_FORK_FP16)
