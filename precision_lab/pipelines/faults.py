"""What is wrong with published processors, each fault shown on one row; and what the order of two steps is
worth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..laws.law import target_law
from ..statistics import total_variation
from ..targets import load_capture, parse_target
from ..types import Float
from .pipeline import Pipeline
from .published import PROCESSORS, Settings
from .texts import parse_pipeline

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class Fault:
    """``target``: a name, or logits.  ``meant``: the pipeline that is wanted; None: what the library's own
    rules mean."""

    what: str
    processor: str
    dtype: str
    target: str | tuple[float, ...]
    settings: Settings
    meant: str | None = None

    @property
    def logits(self) -> Float:
        """(vocab,) as the processor has them: rounded to its dtype."""
        row = parse_target(self.target).logits if isinstance(self.target, str) else np.array(self.target)
        return torch.from_numpy(row).to(DTYPES[self.dtype]).double().numpy()

    def row(self) -> dict[str, Any]:
        """The fault in numbers: tokens meant and kept, beyond the rule and lost, doubtful ones set aside."""
        logits = self.logits
        processor = PROCESSORS[self.processor]
        meant = processor.meaning(self.settings) if self.meant is None else parse_pipeline(self.meant)
        given = torch.from_numpy(logits).to(DTYPES[self.dtype])[None]
        left = processor(given, self.settings)[0].double().numpy()
        got = ~np.isneginf(left)
        law = meant.law(logits)
        wanted = ~np.isneginf(law.log_probs)
        clear = np.ones(len(logits), dtype=bool)
        doubts = meant.doubtful(logits, self.dtype)
        clear[[doubt.token for doubt in doubts]] = False
        # a row without a token has no law, and is off by everything
        distance = total_variation(target_law(left), law) if got.any() else 1.0
        return {
            "fault": self.what,
            "processor": self.processor,
            "dtype": self.dtype,
            "target": self.target if isinstance(self.target, str) else f"{len(self.target)} logits",
            "settings": str(self.settings),
            "meant": str(meant),
            "tokens_meant": int(wanted.sum()),
            "tokens_kept": int(got.sum()),
            "beyond": int((got & ~wanted & clear).sum()),
            "lost": int((wanted & ~got & clear).sum()),
            "in_doubt": len(doubts),
            "total_variation": distance,
            "emulated": processor.emulated or "",
            "source": processor.source_ref,
        }


_EVEN = (0.0, 0.0, 0.0, 0.0)
_HALVES = tuple(math.log(p) for p in (0.5, 0.25, 0.125, 0.125))

FAULTS: tuple[Fault, ...] = (
    Fault(
        "mass saturates: the tail is never reached",
        "megatron",
        "bfloat16",
        "zipf[vocab=32768]",
        Settings(top_p=0.95),
        "top_p=0.95",
    ),
    Fault(
        "p rounds to 1: top-p does nothing",
        "dream",
        "bfloat16",
        "zipf[vocab=32768]",
        Settings(top_p=0.999),
        "top_p=0.999",
    ),
    Fault("everything masked at a small p", "mlx_lm", "float32", "zipf[vocab=4096]", Settings(top_p=1e-8)),
    Fault("everything masked at a small p", "mlx_lm", "float16", "zipf[vocab=4096]", Settings(top_p=1e-4)),
    Fault("everything masked at a small p", "mlx_lm", "bfloat16", "zipf[vocab=4096]", Settings(top_p=1e-3)),
    Fault("crossing token dropped", "without_the_shift", "float32", _HALVES, Settings(top_p=0.7), "top_p=0.7"),
    Fault(
        "more than k kept where logits tie",
        "huggingface",
        "bfloat16",
        "normal[vocab=32000]",
        Settings(top_k=50),
        "top_k=50",
    ),
    Fault(
        "more than k kept where logits tie",
        "vllm",
        "bfloat16",
        "normal[vocab=32000]",
        Settings(top_k=50),
        "top_k=50",
    ),
    Fault(
        "a temperature in half precision makes ties, and more than k stay",
        "huggingface",
        "bfloat16",
        tuple(1.5 + place / 128 for place in range(12)),
        Settings(temperature=1.3, top_k=6),
        "temperature=1.3 > top_k=6",
    ),
    Fault(
        "a token too many where the mass is p",
        "dream",
        "float32",
        _EVEN,
        Settings(top_p=0.5),
        "top_p=0.5 sums=pairwise",
    ),
    Fault(
        "a token too many where the mass is p",
        "sglang_torch",
        "float32",
        _EVEN,
        Settings(top_p=0.5),
        "top_p=0.5 sums=pairwise",
    ),
    Fault(
        "more than p kept where logits tie", "flashinfer", "float32", _EVEN, Settings(top_p=0.4), "top_p=0.4"
    ),
    Fault(
        "min-p does nothing: ratio times the largest probability underflows",
        "huggingface",
        "float16",
        "normal[vocab=131072,sd=2]",
        Settings(min_p=2e-6),
    ),
    Fault(
        "order swapped: temperature last",
        "llama_cpp",
        "float32",
        "zipf[vocab=4096]",
        Settings(temperature=0.7, top_k=40, top_p=0.8),
        "temperature=0.7 > top_k=40 > top_p=0.8",
    ),
    Fault(
        "order swapped: temperature last",
        "mlx_lm",
        "float32",
        "zipf[vocab=4096]",
        Settings(temperature=1.5, min_p=0.05),
        "temperature=1.5 > min_p=0.05",
    ),
    Fault(
        "top-p of the whole row after top-k",
        "sglang_torch",
        "float32",
        "zipf[vocab=4096]",
        Settings(top_k=20, top_p=0.5),
        "top_k=20 > top_p=0.5",
    ),
    Fault(
        "temperature 0 is 1e-5: near logits stay random",
        "gpt_fast",
        "float32",
        (1e-5, 0.0, -1.0),
        Settings(temperature=0),
        "temperature=0",
    ),
)

# Pairs of one pipeline in two orders.
ORDERS: tuple[tuple[str, str], ...] = (
    ("temperature=0.7 > top_p=0.9", "top_p=0.9 > temperature=0.7"),
    ("temperature=1.3 > top_p=0.9", "top_p=0.9 > temperature=1.3"),
    ("temperature=0.7 > min_p=0.05", "min_p=0.05 > temperature=0.7"),
    ("temperature=1.5 > min_p=0.1", "min_p=0.1 > temperature=1.5"),
    ("top_k=50 > top_p=0.9", "top_p=0.9 > top_k=50"),
    ("top_k=50 > top_p=0.9", "top_k=50 > top_p=0.9 mass=whole"),
    (
        "temperature=0.8 > top_k=40 > top_p=0.95 > min_p=0.05",
        "top_k=40 > top_p=0.95 > min_p=0.05 > temperature=0.8",
    ),
)


def between(first: Pipeline, second: Pipeline, rows: Float) -> Float:
    """(rows,) total variation between the laws of two pipelines at each row of logits."""
    return np.array([total_variation(first.law(row), second.law(row)) for row in rows])


def order_rows(captures: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """For each pair of :data:`ORDERS` and each file of real rows: mean and largest total variation between
    the two."""
    for model, path in captures.items():
        rows = load_capture(path).logits.astype(np.float64)
        for texts in ORDERS:
            first, second = (parse_pipeline(text) for text in texts)
            distance = between(first, second, rows)
            yield {
                "model": model,
                "first": texts[0],
                "second": texts[1],
                "rows": len(rows),
                "mean_total_variation": float(distance.mean()),
                "largest_total_variation": float(distance.max()),
                "rows_above_0.01": int((distance > 0.01).sum()),
            }


__all__ = ["FAULTS", "ORDERS", "Fault", "between", "order_rows"]
