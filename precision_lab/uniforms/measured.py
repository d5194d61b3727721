"""Sources that were confirmed on this machine: the library's own draws agree with their word maps."""

from __future__ import annotations

import torch

from ..errors import InputError
from .agreement import OPS, short, unknown, word_map_here
from .cuda import TORCH_CUDA_EXPONENTIAL, TORCH_CUDA_RAND, TorchCudaSource, confirmed_on_cuda
from .source import DTYPES, Source
from .torch_cpu import TORCH_EXPONENTIAL, TORCH_RAND, TorchSource

NAMES = {dtype: name for name, dtype in DTYPES.items()}
_CPU: dict[str, dict[str, Source]] = {"rand": {**TORCH_RAND}, "exponential_": {**TORCH_EXPONENTIAL}}
_CUDA: dict[str, dict[str, Source]] = {"rand": {**TORCH_CUDA_RAND}, "exponential_": {**TORCH_CUDA_EXPONENTIAL}}


def confirmed(op: str, dtype: torch.dtype, device: str = "cpu") -> Source:
    """The source whose word map this machine's own draws agree with, on 4,096 draws from the same generator
    state.

    ``op``: "rand" (``torch.rand``) or "exponential_" (``Tensor.exponential_``); ``dtype``: float16, bfloat16,
    float32 or, on CPU, float64; ``device``: "cpu", or "cuda" for the first CUDA device. The measurement is
    made once a process. Raises InputError for another op, dtype or device, for a device that is not there,
    and where no known map fits."""
    if op not in OPS:
        raise InputError(f"op {op!r}", " or ".join(OPS), "name a call of torch")
    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise InputError(f"device {device!r}", "cpu or cuda", "name one of them")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device {device}", "a CUDA device that torch sees", "leave it out, or look at: doctor"
        )
    known = {**(_CPU if kind == "cpu" else _CUDA)[op]}
    if NAMES.get(dtype) not in known:
        raise InputError(
            f"dtype {dtype} on {kind}", ", ".join(short(DTYPES[n]) for n in known), "choose one of these"
        )
    source = known[NAMES[dtype]]
    if isinstance(source, TorchSource):
        word_map_here(op, dtype)
    elif isinstance(source, TorchCudaSource) and not confirmed_on_cuda(source):
        raise unknown(op, dtype, device, (source.name,))
    return source


def confirmations(device: str = "cpu") -> list[tuple[str, torch.dtype, str, bool]]:
    """For each op and dtype of a device: the word map confirmed here, or why none was, and whether one
    was."""
    rows: list[tuple[str, torch.dtype, str, bool]] = []
    for op in OPS:
        for dtype in DTYPES.values():
            if device == "cuda" and dtype is torch.float64:
                continue
            try:
                source = confirmed(op, dtype, device)
            except InputError as error:
                rows.append((op, dtype, str(error), False))
            else:
                name = source.word_map_used.name if isinstance(source, TorchSource) else source.name
                rows.append((op, dtype, name, True))
    return rows
