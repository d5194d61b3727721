"""The bound of a masked model on a text: nats per token, of any model in a folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..recorded import Recorded
from ..statistics import Estimate, mean
from ..statistics._checks import check_tokens, check_whole
from .adapters import hugging_face
from .corpus import END_OF_TEXT
from .decode.decoded import device_of
from .folders import words_of
from .loss import continuous_bound
from .spelling import texts_in
from .train import load_model

ROWS = 16  # windows at once: the shares of masks are stratified over them


@dataclass(frozen=True)
class Windows:
    """``tokens``: (windows, length) ids of the model; ``answer``: which of them are text, and not what
    surrounds it."""

    tokens: Tensor
    answer: Tensor


def bound(
    folder: Path | str,
    text: Path | str,
    *,
    length: int = 128,
    passes: int = 4,
    seed: int = 0,
    mask_id: int | str | None = None,
    device: torch.device | str = "cpu",
) -> Estimate:
    """At most so many nats per token does the masked model of ``folder`` need for the text: E of
    :func:`~.loss.continuous_bound` over windows, with a 95 % interval over them (windows are taken as
    independent).

    ``folder``: of ``transformers`` (extra ``hf``) or of ours, with its tokenizer. ``text``: .txt, .jsonl or .json of texts, or
    a file of ids (n, length). Texts are put one behind another and cut into windows of ``length`` tokens, what the tokenizer
    puts around a text among them: it is shown, and no part of the bound. ``passes``: draws of masks for every window.
    Raises InputError as the loaders do, for a causal model, and for less text than one window.
    """
    check_whole("passes", passes, 1)
    check_whole("length", length, 1)
    path = Path(folder)
    ours = (path / "manifest.json").is_file() and not (path / "config.json").is_file()
    network: Any = load_model(path) if ours else hugging_face(path, mask_id=mask_id, never=(), device=device)
    network = network.to(device) if ours else network
    windows = windows_of(path, text, length, ours)
    given = windows.tokens.shape[1]
    if (longest := getattr(network, "longest", None)) is not None and given > longest:
        raise InputError(
            f"windows of {given} tokens for a model of {longest} positions", f"1 to {longest}", "--length"
        )
    return bound_of(network, windows, passes=passes, seed=seed)


def bound_of(network: Any, windows: Windows, *, passes: int, seed: int) -> Estimate:
    """:func:`bound` of a network on windows of its own ids. Progress goes to stderr."""
    rng = torch.Generator().manual_seed(seed)
    device = device_of(network)
    total = torch.zeros(len(windows.tokens), dtype=torch.float64)
    for done in range(passes):
        order = torch.randperm(len(total), generator=rng)  # so that no window keeps its share of masks
        for at in order.split(ROWS):
            with torch.no_grad():
                tokens = windows.tokens[at].to(device)
                found = continuous_bound(network, tokens, rng=rng, answer=windows.answer[at])
            total[at] += found.double().cpu()
        print(f"bound: pass {done + 1} of {passes}, {len(total)} windows", file=sys.stderr, flush=True)
    return mean((total / passes).numpy())


def windows_of(folder: Path, text: Path | str, length: int, ours: bool) -> Windows:
    """The windows of a file of texts, or of ids, for the model of ``folder``."""
    texts = texts_in(text)
    if texts is None:
        recorded = Recorded(Path(text), "tokens")
        ids = torch.from_numpy(check_tokens(recorded.whole()))
        return Windows(ids, torch.ones_like(ids, dtype=torch.bool))
    words = words_of(folder)

    def plain(each: str) -> list[int]:
        found: list[int] = words.encode(each, add_special_tokens=False).ids
        return found

    before, after = _surroundings(plain, lambda each: words.encode(each).ids)
    room = length - len(before) - len(after)
    end = [words.token_to_id(END_OF_TEXT)] if ours else []
    stream = [id_ for each in texts for id_ in (*plain(each), *end)]
    count = len(stream) // max(room, 1)
    if room < 1 or count < 1:
        got = f"{len(stream)} tokens of text for windows of {length}, of which {len(before) + len(after)} surround it"
        raise InputError(got, "text for a window or more", "give more text, or a smaller --length")
    inner = np.array(stream[: count * room]).reshape(count, room)
    tokens = np.hstack([np.tile(before, (count, 1)), inner, np.tile(after, (count, 1))]).astype(np.int64)
    answer = np.zeros(tokens.shape, dtype=bool)
    answer[:, len(before) : len(before) + room] = True
    return Windows(torch.from_numpy(tokens), torch.from_numpy(answer))


def _surroundings(
    plain: Callable[[str], list[int]], dressed: Callable[[str], list[int]]
) -> tuple[list[int], list[int]]:
    """What a tokenizer puts before and behind a text, such as [CLS] and [SEP]."""
    inside, whole = plain("a"), dressed("a")
    if len(whole) == len(inside):
        return [], []
    at = next(i for i in range(len(whole)) if whole[i : i + len(inside)] == inside)
    return whole[:at], whole[at + len(inside) :]
