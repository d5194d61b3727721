"""What token ids say: texts between ends, by a tokenizer of any kind. Control tokens are never read as letters.

A control token is one that the tokenizer adds as special, or that has one of the usual names. By its name it is

| role | names, such as | what becomes of it |
|---|---|---|
| end | <|endoftext|>, </s>, <|end_of_text|>, <|eot_id|>, [SEP] | ends a text; a run of ends at the tail is padding: one is kept |
| start | <s>, [CLS], <|startoftext|> | nothing in front of a text; behind one it is an end |
| pad | [PAD], <pad>; -100 and masked entries at the tail | cut |
| unknown | [UNK], <unk> | U+FFFD, counted as replaced |
| mask | [MASK], <|mdm_mask|> | an error: the text is not decoded to the end |
| other | <|start_header_id|>, <|vision_end|> | left out and counted as dropped |
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ..errors import InputError
from ..types import Int
from .corpus import END_OF_TEXT

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Role = Literal["end", "start", "pad", "unknown", "mask", "other"]
IGNORED = -100  # what training code writes where a label does not count
USUAL = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>"),
    *("<eos>", "<bos>", END_OF_TEXT),
)
_SPELLED = re.compile(r"<\|[A-Za-z0-9_]+\|>|" + "|".join(map(re.escape, USUAL[:-1])))
_BRACKETS = "<>[]{}|\uff5c_ \u2581"  # also the wide bar and the low block of DeepSeek's names
_ROLES: tuple[tuple[Role, str], ...] = (  # the first whose pattern is found in the bare name
    ("other", r"header|^vision"),  # <|start_header_id|>, <|vision_end|>: neither starts nor ends a text
    ("mask", r"mask"),
    ("pad", r"pad"),
    ("unknown", r"^unk"),
    ("end", r"^/s$|^(eos|eot|eod|eom|sep|end)|[_\W]end$|^im_end"),
    ("start", r"^s$|^(bos|cls|start|begin)|^im_start"),
)


class Said(NamedTuple):
    """``texts``: an end stands between each and the next. ``replaced``: parts that are no text, each read as
    U+FFFD; ``dropped``: control tokens that say nothing."""

    texts: list[str]
    replaced: int
    dropped: int


def role_of(name: str) -> Role:
    """What a control token is for, by its name."""
    bare = name.lower().strip(_BRACKETS)
    for role, pattern in _ROLES:
        if re.search(pattern, bare):
            return role
    return "other"


class Spelling:
    """The text of ids of one ``tokenizer``; ``end`` and ``mask``: names or ids of such tokens beside the usual ones.

    Byte-level BPE is read to bytes and then to UTF-8, other kinds by the tokenizer's own decoder. Raises
    InputError for a tokenizer without a decoder (but of whole words), and for names that it does not know.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, end: str | int | None = None, mask: str | int | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size()
        self.controls = controls(tokenizer)
        for role, wanted in (("end", end), ("mask", mask)):
            if wanted is not None:
                self.controls[_id(tokenizer, wanted, role)] = role  # type: ignore[assignment]
        self._bytes = letters_of(tokenizer)
        without = tokenizer.decoder is None and type(tokenizer.model).__name__ != "WordLevel"
        if self._bytes is None and without:
            kind = type(tokenizer.model).__name__
            got = f"a tokenizer of kind {kind} without a decoder"
            raise InputError(
                got, "one whose decoder joins its tokens", "save it with its decoder, or give texts"
            )

    def read(self, ids: Int) -> Said:
        """Of one sequence. InputError for a mask, for -100 before the end, and for ids beyond the tokenizer."""
        pieces: list[list[int]] = [[]]
        dropped = 0
        for id_ in self._kept(ids):
            role = self.controls.get(id_)
            if role is None or role == "unknown":
                pieces[-1].append(id_)
            elif role == "end" or (role == "start" and pieces[-1]):
                pieces.append([])
            elif role == "other":
                dropped += 1
        while len(pieces) > 2 and not pieces[-1] and not pieces[-2]:
            del pieces[-1]
        found = [self._text(piece) for piece in pieces]
        return Said([text for text, _ in found], sum(count for _, count in found), dropped)

    def padding(self, ids: Int) -> int:
        """How many ids at the tail stand for nothing: -100, pads, and ends behind the first of their run."""
        row = np.asarray(ids)
        count = 0
        while count < len(row) and (row[-1 - count] == IGNORED or self._role(row[-1 - count]) == "pad"):
            count += 1
        ends = 0
        while count + ends < len(row) and self._role(row[-1 - count - ends]) == "end":
            ends += 1
        return count + max(ends - 1, 0)

    def _role(self, id_: Int) -> Role | None:
        return self.controls.get(int(id_))

    def _kept(self, ids: Int) -> list[int]:
        """The ids without what stands for nothing at the tail."""
        row = np.asarray(ids)
        last = int(np.max(np.flatnonzero(row != IGNORED), initial=-1)) + 1
        row = row[:last]
        masks = [id_ for id_, role in self.controls.items() if role == "mask"]
        left = int(np.isin(row, masks).sum())
        if left:
            got = f"{left} masks ({self.tokenizer.id_to_token(masks[0])}) in a sequence of {len(row)}"
            raise InputError(got, "text without masks", "decode to the end")
        if (wrong := row[(row < 0) | (row >= self.size)]).size:
            got = f"id {int(wrong[0])} in a sequence of {len(row)}"
            expected = f"0 to {self.size - 1}, no mask"
            raise InputError(
                got, expected, "decode to the end, with this model's own tokenizer; -100 may be at the tail"
            )
        return [int(id_) for id_ in row]

    def _text(self, piece: list[int]) -> tuple[str, int]:
        """The text of ids without control tokens but the unknown, and how often it is U+FFFD for what is no
        text."""
        if self._bytes is not None:
            unknown = "\ufffd".encode()
            raw = b"".join(unknown if id_ in self.controls else self._bytes[id_] for id_ in piece)
            text, invalid = decode_utf8(raw)
            return text, invalid + sum(id_ in self.controls for id_ in piece)
        parts: list[list[int]] = [[]]
        for id_ in piece:
            if id_ in self.controls:
                parts.append([])
            else:
                parts[-1].append(id_)
        texts = [self.tokenizer.decode(part, skip_special_tokens=False) for part in parts]
        text = " \ufffd ".join(texts).strip() if len(texts) > 1 else texts[0]
        return text, text.count("\ufffd")


def read_text(text: str) -> Said:
    """A text as it is, read as :class:`Spelling` reads ids: what spells a control token of a usual name is
    one."""
    texts = [""]
    replaced = 0
    dropped = 0
    at = 0
    for match in _SPELLED.finditer(text):
        texts[-1] += text[at : match.start()]
        at = match.end()
        role = role_of(match.group())
        if role == "mask":
            raise InputError(f"a mask ({match.group()}) in a text", "text without masks", "decode to the end")
        if role == "end" or (role == "start" and texts[-1].strip()):
            texts.append("")
        elif role == "unknown":
            texts[-1] += "\ufffd"
            replaced += 1
        elif role == "other":
            dropped += 1
    texts[-1] += text[at:]
    while len(texts) > 2 and not texts[-1].strip() and not texts[-2].strip():
        del texts[-1]
    return Said(texts, replaced, dropped)


def controls(tokenizer: Tokenizer) -> dict[int, Role]:
    """id -> role of every control token. Added tokens that are not special, such as runs of spaces, are text, unless
    they have a usual name."""
    found: dict[int, Role] = {}
    for id_, token in tokenizer.get_added_tokens_decoder().items():
        if token.special or token.content in USUAL:
            found[id_] = role_of(token.content)
    for name in USUAL:
        if (known := tokenizer.token_to_id(name)) is not None:
            found.setdefault(known, role_of(name))
    unknown = getattr(tokenizer.model, "unk_token", None)
    if unknown is not None and (known := tokenizer.token_to_id(unknown)) is not None:
        found[known] = "unknown"
    return found


def end_of(tokenizer: Tokenizer) -> int | None:
    """The id that ends a text: <|endoftext|> if there is one, else the first of that role."""
    if (usual := tokenizer.token_to_id(END_OF_TEXT)) is not None:
        return int(usual)
    return min((id_ for id_, role in controls(tokenizer).items() if role == "end"), default=None)


def start_of(tokenizer: Tokenizer) -> int | None:
    """The id that the tokenizer itself puts in front of a text, as Llama's does."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    dressed = tokenizer.encode("a", add_special_tokens=True).ids
    return dressed[0] if dressed[:1] != plain[:1] else None


def letters_of(tokenizer: Tokenizer) -> dict[int, bytes] | None:
    """id -> bytes of byte-level BPE, each letter of a token a byte; None for another kind."""
    if type(tokenizer.decoder).__name__ != "ByteLevel":
        return None
    added = tokenizer.get_added_tokens_decoder()
    found: dict[int, bytes] = {id_: token.content.encode() for id_, token in added.items()}
    for token, id_ in tokenizer.get_vocab().items():
        if id_ in found:
            continue
        if not LETTERS.keys() >= set(token):
            return None
        found[id_] = bytes(LETTERS[letter] for letter in token)
    return found


def decode_utf8(raw: bytes) -> tuple[str, int]:
    """Text, and the number of maximal invalid parts, each replaced by U+FFFD (as the Unicode standard
    recommends, 3.9)."""
    text, count = "", 0
    while True:
        try:
            return text + raw.decode(), count
        except UnicodeDecodeError as error:  # names the first invalid part
            text, count = text + raw[: error.start].decode() + "\ufffd", count + 1
            raw = raw[error.end :]


def rows_of(tokens: Any) -> list[Int]:
    """Sequences of ids, which may be of unequal length: masked entries (numpy.ma) become -100. InputError
    for none, and for what is no whole numbers."""
    try:
        rows = [_row(row) for row in tokens]
    except (TypeError, ValueError):
        raise InputError(
            f"tokens of type {type(tokens).__name__}", "sequences of ids", "pass an array (n, length)"
        ) from None
    if not rows or not all(len(row) for row in rows):
        raise InputError(
            f"{len(rows)} sequences, of them some empty", "one id or more in each", "generate text"
        )
    return rows


def _row(row: Any) -> Int:
    ids = np.ma.asarray(row) if np.ma.isMaskedArray(row) else np.asarray(row)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        got = f"a sequence of shape {ids.shape} and dtype {ids.dtype}"
        raise InputError(got, "whole numbers, (length,)", "pass token ids, one row a sequence")
    whole = ids.astype(np.int64)
    return np.asarray(whole.filled(IGNORED) if np.ma.isMaskedArray(whole) else whole)


def texts_in(path: Path | str) -> list[str] | None:
    """The texts of a file: of .txt one a line, of .jsonl and .json strings, or objects with a string in
    "text" (or one string only). None for a file of another kind, or of ids. InputError where no text is in
    it, or some items are none."""
    path = Path(path)
    if path.suffix not in (".txt", ".jsonl", ".json") or not path.is_file():
        return None
    raw = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".txt":
        items: Sequence[Any] = raw.splitlines()
    else:
        try:
            items = _parsed(raw, path.suffix)
        except ValueError:
            return None  # the reader of ids says what is wrong
        texts = [_string(item) for item in items]
        if not any(text is not None for text in texts):
            return None
        if None in texts:
            got = f"item {texts.index(None)} of {path} that is no text"
            raise InputError(got, 'strings, or objects with a string in "text"', "mend the file")
        items = texts
    found = [text for text in items if text.strip()]
    if not found:
        raise InputError(f"no text in {path}", "a text or more", "generate some")
    return found


def _parsed(raw: str, suffix: str) -> Sequence[Any]:
    if suffix == ".jsonl":
        return [json.loads(line) for line in raw.splitlines() if line.strip()]
    found = json.loads(raw)
    return found if isinstance(found, list) else []


def _string(item: Any) -> str | None:
    if isinstance(item, dict):
        strings = [value for value in item.values() if isinstance(value, str)]
        item = item.get("text", strings[0] if len(strings) == 1 else None)
    return item if isinstance(item, str) else None


def _id(tokenizer: Tokenizer, wanted: str | int, role: str) -> int:
    known = tokenizer.token_to_id(wanted) if isinstance(wanted, str) else wanted
    if known is None and str(wanted).isdecimal():
        known = int(wanted)
    if known is None:
        raise InputError(
            f"{role} {wanted!r}", "a token of the tokenizer, by name or id", "look into its vocabulary"
        )
    return known


def _letters() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes of Latin-1 stand for themselves, the k-th other byte is chr(256 +
    k)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + k): byte for k, byte in enumerate(others)}


LETTERS = _letters()
