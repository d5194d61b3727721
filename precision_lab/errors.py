"""One kind of error for bad input: what came, what was expected, what to do."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, formats such as right-to-left marks, lone surrogates
_JOINER = "\u200d"  # of emoji and of several scripts


class PrecisionLabError(Exception):
    """Anything the user can mend. The command line prints it in one line and exits with 2."""


class InputError(PrecisionLabError, ValueError):
    """Raised at the public doors. The message names what came, what was expected and the remedy."""

    def __init__(self, got: str, expected: str, remedy: str) -> None:
        super().__init__(f"got {got}; expected {expected}; {remedy}")
        self.got, self.expected, self.remedy = got, expected, remedy


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An :class:`InputError` for a name that is not in a table, with the nearest names in it."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"list them with: precision-lab ls {kind}s"
    return InputError(f"{kind} {name!r}", f"one of {len(names)} known {kind}s", hint)


def printable(text: str, kept: str = "") -> str:
    """The text with every control character but those in ``kept`` written as an escape: a terminal prints
    it all."""
    return "".join(
        char
        if char in kept or char == _JOINER or unicodedata.category(char) not in _UNSAFE
        else char.encode("unicode_escape").decode()
        for char in text
    )


def described(error: BaseException, most: int = 300) -> str:
    """``Type: message`` in one line of at most ``most`` characters and the type's name. Nothing is raised."""
    try:
        text = " ".join(str(error).split("\n"))
    except BaseException as another:
        text = f"(its message raises {type(another).__name__})"
    name = printable(type(error).__name__)
    return f"{name}: {printable(text[:most])}" if text else name
