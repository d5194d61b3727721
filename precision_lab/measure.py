"""Noise tables of the machine at hand: every word of a generator through the arithmetic of the device,
counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .atoms import Atoms
from .errors import InputError
from .provenance import processor
from .samplers.exponential_race import exponential
from .samplers.gumbel_max import gumbel
from .uniforms import DTYPES
from .uniforms.agreement import device_name, draws_and_words, short, unknown
from .uniforms.cuda import CURAND, TORCH_CUDA_EXPONENTIAL, TORCH_CUDA_RAND, TorchCudaSource
from .uniforms.measured import NAMES, confirmed
from .uniforms.wide import WideSource, unchanged

FORMULAS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "rand": ("rand", unchanged),
    "exponential_": ("exponential_", unchanged),
    "gumbel": ("rand", gumbel),
    "race": ("rand", exponential),
}
SAID = {"gumbel": "-log(-log(rand))", "race": "-log(rand)"}
_FAST_LOG = "template <typename T> T negative_fast_log(T u) { return -__logf(u); }"


@dataclass(frozen=True)
class OnDevice(WideSource):
    """A CUDA source whose every float32(word) goes through the device: 84 million values, by blocks."""

    device: str
    source: TorchCudaSource
    noise_of: Callable[[Tensor], Tensor]

    def finish(self, word: Tensor) -> Tensor:
        there = word.to(self.device)
        value = self.source.finish(there) if self.source.op == "rand" else self._exponential(there)
        return self.noise_of(value).cpu()

    def _exponential(self, word: Tensor) -> Tensor:
        """``exponential_`` as published, with the device's own ``__logf``, compiled by torch's jiterator."""
        u = CURAND.finish(word)
        fast = torch.cuda.jiterator._create_jit_fn(_FAST_LOG)(u)
        return torch.where(u >= 1 - 2.0**-24, 2.0**-24, fast).to(self.dtype)


def noise_table(op: str, dtype: torch.dtype, device: str = "cpu") -> tuple[Atoms, dict[str, Any]]:
    """The law of one noise value on this machine, and what to write beside it.

    ``op``: "rand", "exponential_", "gumbel" (-log(-log(rand))) or "race" (-log(rand)), each in ``dtype``;
    ``device``: "cpu" or "cuda". The generator's word map is confirmed first, by native draws. Raises
    InputError for another op, dtype or device, for a device that is not there, where no known word map fits,
    and for a law too fine to list."""
    if op not in FORMULAS:
        raise InputError(f"op {op!r}", ", ".join(FORMULAS), "choose one")
    call, noise_of = FORMULAS[op]
    if device.split(":")[0] == "cuda":
        atoms = on_cuda(call, noise_of, dtype, device).atoms()
    else:
        source = confirmed(call, dtype, device)
        if not source.enumerable:
            what = f"{op} in {short(dtype)} on {device}, of 2^{source.bits} words"
            raise InputError(what, "at most 2^32 words", "its law is certified without a table")
        atoms = source.push(noise_of)
    metadata = {
        "what": f"{SAID.get(op, op)} {short(dtype)}",
        "format": NAMES[dtype],
        "device": device_name(device),
        "driver": driver(device),
        "torch": torch.__version__,
    }
    return atoms, metadata


def on_cuda(call: str, noise_of: Callable[[Tensor], Tensor], dtype: torch.dtype, device: str) -> OnDevice:
    """The source whose words go through that device. Its own 4,096 draws of ``call`` must be what it makes of
    their Philox words, to the last bit; else an InputError."""
    confirmed("rand", dtype, device)
    source = (TORCH_CUDA_RAND if call == "rand" else TORCH_CUDA_EXPONENTIAL)[NAMES[dtype]]
    native, words = draws_and_words(call, dtype, device)
    if not torch.equal(
        native, OnDevice(source.name, source.format, 32, device, source, unchanged).from_words(words)
    ):
        raise unknown(call, dtype, device, ("-__logf(u), and 2^-24 where u >= 1 - 2^-24",))
    return OnDevice(source.name, source.format, 32, device, source, noise_of)


def driver(device: str) -> str:
    """CUDA's version and the GPU driver's; the processor's name for a CPU."""
    if device.split(":")[0] != "cuda":
        return processor()
    try:
        text = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except OSError:
        text = "driver unknown"
    return f"CUDA {torch.version.cuda}; {text}"


def measure(op: str, dtype: str, device: str, out: Path) -> dict[str, Any]:
    """Write :func:`noise_table` to ``out`` (.npz) and return one row about it. ``dtype``: fp16, bf16, fp32 or
    fp64."""
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r}", ", ".join(DTYPES), "choose one")
    if out.suffix != ".npz":
        raise InputError(f"--out {out}", "a name that ends in .npz", "name it so")
    atoms, metadata = noise_table(op, DTYPES[dtype], device)
    atoms.save(out, metadata)
    size = {"values": len(atoms.values), "least": atoms.floor, "greatest": atoms.ceiling, "bits": atoms.bits}
    return {**metadata, **size, "sha256": atoms.sha256(), "file": str(out)}
