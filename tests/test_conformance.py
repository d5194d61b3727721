"""Decoders of masked diffusion on trial: right ones pass, each planted fault is named by its rule and where
it shows."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from judging import statistical

from precision_lab.errors import InputError
from precision_lab.mdm.conformance import (
    ancestral_conformance,
    assert_ancestral_conformance,
    assert_confidence_conformance,
    assert_first_hitting_conformance,
    confidence_conformance,
    first_hitting_conformance,
)
from precision_lab.mdm.conformance.probe import Probe
from precision_lab.mdm.decode import ancestral as our_ancestral
from precision_lab.mdm.decode import confidence_ordered
from precision_lab.mdm.schedule import COSINE, LINEAR
from precision_lab.samplers import SAMPLERS
from precision_lab.types import Guarantee

FALSE_FAIL = (
    1e-8  # of every right decoder here; the planted faults are far off, and fail at any seed that was tried
)
SEED = 5
STEPS = 5


def generator(seed: int = SEED) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def predictions(network, tokens, t):
    return network.log_probs(network.hidden(tokens, torch.full((len(tokens),), t, dtype=torch.float64))).exp()


def drawn(p, rng):
    return torch.multinomial(p.reshape(-1, p.shape[-1]), 1, generator=rng).reshape(p.shape[:-1])


def by_steps(network, *, batch, length, rng, schedule=LINEAR, steps=STEPS, fault=""):
    """Ancestral sampling as public code has it: all places propose, those whose time has come stay."""
    mask = network.config.mask_id
    tokens = torch.full((batch, length), mask)
    for step in range(steps):
        t = 1 - step / steps
        if fault == "every second step" and step % 2:
            continue
        if fault == "finished texts left out":
            going = (tokens == mask).any(1)
            if not going.any():
                break
            p = torch.zeros(batch, length, mask, dtype=torch.float64)
            p[going] = predictions(network, tokens[going], t)
            p[~going] = 1.0
        else:
            p = predictions(network, tokens, 1.0 if fault == "one time in all steps" else t)
        if fault == "tempered":
            p = p**1.5 / (p**1.5).sum(-1, keepdim=True)
        if fault == "one draw for all places":
            u = torch.rand(batch, 1, generator=rng, dtype=torch.float64)
            new = (p.cumsum(-1) < u[..., None]).sum(-1).clamp(max=mask - 1)
        else:
            new = drawn(p, rng)
        rate = float(schedule.unmask(np.array(1 - (step + 1) / steps), np.array(t)))
        rate = {"too slow": rate / 2, "masks left": rate * 0.9}.get(fault, rate)
        if fault == "too slow" and step == steps - 1:
            rate = 1.0
        shape = {"one time for a text": (batch, 1), "one time for all texts": (1, length)}.get(
            fault, tokens.shape
        )
        come = (tokens == mask) & (torch.rand(shape, generator=rng) < rate)
        if fault == "drawn again":
            come |= (tokens != mask) & (torch.rand(tokens.shape, generator=rng) < 0.1)
        tokens = torch.where(come, new, tokens)
    return tokens


STEP_FAULTS = {
    "masks left": ("steps", r"masks are left at the end in [\d,]+ of 2,000 texts, text \d+ first"),
    "drawn again": ("steps", r"drawn again: text \d+, place \d holds \d at call \d and holds \d after it"),
    "one time in all steps": ("steps", r"call 1 asks about step 0 \(t = 1\) again"),
    "every second step": ("steps", r"step 1 \(t = 0.8\) is not asked about"),
    "finished texts left out": (
        "steps",
        r"call \d asks about \(\d+, 3\) in place of all \(2000, 3\) ids: finished texts",
    ),
    "too slow": ("unmasking_times", r"step \d: [\d,]+ of 6,000, 1,200 due"),
    "tempered": ("token_law", r"token \d at place \d of [_0-2 ]+: [\d,]+ of [\d,]+, [\d,]+ due"),
    "one time for a text": ("within_text", r"places \d and \d of a text agree in 2,000 of 2,000 pairs, 400 if"),
    "one time for all texts": (
        "within_batch",
        r"steps of place \d of rows 2i and 2i \+ 1 agree in 1,000 of 1,000",
    ),
    "one draw for all places": ("token_law", r"tokens \d, \d at places \d, \d of _ _ _: \d+ of \d+, \d+ due"),
}


class TestAncestral:
    @statistical(false_fail=FALSE_FAIL)
    @pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=lambda schedule: schedule.name)
    def test_a_right_one_passes(self, schedule):
        decode = partial(by_steps, schedule=schedule)
        assert_ancestral_conformance(
            decode, rng=generator(), steps=STEPS, schedule=schedule, false_fail=FALSE_FAIL, batch=2000
        )

    @statistical(false_fail=FALSE_FAIL)
    def test_many_steps_are_counted_in_groups(self):
        decode = partial(by_steps, steps=100)
        assert_ancestral_conformance(decode, rng=generator(), steps=100, false_fail=FALSE_FAIL, batch=1000)

    @statistical(false_fail=FALSE_FAIL)
    def test_ours_which_asks_about_unfinished_texts_passes_one_by_one(self):
        def ours(network, **options):
            return our_ancestral(network, SAMPLERS["gumbel_max_fp64"], steps=STEPS, **options).tokens

        asked = {"rng": generator(), "steps": STEPS, "false_fail": FALSE_FAIL}
        assert_ancestral_conformance(ours, batch=400, one_by_one=True, **asked)
        (only,) = ancestral_conformance(ours, batch=400, **asked)
        assert "finished texts must stay in the batch" in only.note

    @pytest.mark.parametrize("fault", STEP_FAULTS)
    def test_what_is_wrong_is_named(self, fault):
        """2,000 texts: the nearest of these faults, the tempered draws, has p below 1e-10."""
        name, says = STEP_FAULTS[fault]
        decode = partial(by_steps, fault=fault)
        results = ancestral_conformance(decode, rng=generator(), steps=STEPS, batch=2000)
        failed = {result.test: result for result in results if result.failed}
        assert name in failed
        with pytest.raises(AssertionError, match=says):
            assert_ancestral_conformance(decode, rng=generator(), steps=STEPS, batch=2000)

    def test_another_number_of_steps_is_seen(self):
        (only,) = ancestral_conformance(by_steps, rng=generator(), steps=2 * STEPS, batch=200)
        assert "step 1 (t = 0.9) is not asked about" in only.note

    def test_one_text_that_is_wrong_alone(self):
        decode = partial(by_steps, fault="masks left")
        (only,) = ancestral_conformance(decode, rng=generator(), steps=STEPS, batch=200, one_by_one=True)
        assert only.note.startswith("decoded alone, text ")

    def test_never_asked(self):
        def guess(network, *, batch, length, rng):
            return torch.zeros(batch, length, dtype=torch.long)

        (only,) = ancestral_conformance(guess, rng=generator(), steps=2, batch=10)
        assert only.failed
        assert "never asked" in only.note

    @pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 3}, {"false_fail": 2.0}, {"length": 40}])
    def test_bad_input(self, wrong):
        with pytest.raises(InputError):
            ancestral_conformance(by_steps, rng=generator(), **({"steps": STEPS} | wrong))


def by_confidence(network, *, batch, length, rng, order="confidence", fault="", greedy=False, per_call=None):
    """LLaDA's loop, place by place."""
    mask = network.config.mask_id
    tokens = torch.full((batch, length), mask)
    calls = per_call or [1] * length
    if fault == "stops early":
        calls = calls[:-1]
    for call, count in enumerate(calls):
        p = predictions(network, tokens, 1 - call / length)
        new = p.argmax(-1) if greedy else drawn(p, rng)
        if fault == "tokens of the likeliest":
            new = p.argmax(-1)
        if order == "confidence":
            sure = p.gather(-1, new[..., None])[..., 0]
        elif order == "margin":
            top = p.topk(2, -1).values
            sure = top[..., 0] - top[..., 1]
        elif order == "entropy":
            sure = (p * p.log()).sum(-1)
        else:
            sure = torch.rand(tokens.shape, generator=rng, dtype=torch.float64)
        if fault == "least sure first":
            sure = -sure
        if fault == "order of the likeliest":
            sure = p.amax(-1)
        if fault == "left to right":
            sure = -torch.arange(length, dtype=torch.float64).expand(batch, length)
        if fault == "one draw for all texts":
            new = new[:1].expand(batch, length)
            sure = sure[:1].expand(batch, length)
        sure = sure.masked_fill(tokens != mask, -torch.inf)
        if fault == "finished places too":
            sure = torch.rand(tokens.shape, generator=rng, dtype=torch.float64)
        hit = torch.zeros_like(tokens, dtype=torch.bool).scatter_(1, sure.topk(count, 1).indices, True)
        tokens = torch.where(hit, new, tokens)
    return tokens


ORDER_FAULTS = {
    "stops early": ("tokens_per_call", "masks are left at the end in 2,000 of 2,000 texts"),
    "finished places too": ("tokens_per_call", r"drawn again: text \d+, place \d"),
    "least sure first": ("order", r"of [_0-2 ]+ place \d first: [\d,]+ of [\d,]+, [\d,]+ due"),
    "order of the likeliest": ("order", r"place \d first"),
    "left to right": ("order", r"of _ _ _ place 0 first: 2,000 of 2,000"),
    "tokens of the likeliest": ("token_law", r"token \d at place \d of [_0-2 ]+: "),
    "one draw for all texts": ("within_batch", "whole texts of rows 2i and 2i \\+ 1 agree in 1,000 of 1,000"),
}


class TestConfidence:
    @statistical(false_fail=FALSE_FAIL)
    @pytest.mark.parametrize("order", ["confidence", "margin", "entropy", "random"])
    @pytest.mark.parametrize("per_call", [None, [2, 1]], ids=["one", "two and one"])
    def test_right_ones_pass(self, order, per_call):
        def ours(network, **options):
            sampler = SAMPLERS["gumbel_max_fp64"]
            return confidence_ordered(network, sampler, order=order, per_call=per_call, **options).tokens

        asked = {"order": order, "per_call": per_call, "false_fail": FALSE_FAIL, "batch": 2000}
        for decode in (ours, partial(by_confidence, order=order, per_call=per_call)):
            assert_confidence_conformance(decode, rng=generator(), **asked)

    @pytest.mark.parametrize("order", ["confidence", "entropy"])
    def test_greedy_ones_are_exact(self, order):
        """No chance in it: the same text every time."""
        decode = partial(by_confidence, order=order, greedy=True)
        assert_confidence_conformance(decode, rng=generator(), order=order, greedy=True, batch=20)
        results = confidence_conformance(by_confidence, rng=generator(), order=order, greedy=True, batch=20)
        assert {result.test for result in results if result.failed} >= {"token_law"}

    @pytest.mark.parametrize("fault", ORDER_FAULTS)
    def test_what_is_wrong_is_named(self, fault):
        name, says = ORDER_FAULTS[fault]
        decode = partial(by_confidence, fault=fault)
        results = confidence_conformance(decode, rng=generator(), batch=2000)
        assert name in {result.test for result in results if result.failed}
        with pytest.raises(AssertionError, match=says):
            assert_confidence_conformance(decode, rng=generator(), batch=2000)

    @pytest.mark.parametrize("order", ["margin", "entropy", "random"])
    def test_another_order_is_the_wrong_order(self, order):
        results = confidence_conformance(by_confidence, rng=generator(), order=order, batch=2000)
        assert "order" in {result.test for result in results if result.failed}

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"order": "sure"}, "one of confidence, margin"),
            ({"per_call": [1, 1]}, "3 in all"),
            ({"per_call": [0, 3]}, "per_call"),
            ({"vocab": 1}, "vocab"),
            ({"batch": 3}, "even"),
        ],
    )
    def test_bad_input(self, wrong, says):
        with pytest.raises(InputError, match=says):
            confidence_conformance(by_confidence, rng=generator(), **wrong)

    @statistical(false_fail=1e-7)
    @pytest.mark.parametrize("count", [1, 2])
    def test_the_law_of_a_call_is_that_of_many_calls(self, count):
        """40,000 calls from one state: every rate within 6.5 standard deviations (false-fail below 1e-7)."""
        from precision_lab.mdm.conformance.confidence import moves

        probe, n = Probe(3, 3), 40_000
        law = moves(probe, probe.start(), count, "confidence", greedy=False)
        assert sum(law.values()) == pytest.approx(1)
        found = by_confidence(probe, batch=n, length=3, rng=generator(), per_call=[count])
        states, counts = found.unique(dim=0, return_counts=True)
        rates = dict(zip(map(tuple, states.tolist()), (counts / n).tolist(), strict=True))
        assert set(rates) <= set(law)
        for state, p in law.items():
            assert abs(rates.get(state, 0.0) - p) <= 6.5 * (p * (1 - p) / n) ** 0.5 + 1e-4


class TestFirstHitting:
    """The verdicts are in test_decode.py; here, that what is broken is said."""

    @staticmethod
    def decode(network, *, batch, length, rng, fault=""):
        mask = network.config.mask_id
        tokens = torch.full((batch, length), mask)
        t = torch.ones(batch, dtype=torch.float64)
        for n in range(length, 1 if fault == "masks left" else 0, -1):
            before = t
            t = t * torch.rand(1 if fault == "one time" else batch, generator=rng, dtype=torch.float64) ** (
                1 / n
            )
            p = network.log_probs(network.hidden(tokens, before if fault == "old time" else t)).exp()
            place = torch.rand(tokens.shape, generator=rng, dtype=torch.float64)
            place = place.masked_fill(tokens != mask, -1).argmax(1)
            hit = torch.zeros_like(tokens, dtype=torch.bool).scatter_(1, place[:, None], True)
            if fault == "places drawn again":
                hit |= tokens != mask
            tokens = torch.where(hit, drawn(p, rng), tokens)
        return tokens

    @statistical(false_fail=FALSE_FAIL)
    def test_a_right_one_passes(self):
        assert_first_hitting_conformance(self.decode, rng=generator(), false_fail=FALSE_FAIL, batch=1500)

    @pytest.mark.parametrize(
        ("fault", "name", "says"),
        [
            (
                "masks left",
                "one_token_per_hit",
                "masks are left at the end in 1,000 of 1,000 texts, text 0 first",
            ),
            ("places drawn again", "one_token_per_hit", r"what is there is drawn again: text \d+, place \d"),
            ("one time", "within_batch", "times of hit 0 .* agree in 500 of 500 pairs, 63 if independent"),
            ("old time", "hitting_times", "hit 0: the network is asked at the time before the hit"),
        ],
    )
    def test_what_is_broken_is_said(self, fault, name, says):
        decode = partial(self.decode, fault=fault)
        results = first_hitting_conformance(decode, rng=generator(), batch=1000)
        assert name in {result.test for result in results if result.failed}
        with pytest.raises(AssertionError, match=says):
            assert_first_hitting_conformance(decode, rng=generator(), batch=1000)

    def test_a_decoder_of_another_kind(self):
        (only,) = first_hitting_conformance(by_steps, rng=generator(), batch=100)
        assert (only.p_value, only.guarantee) == (0.0, Guarantee.EXACT)
        assert f"the network is asked {STEPS} times, where 3 calls are due" in only.note
