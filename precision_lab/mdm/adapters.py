"""Other people's networks as ours: any forward pass from token ids to logits, in the calling conventions of
public models.

Decoders, bounds and captures take and give the model's own ids. Inside, real tokens are numbered 0 .. vocab
- 1 and the mask is ``vocab``; :class:`Adapted` renumbers on the way in and out (``from_public``,
``to_public``), wherever the model has its mask. What a network says is kept as it is; rows are normalised
where they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError, described
from .corpus import read_tokenizer
from .decode.decoded import device_of
from .folders import load_folder, longest_of, own_tokenizer
from .schedule import LINEAR, Schedule, checked
from .spelling import controls

Forward = Callable[..., Any]
Ids = Sequence[int] | Sequence[str]
_PAIRS = 16  # neighbours in a prompt, at least, by which a forgotten shift is noticed


@dataclass(frozen=True)
class AdaptedConfig:
    vocab: int  # real tokens that can be drawn or shown
    timed: bool = False
    causal: bool = False
    rowwise: bool = True  # log_probs is of each row alone, without a matrix: rows are kept as they came

    @property
    def mask_id(self) -> int:
        return self.vocab


class Adapted:
    """A :class:`~precision_lab.mdm.decode.Network` around ``forward(ids) -> logits``.

    ``ids``: (batch, length) int64, of the model.  ``logits``: (batch, length, width) floats, or an object
    with ``.logits``; with ``timed``, ``forward(ids, t)``, t in the dtype of the module's weights.
    ``mask_id``: the model's, which may lie beyond the logits.  ``shift``: logits at l are of token l + 1
    (networks adapted from autoregressive ones: Dream, DiffuLLaMA), so that the prediction at l is read at l
    - 1, and at 0 from itself; None: they are not, and a prompt that says otherwise is an InputError.
    ``subs``: what the network says of its mask is thrown away and the rest normalised (MDLM's
    parameterisation); without it a network that puts mass on its mask is an InputError.  ``never``: ids
    (names, with a tokenizer) that are not to be drawn; they are thrown away too. By default those of
    ``tokenizer`` (a tokenizer.json, its folder, or the object) that are special, and ids without a token.
    ``longest``: the most tokens that it has positions for.  ``schedule``: by which one decodes, for a timed
    network that is not told the time.  ``device``: where ``forward`` computes, by default where the
    parameters of that module lie now; the CPU for a plain function.

    The first question is asked twice: a network with two answers (dropout that is on) is an InputError, and
    so are values that are probabilities, NaN and +inf, in the rows that are asked for.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        width: int,
        mask_id: int,
        shift: bool | None = None,
        subs: bool = True,
        timed: bool = False,
        never: Ids | None = None,
        tokenizer: Any = None,
        longest: int | None = None,
        schedule: Schedule = LINEAR,
        device: torch.device | str | None = None,
    ) -> None:
        if mask_id < 0:
            got = f"mask_id = {mask_id}"
            raise InputError(got, f"an id of the model, 0 to {width - 1} or beyond", "look at its tokenizer")
        size = max(width, mask_id + 1)
        excluded = [i for i in _never(never, tokenizer, size) if i != mask_id or never is not None]
        if bad := [i for i in excluded if not 0 <= i < size or i == mask_id]:
            raise InputError(f"never = {bad}", f"ids 0 to {size - 1} other than the mask", "mend the list")
        self.forward, self.width, self.shift, self.subs = forward, width, shift, subs
        self.mask_id, self.size, self.longest, self.schedule = mask_id, size, longest, schedule
        self.device = _home(forward, device)
        self.time_dtype = _format(forward)
        real = torch.ones(size, dtype=torch.bool)
        real[mask_id] = False
        public = torch.cat([real.nonzero()[:, 0], torch.tensor([mask_id])])  # our id -> the model's
        self.public, self.ours = public.to(self.device), public.argsort().to(self.device)
        beyond = public[:-1] >= width  # what has no logit
        self.never = (torch.isin(public[:-1], torch.tensor(excluded, dtype=torch.int64)) | beyond).to(
            self.device
        )
        self.config = AdaptedConfig(size - 1, timed)
        self._known = False  # the first question is still to be asked
        self._looked = False  # no row has been looked at

    def to_public(self, tokens: Tensor) -> Tensor:
        """Our ids -> the model's."""
        return self.public.to(tokens.device)[tokens]

    def from_public(self, ids: Tensor) -> Tensor:
        """The model's ids -> ours."""
        if not bool(((ids >= 0) & (ids < self.size)).all()):
            raise InputError(
                f"ids {int(ids.min())}..{int(ids.max())}", f"0..{self.size - 1}", "use its tokenizer"
            )
        return self.ours.to(ids.device)[ids]

    def hidden(self, tokens: Tensor, t: Tensor | None = None) -> Tensor:
        """(batch, length) of our ids -> (batch, length, width), what the network says, in its own dtype and numbering.

        InputError for a text that is too long, for what the network raises, logits of another shape, two
        answers to one question, NaN where everything is masked, and a shift that was forgotten."""
        ids = self.to_public(tokens)
        if self.longest is not None and ids.shape[1] > self.longest:
            got = f"{ids.shape[1]} tokens for a model of {self.longest} positions"
            raise InputError(got, f"at most {self.longest}", "take a shorter length")
        if not self.config.timed:
            t = None
        elif t is None:
            t = self._share(ids)
        masked = (ids[0] == self.mask_id).nonzero()
        at = int(masked[-1, 0]) if len(masked) else -1  # where two answers are compared
        first = None if self._known else self._answer(ids[:1], None if t is None else t[:1])[0, at].clone()
        logits = self._answer(ids, t)
        if first is not None:
            _one_answer(first, logits[0, at])
            if self.shift is None:
                self._not_shifted(ids, logits)
            self._known = True
        empty = (ids == self.mask_id).all(1)
        if empty.any() and bool(torch.isnan(logits[int(empty.nonzero()[0, 0]), 0]).any()):
            got = "NaN where every token is the mask"
            why = "a network that divides by the share of what is not masked (ESM's token_dropout) has no answer there"
            do = f"{why}: give the ends of the text (given=), or set token_dropout to false in its config.json"
            raise InputError(got, "numbers or -inf", do)
        return torch.cat([logits[:, :1], logits[:, :-1]], 1) if self.shift else logits

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) of :meth:`hidden` -> (..., vocab) unnormalised nats in our numbering, float64 if
        they are, else float32; -inf for what is never drawn. InputError for NaN, +inf, and rows of
        probabilities."""
        wide = hidden if hidden.dtype == torch.float64 else hidden.float()
        top = wide.amax(-1)
        if bool((torch.isnan(top) | (top == torch.inf)).any()):
            raise InputError("logits with NaN or +inf", "numbers or -inf", "run the network in a wider format")
        if not self._looked and top.numel():
            _no_probabilities(wide, hidden.dtype)
            self._looked = True
        inside = self.mask_id < self.width
        if not self.subs and inside:
            mass = float(torch.softmax(wide, -1)[..., self.mask_id].max())
            if mass > 1e-6:
                raise InputError(
                    f"mass {mass:.3g} on the mask", "none", "pass subs=True, as MDLM does, or mend the network"
                )
        if inside:
            wide = torch.cat([wide[..., : self.mask_id], wide[..., self.mask_id + 1 :]], -1)
        elif self.config.vocab > self.width:
            wide = F.pad(wide, (0, self.config.vocab - self.width), value=-torch.inf)
        return wide.masked_fill(self.never.to(wide.device), -torch.inf)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """(..., width) of :meth:`hidden` -> (..., vocab) natural-log probabilities in our numbering, as
        :meth:`logits`: the softmax is never taken in half precision."""
        return F.log_softmax(self.logits(hidden), dim=-1)

    def _share(self, ids: Tensor) -> Tensor:
        """The time of a text by the share of it that is masked, (batch,)."""
        share = (ids == self.mask_id).double().mean(1)
        return torch.from_numpy(np.asarray(self.schedule.time(share.cpu().numpy()))).to(ids.device)

    def _answer(self, ids: Tensor, t: Tensor | None) -> Tensor:
        try:
            found = self.forward(ids) if t is None else self.forward(ids, t.to(self.time_dtype))
        except (IndexError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            got = (
                f"{tuple(ids.shape)} ids up to {int(ids.max())}, at which the network raises {described(error)}"
            )
            raise InputError(got, "a text that it reads", "check its length, width and mask_id") from error
        logits = getattr(found, "logits", found)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != (*ids.shape, self.width):
            what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"logits {what}", f"(batch, length, width) = {(*ids.shape, self.width)}", "check width"
            )
        return logits

    def _not_shifted(self, ids: Tensor, logits: Tensor) -> None:
        """A forgotten shift shows in a prompt: what is likeliest at a token is the next one, and not at
        itself."""
        shown = (ids != self.mask_id) & ~torch.isin(ids, self.public[:-1][self.never].to(ids.device))
        row, at = (shown[:, :-1] & shown[:, 1:]).nonzero()[: 4 * _PAIRS].unbind(1)
        if len(row) < _PAIRS:
            return
        due = ids[row, at + 1]
        before = int((logits[row, at].argmax(-1) == due).sum())
        there = int((logits[row, at + 1].argmax(-1) == due).sum())
        if 2 * before >= len(row) and 4 * there < len(row):
            got = f"logits that name the next token of the prompt ({before} of {len(row)}), not their own ({there})"
            do = (
                "pass shift=True, as for networks made of autoregressive ones, or shift=False if it is meant so"
            )
            raise InputError(got, "logits at a token that are of that token", do)


def _one_answer(first: Tensor, second: Tensor) -> None:
    """InputError if two answers to one question, (width,), are further apart than the rounding of their format:
    total variation of their softmaxes above half of its digits."""
    if not first.is_floating_point():
        return
    laws = torch.softmax(torch.stack([first, second]).double(), -1)
    apart = 0.5 * float((laws[0] - laws[1]).abs().sum())
    if apart > torch.finfo(first.dtype).eps ** 0.5:
        got = f"two answers to one question, a total variation of {apart:.3g} apart"
        raise InputError(got, "one answer", "put the network into evaluation mode: model.eval()")


def _no_probabilities(rows: Tensor, dtype: torch.dtype) -> None:
    """InputError if all rows have no value below 0 and the sum 1. Logits do not, but for a chance."""
    tolerance = 1e-3 if dtype in (torch.float32, torch.float64) else 2e-2
    if rows.shape[-1] < 2 or bool((rows < 0).any()):
        return
    if bool(((rows.sum(-1) - 1).abs() < tolerance).all()):
        got = "values of which none is negative and every row sums to 1: these look like probabilities"
        raise InputError(got, "logits, or natural-log probabilities", "leave the softmax out, or take .log()")


def hugging_face(
    folder: Path | str,
    *,
    mask_id: int | str | None = None,
    never: Ids | None = None,
    pad_id: int | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> Adapted:
    """A masked language model saved by ``transformers`` (``save_pretrained``) in a local folder; nothing is
    downloaded and no code of the folder is run.

    ``mask_id``: an id or a name, by default the tokenizer's. ``never``: ids or names that are not drawn, by
    default special tokens and ids without a token; ``never=()`` draws all. ``pad_id``: what pads prompts of
    unequal length and is not attended to, by default the tokenizer's padding, unless that ends texts too.
    Other options as for :class:`Adapted`, and the model is put on ``device``.

    Raises InputError without ``transformers`` (extra ``hf``), without the folder, for weights that are not in the file or do
    not fit its configuration, and where no mask is known.
    """
    path = Path(folder)
    model = load_folder(path, "AutoModelForMaskedLM")
    named = isinstance(mask_id, str) or any(isinstance(each, str) for each in never or ())
    tokenizer = None
    if mask_id is None or never is None or named:
        tokenizer = own_tokenizer(path, "pass mask_id=... and never=..., as ids")
    mask = getattr(tokenizer, "mask_token_id", None) if mask_id is None else mask_id
    if isinstance(mask, str):
        mask = _named(mask, tokenizer)
    if mask is None:
        raise InputError(f"{path} without a mask token", "a tokenizer with one, or mask_id", "pass mask_id=...")
    shown = model.get_input_embeddings().num_embeddings
    if mask >= shown:
        got = f"mask_id = {mask} for a model of {shown} ids"
        raise InputError(
            got, "a mask that the model was trained with", "bring the tokenizer that belongs to it"
        )
    if pad_id is None:
        known = model.config if tokenizer is None else tokenizer
        pad_id = getattr(known, "pad_token_id", None)
        if pad_id in {mask, *(getattr(known, name, None) for name in ("eos_token_id", "sep_token_id"))}:
            pad_id = None
    model = model.to(device)

    def forward(ids: Tensor) -> Any:
        if pad_id is None or not bool((ids == pad_id).any()):
            return model(input_ids=ids)
        return model(input_ids=ids, attention_mask=(ids != pad_id).long())

    options = {"longest": longest_of(model)} | options
    width = int(model.config.vocab_size)
    return Adapted(
        forward,
        width=width,
        mask_id=int(mask),
        never=never,
        tokenizer=tokenizer,
        device=model.device,
        **options,
    )


def mdlm(
    forward: Forward,
    *,
    width: int,
    mask_id: int,
    schedule: Schedule = LINEAR,
    timed: bool = True,
    shift: bool | None = None,
    never: Ids | None = None,
    tokenizer: Any = None,
    device: torch.device | str | None = None,
) -> Adapted:
    """MDLM's ``forward(x, sigma)``, (batch,) noise levels in the dtype of the module's weights; SUBS
    parameterisation. Its log-probabilities may come normalised: that changes nothing.

    sigma = -log(1 - (1 - 1e-3) m), m the masked share: its ``LogLinearNoise``, at most 6.908 (commit
    06dd29f of kuleshov-group/mdlm). m is that of ``schedule``, by which one decodes, at the time told;
    where none is told, that of the ids. ``timed=False``: sigma = 0 always, as for networks trained with
    ``time_conditioning=False``; an unchanged text is then not asked again.
    """
    checked(schedule)
    dtype = _format(forward)

    def told(ids: Tensor, t: Tensor) -> Any:
        share = torch.from_numpy(np.asarray(schedule.masked(t.double().cpu().numpy()))).to(ids.device)
        return forward(ids, -torch.log1p(-(1 - 1e-3) * share).to(dtype))

    def untold(ids: Tensor) -> Any:
        return forward(ids, torch.zeros(len(ids), dtype=dtype, device=ids.device))

    found = Adapted(
        told if timed else untold,
        width=width,
        mask_id=mask_id,
        timed=timed,
        shift=shift,
        never=never,
        tokenizer=tokenizer,
        schedule=schedule,
        device=_home(forward, device),
    )
    found.time_dtype = torch.float64  # sigma is rounded, not the time
    return found


def llada(
    forward: Forward,
    *,
    width: int,
    mask_id: int = 126_336,
    shift: bool | None = None,
    never: Ids | None = None,
    tokenizer: Any = None,
    longest: int | None = None,
    device: torch.device | str | None = None,
) -> Adapted:
    """LLaDA's ``model(x).logits``: no time; its mask is an id inside the vocabulary. ``shift=True``:
    Dream's."""
    if not 0 <= mask_id < width:
        raise InputError(
            f"mask_id = {mask_id}", f"an id of the model, 0 to {width - 1}", "look at its tokenizer"
        )
    return Adapted(
        forward,
        width=width,
        mask_id=mask_id,
        shift=shift,
        never=never,
        tokenizer=tokenizer,
        longest=longest,
        device=device,
    )


def _owner(forward: Forward) -> Any:
    """The module that a method is of, or ``forward`` itself."""
    return getattr(forward, "__self__", forward)


def _home(forward: Forward, device: torch.device | str | None) -> torch.device:
    """``device``, or where the parameters of a module, or of the module that a method is of, lie."""
    return device_of(_owner(forward)) if device is None else torch.device(device)


def _format(forward: Forward) -> torch.dtype:
    """The dtype of a module's weights, in which it is told the time; float32 for a plain function."""
    owner = _owner(forward)
    weights: Iterable[Tensor] = owner.parameters() if isinstance(owner, nn.Module) else ()
    return next((weight.dtype for weight in weights if weight.is_floating_point()), torch.float32)


def _never(never: Ids | None, tokenizer: Any, size: int) -> list[int]:
    """What is not drawn, as ids: what is asked for, or special tokens and ids without a token of
    ``tokenizer``."""
    if tokenizer is not None and not hasattr(tokenizer, "get_vocab"):
        path = Path(tokenizer)
        tokenizer = read_tokenizer(path / "tokenizer.json" if path.is_dir() else path)
    if never is not None:
        return [_named(each, tokenizer) if isinstance(each, str) else int(each) for each in never]
    if tokenizer is None:
        return []
    named = set(tokenizer.get_vocab().values())
    inner = getattr(tokenizer, "backend_tokenizer", tokenizer)
    special = set(getattr(tokenizer, "all_special_ids", ()))
    if hasattr(inner, "get_added_tokens_decoder"):
        special |= controls(inner).keys()
    return sorted(set(range(size)) - named | {id_ for id_ in special if id_ < size})


def _named(name: str, tokenizer: Any) -> int:
    """The id of a token by name. InputError without a tokenizer, or where it has no such token."""
    if tokenizer is None:
        raise InputError(f"the token {name!r} without a tokenizer", "ids", "pass tokenizer=..., or ids")
    known = tokenizer.get_vocab().get(name)
    if known is None:
        raise InputError(f"the token {name!r}", "a token of the tokenizer", "look into its vocabulary")
    return int(known)
