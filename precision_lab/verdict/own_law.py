"""The sampler's own law of a use, where it can be had: the draws then confirm it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime

import numpy as np

from ..errors import InputError
from ..targets import Target, Use
from .caller import Misbehaved
from .child import Child
from .harm import Harm, harm_of

LONGEST = 120.0  # seconds for one law


class OwnLaw:
    """The laws of a sampler at ``rows``, (use, target), computed in a process of its own while others draw.

    ``wait(seconds)``: what was ready by then, and a sentence on why the rest was not.
    """

    def __init__(self, spec: str, rows: Sequence[tuple[Use, Target]], call: str | None = None) -> None:
        self._spec = spec
        self._rows = rows
        self._call = call
        self._child: Child | None = None
        self._found: list[Harm] = []
        self._pool = ThreadPoolExecutor(1)
        self._future: Future[None] = self._pool.submit(self._compute)

    def _compute(self) -> None:
        self._child = Child(self._spec, LONGEST, "cpu", self._call, threads=1)
        for use, target in self._rows:
            law = self._child.law(target.logits.astype(np.float32))
            self._found.append(harm_of(law, use, target))

    def wait(self, seconds: float) -> tuple[list[Harm], str]:
        started = time.monotonic()
        why = ""
        try:
            self._future.result(timeout=max(0.0, seconds))
        except NotInTime:
            why = f"its own law was not ready {time.monotonic() - started:.0f} s after the draws"
        except InputError as error:
            why = f"no law of its own: {error.got}"
        except Misbehaved as fault:
            why = f"no law of its own: {fault.what}"
        return list(self._found), why

    def close(self) -> None:
        """Ends the process, whatever it is at."""
        if self._child is not None:
            self._child.close()
        with contextlib.suppress(Exception):
            self._future.result(timeout=5)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> OwnLaw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
