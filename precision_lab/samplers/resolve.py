"""From what a user types to a sampler: a name in the table, ``file.py:fn``, ``module:fn``, or an entry point."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import final

import torch
from torch import Tensor

from ..errors import InputError, unknown_name
from ..laws.law import Law
from ..uniforms import Rng, words
from .sampler import Sampler, Stages

ENTRY_POINTS = "precision_lab.samplers"


@final
@dataclass(frozen=True)
class FunctionSampler(Sampler):
    """A user's plain function ``sample(logits, n, *, generator) -> ids``, checked at every call."""

    function: Callable[..., Tensor]

    @property
    def ceiling(self) -> float:
        return math.nan

    def bits_per_draw(self, vocab: int) -> float:
        return math.nan

    @property
    def emulated(self) -> str | None:
        return None

    def sample(self, logits: Tensor, n: int, *, rng: Rng) -> Tensor:
        generator = (
            rng if isinstance(rng, torch.Generator) else torch.Generator().manual_seed(int(words((1,), 62, rng=rng)))
        )
        before = logits.clone()
        ids = self.function(logits, n, generator=generator)
        rows, vocab = logits.shape
        if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex() or ids.dtype is torch.bool:
            got = f"{ids.dtype} ids" if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
            raise InputError(
                f"{got} from {self.name}", "an integer tensor of token ids", "return indices, such as argmax"
            )
        if tuple(ids.shape) != (n, rows):
            raise InputError(
                f"ids of shape {tuple(ids.shape)} from {self.name}",
                f"(n, batch) = {(n, rows)}",
                "draw n tokens for each row of logits (batch, vocab)",
            )
        if int(ids.min()) < 0 or int(ids.max()) >= vocab:
            raise InputError(
                f"ids {int(ids.min())}..{int(ids.max())} from {self.name}", f"0..{vocab - 1}", "check the axis"
            )
        if not torch.equal(before, logits):
            raise InputError(f"logits changed in place by {self.name}", "logits left as they were", "clone them first")
        return ids.long()

    def row_law(self, logits: Tensor) -> Law:
        raise InputError(
            f"{self.name}, a plain function",
            "a sampler whose arithmetic is declared",
            "its law cannot be computed; compare its draws with a known law",
        )


def resolve(sampler: str | Sampler | Callable[..., Tensor]) -> Sampler:
    """The sampler a user means. InputError, with the nearest names, if there is none."""
    from . import SAMPLERS

    if isinstance(sampler, Sampler):
        return sampler
    if callable(sampler):
        name = getattr(sampler, "__name__", type(sampler).__name__)
        return FunctionSampler(name, "user", getattr(sampler, "__module__", "?"), Stages.all("?"), sampler)
    if not isinstance(sampler, str):
        raise InputError(
            f"a sampler of type {type(sampler).__name__}", "a name, a Sampler or a function", "see ls samplers"
        )
    if sampler in SAMPLERS:
        return SAMPLERS[sampler]
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        if entry.name == sampler:
            loaded = entry.load()
            return loaded if isinstance(loaded, Sampler) else resolve(loaded)
    if ":" in sampler:
        return _from_code(sampler)
    raise unknown_name("sampler", sampler, SAMPLERS)


def _from_code(spec: str) -> Sampler:
    where, _, name = spec.rpartition(":")
    if where.endswith(".py") and not Path(where).is_file():
        raise InputError(f"no file {where}", "file.py:function", "check the path")
    try:
        module = _import_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:
        raise InputError(f"{where}: {type(error).__name__}: {error}", "code that imports", "mend it first") from error
    function = getattr(module, name, None)
    if isinstance(function, Sampler):
        return function
    if not callable(function):
        raise InputError(f"no function {name!r} in {where}", "sample(logits, n, *, generator)", "check the name")
    return FunctionSampler(spec, "user", where, Stages.all("?"), function)


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
