"""Where a sampler's randomness comes from: one object for each stream, which goes on from call to call.

torch and NumPy generators are their own source. The others are here: numbers (``seed=``), JAX keys, a
generator for each row, and the global generators of torch, NumPy and Python.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..errors import InputError

SEED_BITS = 31  # what every library takes: NumPy's old generator refuses 2^32, a C int 2^31


class Seeds:
    """A number for each call, of 31 bits, from ``SeedSequence(stream)``.

    ``used``: the numbers handed out to all streams of one caller. None is given twice, so that a repeated
    call is the sampler's doing. ``first``: the number of the first call, where that is wanted exactly.
    """

    def __init__(self, stream: int, used: set[int], first: int | None = None) -> None:
        self._numbers = np.random.default_rng(np.random.SeedSequence(stream))
        self._used, self._first = used, first

    def next(self) -> int:
        if self._first is not None:
            seed = self._first
            self._first = None
            return seed
        while True:
            seed = int(self._numbers.integers(1 << SEED_BITS))
            if seed not in self._used:
                self._used.add(seed)
                return seed


class RowSeeds:
    """A list of numbers for each call, one a row. ``first``: those of the first call."""

    def __init__(self, stream: int, used: set[int], first: Sequence[int] | None = None) -> None:
        self._seeds = Seeds(stream, used)
        self._first = None if first is None else [int(seed) for seed in first]

    def next(self, rows: int) -> list[int]:
        if self._first is not None:
            seeds = self._first
            self._first = None
            return seeds
        return [self._seeds.next() for _ in range(rows)]


class RowGenerators:
    """A torch generator for each row, made when the row first comes, which then goes on.

    ``seeds``: of the rows, where they are wanted exactly; else from ``SeedSequence(stream)``.
    """

    def __init__(self, stream: int, device: str, seeds: Sequence[int] | None = None) -> None:
        self._numbers = np.random.default_rng(np.random.SeedSequence(stream))
        self._device = device
        self._generators: list[torch.Generator] = []
        for seed in seeds if seeds is not None else ():
            self._add(int(seed))

    def next(self, rows: int) -> list[torch.Generator]:
        while len(self._generators) < rows:
            self._add(int(self._numbers.integers(1 << 62)))
        return self._generators[:rows]

    def _add(self, seed: int) -> None:
        self._generators.append(torch.Generator(device=self._device).manual_seed(seed))


class Keys:
    """A stream of JAX keys: every call gets a new one."""

    def __init__(self, seed: int) -> None:
        self.key = jax_module().random.key(seed)

    def next(self) -> Any:
        self.key, sub = jax_module().random.split(self.key)
        return sub


class Globals:
    """The global generators of torch, NumPy and Python as ``manual_seed`` and the two ``seed`` leave them.

    Inside :meth:`installed` they are this stream's; afterwards they are as they were, and the stream has
    gone on.
    """

    def __init__(self, seed: int, device: str = "cpu") -> None:
        self._device = device
        kept = self._states()
        random.seed(seed)
        np.random.seed(seed % (1 << 32))  # noqa: NPY002
        torch.manual_seed(seed)
        self._own = self._states()
        self._install(kept)

    @contextmanager
    def installed(self) -> Iterator[None]:
        kept = self._states()
        self._install(self._own)
        try:
            yield
        finally:
            self._own = self._states()
            self._install(kept)

    def moved_since(self, before: dict[str, Any]) -> set[str]:
        """Names of the libraries whose generator this stream has used since ``before``, a :meth:`snapshot`."""
        return {name for name, state in self.snapshot().items() if state != before[name]}

    def snapshot(self) -> dict[str, Any]:
        """The states, comparable."""
        return {name: _comparable(state) for name, state in self._own.items()}

    def _states(self) -> dict[str, Any]:
        states: dict[str, Any] = {
            "Python": random.getstate(),
            "NumPy": np.random.get_state(),  # noqa: NPY002
            "torch": torch.get_rng_state(),
        }
        if self._device != "cpu":
            states[f"torch on {self._device}"] = torch.cuda.get_rng_state(self._device)
        return states

    def _install(self, states: dict[str, Any]) -> None:
        random.setstate(states["Python"])
        np.random.set_state(states["NumPy"])  # noqa: NPY002
        torch.set_rng_state(states["torch"])
        if self._device != "cpu":
            torch.cuda.set_rng_state(states[f"torch on {self._device}"], self._device)


def _comparable(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.numpy().tobytes()
    if isinstance(state, tuple):
        return tuple(_comparable(part) for part in state)
    return state.tobytes() if isinstance(state, np.ndarray) else state


def jax_module() -> Any:
    """JAX, or InputError where it is not installed."""
    try:
        import jax
    except ImportError:
        raise InputError(
            "a sampler with a key, without JAX", "JAX installed", "pip install 'precision-lab[jax]'"
        ) from None
    return jax
