"""From what a user types to a sampler: a name in the table, ``file.py:fn``, ``module:fn``, or an entry
point."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from torch import Tensor

from ..errors import InputError, described, unknown_name
from .function import FunctionSampler
from .sampler import Sampler, Stages

ENTRY_POINTS = "precision_lab.samplers"


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
            with importing(f"entry point {sampler} = {entry.value}"):
                loaded = entry.load()
            return loaded if isinstance(loaded, Sampler) else resolve(loaded)
    if ":" in sampler:
        return _from_code(sampler)
    raise unknown_name("sampler", sampler, SAMPLERS)


def _from_code(spec: str) -> Sampler:
    where, _, name = spec.rpartition(":")
    if where.endswith(".py") and not Path(where).is_file():
        raise InputError(f"no file {where}", "file.py:function", "check the path")
    with importing(where):
        module = _import_file(Path(where)) if where.endswith(".py") else _import_module(where)
        function = _attribute(module, name)
    if isinstance(function, Sampler):
        return function
    if isinstance(function, type):
        raise InputError(
            f"the class {name} in {where}", "a function, or an instance", f"name an instance of {name}"
        )
    if not callable(function):
        raise InputError(
            f"no function {name!r} in {where}", "sample(logits, n, *, generator)", "check the name"
        )
    return FunctionSampler(spec, "user", where, Stages.all("?"), function)


@contextmanager
def importing(where: str) -> Iterator[None]:
    """InputError for whatever the user's code raises here: SystemExit and KeyboardInterrupt too, but not
    Ctrl-C."""
    pressed: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    watched = callable(handler) and threading.current_thread() is threading.main_thread()

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        if callable(handler):
            handler(number, frame)

    if watched:
        signal.signal(signal.SIGINT, note)
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if pressed:
            raise
        raise InputError(f"{where}: {described(error)}", "code that imports", "mend it first") from error
    finally:
        if watched and signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, handler)


def _attribute(module: ModuleType, dotted: str) -> Any:
    """``module.a.b`` for "a.b"; None where there is none. A method of a class is that of an instance made
    without arguments; InputError where it cannot be made so."""
    found: Any = module
    for name in dotted.split("."):
        owner, found = found, getattr(found, name, None)
        if isinstance(owner, type) and inspect.isfunction(inspect.getattr_static(owner, name, None)):
            found = getattr(_instance(owner), name)
    return found


def _instance(owner: type) -> Any:
    try:
        return owner()
    except Exception as error:
        raise InputError(
            f"the method of {owner.__name__}, which cannot be made without arguments ({type(error).__name__}: {error})",
            "a method of an instance",
            f"bind an instance to a name in the file: sampler = {owner.__name__}(...), then file.py:sampler.method",
        ) from None


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The modules of a folder before all others, as ``python file.py`` has it; afterwards behind all
    others, because a function may import its neighbours when it is called."""
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)
        if place not in sys.path:
            sys.path.append(place)


def _import_module(name: str) -> ModuleType:
    """A module by name, also from the current folder."""
    with _importable(Path()):
        importlib.invalidate_caches()
        return importlib.import_module(name)


def _import_file(path: Path) -> ModuleType:
    """The file as a module of its own, known by the file's name where no other module has it; files beside
    it can be imported by it, then and later."""
    other = sys.modules.get(path.stem)
    taken = other is not None and Path(getattr(other, "__file__", None) or ".").resolve() != path.resolve()
    name = f"{path.stem}_of_precision_lab" if taken else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # dataclasses with annotations from the future look their module up, then and when they are asked
    sys.modules[name] = module
    try:
        with _importable(path.parent):
            importlib.invalidate_caches()
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
