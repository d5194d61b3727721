"""The rogues' gallery: what published code really does, stage by stage, each recipe written anew from the
arithmetic of its source, with repository, path and version. One file a publisher. ``PUBLISHED`` is the
literal table."""

from __future__ import annotations

from ..sampler import Sampler
from .aiter import AITER
from .candle import CANDLE
from .cupy import CUPY
from .duo import DUO
from .flashinfer import FLASHINFER
from .flashsampling import FLASHSAMPLING
from .gidd import GIDD
from .jax import JAX
from .llada import LLADA
from .llama_cpp import LLAMA_CPP
from .mdlm import MDLM
from .numpy import NUMPY
from .pytorch import PYTORCH
from .sglang import SGLANG
from .tensorflow import TENSORFLOW
from .torch_compile import TORCH_COMPILE
from .vllm import VLLM

PUBLISHED: dict[str, Sampler] = {
    sampler.name: sampler
    for sampler in (
        *MDLM,
        *DUO,
        *LLADA,
        *GIDD,
        *PYTORCH,
        *TORCH_COMPILE,
        *JAX,
        *VLLM,
        *SGLANG,
        *FLASHINFER,
        *FLASHSAMPLING,
        *TENSORFLOW,
        *CANDLE,
        *CUPY,
        *AITER,
        *NUMPY,
        *LLAMA_CPP,
    )
}

__all__ = [
    "AITER",
    "CANDLE",
    "CUPY",
    "DUO",
    "FLASHINFER",
    "FLASHSAMPLING",
    "GIDD",
    "JAX",
    "LLADA",
    "LLAMA_CPP",
    "MDLM",
    "NUMPY",
    "PUBLISHED",
    "PYTORCH",
    "SGLANG",
    "TENSORFLOW",
    "TORCH_COMPILE",
    "VLLM",
]
