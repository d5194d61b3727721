"""Other people's networks as ours: any forward pass from token ids to logits, in the calling conventions of public models.

Our decoders number the real tokens 0 .. vocab - 1 and the mask ``vocab``. A public model has its mask anywhere in its own
vocabulary; ids are renumbered on the way in, and :meth:`Adapted.to_public` gives the model's own ids back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from .decode.decoded import device_of
from .schedule import LINEAR, Schedule, checked

Forward = Callable[..., Any]
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)


@dataclass(frozen=True)
class AdaptedConfig:
    vocab: int  # real tokens that can be drawn or shown
    timed: bool = False
    causal: bool = False

    @property
    def mask_id(self) -> int:
        return self.vocab


class Adapted:
    """A :class:`~precision_lab.mdm.decode.Network` around ``forward(ids) -> logits``.

    ``ids``: (batch, length) int64, of the model.  ``logits``: (batch, length, width) floats, or an object with ``.logits``; with
    ``timed``, ``forward(ids, t)``.  ``mask_id``: the model's.  ``shift``: logits at l are of token l + 1 (networks adapted from
    autoregressive ones: Dream, DiffuLLaMA), so that the prediction at l is read at l - 1, and at 0 from itself.
    ``subs``: what the network says of its mask is thrown away and the rest normalised (MDLM's parameterisation); without it
    a network that puts mass on its mask is an InputError. ``never``: ids that are not to be drawn (padding of the
    vocabulary); they are thrown away too. ``device``: where ``forward`` computes, by default where the parameters of that
    module lie now; the CPU for a plain function.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        width: int,
        mask_id: int,
        shift: bool = False,
        subs: bool = True,
        timed: bool = False,
        never: Sequence[int] = (),
        device: torch.device | str | None = None,
    ) -> None:
        if not 0 <= mask_id < width:
            raise InputError(
                f"mask_id = {mask_id}", f"an id of the model, 0 to {width - 1}", "look at its tokenizer"
            )
        if bad := [i for i in never if not 0 <= i < width or i == mask_id]:
            raise InputError(f"never = {bad}", f"ids 0 to {width - 1} other than the mask", "mend the list")
        self.forward, self.width, self.shift, self.subs = forward, width, shift, subs
        self.device = _home(forward, device)
        real = torch.ones(width, dtype=torch.bool)
        real[mask_id] = False
        public = torch.cat([real.nonzero()[:, 0], torch.tensor([mask_id])])  # our id -> the model's
        self.public, self.ours = public.to(self.device), public.argsort().to(self.device)
        self.never = torch.isin(public[:-1], torch.tensor(list(never), dtype=torch.int64)).to(self.device)
        self.config = AdaptedConfig(width - 1, timed)

    def to_public(self, tokens: Tensor) -> Tensor:
        """Our ids -> the model's."""
        return self.public.to(tokens.device)[tokens]

    def from_public(self, ids: Tensor) -> Tensor:
        """The model's ids -> ours."""
        if not bool(((ids >= 0) & (ids < self.width)).all()):
            raise InputError(
                f"ids {int(ids.min())}..{int(ids.max())}", f"0..{self.width - 1}", "use its tokenizer"
            )
        return self.ours.to(ids.device)[ids]

    def hidden(self, tokens: Tensor, t: Tensor | None = None) -> Tensor:
        """(batch, length) of our ids -> (batch, length, vocab) natural-log probabilities, float64 if the logits are, else
        float32: the softmax is never taken in half precision. InputError for logits of another shape, or not finite."""
        ids = self.to_public(tokens)
        logits = self.forward(ids, t) if self.config.timed else self.forward(ids)
        logits = getattr(logits, "logits", logits)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != (*ids.shape, self.width):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"logits {got}", f"(batch, length, width) = {(*ids.shape, self.width)}", "check width"
            )
        wide = logits if logits.dtype == torch.float64 else logits.float()
        if self.shift:
            wide = torch.cat([wide[:, :1], wide[:, :-1]], 1)
        ours = wide[..., self.public.to(wide.device)]
        if torch.isnan(ours).any() or (ours == torch.inf).any():
            raise InputError("logits with NaN or +inf", "numbers or -inf", "run the network in a wider format")
        if not self.subs and (mass := float(torch.softmax(ours, -1)[..., -1].max())) > 1e-6:
            raise InputError(
                f"mass {mass:.3g} on the mask", "none", "pass subs=True, as MDLM does, or mend the network"
            )
        return F.log_softmax(ours[..., :-1].masked_fill(self.never.to(ours.device), -torch.inf), dim=-1)

    def log_probs(self, hidden: Tensor) -> Tensor:
        return hidden


def hugging_face(folder: Path | str, **options: Any) -> Adapted:
    """A masked language model saved by ``transformers`` (``save_pretrained``) in a local folder; nothing is downloaded and no
    code of the folder is run. The mask is the tokenizer's, or ``mask_id``; other options as for :class:`Adapted`, and the model
    is put on ``device``.

    Raises InputError without ``transformers`` (extra ``hf``), without the folder, for weights that do not fit its
    configuration, and where no mask is known.
    """
    try:
        import transformers
    except ImportError:
        raise InputError("no transformers", "the extra hf", "pip install 'precision-lab[hf]'") from None
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise InputError(f"no {path / 'config.json'}", "a folder written by save_pretrained", "check the path")
    if not list(path.glob("*.safetensors")):
        raise InputError(
            f"no .safetensors in {path}", "weights without pickle", "save again with safe_serialization"
        )
    try:
        model, report = transformers.AutoModelForMaskedLM.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: {said[0]}", "a masked language model", "save it again") from error
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    lost = sorted(set(report["missing_keys"]) - tied) + [str(key) for key in report["mismatched_keys"]]
    if lost:
        raise InputError(
            f"{path} without fitting {lost[0]}", "all weights of its configuration", "save it again"
        )
    mask = options.pop("mask_id", None)
    if mask is None and any((path / name).is_file() for name in TOKENIZERS):  # without a file one is made up
        try:
            mask = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True).mask_token_id
        except Exception as error:
            got = f"{path} with a tokenizer that does not load ({type(error).__name__})"
            raise InputError(
                got, "one written by save_pretrained", "save it again, or pass mask_id=..."
            ) from error
    if mask is None:
        raise InputError(f"{path} without a mask token", "a tokenizer with one, or mask_id", "pass mask_id=...")
    device = options.pop("device", None)
    model = model.eval().requires_grad_(False).to(device)
    width, forward = model.config.vocab_size, lambda ids: model(input_ids=ids)
    return Adapted(forward, width=width, mask_id=int(mask), device=model.device, **options)


def mdlm(
    forward: Forward,
    *,
    width: int,
    mask_id: int,
    schedule: Schedule = LINEAR,
    device: torch.device | str | None = None,
) -> Adapted:
    """MDLM's ``forward(x, sigma)``, (batch,) noise levels, which a time-free network ignores; SUBS parameterisation. Its
    log-probabilities may come normalised: that changes nothing.

    sigma = -log(1 - (1 - 1e-3) m), m the masked share: its ``LogLinearNoise``, at most 6.908 (commit 06dd29f of
    kuleshov-group/mdlm). m is that of ``schedule``, by which one decodes, at the time told; where none is told, that of the ids.
    """
    checked(schedule)

    def call(ids: Tensor, t: Tensor | None) -> Any:
        if t is None:
            share = (ids == mask_id).double().mean(1)
        else:
            share = torch.from_numpy(np.asarray(schedule.masked(t.double().cpu().numpy()))).to(ids.device)
        return forward(ids, -torch.log1p(-(1 - 1e-3) * share).float())

    return Adapted(call, width=width, mask_id=mask_id, timed=True, device=_home(forward, device))


def _home(forward: Forward, device: torch.device | str | None) -> torch.device:
    """``device``, or where the parameters of a module, or of the module that a method is of, lie."""
    owner: Any = getattr(forward, "__self__", forward)
    return device_of(owner) if device is None else torch.device(device)


def llada(
    forward: Forward,
    *,
    width: int,
    mask_id: int = 126_336,
    never: Sequence[int] = (),
    device: torch.device | str | None = None,
) -> Adapted:
    """LLaDA's ``model(x).logits``: no shift, no time; its mask is an id inside the vocabulary."""
    return Adapted(forward, width=width, mask_id=mask_id, never=never, device=device)
