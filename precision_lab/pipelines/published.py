"""Processors as libraries publish them: torch functions of (rows, vocab) logits, each in the dtype that it
is given.

The arithmetic is written anew from the sources named, operation by operation, in the published order and
dtype; every token dropped becomes -inf, so that any sampler can follow. ``meaning`` is the pipeline that
the library's rules specify, ties and crossing included (their sorts are not stable: ties of top-p are
``any``): what is left between the two is rounding, or a fault. Where a library runs on another machine than
this one, ``emulated`` says what stands for its arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..steps import MinP, Step, Temperature, TopK, TopP
from .pipeline import Pipeline


@dataclass(frozen=True)
class Settings:
    """What a user asks for. None: the step is left out."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __str__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value is not None}
        return ", ".join(f"{name}={value:g}" for name, value in given.items()) or "nothing"


@dataclass(frozen=True)
class Processor:
    """``apply(logits, settings)`` -> logits.  ``steps(settings)``: what its rules mean, in its order.

    ``source_ref``: repository, file and version that was read.  ``emulated``: what stands for arithmetic
    that does not run here, None where the operations are torch's own on this machine.
    """

    name: str
    publisher: str
    source_ref: str
    apply: Callable[[Tensor, Settings], Tensor]
    steps: Callable[[Settings], list[Step]]
    emulated: str | None = None

    def meaning(self, settings: Settings) -> Pipeline:
        """The pipeline that the library's rules specify. InputError where they leave every token as it is."""
        return Pipeline(tuple(self.steps(settings)) or (Temperature(1.0),))

    def __call__(self, logits: Tensor, settings: Settings) -> Tensor:
        """(rows, vocab) floating logits after the processor. InputError for another shape or dtype."""
        if logits.ndim != 2 or not logits.dtype.is_floating_point:
            got = f"logits {logits.dtype} of shape {tuple(logits.shape)}"
            raise InputError(got, "floating (rows, vocab)", "add the batch dimension")
        return self.apply(logits.clone(), settings)


def in_order(*names: str, **rules: dict[str, str]) -> Callable[[Settings], list[Step]]:
    """The steps of the settings given, in the order of ``names``, each with its ``rules``."""
    kinds: dict[str, Callable[..., Step]] = {
        "temperature": Temperature,
        "top_k": TopK,
        "top_p": TopP,
        "min_p": MinP,
    }

    def steps(settings: Settings) -> list[Step]:
        given = [(name, getattr(settings, name)) for name in names]
        return [kinds[name](value, **rules.get(name, {})) for name, value in given if value is not None]

    return steps


def _drop(logits: Tensor, outside: Tensor) -> Tensor:
    return logits.masked_fill(outside, -math.inf)


def _back(ids: Tensor, mask: Tensor) -> Tensor:
    """A mask in sorted order, in the order of the vocabulary."""
    return torch.zeros_like(mask).scatter(-1, ids, mask)


def below_the_kth(logits: Tensor, k: int) -> Tensor:
    """Outside: what is below the k-th largest value. Its equals stay, so that more than k can."""
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits < kth


def mass_from_below(logits: Tensor, p: float) -> Tensor:
    """Outside: ascending cumulative mass of at most 1 - p, but for the largest logit."""
    ordered, ids = logits.sort(dim=-1, descending=False)
    outside = ordered.softmax(dim=-1).cumsum(dim=-1) <= (1 - p)
    outside[..., -1] = False
    return _back(ids, outside)


def mass_from_above_shifted(logits: Tensor, p: float, add: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Outside: what comes after a descending cumulative mass of more than p."""
    ordered, ids = logits.sort(dim=-1, descending=True)
    share = ordered.softmax(dim=-1)
    through = share.cumsum(dim=-1) if add is None else add(share)
    past = through > p
    outside = torch.nn.functional.pad(past[..., :-1], (1, 0))
    return _back(ids, outside)


def mass_from_above_unshifted(logits: Tensor, p: float) -> Tensor:
    """The same without the shift: the token that crosses p is outside, the first excepted."""
    ordered, ids = logits.sort(dim=-1, descending=True)
    outside = ordered.softmax(dim=-1).cumsum(dim=-1) > p
    outside[..., 0] = False
    return _back(ids, outside)


def one_after_another(share: Tensor) -> Tensor:
    """Sums of the first 1, 2, ... values, each rounded to their dtype before the next is added."""
    total = torch.zeros(share.shape[:-1], dtype=share.dtype)
    sums = torch.empty_like(share)
    for place in range(share.shape[-1]):
        total = total + share[..., place]
        sums[..., place] = total
    return sums


def _tempered(logits: Tensor, settings: Settings) -> Tensor:
    """Divided by the temperature, if there is one; of 0 the first of the largest logits stays."""
    if settings.temperature is None:
        return logits
    if settings.temperature == 0:
        first = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.argmax(-1, keepdim=True), True)
        return _drop(logits, ~first)
    return logits / settings.temperature


def _hugging_face_min_p(logits: Tensor, ratio: float) -> Tensor:
    probs = logits.softmax(dim=-1)
    outside = probs < ratio * probs.amax(dim=-1, keepdim=True)
    return outside.scatter(-1, probs.topk(1, dim=-1).indices, False)


def hugging_face(logits: Tensor, settings: Settings) -> Tensor:
    logits = _tempered(logits, settings)
    if settings.top_k is not None:
        logits = _drop(logits, below_the_kth(logits, settings.top_k))
    if settings.top_p is not None and settings.top_p < 1:
        logits = _drop(logits, mass_from_below(logits, settings.top_p))
    if settings.min_p is not None:
        logits = _drop(logits, _hugging_face_min_p(logits, settings.min_p))
    return logits


def vllm(logits: Tensor, settings: Settings) -> Tensor:
    """min-p before the others; top-k and top-p in one ascending sort, their sum compared with float32's 1 -
    p."""
    logits = _tempered(logits, settings)
    if settings.min_p is not None:
        probs = logits.softmax(dim=-1)
        logits = _drop(logits, probs < probs.amax(dim=-1, keepdim=True) * settings.min_p)
    if settings.top_p is None:
        return logits if settings.top_k is None else _drop(logits, below_the_kth(logits, settings.top_k))
    ordered, ids = logits.sort(dim=-1, descending=False)
    if settings.top_k is not None:
        kth = ordered[..., max(ordered.shape[-1] - settings.top_k, 0)].unsqueeze(-1)
        ordered = _drop(ordered, ordered < kth)
    through = ordered.softmax(dim=-1).cumsum(dim=-1)
    outside = through <= 1 - torch.tensor(settings.top_p, dtype=torch.float32)
    outside[..., -1] = False
    return torch.empty_like(logits).scatter(-1, ids, _drop(ordered, outside))


def llama_cpp(logits: Tensor, settings: Settings) -> Tensor:
    """top-k, top-p, min-p, and the temperature last; candidates in a sorted list, masses in float32 one
    after another."""
    ordered, ids = logits.float().sort(dim=-1, descending=True, stable=True)
    outside = torch.zeros_like(ordered, dtype=torch.bool)
    if settings.top_k is not None:
        outside[..., settings.top_k :] = True
    if settings.top_p is not None and settings.top_p < 1:
        weights = torch.exp(_drop(ordered, outside) - ordered[..., :1])
        share = weights / one_after_another(weights)[..., -1:]
        reached = one_after_another(share) >= torch.tensor(settings.top_p, dtype=torch.float32)
        outside = outside | torch.nn.functional.pad(reached[..., :-1], (1, 0))
    if settings.min_p is not None and settings.min_p > 0:
        edge = torch.log(torch.tensor(settings.min_p, dtype=torch.float32))
        outside = outside | (ordered < ordered[..., :1] + edge)
    kept = torch.empty_like(ordered).scatter(-1, ids, _drop(ordered, outside))
    return _tempered(kept, settings)


def mlx_lm(logits: Tensor, settings: Settings) -> Tensor:
    """Of log probabilities in the dtype given: top-p, min-p, top-k, and the temperature as a factor 1 / T
    at the draw."""
    left = logits - logits.logsumexp(dim=-1, keepdim=True)
    if settings.temperature == 0:
        return _tempered(left, settings)
    if settings.top_p is not None and settings.top_p < 1:
        ids = left.argsort(dim=-1, stable=True)
        through = left.exp().gather(-1, ids).cumsum(dim=-1)
        left = _drop(left, ~_back(ids, through > 1 - torch.tensor(settings.top_p, dtype=left.dtype)))
    if settings.min_p is not None and settings.min_p > 0:
        left = _drop(left, left < left.amax(dim=-1, keepdim=True) + math.log(settings.min_p))
    if settings.top_k is not None:
        ids = left.argsort(dim=-1, descending=True, stable=True)
        outside = torch.arange(left.shape[-1]) >= settings.top_k
        left = _drop(left, _back(ids, outside.expand_as(left)))
    return left if settings.temperature is None else left * (1 / settings.temperature)


def sglang_torch(logits: Tensor, settings: Settings) -> Tensor:
    """Of probabilities, sorted down: both cuts by the mass and the rank of the whole row, then min-p."""
    probs = _tempered(logits, settings).softmax(dim=-1)
    ordered, ids = probs.sort(dim=-1, descending=True)
    through = ordered.cumsum(dim=-1)
    if settings.top_k is not None:
        ordered = ordered.masked_fill(torch.arange(ordered.shape[-1]) >= settings.top_k, 0.0)
    if settings.top_p is not None:
        ordered = ordered.masked_fill(through - ordered > settings.top_p, 0.0)
    if settings.min_p is not None:
        ordered = ordered.masked_fill(ordered < ordered[..., :1] * settings.min_p, 0.0)
    return torch.empty_like(probs).scatter(-1, ids, ordered).log()


def flashinfer(logits: Tensor, settings: Settings) -> Tensor:
    """top-k first, then top-p of what is left; each keeps all probabilities from a threshold on."""
    logits = _tempered(logits, settings)
    if settings.top_k is not None:
        logits = _drop(logits, below_the_kth(logits, settings.top_k))
    if settings.top_p is not None and settings.top_p < 1:
        ordered, _ = logits.softmax(dim=-1).sort(dim=-1, descending=True)
        before = torch.nn.functional.pad(ordered.cumsum(dim=-1)[..., :-1], (1, 0))
        last = (before < settings.top_p).sum(dim=-1, keepdim=True) - 1
        logits = _drop(logits, logits.softmax(dim=-1) < ordered.gather(-1, last))
    if settings.min_p is not None:
        probs = logits.softmax(dim=-1)
        logits = _drop(logits, probs < probs.amax(dim=-1, keepdim=True) * settings.min_p)
    return logits


def megatron(logits: Tensor, settings: Settings) -> Tensor:
    """A temperature, and then top-k or top-p; masses added in the dtype of the logits, each sum rounded to
    it."""
    logits = _tempered(logits, settings)
    if settings.top_k is not None:
        return _drop(logits, below_the_kth(logits, settings.top_k))
    if settings.top_p is not None:
        return _drop(logits, mass_from_above_shifted(logits, settings.top_p, one_after_another))
    return logits


def dream(logits: Tensor, settings: Settings) -> Tensor:
    """A temperature, top-p, top-k. The library fills with the least finite value, which softmax makes 0 as
    well."""
    if settings.temperature is not None and settings.temperature > 0:
        logits = logits / settings.temperature
    if settings.top_p is not None and settings.top_p < 1:
        logits = _drop(logits, mass_from_above_shifted(logits, settings.top_p))
    if settings.top_k is not None:
        logits = _drop(logits, below_the_kth(logits, settings.top_k))
    if settings.temperature == 0:
        return _tempered(logits, settings)
    return logits


def llada(logits: Tensor, settings: Settings) -> Tensor:
    """log of exp(logits) to the power 1 / T, in float64: the race exp(l) / E^T has the law of softmax(l /
    T)."""
    weights = logits.double().exp()
    if settings.temperature is None or settings.temperature == 0:
        return _tempered(weights.log(), settings)
    return weights.log() / settings.temperature


def gpt_fast(logits: Tensor, settings: Settings) -> Tensor:
    """A temperature of 1e-5 at the least, so that 0 is not greedy where two logits are nearer than that;
    then top-k."""
    if settings.temperature is not None:
        logits = logits / max(settings.temperature, 1e-5)
    if settings.top_k is not None:
        logits = _drop(logits, below_the_kth(logits, settings.top_k))
    return logits


def without_the_shift(logits: Tensor, settings: Settings) -> Tensor:
    """A temperature, then descending masses of more than p cut, the crossing token with them."""
    logits = _tempered(logits, settings)
    if settings.top_p is None:
        return logits
    return _drop(logits, mass_from_above_unshifted(logits, settings.top_p))


_ALL_TIES = {"ties": "all"}

PROCESSORS: dict[str, Processor] = {
    processor.name: processor
    for processor in (
        Processor(
            "huggingface",
            "Hugging Face",
            "huggingface/transformers src/transformers/generation/logits_process.py, utils.py, 5.24.0",
            hugging_face,
            in_order("temperature", "top_k", "top_p", "min_p", top_k=_ALL_TIES),
        ),
        Processor(
            "vllm",
            "vLLM",
            "vllm-project/vllm vllm/v1/sample/ops/topk_topp_sampler.py (PyTorch path), v1/sample/sampler.py, 01fa3fe",
            vllm,
            in_order("temperature", "min_p", "top_k", "top_p", top_k=_ALL_TIES),
        ),
        Processor(
            "llama_cpp",
            "llama.cpp",
            "ggml-org/llama.cpp src/llama-sampler.cpp; order: common/common.h",
            llama_cpp,
            in_order("top_k", "top_p", "min_p", "temperature"),
            emulated="C's expf by torch's, a stable sort for std::partial_sort",
        ),
        Processor(
            "mlx_lm",
            "MLX",
            "ml-explore/mlx-lm mlx_lm/sample_utils.py, 037c9b3",
            mlx_lm,
            in_order("top_p", "min_p", "top_k", "temperature"),
            emulated="Metal's exp and cumsum by torch's on a CPU",
        ),
        Processor(
            "sglang_torch",
            "SGLang",
            "sgl-project/sglang python/sglang/srt/layers/sampler.py, 584f55d: top_k_top_p_min_p_sampling_from_probs_torch",
            sglang_torch,
            in_order("temperature", "top_k", "top_p", "min_p", top_p={"crossing": "beyond", "mass": "whole"}),
        ),
        Processor(
            "flashinfer",
            "FlashInfer",
            "flashinfer-ai/flashinfer: docs.flashinfer.ai, sampling.top_k_mask_logits and top_p_renorm_probs",
            flashinfer,
            in_order("temperature", "top_k", "top_p", "min_p", top_k=_ALL_TIES, top_p=_ALL_TIES),
            emulated="the threshold that its kernels search, by a sort",
        ),
        Processor(
            "megatron",
            "Megatron-LM",
            "NVIDIA/Megatron-LM megatron/core/inference/sampling/torch_sampling.py, before #7182",
            megatron,
            in_order("temperature", "top_k", "top_p", top_k=_ALL_TIES, top_p={"crossing": "beyond"}),
            emulated="CUDA's block-wise scan by a sum from left to right, each partial sum rounded",
        ),
        Processor(
            "dream",
            "Dream",
            "Dream-org/Dream-v0-Base-7B generation_utils.py, read in copies that name it: top_p_logits, top_k_logits",
            dream,
            in_order("temperature", "top_p", "top_k", top_p={"crossing": "beyond"}, top_k=_ALL_TIES),
        ),
        Processor(
            "llada",
            "LLaDA",
            "ML-GSAI/LLaDA generate.py: add_gumbel_noise, 41760b9",
            llada,
            in_order("temperature"),
        ),
        Processor(
            "gpt_fast",
            "gpt-fast",
            "pytorch-labs/gpt-fast generate.py: logits_to_probs, a4bd2f8",
            gpt_fast,
            in_order("temperature", "top_k", top_k=_ALL_TIES),
        ),
        Processor(
            "without_the_shift",
            "a common slip",
            "what the shift by one of ari-holtzman/degen gen.py, as Megatron-LM's comment has it, prevents",
            without_the_shift,
            in_order("temperature", "top_p"),
        ),
    )
}
