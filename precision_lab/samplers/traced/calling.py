"""How a user's function is called: what it takes, what it gives back, and whose generator it draws from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError

COUNTS = ("n", "num_samples", "n_samples", "num_draws", "draws", "size")
SIGNATURE = "sample(logits, n, *, generator) -> ids (n, batch), or sample(logits) -> ids (rows,)"


@dataclass(frozen=True)
class Calling:
    """``function``: the user's. ``count``: how it takes the number of draws: by place, by a name, or not at
    all (None): then each row of logits is repeated. ``generator``: whether it takes one; if not, it draws
    from torch's global generator.
    ``takes``: logits, log_probs or probs."""

    function: Callable[..., Any]
    name: str
    count: str | None
    generator: bool
    takes: str = "logits"

    @staticmethod
    def of(function: Callable[..., Any], name: str = "", takes: str = "logits") -> Calling:
        """Read the signature. InputError where there is no place for logits, or other arguments without a
        default."""
        if takes not in ("logits", "log_probs", "probs"):
            raise InputError(f"takes {takes!r}", "logits, log_probs or probs", "say what the function is given")
        called = name or getattr(function, "__name__", type(function).__name__)
        try:
            target = function.forward if isinstance(function, torch.nn.Module) else function
            parameters = list(inspect.signature(target).parameters.values())
        except (TypeError, ValueError):
            return Calling(function, called, "", True, takes)
        places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        any_keyword = any(p.kind is p.VAR_KEYWORD for p in parameters)
        names = {p.name for p in parameters}
        for other, library in (("rng", "NumPy"), ("key", "JAX")):
            if other in names and "generator" not in names:
                raise InputError(
                    f"{called}({', '.join(p.name for p in parameters)}), a {library} function",
                    f"a torch function, {SIGNATURE}",
                    f"a {library} function has no law by reading it: judge its draws with precision-lab check",
                )
        if not places and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            raise InputError(
                f"{called}() without a place for logits", SIGNATURE, "take logits (batch, vocab) first"
            )
        generator = "generator" in names or any_keyword
        count: str | None = None
        keyword = next((p.name for p in parameters if p.name in COUNTS and p.kind is p.KEYWORD_ONLY), None)
        if keyword is not None:
            count = keyword
        elif (
            len(places) > 1
            and places[1].name != "generator"
            and (places[1].name in COUNTS or places[1].default is inspect.Parameter.empty)
        ):
            count = ""
        wanted = {places[0].name if places else "", count, "generator"} | (
            {places[1].name} if count == "" else set()
        )
        for parameter in parameters:
            needed = parameter.default is parameter.empty and parameter.kind in (
                parameter.POSITIONAL_ONLY,
                parameter.POSITIONAL_OR_KEYWORD,
                parameter.KEYWORD_ONLY,
            )
            if needed and parameter.name not in wanted:
                raise InputError(
                    f"{called}, which needs {parameter.name!r}",
                    SIGNATURE,
                    "give it a default, or use functools.partial",
                )
        return Calling(function, called, count, generator, takes)

    def __call__(self, logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """ids (n, batch) for logits (batch, vocab); what the function draws comes from ``generator`` if it
        takes one, else from torch's global one (see :meth:`seeded`)."""
        given = self._given(logits)
        keywords: dict[str, Any] = {"generator": generator} if self.generator else {}
        if self.count is None:
            rows = given.repeat(n, 1)  # a copy: such functions often write into their logits
            ids = self.function(rows, **keywords)
            return self._shaped(ids, (n * len(logits),), n, logits)
        if self.count:
            ids = self.function(given, **{self.count: n}, **keywords)
        else:
            ids = self.function(given, n, **keywords)
        return self._shaped(ids, (n, len(logits)), n, logits)

    def _given(self, logits: Tensor) -> Tensor:
        if self.takes == "logits":
            return logits
        return logits.softmax(-1) if self.takes == "probs" else logits.log_softmax(-1)

    def _shaped(self, ids: Any, expected: tuple[int, ...], n: int, logits: Tensor) -> Tensor:
        if not isinstance(ids, Tensor):
            raise InputError(
                f"a {type(ids).__name__} from {self.name}",
                "an integer tensor of token ids",
                "return ids, such as argmax",
            )
        if ids.is_floating_point() or ids.is_complex() or ids.dtype is torch.bool:
            raise InputError(
                f"{ids.dtype} ids from {self.name}", "an integer tensor of token ids", "return indices"
            )
        loose = self.count is None and tuple(ids.shape) == (*expected, 1)
        if tuple(ids.shape) != expected and not loose:
            what = "(n, batch)" if self.count is not None else "(rows,)"
            raise InputError(
                f"ids of shape {tuple(ids.shape)} from {self.name}",
                f"{what} = {expected} for logits {tuple(logits.shape)}",
                "draw n tokens for each row of logits"
                if self.count is not None
                else "draw one token for each row",
            )
        return ids.reshape(n, len(logits))

    def seeded(self, logits: Tensor, n: int, state: Tensor) -> Tensor:
        """One call from a state of a generator on the device of the logits; torch's global one is left as
        it was."""
        generator = torch.Generator(device=logits.device)
        generator.set_state(state)
        with global_state(logits.device, state):
            return self(logits, n, generator)


@contextmanager
def global_state(device: torch.device, state: Tensor) -> Iterator[None]:
    """torch's global generator of a device in a given state, and afterwards as it was."""
    if device.type == "cuda":
        with torch.random.fork_rng(devices=[device]):
            torch.cuda.set_rng_state(state, device)
            yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(state)
        yield


def start(seed: int, device: torch.device) -> Tensor:
    """The state of a generator of a device after seeding."""
    return torch.Generator(device=device).manual_seed(seed).get_state()
