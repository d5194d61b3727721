"""The rogues' gallery: what published code really does, stage by stage, each recipe written anew from the arithmetic of
its source, with repository, path and version. ``PUBLISHED`` is the literal table."""

from __future__ import annotations

from ..sampler import Sampler
from .cumulative import CUMULATIVE
from .engines import ENGINES
from .jax_library import JAX_LIBRARY
from .masked_diffusion import MASKED_DIFFUSION
from .torch_library import TORCH_LIBRARY
from .vllm import VLLM

PUBLISHED: dict[str, Sampler] = {
    sampler.name: sampler
    for sampler in (
        *MASKED_DIFFUSION,
        *TORCH_LIBRARY,
        *JAX_LIBRARY,
        *VLLM,
        *ENGINES,
        *CUMULATIVE,
    )
}

__all__ = ["CUMULATIVE", "ENGINES", "JAX_LIBRARY", "MASKED_DIFFUSION", "PUBLISHED", "TORCH_LIBRARY", "VLLM"]
