"""A target: a name, one row of logits, and where it comes from. ``zipf[vocab=50257]`` is a name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import InputError, unknown_name
from ..types import Float
from . import synthetic


@dataclass(frozen=True)
class Target:
    """``logits``: (vocab,) float64 nats, -inf where impossible. ``mask``: the mask's index, for a step of
    masked diffusion."""

    name: str
    logits: Float
    provenance: str
    mask: int | None = None

    def at_temperature(self, temperature: float) -> Target:
        """Logits divided by ``temperature``. InputError where that is not above 0, and for a step with a
        mask."""
        if self.mask is not None:
            raise InputError(
                "a temperature of a step with a mask", "one of its tokens", "temper the logits first"
            )
        if not 0 < temperature < float("inf"):
            raise InputError(f"temperature {temperature}", "a positive number", "change it")
        return replace(self, name=f"{self.name} at {temperature:g}", logits=self.logits / temperature)


TARGETS: dict[str, Callable[..., Float]] = {
    "uniform": synthetic.uniform,
    "zipf": synthetic.zipf,
    "geometric": synthetic.geometric,
    "dirichlet": synthetic.dirichlet,
    "normal": synthetic.normal,
    "head_and_tail": synthetic.head_and_tail,
    "mdm_step": synthetic.mdm_step_of_zipf,
    "ends": synthetic.ends,
    "shifted": synthetic.shifted,
    "spread": synthetic.spread,
    "masked": synthetic.masked,
}


def parse_target(spec: str) -> Target:
    """``name`` or ``name[parameter=value,...]`` -> :class:`Target`. InputError names the parameters it
    knows."""
    match = re.fullmatch(r"(\w+)(?:\[(.*)\])?", spec.strip())
    if not match:
        raise InputError(f"target {spec!r}", "name[parameter=value,...]", "for example zipf[vocab=50257]")
    name, body = match.groups()
    if name not in TARGETS:
        raise unknown_name("target", name, TARGETS)
    known = inspect.signature(TARGETS[name]).parameters
    arguments: dict[str, float | int] = {}
    for item in filter(None, (part.strip() for part in (body or "").split(","))):
        key, _, text = item.partition("=")
        if key not in known:
            raise InputError(f"parameter {key!r} of {name}", " or ".join(known), "check the spelling")
        try:
            arguments[key] = int(text) if known[key].annotation == "int" else float(text)
        except ValueError:
            raise InputError(
                f"{key}={text!r}", f"a number ({known[key].annotation})", "write key=value"
            ) from None
    logits = TARGETS[name](**arguments)
    mask = len(logits) - 1 if name == "mdm_step" else None
    return Target(spec, logits, "synthetic", mask)
