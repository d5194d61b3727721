"""Text to steps: ``temperature=0.7 > top_k=50 ties=all > top_p=0.95``, in the order in which they act."""

from __future__ import annotations

from dataclasses import fields

from .errors import InputError, unknown_name
from .steps import STEPS, Step

EXAMPLE = "for example temperature=0.7 > top_k=50 > top_p=0.95"


def parse_steps(text: str) -> tuple[Step, ...]:
    """The steps of ``text``. ``>`` stands between steps; after a step's value come its rules, ``rule=word``.

    InputError, which names the step, for an unknown one, for what is no number, and for an unknown rule.
    """
    parts = [part.strip() for part in text.split(">")]
    if not all(parts):
        raise InputError(f"pipeline {text!r}", "steps with > between them", EXAMPLE)
    return tuple(_step(part) for part in parts)


def _step(text: str) -> Step:
    words = text.split()
    pairs = [word.partition("=") for word in words]
    name, _, value = pairs[0]
    if name not in STEPS:
        refused = unknown_name("step", name, STEPS)
        raise InputError(refused.got, f"one of {', '.join(STEPS)}", EXAMPLE)
    for word, (_, equals, after) in zip(words, pairs, strict=True):
        if not equals or not after:
            raise InputError(f"{word!r} in {text!r}", "name=value", EXAMPLE)
    kind = STEPS[name]
    rules: dict[str, str] = {}
    known = [field.name for field in fields(kind)][1:]
    for rule, _, chosen in pairs[1:]:
        if rule not in known:
            expected = " or ".join(known) if known else "no rule"
            raise InputError(f"rule {rule!r} of {name}", expected, "steps have > between them")
        if rule in rules:
            raise InputError(f"{rule} twice in {text!r}", "each rule once", "leave one out")
        rules[rule] = chosen
    try:
        number = float(value)
    except ValueError:
        raise InputError(f"{name}={value!r}", "a number", EXAMPLE) from None
    # every kind takes its value first, whatever it calls it
    return kind(number, **rules)  # type: ignore[arg-type]
