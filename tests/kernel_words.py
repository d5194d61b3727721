"""The kernels of the faithful sampler, word for word against torch operations one by one on the processor.

Not collected by itself: test_kernels.py runs it in a process of its own, in Triton's interpreter
(TRITON_INTERPRET=1, KERNEL_DEVICE=cpu) and, where there is a card, on it (KERNEL_DEVICE=cuda). Nothing here is
random but the choice of inputs: every comparison is of whole numbers.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
from torch import Tensor

from precision_lab.errors import InputError
from precision_lab.faithful import categorical
from precision_lab.faithful.eager import draw_eagerly
from precision_lab.faithful.kernels import launch
from precision_lab.faithful.masses import masses
from precision_lab.faithful.truncation import kept_eagerly, plan_of
from precision_lab.faithful.words import keys_of
from precision_lab.uniforms.triton import randint4x

DEVICE = torch.device(os.environ.get("KERNEL_DEVICE", "cpu"))
INF = math.inf
HALF_PRECISION = [torch.float16, torch.bfloat16]
PIPELINES = [
    "top_k=3",
    "top_p=0.9",
    "min_p=0.1",
    "temperature=0.7 > top_k=5 > top_p=0.95 > min_p=0.05",
    "top_k=2 ties=all > top_p=0.5 ties=last",
    "top_p=0.3 crossing=dropped > temperature=2",
    "top_p=0.5 crossing=beyond ties=last",
    "top_k=4 ties=last > top_k=2 ties=first",
    "top_k=3 > top_p=0.5 mass=whole",
    "temperature=0 ties=last",
]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(rows: int, vocab: int, dtype: torch.dtype = torch.float32, scale: float = 3.0) -> Tensor:
    return (torch.randn(rows, vocab, generator=seeded(vocab)) * scale).to(dtype)


def parts_of_words(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys, row numbers and positions, some of them beyond 2^32."""
    positions = np.arange(rows, dtype=np.int64) * (2**33 + 5)
    return keys_of(seeded(7), rows), np.arange(rows), positions


def by_kernels(
    logits: Tensor, n: int = 2, heat: Tensor | None = None, text: str | None = None, splits: int | None = None
) -> Tensor:
    plan = None if text is None else plan_of(text)
    words = launch.words_on(DEVICE, *parts_of_words(len(logits)))
    there = None if heat is None else heat.to(DEVICE)
    return launch.draw(logits.to(DEVICE), words, n, heat=there, plan=plan, splits=splits).ids.cpu()


def expected(logits: Tensor, n: int = 2, heat: Tensor | None = None, text: str | None = None) -> Tensor:
    return draw_eagerly(logits, heat, *parts_of_words(len(logits)), n, None if text is None else plan_of(text))


class TestDraws:
    @pytest.mark.parametrize("vocab", [1, 2, 255, 256, 257, 1000, 5000])
    def test_vocabularies(self, vocab):
        logits = normal(3, vocab)
        logits[:, 1:2] = -INF
        assert torch.equal(by_kernels(logits), expected(logits))

    @pytest.mark.parametrize("dtype", HALF_PRECISION, ids=str)
    def test_half_precision(self, dtype):
        logits = normal(2, 700, dtype)
        assert torch.equal(by_kernels(logits), expected(logits))

    def test_temperatures(self):
        """One for each row; 0 takes the first of the largest, and the ends of float32 are numbers too."""
        logits = normal(6, 300).round()
        heat = torch.tensor([1.0, 0.3, 0.0, 7.0, 1e-60, 1e60], dtype=torch.float64)
        found = by_kernels(logits, 3, heat)
        assert torch.equal(found, expected(logits, 3, heat))
        assert (found[:, 2] == int(logits[2].argmax())).all()

    @pytest.mark.parametrize("splits", [1, 3, 100])
    def test_splits_of_a_large_vocabulary(self, splits):
        logits = normal(1, 50_257, scale=2.0)
        assert torch.equal(by_kernels(logits, 1, splits=splits), expected(logits, 1))

    @pytest.mark.parametrize("dtype", [torch.float32, *HALF_PRECISION], ids=str)
    def test_long_rows_read_sixteen_bytes_at_a_time(self, dtype):
        logits = normal(1, 1 << 17, dtype, scale=2.0)
        assert launch.width_of(logits) == 512 // logits.element_size()
        assert launch.width_of(logits[:, 1:]) == 32
        assert torch.equal(by_kernels(logits, 1, splits=1), expected(logits, 1))

    @pytest.mark.parametrize("layout", ["last position", "columns", "every other token", "one row repeated"])
    def test_layouts(self, layout):
        """The storage as it is, without a copy."""
        logits = {
            "last position": normal(6, 300).reshape(3, 2, 300)[:, -1],
            "columns": normal(300, 3).T,
            "every other token": normal(3, 600)[:, ::2],
            "one row repeated": normal(1, 300).expand(3, 300),
        }[layout]
        assert torch.equal(by_kernels(logits), expected(logits))

    def test_many_draws_in_several_starts(self, monkeypatch):
        logits = normal(3, 40)
        monkeypatch.setattr(launch, "PROGRAMS", 9)
        assert launch.draws_at_once(8, 3) == [(0, 3), (3, 3), (6, 2)]
        assert torch.equal(by_kernels(logits, 8), expected(logits, 8))

    def test_other_words_give_other_tokens(self):
        """The comparison can fail."""
        logits = torch.zeros(2, 4000)
        keys, numbers, positions = parts_of_words(2)
        other = launch.draw(logits.to(DEVICE), launch.words_on(DEVICE, keys, numbers, positions + 1), 2)
        assert not torch.equal(other.ids.cpu(), expected(logits))


class TestMasses:
    def test_every_gap(self):
        """Blocks of one token: their sums are masses. Gaps from 0 to 110, denormal ones and large ones."""
        gaps = torch.cat([torch.linspace(0, 33, 3000), torch.tensor([1e-45, 1e-30, 90.0, 100.0, 110.0, 1e38])])
        assert torch.equal(self.sums(-gaps[None], 1, 1), masses(-gaps[None]))

    def test_blocks(self):
        """Equal logits give the largest sums: 256 times 2^44."""
        logits = torch.cat([normal(2, 2100), torch.zeros(1, 2100)])
        padded = torch.nn.functional.pad(masses(logits), (0, 9 * 256 - 2100))
        for width in (32, 256):
            assert torch.equal(self.sums(logits, 256, width), padded.reshape(3, 9, 256).sum(-1))

    @staticmethod
    def sums(logits: Tensor, block: int, width: int) -> Tensor:
        """Of blocks of so many tokens, read so many at once."""
        rows, vocab = logits.shape
        there = logits.to(DEVICE)
        tile = 2048 // block
        blocks = -(-vocab // block)
        found = torch.empty(rows, blocks, dtype=torch.int64, device=DEVICE)
        peaks = torch.empty(rows, device=DEVICE)
        with launch.on(DEVICE):
            launch.block_sums[(rows, 1)](
                *(there, there.stride(0), there.stride(1), vocab, peaks, peaks, found, found, blocks),
                -(-blocks // tile),
                HEAT=False,
                CUT=False,
                PEAK=True,
                BLOCKS=tile,
                BLOCK=block,
                WIDTH=width,
                **launch.SEPARATE,
            )
        assert torch.equal(peaks.cpu(), logits.amax(-1))
        return found.cpu()


class TestPipelines:
    @pytest.mark.parametrize("text", PIPELINES)
    def test_what_is_left(self, text):
        """Rows of whole numbers, with ties at every edge, and of others."""
        logits = torch.cat([normal(1, 60).round(), normal(1, 60)])
        logits[:, 3] = -INF
        self.agree(logits, text)

    @pytest.mark.parametrize("vocab", [1, 2, 3000])
    def test_vocabularies(self, vocab):
        self.agree(normal(1, vocab).round(), PIPELINES[3])

    @pytest.mark.parametrize("dtype", HALF_PRECISION, ids=str)
    def test_half_precision(self, dtype):
        self.agree(normal(1, 300, dtype), PIPELINES[4])

    def test_signed_zeros_are_ties(self):
        self.agree(torch.tensor([[0.0, -0.0, -1.0, 0.0, -0.0]]), "top_k=2 ties=last")

    def test_temperatures_of_rows(self):
        logits = normal(3, 50)
        heat = torch.tensor([0.5, 0.0, 3.0], dtype=torch.float64)
        text = "top_p=0.8 > min_p=0.2"
        assert torch.equal(by_kernels(logits, 3, heat, text), expected(logits, 3, heat, text))

    @pytest.mark.parametrize("text", PIPELINES[3:5])
    def test_draws(self, text):
        logits = normal(2, 700).round()
        assert torch.equal(by_kernels(logits, 2, None, text), expected(logits, 2, None, text))

    @staticmethod
    def agree(logits: Tensor, text: str) -> None:
        """What is left, as edges and ranges."""
        plan = plan_of(text)
        there = logits.to(DEVICE)
        kept = kept_eagerly(logits, plan, None)
        with launch.on(DEVICE):
            state = launch.state_after(there, there.amax(-1).float(), plan, None).cpu()
        assert torch.equal(state, torch.stack([kept.edge, kept.first, kept.last], dim=1))


class TestInput:
    @pytest.mark.parametrize(
        "row",
        [
            [1e38, -1e38, 3e38, -3e38],
            [1e4, -1e4, 9999.0, 1e4],
            [1e-45, -1e-45, 0.0, 1e-40],
            [-INF, -INF, 2.0, -INF],
            [5.0, 5.0, 5.0, 5.0],
        ],
        ids=["1e38", "1e4", "denormal", "one finite", "identical"],
    )
    def test_extremes(self, row):
        logits = torch.tensor([row])
        for text in (None, "temperature=0.5 > top_k=2 > top_p=0.6"):
            assert torch.equal(by_kernels(logits, 2, None, text), expected(logits, 2, None, text))

    @pytest.mark.parametrize("bad", [math.nan, INF])
    def test_a_row_without_a_law_shows_it_and_leaves_the_others_alone(self, bad):
        logits = normal(3, 300)
        logits[1, 200] = bad
        mended = logits.nan_to_num(0.0, 0.0)
        for splits, text in ((1, None), (2, None), (1, "top_p=0.5 > min_p=0.1")):
            words = launch.words_on(DEVICE, *parts_of_words(3))
            plan = None if text is None else plan_of(text)
            found = launch.draw(logits.to(DEVICE), words, 2, plan=plan, splits=splits)
            assert found.peaks.isfinite().tolist() == [True, False, True]
            assert torch.equal(found.ids.cpu()[:, ::2], expected(mended, 2, None, text)[:, ::2])

    def test_only_minus_infinity(self):
        logits = torch.full((2, 5), -INF)
        found = launch.draw(logits.to(DEVICE), launch.words_on(DEVICE, *parts_of_words(2)))
        assert found.peaks.isneginf().all()

    @pytest.mark.parametrize("shape", [(0, 7), (3, 7)])
    def test_nothing_to_draw(self, shape):
        logits = torch.zeros(shape, device=DEVICE)
        words = launch.words_on(DEVICE, *parts_of_words(len(logits)))
        assert launch.draw(logits, words, 0).ids.shape == (0, shape[0])

    def test_float64_is_refused(self):
        with pytest.raises(InputError, match="float64"):
            by_kernels(torch.zeros(1, 3, dtype=torch.float64))

    @pytest.mark.skipif(DEVICE.type != "cuda", reason="on a processor categorical() does not take the kernels")
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF_PRECISION], ids=str)
    def test_categorical_on_the_card(self, dtype):
        logits = normal(5, 3000, dtype)
        there = logits.to(DEVICE).requires_grad_()
        heat = torch.linspace(0, 2, 5)
        for text in (None, *PIPELINES):
            found = categorical(there, 3, generator=seeded(1), temperature=heat.to(DEVICE), pipeline=text)
            assert found.device == there.device
            again = categorical(logits, 3, generator=seeded(1), temperature=heat, pipeline=text)
            assert torch.equal(found.cpu(), again)
        with pytest.raises(InputError, match="NaN in row 1"):
            categorical(
                torch.tensor([[0.0, 1.0], [math.nan, 0.0]], device=DEVICE), generator=torch.Generator(DEVICE)
            )


class TestGumbel:
    """The twins against their words by another Philox: the token's score is the best to rounding."""

    VOCAB = 5000

    def test_float32(self):
        logits = normal(2, self.VOCAB)
        tile = 1024
        words = self.words(4 * tile, tile, 4)
        uniforms = (words.astype(np.int32) ^ (words.astype(np.int32) >> 31)).astype(np.float32)
        uniforms *= np.float32(4.6566127342e-10)
        self.best(logits, uniforms.astype(np.float64), launch.gumbel_max(logits.to(DEVICE), 3), 2e-6)

    def test_float64(self):
        logits = normal(2, self.VOCAB)
        tile = 1024
        words = self.words(2 * tile, tile, 4).astype(np.uint64)
        # words 0 and 1 of a block serve its first token, 2 and 3 its second
        halves = words.reshape(2, -1, 2, 2, tile)
        whole = (halves[:, :, :, 0] << np.uint64(32)) | halves[:, :, :, 1]
        uniforms = ((whole >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        found = launch.gumbel_max(logits.to(DEVICE), 3, torch.float64)
        self.best(logits, uniforms.reshape(2, -1), found, 1e-13)

    def words(self, step: int, tile: int, each: int) -> np.ndarray:
        """(2, steps, each, tile) uint32 in the order of the tokens."""
        starts = np.arange(0, self.VOCAB, step)
        offsets = np.arange(2)[:, None, None] * self.VOCAB + starts[None, :, None] + np.arange(tile)
        blocks = np.stack(randint4x(3, offsets), axis=2)
        return blocks.reshape(2, -1) if step == each * tile else blocks

    def best(self, logits: Tensor, uniforms: np.ndarray, found: Tensor, tolerance: float) -> None:
        with np.errstate(divide="ignore"):
            scores = logits.double().numpy() - np.log(-np.log(uniforms[:, : self.VOCAB]))
        chosen = scores[np.arange(2), found.cpu().numpy()]
        assert (chosen >= scores.max(-1) - tolerance * np.abs(scores.max(-1)) - tolerance).all()
