"""The training bound of masked diffusion in its time-agnostic form (Prop. 3.1, arXiv:2409.02908).

    -log p(x) <= sum_{n=1..L} E_{S uniform, |S|=n} [ (1/n) sum_{l in S} -log mu_l(x_l | x with S masked) ]

so the bound per token, (1/L) of it, is the expectation over n uniform on {1..L} of the mean cross-entropy at the masked
positions. Any positive weights of n have the same optimum (Prop. 3.2); only n uniform gives the bound. The causal network's
loss is no bound but the value itself: -log p(x) = sum_l -log p(x_l | x_1 .. x_{l-1}).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .denoiser import Denoiser


def mask_counts(batch: int, length: int, *, rng: torch.Generator) -> Tensor:
    """Low-discrepancy n ~ uniform{1..L}: ``n_i = ceil(L (u_i + i) / B)`` (MDLM's stratified times). (batch,) int64."""
    t = (torch.rand(batch, generator=rng, dtype=torch.float64) + torch.arange(batch)) / batch
    return (t * length).ceil().clamp(1, length).long()


def random_subset(counts: Tensor, length: int, *, rng: torch.Generator) -> Tensor:
    """A uniformly random subset of ``counts[i]`` positions in row i. (batch, length) bool, True where masked."""
    rank = torch.rand(len(counts), length, generator=rng, dtype=torch.float64).argsort(1).argsort(1)
    return rank < counts[:, None]


def masked_cross_entropy(model: Denoiser, tokens: Tensor, masked: Tensor) -> Tensor:
    """Mean over masked positions of -log mu(x), one value (nats) per sequence: (batch,). The head runs only there."""
    hidden = model.hidden(tokens.masked_fill(masked, model.config.mask_id))
    loss = F.cross_entropy(model.logits(hidden[masked]).float(), tokens[masked], reduction="none")
    row = masked.nonzero()[:, 0]
    total = loss.new_zeros(len(tokens)).index_add_(0, row, loss)
    return total / masked.sum(1)


def next_token_cross_entropy(model: Denoiser, tokens: Tensor) -> Tensor:
    """Mean over positions of -log p(x_l | x before l) of a causal network, one value (nats) per sequence: (batch,)."""
    logits = model.logits(model.hidden(tokens)).float()
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view(tokens.shape).mean(1)
