"""The benchmark of `make gpu`: draws of a batch beside a copy of its logits, in rounds, one after another.

Bandwidth is that of reading the logits once, against a copy of the same logits, which moves them twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precision_lab.faithful import categorical, kernels
from precision_lab.faithful.truncation import plan_of
from precision_lab.faithful.words import keys_of
from precision_lab.pipelines import parse_pipeline

PIPELINE = "temperature=0.7 > top_k=50 > top_p=0.95 > min_p=0.05"
SHAPES = [(1, 128_256), (64, 128_256), (1024, 128_256), (1024, 32_000)]
DRY_SHAPES = [(2, 1000)]
DTYPES = [torch.float32, torch.bfloat16]
ROUNDS = 7
LEAST_SECONDS = 2e-3  # of one measurement
COPY = "copy"
Call = Callable[[], object]


def contenders(logits: Tensor) -> dict[str, Call]:
    """What is timed on these logits, by name; those that need kernels where there are any."""
    rng = torch.Generator(logits.device).manual_seed(0)
    other = torch.empty_like(logits)
    pipeline = parse_pipeline(PIPELINE)

    def gumbel() -> Tensor:
        u = torch.rand(logits.shape, generator=rng, device=logits.device)
        return (logits - torch.log(-torch.log(u))).argmax(-1)

    def sorted_pipeline() -> Tensor:
        return torch.multinomial(pipeline.apply(logits).float().softmax(-1), 1, generator=rng)

    found: dict[str, Call] = {
        COPY: lambda: other.copy_(logits),
        "amax": lambda: logits.amax(-1),
        "torch.multinomial of softmax": lambda: torch.multinomial(logits.float().softmax(-1), 1, generator=rng),
        "argmax(logits - log(-log(rand)))": gumbel,
        "categorical": lambda: categorical(logits, generator=rng),
        "categorical, pipeline": lambda: categorical(logits, generator=rng, pipeline=PIPELINE),
        "sorted pipeline, torch.multinomial": sorted_pipeline,
    }
    if logits.device.type == "cuda" and kernels.available():
        found |= on_the_card(logits)
    return found


def on_the_card(logits: Tensor) -> dict[str, Call]:
    """Kernels alone, nothing waited for; for one row also as a graph, beside one of amax."""
    from precision_lab.faithful.kernels import launch

    rows = len(logits)
    numbers = np.arange(rows)
    words = launch.words_on(logits.device, keys_of([0] * rows, rows), numbers, 0 * numbers)
    plan = plan_of(PIPELINE)
    found: dict[str, Call] = {
        "kernels": lambda: launch.draw(logits, words),
        "kernels, pipeline": lambda: launch.draw(logits, words, plan=plan),
        "fused Gumbel-max, float32": lambda: launch.gumbel_max(logits, 1),
        "fused Gumbel-max, float64": lambda: launch.gumbel_max(logits, 1, torch.float64),
    }
    if rows == 1:
        found["kernels, graph"] = graph_of(found["kernels"])
        found["amax, graph"] = graph_of(lambda: logits.amax(-1))
    return found


def graph_of(call: Call) -> Call:
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def seconds_of(call: Call, repeats: int, device: str) -> float:
    """Of one call, of ``repeats`` in a row."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def rows_of_shape(
    rows: int, vocab: int, dtype: torch.dtype, device: str, deadline: float
) -> list[dict[str, Any]]:
    """One line a contender: median, least and most microseconds of the rounds made before the deadline, and the
    bandwidth and time as shares of the copy's, in the median over rounds."""
    rng = torch.Generator(device).manual_seed(rows)
    logits = (torch.randn(rows, vocab, generator=rng, device=device) * 3).to(dtype)
    calls = contenders(logits)
    repeats = {}
    for name, call in calls.items():
        call()  # compiles
        repeats[name] = max(1, round(LEAST_SECONDS / seconds_of(call, 1, device)))
    rounds: list[dict[str, float]] = []
    while len(rounds) < ROUNDS and (time.monotonic() < deadline or not rounds):
        rounds.append({name: seconds_of(call, repeats[name], device) for name, call in calls.items()})
    lines = []
    for name in calls:
        times = np.array([each[name] for each in rounds])
        of_copy = times / np.array([each[COPY] for each in rounds])
        line = {"call": name, "rows": rows, "vocab": vocab, "dtype": str(dtype).removeprefix("torch.")}
        line |= {"rounds": len(rounds), "us": 1e6 * float(np.median(times))}
        line |= {"us_least": 1e6 * float(times.min()), "us_most": 1e6 * float(times.max())}
        line |= {
            "time_of_copy": float(np.median(of_copy)),
            "bandwidth_of_copy": float(np.median(0.5 / of_copy)),
        }
        lines.append(line)
    return lines


def benchmark(device: str, deadline: float) -> dict[str, Any]:
    """Every shape and dtype until the deadline (time.monotonic); ok where all were timed."""
    lines: list[dict[str, Any]] = []
    left_out = []
    for rows, vocab in SHAPES if device == "cuda" else DRY_SHAPES:
        for dtype in DTYPES:
            if time.monotonic() > deadline:
                left_out.append(f"{rows} x {vocab} {dtype}")
                continue
            lines += rows_of_shape(rows, vocab, dtype, device, deadline)
            if device == "cuda":
                torch.cuda.empty_cache()
    return {"ok": not left_out, "triton": kernels.available(), "left_out": left_out, "lines": lines}
