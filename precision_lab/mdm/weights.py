"""Trained weights as they are kept on disk: float16, or matrices in 8 bits with a scale for each row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError

SCALE = ".scale"


def pack(weights: Mapping[str, Tensor], bits: int = 16) -> dict[str, Tensor]:
    """``bits`` 16: float16. 8: a matrix W becomes int8 round(W / s) and ``<name>.scale`` s = max |row| / 127, float32 (rows, 1),
    so that each weight is off by at most s / 2; vectors stay float16.
    Raises InputError for other ``bits``, and for NaN, infinity and what float16 cannot hold."""
    if bits not in (8, 16):
        raise InputError(f"weights of {bits} bits", "8 or 16", "choose one")
    packed: dict[str, Tensor] = {}
    for name, value in weights.items():
        if bits == 8 and value.ndim == 2:
            scale = (value.float().abs().amax(1, keepdim=True) / 127).clamp(min=1e-30)
            packed |= {name: (value.float() / scale).round().to(torch.int8), name + SCALE: scale}
        else:
            packed[name] = value.half()
    for name, value in packed.items():
        if value.is_floating_point() and not value.isfinite().all():
            got = f"{name.removesuffix(SCALE)} with NaN, infinity or a value beyond float16"
            raise InputError(got, "finite weights", "train with a lower rate")
    return {name: value.cpu() for name, value in packed.items()}


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float32 weights from what :func:`pack` made. Raises InputError where an 8-bit matrix has no fitting scale."""
    weights = {}
    for name, value in tensors.items():
        if value.dtype == torch.int8:
            scale = tensors.get(name + SCALE)
            if scale is None or scale.dtype != torch.float32 or scale.shape != (len(value), 1):
                got = (
                    f"{name} in 8 bits with {'no scale' if scale is None else f'a scale {tuple(scale.shape)}'}"
                )
                raise InputError(got, f"{name}{SCALE}, float32 ({len(value)}, 1)", "retrain or restore")
            weights[name] = value.float() * scale
        elif not name.endswith(SCALE):
            weights[name] = value.float()
    return weights
