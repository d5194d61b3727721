"""Text by any decoder, its rows, and their averages."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import statistical
from scipy import stats

from precision_lab import engine
from precision_lab.errors import InputError
from precision_lab.mdm.decode.step_laws import EXCESS
from precision_lab.mdm.denoiser import Autocast, Denoiser, DenoiserConfig
from precision_lab.mdm.texts import DECODERS, STEP_LAWS, batches, generate, ids, real_texts, rows
from precision_lab.result import averages


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return {causal: Denoiser(DenoiserConfig(23, 1, 2, 32, causal=causal)).eval() for causal in (False, True)}


class TestGenerate:
    @pytest.mark.parametrize("decoder", DECODERS)
    def test_every_decoder_by_name(self, networks, decoder):
        model = Autocast(networks[decoder == "autoregressive"])
        done = generate(model, decoder, "gumbel_max_fp32", 3, batch=2, length=8, rng=np.random.default_rng(1))
        assert done.tokens.shape == (2, 8)
        assert 0 <= int(done.tokens.min()) <= int(done.tokens.max()) < 23
        assert done.draws >= 16
        assert done.nfe == {"first_hitting": 8, "autoregressive": 8}.get(decoder, done.nfe)
        if decoder in (
            "parallel",
            "extrapolated",
            "corrected",
            "confidence_ordered",
            "confidence_ordered_bf16",
        ):
            assert done.nfe == 3

    def test_every_closed_form_is_that_of_a_sampler(self):
        from precision_lab import SAMPLERS

        assert set(STEP_LAWS) <= set(SAMPLERS)

    @pytest.mark.parametrize("sampler", EXCESS)
    @given(st.lists(st.floats(-40, 0), min_size=2, max_size=12), st.sampled_from([1, 2, 3, 7, 16, 300, 50_000]))
    @settings(max_examples=60, deadline=None)
    def test_half_precision_gives_at_most_its_excess(self, sampler, logits, k):
        log_p = np.array(logits) - np.logaddexp.reduce(logits)
        assert 0 < STEP_LAWS[sampler](log_p, 1 / k).sum() <= 1 / k + EXCESS[sampler]

    @statistical(false_fail=1e-7)
    @pytest.mark.parametrize("sampler", EXCESS)
    def test_half_precision_by_its_events(self, networks, sampler):
        """u = 0 of the mask ends every wait: 50,000 steps are no more than 2^9 or 2^12 of them."""
        done = generate(
            networks[False], "event_driven", sampler, 50_000, batch=8, length=8, rng=np.random.default_rng(4)
        )
        due = 2 / EXCESS[sampler]
        low, high = stats.gamma.ppf([5e-8, 1 - 5e-8], 64) / 64
        assert low * due < float(done.steps.double().mean()) < high * due  # 64 geometric times

    @pytest.mark.parametrize(
        ("decoder", "sampler", "message"),
        [
            ("first_hiting", "gumbel_max_fp32", "did you mean first_hitting"),
            ("ancestral", "gumbel_max_fp3", "did you mean"),
            ("event_driven", "inverse_cdf_fp32", "sampler 'inverse_cdf_fp32'"),  # no law of a step
        ],
    )
    def test_unknown_names(self, networks, decoder, sampler, message):
        with pytest.raises(InputError, match=message):
            generate(networks[False], decoder, sampler, 2, batch=1, length=4, rng=np.random.default_rng(0))

    @pytest.mark.parametrize("decoder", ["parallel", "extrapolated", "corrected"])
    def test_what_is_given_needs_no_calls(self, networks, decoder):
        """Five masks of eight over three calls."""
        state = torch.tensor([[1, 23, 2, 23, 23, 3, 23, 23]] * 2)
        size = {"batch": 2, "length": 8, "rng": np.random.default_rng(1)}
        done = generate(networks[False], decoder, "gumbel_max_fp64", 3, given=state, **size)
        assert done.nfe == 3
        assert torch.equal(done.tokens[:, [0, 2, 5]], state[:, [0, 2, 5]])
        assert int(done.tokens.max()) < 23
        with pytest.raises(InputError, match="1 to 5"):
            generate(networks[False], decoder, "gumbel_max_fp64", 6, given=state, **size)
        with pytest.raises(InputError, match="given of"):
            generate(networks[False], decoder, "gumbel_max_fp64", 3, **size | {"given": state[0].tolist()})

    @pytest.mark.parametrize(
        ("decoder", "options", "message"),
        [
            (
                "event_driven",
                {"temperature": 0.5},
                "option 'temperature' of event_driven; expected one of batch, length",
            ),
            ("autoregressive", {"schedule": None}, "option 'schedule'"),
            ("ancestral", {"sampler_": 1}, "option 'sampler_'"),
            ("parallel", {"length": None}, "length None"),
        ],
    )
    def test_options_that_do_not_fit(self, networks, decoder, options, message):
        common = {"batch": 1, "length": 4, "rng": np.random.default_rng(0)} | options
        with pytest.raises(InputError, match=message):
            generate(networks[decoder == "autoregressive"], decoder, "gumbel_max_fp32", 2, **common)

    @pytest.mark.parametrize("decoder", ["parallel", "corrected", "confidence_ordered"])
    def test_tokens_per_call_in_place_of_steps(self, networks, decoder):
        size = {"batch": 2, "length": 8, "rng": np.random.default_rng(1)}
        assert generate(networks[False], decoder, "gumbel_max_fp64", per_call=[5, 3], **size).nfe == 2

    @pytest.mark.parametrize("decoder", DECODERS)
    @pytest.mark.parametrize("lacking", ["batch", "length", "rng"])
    def test_options_that_are_lacking(self, networks, decoder, lacking):
        common = {"batch": 1, "length": 4, "rng": np.random.default_rng(0)}
        del common[lacking]
        with pytest.raises(InputError, match=f"{decoder} without {lacking}"):
            generate(networks[False], decoder, "gumbel_max_fp32", 2, **common)


def test_batches_add_up():
    assert batches(9, 4) == [{"sequences": n, "part": k} for k, n in enumerate((4, 4, 1))]
    assert batches(0, 4) == []
    for total, size in ((3, 0), (3, -1), (-1, 2), (3.0, 2), (3, 1.5)):
        with pytest.raises(InputError, match=r"total|size"):
            batches(total, size)


@pytest.mark.parametrize("texts", [["1 2", "3"], ["one two"], ["1 2.5"], [], [""]])
def test_what_are_no_ids(texts):
    with pytest.raises(InputError, match=r"ids|length"):
        ids(texts)


def test_real_texts_are_in_random_order_always_the_same(tmp_path):
    """All windows once; the first half is a sample of a file that lies source by source."""
    np.save(tmp_path / "validation.npy", np.repeat(np.arange(200, dtype=np.uint16), 3).reshape(200, 3))
    found = real_texts(str(tmp_path))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(np.sort(found[:, 0]), np.arange(200))
    assert 30 < int((found[:100, 0] < 100).sum()) < 70  # as they lie: 100
    np.testing.assert_array_equal(found, real_texts(tmp_path))


def test_texts_that_changed_are_not_counted_twice():
    """A judged table keeps rows of texts that were measured again since; they are told by what the texts
    say."""
    engine.load_study("generative_perplexity")
    module = sys.modules["experiments.generative_perplexity"]
    now = pd.read_csv(module.ROOT / "results" / "full" / "generative_perplexity.csv")
    stale = now[now.texts == "real"].assign(digest="another")
    scored, skipped = module.judged(pd.concat([now, stale], ignore_index=True))
    assert (len(scored), skipped) == (len(now), [])
    assert "another" not in set(scored.digest)


class TestRows:
    def test_against_the_definitions(self, networks):
        done = generate(
            networks[False], "two_stage", "gumbel_max_fp64", 5, batch=3, length=8, rng=np.random.default_rng(2)
        )
        table = rows(done)
        np.testing.assert_array_equal(ids([row["tokens"] for row in table]), done.tokens.numpy())
        for row, text in zip(table, done.tokens.tolist(), strict=True):
            p = np.unique(text, return_counts=True)[1] / 8
            assert row["sequence_entropy"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-12)
            assert row["distinct_1"] == len(set(text)) / 8
            assert row["distinct_2"] == len(set(pairwise(text))) / 7
            assert row["repetition_3"] == pytest.approx(
                1 - len(set(zip(text, text[1:], text[2:], strict=False))) / 6
            )


class TestAutocast:
    def test_near_float32_and_in_float32(self, networks):
        rng, model = torch.Generator().manual_seed(3), Denoiser(DenoiserConfig(23, 2, 2, 32)).eval()
        for weight in model.blocks.parameters():  # a fresh network's blocks add nothing
            torch.nn.init.normal_(weight, std=32**-0.5, generator=rng)
        tokens = torch.randint(24, (2, 16), generator=rng)
        with torch.no_grad():
            wide, half = model.hidden(tokens), Autocast(model).hidden(tokens)
        assert half.dtype == torch.float32
        assert 0 < float((wide - half).abs().max()) < 0.1


class TestAverages:
    def test_means_by_key_with_intervals(self):
        frame = pd.DataFrame({"a": [1, 1, 1, 2], "x": [1.0, 2.0, 6.0, 5.0], "y": [0.0, 0.0, 0.0, 1.0]})
        table = averages(frame, ["a"], ["x", "y"])
        assert list(table.n) == [3, 1]
        assert list(table.x) == [3.0, 5.0]
        first = table.iloc[0]
        assert first.x_low < 3.0 < first.x_high
        assert (first.y_low, first.y_high) == (0.0, 0.0)  # all alike
        assert table.iloc[1].x_low == -np.inf  # one row says nothing of its spread
        shuffled = averages(frame.iloc[::-1], ["a"], ["y"])
        pd.testing.assert_frame_equal(shuffled, table[shuffled.columns])
