"""A user's function as a sampler: its draws checked, its law read from the function itself."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..laws.argmax import Progress
from ..laws.law import Law
from ..uniforms import Rng, words
from .sampler import Sampler
from .traced import Calling, Reading, read_function
from .traced.calling import start


@final
@dataclass(frozen=True)
class FunctionSampler(Sampler):
    """A user's plain function ``sample(logits, n, *, generator) -> ids (n, batch)``, checked at every call.

    Functions without a generator draw from torch's global one, seeded from ``rng`` for the call; functions
    without a number of draws are given each row n times. ``takes``: what the function is given, logits,
    log_probs or probs. The law is read from the function itself: see :mod:`.traced`.
    """

    function: Callable[..., Tensor]
    takes: str = "logits"
    draws: int = 2  # of a call: torch.multinomial draws one token by another recipe than several
    progress: Progress | None = field(default=None, kw_only=True, compare=False)  # told the share of a long law

    @property
    def calling(self) -> Calling:
        """How the function is called. InputError for a signature that takes no logits, or no torch
        generator."""
        return Calling.of(self.function, self.name, self.takes)

    @property
    def ceiling(self) -> float:
        return math.nan

    def bits_per_draw(self, vocab: int) -> float:
        return math.nan

    @property
    def emulated(self) -> str | None:
        """None: a law that is read says so itself, for the source that it found."""
        return None

    def sample(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        if self._takes_numpy:
            return self._numpy_draws(logits, n, rng)
        if isinstance(rng, torch.Generator):
            generator = rng
        else:
            generator = torch.Generator().manual_seed(int(words((1,), 62, rng=rng)))
        before = logits.clone()
        calling = self.calling
        if calling.generator:
            ids = calling(logits, n, generator)
        else:
            seed = int(torch.randint(1 << 62, (1,), generator=generator, device=generator.device))
            ids = calling.seeded(logits, n, start(seed, logits.device))
        self._check_tokens(ids, logits.shape[-1])
        if not torch.equal(before, logits):
            raise InputError(
                f"logits changed in place by {self.name}", "logits left as they were", "clone them first"
            )
        return ids.long()

    @property
    def _takes_numpy(self) -> bool:
        """Whether it is a NumPy function: it has ``rng`` and no ``generator``."""
        try:
            names = inspect.signature(self.function).parameters
        except (TypeError, ValueError):
            return False
        return "rng" in names and "generator" not in names

    def _numpy_draws(self, logits: Tensor, n: int, rng: Rng) -> Tensor:
        """Draws of a NumPy function ``sample(logits, n, *, rng)``."""
        if isinstance(rng, torch.Generator):
            seed = int(torch.randint(1 << 62, (1,), generator=rng, device=rng.device))
            rng = np.random.default_rng(seed)
        given = logits.detach().cpu()
        if given.dtype is torch.bfloat16:
            given = given.float()
        ids = np.asarray(self.function(given.numpy().copy(), n, rng=rng))
        if ids.dtype.kind not in "iu" or ids.shape != (n, len(logits)):
            raise InputError(
                f"{ids.dtype} ids of shape {ids.shape} from {self.name}",
                f"integers (n, batch) = {(n, len(logits))}",
                "draw n tokens for each row of logits",
            )
        found = torch.from_numpy(ids.astype(np.int64))
        self._check_tokens(found, logits.shape[-1])
        return found.to(logits.device)

    def _check_tokens(self, ids: Tensor, vocab: int) -> None:
        if int(ids.min()) < 0 or int(ids.max()) >= vocab:
            raise InputError(
                f"ids {int(ids.min())}..{int(ids.max())} from {self.name}", f"0..{vocab - 1}", "check the axis"
            )

    def row_law(self, logits: Tensor) -> Law:
        return self.reading(logits).law(self.progress)

    def reading(self, logits: Tensor) -> Reading:
        """The function, read at one row of logits (vocab,) and confirmed by replay. InputError where it
        cannot be."""
        return read_function(self.calling, logits, self.draws)
