"""A sampler's law against its target, as one row: what `precision-lab law` prints."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np

from .explain import given_logits
from .laws.law import Law, target_law
from .samplers import FunctionSampler, Sampler, UniformSampler
from .samplers.on_device import on_device
from .statistics import effective_temperature, kl_divergence, max_log_ratio, suppressed_mass, total_variation
from .statistics.unmasking import unmasking
from .targets import Target
from .targets.use import parse_use


def in_use(target: Target, use: str) -> Target:
    """The target in a use, "lm", "mdm:N" or "first-hitting": :meth:`~precision_lab.targets.use.Use.of`."""
    return parse_use(use).of(target)


def telling(sampler: Sampler) -> Sampler:
    """The sampler, whose long laws tell their progress on stderr every five seconds."""
    if not isinstance(sampler, UniformSampler | FunctionSampler):
        return sampler
    said = time.monotonic()

    def tell(share: float) -> None:
        nonlocal said
        if time.monotonic() - said > 5 and share < 1:
            said = time.monotonic()
            print(f"law of {sampler.name}: {share:.0%}", file=sys.stderr, flush=True)

    return replace(sampler, progress=tell)


def compare(sampler: Sampler, target: Target, *, dtype: str = "float32", device: str = "cpu") -> dict[str, Any]:
    """One row: distances of the sampler's law from softmax of the logits that it is given, and what stands
    behind them. For a step of masked diffusion also the unmasking multiplier, the temperature of the token
    and the entropy lost."""
    row = given_logits(sampler, target, dtype, device)
    sampler = on_device(sampler, device)
    law = sampler.law(row)
    intended = _as_wide(target_law(row.double().cpu().numpy()), law.vocab)
    fit = effective_temperature(law, intended)
    found = {
        "sampler": sampler.name,
        "target": target.name,
        "vocab": law.vocab,
        "total_variation": total_variation(law, intended),
        "kl_divergence": kl_divergence(law, intended),
        "max_log_ratio": max_log_ratio(law, intended),
        "effective_temperature": fit.temperature.value,
        "temperature_share": fit.share,
        "suppressed_mass": suppressed_mass(law, intended),
        "unreachable_tokens": len(law.unreachable),
    }
    if target.mask is not None:
        effect = unmasking(law, intended)
        found |= {
            "unmask_multiplier": effect.multiplier,
            "token_temperature": effect.temperature,
            "token_entropy_lost": effect.entropy_lost,
        }
    if isinstance(sampler, FunctionSampler):
        found["given"] = dtype
    else:
        found["ceiling"] = sampler.ceiling
    return found | {"error": law.error, "guarantee": str(law.guarantee), "how": law.how}


def _as_wide(law: Law, vocab: int) -> Law:
    """The law with impossible tokens added: an id that a function returns and the logits do not have."""
    if vocab <= law.vocab:
        return law
    extra = np.full(vocab - law.vocab, -np.inf)
    return replace(law, log_probs=np.concatenate([law.log_probs, extra]))
