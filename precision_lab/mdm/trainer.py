"""One training run: its settings, its whole state, a step, and the state on disk from which it resumes."""

from __future__ import annotations

import copy
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
from ..files import read_safetensors, write_safetensors
from ..statistics._checks import check_whole
from .baselines import check_texts
from .corpus import Corpus, windows
from .denoiser import Denoiser, DenoiserConfig
from .evaluate import validation_bound, window_losses

MEASURE = {"mdm": "bound", "ar": "cross_entropy"}  # what validation measures, by kind
SLOTS = (("momentum_buffer",), ("step", "exp_avg", "exp_avg_sq"))  # what Muon and AdamW keep of a parameter
DAMAGE = (LookupError, TypeError, ValueError, AttributeError, RuntimeError)  # what reading odd bytes can raise


@dataclass(frozen=True)
class TrainConfig:
    """Everything that defines a run. On resuming, ``steps`` may change (only the final decay depends on it) and ``device``.

    Errors: InputError for a count that is no whole number from 1 on, and for a share that is none.
    """

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
    device: str = "cpu"
    mask_weights: tuple[float, ...] | None = (
        None  # w_n of n = 1 .. length masks, any positive numbers; None: all 1, the bound
    )

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "length", "warmup", "evaluate_every", "seed"):
            object.__setattr__(self, name, check_whole(name, getattr(self, name), int(name != "seed")))
        if not (0 < self.decay <= 1 and 0 <= self.ema <= 1):
            got = f"decay = {self.decay}, ema = {self.ema}"
            raise InputError(got, "0 < decay <= 1, 0 <= ema <= 1", "decay = 1 falls from the first step on")
        w = (1.0,) * self.length if self.mask_weights is None else self.mask_weights
        if (
            len(w) != self.length
            or not all(0 < x < math.inf for x in w)
            or (self.mask_weights and self.model.causal)
        ):
            got, do = f"{len(w)} mask_weights {w!s:.60}", "a causal network has none"
            raise InputError(got, f"{self.length} positive numbers, for a masked network", do)

    @property
    def kind(self) -> str:
        return "ar" if self.model.causal else "mdm"


def rate(config: TrainConfig, step: int) -> float:
    """Warm up linearly, stay, then fall linearly to zero."""
    return min((step + 1) / config.warmup, 1.0, (config.steps - step) / (config.decay * config.steps))


def columns(kind: str) -> tuple[str, ...]:
    """Of the curve of a run."""
    return ("step", "tokens", "seconds", "train_loss", f"validation_{MEASURE[kind]}", "standard_error")


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=torch.device(device)).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        what = f"device {device!r} ({' '.join(str(error).split())[:100]})"
        raise InputError(what, "a device that torch sees", "look at: precision-lab doctor") from None


class Trainer:
    """The whole state of a run: weights, averaged weights, optimisers, generator, step, curve.

    Errors: InputError for a device that is not there, token ids that the vocabulary lacks, a text of less than a window.
    """

    def __init__(self, config: TrainConfig, corpus: Corpus, out: Path | str) -> None:
        self.config, self.corpus, self.out = config, corpus, Path(out)
        _check_device(config.device)
        check_texts(corpus.train, corpus.validation, config.model.vocab)
        torch.manual_seed(config.seed)  # initial weights only; every later draw uses self.rng
        self.model = Denoiser(config.model)
        counts = np.bincount(corpus.train, minlength=config.model.vocab) + 1.0
        self.model.bias.data = torch.from_numpy(np.log(counts / counts.sum())).float()
        self.model.to(config.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        matrices = [p for p in self.model.blocks.parameters() if p.ndim == 2]
        clock = self.model.clock.parameters() if config.model.timed else ()
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=0.01, momentum=0.95),
            torch.optim.AdamW(
                [self.model.embedding.weight, self.model.bias, *clock],
                lr=config.adam_lr,
                betas=(0.9, 0.95),
                weight_decay=0.0,
            ),
        ]
        # on the CPU: the same batches on every device
        self.rng = torch.Generator().manual_seed(config.seed + 1)
        self.weights = None if config.mask_weights is None else torch.tensor(config.mask_weights)
        self.step, self.seconds = 0, 0.0
        self.curve: list[dict] = []
        self.schedule = [{"from_step": 0, "steps": config.steps, "device": config.device}]
        self.validation = torch.from_numpy(windows(corpus.validation, config.length))
        if len(corpus.train) <= config.length:
            raise InputError(
                f"a training text of {len(corpus.train)} tokens",
                f"more than a window of {config.length}",
                "use a longer text",
            )
        if len(self.validation) < 2:
            raise InputError(
                "a validation text of one window", "at least two, for a standard error", "use a longer text"
            )

    # -- one step ---------------------------------------------------------------------------------
    def loss(self, tokens: Tensor) -> Tensor:
        """What a step lowers, a scalar: the bound, or with other weights, or the cross-entropy of a causal network."""
        return window_losses(self.model, tokens, rng=self.rng, weights=self.weights).mean()

    def advance(self) -> float:
        config = self.config
        starts = torch.randint(len(self.corpus.train) - config.length, (config.batch,), generator=self.rng)
        rows = starts[:, None] + torch.arange(config.length)
        tokens = torch.from_numpy(self.corpus.train[rows.numpy()].astype(np.int64)).to(config.device)
        for optimiser, lr in zip(self.optimisers, (config.muon_lr, config.adam_lr), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = lr * rate(config, self.step)
        with torch.autocast(torch.device(config.device).type, torch.bfloat16, enabled=config.autocast):
            loss = self.loss(tokens)
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.step += 1
        weight = min(config.ema, self.step / (self.step + 10))
        for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
            kept.lerp_(new, 1 - weight)
        return loss.item()

    # -- state on disk ----------------------------------------------------------------------------
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
        extra = {
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "config": asdict(self.config),
            "schedule": self.schedule,
            "text": self.corpus.fingerprint,
        }
        tensors["extra"] = torch.frombuffer(bytearray(json.dumps(extra).encode()), dtype=torch.uint8)
        write_safetensors(self.state_path, tensors)

    def load_state(self) -> None:
        """Go on where the state was saved; InputError, and nothing changed, if it is damaged or belongs to other settings."""
        tensors = read_safetensors(self.state_path)
        try:
            extra, rng = self._read(tensors)
            changed = self._changed(extra)
            if not changed and (odd := self._odd(tensors, extra)):
                raise ValueError(f"{odd[0]} and {len(odd) - 1} others" if odd[1:] else odd[0])
        except DAMAGE as error:
            what = f"{self.state_path} that does not hold a run ({type(error).__name__}: {str(error)[:200]})"
            raise InputError(what, "a state that this program saved", "remove it to start again") from error
        if changed:
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
        self.rng, self.step, self.seconds, self.curve = rng, extra["step"], extra["seconds"], extra["curve"]
        self._note_schedule(extra["schedule"])

    def _read(self, tensors: dict[str, Tensor]) -> tuple[dict, torch.Generator]:
        """What a state holds beside weights; one of DAMAGE if it is no state."""
        extra, rng = json.loads(bytes(tensors["extra"].tolist())), torch.Generator()
        rng.set_state(tensors["rng"])
        first = {"from_step": 0, "steps": extra["config"]["steps"], "device": "cpu"}
        extra = {"schedule": [first], "text": self.corpus.fingerprint} | extra  # younger than some states
        check_whole("step", extra["step"], 0)
        if not (0 <= extra["seconds"] < math.inf and isinstance(extra["curve"], list)):
            raise ValueError(f"seconds = {extra['seconds']}, a curve of {type(extra['curve']).__name__}")
        if not extra["schedule"] or not all(first.keys() <= part.keys() for part in extra["schedule"]):
            raise ValueError(f"schedule = {extra['schedule']}")
        return extra, rng

    def _changed(self, extra: dict) -> list[str]:
        """Names of the settings that are not those of the state."""
        defaults = asdict(TrainConfig())  # settings that are younger than the state
        ours, theirs = json.loads(json.dumps(asdict(self.config))), defaults | extra["config"]
        theirs["model"] = defaults["model"] | theirs["model"]
        changed = [k for k in ours if k not in ("steps", "device") and ours[k] != theirs[k]]
        return changed + ["text"] * (extra["text"] != self.corpus.fingerprint)

    def _odd(self, tensors: dict[str, Tensor], extra: dict) -> list[str]:
        """What is missing, too much, or of another shape than in a state of this run."""
        started, rows = extra["step"] > 0, {tuple(row.keys()) for row in extra["curve"]}
        due = {
            f"{of}.{k}": v.shape
            for of in ("model", "average")
            for k, v in getattr(self, of).state_dict().items()
        }
        for i, (optimiser, slots) in enumerate(zip(self.optimisers, SLOTS, strict=True)):
            for index, p in enumerate(optimiser.param_groups[0]["params"] if started else ()):
                due |= {
                    f"optimiser.{i}.{index}.{slot}": p.shape if slot != "step" else p.shape[:0]
                    for slot in slots
                }
        found = {k: v.shape for k, v in tensors.items() if k not in ("rng", "extra")}
        odd = [] if rows <= {columns(self.config.kind)} else ["curve"]
        return odd + sorted(k for k in due.keys() | found.keys() if due.get(k) != found.get(k))

    def _note_schedule(self, before: list[dict]) -> None:
        now = {"from_step": self.step, "steps": self.config.steps, "device": self.config.device}
        same = all(before[-1][key] == now[key] for key in ("steps", "device"))
        self.schedule = before if same else [*before, now]

    # -- the run ----------------------------------------------------------------------------------
    def run(self) -> None:
        config, started, recent = self.config, time.monotonic() - self.seconds, []
        measure = MEASURE[config.kind]
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
                some = self.validation[:: max(len(self.validation) // 256, 1)][:256]  # of every source
                bound, error = validation_bound(
                    self.average, some, seed=config.seed + 2, autocast=config.autocast
                )
                print(
                    f"  validation {measure} {bound:.4f} +- {error:.4f} nats per token",
                    file=sys.stderr,
                    flush=True,
                )
                tokens, lost = self.step * config.batch * config.length, float(np.mean(recent))
                row = (
                    self.step,
                    tokens,
                    round(self.seconds, 1),
                    round(lost, 5),
                    round(bound, 5),
                    round(error, 5),
                )
                self.curve.append(dict(zip(columns(config.kind), row, strict=True)))
                recent = []
                self.save_state()
