"""Cost beside fidelity: every sampler on the same logits, side by side in one run, as ratios to a rival."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch

from .atoms import Atoms
from .devices import checked
from .formats import BF16, FP32
from .laws.argmax import argmax_law
from .laws.law import target_law
from .samplers import SAMPLERS
from .samplers.gumbel_max import gumbel_max
from .statistics import total_variation
from .targets.synthetic import mdm_step, normal, uniform, zipf

RIVAL = "gumbel_max_fp32"


def bench(
    *, vocab: int = 8192, rows: int = 64, rounds: int = 7, unmask: float = 1e-3, device: str = "cpu"
) -> list[dict[str, Any]]:
    """One row per sampler on an ancestral step of Zipf(1): median time per token, ratio to gumbel_max_fp32
    (median and range over rounds; the rounds visit the samplers in turn, so a drifting machine drifts for
    all), total variation from the target and seconds to compute the law. ``device``: where the samplers
    draw; the law is that of the recipe as it is declared, computed on the CPU."""
    logits = torch.from_numpy(mdm_step(zipf(vocab), unmask)).float()
    batch = logits.expand(rows, -1).contiguous().to(checked(device))
    target = target_law(logits.double().numpy())
    seconds: dict[str, list[float]] = {name: [] for name in SAMPLERS}
    for round_ in range(rounds + 1):
        print(f"round {round_}/{rounds}", file=sys.stderr)
        for name, sampler in SAMPLERS.items():
            rng = torch.Generator(device=device).manual_seed(round_)
            _wait(device)
            started = time.perf_counter()
            sampler.draw(batch, 1, rng=rng)
            _wait(device)
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


def _wait(device: str) -> None:
    """A GPU answers before it has computed: wait until it has."""
    if device == "cuda":
        torch.cuda.synchronize()


def bench_laws(*, rounds: int = 1) -> list[dict[str, Any]]:
    """What an exact law costs: seconds, (vocabulary, bits) by (vocabulary, bits), with its error and the
    number of Monte-Carlo draws, 1 / (4 error^2), whose standard error would be as small. The noise is
    Gumbel from a grid of b bits, 24 being torch.rand's own table; rows are Zipf(1) (no two logits equal)
    and logits in bfloat16 (many equal)."""
    noise = {bits: _grid_gumbel(bits) for bits in (12, 16, 20)} | {24: gumbel_max("fp32").noise_atoms()}
    argmax_law(np.zeros(2), noise[12], combine="add", score=FP32)  # compile
    table = []
    for vocab, bits, row in [
        (8_192, 24, "zipf"), (50_257, 24, "zipf"), (128_256, 12, "zipf"), (128_256, 16, "zipf"), (128_256, 20, "zipf"),
        (128_256, 24, "zipf"), (128_256, 24, "normal, bfloat16"), (128_256, 24, "uniform"), (262_144, 24, "zipf"),
    ]:  # fmt: skip
        print(f"law of {row}, vocab {vocab}, {bits} bits", file=sys.stderr)
        logits = {"zipf": zipf, "uniform": uniform}.get(row, lambda v: BF16.round(normal(v)))(vocab)
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            law = argmax_law(FP32.round(logits), noise[bits], combine="add", score=FP32)
            seconds.append(time.perf_counter() - started)
        table.append(
            {
                "row": row,
                "vocab": vocab,
                "bits": bits,
                "seconds": statistics.median(seconds),
                "error": law.error,
                "relative": law.relative,
                "draws_for_the_same_error": 0.25 / law.error**2,
                "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            }
        )
    return table


def _grid_gumbel(bits: int) -> Atoms:
    def gumbel(u: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return FP32.round(-np.log(-np.log(u)))

    return Atoms.of(np.ldexp(np.arange(1 << bits, dtype=np.float64), -bits), 1, bits).push(gumbel)
