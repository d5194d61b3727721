"""Train a masked diffusion model, or its autoregressive rival, on real text. One command; run it again and it resumes."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..files import atomic, read_json, read_safetensors, write_json, write_safetensors
from ..provenance import file_sha256, git_commit, processor, versions
from . import baselines
from .corpus import Corpus, windows
from .denoiser import Denoiser, DenoiserConfig
from .evaluate import mean_and_error, validation_losses
from .trainer import MEASURE, TrainConfig, Trainer, columns
from .weights import pack, unpack

KINDS = {"mdm": "masked diffusion model, time-agnostic", "ar": "autoregressive model, left to right"}
HELD_OUT = (
    400  # validation windows kept beside the model, for captures and for the reference level of real text
)


def train(config: TrainConfig, corpus: Corpus, out: Path | str, *, bits: int = 16) -> dict:
    """Run to the end (or resume), then write ``model.safetensors`` (``bits`` a weight, see weights.py), ``loss.csv``,
    ``validation.npy`` (held-out windows) and ``manifest.json``.

    The nats in the manifest are those of the rounded weights as written, on every validation window inside one source:
    the time-agnostic bound of a masked model, the cross-entropy of an autoregressive one; over all, and by source.
    """
    trainer = Trainer(config, corpus, out)
    out = trainer.out
    if trainer.state_path.exists():
        trainer.load_state()
        print(f"resuming at step {trainer.step} of {config.steps}", file=sys.stderr)
    trainer.run()
    kept = pack(trainer.average.state_dict(), bits)
    write_safetensors(out / "model.safetensors", kept)
    trainer.average.load_state_dict(unpack(kept))
    by_source = _held_out_losses(trainer)
    chosen = np.random.default_rng(config.seed).permutation(len(trainer.validation))[:HELD_OUT]
    with atomic(out / "validation.npy") as partial:
        np.save(partial, trainer.validation.numpy()[np.sort(chosen)].astype(np.uint16), allow_pickle=False)
    with atomic(out / "loss.csv") as partial, open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=columns(config.kind))
        writer.writeheader()
        writer.writerows(trainer.curve)
    manifest = {
        "kind": KINDS[config.kind],
        "config": asdict(config),
        "parameters": sum(p.numel() for p in trainer.average.parameters()),
        "weight_bits": bits,
        "weights_sha256": file_sha256(out / "model.safetensors"),
        "validation_sha256": file_sha256(out / "validation.npy"),
        "nats_per_token": {
            "unigram": baselines.unigram_cross_entropy(corpus.train, corpus.validation, config.model.vocab),
            "trigram": baselines.trigram_cross_entropy(corpus.train, corpus.validation, config.model.vocab),
            **_estimate(config.kind, torch.cat(list(by_source.values()))),
            "interval": "95 %, normal, over windows",
            "by_source": {name: _estimate(config.kind, losses) for name, losses in by_source.items()},
        },
        "tokens_seen": trainer.step * config.batch * config.length,
        "schedule": trainer.schedule,
        "corpus": corpus.description,
        "seconds": round(trainer.seconds),
        "processor": processor(),
        "versions": versions(),
        "commit": git_commit(),
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def _held_out_losses(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Nats of each window of each source with at least two (a standard error needs them); of all text without spans."""
    length, tokens = trainer.config.length, trainer.corpus.validation
    spans = trainer.corpus.spans or {"all": (0, len(tokens))}
    long = {name: tokens[slice(*span)] for name, span in spans.items() if span[1] - span[0] >= 2 * length}
    return {
        name: validation_losses(
            trainer.average, torch.from_numpy(windows(part, length)), seed=trainer.config.seed + 3
        )
        for name, part in (long or {"all": tokens}).items()
    }


def _estimate(kind: str, losses: torch.Tensor) -> dict[str, float]:
    nats, error = mean_and_error(losses)
    name = MEASURE[kind]
    return {
        name: nats,
        f"{name}_low": nats - 1.96 * error,
        f"{name}_high": nats + 1.96 * error,
        "windows": len(losses),
    }


def load_model(folder: Path | str) -> Denoiser:
    """The committed denoiser of ``folder`` in float32, checked against its manifest.

    Raises InputError if a file is missing, its hash differs, or the tensors do not fit the configuration.
    """
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json")
    try:
        expected, config = manifest["weights_sha256"], DenoiserConfig(**manifest["config"]["model"])
        if not isinstance(expected, str):
            raise TypeError(f"weights_sha256 = {expected!r}")
    except (KeyError, TypeError, InputError) as error:
        got = f"{folder / 'manifest.json'} with no model in it ({type(error).__name__}: {error})"
        raise InputError(got, "the manifest of a trained model", "retrain or restore") from None
    tensors = read_safetensors(folder / "model.safetensors", sha256=expected)
    try:
        model = Denoiser(config)
        model.load_state_dict(unpack(tensors))
    except (RuntimeError, TypeError) as error:  # TypeError: a size beyond 64 bits
        what = str(error).splitlines()[:2][-1].strip()
        raise InputError(
            f"weights in {folder}: {what}", "those of its manifest", "retrain or restore"
        ) from None
    return model.eval().requires_grad_(False)
