"""A trained network in a folder, loaded once a process and known by the hash of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..files import read_json
from .denoiser import Autocast, Denoiser
from .train import load_model

DIGITS = 12  # of a hash that stands in a cell


@dataclass(frozen=True)
class StoredModel:
    """``folder`` of a training: weights, manifest.json, tokenizer and held-out text. ``autocast``: matrix products in
    bfloat16, as in training."""

    folder: Path
    autocast: bool = False

    def network(self) -> Denoiser | Autocast:
        """The network, ready to decode; the same object at every call."""
        return _loaded(self)

    def identity(self, digits: int = DIGITS, of: str = "weights") -> str:
        """The first hexadecimal digits of the SHA-256 of its "weights" or of its "validation" text."""
        return read_json(self.folder / "manifest.json")[f"{of}_sha256"][:digits]


@cache
def _loaded(stored: StoredModel) -> Denoiser | Autocast:
    network = load_model(stored.folder)
    return Autocast(network) if stored.autocast else network
