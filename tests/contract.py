"""What every sampler must pass. Subclass :class:`SamplerContract` and give it a fixture ``sampler``."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from precision_lab.errors import InputError
from precision_lab.formats import FORMATS
from precision_lab.laws.law import Law
from precision_lab.samplers import Sampler, UniformSampler, chunks
from precision_lab.samplers.weights import Exponentials
from precision_lab.types import Guarantee

INF = float("inf")
VOCAB = 32
DEAD = 7  # the token of -inf in row()
FALSE_FAIL = 1e-6


def row() -> torch.Tensor:
    """A head of 0.98 at index 3, a tail of 1/k with two equal tokens, one -inf. Exact in float32."""
    tail = 1 / np.arange(1.0, VOCAB + 1)
    tail[[3, DEAD]] = 0.0
    tail[11] = tail[10]
    probs = 0.02 * tail / tail.sum()
    probs[3] = 0.98
    with np.errstate(divide="ignore"):
        return torch.from_numpy(np.log(probs).astype(np.float32))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rejected(counts: np.ndarray, law: Law, false_fail: float = FALSE_FAIL) -> list[int]:
    """Tokens whose counts the law cannot explain: exact binomial, two-sided, false_fail / vocab each.

    A right law (to within its error) has one rejected with probability at most ``false_fail``, at every n.
    """
    n, level = int(counts.sum()), false_fail / len(counts) / 2
    low = np.clip(law.probs - law.error, 0, 1)
    high = np.clip(law.probs + law.error, 0, 1)
    wrong = (stats.binom.cdf(counts, n, low) < level) | (stats.binom.sf(counts - 1, n, high) < level)
    return np.flatnonzero(wrong).tolist()


class SamplerContract:
    DRAWS = 1 << 18
    LAWS: dict[str, Law] = {}  # noqa: RUF012  laws of row(), shared: the float32 ones take seconds

    @classmethod
    def law_of_row(cls, sampler: Sampler) -> Law:
        if sampler.name not in cls.LAWS:
            cls.LAWS[sampler.name] = sampler.law(row())
        return cls.LAWS[sampler.name]

    # -- draws
    # ---------------------------------------------------------------------------------------------------------
    @pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3)])
    @pytest.mark.parametrize("make", [seeded, np.random.default_rng])
    def test_shape_dtype_device(self, sampler, batch, make):
        tokens = sampler.draw(row().expand(*batch, VOCAB), 5, rng=make(0))
        assert (tokens.shape, tokens.dtype, tokens.device.type) == ((5, *batch), torch.int64, "cpu")
        assert 0 <= int(tokens.min()) <= int(tokens.max()) < VOCAB

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_every_floating_dtype_is_taken(self, sampler, dtype):
        assert sampler.draw(row().to(dtype), 3, rng=seeded(0)).shape == (3,)

    @pytest.mark.parametrize("make", [seeded, np.random.default_rng])
    def test_the_seed_decides(self, sampler, make):
        """Flat row, 40 draws: two seeds agree with probability (2/32)^40 at most."""
        flat = torch.zeros(2, VOCAB)
        first = sampler.draw(flat, 20, rng=make(1))
        assert torch.equal(first, sampler.draw(flat, 20, rng=make(1)))
        assert not torch.equal(first, sampler.draw(flat, 20, rng=make(2)))

    @pytest.mark.parametrize("make", [seeded, np.random.default_rng])
    def test_the_generator_moves_on(self, sampler, make):
        """The same chance as above that two different calls agree."""
        rng, flat = make(1), torch.zeros(2, VOCAB)
        assert not torch.equal(sampler.draw(flat, 20, rng=rng), sampler.draw(flat, 20, rng=rng))

    def test_no_global_state(self, sampler):
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002
        before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        sampler.draw(row(), 10, rng=seeded(0))
        sampler.draw(row(), 10, rng=np.random.default_rng(0))
        assert torch.equal(torch.get_rng_state(), before)
        np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002

    def test_logits_are_left_as_they_were(self, sampler):
        logits = row().expand(3, VOCAB).contiguous()
        before = logits.clone()
        sampler.draw(logits, 4, rng=seeded(0))
        assert torch.equal(logits, before)
        pair = torch.tensor([0.0, -9.0])
        sampler.law(pair)
        assert pair.tolist() == [0.0, -9.0]

    def test_logits_of_a_model_in_training(self, sampler):
        logits = row().requires_grad_()
        assert not sampler.draw(logits, 2, rng=seeded(0)).requires_grad
        single = torch.tensor([1.5], requires_grad=True)
        assert sampler.law(single).probs == pytest.approx([1.0], abs=1e-15)

    def test_rows_do_not_see_each_other(self, sampler):
        """The middle row differs, and 50 draws of it agree with probability 32^-50."""
        first, second = row(), row().flip(0)
        pair = sampler.draw(torch.stack([first, second, first]), 50, rng=seeded(4))
        other = sampler.draw(torch.stack([first, torch.zeros(VOCAB), first]), 50, rng=seeded(4))
        assert torch.equal(pair[:, [0, 2]], other[:, [0, 2]])
        assert not torch.equal(pair[:, 1], other[:, 1])

    @pytest.mark.parametrize("chunk", [1, VOCAB, 5 * VOCAB, 7 * VOCAB + 1])
    def test_chunks_put_each_draw_in_its_place(self, sampler, chunk, monkeypatch):
        """Rows with one token alive each. It loses only at u = 0, to the first dead token: 2^-9 of bfloat16
        draws, 2^-12 of float16's (and 2^-20 of torch_multinomial_fp16's, to any). 8 of 184 do so with
        probability 5e-9 over seeds; one draw of the batch that is missing or in another's place is 8."""
        monkeypatch.setattr(chunks, "VALUES_IN_MEMORY", chunk)
        alive = torch.tensor([[2, 30, 17, 9], [11, 12, 4, 5]])
        rows = torch.full((2, 4, VOCAB), -INF).scatter(-1, alive.unsqueeze(-1), 0.0)
        for rng in (seeded(5), np.random.default_rng(5)):
            tokens = sampler.draw(rows, 23, rng=rng)
            assert int((tokens != alive).sum()) < 8

    @pytest.mark.parametrize("chunk", [1, 5 * VOCAB, 7 * VOCAB + 1])
    def test_the_size_of_a_chunk_does_not_change_the_tokens(self, sampler, chunk, monkeypatch):
        """Generators on a CPU give the same values one at a time and many at once."""
        rows = torch.stack([row(), row().flip(0), torch.zeros(VOCAB)])
        for rng_of in (seeded, np.random.default_rng):
            with monkeypatch.context() as patch:
                patch.setattr(chunks, "VALUES_IN_MEMORY", 1 << 22)
                whole = sampler.draw(rows, 23, rng=rng_of(8))
                patch.setattr(chunks, "VALUES_IN_MEMORY", chunk)
                assert torch.equal(sampler.draw(rows, 23, rng=rng_of(8)), whole)

    def test_draws_in_chunks_are_independent(self, sampler, monkeypatch):
        """Flat row of 32: 20 draws in chunks of one repeat the first with probability 32^-19; a chunk that
        drew from a generator of its own seed would repeat it always."""
        monkeypatch.setattr(chunks, "VALUES_IN_MEMORY", VOCAB)
        for rng in (seeded(6), np.random.default_rng(6)):
            assert len(sampler.draw(torch.zeros(VOCAB), 20, rng=rng).unique()) > 1

    def test_one_token(self, sampler):
        assert sampler.draw(torch.tensor([[-3.0], [4.0]]), 6, rng=seeded(7)).tolist() == [[0, 0]] * 6
        law = sampler.law(torch.tensor([-3.0]))
        assert law.probs == pytest.approx([1.0], abs=1e-15)

    # -- the law
    # -------------------------------------------------------------------------------------------------------
    def test_law_is_a_law(self, sampler):
        law = self.law_of_row(sampler)
        assert law.vocab == VOCAB
        assert (law.probs >= 0).all()
        assert abs(law.probs.sum() - 1) <= 1e-12 + min(VOCAB * law.error, 1e-8)
        assert 0 <= law.error < 1e-5
        assert len(law.how) > 10
        assert (law.guarantee is Guarantee.EMULATED) == (sampler.emulated is not None)
        assert law.how.endswith(sampler.emulated or "")
        assert law.probs[DEAD] < 1e-6

    def test_law_of_an_array_is_the_law_of_the_tensor(self, sampler):
        logits = torch.tensor([0.0, -9.0, -INF, -9.5])
        from_tensor, from_array = sampler.law(logits), sampler.law(logits.numpy())
        np.testing.assert_array_equal(from_tensor.log_probs, from_array.log_probs)

    def test_law_of_shifted_logits(self, sampler):
        """softmax takes the shift out exactly. A sum rounds at the size of the logits: within a factor 1 +-
        r of each score, r = (largest score) 2^-precision, either law is within r of that of real arithmetic
        on the same noise."""
        narrow = sampler.stages.weights != "fp64"
        if isinstance(sampler, UniformSampler) and isinstance(sampler.weights, Exponentials) and narrow:
            pytest.skip("exp(logits) without a softmax: its rounding does depend on a shift")
        logits = torch.tensor([0.0, -8.0, -9.0, -INF])
        law, shifted = sampler.law(logits), sampler.law(logits + 4)
        within = 2 * law.error + 2 * shifted.error
        if isinstance(sampler, UniformSampler) and sampler.combine == "add":
            within += 2 * (13 + min(sampler.ceiling, 90.0)) * 2.0 ** -FORMATS[sampler.stages.score].precision
        np.testing.assert_allclose(shifted.probs, law.probs, rtol=0, atol=within)

    def test_draws_follow_the_law(self, sampler):
        """False-fail rate 1e-6 over seeds. Sees, with 1 - 1e-6: a tail (0.02) that is off by 15 %; a token
        of 0.005 off by 30 %. That it does see them is :class:`TestTheInstrument`."""
        tokens = sampler.draw(row(), self.DRAWS, rng=seeded(8))
        counts = np.bincount(tokens.numpy(), minlength=VOCAB)
        assert rejected(counts, self.law_of_row(sampler)) == []

    def test_numpy_words_follow_the_law(self, sampler):
        """As above with a quarter of the draws: sees a tail off by 30 %."""
        tokens = sampler.draw(row().expand(4, VOCAB), self.DRAWS // 16, rng=np.random.default_rng(9))
        counts = np.bincount(tokens.flatten().numpy(), minlength=VOCAB)
        assert rejected(counts, self.law_of_row(sampler)) == []

    def test_what_the_law_forbids_is_never_drawn(self, sampler):
        """Gaps past every ceiling, and -inf: 2^17 draws. A token the law has at zero cannot be drawn: no
        false fails."""
        logits = torch.tensor([-INF, -1.0e4, 0.0, -20.0, -50.0, -200.0, -INF, -1.0e4])
        law = sampler.law(logits)
        drawn = sampler.draw(logits, 1 << 17, rng=seeded(10)).unique().numpy()
        assert not np.isin(drawn, law.unreachable).any()
        assert law.probs[2] > 0.99
        first, later = law.probs[[0, 6]]
        if sampler.name == "torch_multinomial_fp16":  # E = 0 makes 0/0 = NaN, which wins: SAMPLERS.md, defect 4
            assert [first, later] == pytest.approx([2.0**-25] * 2, rel=1e-5, abs=0)
        # u = 0 takes the first token, alive or not
        elif sampler.name.startswith("torch_multinomial_replacement"):
            assert [first, later] == pytest.approx([2.0**-53, 0.0], rel=1e-12, abs=0)
        elif isinstance(sampler, UniformSampler) and sampler.source.enumerable:
            # all that are alive at the bottom: the first; some at +inf: a dead one's NaN
            noise = sampler.noise_atoms()
            bottom = float(noise.probs[0 if sampler.combine == "add" else -1])
            infinite = (
                0.0
                if math.isfinite(sampler.ceiling)
                else float(noise.probs[-1 if sampler.combine == "add" else 0])
            )
            assert 0 <= first <= (bottom + 8 * infinite) * (1 + 1e-12)
            assert 0 <= later <= 8 * infinite
        elif getattr(sampler, "rule", "") == "u <= c":  # u = 0 takes the first token, alive or not
            assert 0 <= first <= 2.0**-52
            assert later == 0.0
        else:
            assert [first, later] == [0.0, 0.0]

    # -- the ceiling and the name
    # --------------------------------------------------------------------------------------
    def test_ceiling_is_a_gumbel_value(self, sampler):
        assert math.isnan(sampler.ceiling) or sampler.ceiling > 4

    def test_names_its_origin(self, sampler):
        assert sampler.name
        assert sampler.publisher
        assert len(sampler.source_ref) > 10
        assert str(sampler.stages)

    # -- bad input
    # -----------------------------------------------------------------------------------------------------
    @pytest.mark.parametrize(
        ("logits", "said"),
        [
            ([0.0, math.nan], "NaN in logits at 1"),
            ([math.nan, -INF], "NaN in logits at 0"),
            ([0.0, INF], r"\+inf in logits at 1"),
            ([-INF, -INF], "all -inf"),
            ([], r"shape \(0,\)"),
            ([1, 2], "dtype torch.int64"),
            ([True, False], "dtype torch.bool"),
            ([1j, 0], "dtype torch.complex64"),
        ],
    )
    def test_bad_logits_are_named(self, sampler, logits, said):
        tensor = torch.tensor(logits) if logits else torch.zeros(0)
        with pytest.raises(InputError, match=said):
            sampler.draw(tensor, 2, rng=seeded(0))
        with pytest.raises(InputError, match=said):
            sampler.law(tensor)

    def test_one_bad_row_of_a_batch_is_found(self, sampler):
        logits = torch.zeros(2, 3, 4)
        logits[1, 2] = -INF
        with pytest.raises(InputError, match="all -inf"):
            sampler.draw(logits, 2, rng=seeded(0))
        logits[1, 2] = 0
        logits[0, 1, 3] = math.nan
        with pytest.raises(InputError, match="NaN in logits at 3"):
            sampler.draw(logits, 2, rng=seeded(0))

    @pytest.mark.parametrize("shape", [(), (0, 4), (4, 0)])
    def test_no_tokens(self, sampler, shape):
        with pytest.raises(InputError, match=r"\(\*batch, vocab\), not empty"):
            sampler.draw(torch.zeros(shape), 2, rng=seeded(0))

    @pytest.mark.parametrize("shape", [(2, 3), (1, 3), ()])
    def test_a_law_is_of_one_row(self, sampler, shape):
        with pytest.raises(InputError, match="index the row you mean"):
            sampler.law(torch.zeros(shape))

    @pytest.mark.parametrize("logits", [None, "abc", ["a", "b"], [[0.0], [1.0, 2.0]], object()])
    def test_what_is_no_array(self, sampler, logits):
        with pytest.raises(InputError, match="a tensor or an array"):
            sampler.law(logits)
        with pytest.raises(InputError, match=r"a torch\.Tensor"):
            sampler.draw(logits, 2, rng=seeded(0))

    @pytest.mark.parametrize("n", [0, -1, 2.0, "2", None])
    def test_bad_n(self, sampler, n):
        with pytest.raises(InputError, match="whole number of draws, at least 1"):
            sampler.draw(row(), n, rng=seeded(0))

    @pytest.mark.parametrize("rng", [None, 0, np.random.RandomState(0), np.random, torch])
    def test_bad_rng(self, sampler, rng):
        with pytest.raises(InputError, match=r"torch\.Generator or numpy\.random\.Generator"):
            sampler.draw(row(), 2, rng=rng)

    def test_rng_has_no_default(self, sampler):
        with pytest.raises(TypeError, match="rng"):
            sampler.draw(row(), 2)
