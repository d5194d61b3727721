"""How a function is called: read from its signature, or said as a call, ``sample(probs, n, generator=g)``.

A call is parsed with :mod:`ast` and walked node by node; nothing of it is ever evaluated by Python itself.
"""

from __future__ import annotations

import ast
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import InputError
from ..samplers.traced.calling import COUNTS

GRAMMAR = """a call FUNCTION(ARGUMENT, name=ARGUMENT, ...), then .T, .squeeze(-1), [0] or .field of its answer.
ARGUMENT: logits, probs or logprobs (batch, vocab); n, batch, vocab; the randomness, one of g (generator),
generators (one a row), rng (NumPy), key (JAX), seed, seeds (one a row); temperature, top_k, top_p, min_p;
a number, a string, True, False, None; a tuple or a list of these; logits.softmax(-1), .log_softmax(-1),
.exp(), .log(), .double(), .float(), .half(), .bfloat16(), .numpy(), .tolist(), .unsqueeze(-1).
For example sample(probs, seed=seed, top_k=50)"""

INPUTS = ("logits", "probs", "logprobs")
SIZES = ("n", "batch", "vocab")
SETTINGS = ("temperature", "top_k", "top_p", "min_p")
# a name in a call -> the kind of randomness
RANDOM = {
    "g": "generator",
    "generator": "generator",
    "generators": "generators",
    "rng": "rng",
    "key": "key",
    "seed": "seed",
    "seeds": "seeds",
}
NAMES = {*INPUTS, *SIZES, *SETTINGS, *RANDOM}
LIBRARY = {"generator": "torch", "generators": "torch", "rng": "numpy", "key": "jax"}
METHODS = {
    "softmax",
    "log_softmax",
    "exp",
    "log",
    "double",
    "float",
    "half",
    "bfloat16",
    "long",
    "int",
    "numpy",
    "tolist",
    "unsqueeze",
    "squeeze",
}
ANSWER_METHODS = {"t", "squeeze", "flatten", "long"}
LONGEST = 1000  # characters of a call

# what the arguments of functions are called -> the name in a call
_COUNT_NAMES = {*COUNTS, "N", "num", "count", "nsamples", "samples", "n_draws", "num_sample"}
_RANDOM_NAMES = {
    "generator": "generator",
    "gen": "generator",
    "g": "generator",
    "torch_generator": "generator",
    "rng": "rng",
    "key": "key",
    "prng_key": "key",
    "rng_key": "key",
    "generators": "generators",
    "seeds": "seeds",
    "seed": "seed",
    "random_seed": "seed",
    "sampling_seed": "seed",
}
_SETTING_NAMES = {
    "temperature": "temperature",
    "temperatures": "temperature",
    "temp": "temperature",
    "top_k": "top_k",
    "topk": "top_k",
    "top_ks": "top_k",
    "top_p": "top_p",
    "topp": "top_p",
    "top_ps": "top_p",
    "min_p": "min_p",
    "minp": "min_p",
    "min_ps": "min_p",
}
_FIRST = ("generator", "rng", "key", "generators", "seeds", "seed")  # which of several a function is given
# defaults that switch a setting off, as None does; another is replaced by the neutral value
_OFF = {"temperature": (1,), "top_k": (0, -1), "top_p": (1,), "min_p": (0,)}


@dataclass(frozen=True)
class Convention:
    """How one function is called, and what its answer is.

    ``text``: the call.  ``random``: generator, generators, rng, key, seed, seeds, or global where it is
    given none. ``arrays``: torch, numpy or jax.  ``counted``: whether it is told how many draws; else it
    makes one a call. ``settings``: those it can be given.  ``optional``: those of them that are left out
    unless asked for. ``forms``: "row" or "one" where the annotation says whether a setting is a value for
    each row or one for all. ``rows_as``: list, tensor or dict, of seeds and generators.  ``arrays_known``:
    whether ``arrays`` is more than a guess.
    """

    text: str
    random: str
    arrays: str
    counted: bool
    settings: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    forms: Mapping[str, str] = field(default_factory=dict)
    rows_as: str = "list"
    arrays_known: bool = True

    @functools.cached_property
    def _tree(self) -> tuple[ast.Call, list[ast.expr]]:
        return _parse(self.text)

    @property
    def names(self) -> frozenset[str]:
        """Names of the grammar that the call uses."""
        return _names_given(self._tree[0])

    @property
    def constant(self) -> bool:
        """Whether the call holds a constant, which may change the law that the function should have."""
        call, _ = self._tree
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        return any(_constant(argument) is not _NO_CONSTANT for argument in arguments)

    @property
    def given(self) -> str:
        """logits, probs or logprobs: the first that the call uses."""
        return next(name for name in INPUTS if name in self.names)

    def arguments(
        self, scope: Mapping[str, Callable[[], Any]], without: frozenset[str] = frozenset()
    ) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments. ``scope``: what each name stands for. ``without``: settings
        left out.

        InputError where a form such as ``.softmax(-1)`` does not exist for what it is applied to.
        """
        call, _ = self._tree
        positional = [_value(node, scope) for node in call.args]
        keywords = {
            str(keyword.arg): _value(keyword.value, scope)
            for keyword in call.keywords
            if not (_names(keyword.value) & without)
        }
        return positional, keywords

    def answer(self, found: Any) -> Any:
        """The ids in what the function returned: ``.T`` and its like applied. Errors: whatever they raise."""
        for step in self._tree[1]:
            found = _stepped(step, found)
        return found

    def written(self, function: str, code: Mapping[str, str], without: frozenset[str] = frozenset()) -> str:
        """The call as Python, ``function`` in place of its name and ``code`` in place of the grammar's
        names."""
        call, steps = self._tree
        parts = [_code(node, code) for node in call.args]
        for keyword in call.keywords:
            if not (_names(keyword.value) & without):
                parts.append(f"{keyword.arg}={_code(keyword.value, code)}")
        written = f"{function}({', '.join(parts)})"
        for step in steps:
            written += _suffix(step)
        return written


def of_call(call: str, function: Callable[..., Any], name: str) -> Convention:
    """The convention that a user states. InputError, quoting :data:`GRAMMAR`, for anything else than such a
    call.

    ``name``: what the function is called by, the last part of which, or the function's own name, the call
    must bear.
    """
    tree, _ = _parse(call)
    written = ast.get_source_segment(call.strip(), tree.func) or ""
    last = name.replace(":", ".").rpartition(".")[2]
    known = {last, getattr(function, "__name__", last)}
    if written.rpartition(".")[2] not in known:
        remedy = f"write {' or '.join(sorted(known))}(...)"
        raise InputError(f"the call {call!r} of another function", f"a call of {name}", remedy)
    names = _names_given(tree)
    if not names & set(INPUTS):
        raise _refused(call, "names none of logits, probs and logprobs")
    kinds = {RANDOM[each] for each in names if each in RANDOM}
    if len(kinds) > 1:
        raise _refused(call, f"names more than one randomness, {' and '.join(sorted(kinds))}")
    positional: list[Any] = [None] * len(tree.args)
    keywords = {str(keyword.arg): None for keyword in tree.keywords}
    signature = _signature(function)
    if signature is not None:
        try:
            signature.bind(*positional, **keywords)
        except TypeError as error:
            raise InputError(
                f"the call {call!r}: {error}", f"arguments of {name}{signature}", "name those it has"
            ) from None
    random = next(iter(kinds), "global")
    arrays = LIBRARY.get(random) or _library_of(function)
    forms = dict.fromkeys(_reshaped(tree) & set(SETTINGS), "row")
    return Convention(
        call.strip(),
        random,
        arrays or "torch",
        "n" in names,
        frozenset(names & set(SETTINGS)),
        forms=forms,
        rows_as=_rows_as(signature, random),
        arrays_known=arrays is not None or bool(_reshaped(tree) & set(INPUTS)),
    )


def of_signature(
    function: Callable[..., Any],
    name: str,
    library: str | None = None,
    constants: Mapping[str, Any] | None = None,
) -> Convention:
    """The convention that the names of the arguments tell. ``library``: where they do not tell it (any
    keyword). ``constants``: arguments with which it is called every time, numbers, strings and lists of
    them.

    The first argument's name says whether it is logits (the default), probabilities or their logarithms.
    InputError where an argument without a default is not known, which a stated call then has to give.
    """
    called = getattr(function, "__name__", "sample")
    called = called if called.isidentifier() else "sample"
    signature = _signature(function)
    fixed = {each: _written_constant(each, value) for each, value in (constants or {}).items()}
    if signature is None:
        return _plain(called, library or "torch")
    parameters = list(signature.parameters.values())
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    any_keyword = any(p.kind is p.VAR_KEYWORD for p in parameters)
    any_place = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if any_place and any_keyword and not places and not fixed:
        return _plain(called, library or "torch")
    absent = fixed.keys() - {p.name for p in parameters}
    if absent and not any_keyword:
        raise InputError(
            f"{', '.join(sorted(absent))} for {name}{signature}", "arguments that it has", "check the names"
        )
    bound = function.keywords if isinstance(function, functools.partial) else {}
    roles = _roles([p for p in parameters if p.name not in bound and p.name not in fixed])
    random = next((kind for kind in _FIRST if kind in roles.values()), None)
    text = []
    optional = set()
    gap = False
    for parameter in parameters:
        role = roles.get(parameter.name)
        needed = parameter.default is parameter.empty
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if role in _FIRST and role != random:
            role = None
        if parameter.name in fixed and parameter.kind is not parameter.POSITIONAL_ONLY:
            gap = True
            continue
        if role is None and needed:
            raise InputError(
                f"{name}{signature}, which needs {parameter.name!r}",
                "arguments whose names say what they are: logits, n, generator, seed, temperature, ...",
                f"bind it with functools.partial, or say how to call it (--call, or call=): {GRAMMAR}",
            )
        if role is None:
            gap = True
            continue
        by_place = parameter.kind is parameter.POSITIONAL_ONLY
        if not gap and parameter in places and role in (*INPUTS, "n"):
            by_place = True
        if by_place and gap:
            raise InputError(
                f"{name}{signature}, whose {parameter.name!r} is by place only, after one left out",
                "arguments that can be named",
                "bind the others with functools.partial",
            )
        text.append(role if by_place else f"{parameter.name}={role}")
        gap = gap or not by_place
        if role in SETTINGS and not needed and _is_off(role, parameter.default):
            optional.add(role)
    if not set(roles.values()) & set(INPUTS):
        raise InputError(
            f"{name}{signature} without a place for logits",
            "sample(logits, n, *, generator)",
            "take logits first",
        )
    if random is None and any_keyword:
        random = {"numpy": "rng", "jax": "key"}.get(library or "torch", "generator")
        text.append(f"{random}={random}")
    text += [f"{each}={value}" for each, value in fixed.items()]
    random = random or "global"
    arrays = LIBRARY.get(random) or library or _library_of(function)
    return Convention(
        f"{called}({', '.join(text)})",
        random,
        arrays or "torch",
        "n" in roles.values(),
        frozenset(role for role in roles.values() if role in SETTINGS),
        frozenset(optional),
        _forms(parameters, roles),
        _rows_as(signature, random),
        arrays is not None,
    )


def _written_constant(name: str, value: Any) -> str:
    """The value as text of the grammar. InputError for anything but plain values."""
    kinds = (bool, int, float, str, type(None))
    items = value if isinstance(value, list | tuple) else [value]
    finite = all(not isinstance(item, float) or math.isfinite(item) for item in items)
    if not name.isidentifier() or not all(isinstance(item, kinds) for item in items) or not finite:
        raise InputError(
            f"{name} = {str(value)[:100]}, a {type(value).__name__}",
            "a number, a string, True, False, None, or a list of them",
            "bind anything else with functools.partial",
        )
    return repr(value)


def _plain(called: str, library: str) -> Convention:
    random = {"torch": "generator", "numpy": "rng", "jax": "key"}[library]
    return Convention(f"{called}(logits, n, {random}={random})", random, library, True)


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """None where Python cannot tell, as for built-in functions."""
    try:
        return inspect.signature(function.forward if isinstance(function, torch.nn.Module) else function)
    except (TypeError, ValueError):
        return None


def _roles(parameters: list[inspect.Parameter]) -> dict[str, str]:
    """What each argument is, by its name; the first place is the input where no name says so."""
    roles: dict[str, str] = {}
    for parameter in parameters:
        role = _role(parameter)
        if role is not None and role not in roles.values():
            roles[parameter.name] = role
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    unknown = [p for p in places if p.name not in roles]
    if unknown and not set(roles.values()) & set(INPUTS):
        roles[unknown.pop(0).name] = "logits"
    counts = [p for p in unknown[:1] if p.annotation in (int, "int") and p.default is p.empty]
    if counts and "n" not in roles.values():
        roles[counts[0].name] = "n"
    return roles


def _role(parameter: inspect.Parameter) -> str | None:
    name, kind = parameter.name, str(parameter.annotation)
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return None
    if name in _SETTING_NAMES:
        return _SETTING_NAMES[name]
    if name in _COUNT_NAMES:
        return "n"
    if name in _RANDOM_NAMES:
        role = _RANDOM_NAMES[name]
        if role == "rng" and "torch" in kind:
            return "generator"
        if role == "rng" and "jax" in kind.lower():
            return "key"
        if role == "seed" and _many(kind):
            return "seeds"
        return "generators" if role == "generator" and _many(kind) else role
    lower = name.lower()
    if "logit" in lower:
        return "logits"
    if "logp" in lower or "log_p" in lower or "lprob" in lower:
        return "logprobs"
    return "probs" if "prob" in lower or lower in ("p", "ps") else None


def _is_off(setting: str, value: Any) -> bool:
    """Whether a default leaves the setting out."""
    return value is None or (isinstance(value, int | float) and value in _OFF[setting])


def _many(annotation: str) -> bool:
    """Whether an annotation is of one value a row."""
    return any(
        word in annotation.lower() for word in ("list", "dict", "sequence", "tensor", "ndarray", "array")
    )


def _forms(parameters: list[inspect.Parameter], roles: Mapping[str, str]) -> dict[str, str]:
    forms = {}
    for parameter in parameters:
        role = roles.get(parameter.name)
        if role not in SETTINGS or parameter.annotation is parameter.empty:
            continue
        kind = parameter.annotation if isinstance(parameter.annotation, str) else str(parameter.annotation)
        both = any(word in kind for word in ("float", "int"))
        if both != _many(kind):
            forms[role] = "one" if both else "row"
    return forms


def _rows_as(signature: inspect.Signature | None, random: str) -> str:
    """In what a function takes its seeds or generators, one a row; vLLM's generators are a dict by row."""
    fallback = "dict" if random == "generators" else "list"
    if signature is None or random not in ("seeds", "generators"):
        return fallback
    for parameter in signature.parameters.values():
        if _role(parameter) == random:
            kind = str(parameter.annotation).lower()
            if "tensor" in kind or "array" in kind:
                return "tensor"
            return "list" if "list" in kind or "sequence" in kind else fallback
    return fallback


def _library_of(function: Callable[..., Any]) -> str | None:
    """torch, numpy or jax: by the annotations, else by the modules that the function's own code names.
    None: unknown."""
    plain: Any = function
    while isinstance(plain, functools.partial):
        plain = plain.func
    if not inspect.isroutine(plain):
        plain = plain.forward if isinstance(plain, torch.nn.Module) else type(plain).__call__
    plain = inspect.unwrap(getattr(plain, "__func__", plain))
    for annotation in getattr(plain, "__annotations__", {}).values():
        kind = str(annotation).lower()
        for word, library in (("jax", "jax"), ("tensor", "torch"), ("ndarray", "numpy")):
            if word in kind:
                return library
    code = getattr(plain, "__code__", None)
    spaces = getattr(plain, "__globals__", {})
    roots = []
    for name in getattr(code, "co_names", ()):
        root = getattr(spaces.get(name), "__name__", name).partition(".")[0]
        if root in ("torch", "jax", "numpy"):
            roots.append(root)
    return next((library for library in ("torch", "jax", "numpy") if library in roots), None)


def _refused(call: str, why: str) -> InputError:
    return InputError(f"the call {call[:200]!r}, which {why}", GRAMMAR, "write it so")


def _parse(call: str) -> tuple[ast.Call, list[ast.expr]]:
    """The call itself, and what is done to its answer, in order. InputError for anything outside the
    grammar."""
    if len(call) > LONGEST:
        raise _refused(call, f"has {len(call)} characters, more than {LONGEST}")
    try:
        node = ast.parse(call.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _refused(call, "is no Python expression") from None
    steps: list[ast.expr] = []
    while not (isinstance(node, ast.Call) and _dotted(node.func)):
        inner = _inside(node)
        if inner is None:
            raise _refused(call, "is no call of a function, or does more to its answer")
        steps.insert(0, node)
        node = inner
    for argument in node.args:
        _allowed(argument, call)
    keywords = [keyword.arg for keyword in node.keywords]
    if len(set(keywords)) < len(keywords):
        raise _refused(call, "names an argument twice")
    for keyword in node.keywords:
        if keyword.arg is None:
            raise _refused(call, "spreads a dictionary")
        _allowed(keyword.value, call)
    return node, steps


def _inside(node: ast.expr) -> ast.expr | None:
    """What a step is applied to; None for a node that is no step."""
    if isinstance(node, ast.Attribute) and not node.attr.startswith("_"):
        return node.value
    if isinstance(node, ast.Subscript) and isinstance(_constant(node.slice), int | str):
        return node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.keywords:
        plain = all(isinstance(_constant(argument), int) for argument in node.args)
        return node.func.value if plain and node.func.attr in ANSWER_METHODS else None
    return None


def _dotted(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


_NO_CONSTANT = object()


def _constant(node: ast.expr) -> Any:
    """The value of a number, also a negative one, a string, True, False or None; else a mark."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = node.operand.value if isinstance(node.operand, ast.Constant) else None
        return -value if isinstance(value, int | float) and not isinstance(value, bool) else _NO_CONSTANT
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, int | float | str)):
        return node.value
    return _NO_CONSTANT


def _allowed(node: ast.expr, call: str) -> None:
    if _constant(node) is not _NO_CONSTANT:
        return
    if isinstance(node, ast.Name):
        if node.id not in NAMES:
            raise _refused(call, f"names {node.id!r}")
        return
    if isinstance(node, ast.Tuple | ast.List):
        for item in node.elts:
            _allowed(item, call)
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        if all(_constant(argument) is not _NO_CONSTANT for argument in arguments):
            _allowed(node.func.value, call)
            return
    raise _refused(call, f"has the argument {ast.get_source_segment(call.strip(), node)!r}")


def _names_given(call: ast.Call) -> frozenset[str]:
    """Names of the grammar in the arguments of the call; the function's own name is none of them."""
    parts = [*call.args, *(keyword.value for keyword in call.keywords)]
    return frozenset[str]().union(*(_names(part) for part in parts))


def _names(node: ast.AST) -> frozenset[str]:
    return frozenset(each.id for each in ast.walk(node) if isinstance(each, ast.Name))


def _reshaped(call: ast.Call) -> frozenset[str]:
    """Names to which an argument applies a method."""
    parts = [*call.args, *(keyword.value for keyword in call.keywords)]
    methods = [node for part in parts for node in ast.walk(part) if isinstance(node, ast.Call)]
    return frozenset[str]().union(*(_names(method) for method in methods))


def _value(node: ast.expr, scope: Mapping[str, Callable[[], Any]]) -> Any:
    constant = _constant(node)
    if constant is not _NO_CONSTANT:
        return constant
    if isinstance(node, ast.Name):
        return scope[node.id]()
    if isinstance(node, ast.Tuple | ast.List):
        items = [_value(item, scope) for item in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Attribute)
    of = _value(node.func.value, scope)
    arguments = [_constant(argument) for argument in node.args]
    keywords = {str(keyword.arg): _constant(keyword.value) for keyword in node.keywords}
    try:
        return getattr(of, node.func.attr)(*arguments, **keywords)
    except Exception as error:
        raise InputError(
            f"{ast.unparse(node)} of a {type(of).__name__}: {error}",
            "a form that its array has",
            "probs and logprobs are there for every library",
        ) from None


def _stepped(step: ast.expr, found: Any) -> Any:
    if isinstance(step, ast.Attribute):
        return getattr(found, step.attr)
    if isinstance(step, ast.Subscript):
        return found[_constant(step.slice)]
    assert isinstance(step, ast.Call)
    assert isinstance(step.func, ast.Attribute)
    return getattr(found, step.func.attr)(*[_constant(argument) for argument in step.args])


def _suffix(step: ast.expr) -> str:
    if isinstance(step, ast.Attribute):
        return f".{step.attr}"
    if isinstance(step, ast.Subscript):
        return f"[{_constant(step.slice)!r}]"
    assert isinstance(step, ast.Call)
    assert isinstance(step.func, ast.Attribute)
    arguments = ", ".join(repr(_constant(argument)) for argument in step.args)
    return f".{step.func.attr}({arguments})"


def _code(node: ast.expr, code: Mapping[str, str]) -> str:
    """A node as Python, with ``code`` in place of the grammar's names."""
    if isinstance(node, ast.Name):
        return code[node.id]
    if isinstance(node, ast.Tuple | ast.List):
        items = ", ".join(_code(item, code) for item in node.elts)
        if isinstance(node, ast.List):
            return f"[{items}]"
        return f"({items},)" if len(node.elts) == 1 else f"({items})"
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Attribute)
        arguments = [ast.unparse(argument) for argument in node.args]
        arguments += [f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in node.keywords]
        return f"{_code(node.func.value, code)}.{node.func.attr}({', '.join(arguments)})"
    return ast.unparse(node)
