"""One run of a function, written down: every torch operation, and what each value depends on.

The function runs for real, on real tensors; nothing is rewritten. A :class:`Value` is what a tensor held
between two writes, so that operations in place need no special case later: a write makes a new value, of
the tensor itself and of every tensor that shares its storage.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from ...errors import InputError

DECLARE = "declare its recipe (docs/your_function.md), or judge its draws: precision-lab check"
# Operations that look at a tensor's shape, or write over all of it, but at none of its numbers.
_SHAPE_ONLY = {
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like"),
    *("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"),
    *("exponential", "uniform", "normal", "geometric", "cauchy", "log_normal", "random", "fill", "zero"),
}
_READS = {"_local_scalar_dense", "is_nonzero", "equal"}
_LEAVES = {"numpy", "__array__", "__dlpack__", "tolist", "data_ptr"}


@dataclass(frozen=True)
class Depends:
    """What a value is a function of: the logits, the results of random operations (their numbers), or
    neither."""

    logits: bool = False
    random: frozenset[int] = frozenset()

    def __or__(self, other: Depends) -> Depends:
        return Depends(self.logits or other.logits, self.random | other.random)


@dataclass(eq=False)
class Value:
    """What one tensor held. ``kept``: a copy, of constants, of what meets a random value, of random results
    and of integers that depend on them; ``step``: None for logits and constants."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    contiguous: bool
    depends: Depends
    step: Step | None = None
    output: int = 0
    kept: Tensor | None = None
    stands_for: Value | None = None  # an index that this one was found to be, as behind a one-hot row

    @property
    def is_random(self) -> bool:
        return bool(self.depends.random)


@dataclass(eq=False)
class Step:
    """One operation. ``args`` and ``kwargs`` hold :class:`Value` where the call had tensors; ``name`` has
    no trailing _.

    The name "write" is no operation of torch's: its value is what a tensor holds (the first argument) after
    parts of its storage were written through other tensors (the others; where they lie is in ``kwargs``).
    """

    number: int
    operation: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    where: str
    outputs: list[Value] = field(default_factory=list)
    state: Tensor | None = None  # of the generator before the operation, kept for torch.multinomial

    @cached_property
    def inputs(self) -> list[Value]:
        return [leaf for leaf in tree_flatten((self.args, self.kwargs))[0] if isinstance(leaf, Value)]

    @cached_property
    def reads(self) -> list[Value]:
        """The inputs whose numbers enter the outputs: of a copy the source, of what only looks at a shape
        none."""
        if self.name in _SHAPE_ONLY:
            return self.inputs[1:] if self.name == "fill" else []
        return self.inputs[1:] if self.name == "copy" else self.inputs

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by place or by name, as the operation's schema has it."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def run(self, read: Callable[[Value], Tensor], **changed: Any) -> Any:
        """The same operation on other tensors; what it would write in place, it writes into a copy."""
        written = _written(self.operation)

        def given(key: int | str, leaf: Any) -> Any:
            if not isinstance(leaf, Value):
                return leaf
            tensor = read(leaf)
            return tensor.clone() if key in written else tensor

        args = [tree_map(lambda leaf, i=i: given(i, leaf), arg) for i, arg in enumerate(self.args)]
        kwargs = {
            key: tree_map(lambda leaf, key=key: given(key, leaf), arg) for key, arg in self.kwargs.items()
        }
        return self.operation(*args, **(kwargs | changed))


@dataclass(eq=False)
class Record:
    """``steps`` in order; ``result``: the value that came back; ``ids``: the tensor itself; ``random``: the
    random steps."""

    steps: list[Step]
    result: Value
    ids: Tensor

    @property
    def random(self) -> list[Step]:
        return [step for step in self.steps if is_random(step)]


Plant = Callable[[Step, Tensor], None]


def is_random(step: Step) -> bool:
    """Whether the operation draws from a generator."""
    return _draws(step.operation)


@lru_cache(maxsize=4096)
def _draws(operation: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(operation, "tags", ())


def refused(what: str, expected: str, remedy: str = DECLARE) -> InputError:
    """The one error of this room: no law, because the function cannot be read."""
    return InputError(what, expected, remedy)


def record(function: Callable[[Tensor], Any], logits: Tensor, plant: Plant | None = None) -> Record:
    """Run ``function(logits)`` once. InputError where values decide what Python does, or leave torch.

    ``plant``: called with each random operation and the tensor that it drew, which it may overwrite before
    the function goes on, so that values too rare to be drawn are seen.
    """
    recorder = _Recorder()
    recorder.begin(logits, plant)
    exits = _Exits()
    exits.recorder = recorder
    try:
        with without_checks(), torch.no_grad(), exits, recorder:
            ids = function(logits)
    except Exception:
        if recorder.refusal is not None:  # TorchScript, for one, makes another error of it
            raise recorder.refusal from None
        raise
    # the function caught it, and may have gone another way than it goes by itself
    if recorder.refusal is not None:
        raise recorder.refusal
    if not isinstance(ids, Tensor):
        raise refused(
            f"a {type(ids).__name__} from the function", "an integer tensor of token ids", "return ids"
        )
    return Record(recorder.steps, recorder.value_of(ids), ids)


@contextmanager
def without_checks() -> Iterator[None]:
    """torch.distributions without the checks of its arguments: they read values, and change none."""
    checks = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(checks)


def _shows(operation: Any, inputs: list[Tensor]) -> bool:
    """Whether the shape of the result, which Python can read, tells values: nonzero, unique, a mask that
    selects."""
    if torch.Tag.dynamic_output_shape not in getattr(operation, "tags", ()):
        return False
    if operation.overloadpacket.__name__ != "index":
        return True
    return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in inputs[1:])


@lru_cache(maxsize=4096)
def _written(operation: Any) -> frozenset[int | str]:
    """Places and names of the arguments that the operation writes to."""
    schema = operation._schema.arguments
    places: set[int | str] = set()
    for place, argument in enumerate(schema):
        if argument.alias_info is not None and argument.alias_info.is_write:
            places.add(argument.name if argument.kwarg_only else place)
    return frozenset(places)


class _Recorder(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: the wrapper that hides a mode from torch.compile imports the compiler, which takes more than
        a second."""
        return False

    def begin(self, logits: Tensor, plant: Plant | None) -> None:
        """An empty record, in which one tensor is known: the logits."""
        self._plant = plant
        self.refusal: InputError | None = None
        self.steps: list[Step] = []
        self._values: dict[int, Value] = {}  # by id of a living tensor
        self._sharing: dict[int, dict[int, weakref.ref[Tensor]]] = {}  # living tensors by storage
        self._learn(
            logits, Value(tuple(logits.shape), logits.dtype, logits.is_contiguous(), Depends(logits=True))
        )

    def value_of(self, tensor: Tensor) -> Value:
        """The value that a tensor holds now; a tensor that no operation made is a constant."""
        if id(tensor) not in self._values:
            constant = Value(
                tuple(tensor.shape), tensor.dtype, tensor.is_contiguous(), Depends(), kept=tensor.clone()
            )
            self._learn(tensor, constant)
        return self._values[id(tensor)]

    def depends_of(self, tensor: Tensor) -> Depends:
        """What a tensor depends on; nothing, if no operation made it."""
        found = self._values.get(id(tensor))
        return found.depends if found is not None else Depends()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        values = [self.value_of(tensor) for tensor in leaves]
        name = func.overloadpacket.__name__.removesuffix("_")
        where = _place()
        read = values
        if name in _SHAPE_ONLY:
            read = values[1:] if name == "fill" else []
        if name == "copy":
            read = values[1:]
        depends = Depends()
        for value in read:
            depends = depends | value.depends
        if _shows(func, leaves) and depends.random:
            self.refusal = _reads(name, depends, where)
            raise self.refusal
        if (name in _READS or torch.Tag.data_dependent_output in func.tags) and (
            depends.logits or depends.random
        ):
            self.refusal = _reads(name, depends, where)
            raise self.refusal
        if depends.random or _draws(func):
            for tensor, value in zip(leaves, values, strict=True):
                if not value.is_random and value.kept is None:
                    value.kept = tensor.clone()
        swap = dict(zip(map(id, leaves), values, strict=True))

        def as_value(leaf: Any) -> Any:
            return swap[id(leaf)] if isinstance(leaf, Tensor) else leaf

        step = Step(len(self.steps), func, name, tree_map(as_value, args), tree_map(as_value, kwargs), where)
        if name == "multinomial":
            step.state = (kwargs.get("generator") or _global_generator(leaves[0].device)).get_state()
        result = func(*args, **kwargs)
        self.steps.append(step)
        if is_random(step):
            depends = Depends(depends.logits, depends.random | {step.number})
        outputs = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
        for place, tensor in enumerate(outputs):
            value = Value(tuple(tensor.shape), tensor.dtype, tensor.is_contiguous(), depends, step, place)
            step.outputs.append(value)
            if is_random(step) or (value.is_random and not tensor.is_floating_point()):
                value.kept = tensor.clone()
            if self._plant is not None and is_random(step):
                self._plant(step, tensor)
                value.kept = tensor.clone()
        for place, tensor in enumerate(outputs):
            self._learn(tensor, step.outputs[place])
        self._spread_writes(step, args, kwargs)
        return result

    def _learn(self, tensor: Tensor, value: Value) -> None:
        key, storage = id(tensor), _storage(tensor)
        self._values[key] = value
        mates = self._sharing.setdefault(storage, {})
        if key not in mates:
            mates[key] = weakref.ref(tensor, lambda _: self._forget(key, storage))

    def _forget(self, key: int, storage: int) -> None:
        self._values.pop(key, None)
        self._sharing.get(storage, {}).pop(key, None)

    def _spread_writes(self, step: Step, args: tuple, kwargs: dict) -> None:
        """Tensors that share a storage that was written to hold a new value: the same one, or a part of it
        is new."""
        for place in _written(step.operation):
            written = args[place] if isinstance(place, int) else kwargs.get(place)
            if not isinstance(written, Tensor):
                continue
            held = self._values[id(written)]
            new = held if held.step is step else step.outputs[0]
            self._values[id(written)] = new
            for reference in list(self._sharing.get(_storage(written), {}).values()):
                tensor = reference()
                if tensor is None or tensor is written:
                    continue
                if _same_place(tensor, written):
                    self._values[id(tensor)] = new
                else:
                    self._values[id(tensor)] = self._part_written(tensor, written, new, step)

    def _part_written(self, tensor: Tensor, written: Tensor, new: Value, step: Step) -> Value:
        old = self._values[id(tensor)]
        at = [_geometry(tensor), _geometry(written)]
        parts: tuple[Value, ...] = (old, new)
        if old.step is not None and old.step.name == "write":
            parts = (*old.step.args, new)
            at = [*old.step.kwargs["at"], at[1]]
        part = Step(len(self.steps), None, "write", parts, {"at": at}, step.where)
        self.steps.append(part)
        value = Value(
            tuple(tensor.shape), tensor.dtype, tensor.is_contiguous(), old.depends | new.depends, part
        )
        if value.is_random and not tensor.is_floating_point():
            value.kept = tensor.clone()
        part.outputs.append(value)
        return value


class _Exits(TorchFunctionMode):
    """Watches for values that leave torch: NumPy, lists, DLPack (JAX, CuPy)."""

    recorder: _Recorder

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _LEAVES and args and isinstance(args[0], Tensor):
            depends = self.recorder.depends_of(args[0])
            if depends.logits or depends.random:
                self.recorder.refusal = refused(
                    f"{name}() of a value that depends on {_named(depends)}, at {_place()}",
                    "torch operations from the logits to the ids: NumPy, JAX and lists cannot be followed",
                )
                raise self.recorder.refusal
        if func is torch.nn.functional.one_hot:
            return _one_hot(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _one_hot(func: Any, tensor: Tensor, num_classes: int = -1) -> Tensor:
    """:func:`torch.nn.functional.one_hot` without its look at the values, which raises where one is out of
    range."""
    if num_classes < 0:
        return func(tensor, num_classes)
    return (tensor.unsqueeze(-1) == torch.arange(num_classes, device=tensor.device)).long()


def _reads(name: str, depends: Depends, where: str) -> InputError:
    if depends.random:
        return refused(
            f"a random value that Python reads ({name}) at {where}",
            "one draw without rejection: a loop that draws again until a value is accepted has no recorded law",
        )
    return refused(
        f"a value of the logits that Python reads ({name}) at {where}",
        "control flow that does not depend on the values of the logits",
        f"use torch.where in place of if, or {DECLARE}",
    )


def _named(depends: Depends) -> str:
    parts = ["the logits"] * depends.logits + ["a random draw"] * bool(depends.random)
    return " and ".join(parts)


def _global_generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _geometry(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Shape, strides and offset of a tensor in its storage."""
    return tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())


def _same_place(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.stride() == b.stride() and a.storage_offset() == b.storage_offset()


def _place() -> str:
    """file:line of the innermost frame that is neither torch's nor ours."""
    for frame in _frames():
        name = frame.f_code.co_filename
        if (
            "/torch/" not in name
            and "precision_lab/samplers/traced" not in name
            and not name.startswith("<frozen")
        ):
            return f"{name.rsplit('/', 1)[-1]}:{frame.f_lineno}"
    return "an unknown place"


def _frames() -> Iterator[Any]:
    frame = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]
