"""Functions read on a CUDA device: the law of what runs there, by the draws that it makes. Run by `make gpu`."""

from __future__ import annotations

import pytest
import torch
from contract import FALSE_FAIL, rejected

import precision_lab
from precision_lab.errors import InputError
from precision_lab.samplers import FunctionSampler, resolve

DRAWS = 400_000


def gumbel(logits, n, *, generator):
    u = torch.rand(n, *logits.shape, generator=generator, device=logits.device, dtype=logits.dtype)
    return (logits - torch.log(-torch.log(u))).argmax(-1)


def race(logits, n, *, generator):
    noise = torch.empty(n, *logits.shape, device=logits.device, dtype=logits.dtype).exponential_(
        generator=generator
    )
    return (logits.softmax(-1) / noise).argmax(-1)


def multinomial(logits):
    return torch.multinomial(logits.softmax(-1), 1).squeeze(-1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("function", [gumbel, race, multinomial])
def test_draws_follow_the_law_that_is_read(function, dtype):
    """400,000 draws against the law, exact binomial, 1e-6 each (:func:`contract.rejected`): a token of 10 %
    is seen if it comes 1.5 % too often."""
    logits = torch.tensor([0.0, -1.0, -1.0, -2.0, -8.0, -torch.inf, -9.0], device="cuda", dtype=dtype)
    sampler = resolve(function)
    assert isinstance(sampler, FunctionSampler)
    try:
        law = precision_lab.law(function, logits)
    except InputError as error:
        pytest.fail(f"not read on this device: {error}")
    ids = sampler.draw(logits, DRAWS, rng=torch.Generator(device="cuda").manual_seed(0))
    counts = torch.bincount(ids.reshape(-1).cpu(), minlength=len(logits)).numpy()
    assert rejected(counts, law, FALSE_FAIL) == []
