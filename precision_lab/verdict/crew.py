"""Several processes of one sampler, so that its streams are drawn on several cores at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from ..types import Int
from .child import Child

T = TypeVar("T")
MOST = 2  # processes: each imports torch and the user's model


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Crew:
    """A :class:`~.child.Child` for every lane; stream s is drawn by lane s modulo their number, always.

    ``spec``, ``code``: of the first child. Errors as of Child. On a GPU there is one lane.
    """

    def __init__(
        self,
        spec: str,
        timeout: float,
        device: str = "cpu",
        call: str | None = None,
        *,
        lanes: int | None = None,
    ) -> None:
        count = (min(cores(), MOST) if device == "cpu" else 1) if lanes is None else lanes
        self._children: list[Child] = []
        # side by side they share the cores: more threads than cores wait for each other
        threads = None if count == 1 else max(1, cores() // count)

        def child() -> Child:
            return Child(spec, timeout, device, call, threads=threads)

        try:
            with ThreadPoolExecutor(count) as pool:
                started = [pool.submit(child) for _ in range(count)]
            errors = [each.exception() for each in started]
            self._children = [each.result() for each in started if each.exception() is None]
            for error in errors:
                if error is not None:
                    raise error
        except BaseException:
            self.close()
            raise
        self.spec = spec
        self.device = device
        self.stated = call
        self.code = self.first.code

    @property
    def lanes(self) -> int:
        return len(self._children)

    @property
    def first(self) -> Child:
        """The child that answers what is asked once."""
        return self._children[0]

    @property
    def takes(self) -> frozenset[str]:
        return self.first.takes

    @property
    def arrays(self) -> str:
        return self.first.arrays

    @property
    def note(self) -> str:
        return self.first.note

    def probe(self, vocab: int, seed: int) -> None:
        """Every child: what the probe finds out about its sampler, each must know."""
        by_lane(lambda lane: self._children[lane].probe(vocab, seed), self.lanes)

    def draw(self, stream: int, logits: np.ndarray, n: int) -> Int:
        """May be called from a thread for each lane, each with its own streams."""
        return self._children[stream % self.lanes].draw(stream, logits, n)

    def fresh(self, seed: int, logits: np.ndarray, n: int, **options: Any) -> Int:
        return self.first.fresh(seed, logits, n, **options)

    def close(self) -> None:
        for child in self._children:
            child.close()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def by_lane(work: Callable[[int], T], lanes: int) -> list[T]:
    """``work(lane)`` of every lane, at once; the first error of the lowest lane is raised after all have
    ended."""
    if lanes == 1:
        return [work(0)]
    with ThreadPoolExecutor(lanes) as pool:
        return [each.result() for each in [pool.submit(work, lane) for lane in range(lanes)]]
