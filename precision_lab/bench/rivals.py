"""What is compared: one literal table of samplers as people write them, each with the recipe that gives its
law."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..faithful import categorical, exponential_race
from ..samplers import SAMPLERS, Sampler, UniformSampler
from ..samplers.on_device import on_device

Way: TypeAlias = Callable[[], Any]  # draws one token for each row of a batch
Prepare: TypeAlias = Callable[[Tensor, int, int], Way]
Draw: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]

REFERENCE = "Gumbel-max float32"  # what ratios are to: the truncated expression
OURS = "faithful.categorical"
RACE = "faithful.exponential_race"


@dataclass(frozen=True)
class Rival:
    """``prepare(logits, seed, rows_at_once)``: (rows, vocab) float32 logits to a way to draw a token for
    each row.

    ``precision``: of the noise or the sums: "integers", "float32" or "float64". ``code``: what is run.
    ``recipe``: the name in ``SAMPLERS`` whose law the draws have on a CPU; ``cuda_recipe``: on CUDA, "" where
    no law is known there. ``in_chunks``: whether it draws ``rows_at_once``, the best of several; else the
    batch at once. ``package``: what must be installed.
    """

    name: str
    precision: str
    code: str
    recipe: str
    prepare: Prepare
    cuda_recipe: str = ""
    in_chunks: bool = False
    package: str = "torch"
    devices: tuple[str, ...] = ("cpu", "cuda")

    def runs_on(self, device: str) -> bool:
        """Whether it can be tried here."""
        return device in self.devices and importlib.util.find_spec(self.package) is not None

    def sampler(self, device: str = "cpu") -> Sampler | None:
        """The recipe whose law the draws have on ``device``; None where none is known."""
        name = self.recipe if device == "cpu" else self.cuda_recipe
        if not name:
            return None
        found = SAMPLERS[name]
        if isinstance(found, UniformSampler) and found.emulated is None:
            return on_device(found, device)
        return found


def _at_once(draw: Draw) -> Prepare:
    def prepare(logits: Tensor, seed: int, rows_at_once: int) -> Way:
        generator = torch.Generator(device=logits.device).manual_seed(seed)
        return lambda: draw(logits, generator)

    return prepare


def _by_rows(draw: Draw) -> Prepare:
    def prepare(logits: Tensor, seed: int, rows_at_once: int) -> Way:
        generator = torch.Generator(device=logits.device).manual_seed(seed)
        return lambda: torch.cat([draw(part, generator) for part in logits.split(rows_at_once)])

    return prepare


def _gumbel(dtype: torch.dtype) -> Draw:
    def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
        u = torch.rand(logits.shape, dtype=dtype, device=logits.device, generator=generator)
        u.log_().neg_().log_()
        return torch.sub(logits, u, out=u).argmax(-1)

    return draw


def _exponential_race(logits: Tensor, generator: torch.Generator) -> Tensor:
    e = torch.rand(logits.shape, device=logits.device, generator=generator)
    e.log_().neg_()
    return torch.div(torch.softmax(logits, -1), e, out=e).argmax(-1)


def _multinomial(logits: Tensor, generator: torch.Generator) -> Tensor:
    return torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)[:, 0]


def _inverse_cdf(dtype: torch.dtype) -> Draw:
    def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
        sums = torch.softmax(logits.to(dtype), -1).cumsum(-1)
        u = torch.rand((len(logits), 1), dtype=dtype, device=logits.device, generator=generator)
        return torch.searchsorted(sums, u, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)

    return draw


def _numpy_choice(logits: Tensor, seed: int, rows_at_once: int) -> Way:
    rng = np.random.default_rng(seed)
    rows = logits.numpy()
    vocab = rows.shape[-1]

    def one(row: np.ndarray) -> int:
        weights = np.exp(row.astype(np.float64) - row.max())
        return int(rng.choice(vocab, p=weights / weights.sum()))

    return lambda: [one(row) for row in rows]


def _jax_categorical(mode: str) -> Prepare:
    def prepare(logits: Tensor, seed: int, rows_at_once: int) -> Way:
        import jax

        cpu = jax.devices("cpu")[0]
        rows = jax.device_put(logits.numpy(), cpu)
        key = jax.device_put(jax.random.key(seed), cpu)

        @jax.jit
        def draw(key: Any, rows: Any) -> Any:
            key, now = jax.random.split(key)
            return key, jax.random.categorical(now, rows, mode=mode)

        def way() -> Any:
            nonlocal key
            key, tokens = draw(key, rows)
            return tokens.block_until_ready()

        return way

    return prepare


def _flashinfer(logits: Tensor, generator: torch.Generator) -> Tensor:
    from flashinfer.sampling import top_p_sampling_from_probs

    return top_p_sampling_from_probs(torch.softmax(logits, -1), 1.0)


RIVALS: dict[str, Rival] = {
    rival.name: rival
    for rival in (
        Rival(
            OURS,
            "integers",
            "faithful.categorical(l, generator=g)",
            "faithful_masses",
            _at_once(lambda logits, generator: categorical(logits, generator=generator)[0]),
            cuda_recipe="faithful_masses",
        ),
        Rival(
            RACE,
            "integers",
            "faithful.exponential_race(l, generator=g)",
            "faithful_race",
            _at_once(lambda logits, generator: exponential_race(logits, generator=generator)[0]),
            cuda_recipe="faithful_race",
        ),
        Rival(
            REFERENCE,
            "float32",
            "(l - log(-log(rand))).argmax(-1), in place",
            "gumbel_max_fp32",
            _by_rows(_gumbel(torch.float32)),
            cuda_recipe="gumbel_max_fp32",
            in_chunks=True,
        ),
        Rival(
            "Gumbel-max float64",
            "float64",
            "the same with rand in float64",
            "gumbel_max_fp64",
            _by_rows(_gumbel(torch.float64)),
            cuda_recipe="gumbel_max_fp64",
            in_chunks=True,
        ),
        Rival(
            "torch.multinomial",
            "float32",
            "torch.multinomial(softmax(l), 1)",
            "torch_multinomial_fp32",
            _by_rows(_multinomial),
            cuda_recipe="torch_cuda_race_fp32",
            in_chunks=True,
        ),
        Rival(
            "exponential race float32",
            "float32",
            "(softmax(l) / -log(rand)).argmax(-1), in place",
            "exponential_race_fp32",
            _by_rows(_exponential_race),
            cuda_recipe="exponential_race_fp32",
            in_chunks=True,
        ),
        Rival(
            "cumulative sum float32",
            "float32",
            "searchsorted(softmax(l).cumsum(-1), rand)",
            "inverse_cdf_fp32",
            _by_rows(_inverse_cdf(torch.float32)),
            in_chunks=True,
        ),
        Rival(
            "cumulative sum float64",
            "float64",
            "the same in float64",
            "inverse_cdf_fp64",
            _by_rows(_inverse_cdf(torch.float64)),
            in_chunks=True,
        ),
        Rival(
            "numpy Generator.choice",
            "float64",
            "rng.choice(vocab, p=softmax(l)), row by row",
            "numpy_choice",
            _numpy_choice,
            package="numpy",
            devices=("cpu",),
        ),
        *(
            Rival(
                f"jax.random.categorical, {mode}",
                "float32",
                f"jit of jax.random.categorical(key, l, mode='{mode}')",
                f"jax_{mode}_fp32",
                _jax_categorical(mode),
                package="jax",
                devices=("cpu",),
            )
            for mode in ("low", "high", "highest")
        ),
        Rival(
            "flashinfer dual pivot",
            "float32",
            "flashinfer.sampling.top_p_sampling_from_probs(softmax(l), 1.0)",
            "",
            _at_once(_flashinfer),
            package="flashinfer",
            devices=("cuda",),
        ),
    )
}


def here(device: str = "cpu", names: tuple[str, ...] | None = None) -> list[Rival]:
    """The rivals that run on ``device`` of this machine; of ``names`` those."""
    return [r for r in RIVALS.values() if r.runs_on(device) and (names is None or r.name in names)]
