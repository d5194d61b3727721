"""Text by any decoder, by name, and what is measured of each sequence: one tidy row each."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, unknown_name
from ..formats import BF16, FP64, FloatFormat
from ..samplers import SAMPLERS
from ..statistics import repetition, sequence_entropy
from ..statistics._checks import check_tokens, check_whole
from . import decode
from .decode import Decoded
from .decode.decoded import beginning, check_size
from .decode.step_laws import STEP_LAWS

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
    total, size = check_whole("total", total, 0), check_whole("size", size, 1)
    return [{"sequences": min(size, total - i), "part": i // size} for i in range(0, total, size)]


def generate(model: Any, decoder: str, sampler: str, steps: int = 0, **common: Any) -> Decoded:
    """``decoder`` of :data:`DECODERS` with a sampler by name; ``common``: batch, length, rng and what the
    decoder knows.

    ``steps``: N of ancestral, event_driven and two_stage decoding, network calls of the parallel kinds; else unused.
    "parallel", "extrapolated", "corrected": first-hitting decoding with ``steps`` network calls; "confidence_ordered" and the
    same with confidences rounded to bfloat16.
    Raises InputError for an unknown name, a sampler that event-driven decoding has no law of a step for, and for options that
    the decoder lacks or does not know.
    """
    if decoder not in DECODERS:
        raise unknown_name("decoder", decoder, DECODERS)
    known: dict[str, Any] = STEP_LAWS if decoder == "event_driven" else SAMPLERS
    if sampler not in known:
        raise unknown_name("sampler", sampler, known)
    run, options = _decoder(decoder)
    takes = [*inspect.signature(run).parameters][2:]
    if wrong := sorted(common.keys() - set(takes)):
        raise InputError(f"option {wrong[0]!r} of {decoder}", f"one of {', '.join(takes)}", "leave it out")
    if lacks := {"batch", "length", "rng"} - common.keys():
        raise InputError(f"{decoder} without {min(lacks)}", "batch, length and rng", f"pass {min(lacks)}=...")
    if "steps" in takes and (steps or "per_call" not in common):
        options["steps"] = steps
    if decoder in VARIANTS and decoder != "first_hitting" and "per_call" not in common:
        options["per_call"] = decode.even_counts(_masks(model, **common), steps)
    return run(model, sampler, **(options | common))


def _decoder(name: str) -> tuple[Any, dict[str, Any]]:
    """Its function, and the options that its name stands for."""
    if name in VARIANTS:
        return decode.first_hitting, dict(VARIANTS[name])
    if name in CONFIDENCE:
        return decode.confidence_ordered, {"confidence_format": CONFIDENCE[name]}
    return getattr(decode, name), {}


def _masks(model: Any, *, batch: int, length: int, given: Any = None, **_: Any) -> int:
    """Masks in the first sequence to begin with."""
    check_size(batch, length)
    return int((beginning(given, batch, length, model)[0] == model.config.mask_id).sum())


def rows(done: Decoded) -> list[dict[str, Any]]:
    """One row a sequence: the ids, in a string; sequence entropy in nats (plug-in, as published); different
    n-grams over n-grams (n = 1, 2) and repeated ones (n = 3); the run's network calls and draws. The ids
    are the model's own."""
    tokens = done.tokens.numpy()
    measures = {"sequence_entropy": sequence_entropy(tokens), "repetition_3": repetition(tokens, 3)}
    measures |= {f"distinct_{n}": 1.0 - repetition(tokens, n) for n in (1, 2)}
    return [
        {"sequence": k, "nfe": done.nfe, "draws": done.draws}
        | {name: float(values[k]) for name, values in measures.items()}
        | {"tokens": as_text(tokens[k])}
        for k in range(len(tokens))
    ]


def real_texts(folder: Path | str) -> np.ndarray:
    """The held-out windows kept beside a model, (windows, length) int64, in one random order, always the
    same: on disk they lie source by source, and here the first n are a sample of all sources."""
    windows = np.load(Path(folder) / "validation.npy", allow_pickle=False).astype(np.int64)
    return windows[np.random.Generator(np.random.Philox(0)).permutation(len(windows))]


def as_text(row: np.ndarray) -> str:
    """The ids of one sequence, (length,), as numbers with spaces between; back again: :func:`ids`."""
    return " ".join(map(str, row.tolist()))


def ids(texts: list[str]) -> np.ndarray:
    """Back from the strings of :func:`rows`: (sequences, length) int64; InputError for words, and for
    unequal lengths."""
    try:
        return check_tokens([[int(token) for token in text.split()] for text in texts])
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f"text that is no ids: {error}", "numbers with spaces between", "see texts.rows"
        ) from None
