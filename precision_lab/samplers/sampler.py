"""What a sampler is: a source of randomness and a pure decision.

:class:`Sampler` is abstract; every other class here is final, and no method that does something is
overridden. A recipe that races is an instance of :class:`UniformSampler`, composed of data: source x
weights x noise map x combination x tie x law rule.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from ..atoms import Atoms
from ..errors import InputError
from ..formats import FORMATS
from ..laws.argmax import Combine, Nonfinite, Progress, Tie
from ..laws.law import Law, check_logits
from ..types import Guarantee
from ..uniforms import DTYPES, Rng, Source
from ..uniforms.agreement import UnknownWordMap
from .chunks import draw_in_chunks
from .rules import Enumerated, LawRule, NoiseMap, Race
from .weights import Cast, Softmax, Weights

_AT_HOME = ("cpu", "numpy")  # backends whose arithmetic is this machine's own


@final
@dataclass(frozen=True)
class Stages:
    """The format of each rounding stage, by name: fp16, bf16, fp32 or fp64."""

    weights: str  # what the logits are cast or exponentiated to
    uniform: str
    noise: str
    score: str

    @staticmethod
    def all(name: str) -> Stages:
        return Stages(name, name, name, name)

    def __str__(self) -> str:
        parts = (self.weights, self.uniform, self.noise, self.score)
        return parts[0] if len(set(parts)) == 1 else " > ".join(parts)


@dataclass(frozen=True)
class Sampler(ABC):
    """``draw(logits, n, rng=rng)`` -> token ids. Fields that :command:`ls samplers` prints come first."""

    name: str
    publisher: str
    source_ref: str  # repository, path, version
    stages: Stages
    # whose arithmetic the recipe is; it runs on this CPU all the same
    backend: str = field(default="cpu", kw_only=True)

    @abstractmethod
    def sample(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        """(batch, vocab) -> (n, batch) int64. Input already checked."""

    @abstractmethod
    def row_law(self, logits: Tensor) -> Law:
        """The law of one row, (vocab,), of the arithmetic of this machine. Input already checked."""

    @property
    @abstractmethod
    def ceiling(self) -> float:
        """Largest Gumbel value -log E the sampler's noise can take; inf where it can be infinite; nan if it
        has none, and where this machine's torch draws by no known word map."""

    @abstractmethod
    def bits_per_draw(self, vocab: int) -> float:
        """Random bits that one token takes from the generator; nan where that is not known."""

    @property
    @abstractmethod
    def emulated(self) -> str | None:
        """Whose arithmetic the recipe is and on what it is evaluated, where it was not confirmed on this
        machine; None where it was."""

    @final
    def draw(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        """``n`` independent tokens for each row. logits: (*batch, vocab) floats, -inf allowed; returns (n,
        *batch) int64.

        Raises InputError for NaN, +inf, a row of -inf, no tokens, n < 1, a dtype that is not floating, or a
        largest logit that the sampler's format cannot hold.
        """
        logits = self._checked(logits)
        if not isinstance(n, int | np.integer) or n < 1:
            raise InputError(f"n = {n!r}", "a whole number of draws, at least 1", "ask for one")
        if not isinstance(rng, torch.Generator | np.random.Generator):
            kinds = "torch.Generator or numpy.random.Generator"
            raise InputError(f"rng of type {type(rng).__name__}", kinds, "pass rng=...")
        *batch, vocab = logits.shape
        return self.sample(logits.reshape(-1, vocab), n, rng=rng).reshape(n, *batch)

    @final
    def law(self, logits: Tensor | np.ndarray) -> Law:
        """What :meth:`draw` draws from, for one row of logits (vocab,). No draws are made.

        Where the recipe is :attr:`emulated`, so is the law: its error bounds what this machine's arithmetic
        gives, its guarantee is ``Guarantee.EMULATED`` and ``how`` says whose arithmetic it stands for.
        Raises InputError for what is not one row of valid logits, and where the recipe has no law for them.
        """
        try:
            row = logits if isinstance(logits, Tensor) else torch.from_numpy(np.array(logits))
        except (TypeError, ValueError):
            kind = type(logits).__name__
            raise InputError(f"logits of type {kind}", "a tensor or an array", "convert them") from None
        if row.ndim != 1:
            raise InputError(
                f"logits of shape {tuple(row.shape)}", "one row, (vocab,)", "index the row you mean"
            )
        law = self.row_law(self._checked(row))
        if self.emulated is None:
            return law
        return replace(law, guarantee=Guarantee.EMULATED, how=f"{law.how}; emulated: {self.emulated}")

    @final
    def _checked(self, logits: Tensor) -> Tensor:
        logits = check_batch(logits).detach()
        if self.stages.weights in DTYPES:
            top = logits.amax(dim=-1).reshape(-1)
            lost = ~torch.isfinite(top.to(DTYPES[self.stages.weights]))
            if lost.any():
                raise InputError(
                    f"a largest logit of {float(top[lost][0]):.6g} for {self.name}",
                    f"at most {FORMATS[self.stages.weights].max:.6g} in magnitude, which {self.stages.weights} holds",
                    "subtract the largest logit first",
                )
        return logits


_LOGITS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_batch(logits: Tensor) -> Tensor:
    """(*batch, vocab) floating logits, each row valid; else InputError."""
    if not isinstance(logits, Tensor):
        raise InputError(
            f"logits of type {type(logits).__name__}", "a torch.Tensor", "use torch.as_tensor(logits)"
        )
    if logits.dtype not in _LOGITS:
        # the float8 dtypes are floating, but torch cannot compare their values
        got = f"logits of dtype {logits.dtype}"
        raise InputError(got, "float16, bfloat16, float32 or float64", "convert to float32 or float64")
    if logits.ndim < 1 or not logits.numel():
        raise InputError(
            f"logits of shape {tuple(logits.shape)}", "(*batch, vocab), not empty", "check the shape"
        )
    top = logits.amax(dim=-1)  # NaN and +inf both surface here
    if not torch.isfinite(top).all():
        row = logits.reshape(-1, logits.shape[-1])[int((~torch.isfinite(top)).reshape(-1).nonzero()[0])]
        check_logits(row.detach().double().cpu().numpy())
    return logits


def emulated_arithmetic(source: Source, backend: str) -> str | None:
    """What :attr:`Sampler.emulated` says of a recipe with this source and backend: the source's own text,
    if it has one."""
    if source.emulated is not None:
        return source.emulated
    if backend in _AT_HOME:
        return None
    return f"{backend}'s arithmetic, emulated with torch's on this machine"


def _negative_ratio(weights: Tensor, noise: Tensor, *, out: Tensor | None = None) -> Tensor:
    return torch.div(noise, weights, out=out).neg_()


# How a weight and its noise make a score; see :func:`~precision_lab.laws.argmax.argmax_law`.
SCORES: dict[Combine, Callable[..., Tensor]] = {
    "add": torch.add,
    "divide": torch.div,
    "multiply": torch.mul,
    "ratio": _negative_ratio,
}


def _best(scores: Tensor, tie: Tie) -> Tensor:
    if tie == "first":
        return scores.argmax(dim=-1)
    return scores.shape[-1] - 1 - scores.flip(-1).argmax(dim=-1)


@final
@dataclass(frozen=True)
class UniformSampler(Sampler):
    """word -> u -> noise -> score -> argmax, each stage in its own format.

    ``noise_of``: u to noise, in torch, in the published order.
    ``combine``: "add" (weight + Gumbel), "divide" (weight / exponential), "multiply" (weight times the
    inverse of an exponential) or "ratio" (-(exponential / weight), an argmin).
    ``tie``: which of equal best scores wins.
    ``rule``: how the law is computed, see :mod:`~precision_lab.samplers.rules`.
    ``weights``: logits to the weights of the score; None: a cast to add, softmax for the others.
    ``nonfinite``: what wins a row that has a NaN or +inf score, see
    :class:`~precision_lab.samplers.rules.Race`.
    ``gumbel_shift``: what the noise exceeds a Gumbel value by, throughout; no argmax sees it.
    """

    source: Source
    noise_of: NoiseMap
    combine: Combine
    tie: Tie = "first"
    rule: LawRule = field(default_factory=Enumerated, kw_only=True)
    weights: Weights | None = field(default=None, kw_only=True)
    nonfinite: Nonfinite = field(default="wins", kw_only=True)
    gumbel_shift: float = field(default=0.0, kw_only=True)
    noise_sha256: str = field(default="", kw_only=True)  # if given, a noise table with another hash is refused
    # told the share of a law that is done
    progress: Progress | None = field(default=None, compare=False, kw_only=True)

    def bits_per_draw(self, vocab: int) -> float:
        return vocab * self.source.bits

    @property
    def emulated(self) -> str | None:
        return emulated_arithmetic(self.source, self.backend)

    def weights_of(self, logits: Tensor) -> Tensor:
        """(..., vocab) logits as they enter the score, in the format of the stage."""
        weights = self.weights
        if weights is None:
            weights = Cast() if self.combine == "add" else Softmax()
        return weights.of(logits, format=self.stages.weights, sampler=self.name)

    def decide(self, logits: Tensor, u: Tensor) -> Tensor:
        """The pure decision. logits: (..., vocab); u: (..., vocab) from :attr:`source`. Returns (...) int64."""
        scores = SCORES[self.combine](self.weights_of(logits), self.noise_of(u))
        return self._winner(scores)

    def _winner(self, scores: Tensor) -> Tensor:
        best = _best(scores, self.tie)
        if self.nonfinite == "wins":
            return best
        return best.masked_fill(~torch.isfinite(scores.amax(dim=-1)), 0)

    def sample(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        def draw_part(weights: Tensor, count: int) -> Tensor:
            u = self.source.draw((count, *weights.shape), rng=rng)
            noise = self.noise_of(u)
            alike = weights.dtype == noise.dtype == u.dtype and noise.device == u.device
            # Nobody needs u any more: its memory, which is in the cache, takes the scores.
            scores = SCORES[self.combine](weights, noise, out=u if alike else None)
            return self._winner(scores)

        return draw_in_chunks(draw_part, logits, n, values_per_row=logits.shape[-1], prepare=self.weights_of)

    @property
    def race(self) -> Race:
        """What is drawn and compared, without logits: the part of the sampler that a law rule sees."""
        return Race(
            source=self.source,
            noise_of=self.noise_of,
            combine=self.combine,
            score=FORMATS[self.stages.score],
            tie=self.tie,
            nonfinite=self.nonfinite,
            noise_sha256=self.noise_sha256,
            name=self.name,
        )

    def noise_atoms(self) -> Atoms:
        """The exact law of one noise value on this machine: :meth:`Race.noise_atoms`."""
        return self.race.noise_atoms()

    @property
    def ceiling(self) -> float:
        """Largest Gumbel value at the words next to 0 and to 2^bits, where every recipe has its extremes:
        2^17 of them at either end. Of sources too fine to list, the words 0, 1 and 2^bits - 1; an infinite
        value at their word 0 alone, of probability 2^-53, is left out. nan where the source's word map on
        this machine is unknown."""
        bits = self.source.bits
        last = (1 << bits) - 1 if bits < 64 else -1  # the pattern of the word, as an int64
        if self.source.enumerable:
            ends = torch.arange(min(1 << 17, 1 << bits))
            words = torch.cat([ends, last - ends])
        else:
            words = torch.tensor([0, 1, last])
        try:
            u = self.source.from_words(words)
        except UnknownWordMap:
            return math.nan
        noise = self.noise_of(u).double()
        larger_is_better = self.combine in ("add", "multiply")
        infinite = math.inf if larger_is_better else 0.0  # the noise whose score is infinite
        if not self.source.enumerable and float(noise[0]) == infinite:
            noise = noise[1:]
        best = float(noise.max() if larger_is_better else noise.min())
        if self.combine == "add":
            return best - self.gumbel_shift
        if best == infinite:
            return math.inf
        return math.log(best) if larger_is_better else -math.log(best)

    def row_law(self, logits: Tensor) -> Law:
        weights = self.weights_of(logits).double().cpu().numpy()
        return self.rule.law(self.race, weights, self.progress)


def with_tolerance(sampler: Sampler, tolerance: float, relative: float) -> Sampler:
    """The sampler with laws that are enumerated only until these errors are reached, and so are quicker (see
    :class:`~precision_lab.samplers.rules.Enumerated`); one whose law is not enumerated comes back as it is."""
    if not isinstance(sampler, UniformSampler):
        return sampler
    return replace(sampler, rule=sampler.rule.with_tolerance(tolerance, relative))
