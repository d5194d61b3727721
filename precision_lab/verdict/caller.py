"""Calls of a sampler, each watched: torch, NumPy and JAX functions behind one door, ids out as (n, rows)
int64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..devices import checked
from ..errors import InputError, described
from ..samplers import FunctionSampler, Sampler, resolve
from ..types import Float, Int
from .conventions import GRAMMAR, SETTINGS, Convention, of_call, of_signature
from .sources import Globals, Keys, RowGenerators, RowSeeds, Seeds, jax_module

# n x rows x vocab of one call: a sampler that makes all its noise at once needs 32 MiB of doubles
MOST_VALUES = 1 << 22
# how the logits of one call lie in memory; "one row" is 1-D, the others are (rows, vocab)
LAYOUTS = ("plain", "column view", "every other", "expanded", "one row")
DTYPES = ("float16", "bfloat16", "float32", "float64")
MOSTLY = 0.5  # share of draws of masked tokens from which logits were taken for probabilities
PER_ROW = {"seeds", "generators"}  # randomness that a row has for itself


class Misbehaved(Exception):
    """A call that no sampler may answer so. ``what``: the fault in a few words; ``call``: Python that shows
    it."""

    def __init__(self, what: str, detail: str, call: str = "") -> None:
        super().__init__(f"{what}: {detail}")
        self.what, self.detail, self.call = what, detail, call


@dataclass
class Caller:
    """``draw(stream, logits, n)``: one generator for each stream, seeded by the stream's own number, goes
    on from call to call.

    ``arrays``: torch, numpy or jax, whose arrays the function is given; house: a Sampler of this package.
    ``spec``: what a user would type to get the sampler.  ``device``: where its tensors and its generator
    are. ``convention``: how the function is called; None for a Sampler of this package.  ``stated``: its
    text, if the user said it.

    A function that is not told a number of draws is called once for each, with the rows as they are: draws
    of one row then come from calls of their own, so that what rows share within a call is not taken for a
    dependence of draws.
    """

    sampler: Any
    arrays: str
    spec: str
    device: str = "cpu"
    convention: Convention | None = None
    stated: str | None = None

    def __post_init__(self) -> None:
        self._streams: dict[int, Any] = {}
        self._seeds: set[int] = set()
        self._forms: dict[str, str] | None = None
        # global generators that a function without a random argument was seen to use
        self._moved: set[str] = set()
        # those that a function with a seed was seen to move
        self.touched: list[str] = []
        self._arrays_settled = self.convention is None or self.convention.arrays_known

    @staticmethod
    def of(
        sampler: str | Sampler | Callable[..., Any],
        library: str | None = None,
        spec: str | None = None,
        device: str = "cpu",
        call: str | None = None,
        constants: Mapping[str, Any] | None = None,
    ) -> Caller:
        """``library``: torch, numpy or jax, where the arguments' names do not tell. ``call``: how the
        function is called, see :data:`~.conventions.GRAMMAR`; else its signature is read, and ``constants``
        are given by name every time.

        InputError where there is no such sampler, no way known to call it, or no such device.
        """
        checked(device)
        found = resolve(sampler)
        if not isinstance(found, FunctionSampler):
            if call is not None or constants:
                raise InputError(
                    f"a call of {found.name} or settings for it", "a function of yours", "leave them out"
                )
            return Caller(found, "house", spec or found.name, device)
        name = spec or found.name
        if call is None:
            convention = of_signature(found.function, name, library, constants)
        elif constants:
            raise InputError("a stated call and settings beside it", "one of them", "write them into the call")
        else:
            convention = of_call(call, found.function, name)
        if device != "cpu" and convention.arrays != "torch":
            raise InputError(
                f"device {device} for a {convention.arrays} function", "a torch function", "leave --device out"
            )
        stated = convention.text if call is not None or constants else None
        return Caller(found.function, convention.arrays, name, device, convention, stated)

    @property
    def random(self) -> str:
        """generator, generators, rng, key, seed, seeds, or global: where the sampler has its randomness
        from."""
        return "generator" if self.convention is None else self.convention.random

    @property
    def takes(self) -> frozenset[str]:
        """Of temperature, top_k, top_p, min_p and seed, those that the sampler takes as one value for each row.

        Where no annotation says so, small calls are tried.
        """
        if self.convention is None:
            return frozenset()
        found = {name for name, form in self._forms_of_settings().items() if form == "row"}
        return frozenset(found | ({"seed"} if self.random in PER_ROW else set()))

    @property
    def note(self) -> str:
        """How the sampler is called, where that is more than ``sample(logits, n, generator=generator)``;
        else empty."""
        convention = self.convention
        if convention is None:
            return ""
        said = []
        if self.random == "global":
            names = " and ".join(f"{name}'s" for name in sorted(self._moved)) or "a"
            said.append(f"draws from {names} global generator, which is seeded for it")
        elif self.random == "seed":
            said.append("a new seed every call")
            if self.touched:
                said.append(f"it moves the global state of {' and '.join(self.touched)}")
        elif self.random in PER_ROW:
            said.append("a seed or a generator of its own for every row")
        if convention.given != "logits":
            softmax = "softmax" if convention.given == "probs" else "log-softmax"
            said.append(f"given the {softmax} of the logits, taken in float64 and rounded to float32")
        if not convention.counted:
            said.append("one draw a call, so every draw of a row is from a call of its own")
        said += [
            f"{name} = {NEUTRAL.get(name, 'the vocabulary')}"
            for name in SETTINGS
            if name in self._given_always()
        ]
        return f"called as {convention.text}: {'; '.join(said)}" if said else ""

    def draw(
        self, stream: int, logits: np.ndarray, n: int, settings: Mapping[str, np.ndarray] | None = None
    ) -> Int:
        """``n`` tokens for each row of ``logits``, (rows, vocab) float32. Returns (n, rows) int64, or
        raises Misbehaved.

        ``settings``: values (rows,) of temperature, top_k, top_p, min_p and seed. Seeds begin every row
        anew, with the first draw of this call. InputError for a setting that the sampler does not take, or
        not for each row.
        """
        if stream not in self._streams:
            self._streams[stream] = self._stream(stream, self._seeds)
        return self.call(self._streams[stream], logits, n, stream, settings)

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
        """One call with a fresh source seeded ``seed``, that very number where the sampler takes a seed:
        (n, rows) int64, for logits (rows, vocab) float32. A sampler that is not told ``n`` is called that
        often, the source going on.

        ``settings``: as for :meth:`draw`.  ``layout``: one of :data:`LAYOUTS`; "one row" gives the first
        row as (vocab,), "expanded" gives the first row to all.  ``dtype``: one of :data:`DTYPES`, the
        logits rounded to it. Raises Misbehaved for a wrong answer; InputError for what the library or the
        sampler has no way to take.
        """
        return self.call(self.source(seed), logits, n, seed, settings, layout, dtype)

    @property
    def lanes(self) -> int:
        """One: streams are drawn one after another."""
        return 1

    def law(self, logits: np.ndarray) -> tuple[Float, float, str, str]:
        """The sampler's own law at one row, (vocab,) float32: log probabilities, their error, how, and what
        stands behind it. InputError where it cannot be had."""
        if self.arrays not in ("torch", "house"):
            raise InputError(f"a {self.arrays} function", "torch operations, which can be read", "draws alone")
        if self.stated is not None:
            raise InputError("a stated call", "a function that is read as it stands", "draws alone")
        found = resolve(self.sampler).law(torch.from_numpy(logits.copy()).to(self.device))
        return found.log_probs, found.error, found.how, str(found.guarantee)

    def probe(self, vocab: int, seed: int) -> None:
        """:func:`.misbehaviour.probe`."""
        from .misbehaviour import probe

        probe(self, vocab, seed)

    def source(self, seed: int) -> Any:
        """A fresh source of randomness of the sampler's kind; a function that takes a number gets ``seed``
        first."""
        if self.random == "seed":
            return Seeds(seed, set(), first=seed)
        return self._stream(seed, set())

    def _stream(self, seed: int, used: set[int]) -> Any:
        """``used``: numbers that no call is given again."""
        if self.arrays == "house" or self.random == "generator":
            return torch.Generator(device=self.device).manual_seed(seed)
        if self.random == "rng":
            return np.random.default_rng(seed)
        if self.random == "key":
            return Keys(seed)
        if self.random == "seed":
            return Seeds(seed, used)
        if self.random == "seeds":
            return RowSeeds(seed, used)
        if self.random == "generators":
            return RowGenerators(seed, self.device)
        return Globals(seed, self.device)

    def call(
        self,
        source: Any,
        logits: np.ndarray,
        n: int,
        seed: int,
        settings: Mapping[str, np.ndarray] | None = None,
        layout: str = "plain",
        dtype: str = "float32",
    ) -> Int:
        """Calls enough for ``n`` draws, their answers and their arguments checked. ``seed``: for the report
        only."""
        if not self._arrays_settled:
            self._try_libraries()
        self._refuse_form(layout, dtype, settings or {})
        given = self._laid_out(logits, layout, dtype)
        kept = _numpy(given).copy()
        asked = self._checked_settings(settings or {}, len(logits))
        source = self._reseeded(source, asked.pop("seed", None), seed)
        before = source.snapshot() if isinstance(source, Globals) and not self._moved else None
        cause: Exception | None = None
        ids: np.ndarray | None = None
        try:
            with source.installed() if isinstance(source, Globals) else nullcontext():
                ids = self._all_draws(given, logits, n, source, asked, layout, dtype)
            wrong = _wrong_ids(ids, logits)
        except _Raised as raised:
            error = raised.error
            own = isinstance(error, InputError)  # its text is for users of this package
            wrong = ("raises", "InputError" if own else described(error))
            cause = error
        except _WrongAnswer as answer:
            wrong = (answer.what, answer.detail)
        if before is not None:
            self._moved = source.moved_since(before)
            if not self._moved and (wrong is None or wrong[0] != "raises"):
                raise _nothing_random(self.spec)
        if wrong is None and not np.array_equal(_numpy(given), kept):
            wrong = ("changes its logits in place", "they differ after the call")
        if wrong is not None:
            wrong = (wrong[0], wrong[1] + self._hint(wrong[0], ids, logits))
            raise self._fault(*wrong, logits, n, seed, asked) from cause
        assert ids is not None
        return ids.astype(np.int64)

    def _hint(self, what: str, ids: np.ndarray | None, logits: np.ndarray) -> str:
        """For who took logits for probabilities: the logarithms of most have no meaning, and most draws are masked tokens."""
        if self.convention is None or self.convention.given != "logits" or "probability zero" not in what:
            return ""
        assert ids is not None
        dead = np.isneginf(logits[np.arange(len(logits)), ids.astype(np.int64)])
        if dead.mean() < MOSTLY:
            return ""
        return (
            "; it is given logits, so where it wants probabilities name its argument probs, or state the call"
        )

    def _refuse_form(self, layout: str, dtype: str, settings: Mapping[str, np.ndarray]) -> None:
        """InputError for a form that has no meaning for the convention: half-precision probabilities, of
        which rare tokens are lost before the sampler sees them, and one row as (vocab,) where each row has
        a generator or a setting."""
        if (
            self.convention is not None
            and self.convention.given != "logits"
            and dtype in ("float16", "bfloat16")
        ):
            raise InputError(f"{dtype} {self.convention.given}", "float32 or float64", "leave the dtype out")
        if layout == "one row" and (self.random in PER_ROW or settings):
            raise InputError(
                f"one row as (vocab,) for {self.spec}", "(batch, vocab), as rows have their own", "keep it 2-D"
            )

    def _all_draws(
        self,
        given: Any,
        logits: np.ndarray,
        n: int,
        source: Any,
        asked: Mapping[str, np.ndarray],
        layout: str,
        dtype: str,
    ) -> np.ndarray:
        """(n, rows): one call of a function that is told ``n``, else ``n`` calls."""
        rows, flat = len(logits), layout == "one row"
        if self.convention is None:
            try:
                return _draws(self.sampler.draw(given, n, rng=source), n, rows, flat)
            except (InputError, _WrongAnswer):  # ours refuse what they cannot hold: that is the input's fault
                raise
            except Exception as error:
                raise _Raised(error) from None
        weights = {
            name: _softmax(logits, name == "logprobs") for name in {"probs", "logprobs"} & self.convention.names
        }
        scope = self._scope(given, logits.shape, n, source, asked)
        for name, values in weights.items():
            # laid out anew for each call: such functions may write into what they are given
            scope[name] = lambda values=values: self._laid_out(values, layout, dtype)  # type: ignore[misc]
        without = self._left_out(asked)
        if self.convention.counted:
            return _draws(self._answer(scope, without), n, rows, flat)
        return np.stack([_column(self._answer(scope, without), rows, flat) for _ in range(n)])

    def _answer(self, scope: Mapping[str, Callable[[], Any]], without: frozenset[str]) -> Any:
        assert self.convention is not None
        positional, keywords = self.convention.arguments(scope, without)
        try:
            return self.convention.answer(self.sampler(*positional, **keywords))
        except Exception as error:
            raise _Raised(error) from None

    def _scope(
        self, given: Any, shape: tuple[int, ...], n: int, source: Any, asked: Mapping[str, np.ndarray]
    ) -> dict[str, Callable[[], Any]]:
        """What each name of a call stands for, but for probs and logprobs."""
        rows, vocab = shape
        scope: dict[str, Callable[[], Any]] = {
            "logits": lambda: given,
            "n": lambda: n,
            "batch": lambda: rows,
            "vocab": lambda: vocab,
        }
        assert self.convention is not None
        for name in ("g", "generator", "generators", "rng", "key", "seed", "seeds"):
            scope[name] = lambda: self._randomness(source, rows)
        if self.convention.settings:
            forms = self._forms_of_settings()
            for name in self.convention.settings:
                value = self._setting(name, forms[name], asked.get(name), rows, vocab)
                scope[name] = lambda value=value: value  # type: ignore[misc]
        return scope

    def _randomness(self, source: Any, rows: int) -> Any:
        """What the function is given of ``source`` in one call."""
        assert self.convention is not None
        if isinstance(source, Seeds | Keys):
            return source.next()
        if isinstance(source, RowSeeds):
            seeds = source.next(rows)
            return torch.tensor(seeds, device=self.device) if self.convention.rows_as == "tensor" else seeds
        if isinstance(source, RowGenerators):
            generators = source.next(rows)
            return dict(enumerate(generators)) if self.convention.rows_as == "dict" else generators
        return source

    def _reseeded(self, source: Any, seeds: np.ndarray | None, seed: int) -> Any:
        """The source of a call that states the seeds of its rows."""
        if seeds is None:
            return source
        if self.random == "seeds":
            return RowSeeds(seed, self._seeds, first=[int(each) for each in seeds])
        if self.random == "generators":
            return RowGenerators(seed, self.device, [int(each) for each in seeds])
        if self.random == "seed" and len({int(each) for each in seeds}) == 1:
            return Seeds(seed, self._seeds, first=int(seeds[0]))
        raise InputError(
            f"a seed for each row of {self.spec}",
            "a sampler that takes one for each",
            f"it takes {self.random}",
        )

    def _checked_settings(self, settings: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
        found = {}
        offered = self.convention.settings if self.convention is not None else frozenset()
        for name, values in settings.items():
            if name != "seed" and name not in offered:
                can = ", ".join(sorted(offered)) or "none"
                raise InputError(f"{name} for {self.spec}", f"a setting that it takes: {can}", "leave it out")
            found[name] = np.asarray(values)
            if found[name].shape != (rows,):
                raise InputError(
                    f"{name} of shape {found[name].shape}", f"one value for each row, ({rows},)", "repeat it"
                )
        return found

    def _setting(self, name: str, form: str, values: np.ndarray | None, rows: int, vocab: int) -> Any:
        """The value of one setting for a call, as one number or as an array (rows,)."""
        whole = name == "top_k"
        if values is None:
            values = np.full(rows, neutral(name, vocab))
        if form == "one":
            if (values != values[0]).any():
                raise InputError(
                    f"{name} {values.min()}..{values.max()} in one call of {self.spec}",
                    "one value, as it does not take one for each row",
                    "make them equal",
                )
            return int(values[0]) if whole else float(values[0])
        return self._array(values.astype(np.int64 if whole else np.float32))

    def _given_always(self) -> frozenset[str]:
        """Settings that are given at their neutral value where none is asked for."""
        return (
            self.convention.settings - self.convention.optional if self.convention is not None else frozenset()
        )

    def _left_out(self, asked: Mapping[str, np.ndarray]) -> frozenset[str]:
        return self.convention.optional - set(asked) if self.convention is not None else frozenset()

    def _forms_of_settings(self) -> dict[str, str]:
        """Each setting as "row" or "one": by its annotation, else the first that three small rows of seven
        tokens can be drawn with, "row" tried before "one"."""
        if self._forms is None:
            assert self.convention is not None
            names = sorted(self.convention.settings)
            choices = [
                [self.convention.forms[name]] if name in self.convention.forms else FORMS for name in names
            ]
            tries = sorted(itertools.product(*choices), key=lambda forms: forms.count("one"))
            self._forms = dict(zip(names, tries[-1], strict=True))
            if len(tries) > 1:
                for forms in tries:
                    if self._works(dict(zip(names, forms, strict=True))):
                        break
                else:
                    self._forms = dict(zip(names, tries[-1], strict=True))
        return self._forms

    def _works(self, forms: dict[str, str]) -> bool:
        """Whether a small call with every setting at its neutral value is answered well."""
        self._forms = forms
        asked = {name: np.full(3, neutral(name, 7)) for name in forms}
        return self._answers_well(asked)

    def _answers_well(self, asked: Mapping[str, np.ndarray]) -> bool:
        from .misbehaviour import global_seed

        logits = np.log(np.arange(1.0, 22.0)).reshape(3, 7).astype(np.float32)
        with global_seed(0):
            try:
                self.call(self.source(0), logits, 2, 0, asked)
            except Misbehaved:
                return False
        return True

    def _try_libraries(self) -> None:
        """torch's arrays where the function can draw from them, else NumPy's, where nothing else tells
        which it takes."""
        self._arrays_settled = True
        for arrays in ("torch", "numpy"):
            self.arrays = arrays
            if self.device != "cpu" or self._answers_well({}):
                return
        self.arrays = "torch"

    def _array(self, values: np.ndarray) -> Any:
        if self.arrays in ("torch", "house"):
            return torch.from_numpy(values.copy()).to(self.device)
        return values.copy() if self.arrays == "numpy" else jax_module().numpy.asarray(values)

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
            if self.arrays == "numpy":
                memory = np.full(shape, 8.0, array.dtype)
            else:
                memory = array.new_full(shape, 8.0)
            memory[::2, ::2] = array
            return memory[::2, ::2]
        return array

    def _fault(
        self,
        what: str,
        detail: str,
        logits: np.ndarray,
        n: int,
        seed: int,
        settings: Mapping[str, np.ndarray] | None = None,
    ) -> Misbehaved:
        return Misbehaved(what, detail, self.shown(logits.shape, n, seed, settings))

    def shown(
        self,
        shape: tuple[int, ...],
        n: int,
        seed: int,
        settings: Mapping[str, np.ndarray] | None = None,
    ) -> str:
        """A call to paste: the sampler on :func:`ramp` of the same shape, with its first seed."""
        moved = "" if self.device == "cpu" else f".to({self.device!r})"
        where = "" if self.device == "cpu" else f"{self.device!r}"
        ramped = f"ramp{tuple(shape)}"
        imports = ["from precision_lab import resolve", "from precision_lab.verdict.caller import ramp"]
        if self.arrays in ("torch", "house"):
            lines = ["import torch", *imports, f"logits = torch.from_numpy({ramped}){moved}"]
        elif self.arrays == "jax":
            lines = ["import jax", *imports, f"logits = jax.numpy.asarray({ramped})"]
        else:
            lines = ["import numpy", *imports, f"logits = {ramped}"]
        found = f"resolve({self.spec!r})"
        if self.convention is None:
            call = f"{found}.draw(logits, {n}, rng=torch.Generator({where}).manual_seed({seed}))"
            return "; ".join([*lines, f"print({call})"])
        code, prelude = self._code(shape, n, seed, settings or {}, where)
        without = self._left_out(settings or {})
        if self.convention.counted or n == 1:
            call = self.convention.written(f"{found}.function", code, without)
        else:
            prelude.append(f"function = {found}.function")
            call = f"[{self.convention.written('function', code, without)} for _ in range({n})]"
        return "; ".join([*lines, *prelude, f"print({call})"])

    def _code(
        self,
        shape: tuple[int, ...],
        n: int,
        seed: int,
        settings: Mapping[str, np.ndarray],
        where: str,
    ) -> tuple[dict[str, str], list[str]]:
        """Python for each name of a call, and lines that come before it."""
        assert self.convention is not None
        rows, vocab = shape
        again = not self.convention.counted and n > 1
        code = {"logits": "logits", "n": str(n), "batch": str(rows), "vocab": str(vocab)}
        code |= {"probs": _SOFTMAX[self.arrays].format("softmax")}
        code["logprobs"] = _SOFTMAX[self.arrays].format("log_softmax")
        seeds = settings.get("seed")
        numbers = [int(each) for each in seeds] if seeds is not None else [seed + row for row in range(rows)]
        listed = ", ".join(f"torch.Generator({where}).manual_seed({each})" for each in numbers)
        random = {
            "generator": f"torch.Generator({where}).manual_seed({seed})",
            "rng": f"numpy.random.default_rng({seed})",
            "key": f"jax.random.split(jax.random.key({seed}))[1]",
            "seed": str(numbers[0] if seeds is not None else seed),
            "seeds": f"torch.tensor({numbers})" if self.convention.rows_as == "tensor" else str(numbers),
            "generators": f"dict(enumerate([{listed}]))"
            if self.convention.rows_as == "dict"
            else f"[{listed}]",
            "global": "",
        }[self.random]
        prelude = []
        if self.arrays == "numpy" and {"probs", "logprobs"} & self.convention.names:
            prelude.append("import scipy.special")
        if self.random == "global":
            prelude += ["import random, numpy, torch", f"random.seed({seed})"]
            prelude += [f"numpy.random.seed({seed % (1 << 32)})", f"torch.manual_seed({seed})"]
        elif self.random in ("generator", "rng", "generators") and again:
            prelude.append(f"source = {random}")
            random = "source"
        elif again:  # a number or a key for each call
            prelude.append(f"source = iter({self._several(seed, n, rows, random)})")
            random = "next(source)"
        code |= dict.fromkeys(("g", "generator", "generators", "rng", "key", "seed", "seeds"), random)
        forms = self._forms or dict.fromkeys(self.convention.settings, "one")
        for name in self.convention.settings:
            values = settings.get(name)
            plain = [neutral(name, vocab)] * rows if values is None else values.tolist()
            array = {"torch": "torch.tensor", "numpy": "numpy.array", "jax": "jax.numpy.array"}[self.arrays]
            code[name] = repr(plain[0]) if forms[name] == "one" else f"{array}({plain})"
        return code, prelude

    def _several(self, seed: int, n: int, rows: int, first: str) -> str:
        """Python for the randomness of ``n`` calls, where each call has its own."""
        if self.random == "key":
            return f"jax.random.split(jax.random.key({seed}), {n})"
        if self.random == "seed":
            return f"range({first}, {first} + {n})"
        return f"[[seed * {rows} + row for row in range({rows})] for seed in range({seed}, {seed} + {n})]"


# settings that change nothing; of top_k it is the vocabulary
NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0}
FORMS = ["row", "one"]
_SOFTMAX = {
    "torch": "logits.double().{}(-1).float()",
    "numpy": "scipy.special.{}(logits.astype(float), -1).astype('float32')",
    "jax": "jax.nn.{}(logits)",
}


def neutral(setting: str, vocab: int) -> float:
    """The value of a setting with which the law is the softmax of the logits."""
    return vocab if setting == "top_k" else NEUTRAL[setting]


def ramp(rows: int, vocab: int) -> np.ndarray:
    """(rows, vocab) float32: 0, -1/4, ..., -3/2 and again; every fourth -inf where 4 tokens or more leave
    others."""
    row = -0.25 * (np.arange(vocab) % 7).astype(np.float32)
    if vocab >= 4:
        row[::4] = -np.inf
    return np.tile(row, (rows, 1))


class _Raised(Exception):
    """``error``: what the sampler raised."""

    def __init__(self, error: Exception) -> None:
        super().__init__(described(error))
        self.error = error


class _WrongAnswer(Exception):
    """An answer whose dtype or shape is not that of token ids."""

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(what)
        self.what, self.detail = what, detail


def _softmax(logits: np.ndarray, log: bool) -> np.ndarray:
    """Row by row in float64, rounded to float32."""
    from scipy import special

    taken = special.log_softmax if log else special.softmax
    return taken(logits.astype(np.float64), axis=-1).astype(np.float32)


def _nothing_random(spec: str) -> InputError:
    return InputError(
        f"{spec}, which is given nothing random and leaves the global generators of torch, NumPy and Python as they are",
        "sample(logits, n, *, generator), or rng (NumPy), key (JAX), seed, or a use of a global generator",
        "a sampler that is always the same, or has its randomness from elsewhere, cannot be repeated from a seed: "
        f"add one of these, or say how to call it (--call, or call=): {GRAMMAR}",
    )


def _integers(ids: Any) -> np.ndarray:
    try:
        found = _numpy(ids)
    except Exception:
        found = None
    if found is None or found.dtype.kind not in "iu":
        kind = type(ids).__name__ if found is None else f"{type(ids).__name__} of {found.dtype}"
        raise _WrongAnswer("wrong dtype", f"{kind} instead of integer token ids")
    return found


def _draws(ids: Any, n: int, rows: int, flat: bool = False) -> np.ndarray:
    """(n, rows) of a function that is told ``n``; ``flat``: of one that is given (vocab,), whose answer may
    be (n,)."""
    found = _integers(ids)
    if flat and found.shape == (n,):
        found = found[:, None]
    if found.shape != (n, rows):
        detail = f"{found.shape} instead of (n, batch) = {(n, rows)}"
        if found.shape == (rows, n):
            detail += "; where (batch, n) is meant, a stated call that ends in .T says so"
        raise _WrongAnswer("wrong shape", detail)
    return found


def _column(ids: Any, rows: int, flat: bool = False) -> np.ndarray:
    """(rows,) of a function that makes one draw a call, whose answer may also be (rows, 1); ``flat``: of
    one that is given (vocab,), whose answer may be a number."""
    found = _integers(ids)
    if found.shape not in ((rows,), (rows, 1)) and not (flat and found.shape == ()):
        raise _WrongAnswer("wrong shape", f"{found.shape} instead of (batch,) or (batch, 1), batch = {rows}")
    return found.reshape(rows)


def _wrong_answer(ids: Any, n: int, logits: np.ndarray) -> tuple[str, str] | None:
    """(what, detail) of an answer that is no (n, rows) array of token ids that can be drawn."""
    try:
        return _wrong_ids(_draws(ids, n, len(logits)), logits)
    except _WrongAnswer as wrong:
        return wrong.what, wrong.detail


def _wrong_ids(found: np.ndarray, logits: np.ndarray) -> tuple[str, str] | None:
    """(what, detail) of ids (n, rows) that are no tokens, or tokens that cannot be drawn."""
    rows, vocab = logits.shape
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
