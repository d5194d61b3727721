"""Rules of acceptance of published speculative decoding, each as its source compares: name -> (rule, source).

What replaces a rejected token is drawn there by an exponential race (vLLM), ``torch.multinomial``
(transformers) or a cumulative sum (SGLang); here exactly. Comparisons in float32 are those of IEEE
arithmetic; how a GPU divides was not measured.

Beside these: mlx-lm (``mlx_lm/generate.py``, ``speculative_generate_step``) and transformers without candidate
logits accept what equals the target's own draw; vLLM's model runner V2
(``vllm/v1/worker/gpu/spec_decode/rejection_sampler_utils.py``) compares logarithms, log p > log u + log q with
u above 0, which keeps no token of p = 0.
"""

from __future__ import annotations

from ...formats import FP32
from ...laws.acceptance import AcceptanceRule

_VLLM = "vllm-project/vllm vllm/v1/sample/rejection_sampler.py"

ACCEPTANCE_RULES: dict[str, tuple[AcceptanceRule, str]] = {
    "vllm_v1_float32": (AcceptanceRule("u <= p / q", 24, FP32), f"{_VLLM} at 0097a7b, float32 uniforms"),
    "vllm_v1_float64": (AcceptanceRule("u <= p / q", 53, FP32), f"{_VLLM}, later: float64 uniforms"),
    "vllm_v1_ngram": (
        AcceptanceRule("u <= p / q", 24, FP32, certain=True),
        f"{_VLLM} at 0097a7b, drafts without probabilities",
    ),
    "transformers": (
        AcceptanceRule("u <= p / q", 24, FP32),
        "huggingface/transformers src/transformers/generation/utils.py, _speculative_sampling (5.24.0)",
    ),
    "sglang_target_only": (
        AcceptanceRule("u <= p / q", 24, FP32, certain=True),
        "sgl-project/sglang sgl-kernel/csrc/speculative/speculative_sampling.cuh at 120affb, a chain, thresholds 1",
    ),
}
