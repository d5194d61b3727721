"""Cost beside fidelity: every sampler on the same logits, side by side in one run, as ratios to a rival."""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import numpy as np
import torch

from .laws.law import target_law
from .samplers import SAMPLERS
from .statistics import total_variation
from .targets.synthetic import mdm_step, zipf

RIVAL = "gumbel_max_fp32"


def bench(*, vocab: int = 8192, rows: int = 64, rounds: int = 7, unmask: float = 1e-3) -> list[dict[str, Any]]:
    """One row per sampler on an ancestral step of Zipf(1): median time per token, ratio to gumbel_max_fp32 (median and
    range over rounds; the rounds visit the samplers in turn, so a drifting machine drifts for all), total variation
    from the target and seconds to compute the law."""
    logits = torch.from_numpy(mdm_step(zipf(vocab), unmask)).float()
    batch, target = logits.expand(rows, -1).contiguous(), target_law(logits.double().numpy())
    seconds: dict[str, list[float]] = {name: [] for name in SAMPLERS}
    for round_ in range(rounds + 1):
        print(f"round {round_}/{rounds}", file=sys.stderr)
        for name, sampler in SAMPLERS.items():
            rng = torch.Generator().manual_seed(round_)
            started = time.perf_counter()
            sampler.draw(batch, 1, rng=rng)
            seconds[name].append(time.perf_counter() - started)
    table = []
    for name, sampler in SAMPLERS.items():
        times = seconds[name][1:]  # the first round warms up
        ratios = [a / b for a, b in zip(times, seconds[RIVAL][1:], strict=True)]
        started = time.perf_counter()
        law = sampler.law(logits)
        table.append(
            {
                "sampler": name,
                "us_per_token": statistics.median(times) / rows * 1e6,
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "total_variation": total_variation(law, target),
                "law_error": law.error,
                "law_seconds": time.perf_counter() - started,
            }
        )
    return sorted(table, key=lambda row: float(np.nan_to_num(row["total_variation"])))
