"""The training bound of masked diffusion, in its two forms, and the ways to draw what it averages over.

Time-agnostic (Prop. 3.1 of arXiv:2409.02908):

    -log p(x) <= sum_{n=1..L} E_{S uniform, |S|=n} [ (1/n) sum_{l in S} -log mu_l(x_l | x with S masked) ]

so the bound per token, (1/L) of it, is the expectation over n uniform on {1..L} of the mean cross-entropy
at the masked positions. Continuous time, every position masked with probability m(t) = 1 - alpha_t by
itself:

    -log p(x) <= int_0^1 m'(t) / m(t) E[ sum_{l masked} -log mu_l ] dt = int_0^1 E[ ... ] / m dm,

the same number, whatever the schedule, for a network that is not told the time. Any positive weights of n
have the same optimum (Prop. 3.2); only n uniform gives the bound. The causal network's loss is no bound but
the value itself: -log p(x) = sum_l -log p(x_l | x_1 .. x_{l-1}).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..statistics._checks import check_whole
from .decode.decoded import ours
from .denoiser import Denoiser
from .schedule import LINEAR, Schedule

MaskedNetwork = Any  # a Denoiser, or an Adapted: hidden(tokens, t), logits(hidden), config
Scheme = Literal["independent", "shared", "stratified"]


def times(batch: int, *, rng: torch.Generator, scheme: Scheme = "stratified") -> Tensor:
    """(batch,) float64 in [0, 1). "independent": u_i; "shared": mod(u + i / B, 1) (VDM, arXiv:2107.00630);
    "stratified": (u_i + i) / B (MDLM). The last two are spread evenly, which takes the variance between t
    out of the mean over a batch. Stratified, row i is uniform on the i-th part only: the mean over the
    batch is right if its rows are in random order."""
    steps = torch.arange(check_whole("batch", batch, 1), dtype=torch.float64)
    if scheme == "shared":
        return (torch.rand(1, generator=rng, dtype=torch.float64) + steps / batch) % 1.0
    u = torch.rand(batch, generator=rng, dtype=torch.float64)
    if scheme not in ("independent", "stratified"):
        raise InputError(f"scheme {scheme!r}", "independent, shared or stratified", "name how times are drawn")
    # the sum may round up
    return u if scheme == "independent" else ((u + steps) / batch).clamp(max=1 - 2.0**-53)


def mask_counts(batch: int, length: int, *, rng: torch.Generator, scheme: Scheme = "stratified") -> Tensor:
    """n uniform on {1..L}: ``n_i = ceil(L t_i)`` of :func:`times`. (batch,) int64; InputError for a size
    below 1."""
    length = check_whole("length", length, 1)
    return (times(batch, rng=rng, scheme=scheme) * length).ceil().clamp(1, length).long()


def continuous_bound(
    model: MaskedNetwork,
    tokens: Tensor,
    *,
    rng: torch.Generator,
    scheme: Scheme = "stratified",
    schedule: Schedule = LINEAR,
    answer: Tensor | None = None,
) -> Tensor:
    """One draw of the continuous-time bound per token for each sequence, (batch,) nats.

    m uniform by ``scheme``, t = m^-1(m), positions masked with probability m, weight 1 / (m L) on each
    one's cross-entropy. A sequence with no mask counts 0. The network is told t if it asks for it.
    ``answer``: (batch, length) bool, the positions whose bound it is; the others are a prompt and never
    masked, L is the number of positions in the answer, and the bound is of -log p(answer | prompt).
    """
    share = times(len(tokens), rng=rng, scheme=scheme).clamp(min=2.0**-53)
    masked = torch.rand(tokens.shape, generator=rng, dtype=torch.float64) < share[:, None]
    length = torch.full((len(tokens),), tokens.shape[1])
    if answer is not None:
        chosen = checked_answer(answer, tokens).cpu()
        masked &= chosen
        length = chosen.sum(1)
    t = torch.from_numpy(schedule.time(share.numpy()))
    total = masked_cross_entropy_sum(model, tokens, masked.to(tokens.device), t.to(tokens.device))
    return total / (share * length).to(total.device)


def checked_answer(answer: Tensor, tokens: Tensor) -> Tensor:
    """``answer`` as it is; InputError unless it marks a position in every sequence of ``tokens``."""
    if answer.dtype != torch.bool or answer.shape != tokens.shape or not bool(answer.any(1).all()):
        got = f"answer of shape {tuple(answer.shape)}, {answer.dtype}"
        raise InputError(got, f"{tuple(tokens.shape)} bool, one True or more a row", "mark what is answered")
    return answer


def random_subset(counts: Tensor, length: int, *, rng: torch.Generator) -> Tensor:
    """A uniformly random subset of ``counts[i]`` positions in row i. (batch, length) bool, True where
    masked."""
    rank = torch.rand(len(counts), length, generator=rng, dtype=torch.float64).argsort(1).argsort(1)
    return rank < counts[:, None]


def masked_cross_entropy_sum(
    model: MaskedNetwork, tokens: Tensor, masked: Tensor, t: Tensor | None = None
) -> Tensor:
    """Sum over masked positions of -log mu(x), one value (nats) per sequence: (batch,). The head runs only
    there. ``tokens``: the model's own ids. InputError for a causal network, which is not shown the mask at
    the positions that it predicts, and for a text with a mask, or with what the model never gives."""
    if model.config.causal:
        raise InputError("a causal network", "a masked one", "its loss is next_token_cross_entropy")
    text = ours(model, tokens)
    mask = model.config.mask_id
    if bool(((text < 0) | (text > mask)).any()):
        got = f"ids {int(tokens.min())} to {int(tokens.max())}"
        raise InputError(got, f"0 to {mask}", "use the model's own tokenizer")
    never = getattr(model, "never", torch.zeros(mask, dtype=torch.bool))
    _drawable_text(text, tokens, masked, never.to(text.device))
    hidden = model.hidden(text.masked_fill(masked, model.config.mask_id), t)
    loss = F.cross_entropy(model.logits(hidden[masked]).float(), text[masked], reduction="none")
    return loss.new_zeros(len(tokens)).index_add_(0, masked.nonzero()[:, 0], loss)


def _drawable_text(text: Tensor, tokens: Tensor, masked: Tensor, never: Tensor) -> None:
    """InputError if the bound would be infinite: a token that an adapted model is not to give, or its mask."""
    impossible = F.pad(never, (0, 1), value=True)[text] & masked
    if impossible.any():
        ids = sorted(set(tokens[impossible].tolist()))
        got = f"a text with {int(impossible.sum())} tokens that the model never gives, such as the id {ids[0]}"
        raise InputError(
            got, "text of words alone", "leave control tokens out, or adapt the model with never=()"
        )


def masked_cross_entropy(model: MaskedNetwork, tokens: Tensor, masked: Tensor) -> Tensor:
    """Mean over masked positions of -log mu(x), one value (nats) per sequence: (batch,); no sequence
    without a mask."""
    return masked_cross_entropy_sum(model, tokens, masked) / masked.sum(1)


def next_token_cross_entropy(model: Denoiser, tokens: Tensor) -> Tensor:
    """Mean over positions of -log p(x_l | x before l) of a causal network, one value (nats) per sequence: (batch,).
    InputError for a masked network, which sees the token that it would predict."""
    if not model.config.causal:
        raise InputError(
            "a network that sees what is to come", "a causal one", "its loss is masked_cross_entropy"
        )
    logits = model.logits(model.hidden(tokens)).float()
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view(tokens.shape).mean(1)
