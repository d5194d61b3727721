"""Calls of a sampler, each watched: torch, NumPy and JAX functions behind one door, ids out as (n, rows) int64."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..devices import checked
from ..errors import InputError
from ..laws.law import Law
from ..samplers import FunctionSampler, Sampler, resolve
from ..types import Int

# n x rows x vocab of one call: a sampler that makes all its noise at once needs 32 MiB of doubles
MOST_VALUES = 1 << 22
LIBRARIES = {"generator": "torch", "rng": "numpy", "key": "jax"}


class Misbehaved(Exception):
    """A call that no sampler may answer so. ``what``: the fault in a few words; ``call``: Python that shows it."""

    def __init__(self, what: str, detail: str, call: str = "") -> None:
        super().__init__(f"{what}: {detail}")
        self.what, self.detail, self.call = what, detail, call


@dataclass
class Caller:
    """``draw(stream, logits, n)``: one generator for each stream, seeded by the stream's own number, goes
    on from call to call.

    ``arrays``: torch, numpy or jax, whose arrays the function is given; house: a Sampler of this package.
    ``spec``: what a user would type to get the sampler.  ``device``: where its tensors and its generator are.
    """

    sampler: Any
    arrays: str
    spec: str
    device: str = "cpu"

    def __post_init__(self) -> None:
        self._streams: dict[int, Any] = {}

    @staticmethod
    def of(
        sampler: str | Sampler | Callable[..., Any],
        library: str | None = None,
        spec: str | None = None,
        device: str = "cpu",
    ) -> Caller:
        """InputError where there is no such sampler, no argument to be random by, or no such device."""
        checked(device)
        found = resolve(sampler)
        if not isinstance(found, FunctionSampler):
            return Caller(found, "house", spec or found.name, device)
        arrays = library or library_by_name(found.function)
        if device != "cpu" and arrays != "torch":
            raise InputError(
                f"device {device} for a {arrays} function", "a torch function", "leave --device out"
            )
        return Caller(found.function, arrays, spec or found.name, device)

    def draw(self, stream: int, logits: np.ndarray, n: int) -> Int:
        """``n`` tokens for each row of ``logits``, (rows, vocab) float32. Returns (n, rows) int64, or
        raises Misbehaved."""
        if stream not in self._streams:
            self._streams[stream] = self.source(stream)
        return self.call(self._streams[stream], logits, n, stream)

    @property
    def lanes(self) -> int:
        """One: streams are drawn one after another."""
        return 1

    def law(self, logits: np.ndarray) -> Law:
        """The sampler's own law at one row, (vocab,) float32. InputError where it cannot be had."""
        if self.arrays not in ("torch", "house"):
            raise InputError(f"a {self.arrays} function", "torch operations, which can be read", "draws alone")
        sampler = resolve(self.sampler)
        return sampler.law(torch.from_numpy(logits.copy()).to(self.device))

    def probe(self, vocab: int, seed: int) -> None:
        """:func:`.misbehaviour.probe`."""
        from .misbehaviour import probe

        probe(self, vocab, seed)

    def source(self, seed: int) -> Any:
        """A fresh source of randomness of the sampler's library."""
        if self.arrays in ("torch", "house"):
            return torch.Generator(device=self.device).manual_seed(seed)
        return np.random.default_rng(seed) if self.arrays == "numpy" else _Keys(seed)

    def call(self, source: Any, logits: np.ndarray, n: int, seed: int) -> Int:
        """One call, its answer and its arguments checked. ``seed``: for the report only."""
        given = self._array(logits)
        try:
            ids = self._invoke(given, n, source)
        except InputError:
            if self.arrays == "house":  # ours refuse what they cannot hold: that is the input's fault
                raise
            raise self._fault("raises", "InputError", logits, n, seed) from None
        except Exception as error:
            raise self._fault(
                "raises", f"{type(error).__name__}: {str(error)[:300]}", logits, n, seed
            ) from None
        wrong = _wrong_answer(ids, n, logits)
        if not wrong and not np.array_equal(_numpy(given), logits):
            wrong = ("changes its logits in place", "they differ after the call")
        if wrong:
            raise self._fault(*wrong, logits, n, seed)
        return _numpy(ids).astype(np.int64)

    def _invoke(self, logits: Any, n: int, source: Any) -> Any:
        if self.arrays == "house":
            return self.sampler.draw(logits, n, rng=source)
        if self.arrays == "torch":
            return self.sampler(logits, n, generator=source)
        if self.arrays == "numpy":
            return self.sampler(logits, n, rng=source)
        return self.sampler(logits, n, key=source.next())

    def _array(self, logits: np.ndarray) -> Any:
        if self.arrays in ("torch", "house"):
            return torch.from_numpy(logits.copy()).to(self.device)
        return logits.copy() if self.arrays == "numpy" else _jax().numpy.asarray(logits)

    def _fault(self, what: str, detail: str, logits: np.ndarray, n: int, seed: int) -> Misbehaved:
        return Misbehaved(what, detail, self.shown(logits.shape, n, seed))

    def shown(self, shape: tuple[int, ...], n: int, seed: int) -> str:
        """A call to paste: the sampler on :func:`ramp` of the same shape."""
        made = f"logits = ramp{tuple(shape)}"
        if self.arrays in ("torch", "house"):
            moved = "" if self.device == "cpu" else f".to({self.device!r})"
            made = f"import torch; logits = torch.from_numpy(ramp{tuple(shape)}){moved}"
        elif self.arrays == "jax":
            made = f"import jax; logits = jax.numpy.asarray(ramp{tuple(shape)})"
        where = "" if self.device == "cpu" else repr(self.device)
        source = {
            "house": f"rng=torch.Generator({where}).manual_seed({seed})",
            "torch": f"generator=torch.Generator({where}).manual_seed({seed})",
            "numpy": f"rng=numpy.random.default_rng({seed})",
            "jax": f"key=jax.random.key({seed})",
        }[self.arrays]
        imports = "import numpy; " if self.arrays == "numpy" else ""
        method = "draw" if self.arrays == "house" else "function"
        return (
            f"{imports}from precision_lab import resolve; from precision_lab.verdict.caller import ramp; {made}; "
            f"print(resolve({self.spec!r}).{method}(logits, {n}, {source}))"
        )


def ramp(rows: int, vocab: int) -> np.ndarray:
    """(rows, vocab) float32: 0, -1/4, ..., -3/2 and again; every fourth -inf where 4 tokens or more leave
    others."""
    row = -0.25 * (np.arange(vocab) % 7).astype(np.float32)
    if vocab >= 4:
        row[::4] = -np.inf
    return np.tile(row, (rows, 1))


class _Keys:
    """A stream of JAX keys: every call gets a new one."""

    def __init__(self, seed: int) -> None:
        self.key = _jax().random.key(seed)

    def next(self) -> Any:
        self.key, sub = _jax().random.split(self.key)
        return sub


def _jax() -> Any:
    try:
        import jax
    except ImportError:
        raise InputError(
            "a sampler with a key, without JAX", "JAX installed", "pip install 'precision-lab[jax]'"
        ) from None
    return jax


def library_by_name(function: Callable[..., Any]) -> str:
    """By the name of the argument that is random; torch where the function takes any keyword."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return "torch"
    for name, library in LIBRARIES.items():
        if name in parameters:
            return library
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return "torch"
    got = f"{getattr(function, '__name__', 'a sampler')}({', '.join(parameters)})"
    remedy = "a sampler without one cannot be repeated from a seed: add it"
    raise InputError(got, "sample(logits, n, *, generator), or rng (NumPy), or key (JAX)", remedy)


def _wrong_answer(ids: Any, n: int, logits: np.ndarray) -> tuple[str, str] | None:
    """(what, detail) of an answer that is no (n, rows) array of token ids that can be drawn."""
    rows, vocab = logits.shape
    try:
        found = _numpy(ids)
    except Exception:
        found = None
    if found is None or found.dtype.kind not in "iu":
        kind = type(ids).__name__ if found is None else f"{type(ids).__name__} of {found.dtype}"
        return "wrong dtype", f"{kind} instead of integer token ids"
    if found.shape != (n, rows):
        return "wrong shape", f"{found.shape} instead of (n, batch) = {(n, rows)}"
    if found.min() < 0 or found.max() >= vocab:
        return "ids out of range", f"{found.min()}..{found.max()} instead of 0..{vocab - 1}"
    dead = np.isneginf(logits[np.arange(rows), found.astype(np.int64)])
    if dead.any():
        token = int(found[dead][0])
        return (
            "draws a token of probability zero",
            f"token {token}, whose logit is -inf, in {int(dead.sum())} of {dead.size} draws",
        )
    return None


def _numpy(array: Any) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        return array.detach().cpu().numpy()
    if isinstance(array, np.ndarray) or hasattr(array, "__array__"):
        return np.asarray(array)
    raise TypeError(type(array).__name__)
