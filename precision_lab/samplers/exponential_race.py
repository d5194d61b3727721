"""The exponential race: argmax(p / E), E = -log u. The same law as Gumbel-max in real arithmetic."""

from __future__ import annotations

from ..uniforms import TORCH_RAND
from .noise_maps import exponential
from .rules import Enumerated, WithinBound
from .sampler import Stages, UniformSampler

# Float64: the logarithm errs by a few ulp and the quotient by half of one, relative; the 53-bit grid spaces
# E by 2^-53.
RACE_FP64 = WithinBound(relative=2.0**-44, spacing=2.0**-52)


def exponential_race(format: str) -> UniformSampler:
    """argmax(softmax(logits) / -log u), u from ``torch.rand``, every stage in ``format``: fp16, bf16, fp32
    or fp64."""
    return UniformSampler(
        name=f"exponential_race_{format}",
        publisher="textbook",
        source_ref="argmax(softmax(logits) / -log(torch.rand_like(logits)))",
        stages=Stages.all(format),
        source=TORCH_RAND[format],
        noise_of=exponential,
        combine="divide",
        rule=RACE_FP64 if format == "fp64" else Enumerated(),
    )
