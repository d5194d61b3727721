"""How well a network predicts held-out text: nats per token with a standard error over windows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .decode.decoded import device_of
from .loss import MaskedNetwork, mask_counts, masked_cross_entropy, next_token_cross_entropy, random_subset


def window_losses(
    model: MaskedNetwork, tokens: Tensor, *, rng: torch.Generator, weights: Tensor | None = None
) -> Tensor:
    """(batch, length) ids -> (batch,) nats per token: of the masked network a draw whose mean over the
    batch is one of the bound, of the causal one the value itself.

    The shares of masks are stratified over the rows: row i alone is a draw at shares in the i-th part of
    (0, 1], which says less (early rows) or more (late ones) than the bound of that window. ``rng`` is a CPU
    generator, so that the masks do not depend on the device; a causal network draws nothing. ``weights``:
    (length,), w_n of n = 1 .. length masks; then it is no bound, but has the same optimum (Prop. 3.2).
    """
    if model.config.causal:
        return next_token_cross_entropy(model, tokens)
    counts = mask_counts(len(tokens), tokens.shape[1], rng=rng)
    masked = random_subset(counts, tokens.shape[1], rng=rng)
    losses = masked_cross_entropy(model, tokens, masked.to(tokens.device))
    return losses if weights is None else losses * weights[counts - 1].to(losses.device)


def validation_losses(
    model: MaskedNetwork, text: Tensor, *, seed: int, batch: int = 32, autocast: bool = False
) -> Tensor:
    """:func:`window_losses` of ``text`` (windows, length), without gradients: (windows,) float64 on the CPU.

    Window i is always in the part i mod ``batch`` of the masked shares: right is the mean over windows in
    random order, and no window's own value."""
    rng, device = torch.Generator().manual_seed(seed), device_of(model)
    losses = []
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        for chunk in text.split(batch):
            losses.append(window_losses(model, chunk.to(device), rng=rng).cpu())
    return torch.cat(losses).double()


def mean_and_error(losses: Tensor) -> tuple[float, float]:
    """Mean of the windows and its standard error (NaN for one window)."""
    return losses.mean().item(), losses.std().item() / math.sqrt(len(losses))


def validation_bound(
    model: MaskedNetwork, text: Tensor, *, seed: int, batch: int = 32, autocast: bool = False
) -> tuple[float, float]:
    """Nats per token on ``text`` (windows, length) and the standard error over windows.

    A masked network gives the time-agnostic bound on them, a causal one the nats themselves.
    """
    return mean_and_error(validation_losses(model, text, seed=seed, batch=batch, autocast=autocast))
