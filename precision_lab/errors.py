"""One kind of error for bad input: what came, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
