"""The noise half of a sampler: what is done to one random value before it meets the logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .record import Step, Value, is_random, refused

# Operations that give each element from the same element, in every argument.
ELEMENTWISE = {
    *("add", "sub", "rsub", "mul", "div", "neg", "reciprocal", "pow", "sqrt", "rsqrt", "square", "abs", "sign"),
    *(
        "log",
        "log1p",
        "log2",
        "log10",
        "exp",
        "expm1",
        "exp2",
        "sigmoid",
        "log_sigmoid_forward",
        "logit",
        "erfinv",
    ),
    *(
        "clamp",
        "clamp_min",
        "clamp_max",
        "maximum",
        "minimum",
        "fmax",
        "fmin",
        "nan_to_num",
        "floor",
        "ceil",
        "round",
    ),
    *(
        "where",
        "masked_fill",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "isnan",
        "isinf",
        "isfinite",
        "trunc",
        "frac",
    ),
    *("logical_and", "logical_or", "logical_not", "bitwise_and", "bitwise_or", "bitwise_not", "_to_copy", "to"),
    *("copysign", "xlogy", "fmod", "remainder", "ldexp", "nextafter", "special_xlog1py", "special_erfcx"),
}
# Operations that move elements and change none. cat and stack move those of several tensors.
LAYOUT = {
    *(
        "view",
        "_unsafe_view",
        "reshape",
        "expand",
        "expand_as",
        "unsqueeze",
        "squeeze",
        "permute",
        "transpose",
        "t",
    ),
    *(
        "clone",
        "contiguous",
        "detach",
        "alias",
        "slice",
        "select",
        "narrow",
        "split",
        "split_with_sizes",
        "chunk",
    ),
    *(
        "unbind",
        "movedim",
        "flatten",
        "unflatten",
        "lift_fresh",
        "lift_fresh_copy",
        "repeat",
        "as_strided",
        "flip",
    ),
    *("view_as", "repeat_interleave", "_reshape_alias", "tile", "swapaxes", "mT", "numpy_T"),
}
_MONOTONE = {
    *("add", "sub", "rsub", "mul", "neg", "clamp", "clamp_min", "clamp_max", "_to_copy", "to", "copy", "write"),
}
JOINED = {"cat", "stack", "concat"}
_NAMES = {"_softmax": "softmax", "_log_softmax": "log_softmax", "_to_copy": "to", "rand_like": "rand"}


def first_tensor(step: Step) -> Value:
    """The tensor that a layout operation, a cast or a copy takes its numbers from."""
    return step.reads[0]


def random_steps(value: Value) -> Iterator[Step]:
    """The random operations that a value depends on, each once, in no order."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        current = todo.pop()
        if id(current) in seen or not current.is_random or current.step is None:
            continue
        seen.add(id(current))
        if is_random(current.step):
            if current.step.number not in seen:
                seen.add(current.step.number)
                yield current.step
        else:
            todo += current.step.reads


@dataclass(eq=False)
class NoiseMap:
    """``value``: the noise as it meets the logits; its :attr:`draws` are the random operations behind it,
    all alike.

    Calling it maps a vector of random values, (k,) in the dtype of the draw, to a vector of noise: the
    recorded operations, run on a contiguous vector, as a published map is.
    """

    value: Value

    @cached_property
    def draws(self) -> list[Step]:
        found = sorted(random_steps(self.value), key=lambda step: step.number)
        kinds = {(step.name, step.outputs[0].dtype, *_settings(step)) for step in found}
        if len(kinds) != 1:
            named = " and ".join(sorted(" ".join(map(str, kind)) for kind in kinds)) or "none"
            raise refused(
                f"noise made of several kinds of draws ({named})", "one kind of random operation for a draw"
            )
        return found

    @property
    def draw(self) -> Step:
        return self.draws[0]

    def __call__(self, drawn: Tensor) -> Tensor:
        return self._along(self.value, drawn, {})

    def _along(self, value: Value, drawn: Tensor, memo: dict[int, Tensor]) -> Tensor:
        if not value.is_random:
            return constant(value)
        if id(value) not in memo:
            memo[id(value)] = self._one(value, drawn, memo)
        return memo[id(value)]

    def _one(self, value: Value, drawn: Tensor, memo: dict[int, Tensor]) -> Tensor:
        step = value.step
        assert step is not None
        if is_random(step):
            return drawn
        if step.name in LAYOUT:
            return self._along(first_tensor(step), drawn, memo)
        if step.name == "copy":
            return self._along(first_tensor(step), drawn, memo).to(value.dtype)
        if step.name in JOINED or step.name == "write":
            parts = [part for part in step.reads if part.is_random]
            if len({formula(part) for part in parts}) != 1:
                raise refused(
                    f"noise put together from unlike parts at {step.where}", "one map for every token"
                )
            return self._along(parts[0], drawn, memo)
        if step.name in ELEMENTWISE:
            behind = {operand.depends.random for operand in step.reads if operand.is_random}
            if len(behind) != 1:
                raise refused(
                    f"{step.name} of two random values, at {step.where}",
                    "noise made of one random value for each token",
                )
            answer = step.run(lambda operand: self._along(operand, drawn, memo))
            return answer if isinstance(answer, Tensor) else answer[value.output]
        raise refused(
            f"the operation {step.name} on noise, at {step.where}",
            "operations that treat each random value by itself until it meets the logits",
        )

    def in_place(self) -> Tensor:
        """The noise as the function made it, from the recorded draws, each operation in its own shape."""
        return self._again(self.value, {})

    def _again(self, value: Value, memo: dict[int, Tensor]) -> Tensor:
        step = value.step
        if step is None or is_random(step) or not value.is_random:
            assert value.kept is not None
            return value.kept
        if step.name == "write":
            memo.setdefault(id(value), self._written(step, memo))
        if step.name == "copy":
            source = self._again(first_tensor(step), memo)
            memo.setdefault(id(value), source.to(value.dtype).expand(value.shape))
        if id(value) not in memo:
            answer = step.run(lambda operand: self._again(operand, memo))
            memo[id(value)] = answer if isinstance(answer, Tensor) else answer[value.output]
        return memo[id(value)]

    def _written(self, step: Step, memo: dict[int, Tensor]) -> Tensor:
        """A buffer after its writes; NaN where it holds no random value."""
        at = step.kwargs["at"]
        kept = self.draws[0].outputs[0].kept
        assert kept is not None
        storage = torch.full(
            (max(map(_extent, at)),), torch.nan, dtype=step.outputs[0].dtype, device=kept.device
        )
        for part, (shape, stride, offset) in zip(step.args, at, strict=True):
            if part.is_random:
                storage.as_strided(shape, stride, offset).copy_(self._again(part, memo))
        shape, stride, offset = at[0]
        return storage.as_strided(shape, stride, offset)

    @property
    def reads_logits(self) -> bool:
        """Whether a number of each row of logits enters the noise, as in u times the last sum."""
        return self.value.depends.logits

    @property
    def monotone(self) -> bool:
        """Whether only operations that never turn back were found: casts, clamps, sums and products with
        constants."""
        value: Value | None = self.value
        while value is not None and value.step is not None and not is_random(value.step):
            if value.step.name not in LAYOUT | JOINED | _MONOTONE:
                return False
            random = [operand for operand in value.step.reads if operand.is_random]
            value = random[0] if random else None
        return True

    def dtypes(self) -> list[torch.dtype]:
        """The dtypes that the noise goes through, from the draw to the logits, repeats left out."""
        found: list[torch.dtype] = []
        value: Value | None = self.value
        while value is not None and value.is_random:
            if not found or found[-1] != value.dtype:
                found.append(value.dtype)
            inputs = [operand for operand in value.step.reads if operand.is_random] if value.step else []
            value = None if value.step is None or is_random(value.step) else (inputs[0] if inputs else None)
        return found[::-1]

    def places(self) -> Tensor | None:
        """Which random value each element of the noise is made of, (*shape of the noise) int64; None where
        it is written into a buffer part by part. Values of the i-th draw are numbered after those of the
        draws before it."""
        offset = 0
        numbered: dict[int, Tensor] = {}
        for step in self.draws:
            shape = step.outputs[0].shape
            count = int(torch.Size(shape).numel())
            numbered[step.number] = torch.arange(offset, offset + count).reshape(shape)
            offset += count
        return _places(self.value, numbered, {})

    def formula(self) -> str:
        return formula(self.value)

    def key(self) -> str:
        """What the map is, to the last constant: two maps of one key give the same noise of the same random
        value."""
        return _key(self.value, {})


def _settings(step: Step) -> list[float]:
    """The rate of an exponential, the bounds of a uniform."""
    if step.name not in ("exponential", "uniform"):
        return []
    return [argument for argument in step.args if isinstance(argument, int | float)]


def _key(value: Value, memo: dict[int, str]) -> str:
    """A value of the noise half as text that leaves out layout and nothing else."""
    if not value.is_random:
        number = constant(value)
        return f"{number.dtype}{'' if number.ndim else ' scalar'} {number.item()!r}"
    if id(value) in memo:
        return memo[id(value)]
    step = value.step
    assert step is not None
    if is_random(step):
        text = f"{step.name} {value.dtype} {_settings(step)}"
    elif step.name in LAYOUT or step.name in JOINED or step.name == "write":
        text = _key(next(part for part in step.reads if part.is_random), memo)
    elif step.name == "copy":
        text = f"to({_key(first_tensor(step), memo)}, {value.dtype})"
    else:

        def shown(argument: object) -> str:
            if isinstance(argument, Value):
                return _key(argument, memo)
            return repr(argument)

        shown_args = [shown(argument) for argument in step.args]
        shown_kwargs = [f"{name}={shown(argument)}" for name, argument in sorted(step.kwargs.items())]
        text = f"{step.operation}.{value.output}({', '.join(shown_args + shown_kwargs)})"
    memo[id(value)] = text
    return text


def places_of(value: Value, numbers: dict[int, Tensor]) -> Tensor | None:
    """Where each element of ``value`` comes from: ``numbers`` holds, by id of a value, a number for each of
    its elements, and these are moved as the recorded operations move them; -1 for elements of another
    origin. None where an operation changes the shape otherwise than by moving elements."""
    memo: dict[int, Tensor | None] = dict(numbers)
    try:
        return _places(value, {}, memo)
    except RuntimeError:  # torch: shapes that do not fit
        return None


def _places(value: Value, numbered: dict[int, Tensor], memo: dict[int, Tensor | None]) -> Tensor | None:
    if id(value) in memo:
        return memo[id(value)]
    step = value.step
    assert step is not None
    found: Tensor | None
    if value.stands_for is not None:
        same = _places(value.stands_for, numbered, memo)
        found = None if same is None else same.reshape(value.shape)
    elif is_random(step):
        found = numbered.get(step.number, torch.full(value.shape, -1))
    elif step.name == "write":
        found = _written_places(step, numbered, memo)
    else:
        parts = {id(part): _places(part, numbered, memo) for part in step.reads if part.is_random}
        if any(part is None for part in parts.values()):
            found = None
        elif step.name in LAYOUT or step.name in JOINED:

            def numbers_of(operand: Value) -> Tensor:
                return parts[id(operand)] if operand.is_random else torch.full(operand.shape, -1)  # type: ignore[return-value]

            answer = step.run(numbers_of)
            found = answer if isinstance(answer, Tensor) else answer[value.output]
        else:
            found = _one_place(step, value, {key: part for key, part in parts.items() if part is not None})
    memo[id(value)] = found
    return found


def _one_place(step: Step, value: Value, parts: dict[int, Tensor]) -> Tensor | None:
    """The places of an elementwise operation: those of its random operands, which agree."""
    if step.name == "where" and not step.inputs[0].is_random:
        condition = step.inputs[0].kept
        assert condition is not None
        none = torch.tensor(-1)
        yes, no = [parts.get(id(part), none) if isinstance(part, Value) else none for part in step.args[1:]]
        return torch.where(condition.cpu(), yes, no).expand(value.shape)
    if not parts:
        return None
    try:
        moved = [part.expand(value.shape) for part in parts.values()]
    except RuntimeError:
        raise refused(
            f"the operation {step.name} on random values or their ids, at {step.where}",
            "operations that treat each by itself",
        ) from None
    for other in moved[1:]:
        if not torch.equal(moved[0], other):
            raise refused(
                f"{step.name} of random values of several tokens, at {step.where}",
                "noise made of one random value for each token",
            )
    return moved[0]


def _written_places(step: Step, numbered: dict[int, Tensor], memo: dict[int, Tensor | None]) -> Tensor | None:
    """A buffer after its writes: -1 where it holds no random value."""
    at = step.kwargs["at"]
    extent = max(_extent(geometry) for geometry in at)
    storage = torch.full((extent,), -1, dtype=torch.int64)
    for part, (shape, stride, offset) in zip(step.args, at, strict=True):
        places = _places(part, numbered, memo) if part.is_random else torch.full(shape, -1)
        if places is None:
            return None
        storage.as_strided(shape, stride, offset).copy_(places)
    shape, stride, offset = at[0]
    return storage.as_strided(shape, stride, offset).clone()


def _extent(geometry: tuple[tuple[int, ...], tuple[int, ...], int]) -> int:
    shape, strides, offset = geometry
    return offset + 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def constant(value: Value) -> Tensor:
    """What a value that is the same for every token contributes to one element: a scalar, or a vector of
    one."""
    kept = value.kept
    assert kept is not None
    if kept.numel() > 1 and not bool((kept == kept.reshape(-1)[0]).all()):
        what = "the logits" if value.depends.logits else "a constant"
        raise refused(
            f"noise that is combined with {what} of shape {value.shape}, other for each token, before the draw is made",
            "noise that meets the logits once",
        )
    return kept.reshape(-1)[0] if kept.ndim == 0 else kept.reshape(-1)[:1]


def formula(value: Value, *, limit: int = 40) -> str:
    """A value as a formula: l for the logits, u or E for a draw, layout left out, casts as to(dtype)."""
    return _formula(value, {}, limit)


def _formula(value: Value, memo: dict[int, str], limit: int) -> str:
    if id(value) not in memo:
        memo[id(value)] = _formula_of(value, memo, limit)
    text = memo[id(value)]
    return text if len(text) < 40 * limit else "..."


def _formula_of(value: Value, memo: dict[int, str], limit: int) -> str:
    step = value.step
    if step is None:
        return "l" if value.depends.logits else _number(value)
    if is_random(step) and step.name not in ("multinomial", "bernoulli"):
        return "E" if step.name == "exponential" else "u"
    if not value.depends.logits and not value.is_random and value.kept is not None:
        return _number(value)
    if step.name in LAYOUT:
        return _formula(first_tensor(step), memo, limit)
    if step.name in JOINED or step.name == "write":
        parts = [_formula(part, memo, limit) for part in step.inputs if part.depends != type(part.depends)()]
        return parts[0] if len(set(parts)) == 1 else f"{step.name}({', '.join(dict.fromkeys(parts))})"
    dtype = str(value.dtype).removeprefix("torch.")
    if step.name in ("_to_copy", "to", "copy"):
        inner = first_tensor(step)
        text = _formula(inner, memo, limit)
        return text if inner.dtype == value.dtype else f"to({text}, {dtype})"
    shown: list[str] = []
    for argument in step.args:
        if isinstance(argument, Value):
            shown.append(_formula(argument, memo, limit))
        elif isinstance(argument, bool | int | float) and step.name not in (
            "_softmax",
            "_log_softmax",
            "softmax",
        ):
            shown.append(repr(argument))
        elif isinstance(argument, list | tuple):
            shown += [_formula(part, memo, limit) for part in argument if isinstance(part, Value)]
    name = _NAMES.get(step.name, step.name)
    infix = {"add": " + ", "sub": " - ", "mul": " * ", "div": " / "}
    if name in infix and len(shown) == 2:
        return f"({infix[name].join(shown)})"
    if name == "neg":
        return f"-{shown[0]}"
    return f"{name}({', '.join(shown)})"


def _number(value: Value) -> str:
    if value.kept is None or not value.kept.numel():
        return "c"
    flat = value.kept.reshape(-1)
    if flat.dtype == torch.bool or not bool((flat == flat[0]).all()):
        return f"c{list(value.shape)}" if value.kept.numel() > 1 else "c"
    return repr(flat[0].item())
