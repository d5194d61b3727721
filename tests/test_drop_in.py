"""The signatures that people call: laws, shapes, generators, and that wrong ones are told apart."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from judging import statistical
from scipy import stats

from precision_lab.errors import InputError
from precision_lab.faithful import categorical
from precision_lab.faithful.drop_in import (
    Categorical,
    DrawnToken,
    add_gumbel_noise,
    multinomial,
    numpy_categorical,
    random_sample,
    sample_categorical,
)
from precision_lab.faithful.masses import masses_of_weights
from precision_lab.faithful.weights import draw_weights, draw_weights_eagerly
from precision_lab.faithful.words import keys_of

RATE = 1e-8  # of every random test here
INF = math.inf
ROW = torch.tensor([0.4, 0.3, 0.2, 0.08, 0.02], dtype=torch.float64)
MANY = 100_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def p_value(ids, probs) -> float:
    """Chi-square of tokens against probabilities, all expected counts above 5."""
    seen = np.bincount(np.asarray(ids).ravel(), minlength=len(probs))
    probs = np.asarray(probs)
    due = probs / probs.sum() * seen.sum()
    assert due.min() > 5
    return float(stats.chisquare(seen, due).pvalue)


WAYS = {
    "multinomial": lambda rows, g: multinomial(rows, 1, generator=g)[:, 0],
    "multinomial, replaced": lambda rows, g: multinomial(rows[:4], MANY // 4, True, generator=g),
    "multinomial, first of two": lambda rows, g: multinomial(rows, 2, generator=g)[:, 0],
    "Categorical, probs": lambda rows, g: Categorical(probs=rows).sample(generator=g),
    "Categorical, logits": lambda rows, g: Categorical(logits=rows.log()).sample(generator=g),
    "add_gumbel_noise": lambda rows, g: add_gumbel_noise(2 * rows.log(), 2.0, generator=g).argmax(-1),
    "sample_categorical": lambda rows, g: sample_categorical(3 * rows, generator=g),
    "random_sample": lambda rows, g: random_sample(rows, {i: g for i in range(len(rows))}),
    "DrawnToken": lambda rows, g: DrawnToken(2.0, generator=g)(None, 2 * rows.log()).argmax(-1),
    "numpy_categorical": lambda rows, g: numpy_categorical(rows.log().numpy(), rng=np.random.default_rng(5))[0],
}


class TestFrequencies:
    @statistical(false_fail=RATE)
    @pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
    def test_they_are_those_of_the_row(self, way):
        """100,000 draws by chi-square; the law of a temperature of 1.05 is refused. Rows share no words."""
        rows = ROW.expand(MANY, 5)
        ids = way(rows, seeded(1))
        warm = ROW ** (1 / 1.05)
        assert p_value(ids, ROW) > RATE
        assert p_value(ids, warm) < RATE

    @statistical(false_fail=2 * RATE)
    def test_without_replacement_one_after_another(self):
        """P(i, then j, then k) from integer masses in whole numbers; independent draws that were sorted
        out, and the law of a tempered row, are refused."""
        ids = multinomial(ROW[:4].expand(MANY, 4), 3, generator=seeded(2))
        assert all(len(set(three)) == 3 for three in ids[:1000].tolist())
        places = {three: i for i, three in enumerate(itertools.permutations(range(4), 3))}
        code = [places[tuple(three)] for three in ids.tolist()]
        assert p_value(code, [successive(ROW[:4], three) for three in places]) > 2 * RATE
        reversed_ = [successive(ROW[:4], three[::-1]) for three in places]
        assert p_value(code, reversed_) < RATE
        tempered = [successive(ROW[:4] ** (1 / 1.05), three) for three in places]
        assert p_value(code, tempered) < RATE

    @statistical(false_fail=4 * RATE)
    def test_what_is_left_is_drawn_as_finely_as_the_head(self):
        """After a head of 1 weights of 16e-14 and 7e-14 come 16 to 7; beside the head their masses are 1
        and 1: refused."""
        row = torch.tensor([1.0, 16e-14, 7e-14], dtype=torch.float64)
        ids = multinomial(row.expand(MANY, 3), 3, generator=seeded(3))
        assert (ids[:, 0] == 0).all()  # 2e-8 that any of them is not: in the rate
        assert p_value(ids[:, 1] - 1, [16, 7]) > RATE
        assert p_value(ids[:, 1] - 1, [1, 1]) < RATE
        assert masses_of_weights(row)[1:].tolist() == [1, 1]


def successive(weights: torch.Tensor, tokens: tuple[int, ...]) -> float:
    """P(these tokens in this order), in whole numbers, from the masses of what is left."""
    left, found = weights.clone(), Fraction(1)
    for token in tokens:
        masses = masses_of_weights(left).tolist()
        found *= Fraction(masses[token], sum(masses))
        left[token] = 0
    return float(found)


class TestLoop:
    @pytest.mark.parametrize("vocab", [1, 2, 255, 256, 257, 700])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_the_compiled_loop_draws_as_the_eager_one(self, vocab, dtype):
        rows = (torch.rand(5, vocab, generator=seeded(1), dtype=torch.float64) ** 9).to(dtype)
        rows[:, 0] = 0.5
        self.both(rows, {1, 3, vocab // 2 or 1, 40})

    @pytest.mark.parametrize("scale", [1e-318, 1e-300, 1e-30, 1e30, 1e300])
    def test_at_every_scale(self, scale):
        rows = torch.rand(3, 300, generator=seeded(1), dtype=torch.float64) ** 9 * scale
        self.both(rows, {1, 3, 40})

    def both(self, rows, counts):
        keys, numbers = keys_of(seeded(7), len(rows)), np.arange(len(rows))
        for n, replacement in itertools.product(counts, (True, False)):
            if replacement or n <= int((rows > 0).sum(-1).min()):
                ids = draw_weights(rows, keys, numbers, n, replacement=replacement)
                again = draw_weights_eagerly(rows, keys, numbers, n, replacement=replacement)
                assert torch.equal(ids, again)

    def test_all_that_can_come_comes_once(self):
        row = torch.tensor([0.0, 1e-320, 5.0, 1e-20, 0.0, 1e300], dtype=torch.float64)
        ids = multinomial(row.expand(50, 6), 4, generator=seeded())
        assert ids.tolist() == [[5, 2, 3, 1]] * 50

    def test_the_weights_are_left_alone(self):
        rows = torch.rand(4, 50, generator=seeded(1))
        before = rows.clone()
        multinomial(rows, 30, generator=seeded())
        random_sample(rows, {})
        assert torch.equal(rows, before)

    def test_threads_and_layout_change_nothing(self):
        rows = torch.rand(40, 30_000, generator=seeded(8))
        due = multinomial(rows, 2, generator=seeded(9))
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        try:
            assert torch.equal(multinomial(rows, 2, generator=seeded(9)), due)
        finally:
            torch.set_num_threads(before)
        assert torch.equal(multinomial(rows.T.contiguous().T, 2, generator=seeded(9)), due)
        assert torch.equal(multinomial(rows[:7], 2, generator=seeded(9)), due[:7])


class TestSignatures:
    def test_torch_default_generator_is_taken_where_none_is_given(self):
        """torch.manual_seed holds, and each call goes on from the last."""
        rows = torch.full((3, 5000), 1.0)
        ways = [
            lambda: multinomial(rows, 2),
            lambda: Categorical(probs=rows).sample((2,)),
            lambda: Categorical(logits=rows).sample((2,)),
            lambda: add_gumbel_noise(rows, 1.0).argmax(-1),
            lambda: sample_categorical(rows),
            lambda: random_sample(rows, {}),
            lambda: DrawnToken()(None, rows).argmax(-1),
        ]
        for way in ways:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(3)
                first, second = way(), way()
                torch.manual_seed(3)
                assert torch.equal(way(), first)
                assert not torch.equal(first, second)

    def test_shapes_are_those_of_torch(self):
        p = torch.rand(3, 7, generator=seeded())
        for shape in [(7,), (3, 7)]:
            rows = p[0] if len(shape) == 1 else p
            for n, replacement in [(1, False), (4, False), (9, True)]:
                due = torch.multinomial(rows, n, replacement)
                found = multinomial(rows, n, replacement)
                assert (found.shape, found.dtype, found.is_contiguous()) == (due.shape, due.dtype, True)
        for batch, sample in itertools.product([(), (3,), (2, 3)], [(), (4,), (2, 1)]):
            rows = torch.rand(*batch, 7)
            due = torch.distributions.Categorical(probs=rows).sample(sample)
            assert Categorical(probs=rows).sample(sample).shape == due.shape
            assert Categorical(logits=rows).sample(torch.Size(sample)).shape == due.shape

    def test_the_same_tokens_as_categorical(self):
        logits = torch.randn(2, 3, 50, generator=seeded())
        due = categorical(logits, generator=seeded(4), temperature=0.7)[0]
        assert torch.equal(add_gumbel_noise(logits, 0.7, generator=seeded(4)).argmax(-1), due)
        flat = DrawnToken(0.7, generator=seeded(4))(None, logits.view(6, 50))
        assert torch.equal(flat.argmax(-1), due.view(6))
        normal = Categorical(logits=logits)
        assert torch.equal(
            normal.sample((5,), generator=seeded(4)), categorical(normal.logits, 5, generator=seeded(4))
        )
        array = numpy_categorical(logits.numpy(), 2, rng=np.random.default_rng(1))
        seed = int(np.random.default_rng(1).integers(0, 1 << 62))
        assert np.array_equal(array, categorical(logits, 2, generator=seeded(seed)))

    def test_categorical_is_torchs_but_for_its_draws(self):
        p = torch.rand(3, 7, generator=seeded())
        ours, theirs = Categorical(probs=p), torch.distributions.Categorical(probs=p)
        ids = ours.sample((5,))
        assert isinstance(ours, torch.distributions.Categorical)
        assert torch.equal(ours.log_prob(ids), theirs.log_prob(ids))
        assert torch.equal(ours.entropy(), theirs.entropy())
        assert float(torch.distributions.kl_divergence(ours, theirs).abs().max()) < 1e-6
        wide = ours.expand((4, 3))
        assert type(wide) is Categorical
        assert wide.sample((2,)).shape == (2, 4, 3)
        grad = Categorical(logits=torch.zeros(2, 3, requires_grad=True))
        assert not grad.sample().requires_grad

    def test_add_gumbel_noise_leaves_only_the_drawn_token(self):
        logits = torch.randn(2, 3, 50, generator=seeded()).half()
        found = add_gumbel_noise(logits, 1.0, generator=seeded(1))
        assert (found.shape, found.dtype) == (logits.shape, logits.dtype)
        assert (found.isfinite().sum(-1) == 1).all()
        assert torch.equal(found[found.isfinite()], logits[found.isfinite()])
        assert add_gumbel_noise(logits, 0) is logits
        assert add_gumbel_noise(logits, 0.0, True) is logits

    def test_a_row_with_a_generator_of_its_own_draws_alike_in_any_batch(self):
        p = torch.rand(6, 3000, generator=seeded())
        whole = random_sample(p, {i: seeded(i) for i in range(6)})
        assert torch.equal(random_sample(p[[4, 1]], {0: seeded(4), 1: seeded(1)}), whole[[4, 1]])
        before = torch.get_rng_state()
        random_sample(p, {i: seeded(i) for i in range(6)})
        assert torch.equal(torch.get_rng_state(), before)  # nothing is taken where all have their own
        some = random_sample(p, {2: seeded(2)})
        assert some[2] == whole[2]
        assert not torch.equal(torch.get_rng_state(), before)

    def test_the_processor_makes_the_token_of_a_row(self):
        scores = torch.randn(8, 50, generator=seeded())
        before = scores.clone()
        found = DrawnToken(generator=seeded(1))(torch.zeros(8, 3, dtype=torch.int64), scores)
        ids = found.argmax(-1)
        assert torch.equal(scores, before)
        assert torch.equal(torch.multinomial(found.softmax(-1), 1)[:, 0], ids)
        assert DrawnToken(0)(None, scores).argmax(-1).tolist() == scores.argmax(-1).tolist()

    def test_processors_run_before_on_scores_over_the_temperature(self):
        scores, seen = torch.randn(8, 50, generator=seeded()), []

        def top_two(input_ids, given):
            seen.append(given)
            return given.masked_fill(given < given.topk(2).values[:, 1:], -INF)

        found = DrawnToken(0.5, before=[top_two], generator=seeded(1))(None, scores)
        assert torch.equal(seen[0], scores / 0.5)
        kept = scores.topk(2).indices
        assert (found.argmax(-1)[:, None] == kept).any(-1).all()
        assert torch.equal(found.argmax(-1), categorical(top_two(None, scores / 0.5), generator=seeded(1))[0])

    def test_generate_takes_the_drawn_token(self):
        """A small random network: each new token is the faithful draw from its own logits, whatever
        generate does after."""
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=30, n_positions=16, n_embd=8, n_layer=1, n_head=1, bos_token_id=1, eos_token_id=None
        )
        model = transformers.GPT2LMHeadModel(config).eval()
        ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
        with torch.no_grad():
            done = model.generate(
                ids,
                max_new_tokens=4,
                do_sample=True,
                top_k=0,
                pad_token_id=0,
                logits_processor=transformers.LogitsProcessorList([DrawnToken(0.7, generator=seeded(5))]),
            )
            again = seeded(5)
            for at in range(3, 7):
                logits = model(done[:, :at]).logits[:, -1].float()
                due = categorical(logits, generator=again, temperature=0.7)[0]
                assert torch.equal(done[:, at], due)


class TestArrays:
    def test_arrays_in_arrays_out(self):
        p = np.random.default_rng(0).random((4, 30))
        for way in (
            lambda x, g: multinomial(x, 3, generator=g),
            lambda x, g: sample_categorical(x, generator=g),
            lambda x, g: add_gumbel_noise(x, 1.0, generator=g),
        ):
            made = way(p, np.random.default_rng(1))
            assert isinstance(made, np.ndarray)
            seed = int(np.random.default_rng(1).integers(0, 1 << 62))
            assert np.array_equal(made, way(torch.from_numpy(p), seeded(seed)).numpy())
        assert isinstance(random_sample(p, {}), np.ndarray)

    def test_every_layout_and_kind_of_float(self):
        p = np.random.default_rng(0).random((6, 31))
        g = lambda: np.random.default_rng(1)  # noqa: E731
        due = multinomial(p, 5, generator=g())
        frozen = p.copy()
        frozen.flags.writeable = False
        for same in (np.asfortranarray(p), p[::-1].copy()[::-1], frozen, p.astype(">f8")):
            assert np.array_equal(multinomial(same, 5, generator=g()), due)
        for kind in (np.float16, np.float32):
            assert multinomial(p.astype(kind), 5, generator=g()).shape == (6, 5)

    def test_the_generator_goes_on(self):
        p, g = np.ones((3, 5000)), np.random.default_rng(0)
        assert not np.array_equal(multinomial(p, 1, generator=g), multinomial(p, 1, generator=g))


BAD_ROWS = {
    "NaN": [0.5, math.nan],
    "inf": [0.5, INF],
    "-0.1": [0.5, -0.1],
    "nothing but 0": [0.0, 0.0],
}
OF_PROBS = {
    "multinomial": lambda p: multinomial(p, 1),
    "Categorical": lambda p: Categorical(probs=p),
    "sample_categorical": sample_categorical,
    "random_sample": lambda p: random_sample(p, {}),
}
OF_LOGITS = {
    "Categorical": lambda l: Categorical(logits=l),
    "add_gumbel_noise": lambda l: add_gumbel_noise(l, 1.0),
    "add_gumbel_noise at 0": lambda l: add_gumbel_noise(l, 0),
    "DrawnToken": lambda l: DrawnToken()(None, l),
    "numpy_categorical": lambda l: numpy_categorical(l.numpy(), rng=np.random.default_rng(0)),
}


class TestBadInput:
    @pytest.mark.parametrize("row", BAD_ROWS)
    @pytest.mark.parametrize("way", OF_PROBS.values(), ids=OF_PROBS)
    def test_rows_of_weights_are_named(self, way, row):
        with pytest.raises(InputError, match=f"{row} in row 1".replace("+", "")):
            way(torch.tensor([[0.5, 0.5], BAD_ROWS[row]]))

    @pytest.mark.parametrize("row", [[0.0, math.nan], [INF, 0.0], [-INF, -INF]])
    @pytest.mark.parametrize("way", OF_LOGITS.values(), ids=OF_LOGITS)
    def test_rows_of_logits_are_named(self, way, row):
        with pytest.raises(InputError, match="in row 1"):
            way(torch.tensor([[0.0, 0.0], row]))

    @pytest.mark.parametrize(
        "way",
        [
            lambda: multinomial(torch.ones(2, 3), 0),
            lambda: multinomial(torch.ones(2, 3), -1),
            lambda: multinomial(torch.ones(2, 3), 1.5),
            lambda: multinomial(torch.ones(2, 3), True),
            lambda: multinomial(torch.ones(2, 3), 4),
            lambda: multinomial(torch.tensor([[1.0, 1.0], [1.0, 0.0]]), 2),
            lambda: multinomial(torch.ones(2, 2, 3), 1),
            lambda: multinomial(torch.ones(2, 3, dtype=torch.int64), 1),
            lambda: multinomial([0.5, 0.5], 1),
            lambda: multinomial(np.ones((2, 3), dtype=int), 1),
            lambda: multinomial(np.array(["a"]), 1),
            lambda: multinomial(torch.ones(2, 0), 1),
            lambda: multinomial(torch.ones(2, 3), 1, generator=3),
            lambda: multinomial(torch.ones(1, 2**18 + 1), 1),
            lambda: Categorical(),
            lambda: Categorical(probs=torch.ones(2), logits=torch.ones(2)),
            lambda: Categorical(probs=[0.5, 0.5]),
            lambda: Categorical(logits=torch.tensor(0.0)),
            lambda: add_gumbel_noise(torch.ones(2, 3), -1.0),
            lambda: add_gumbel_noise(torch.ones(2, 3), math.nan),
            lambda: add_gumbel_noise([0.0], 1.0),
            lambda: sample_categorical(torch.tensor(1.0)),
            lambda: random_sample(torch.ones(3), {}),
            lambda: random_sample(torch.ones(2, 3), {2: seeded()}),
            lambda: random_sample(torch.ones(2, 3), {-1: seeded()}),
            lambda: random_sample(torch.ones(2, 3), {"a": seeded()}),
            lambda: random_sample(torch.ones(2, 3), {0: 5.0}),
            lambda: random_sample(torch.ones(2, 3), [seeded()] * 2),
            lambda: DrawnToken(-1.0),
            lambda: DrawnToken(math.nan),
            lambda: DrawnToken(before=[3]),
            lambda: DrawnToken(generator=3)(None, torch.ones(2, 3)),
            lambda: numpy_categorical(np.zeros((2, 3)), rng=np.random),
            lambda: numpy_categorical(np.zeros((2, 3)), -1, rng=np.random.default_rng(0)),
            lambda: numpy_categorical([["a"]], rng=np.random.default_rng(0)),
        ],
    )
    def test_each_is_one_error(self, way):
        with pytest.raises(InputError):
            way()

    def test_an_empty_batch_is_none(self):
        assert multinomial(torch.ones(0, 3), 2).shape == (0, 2)
        assert sample_categorical(torch.ones(2, 0, 3)).shape == (2, 0)
        assert random_sample(torch.ones(0, 3), {}).shape == (0,)
        assert add_gumbel_noise(torch.ones(0, 3), 1.0).shape == (0, 3)
