"""Train the denoiser on real text with the time-agnostic bound. One command; run it again and it resumes."""

from __future__ import annotations

import copy
import csv
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import atomic, read_safetensors, write_json, write_safetensors
from ..provenance import file_sha256, git_commit, processor, versions
from . import baselines
from .corpus import Corpus, windows
from .denoiser import Denoiser, DenoiserConfig
from .loss import mask_counts, masked_cross_entropy, random_subset

HELD_OUT = 400  # validation windows kept beside the model, for captures and for the reference level of real text


@dataclass(frozen=True)
class TrainConfig:
    """Everything that defines a run. ``steps`` may be changed on resuming: only the final decay depends on it."""

    model: DenoiserConfig = field(default_factory=DenoiserConfig)
    steps: int = 2000
    batch: int = 32
    length: int = 128
    muon_lr: float = 0.02  # matrices inside blocks: orthogonalised momentum
    adam_lr: float = 3e-3  # embedding and bias
    warmup: int = 50
    decay: float = 0.5  # share of the run over which the rate falls linearly to zero
    ema: float = 0.998
    seed: int = 20260101
    evaluate_every: int = 250
    autocast: bool = True  # bfloat16 matrix products; weights, norms and the loss stay float32


def rate(config: TrainConfig, step: int) -> float:
    """Warm up linearly, stay, then fall linearly to zero."""
    return min((step + 1) / config.warmup, 1.0, (config.steps - step) / (config.decay * config.steps))


def validation_bound(
    model: Denoiser, text: Tensor, *, seed: int, batch: int = 32, autocast: bool = False
) -> tuple[float, float]:
    """The time-agnostic bound in nats per token on ``text`` (windows, length) and its standard error over windows."""
    rng = torch.Generator().manual_seed(seed)
    losses = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for chunk in text.split(batch):
            masked = random_subset(mask_counts(len(chunk), chunk.shape[1], rng=rng), chunk.shape[1], rng=rng)
            losses.append(masked_cross_entropy(model, chunk, masked))
    values = torch.cat(losses).double()
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


class Trainer:
    """The whole state of a run: weights, averaged weights, optimisers, generator, step, curve."""

    def __init__(self, config: TrainConfig, corpus: Corpus, out: Path) -> None:
        self.config, self.corpus, self.out = config, corpus, out
        torch.manual_seed(config.seed)  # initial weights only; every later draw uses self.rng
        self.model = Denoiser(config.model)
        counts = np.bincount(corpus.train, minlength=config.model.vocab) + 1.0
        self.model.bias.data = torch.from_numpy(np.log(counts / counts.sum())).float()
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        matrices = [p for p in self.model.blocks.parameters() if p.ndim == 2]
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=0.01, momentum=0.95),
            torch.optim.AdamW(
                [self.model.embedding.weight, self.model.bias], lr=config.adam_lr, betas=(0.9, 0.95), weight_decay=0.0
            ),
        ]
        self.rng = torch.Generator().manual_seed(config.seed + 1)
        self.step, self.seconds = 0, 0.0
        self.curve: list[dict] = []
        self.validation = torch.from_numpy(windows(corpus.validation, config.length))
        if len(self.validation) < 2:
            raise InputError(
                "a validation text of one window", "at least two, for a standard error", "use a longer text"
            )

    # -- one step ---------------------------------------------------------------------------------------------------
    def advance(self) -> float:
        config = self.config
        starts = torch.randint(len(self.corpus.train) - config.length, (config.batch,), generator=self.rng)
        rows = starts[:, None] + torch.arange(config.length)
        tokens = torch.from_numpy(self.corpus.train[rows.numpy()].astype(np.int64))
        masked = random_subset(mask_counts(config.batch, config.length, rng=self.rng), config.length, rng=self.rng)
        for optimiser, lr in zip(self.optimisers, (config.muon_lr, config.adam_lr), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = lr * rate(config, self.step)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.autocast):
            loss = masked_cross_entropy(self.model, tokens, masked).mean()
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.step += 1
        weight = min(config.ema, self.step / (self.step + 10))
        for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
            kept.lerp_(new, 1 - weight)
        return loss.item()

    # -- state on disk ----------------------------------------------------------------------------------------------
    @property
    def state_path(self) -> Path:
        return self.out / "state.safetensors"

    def save_state(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, optimiser in enumerate(self.optimisers):
            for index, slots in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{i}.{index}.{slot}": torch.as_tensor(v) for slot, v in slots.items()}
        tensors["rng"] = self.rng.get_state()
        extra = {"step": self.step, "seconds": self.seconds, "curve": self.curve, "config": asdict(self.config)}
        tensors["extra"] = torch.frombuffer(bytearray(json.dumps(extra).encode()), dtype=torch.uint8)
        write_safetensors(self.state_path, tensors)

    def load_state(self) -> None:
        """Go on where the state was saved; InputError if it is damaged or belongs to other settings."""
        tensors = read_safetensors(self.state_path)
        try:
            self._restore(tensors)
        except (KeyError, TypeError, RuntimeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            what = f"{self.state_path} that does not hold a run ({type(error).__name__})"
            raise InputError(what, "a state that this program saved", "remove it to start again") from error

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        extra = json.loads(bytes(tensors["extra"].tolist()))
        ours, theirs = asdict(self.config), extra["config"]
        if changed := [k for k in ours if k != "steps" and ours[k] != theirs.get(k)]:
            raise InputError(
                f"a run in {self.out} with other {', '.join(changed)}", "the same settings", "use another --out"
            )
        pick = lambda prefix: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
        self.model.load_state_dict(pick("model."))
        self.average.load_state_dict(pick("average."))
        for i, optimiser in enumerate(self.optimisers):
            state: dict = {}
            for key, value in pick(f"optimiser.{i}.").items():
                index, slot = key.split(".", 1)
                state.setdefault(int(index), {})[slot] = value
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        self.rng.set_state(tensors["rng"])
        self.step, self.seconds, self.curve = extra["step"], extra["seconds"], extra["curve"]

    # -- the run ----------------------------------------------------------------------------------------------------
    def run(self) -> None:
        config, started, recent = self.config, time.monotonic() - self.seconds, []
        while self.step < config.steps:
            recent.append(self.advance())
            self.seconds = time.monotonic() - started
            if self.step % 10 == 0 or self.step == config.steps:
                speed = self.step * config.batch * config.length / self.seconds
                left = (config.steps - self.step) * self.seconds / self.step
                print(
                    f"step {self.step}/{config.steps}  loss {np.mean(recent[-10:]):.4f}  "
                    f"{speed:,.0f} tokens/s  {left / 60:.0f} min left",
                    file=sys.stderr,
                    flush=True,
                )
            if self.step % config.evaluate_every == 0 or self.step == config.steps:
                bound, error = validation_bound(
                    self.average, self.validation[:256], seed=config.seed + 2, autocast=config.autocast
                )
                print(f"  validation bound {bound:.4f} +- {error:.4f} nats per token", file=sys.stderr, flush=True)
                self.curve.append(
                    {
                        "step": self.step,
                        "tokens": self.step * config.batch * config.length,
                        "seconds": round(self.seconds, 1),
                        "train_loss": round(float(np.mean(recent)), 5),
                        "validation_bound": round(bound, 5),
                        "standard_error": round(error, 5),
                    }
                )
                recent = []
                self.save_state()


def train(config: TrainConfig, corpus: Corpus, out: Path) -> dict:
    """Run to the end (or resume), then write ``model.safetensors`` (float16), ``loss.csv``, ``validation.npy`` (held-out
    windows) and ``manifest.json``.

    The bound in the manifest is that of the rounded weights as written, on every validation window.
    """
    trainer = Trainer(config, corpus, out)
    if trainer.state_path.exists():
        trainer.load_state()
        print(f"resuming at step {trainer.step} of {config.steps}", file=sys.stderr)
    trainer.run()
    half = {name: value.half() for name, value in trainer.average.state_dict().items()}
    write_safetensors(out / "model.safetensors", half)
    trainer.average.load_state_dict({name: value.float() for name, value in half.items()})
    bound, error = validation_bound(trainer.average, trainer.validation, seed=config.seed + 3)
    chosen = np.random.default_rng(config.seed).permutation(len(trainer.validation))[:HELD_OUT]
    with atomic(out / "validation.npy") as partial:
        np.save(partial, trainer.validation.numpy()[np.sort(chosen)].astype(np.uint16), allow_pickle=False)
    with atomic(out / "loss.csv") as partial, open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(trainer.curve[0]))
        writer.writeheader()
        writer.writerows(trainer.curve)
    manifest = {
        "kind": "masked diffusion model, time-agnostic",
        "config": asdict(config),
        "parameters": sum(p.numel() for p in trainer.average.parameters()),
        "weights_sha256": file_sha256(out / "model.safetensors"),
        "validation_sha256": file_sha256(out / "validation.npy"),
        "nats_per_token": {
            "unigram": baselines.unigram_cross_entropy(corpus.train, corpus.validation, config.model.vocab),
            "trigram": baselines.trigram_cross_entropy(corpus.train, corpus.validation, config.model.vocab),
            "bound": bound,
            "bound_low": bound - 1.96 * error,
            "bound_high": bound + 1.96 * error,
            "interval": "95 %, normal, over windows",
            "windows": len(trainer.validation),
        },
        "corpus": corpus.description,
        "seconds": round(trainer.seconds),
        "processor": processor(),
        "versions": versions(),
        "commit": git_commit(),
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def load_model(folder: Path) -> Denoiser:
    """The committed denoiser of ``folder`` in float32, checked against its manifest.

    Raises InputError if a file is missing, its hash differs, or the tensors do not fit the configuration.
    """
    from ..files import read_json

    manifest = read_json(folder / "manifest.json")
    try:
        expected, config = manifest["weights_sha256"], DenoiserConfig(**manifest["config"]["model"])
    except (KeyError, TypeError) as error:
        got = f"{folder / 'manifest.json'} with no model in it ({type(error).__name__}: {error})"
        raise InputError(got, "the manifest of a trained model", "retrain or restore") from None
    tensors = read_safetensors(folder / "model.safetensors", sha256=expected)
    model = Denoiser(config)
    try:
        model.load_state_dict({name: value.float() for name, value in tensors.items()})
    except RuntimeError as error:
        raise InputError(
            f"weights in {folder}: {str(error).splitlines()[1].strip()}", "those of its manifest", "retrain or restore"
        ) from None
    return model.eval().requires_grad_(False)
