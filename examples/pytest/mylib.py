"""A sampler as libraries have it: a seed in place of a generator, its own top-k, one token a row and call."""

import torch


def sample(logits, seed, top_k):
    """(batch, vocab) -> (batch,): one token for each row, of the top_k largest logits."""
    generator = torch.Generator(logits.device).manual_seed(seed)
    threshold = logits.topk(top_k).values[..., -1:]
    kept = logits.masked_fill(logits < threshold, -torch.inf)
    return torch.multinomial(kept.double().softmax(-1), 1, generator=generator)[:, 0]
