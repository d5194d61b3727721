"""Tests of a sampler with seed and top_k. pip install 'precision-lab[testing]', then: pytest test_mylib.py

seed, generator, rng, key, temperature, top_k, top_p, min_p, logits and probs are known by name. Where the
arguments have other names, call="sample(probs, seed=seed, k=50)" says how it is called.
"""

import torch
from mylib import sample

logits = torch.log_softmax(torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 3, 0)


def test_the_whole_vocabulary(assert_categorical):
    """top_k is then the vocabulary, and every call gets a new seed."""
    assert_categorical(sample, logits, detect="temperature=0.05", false_fail=1e-7)


def test_top_k(assert_categorical):
    """With 20 tokens kept: what it is given, and the logits of the law that it should then have."""
    kept = logits.where(logits >= logits.topk(20).values[-1], -torch.inf)
    assert_categorical(
        sample, logits, settings={"top_k": 20}, expected=kept, detect="temperature=0.05", false_fail=1e-7
    )
