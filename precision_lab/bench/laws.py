"""What exact laws cost, by vocabulary and by bits of the noise."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from typing import Any

import numpy as np

from ..atoms import Atoms
from ..formats import BF16, FP32
from ..laws.argmax import argmax_law
from ..samplers.gumbel_max import gumbel_max
from ..targets.synthetic import normal, uniform, zipf


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
