"""Tables of 2^31 and 2^32 words against the words themselves, run by run, in the arithmetic of the machine
at hand."""

from __future__ import annotations

import numpy as np
import torch

from precision_lab.samplers import UniformSampler

RUN = 1 << 18
MARGIN = 1 << 12


def check_runs_of_words(sampler: UniformSampler) -> None:
    """Values seen in a run of words, and not in the margins about it, have all their words in it: table and
    count agree.

    The runs: both ends, the middle, 2^24 from the top, and four at random. No false fails; a run with one
    count off is seen.
    """
    atoms = sampler.noise_atoms()
    total = 1 << sampler.source.bits
    assert atoms.bits == sampler.source.bits
    assert int(atoms.counts.sum()) == total
    ends = [0, total // 2, total - (1 << 24), total - RUN]
    inner = np.random.default_rng(1).integers(1 << 20, total - (1 << 20), size=4).tolist()
    checked = 0
    for start in [*ends, *inner]:
        low = max(start - MARGIN, 0)
        high = min(start + RUN + MARGIN, total)
        words = torch.arange(low, high)
        noise = sampler.noise_of(sampler.source.from_words(words)).double().numpy()
        inside = (words.numpy() >= start) & (words.numpy() < start + RUN)
        values, counts = np.unique(noise[inside], return_counts=True)
        kept = ~np.isin(values, noise[~inside])
        at = np.searchsorted(atoms.values, values[kept])
        np.testing.assert_array_equal(atoms.values[at], values[kept])
        np.testing.assert_array_equal(atoms.counts[at], counts[kept])
        checked += int(kept.sum())
    assert checked > 100_000
