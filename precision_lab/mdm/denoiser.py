"""A transformer that predicts masked tokens; it need not be told the time (Prop. 3.2, arXiv:2409.02908).

The same network with ``causal=True`` is its autoregressive rival: each position predicts its token from those before. With
``timed=True`` it is told the time, to see that nothing is gained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..statistics._checks import check_whole

Reader = Callable[[Tensor], Tensor]
START = (
    0  # what a causal network sees before the first token: the id that corpus.train_tokenizer gives END_OF_TEXT
)


@dataclass(frozen=True)
class DenoiserConfig:
    """``vocab`` counts real tokens; the mask is one more *input* symbol, ``mask_id = vocab``, and never an output.

    ``causal``: position l sees only tokens before l, the first of them a start symbol (the id of END_OF_TEXT). The mask is
    then unused; it stays, so that both kinds have the same number of parameters.
    ``timed``: :meth:`Denoiser.hidden` takes the time as well, in [0, 1], 8 cosines and 8 sines of it through two layers.
    Errors: InputError for what is no whole number, an odd or broken size of a head (rotary positions turn pairs of numbers),
    and a network that is both causal and timed.
    """

    vocab: int = 8192
    layers: int = 6
    heads: int = 4
    width: int = 256
    causal: bool = False
    timed: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab", "layers", "heads", "width"):
            object.__setattr__(self, name, check_whole(name, getattr(self, name), 1))
        if not (isinstance(self.causal, bool) and isinstance(self.timed, bool)):
            got = f"causal = {self.causal!r}, timed = {self.timed!r}"
            raise InputError(got, "True or False", "a string is not read as one")
        if self.width % (2 * self.heads):
            got = f"width = {self.width} for {self.heads} heads"
            raise InputError(got, "an even number for each head", f"choose a multiple of {2 * self.heads}")
        if self.causal and self.timed:
            raise InputError("causal and timed", "one of them", "a causal network has no time")

    @property
    def mask_id(self) -> int:
        return self.vocab


def rotate(x: Tensor, base: float = 10_000.0, first: int = 0) -> Tensor:
    """Rotary positions (RoFormer, arXiv:2104.09864), the first of them ``first``, on the last axis of x: (batch, heads, length,
    size)."""
    length, size = x.shape[-2:]
    frequency = base ** (-torch.arange(0, size, 2, device=x.device, dtype=torch.float32) / size)
    angle = torch.arange(first, first + length, device=x.device, dtype=torch.float32)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Past:
    """Keys and values of one block, (batch, heads, length, size) each, of the positions that came."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    @property
    def length(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.keys = k if self.keys is None else torch.cat([self.keys, k], 2)
        self.values = v if self.values is None else torch.cat([self.values, v], 2)
        return self.keys, self.values


class Block(nn.Module):
    """Pre-norm attention (queries and keys normalised) and a gated feed-forward layer, no biases."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        width, self.heads, self.causal = config.width, config.heads, config.causal
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * (8 * width // 3), bias=False)
        self.down = nn.Linear(8 * width // 3, width, bias=False)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        first = past.length if past else 0
        q, k = rotate(norm(q), first=first), rotate(norm(k), first=first)
        if past is not None:  # one position, which may see all that came
            k, v = past.append(k, v)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal and past is None)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.gate_up(norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:])


class Denoiser(nn.Module):
    """``log_probs(hidden(tokens))``: natural-log probabilities of the clean token at each position."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab + 1, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.bias = nn.Parameter(torch.zeros(config.vocab))  # starts at the unigram law, see trainer.py
        if config.timed:
            last = nn.Linear(config.width, config.width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.clock = nn.Sequential(nn.Linear(16, config.width), nn.SiLU(), last)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for block in self.blocks:
            for name, weight in block.named_parameters():
                nn.init.zeros_(weight) if name in ("out.weight", "down.weight") else nn.init.normal_(
                    weight, std=config.width**-0.5
                )

    def hidden(self, tokens: Tensor, t: Tensor | None = None) -> Tensor:
        """(batch, length) token ids, mask included -> (batch, length, width). ``t``: (batch,) times of a timed network, by
        default the share of its sequence that is masked, the expected one at time t of the linear schedule.

        Row l of a causal network is a function of ``tokens[:, :l]`` alone: the input is shifted by one behind START.
        """
        if self.config.timed and t is None:
            t = (tokens == self.config.mask_id).float().mean(1)
        if self.config.causal:
            tokens = F.pad(tokens[:, :-1], (1, 0), value=START)
        x = norm(self.embedding(tokens))
        if t is not None and self.config.timed:
            turns = t.float()[:, None] * 2.0 ** torch.arange(8, device=x.device) * (torch.pi / 2)
            x = x + self.clock(torch.cat([turns.cos(), turns.sin()], 1).to(x.dtype))[:, None]
        for block in self.blocks:
            x = block(x)
        return norm(x)

    def reader(self) -> Reader:
        """Of a causal network: a function that is given one token after another, (batch,) ids, START first, and returns what
        :meth:`hidden` has at the next position, (batch, width). It keeps keys and values: the work of one position a call.
        InputError if the network is not causal."""
        if not self.config.causal:
            raise InputError(
                "a reader of a network that sees what is to come", "a causal one", "ask for hidden()"
            )
        past = [Past() for _ in self.blocks]

        def following(last: Tensor) -> Tensor:
            x = norm(self.embedding(last))[:, None]
            for block, before in zip(self.blocks, past, strict=True):
                x = block(x, before)
            return norm(x)[:, 0]

        return following

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocab) unnormalised nats. The head is the input embedding, tied; no mass on the mask."""
        return F.linear(hidden, self.embedding.weight[: self.config.vocab], self.bias)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocab) natural-log probabilities, normalised in float32 or wider."""
        logits = self.logits(hidden)
        return F.log_softmax(
            logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits, dim=-1
        )


class Autocast:
    """A network with bfloat16 matrix products in its body, as it was trained; its head and what it returns are float32."""

    def __init__(self, model: Denoiser) -> None:
        self.model, self.config = model, model.config
        self.logits, self.log_probs, self.parameters = model.logits, model.log_probs, model.parameters

    def hidden(self, tokens: Tensor, t: Tensor | None = None) -> Tensor:
        with torch.autocast(tokens.device.type, torch.bfloat16):
            return self.model.hidden(tokens, t).float()

    def reader(self) -> Reader:
        read = self.model.reader()

        def following(last: Tensor) -> Tensor:
            with torch.autocast(last.device.type, torch.bfloat16):
                return read(last).float()

        return following
