"""What an adapter and decoding with it add to a network: seconds as ratios within one run, memory in arrays
of logits."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..mdm.adapters import Adapted
from ..mdm.decode import ancestral, confidence_ordered, event_driven, first_hitting, two_stage
from .timing import peak_bytes

TOKENS = 20  # that a decoder decodes
LEAST_VOCAB = 200  # half of it below the mask


def bench_models(*, vocab: int = 50_304, length: int = 512, rounds: int = 5) -> list[dict[str, Any]]:
    """A row each: a call of the network alone and through the adapter, and ``TOKENS`` tokens by every
    decoder of a network that costs only the writing of its float32 logits, (1, length, vocab).

    ``seconds``: median over rounds; ``ratio``: to the network alone in the same round, of a call's work as
    often as the decoder called, the median too; ``ratio_least`` and ``ratio_most``: of all rounds, no
    interval. ``peak_arrays``: the most memory that was held above what was before, in arrays of logits, the
    network's own answer among them (Linux; NaN elsewhere). InputError for a vocabulary below
    :data:`LEAST_VOCAB`.
    """
    if vocab < LEAST_VOCAB:
        raise InputError(f"vocab = {vocab}", f"{LEAST_VOCAB} or more", "the mask stands 100 before its end")
    row = torch.randn(vocab, generator=torch.Generator().manual_seed(0))
    mask = vocab - 100

    def forward(ids: Tensor) -> Tensor:
        return row.expand(*ids.shape, vocab).contiguous()

    network = Adapted(forward, width=vocab, mask_id=mask, never=range(vocab - 47, vocab))
    text = torch.zeros(1, length, dtype=torch.int64)
    text[0, -TOKENS:] = mask
    ours = network.from_public(text)
    size: dict[str, Any] = {"batch": 1, "length": length, "given": text}

    def rng() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def events() -> int:
        return event_driven(network, "gumbel_max_fp64", steps=1000, rng=np.random.default_rng(0), **size).nfe

    runs: dict[str, Callable[[], int]] = {
        "network alone": lambda: len(forward(text)),
        "a call through the adapter": lambda: len(network.hidden(ours)),
        "first_hitting": lambda: first_hitting(network, "gumbel_max_fp64", rng=rng(), **size).nfe,
        "two_stage": lambda: two_stage(network, "gumbel_max_fp64", steps=1000, rng=rng(), **size).nfe,
        "ancestral, faithful": lambda: ancestral(network, steps=1000, rng=rng(), **size).nfe,
        "confidence_ordered": lambda: confidence_ordered(network, "gumbel_max_fp64", rng=rng(), **size).nfe,
        "event_driven": events,
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    calls: dict[str, int] = {}
    peaks: dict[str, float] = {}
    for name, run in runs.items():
        print(f"memory of {name}", file=sys.stderr, flush=True)
        run()  # warms up
        peaks[name] = peak_bytes(run) / (4 * length * vocab)
    for round_ in range(rounds):
        print(f"round {round_ + 1}/{rounds}", file=sys.stderr, flush=True)
        for name, run in runs.items():
            started = time.perf_counter()
            calls[name] = run()
            seconds[name].append(time.perf_counter() - started)
    alone = seconds["network alone"]
    table = []
    for name, found in seconds.items():
        ratios = [a / (calls[name] * b) for a, b in zip(found, alone, strict=True)]
        table.append(
            {
                "run": name,
                "network_calls": calls[name],
                "seconds": statistics.median(found),
                "ratio": statistics.median(ratios),
                "ratio_least": min(ratios),
                "ratio_most": max(ratios),
                "peak_arrays": peaks[name],
            }
        )
    return table
