"""Calls of a speculative function, each watched: what it may return, and nothing more."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..devices import checked
from ..errors import InputError
from ..samplers import FunctionSampler, resolve
from ..types import Int
from .caller import Misbehaved
from .child import Child
from .misbehaviour import global_seed

END = -1  # in the places after the last token
SIGNATURE = (
    "fn(draft_logits, target_logits, n, *, generator) "
    "or fn(draft_logits, draft_ids, target_logits, *, generator)"
)
LIBRARIES = {"generator": "torch", "rng": "numpy"}


@dataclass
class SpeculativeCaller:
    """``speculate(seed, draft, target, n)``: one call with a fresh generator seeded ``seed``.

    The function drafts gamma tokens from the rows of ``draft_logits`` (gamma, vocab), keeps the first of them,
    and adds one of its own, by ``target_logits`` (gamma + 1, vocab); n trials, independent of each other:

        fn(draft_logits, target_logits, n, *, generator) -> (ids, accepted)
        fn(draft_logits, draft_ids, target_logits, *, generator) -> (ids, accepted)

    ``ids``: (n, gamma + 1) integers: the accepted drafts, one token more, then -1.  ``accepted``: (n,)
    0..gamma. ``draft_ids``: (n, gamma), drawn for the function, by whoever calls. A NumPy function takes
    ``rng`` in place of ``generator``. Logits are float32 of one sequence, and rows do not depend on the
    drafted tokens.
    """

    sampler: Callable[..., Any]
    arrays: str
    spec: str
    handed: bool
    device: str = "cpu"

    @staticmethod
    def of(
        function: str | Callable[..., Any],
        spec: str | None = None,
        device: str = "cpu",
        call: str | None = None,
    ) -> SpeculativeCaller:
        """InputError where there is no such function, or it does not take what is described above."""
        checked(device)
        if call is not None:
            raise InputError(f"a stated call, {call}, of a speculative function", SIGNATURE, "leave --call out")
        found = resolve(function)
        if not isinstance(found, FunctionSampler):
            raise InputError(f"the sampler {found.name}", SIGNATURE, "name a function")
        names = _parameters(found.function)
        library = next((LIBRARIES[name] for name in LIBRARIES if name in names), None)
        handed = "draft_ids" in names
        needed = {"draft_logits", "target_logits"} | (set() if handed else {"n"})
        if library is None or not needed <= names:
            raise InputError(f"{found.name}({', '.join(sorted(names))})", SIGNATURE, "wrap the function")
        if device != "cpu" and library != "torch":
            raise InputError(
                f"device {device} for a {library} function", "a torch function", "leave --device out"
            )
        return SpeculativeCaller(found.function, library, spec or found.name, handed, device)

    def takes_drafts(self) -> bool:
        """Whether the drafted tokens are handed over."""
        return self.handed

    def speculate(
        self, seed: int, draft: np.ndarray, target: np.ndarray, n: int, draft_ids: Int | None = None
    ) -> Int:
        """(n, gamma + 2) int64: ids, and in the last column how many were accepted. ``draft``: (gamma, vocab)
        float32, ``target``: (gamma + 1, vocab). ``draft_ids``: (n, gamma), where the function takes them.
        Misbehaved for an answer that no trial can give, whatever its law."""
        given = {"draft_logits": self._array(draft), "target_logits": self._array(target)}
        if self.handed:
            if draft_ids is None:
                raise InputError("no draft_ids", "the drafted tokens", "draw them first")
            given["draft_ids"] = self._array(draft_ids)
        else:
            given["n"] = n
        before = {name: _numpy(value).copy() for name, value in given.items() if name != "n"}
        keyword = "generator" if self.arrays == "torch" else "rng"
        try:
            answer = self.sampler(**given, **{keyword: self._source(seed)})
        except Exception as error:
            raise Misbehaved("raises", f"{type(error).__name__}: {str(error)[:300]}") from None
        for name, value in before.items():
            if not np.array_equal(_numpy(given[name]), value):
                raise Misbehaved("changes its arguments in place", f"{name} differs after the call")
        ids, accepted = _unpacked(answer)
        _check_answer(ids, accepted, n, len(draft), draft.shape[1], draft_ids if self.handed else None)
        return np.column_stack([ids, accepted]).astype(np.int64)

    def probe(self, seed: int) -> None:
        """Raises Misbehaved where the answer does not follow the generator, or a global one moves.

        64 trials of 2 drafts over 8 tokens of one probability: independent answers agree with probability
        8^-64 at most.
        """
        draft, target = np.zeros((2, 8), dtype=np.float32), np.zeros((3, 8), dtype=np.float32)
        ids = np.random.default_rng(seed).integers(0, 8, (64, 2)) if self.handed else None
        with global_seed(1):
            first = self.speculate(seed, draft, target, 64, ids)
            marker = _next_global()
        with global_seed(1):
            untouched = _next_global()
        with global_seed(2):
            again = self.speculate(seed, draft, target, 64, ids)
        with global_seed(1):
            other = self.speculate(seed + 1, draft, target, 64, ids)
        if marker != untouched:
            raise Misbehaved("uses the global random state", "the call moves a global generator")
        if not np.array_equal(first, again):
            raise Misbehaved("ignores its generator", f"two calls with seed {seed} give different answers")
        if np.array_equal(first, other):
            raise Misbehaved("ignores its generator", f"seeds {seed} and {seed + 1} give the same 64 trials")

    def _source(self, seed: int) -> Any:
        if self.arrays == "torch":
            return torch.Generator(device=self.device).manual_seed(seed)
        return np.random.default_rng(seed)

    def _array(self, values: np.ndarray) -> Any:
        return torch.from_numpy(values.copy()).to(self.device) if self.arrays == "torch" else values.copy()


class SpeculativeChild(Child):
    """A :class:`SpeculativeCaller` in a process of its own. What comes back is looked at again on this side."""

    kind = "speculative"

    def __enter__(self) -> SpeculativeChild:
        return self

    def takes_drafts(self) -> bool:
        answer = self.ask("takes_drafts")
        if not isinstance(answer, bool):
            raise self._malformed("takes_drafts")
        return answer

    def probe(self, seed: int) -> None:  # type: ignore[override]
        """:meth:`SpeculativeCaller.probe`."""
        self.ask("probe", seed)

    def speculate(
        self, seed: int, draft: np.ndarray, target: np.ndarray, n: int, draft_ids: Int | None = None
    ) -> Int:
        """:meth:`SpeculativeCaller.speculate`."""
        gamma, vocab = draft.shape
        shape = (n, gamma + 2)
        found = self.ask("speculate", seed, draft, target, n, draft_ids, _bytes=8 * math.prod(shape))
        if not isinstance(found, np.ndarray) or found.dtype != np.int64 or found.shape != shape:
            raise self._malformed("speculate")
        _check_answer(found[:, :-1], found[:, -1], n, gamma, vocab, draft_ids)
        return found

    def _shown(self) -> str:
        return f"from precision_lab.verdict.speculator import SpeculativeCaller; SpeculativeCaller.of({self.spec!r})"


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        raise InputError(
            f"{function!r}, whose signature cannot be read", SIGNATURE, "wrap the function"
        ) from None


def _next_global() -> tuple[float, ...]:
    """What the global generators of Python, NumPy and torch give next."""
    import random

    return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002


def _unpacked(answer: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Misbehaved("wrong answer", f"{type(answer).__name__} instead of (ids, accepted)")
    found = []
    for name, value in zip(("ids", "accepted"), answer, strict=True):
        try:
            array = _numpy(value)
        except Exception:
            raise Misbehaved("wrong dtype", f"{name}: {type(value).__name__} instead of integers") from None
        if array.dtype.kind not in "iu":
            raise Misbehaved("wrong dtype", f"{name}: {array.dtype} instead of integers")
        found.append(array.astype(np.int64))
    return found[0], found[1]


def _check_answer(
    ids: np.ndarray, accepted: np.ndarray, n: int, gamma: int, vocab: int, draft_ids: np.ndarray | None
) -> None:
    """Misbehaved unless every trial is accepted drafts, one token more, and nothing after it."""
    if ids.ndim == 2 and len(ids) == n and ids.shape[1] > gamma + 1:
        detail = f"{ids.shape[1]} places for {gamma} drafts and one token more"
        raise Misbehaved("returns more than it may", detail)
    if ids.shape != (n, gamma + 1) or accepted.shape != (n,):
        detail = f"ids {ids.shape}, accepted {accepted.shape} instead of {(n, gamma + 1)} and {(n,)}"
        raise Misbehaved("wrong shape", detail)
    wrong = (accepted < 0) | (accepted > gamma)
    if wrong.any():
        at = int(wrong.argmax())
        detail = f"trial {at} accepts {accepted[at]} of {gamma} drafts; {int(wrong.sum())} of {n} trials do so"
        raise Misbehaved("accepts more than was drafted", detail)
    place = np.arange(gamma + 1)
    used = place <= accepted[:, None]
    outside = used & ((ids < 0) | (ids >= vocab))
    beyond = ~used & (ids != END)
    for mask, what, said in (
        (outside, "accepted does not match ids", f"instead of a token 0..{vocab - 1}"),
        (beyond, "returns more than it may", f"instead of {END} after the last token"),
    ):
        if mask.any():
            trial, position = (int(i) for i in np.argwhere(mask)[0])
            detail = f"trial {trial} accepts {accepted[trial]} and has {ids[trial, position]} at place {position} {said}"
            raise Misbehaved(what, f"{detail}; {int(mask.any(axis=1).sum())} of {n} trials do so")
    if draft_ids is not None:
        changed = (place[:gamma] < accepted[:, None]) & (ids[:, :gamma] != draft_ids)
        if changed.any():
            trial, position = (int(i) for i in np.argwhere(changed)[0])
            detail = f"trial {trial} accepts {ids[trial, position]} at place {position}, drafted was "
            detail += f"{draft_ids[trial, position]}; {int(changed.any(axis=1).sum())} of {n} trials do so"
            raise Misbehaved("accepts what was not drafted", detail)


def _numpy(array: Any) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        return array.detach().cpu().numpy()
    if isinstance(array, np.ndarray):
        return array
    raise TypeError(type(array).__name__)
