"""What a sampler is: a source of randomness and a pure decision. Two abstract classes; everything else is final."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..atoms import Atoms
from ..errors import InputError
from ..formats import FORMATS
from ..laws.argmax import Combine, Progress, Tie, argmax_law, perturbed_law
from ..laws.law import Law, check_logits
from ..types import Float
from ..uniforms import DTYPES, Rng, Source

_CHUNK = 1 << 22  # noise values in memory at once


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
    backend: str = field(
        default="cpu", kw_only=True
    )  # whose arithmetic the recipe is; here it runs on CPU, see the class

    @abstractmethod
    def sample(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        """(batch, vocab) -> (n, batch) int64. Input already checked."""

    @abstractmethod
    def row_law(self, logits: Tensor) -> Law:
        """The exact or certified law of one row, (vocab,). Input already checked."""

    @property
    @abstractmethod
    def ceiling(self) -> float:
        """Largest Gumbel value -log E the sampler's noise can take; inf where it can be infinite; nan if it has none."""

    def bits_per_draw(self, vocab: int) -> float:
        """Random bits that one token takes from the generator; nan where that is not known."""
        return math.nan

    def draw(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        """``n`` independent tokens for each row. logits: (*batch, vocab) floats, -inf allowed; returns (n, *batch) int64.

        Raises InputError for NaN, +inf, a row of -inf, no tokens, n < 1, a dtype that is not floating, or a largest
        logit that the sampler's format cannot hold.
        """
        logits = self._checked(logits)
        if not isinstance(n, int | np.integer) or n < 1:
            raise InputError(f"n = {n!r}", "a whole number of draws, at least 1", "ask for one")
        if not isinstance(rng, torch.Generator | np.random.Generator):
            kinds = "torch.Generator or numpy.random.Generator"
            raise InputError(f"rng of type {type(rng).__name__}", kinds, "pass rng=...")
        *batch, vocab = logits.shape
        return self.sample(logits.reshape(-1, vocab), n, rng=rng).reshape(n, *batch)

    def law(self, logits: Tensor | np.ndarray) -> Law:
        """What :meth:`draw` really draws from, for one row of logits (vocab,). No draws are made."""
        try:
            row = logits if isinstance(logits, Tensor) else torch.from_numpy(np.array(logits))
        except (TypeError, ValueError):
            kind = type(logits).__name__
            raise InputError(f"logits of type {kind}", "a tensor or an array", "convert them") from None
        if row.ndim != 1:
            raise InputError(f"logits of shape {tuple(row.shape)}", "one row, (vocab,)", "index the row you mean")
        return self.row_law(self._checked(row))

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


def check_batch(logits: Tensor) -> Tensor:
    """(*batch, vocab) floating logits, each row valid; else InputError."""
    if not isinstance(logits, Tensor):
        raise InputError(f"logits of type {type(logits).__name__}", "a torch.Tensor", "use torch.as_tensor(logits)")
    if not logits.dtype.is_floating_point:
        raise InputError(f"logits of dtype {logits.dtype}", "a floating dtype", "convert to float32 or float64")
    if logits.ndim < 1 or not logits.numel():
        raise InputError(f"logits of shape {tuple(logits.shape)}", "(*batch, vocab), not empty", "check the shape")
    top = logits.amax(dim=-1)  # NaN and +inf both surface here
    if not torch.isfinite(top).all():
        row = logits.reshape(-1, logits.shape[-1])[int((~torch.isfinite(top)).reshape(-1).nonzero()[0])]
        check_logits(row.detach().double().cpu().numpy())
    return logits


def chunks(rows: Tensor, n: int) -> tuple[int, int]:
    """How many draws and how many rows of (rows, vocab) fit in one chunk."""
    per_draw = max(_CHUNK // rows.shape[-1], 1)
    return max(per_draw // len(rows), 1), min(len(rows), per_draw)


@dataclass(frozen=True)
class UniformSampler(Sampler):
    """word -> u -> noise -> score -> argmax, each stage in its own format.

    ``noise_of``: u to noise, in torch, in the published order; ``combine``: "add" (logits + Gumbel) or "divide"
    (probabilities / exponential); ``weights_of``: logits to what is added or divided, in the format of the stage.
    ``fine``: for sources too fine to enumerate, (relative error of a score, spacing of the exponential): the law is
    then the target's within a proved bound. A quotient that could overflow, without ``overflow``, is refused by :meth:`law`.
    """

    source: Source
    noise_of: Callable[[Tensor], Tensor]
    combine: Combine
    tie: Tie = "first"
    fine: tuple[float, float] | None = None
    tolerance: float = 1e-10  # asked of the law, with ``relative``: see argmax_law; larger ones are quicker
    relative: float = 1e-7
    noise_sha256: str = ""  # if given, noise_atoms() is refused where this machine's table is another
    progress: Progress | None = field(default=None, compare=False)  # told the share of a long law that is done
    overflow: bool = False  # whether the published arithmetic lets a finite quotient overflow to inf

    def bits_per_draw(self, vocab: int) -> float:
        return vocab * self.source.bits

    def weights_of(self, logits: Tensor) -> Tensor:
        """Logits as they enter the score: cast (add) or softmax (divide), in the format of the stage."""
        cast = logits.to(DTYPES[self.stages.weights])
        return cast if self.combine == "add" else torch.softmax(cast, dim=-1)

    def decide(self, logits: Tensor, u: Tensor) -> Tensor:
        """The pure decision. logits: (..., vocab); u: (..., vocab) from :attr:`source`. Returns (...) int64."""
        weights, noise = self.weights_of(logits), self.noise_of(u)
        scores = weights + noise if self.combine == "add" else weights / noise
        if self.tie == "first":
            return scores.argmax(dim=-1)
        return scores.shape[-1] - 1 - scores.flip(-1).argmax(dim=-1)

    def sample(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        draws, rows = chunks(logits, n)
        out = torch.empty((n, len(logits)), dtype=torch.int64, device=logits.device)
        for i in range(0, n, draws):
            for j in range(0, len(logits), rows):
                part = logits[j : j + rows]
                u = self.source.draw((min(draws, n - i), *part.shape), rng=rng)
                out[i : i + draws, j : j + rows] = self.decide(part, u)
        return out

    def noise_atoms(self) -> Atoms:
        """The exact law of one noise value: every word pushed through the sampler's own noise map, as measured here."""
        atoms = self.source.push(self.noise_of)
        if self.noise_sha256 and (found := atoms.sha256()) != self.noise_sha256:
            raise InputError(
                f"a noise table of sha256 {found[:16]}... for {self.name} on this machine",
                f"{self.noise_sha256[:16]}..., as it was measured",
                "see precision-lab doctor; without noise_sha256 the law is that of this machine",
            )
        return atoms

    @property
    def ceiling(self) -> float:
        """At the words next to 0 and to 2^bits, where every recipe has its extremes: 2^17 of them at either end. Of
        sources too fine to list, the words 1 and 2^bits - 1: their word 0, of probability 2^-53, is left out."""
        ends = torch.arange(min(1 << 17, 1 << self.source.bits)) if self.source.enumerable else torch.tensor([0])
        first, last = (0, (1 << self.source.bits) - 1) if self.source.enumerable else (1, (1 << self.source.bits) - 1)
        noise = self.noise_of(self.source.from_words(torch.cat([first + ends, last - ends])))
        if self.combine == "add":
            return float(noise.max())
        best = float(noise.min())
        return -math.log(best) if best > 0 else math.inf

    def row_law(self, logits: Tensor) -> Law:
        weights = self.weights_of(logits).double().cpu().numpy()
        if self.fine is None:
            score, options = (
                FORMATS[self.stages.score],
                {
                    "tie": self.tie,
                    "tolerance": self.tolerance,
                    "relative": self.relative,
                    "progress": self.progress,
                },
            )
            noise = self.noise_atoms()
            self._check_range(float(weights.max()), noise)
            return argmax_law(weights, noise, combine=self.combine, score=score, **options)  # type: ignore[arg-type]
        relative = self.fine[0]
        if self.combine == "add":  # the sum rounds at the size of the logits: stated for 64
            relative *= max(1.0, abs(float(weights.max())) / 64)
        return perturbed_law(log_normalised(weights, self.combine), relative=relative, lattice=self.fine[1])

    def _check_range(self, largest: float, noise: Atoms) -> None:
        if self.overflow or self.combine == "add":
            return
        least, format = noise.values[np.searchsorted(noise.values, 0.0, side="right") :][:1], FORMATS[self.stages.score]
        if least.size and not np.isfinite(format.round(np.array(largest / least[0]))):
            raise InputError(
                f"a weight of {largest:.4g} over noise of {least[0]:.4g} in {self.name}, beyond {format.name}",
                f"scores up to {format.max:.6g}",
                "normalise the weights, or declare overflow=True if the published code lets it happen",
            )


def log_normalised(weights: Float, combine: Combine) -> Float:
    """log softmax of the weights as the sampler holds them."""
    with np.errstate(divide="ignore"):
        log = weights if combine == "add" else np.log(weights)
    shifted = log - log.max()
    return shifted - np.log(np.exp(shifted).sum())
