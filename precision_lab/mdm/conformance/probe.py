"""A network by its table, and what a decoder's questions to it and its answer are read as."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...laws.law import Law
from ...statistics._checks import check_open_unit, check_whole
from ...types import Float, Guarantee

# (network, *, batch, length, rng) -> (batch, length) token ids, a tensor or an array
Decode: TypeAlias = Callable[..., Any]
Ids: TypeAlias = tuple[int, ...]  # places, or tokens
State: TypeAlias = tuple[int, ...]  # (length,) ids, the mask among them
_LARGEST = 1 << 24  # numbers in a probe's table: 134 MB


@dataclass(frozen=True)
class ProbeConfig:
    vocab: int
    timed: bool = True

    @property
    def mask_id(self) -> int:
        return self.vocab


@dataclass
class Probe:
    """A network by its table: a random prediction at every position of every partly masked state, the same
    at all times.

    ``asked``: the (tokens, t) of every call. ``hidden(tokens, t)`` gives places in the table, ``log_probs``
    looks there; on the CPU, with answers on the device of the question. InputError for a table of more than
    2^24 numbers.
    """

    length: int
    vocab: int
    seed: int = 0
    asked: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        states = (check_whole("vocab", self.vocab, 1) + 1) ** check_whole("length", self.length, 1)
        if states * self.length * self.vocab > _LARGEST:
            got = f"a probe of {self.length} positions of {self.vocab} tokens, {states:.3g} states"
            raise InputError(
                got, f"a table of at most {_LARGEST} numbers", "length = vocab = 3 shows most mistakes"
            )
        self.config = ProbeConfig(self.vocab)
        self.place = (self.vocab + 1) ** torch.arange(self.length)
        logits = np.random.default_rng(self.seed).normal(size=(states * self.length, self.vocab))
        self.table = torch.log_softmax(torch.from_numpy(logits), dim=-1)

    def hidden(self, tokens: Tensor, t: Tensor) -> Tensor:
        state = tokens.detach().clone().cpu()
        self.asked.append((state, torch.as_tensor(t, dtype=torch.float64).expand(len(tokens)).clone().cpu()))
        return self.answer(state).to(tokens.device)

    def answer(self, tokens: Tensor) -> Tensor:
        return (tokens * self.place).sum(-1, keepdim=True) * self.length + torch.arange(self.length)

    def log_probs(self, hidden: Tensor) -> Tensor:
        return self.table[hidden.cpu()].to(hidden.device)

    def mu(self, state: State) -> Float:
        """(length, vocab): the predictions at a state."""
        found: Float = self.log_probs(self.answer(torch.tensor([state])))[0].exp().numpy()
        return found

    def states(self) -> Iterator[State]:
        """Every state with a mask in it, those with more of them first."""
        all_states = itertools.product(range(self.vocab + 1), repeat=self.length)
        masked = [state for state in all_states if self.vocab in state]
        return iter(sorted(masked, key=lambda state: -state.count(self.vocab)))

    def start(self) -> State:
        """All masks."""
        return (self.vocab,) * self.length

    def law(self) -> Law:
        """The exact law of the final sequence, (vocab^length,), the first position the slowest: with k
        masked, each of them is next with probability 1/k and its token comes from the prediction."""
        mask, law = self.vocab, {self.start(): 1.0}
        for k in range(self.length, 0, -1):
            after: dict[State, float] = {}
            for state, p in law.items():
                mu = self.mu(state)
                for l in (l for l, token in enumerate(state) if token == mask):
                    for token in range(mask):
                        to = (*state[:l], token, *state[l + 1 :])
                        after[to] = after.get(to, 0.0) + p / k * float(mu[l, token])
            law = after
        return self.law_of_texts(law, "every order and every token")

    def law_of_texts(self, law: Mapping[State, float], how: str) -> Law:
        """The law of final texts by their codes, see :func:`codes_of`."""
        texts = itertools.product(range(self.vocab), repeat=self.length)
        probs = np.array([law.get(text, 0.0) for text in texts])
        return Law.from_probs(probs, how, 1e-13, Guarantee.CERTIFIED)


def checked_size(batch: int, false_fail: float, verdicts: int) -> float:
    """The level of each of so many verdicts. InputError for a batch that is not even, or a rate that is
    none."""
    each = check_open_unit("false_fail", false_fail) / verdicts
    if check_whole("batch", batch, 2) % 2:
        raise InputError(f"batch = {batch}", "an even number", "rows are compared in pairs")
    return each


def ids_of(tokens: object) -> Tensor:
    """What a decoder returned, on the CPU."""
    try:
        found = torch.as_tensor(tokens).cpu()
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or found.is_floating_point() or found.is_complex():
        got = type(tokens).__name__ if found is None else str(found.dtype)
        raise InputError(f"decode() that returns {got}", "(batch, length) token ids", "return its tokens")
    return found.long()


def codes_of(tokens: Tensor, vocab: int) -> np.ndarray:
    """(batch,) numbers of whole texts, the first position the slowest."""
    length = tokens.shape[1]
    found: np.ndarray = (tokens * vocab ** torch.arange(length - 1, -1, -1)).sum(1).numpy()
    return found
