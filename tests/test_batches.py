"""Whole batches: each fault of rows is called by its name with a call that shows it; right samplers are left alone."""

from __future__ import annotations

import pytest
import torch

from precision_lab.verdict.batches import (
    examine_batches,
)
from precision_lab.verdict.caller import Caller, Misbehaved

LEVEL = 1e-8  # of every stage here


def multinomial(logits, n, *, generator):
    p = torch.softmax(logits.double(), -1)
    return torch.multinomial(p, n, replacement=True, generator=generator).mT


def race(logits, n, *, generator):
    noise = torch.empty(n, *logits.shape, dtype=torch.float64).exponential_(generator=generator)
    return (torch.softmax(logits.double(), -1) / noise).argmax(-1)


def numpy_gumbel(logits, n, *, rng):
    return (logits + rng.gumbel(size=(n, *logits.shape))).argmax(-1)


def first_for_all(logits, n, *, generator):
    return race(logits[:1].expand_as(logits), n, generator=generator)


def copies_the_first(logits, n, *, generator):
    return race(logits, n, generator=generator)[:, :1].expand(n, len(logits))


def reversed_rows(logits, n, *, generator):
    return race(logits, n, generator=generator).flip(1)


def swapped_pair(logits, n, *, generator):
    ids = race(logits, n, generator=generator)
    return ids[:, [0, 2, 1, *range(3, len(logits))]] if len(logits) > 2 else ids


def sometimes_late(logits, n, *, generator):
    """In a quarter of the draws the rows have the answer of the row before."""
    ids = race(logits, n, generator=generator)
    late = torch.rand(n, 1, generator=generator) < 0.25
    return torch.where(late, ids.roll(1, 1), ids)


def not_unsorted(logits, n, *, generator):
    """From 16 rows on they are sorted by their first logit, and come back so."""
    order = logits[:, 0].argsort() if len(logits) >= 16 else torch.arange(len(logits))
    return race(logits[order], n, generator=generator)


def from_eight_on(logits, n, *, generator):
    return race(logits / 0.7 if len(logits) >= 8 else logits, n, generator=generator)


def above_64(logits, n, *, generator):
    return race(logits / 0.7 if len(logits) > 64 else logits, n, generator=generator)


def one_alone(logits, n, *, generator):
    return race(logits / 0.7 if len(logits) == 1 else logits, n, generator=generator)


def last_row(logits, n, *, generator):
    bent = logits.clone()
    if len(bent) > 1:
        bent[-1] /= 0.5
    return race(bent, n, generator=generator)


def fourth_row(logits, n, *, generator):
    bent = logits.clone()
    bent[3:4] /= 0.5
    return race(bent, n, generator=generator)


def greatest_of_the_batch(logits, n, *, generator):
    """exp(logits - greatest of all rows), in float32: rows 100 nats below have no weight left."""
    weights = (logits - logits.max()).exp() + 1e-30
    noise = torch.empty(n, *logits.shape).exponential_(generator=generator)
    return (weights / noise).argmax(-1)


def scaled_by_the_batch(logits, n, *, generator):
    """Flatter, the more the rows differ."""
    spread = logits.std(0).nan_to_num(0.0).mean() if len(logits) > 1 else 0.0
    return race(logits / (1 + spread), n, generator=generator)


def one_noise(logits, n, *, generator):
    noise = torch.empty(n, 1, logits.shape[-1], dtype=torch.float64).exponential_(generator=generator)
    return (torch.softmax(logits.double(), -1) / noise).argmax(-1)


def one_uniform(logits, n, *, generator):
    """Inverse transform with one uniform for all rows."""
    total = torch.softmax(logits.double(), -1).cumsum(-1)
    u = torch.rand(n, 1, 1, generator=generator, dtype=torch.float64)
    return (total[None] < u * total[None, :, -1:]).sum(-1)


def noise_of_pairs(logits, n, *, generator):
    """Rows 0 and 1 share, rows 2 and 3, and so on."""
    rows, vocab = logits.shape
    noise = torch.empty(n, (rows + 1) // 2, vocab, dtype=torch.float64).exponential_(generator=generator)
    return (torch.softmax(logits.double(), -1) / noise.repeat_interleave(2, 1)[:, :rows]).argmax(-1)


def reads_memory(logits, n, *, generator):
    """Strides are not looked at."""
    flat = logits.as_strided((logits.numel(),), (1,)) if logits.stride(0) else logits
    return race(flat.reshape(logits.shape), n, generator=generator)


def half_as_integers(logits, n, *, generator):
    """Sixteen bits are read as float16, whichever they are."""
    read = logits.view(torch.float16) if logits.dtype == torch.bfloat16 else logits
    return race(read, n, generator=generator)


def seed_zero_is_random(logits, n, *, generator):
    if generator.initial_seed() == 0:
        generator = torch.Generator()
        generator.seed()
    return race(logits, n, generator=generator)


def seed_zero_is_stuck(logits, n, *, generator):
    if generator.initial_seed() == 0:
        return logits.argmax(-1).expand(n, len(logits))
    return race(logits, n, generator=generator)


def forgets_the_sign(logits, n, *, generator):
    """The largest seed is read as 32 bits, and taken for 'none given'."""
    seed = generator.initial_seed()
    start = 0 if seed == 2**63 - 1 else seed
    return race(logits, n, generator=torch.Generator().manual_seed(start))


def loses_the_mask(logits, n, *, generator):
    """From 3 rows on the mask of the first row is that of all."""
    if len(logits) >= 3 and torch.isneginf(logits).any():
        logits = torch.where(torch.isneginf(logits[:1]), -torch.inf, logits.clamp(min=-60.0))
    return race(logits, n, generator=generator)


def one_mask_for_all(logits, n, *, generator):
    return race(
        torch.where(torch.isneginf(logits[:1]), -torch.inf, logits.clamp(min=-9.0)), n, generator=generator
    )


def squeezes(logits, n, *, generator):
    return race(logits, n, generator=generator).squeeze(1)


# sampler -> what the verdict says, and words of the detail
PLANTED = {
    first_for_all: ("rows mixed up", "row 1 is given the token of row 0"),
    copies_the_first: ("rows mixed up", "row 1 is given the token of row 0"),
    reversed_rows: ("rows mixed up", "row 0 gets the token of row 1"),
    swapped_pair: ("rows mixed up", "row 1 gets the token of row 2, row 2 gets the token of row 1"),
    sometimes_late: ("rows mixed up", "in part of its draws"),
    not_unsorted: (
        "rows mixed up",
        "in a batch of 16, the rows come back in reversed order; not in batches of up to 9",
    ),
    from_eight_on: ("depends on the batch size", "up to 7 rows, otherwise from 8 rows on"),
    above_64: ("depends on the batch size", "up to 64 rows, otherwise from 65 rows on"),
    one_alone: ("depends on the batch size", "a row alone draws otherwise"),
    last_row: ("depends on its place in the batch", "the last row"),
    fourth_row: ("depends on its place in the batch", "row 3"),
    greatest_of_the_batch: ("depends on its neighbours", "100 nats higher"),
    scaled_by_the_batch: ("depends on its neighbours", "beside different rows"),
    one_noise: ("same noise for all rows", "all pairs of 64 rows"),
    one_uniform: ("same noise for all rows", "all pairs of 64 rows"),
    noise_of_pairs: ("same noise for several rows", "32 of 2016 pairs of 64 rows"),
    reads_memory: ("depends on the layout of its logits", "columns of a (vocab, batch) array"),
    half_as_integers: ("depends on the dtype of its logits", "given as bfloat16"),
    seed_zero_is_random: ("ignores its generator", "two calls with seed 0"),
    seed_zero_is_stuck: ("depends on its seed", "with seed 0"),
    forgets_the_sign: ("ignores its generator", "seeds 0 and 9223372036854775807 give the same"),
    loses_the_mask: ("depends on its neighbours", "other tokens at -inf"),
    one_mask_for_all: ("draws a token of probability zero", "for a batch of 8"),
    squeezes: ("wrong shape", "for one row"),
}


def stage(sampler, seed: int = 0, **options):
    return examine_batches(Caller.of(sampler), seed=seed, level=LEVEL, **options)


class TestPlanted:
    @pytest.mark.parametrize("sampler", PLANTED, ids=lambda f: f.__name__)
    def test_each_is_called_by_its_name(self, sampler):
        """Each is missed less than once in 1e6 seeds: the powers below, and total failures."""
        what, detail = PLANTED[sampler]
        with pytest.raises(Misbehaved) as fault:
            stage(sampler)
        assert what in fault.value.what
        assert detail in fault.value.detail
        assert "Batch(" in fault.value.call
