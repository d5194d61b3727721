"""Text to pipelines: steps in an order, ``temperature=0.7 > top_k=50``, or a published processor at its settings,
``vllm: temperature=0.7, top_k=50``."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from ..errors import InputError, unknown_name
from ..grammar import parse_steps
from .pipeline import Pipeline
from .published import PROCESSORS, Settings

EXAMPLE = "for example vllm: temperature=0.7, top_k=50"


@dataclass(frozen=True)
class PublishedPipeline(Pipeline):
    """A processor of :data:`~.published.PROCESSORS` at ``settings``.

    Its laws are those of the steps that its rules mean, in its order, with its ties and its crossing;
    :meth:`apply` is its own arithmetic, in the dtype of the logits.
    """

    processor: str
    settings: Settings

    def __str__(self) -> str:
        given = {name: value for name, value in vars(self.settings).items() if value is not None}
        return f"{self.processor}: {', '.join(f'{name}={value!r}' for name, value in given.items())}"

    def apply(self, logits: Tensor) -> Tensor:
        """(rows, vocab) logits, or one row, as the published code leaves them; dropped tokens are -inf."""
        left = PROCESSORS[self.processor](logits.reshape(-1, logits.shape[-1]), self.settings)
        return left.reshape(logits.shape)


def parse_pipeline(text: str) -> Pipeline:
    """``temperature=0.7 > top_k=50 > top_p=0.95 > min_p=0.05``, or a processor by name with its settings.

    Errors: InputError, which names what is wrong.
    """
    if not isinstance(text, str):
        raise InputError(f"a pipeline of type {type(text).__name__}", "text, or a Pipeline", "Pipeline(steps)")
    name, colon, given = text.partition(":")
    if not colon:
        return Pipeline(parse_steps(text))
    name = name.strip()
    if name not in PROCESSORS:
        raise unknown_name("processor", name, PROCESSORS)
    settings = Settings(**_settings(given))
    steps = PROCESSORS[name].steps(settings)
    taken = {step.name for step in steps}
    left = [key for key, value in vars(settings).items() if value is not None and key not in taken]
    if left or not steps:
        can = ", ".join(step.name for step in PROCESSORS[name].steps(Settings(1.0, 1, 0.5, 0.5)))
        raise InputError(f"{text!r}", f"settings that {name} has: {can}", "leave the others out")
    return PublishedPipeline(tuple(steps), name, settings)


def _settings(text: str) -> dict[str, float]:
    known = [field.name for field in fields(Settings)]
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (each.strip() for each in part.partition("="))
        if name not in known:
            raise unknown_name("setting", name, known)
        if name in found:
            raise InputError(f"{name} twice in {text.strip()!r}", "each setting once", "leave one out")
        try:
            found[name] = int(value) if name == "top_k" else float(value)
        except ValueError:
            raise InputError(f"{name}={value!r}", "a number", EXAMPLE) from None
    return found
