"""Text by any decoder, by name, and what is measured of each sequence: one tidy row each."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import unknown_name
from ..formats import BF16, FP64, FloatFormat
from ..laws.process import StepLaw, faithful_step, lattice_step, step_law_of, truncated_step
from ..samplers import SAMPLERS
from ..samplers.gumbel_max import FP32_CEILING
from ..statistics import repetition, sequence_entropy
from . import decode
from .decode import Decoded

STEP_LAWS: dict[
    str, StepLaw
] = {  # samplers whose law of a step costs milliseconds: closed forms, enumerations of few atoms
    "gumbel_max_fp32": lattice_step,
    "gumbel_max_fp64": faithful_step,
    "gumbel_max_fp64_truncated": partial(truncated_step, ceiling=FP32_CEILING),
    "gumbel_max_fp16": step_law_of(SAMPLERS["gumbel_max_fp16"].law),
    "gumbel_max_bf16": step_law_of(SAMPLERS["gumbel_max_bf16"].law),
}
EXCESS = {"gumbel_max_fp16": 2.0**-11, "gumbel_max_bf16": 2.0**-8}  # twice P(u = 0): what a step law may give above r
VARIANTS: dict[str, dict[str, Any]] = {  # of first-hitting decoding
    "first_hitting": {},
    "parallel": {},
    "extrapolated": {"extrapolate": True},
    "corrected": {"correct": True},
}
CONFIDENCE: dict[str, FloatFormat] = {"confidence_ordered": FP64, "confidence_ordered_bf16": BF16}
DECODERS = ("event_driven", "ancestral", "two_stage", "autoregressive", *VARIANTS, *CONFIDENCE)


def batches(total: int, size: int) -> list[dict[str, int]]:
    """``total`` sequences as cells of at most ``size``: their number and the place in the row of cells."""
    return [{"sequences": min(size, total - i), "part": i // size} for i in range(0, total, size)]


def generate(model: Any, decoder: str, sampler: str, steps: int = 0, **common: Any) -> Decoded:
    """``decoder`` of :data:`DECODERS` with a sampler by name; ``common``: batch, length, rng and what the decoder knows.

    ``steps``: N of ancestral, event_driven and two_stage decoding, network calls of the parallel kinds; else unused.
    "parallel", "extrapolated", "corrected": first-hitting decoding with ``steps`` network calls; "confidence_ordered" and the
    same with confidences rounded to bfloat16.
    Raises InputError for an unknown name, or a sampler that event-driven decoding has no law of a step for.
    """
    if decoder not in DECODERS:
        raise unknown_name("decoder", decoder, DECODERS)
    known = STEP_LAWS if decoder == "event_driven" else SAMPLERS
    if sampler not in known:
        raise unknown_name("sampler", sampler, known)
    if decoder == "event_driven":
        more = {"excess": EXCESS[sampler]} if sampler in EXCESS else {}
        return decode.event_driven(model, STEP_LAWS[sampler], steps=steps, **(more | common))
    if decoder in ("ancestral", "two_stage"):
        return getattr(decode, decoder)(model, SAMPLERS[sampler], steps=steps, **common)
    if decoder == "autoregressive":
        return decode.autoregressive(model, SAMPLERS[sampler], **common)
    if decoder in CONFIDENCE:
        return decode.confidence_ordered(
            model, SAMPLERS[sampler], steps=steps, confidence_format=CONFIDENCE[decoder], **common
        )
    calls = None if decoder == "first_hitting" else decode.even_counts(common["length"], steps)
    return decode.first_hitting(model, SAMPLERS[sampler], per_call=calls, **(VARIANTS[decoder] | common))


def rows(done: Decoded) -> list[dict[str, Any]]:
    """One row a sequence: the ids, in a string; sequence entropy in nats (plug-in, as published); different n-grams over
    n-grams (n = 1, 2) and repeated ones (n = 3); the run's network calls and draws."""
    tokens = done.tokens.numpy()
    measures = {"sequence_entropy": sequence_entropy(tokens), "repetition_3": repetition(tokens, 3)}
    measures |= {f"distinct_{n}": 1.0 - repetition(tokens, n) for n in (1, 2)}
    return [
        {"sequence": k, "nfe": done.nfe, "draws": done.draws}
        | {name: float(values[k]) for name, values in measures.items()}
        | {"tokens": " ".join(map(str, tokens[k]))}
        for k in range(len(tokens))
    ]


def real_texts(folder: Path | str) -> np.ndarray:
    """The held-out windows kept beside a model, (windows, length) int64, in one random order, always the same: on disk they
    lie source by source, and here the first n are a sample of all sources."""
    windows = np.load(Path(folder) / "validation.npy", allow_pickle=False).astype(np.int64)
    return windows[np.random.Generator(np.random.Philox(0)).permutation(len(windows))]


def ids(texts: list[str]) -> np.ndarray:
    """Back from the strings of :func:`rows`, all of one length: (sequences, length) int64."""
    return np.array([[int(token) for token in text.split()] for text in texts], dtype=np.int64)
