"""The faithful sampler behind the signatures that people call.

| in place of | here |
|---|---|
| ``torch.multinomial(probs, n, replacement)`` | :func:`multinomial` |
| ``torch.distributions.Categorical(probs, logits).sample(shape)`` | :class:`Categorical` |
| LLaDA's ``add_gumbel_noise(logits, temperature)`` before an argmax | :func:`add_gumbel_noise` |
| MDLM's ``_sample_categorical(categorical_probs)`` | :func:`sample_categorical` |
| vLLM's ``random_sample(probs, generators)`` | :func:`random_sample` |
| a Hugging Face ``LogitsProcessor`` | :class:`DrawnToken` |
| ``numpy.random.Generator.choice`` over logits, row by row | :func:`numpy_categorical` |

The functions take NumPy arrays too, and then give arrays. ``generator``: a torch.Generator, or a
numpy.random.Generator, from which 62 bits are taken. Where none is given two words are drawn from torch's
default generator of the device, as the originals draw from it, so that ``torch.manual_seed`` holds; the
tokens for a seed are not those of the originals, whose words are used otherwise.

Probabilities need not sum to 1. Their law is m_i / sum m, m_i = rint(p_i 2^s) with the largest in [2^43,
2^44]: total variation at most vocab 2^-45 from p / sum p, and exact in whole numbers, independent of order,
batch and threads. A token below 2^-45 of the largest cannot come. That of logits is :func:`.categorical`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .categorical import categorical
from .weights import checked_weights, draw_weights
from .words import keys_of

Given = Tensor | np.ndarray
Generator = torch.Generator | np.random.Generator
Processor = Callable[[Tensor, Tensor], Tensor]


def multinomial(
    probs: Given, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Any:
    """``torch.multinomial``: (vocab,) or (rows, vocab) -> (num_samples,) or (rows, num_samples) int64.

    With replacement independent draws from m_i / sum m. Without, one after another: each from the masses of
    the weights that are left, scaled anew, so that P(i, then j) = p_i p_j / (1 - p_i) to within vocab
    2^-44. Errors: InputError for NaN, inf, negative weights, a row of zeros, num_samples < 1, and, without
    replacement, for more than there are weights above 0, where torch draws tokens of probability 0 or
    fails, by device.
    """
    given, back = _tensor("probs", probs)
    if given.dim() not in (1, 2):
        raise InputError(f"probs of shape {tuple(given.shape)}", "(vocab,) or (rows, vocab)", "reshape it")
    count = _count(num_samples)
    rows = checked_weights(given)
    keys = keys_of(_generator(generator, rows.device), len(rows))
    ids = draw_weights(rows, keys, np.arange(len(rows)), count, replacement=bool(replacement))
    return back(ids[:, 0] if given.dim() == 1 else ids.T.contiguous())


class Categorical(torch.distributions.Categorical):
    """``torch.distributions.Categorical`` whose draws are faithful: from ``logits`` by
    :func:`.categorical`, from ``probs`` by their integer masses. ``log_prob``, ``entropy`` and the rest are
    torch's own. Errors: InputError, which is a ValueError."""

    def __init__(
        self, probs: Tensor | None = None, logits: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        if (probs is None) == (logits is None):
            raise InputError("probs and logits both, or neither", "one of them", "leave one out")
        self._by_logits = logits is not None
        if probs is not None:
            checked_weights(probs)
        else:
            categorical(logits, 0, generator=torch.Generator())  # type: ignore[arg-type]
        super().__init__(probs=probs, logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Categorical:
        new = _instance or self.__new__(type(self))
        new._by_logits = self._by_logits
        return super().expand(batch_shape, _instance=new)

    def sample(self, sample_shape: Any = (), *, generator: Generator | None = None) -> Tensor:
        """(*sample_shape, *batch) int64, without gradients."""
        shape = torch.Size(sample_shape)
        values = self.logits if self._by_logits else self.probs
        source = _generator(generator, values.device)
        if self._by_logits:
            ids = categorical(values, shape.numel(), generator=source)
        else:
            rows = checked_weights(values)
            ids = draw_weights(rows, keys_of(source, len(rows)), np.arange(len(rows)), shape.numel())
        return ids.to(values.device).reshape(self._extended_shape(shape))


def add_gumbel_noise(
    logits: Given, temperature: float, is_mps: bool = False, *, generator: Generator | None = None
) -> Any:
    """LLaDA's: scores of the shape and dtype of ``logits`` whose argmax is a faithful draw from
    softmax(logits / T).

    Only the drawn token's logit is left, all else is -inf: they hold no noise, so a top-k of them is not a
    Gumbel-top-k. ``temperature`` 0: the logits themselves, as LLaDA has it. ``is_mps``: there in LLaDA's
    later signature; nothing here depends on it. Errors: InputError, as of :func:`.categorical`.
    """
    given, back = _tensor("logits", logits)
    if temperature == 0:
        categorical(given, 0, generator=torch.Generator())  # the same errors
        return logits
    source = _generator(generator, given.device)
    ids = categorical(given, generator=source, temperature=temperature)[0]
    return back(_only(given, ids))


def sample_categorical(categorical_probs: Given, *, generator: Generator | None = None) -> Any:
    """MDLM's ``_sample_categorical``: (..., vocab) -> (...) int64, a draw for each row. Errors: as of
    :func:`multinomial`.

    Where the rows hold r mu and the mask's 1 - r, :func:`~precision_lab.faithful.unmask_step` has the same
    law and reads only the rows of places that come.
    """
    given, back = _tensor("categorical_probs", categorical_probs)
    rows = checked_weights(given)
    keys = keys_of(_generator(generator, rows.device), len(rows))
    ids = draw_weights(rows, keys, np.arange(len(rows)), 1)[0]
    return back(ids.reshape(given.shape[:-1]))


def random_sample(
    probs: Given, generators: Mapping[int, torch.Generator], use_fp64_gumbel: bool = False
) -> Any:
    """vLLM's: (rows, vocab) -> (rows,) int64; ``generators``: those of the rows that have one of their own.

    A row with a generator draws the same in any batch and at any place in it; the others share torch's
    default generator, from which nothing is taken where every row has its own. ``probs`` is left as it is
    (vLLM divides in place). ``use_fp64_gumbel``: there in vLLM's later signature; nothing here depends on
    it. Errors: as of :func:`multinomial`, and for a row that is not.
    """
    given, back = _tensor("probs", probs)
    if given.dim() != 2:
        raise InputError(f"probs of shape {tuple(given.shape)}", "(rows, vocab)", "reshape it")
    if not isinstance(generators, Mapping):
        got = f"generators of type {type(generators).__name__}"
        raise InputError(got, "{row: torch.Generator}", "for rows without one, {}")
    rows = checked_weights(given)
    numbers = np.arange(len(rows))
    if stray := [row for row in generators if row not in range(len(rows))]:
        raise InputError(f"a generator for row {stray[0]!r} of {len(rows)}", "rows that there are", "drop it")
    keys = np.zeros((len(rows), 4), dtype=np.uint32)
    if len(generators) < len(rows):
        keys[:] = keys_of(_generator(None, rows.device), 1)
    for row, generator in generators.items():
        keys[row] = keys_of([generator], 1)[0]
        numbers[row] = 0
    return back(draw_weights(rows, keys, numbers, 1)[0])


class DrawnToken:
    """A ``LogitsProcessor`` of Hugging Face: (input_ids, scores) -> scores in which only the drawn token is
    finite, so that whatever ``generate`` does next, argmax or multinomial, takes it.

    ``generate`` runs its own temperature, top-k and top-p *after* the processors that it is given; they
    would come too late. So leave them out there (``temperature=1.0, top_k=0, top_p=1.0``), pass
    ``temperature`` here, and other processors, such as ``TopPLogitsWarper(0.95)``, as ``before``: they run
    first, in order, on scores over the temperature. ``generator``: as in this module; torch's default one
    for the device of the scores where it is None.
    """

    def __init__(
        self,
        temperature: float | None = None,
        *,
        before: Sequence[Processor] = (),
        generator: Generator | None = None,
    ) -> None:
        if temperature is not None and not 0 <= temperature < float("inf"):
            raise InputError(f"temperature {temperature}", "0 or more", "0 takes the largest score")
        if not all(callable(each) for each in before):
            raise InputError("something that cannot be called in before", "processors", "pass objects")
        self.temperature = temperature
        self.before = tuple(before)
        self.generator = generator

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(rows, length), (rows, vocab) -> (rows, vocab)."""
        temperature = self.temperature
        if temperature and self.before:  # the processors see what they would in ``generate``
            scores = scores / temperature
            temperature = None
        for process in self.before:
            scores = process(input_ids, scores)
        source = _generator(self.generator, scores.device)
        return _only(scores, categorical(scores, generator=source, temperature=temperature)[0])


def numpy_categorical(
    logits: np.ndarray, n: int = 1, *, rng: np.random.Generator, temperature: float | np.ndarray | None = None
) -> np.ndarray:
    """:func:`.categorical` of an array, (..., vocab) -> (n, ...) int64; 62 bits are taken from ``rng``."""
    if not isinstance(rng, np.random.Generator):
        got = f"rng of type {type(rng).__name__}"
        raise InputError(got, "numpy.random.Generator", "pass rng=np.random.default_rng(...)")
    given, _ = _tensor("logits", np.asarray(logits))
    heat = temperature if temperature is None else torch.as_tensor(temperature)
    return categorical(given, n, generator=_generator(rng, given.device), temperature=heat).numpy()


def _only(scores: Tensor, ids: Tensor) -> Tensor:
    """The scores with all but the tokens ``ids`` at -inf."""
    kept = ids[..., None]
    only = torch.full_like(scores, -torch.inf, requires_grad=False)
    return only.scatter(-1, kept, scores.detach().gather(-1, kept))


def _tensor(name: str, given: Given) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """What is given as a tensor, and what makes of a tensor the kind that was given."""
    if isinstance(given, Tensor):
        return given, lambda made: made.to(given.device)
    if not isinstance(given, np.ndarray):
        got = f"{name} of type {type(given).__name__}"
        raise InputError(got, "a tensor or an array", "use torch.as_tensor or np.asarray")
    native = given.dtype.newbyteorder("=")
    if native not in (np.float16, np.float32, np.float64):
        raise InputError(f"{name} of dtype {given.dtype}", "float16, float32 or float64", "convert it")
    plain = given.flags.writeable and given.flags.c_contiguous and given.dtype.isnative
    return torch.from_numpy(given if plain else given.astype(native, order="C")), Tensor.numpy


def _generator(generator: Generator | None, device: torch.device) -> torch.Generator:
    """The generator that words are taken from; None: torch's default one of the device."""
    if isinstance(generator, torch.Generator):
        return generator
    if isinstance(generator, np.random.Generator):
        return torch.Generator().manual_seed(int(generator.integers(0, 1 << 62)))
    if generator is not None:
        got = f"a generator of type {type(generator).__name__}"
        raise InputError(got, "a torch.Generator, a numpy.random.Generator or None", "pass generator=...")
    if device.type == "cuda":
        at = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[at]
    return torch.default_generator


def _count(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 1 <= n < 2**32:
        raise InputError(f"num_samples = {n!r}", "a whole number, at least 1", "ask for one")
    return int(n)
