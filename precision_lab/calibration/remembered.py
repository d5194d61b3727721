"""A test says in every result what its n can see, which of one law and one n is one number: here computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

from ..laws.law import Law
from ..statistics import agreement_test, temperature_testing
from ..statistics.independence import repeats
from ..statistics.testing import blocked_identity, chi_square, identity

AGREEMENT = import_module(agreement_test.__module__)  # its package has a function of the module's name
_ASKED = [
    (import_module(agreement_test.__module__), "detectable_sharing"),
    (repeats, "detectable_state_bits"),
    (chi_square, "detectable_chi_square"),
    (identity, "detectable_identity"),
    (blocked_identity, "detectable_blocked_identity"),
    (temperature_testing, "detectable_temperature"),
]


@contextmanager
def remembered() -> Iterator[None]:
    """Inside, each ``detectable_x`` that a test asks for itself is computed once for each set of arguments.

    Of those that cost more than their tests. Laws count as the same where they are one object, kept alive here.
    """
    with ExitStack() as stack:
        for module, name in _ASKED:
            stack.enter_context(patch.object(module, name, _once(getattr(module, name))))
        yield


def _once(function: Callable[..., float]) -> Callable[..., float]:
    known: dict[tuple[Any, ...], tuple[tuple[Any, ...], float]] = {}

    def ask(*args: Any, **named: Any) -> float:
        key = (*(id(arg) if isinstance(arg, Law) else arg for arg in args), *named.items())
        if key not in known:
            known[key] = (args, function(*args, **named))
        return known[key][1]

    return ask
