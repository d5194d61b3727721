"""Calls of a sampler, each watched: torch, NumPy and JAX functions behind one door, ids out as (n, rows) int64."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..devices import checked
from ..errors import InputError
from ..samplers import FunctionSampler, Sampler, resolve
from ..types import Int

# n x rows x vocab of one call: a sampler that makes all its noise at once needs 32 MiB of doubles
MOST_VALUES = 1 << 22
LIBRARIES = {"generator": "torch", "rng": "numpy", "key": "jax"}
# how the logits of one call lie in memory; "one row" is 1-D, the others are (rows, vocab)
LAYOUTS = ("plain", "column view", "every other", "expanded", "one row")
DTYPES = ("float16", "bfloat16", "float32", "float64")


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
    ``takes``: names of the settings by row that the sampler takes: temperature, top_k, top_p, min_p, seed.
    """

    sampler: Any
    arrays: str
    spec: str
    device: str = "cpu"
    takes: frozenset[str] = frozenset()

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

    def fresh(
        self,
        seed: int,
        logits: np.ndarray,
        n: int,
        *,
        settings: Mapping[str, np.ndarray] | None = None,
        layout: str = "plain",
        dtype: str = "float32",
    ) -> Int:
        """One call with a fresh source seeded ``seed``: (n, rows) int64, for logits (rows, vocab) float32.

        ``settings``: (rows,) of each of :attr:`takes` that is given.  ``layout``: one of :data:`LAYOUTS`; "one row"
        gives the first row as (vocab,), "expanded" gives the first row to all.  ``dtype``: one of :data:`DTYPES`, the
        logits rounded to it.
        Raises Misbehaved for a wrong answer; InputError for what the library or the sampler has no way to take.
        """
        if unknown := sorted(set(settings or {}) - self.takes):
            taken = ", ".join(sorted(self.takes)) or "no settings by row"
            raise InputError(f"{', '.join(unknown)} for {self.spec}", taken, "leave them out")
        given = self._laid_out(logits, layout, dtype)
        return self._answer(self.source(seed), given, logits, n, seed)

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
        return self._answer(source, self._array(logits), logits, n, seed)

    def _answer(self, source: Any, given: Any, logits: np.ndarray, n: int, seed: int) -> Int:
        """The answer to ``given``, the logits as the sampler's library has them."""
        before = _numpy(given).copy()
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
        if before.ndim == 1 and getattr(ids, "shape", None) == (n,):
            ids = ids[:, None]
        wrong = _wrong_answer(ids, n, logits)
        if not wrong and not np.array_equal(_numpy(given), before):
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

    def _laid_out(self, logits: np.ndarray, layout: str, dtype: str) -> Any:
        """The logits in this layout and dtype. InputError where the library has none such."""
        if layout not in LAYOUTS or dtype not in DTYPES:
            raise InputError(f"{layout}, {dtype}", f"one of {LAYOUTS} and of {DTYPES}", "see Caller.fresh")
        if self.arrays == "jax" and layout not in ("plain", "one row"):
            raise InputError(f"{layout} in JAX", "a library whose arrays have strides", "leave it out")
        if self.arrays == "numpy" and dtype == "bfloat16":
            raise InputError("bfloat16 in NumPy", "float16, float32 or float64", "leave it out")
        array: Any
        if self.arrays == "numpy":
            array = logits.astype(dtype)
        elif self.arrays == "jax":
            array = self._array(logits).astype(dtype)
        else:
            array = self._array(logits).to(getattr(torch, dtype))
        if layout == "one row":
            return array[0]
        if layout == "column view":
            columns = array.T.copy() if self.arrays == "numpy" else array.t().contiguous()
            return columns.T
        if layout == "expanded":
            first = array[:1]
            return np.broadcast_to(first, array.shape) if self.arrays == "numpy" else first.expand(array.shape)
        if layout == "every other":
            # what lies between is likelier than any token that is meant
            rows, vocab = array.shape
            shape = (2 * rows, 2 * vocab)
            numpy = self.arrays == "numpy"
            memory = np.full(shape, 8.0, array.dtype) if numpy else array.new_full(shape, 8.0)
            memory[::2, ::2] = array
            return memory[::2, ::2]
        return array

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
        plain = array.detach().cpu()
        return plain.float().numpy() if plain.dtype == torch.bfloat16 else plain.numpy()
    if isinstance(array, np.ndarray) or hasattr(array, "__array__"):
        return np.asarray(array)
    raise TypeError(type(array).__name__)
