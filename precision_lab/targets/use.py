"""What a sampler's draws are for: next tokens, the ancestral steps of masked diffusion, or its first-hitting
draws."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InputError
from .synthetic import mdm_step
from .target import Target


@dataclass(frozen=True)
class Use:
    """``name``: lm, mdm:N or first-hitting.  ``steps``: N of ancestral sampling, None elsewhere."""

    name: str
    steps: int | None = None

    @property
    def described(self) -> str:
        """The use in words: "next tokens", "4,096 ancestral steps", "first-hitting draws"."""
        if self.steps is not None:
            return f"{self.steps:,} ancestral steps"
        return "next tokens" if self.name == "lm" else "first-hitting draws"

    def of(self, target: Target) -> Target:
        """What is drawn from in this use of a row of token logits.

        lm and first-hitting: one token from the row as it is.  mdm:N: the first of N ancestral steps with a
        linear schedule, which unmasks with r = 1/N (later steps with r = 1/(N - 1), ..., 1); the mask is the
        last token.
        InputError for a step of a target that is a step already.
        """
        if self.steps is None:
            return target
        if target.mask is not None:
            raise InputError(
                f"--for {self.name} with a target that is a step already",
                "a row of token logits",
                "leave --for out",
            )
        logits = mdm_step(target.logits, 1 / self.steps)
        name = f"{target.name}, step 1 of {self.steps}"
        return Target(name, logits, target.provenance, mask=len(logits) - 1)


NEXT_TOKEN = Use("lm")
FIRST_HITTING = Use("first-hitting")


def parse_use(text: str) -> Use:
    """``lm``, ``mdm:N`` or ``first-hitting``. InputError for another use."""
    for use in (NEXT_TOKEN, FIRST_HITTING):
        if text == use.name:
            return use
    match = re.fullmatch(r"mdm:(\d{1,9})", text)
    if not match or not int(match[1]):
        raise InputError(
            f"--for {text}", "lm, mdm:N with N steps, or first-hitting", "for example --for mdm:4096"
        )
    return Use(text, int(match[1]))
