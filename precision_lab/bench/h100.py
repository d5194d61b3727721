"""Times recorded on an NVIDIA H100 (``h100.json``, beside this file): a reference for machines that have
none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import read_json
from .rivals import REFERENCE

RECORDED = Path(__file__).with_name("h100.json")
MARK = "measured on an H100"


def rows(vocabs: tuple[int, ...] | None = None, batches: tuple[int, ...] | None = None) -> list[dict[str, Any]]:
    """A row for each sampler, vocabulary and batch that was timed: microseconds a token, and the ratio to
    eager float32 Gumbel-max on that card. No spread was recorded, so there is no interval."""
    found = read_json(RECORDED)
    table = []
    for cell in found["rows"]:
        if vocabs is not None and cell["vocab"] not in vocabs:
            continue
        if batches is not None and cell["batch"] not in batches:
            continue
        times = cell["milliseconds"]
        for name, milliseconds in times.items():
            if milliseconds is None:
                continue
            table.append(
                {
                    "device": f"{found['device']} ({MARK})",
                    "vocab": cell["vocab"],
                    "batch": cell["batch"],
                    "sampler": name,
                    "microseconds": milliseconds * 1e3 / cell["batch"],
                    "ratio": milliseconds / times[REFERENCE],
                }
            )
    return table
