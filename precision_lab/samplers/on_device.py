"""A recipe of torch on another device: the same stages, that device's generator and logarithms."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..errors import InputError
from ..uniforms.measured import confirmed
from ..uniforms.torch_cpu import TorchSource
from .function import FunctionSampler
from .rules import Enumerated, NoiseMap
from .sampler import Sampler, UniformSampler


@dataclass(frozen=True)
class OnDevice:
    """A noise map evaluated on a device."""

    noise_of: NoiseMap
    device: str

    def __call__(self, values: Tensor) -> Tensor:
        return self.noise_of(values.to(self.device)).cpu()


def on_device(sampler: Sampler, device: str) -> Sampler:
    """``sampler`` as torch runs it on ``device``: its source is the one confirmed there, its noise map runs
    there. A function is as it is: it goes where its logits are. InputError for recipes that are not
    torch's, or whose law there is not known.
    """
    if device == "cpu" or isinstance(sampler, FunctionSampler):
        return sampler
    source = sampler.source if isinstance(sampler, UniformSampler) else None
    if not isinstance(sampler, UniformSampler) or not isinstance(source, TorchSource):
        raise InputError(
            f"{sampler.name} on {device}",
            "a race with torch's own generator, or a function of yours",
            "leave --device out, or give the code as file.py:function",
        )
    there = confirmed(source.op, source.dtype, device)
    rule = sampler.rule
    if there.enumerable and not source.enumerable:
        rule = Enumerated(overflow=True)
    noise_of = OnDevice(sampler.noise_of, device)
    return replace(sampler, name=f"{sampler.name} on {device}", source=there, noise_of=noise_of, rule=rule)
