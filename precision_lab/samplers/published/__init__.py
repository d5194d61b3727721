"""The rogues' gallery: what published code really does, stage by stage, each recipe written anew from the arithmetic of
its source, with repository, path and version. ``PUBLISHED`` is the literal table."""

from __future__ import annotations

from ..sampler import Sampler
from .masked_diffusion import LLADA_FP64, MDLM_FP32

PUBLISHED: dict[str, Sampler] = {sampler.name: sampler for sampler in (MDLM_FP32, LLADA_FP64)}

__all__ = ["PUBLISHED"]
