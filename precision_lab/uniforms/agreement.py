"""Which word map this machine's torch really takes: its own draws against the maps, from the same generator
state.

The generator is put in the same state twice. Once the library draws; once its raw words are read (on CPU by
``Tensor.random_``, on CUDA by computing Philox), and each known map is applied to them. Some milliseconds a
dtype, at the first use, and never at import. What was found is kept in memory and noted in ``agreement.json``
of the cache folder."""

from __future__ import annotations

import contextlib
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import cache_dir, read_json, write_json
from .philox import philox4x32
from .word_maps import WordMap, candidates

DRAWS = 4096
_SEED = 20260713
OPS = ("rand", "exponential_")


class UnknownWordMap(InputError):
    """Draws of this machine's torch that no known word map makes."""


def native_draws(
    op: str, dtype: torch.dtype, device: str, shape: tuple[int, ...], *, rng: torch.Generator
) -> Tensor:
    """The library's own call."""
    if op == "rand":
        return torch.rand(shape, generator=rng, dtype=dtype, device=device)
    return torch.empty(shape, dtype=dtype, device=device).exponential_(generator=rng)


def cpu_words(n: int, bits: int, *, rng: torch.Generator) -> Tensor:
    """The low ``bits`` bits of the next ``n`` words, (n,) int64: of 32-bit words up to 31 bits, else of pairs
    of them."""
    kind = torch.int32 if bits <= 31 else torch.int64
    words = torch.empty(n, dtype=kind).random_(generator=rng).long()
    return words & ((1 << bits) - 1)


def cuda_words(n: int, seed: int) -> Tensor:
    """The word of each of the first ``n`` <= 4096 values that a CUDA generator of that seed makes in one
    call: thread i has Philox's subsequence i, and keeps the first of its four outputs.
    aten/src/ATen/native/cuda/DistributionTemplates.h, ``distribution_elementwise_grid_stride_kernel``, as
    published."""
    return torch.from_numpy(philox4x32((0, 0, np.arange(n), 0), (seed, seed >> 32))[0].astype(np.int64))


def draws_and_words(op: str, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Native draws, (4096,) on CPU, and the words that they were made of, (4096,) int64."""
    rng = torch.Generator(device).manual_seed(_SEED)
    native = native_draws(op, dtype, device, (DRAWS,), rng=rng).cpu()
    if torch.device(device).type == "cuda":
        return native, cuda_words(DRAWS, _SEED)
    bits = 24 if op == "rand" and dtype is not torch.float64 else 53
    return native, cpu_words(DRAWS, bits, rng=torch.Generator().manual_seed(_SEED))


def device_name(device: str) -> str:
    """The processor's vector capability, or the GPU's name and compute capability."""
    if torch.device(device).type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
    return f"cpu, {torch.backends.cpu.get_cpu_capability()}"


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def word_map_here(op: str, dtype: torch.dtype) -> WordMap:
    """The map that 4,096 CPU draws of ``op`` ("rand", "exponential_") agree with. Raises InputError if no map
    does."""
    native, words = draws_and_words(op, dtype, "cpu")
    for word_map in candidates(op, dtype):
        if word_map.agrees(native, words):
            note(op, dtype, "cpu", word_map.name)
            return word_map
    raise unknown(op, dtype, "cpu", tuple(word_map.name for word_map in candidates(op, dtype)))


def unknown(op: str, dtype: torch.dtype, device: str, known: tuple[str, ...]) -> UnknownWordMap:
    """One sentence for draws that no known map makes."""
    return UnknownWordMap(
        f"{op} of torch {torch.__version__} in {short(dtype)} on {device_name(device)}, whose draws no known word map makes",
        "one of: " + "; ".join(known),
        "use another dtype or torch 2.13, whose maps are known: draws still work, exact laws of this one do not",
    )


def note(op: str, dtype: torch.dtype, device: str, name: str) -> None:
    """Keep a finding in ``agreement.json``; a cache folder that cannot be written is no obstacle."""
    path = cache_dir() / "agreement.json"
    row = {
        "torch": torch.__version__,
        "device": device_name(device),
        "op": op,
        "dtype": short(dtype),
        "word map": name,
        "draws": DRAWS,
    }
    with contextlib.suppress(OSError):
        rows = noted()
        if row not in rows:
            same = ("torch", "device", "op", "dtype")
            write_json(path, [r for r in rows if any(r.get(key) != row[key] for key in same)] + [row])


def noted() -> list[dict]:
    """What earlier runs found; nothing where there is no such file, or not a list of findings."""
    try:
        rows = read_json(cache_dir() / "agreement.json")
    except (InputError, OSError):
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
