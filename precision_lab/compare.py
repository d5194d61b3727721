"""A sampler's law against its target, as one row: what `precision-lab law` prints."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np

from .errors import InputError
from .explain import LOGITS, given_logits
from .laws.law import Law, target_law
from .pipelines import Pipeline
from .samplers import FunctionSampler, Sampler, UniformSampler
from .samplers.on_device import on_device
from .statistics import effective_temperature, kl_divergence, max_log_ratio, suppressed_mass, total_variation
from .statistics.unmasking import unmasking
from .targets import Target
from .targets.use import parse_use
from .types import Float
from .uniforms import DTYPES


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


def compare(
    sampler: Sampler,
    target: Target,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    pipeline: Pipeline | None = None,
) -> dict[str, Any]:
    """One row: distances of the sampler's law from softmax of the logits that it is given, and what stands
    behind them; ``unreachable_tokens``: those with mass in the target that the sampler never draws. For a
    step of masked diffusion also the unmasking multiplier, the temperature of the token and the entropy
    lost.

    ``pipeline``: the specification that the law is held against, at the same logits. A function is given the
    raw logits, as its own processors are inside it; a recipe by name has none, so that the pipeline runs
    before it, step by step in ``dtype``. Then also the tokens that the specification keeps, those in doubt
    at its edges in ``dtype``, and, these set aside, what the law draws beyond them and what it lost of them.
    InputError for a pipeline with a step of masked diffusion.
    """
    if pipeline is not None and target.mask is not None:
        raise InputError(
            f"--pipeline {pipeline} with a step of masked diffusion", "a row of token logits", "leave --for out"
        )
    row = given_logits(sampler, target, dtype, device)
    if pipeline is not None:
        row = row.to(DTYPES[LOGITS[dtype]])
    raw = row.double().cpu().numpy()
    sampler = on_device(sampler, device)
    if pipeline is not None and not isinstance(sampler, FunctionSampler):
        row = pipeline.apply(row)
    law = sampler.law(row)
    meant = target_law(raw) if pipeline is None else pipeline.law(raw)
    intended = _as_wide(meant, law.vocab)
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
        "unreachable_tokens": int(np.count_nonzero(intended.probs[law.unreachable] > 0)),
    }
    if pipeline is not None:
        found |= _at_the_edges(pipeline, raw, dtype, law, intended)
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


def _at_the_edges(pipeline: Pipeline, raw: Float, dtype: str, law: Law, intended: Law) -> dict[str, Any]:
    """What a law draws that the specification drops, and the other way round."""
    doubts = pipeline.doubtful(raw, dtype)
    clear = np.ones(law.vocab, dtype=bool)
    clear[[doubt.token for doubt in doubts]] = False
    kept = ~np.isneginf(intended.log_probs)
    drawn = ~np.isneginf(law.log_probs)
    beyond = drawn & ~kept & clear
    return {
        "pipeline": str(pipeline),
        "tokens_kept": int(kept.sum()),
        "tokens_in_doubt": len(doubts),
        "tokens_beyond": int(beyond.sum()),
        "mass_beyond": math.fsum(law.probs[beyond]),
        "tokens_lost": int((kept & ~drawn & clear).sum()),
    }


def _as_wide(law: Law, vocab: int) -> Law:
    """The law with impossible tokens added: an id that a function returns and the logits do not have."""
    if vocab <= law.vocab:
        return law
    extra = np.full(vocab - law.vocab, -np.inf)
    return replace(law, log_probs=np.concatenate([law.log_probs, extra]))
