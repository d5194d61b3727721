"""How functions are called: by their signature, by a stated call, with seeds, probabilities, settings,
global generators."""

from __future__ import annotations

import functools
import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from judging import statistical

from precision_lab.errors import InputError
from precision_lab.samplers import resolve
from precision_lab.targets import Target
from precision_lab.testing import _AtOneRow
from precision_lab.types import Budget
from precision_lab.verdict.caller import Caller, Misbehaved
from precision_lab.verdict.check import check, examine
from precision_lab.verdict.conventions import GRAMMAR, of_call, of_signature
from precision_lab.verdict.misbehaviour import probe
from precision_lab.verdict.plan import UNIT, Plan, parse_detect, plan
from precision_lab.verdict.report import Outcome
from precision_lab.verdict.sources import Globals, Seeds

RATE = 1e-8  # of every random test here
ROW = np.log(np.array([0.4, 0.2, 0.12, 0.1, 0.08, 0.05, 0.03, 0.02]))


def small_plan() -> Plan:
    """A row of eight tokens and 4,096 draws, by which a temperature of 0.7 is seen with 1 - 1e-3."""
    asked = plan(
        [Target("row", ROW, "")],
        parse_detect("temperature=0.3"),
        budget=Budget.SMOKE,
        false_fail=RATE,
        false_pass=1e-3,
    )
    few = tuple(q.planned(q.needed, 128 * UNIT, q.length) for q in asked.questions)
    return Plan(few, asked.wished, RATE, 1e-3, asked.level)


SMALL = small_plan()


def verdict(function, call: str | None = None, **options):
    """By draws at the one row alone, without batches of others."""
    caller = Caller.of(function, call=call, **options)
    return examine(_AtOneRow(caller, ROW, own=False), SMALL, 0, "")


def drawn(probs: torch.Tensor, n: int, generator=None) -> torch.Tensor:
    return torch.multinomial(probs.double(), n, replacement=True, generator=generator).T


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(seed))


# Samplers as people have them. Each has a twin that is cold: its logits are divided by 0.7.


def _sample_categorical(categorical_probs):
    """MDLM's, word for word."""
    gumbel_norm = 1e-10 - (torch.rand_like(categorical_probs) + 1e-10).log()
    return (categorical_probs / gumbel_norm).argmax(dim=-1)


def by_seed(logits, n, seed=None):
    noise = np.random.default_rng(seed).gumbel(size=(n, *logits.shape))
    return (logits + noise).argmax(-1)


def one_by_seed(logits, seed, top_k):
    kept = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    return torch.multinomial(kept.softmax(-1), 1, generator=seeded(seed))


def one_by_generator(logits, generator=None):
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def seeds_torch(logits, seed: int):
    torch.manual_seed(seed)
    return torch.multinomial(logits.softmax(-1), 1)


def by_seeds(logits, temperature, seeds):
    drawn = []
    for row, t, seed in zip(logits, temperature.tolist(), seeds, strict=True):
        drawn.append(torch.multinomial((row / t).softmax(-1), 1, generator=seeded(seed)))
    return torch.cat(drawn)


def by_generators(probs, generators):
    """vLLM's, in a few words."""
    noise = torch.empty_like(probs)
    for row, generator in generators.items():
        noise[row].exponential_(generator=generator)
    return probs.div_(noise).argmax(dim=-1)


def of_log_probs(logp, n, *, generator):
    assert torch.allclose(logp.exp().sum(-1), torch.ones(len(logp)))
    return drawn(logp.exp(), n, generator)


def numpy_global(logits):
    return (logits + np.random.gumbel(size=logits.shape)).argmax(-1)  # noqa: NPY002


def python_global(probs: np.ndarray):
    return np.array([random.choices(range(probs.shape[1]), row)[0] for row in probs])


def with_temperature(logits, n, *, generator, temperature=0.7):
    return drawn((logits / temperature).softmax(-1), n, generator)


class Engine:
    def __init__(self, scale=1.0):
        self.scale = scale

    def sample(self, logits, n, *, generator):
        return drawn((self.scale * logits).softmax(-1), n, generator)


FUNCTIONS = {
    "probs, torch's global generator": (_sample_categorical, "_sample_categorical(probs)", "global"),
    "seed": (by_seed, "by_seed(logits, n, seed=seed)", "seed"),
    "seed and top_k, (batch, 1)": (one_by_seed, "one_by_seed(logits, seed=seed, top_k=top_k)", "seed"),
    "a draw a call": (one_by_generator, "one_by_generator(logits, generator=generator)", "generator"),
    "seed for the global generator": (seeds_torch, "seeds_torch(logits, seed=seed)", "seed"),
    "seeds": (by_seeds, "by_seeds(logits, temperature=temperature, seeds=seeds)", "seeds"),
    "generators": (by_generators, "by_generators(probs, generators=generators)", "generators"),
    "logprobs": (of_log_probs, "of_log_probs(logprobs, n, generator=generator)", "generator"),
    "NumPy's global generator": (numpy_global, "numpy_global(logits)", "global"),
    "Python's global generator": (python_global, "python_global(probs)", "global"),
    "temperature": (
        with_temperature,
        "with_temperature(logits, n, generator=generator, temperature=temperature)",
        "generator",
    ),
    "a method": (Engine().sample, "sample(logits, n, generator=generator)", "generator"),
    "a partial": (
        functools.partial(one_by_seed, top_k=8),
        "sample(logits, seed=seed)",
        "seed",
    ),
}


def colder(function, given: str):
    """The function at a temperature of 0.7, with the same signature."""

    @functools.wraps(function)
    def cold(first, *rest, **named):
        if given == "probs":
            first = first ** (1 / 0.7)
            first = first / first.sum(-1, keepdims=True)
        elif given == "logits":
            first = first / 0.7
        else:
            first = (first / 0.7).log_softmax(-1)
        return function(first, *rest, **named)

    return cold


class TestBySignature:
    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_the_call_that_is_found(self, name):
        function, text, random_by = FUNCTIONS[name]
        found = of_signature(function, "theirs")
        assert (found.text, found.random) == (text, random_by)

    @statistical(false_fail=RATE)
    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_right_ones_pass(self, name):
        """False-fail 1e-8 over seeds; a temperature of 0.7 would be seen with 1 - 1e-3."""
        report = verdict(FUNCTIONS[name][0])
        assert report.outcome is Outcome.PASS, report.text()

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_cold_ones_fail(self, name):
        """At T = 0.7 of 4,096 draws: missed with less than 1e-3 over seeds; the seed is fixed."""
        function = FUNCTIONS[name][0]
        given = of_signature(function, "theirs").given
        report = verdict(colder(function, given))
        assert report.exit_code == 1
        assert "temperature" in {j.test for j in report.judged if j.outcome is Outcome.FAIL}

    def test_jax_with_the_key_first(self):
        jax = pytest.importorskip("jax")

        def categorical(key, logits, axis=-1):
            return jax.random.categorical(key, logits, axis)

        caller = Caller.of(categorical)
        assert (caller.convention.text, caller.arrays) == ("categorical(key=key, logits=logits)", "jax")
        probe(caller, 30, 1)
        assert caller.draw(0, np.zeros((2, 5), np.float32), 3).shape == (3, 2)

    @pytest.mark.parametrize(
        ("function", "needs"),
        [
            (lambda logits, n, config, *, generator: None, "which needs 'config'"),
            (lambda logits, mystery, generator: None, "which needs 'mystery'"),
            (lambda *, generator: None, "without a place for logits"),
        ],
    )
    def test_what_cannot_be_called_is_bad_input(self, function, needs):
        with pytest.raises(InputError, match=needs):
            Caller.of(function)

    def test_a_number_of_draws_by_another_name(self):
        def theirs(logits, how_many: int, *, generator):
            return drawn(logits.softmax(-1), how_many, generator)

        assert Caller.of(theirs).draw(0, np.zeros((2, 5), np.float32), 7).shape == (7, 2)

    def test_which_library_a_seed_function_takes(self):
        """By what its code names; where that tells nothing, by a try."""

        def hidden(logits, seed):
            return by_seed(logits.astype("float64"), 1, seed)[0]

        assert of_signature(by_seed, "f").arrays == "numpy"
        assert of_signature(one_by_seed, "f", "torch").arrays == "torch"
        caller = Caller.of(hidden)
        assert caller.draw(0, np.zeros((2, 5), np.float32), 3).shape == (3, 2)
        assert caller.arrays == "numpy"

    def test_logits_taken_for_probabilities_get_a_hint(self):
        def theirs(logits, n, *, rng):
            with np.errstate(all="ignore"):
                return (np.log(logits) + rng.gumbel(size=(n, *logits.shape))).argmax(-1)

        with pytest.raises(Misbehaved, match="it is given logits, so where it wants probabilities"):
            probe(Caller.of(theirs), 50, 0)

    def test_a_column_that_is_no_answer_is_a_verdict(self):
        """A draw a call, of shapes (batch, n) and () among them, is wrong in shape; integers as floats are
        wrong in dtype."""
        for answer, says in (
            (torch.zeros(2, 2, dtype=torch.long), "wrong shape"),
            (torch.zeros(2), "wrong dtype"),
            (torch.tensor(0), "wrong shape"),
        ):
            with pytest.raises(Misbehaved, match=says):
                Caller.of(lambda logits, generator, answer=answer: answer).draw(
                    0, np.zeros((2, 5), np.float32), 2
                )


class TestStatedCalls:
    def test_probabilities_transposed_with_a_constant(self):
        def theirs(weights, count, source, k):
            assert k == 3
            return torch.multinomial(weights, count, replacement=True, generator=source)  # (batch, n)

        call = "theirs(logits.softmax(-1), n, source=g, k=3).T"
        report = verdict(theirs, call)
        assert report.outcome is Outcome.PASS, report.text()

    def test_without_t_the_shape_is_wrong_and_the_way_out_is_said(self):
        def theirs(logits, n, *, generator):
            return drawn(logits.softmax(-1), n, generator).T

        report = verdict(theirs)
        assert "wrong shape" in report.headline()
        assert "a stated call that ends in .T" in report.headline()
        assert verdict(theirs, "theirs(logits, n, generator=g).T").exit_code == 0

    def test_a_shape_that_is_told_and_one_of_two_answers(self):
        def theirs(scores, shape, rng):
            ids = (scores + rng.gumbel(size=(*shape, scores.shape[-1]))).argmax(-1)
            return scores, ids

        report = verdict(theirs, "theirs(logits, shape=(n, batch), rng=rng)[1]")
        assert report.outcome is Outcome.PASS, report.text()

    def test_a_field_of_the_answer(self):
        class Output:
            def __init__(self, ids):
                self.token_ids = ids

        def theirs(logits, g):
            return Output(torch.multinomial(logits.softmax(-1), 1, generator=g))

        assert verdict(theirs, "theirs(logits, g).token_ids.squeeze(-1)").exit_code == 0

    @pytest.mark.parametrize(
        "call",
        [
            "",
            "f",
            "f(",
            "f(logits",
            "f(logits, n, generator=g) + 1",
            "f(*logits)",
            "f(logits, **settings)",
            "f(logits, n, generator=__import__('os').system('true'))",
            "f(logits, n, generator=g).__class__",
            "f(logits.__class__, n)",
            "f(lambda: logits, n)",
            "f([x for x in logits], n)",
            "f(logits[0], n)",
            "f(logits, n if n else 1)",
            "f(f'{logits}', n)",
            "f(logits.to('cuda'), n)",
            "f(logits, unknown=mystery)",
            "f(n)",
            "f(logits, n, generator=g, rng=rng)",
            "f(logits, 1j)",
            "f(logits, ...)",
            "f(logits, b'x')",
            "f(logits)(n)",
            "f(logits)[n]",
            "f(logits); f(logits)",
            "f(logits, generator=g, generator=g)",
            "f(" * 500 + "logits" + ")" * 500,
            "f(" + "-" * 900 + "1, logits)",
            "f(logits)" + ".a" * 400 + " + 1",
            "f(logits, n, generator=g, top_k=" + "9" * 2000 + ")",
            "f(logits, n\x00)",
        ],
    )
    def test_anything_else_is_refused_with_the_grammar(self, call):
        def f(logits, n=1, *, generator=None, rng=None, unknown=None, top_k=0):
            raise AssertionError("called")

        with pytest.raises(InputError) as refused:
            of_call(call, f, "f")
        assert refused.value.expected == GRAMMAR

    def test_the_name_and_the_arguments_must_be_the_functions(self):
        with pytest.raises(InputError, match="of another function"):
            of_call("g(logits, n)", by_seed, "mine.py:by_seed")
        with pytest.raises(InputError, match="of another function"):
            of_call("a" + ".a" * 450 + "(logits)", by_seed, "mine.py:by_seed")
        with pytest.raises(InputError, match="unexpected keyword argument 'sead'"):
            of_call("by_seed(logits, n, sead=seed)", by_seed, "mine.py:by_seed")

    def test_a_form_that_the_array_lacks_is_bad_input(self):
        def theirs(logits, n, rng):
            return logits

        with pytest.raises(InputError, match="softmax"):
            Caller.of(theirs, call="theirs(logits.softmax(-1), n, rng)").probe(9, 0)

    def test_not_for_our_own(self):
        with pytest.raises(InputError, match="a function of yours"):
            Caller.of("gumbel_max_fp32", call="gumbel_max_fp32(logits, n, generator=g)")


class TestGlobalGenerators:
    def test_they_are_seeded_and_put_back_and_streams_are_their_own(self):
        caller = Caller.of(_sample_categorical)
        logits = np.zeros((4, 64), np.float32)
        torch.manual_seed(5)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        one, other = caller.draw(1, logits, 8), caller.draw(2, logits, 8)
        one_more = caller.draw(1, logits, 8)
        assert torch.equal(torch.get_rng_state(), before[0])
        np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
        assert random.getstate() == before[2]
        # 32 tokens of 64: two independent answers agree with probability 2^-192
        assert not np.array_equal(one, other)
        assert not np.array_equal(one, one_more)
        again = Caller.of(_sample_categorical)
        np.testing.assert_array_equal(again.draw(1, logits, 16), np.concatenate([one, one_more]))

    def test_the_seed_is_manual_seed(self):
        """The draws of a stream are those that a user gets after torch.manual_seed of the stream's number."""
        logits = np.zeros((3, 50), np.float32)
        found = Caller.of(one_by_generator, call="one_by_generator(logits)").draw(77, logits, 2)
        torch.manual_seed(77)
        theirs = torch.stack([one_by_generator(torch.from_numpy(logits)) for _ in range(2)])
        np.testing.assert_array_equal(found, theirs.numpy())

    def test_the_report_says_so(self):
        report = verdict(_sample_categorical)
        note, batches = report.notes
        assert batches == "batches of rows that differ were not judged"
        assert "draws from torch's global generator" in note
        assert note in report.text()
        assert note in report.json()["notes"]
        assert "Python's global" in verdict(python_global).notes[0]
        assert "moves the global state of torch" in verdict(seeds_torch).notes[0]
        assert verdict(Engine().sample).notes == (batches,)

    @pytest.mark.parametrize(
        "function",
        [
            lambda logits: logits.argmax(-1),
            lambda logits, n: torch.zeros(n, len(logits), dtype=torch.long),
            lambda logits: torch.multinomial(logits.softmax(-1), 1, generator=seeded(1)),
        ],
        ids=["greedy", "constant", "own generator"],
    )
    def test_without_any_randomness_it_is_bad_input(self, function):
        with pytest.raises(InputError, match="cannot be repeated from a seed"):
            verdict(function)

    def test_randomness_from_elsewhere_too_is_a_fault(self):
        def theirs(logits):
            torch.rand(1)
            fresh = torch.Generator()
            fresh.seed()
            return torch.multinomial(logits.softmax(-1), 1, generator=fresh)

        with pytest.raises(Misbehaved, match="ignores the global generators"):
            probe(Caller.of(theirs), 100, 3)

    def test_a_generator_that_is_there_must_be_used(self):
        """A function that has one, and draws from the global state all the same, fails as ever."""

        def theirs(logits, generator=None):
            return torch.multinomial(logits.softmax(-1), 1)

        report = verdict(theirs)
        assert "uses the global random state" in report.headline()

    def test_a_seed_that_is_there_must_be_used(self):
        def theirs(logits, seed):
            return torch.multinomial(logits.softmax(-1), 1)

        report = verdict(theirs)
        assert "ignores its seed" in report.headline()

    def test_globals_go_on(self):
        source = Globals(3)
        with source.installed():
            first = torch.rand(1)
        with source.installed():
            second = torch.rand(1)
        torch.manual_seed(3)
        assert torch.equal(torch.cat([first, second]), torch.rand(2))


class TestSeeds:
    def test_no_number_twice_and_31_bits(self):
        used: set[int] = set()
        streams = [Seeds(stream, used) for stream in range(4)]
        numbers = [stream.next() for _ in range(500) for stream in streams]
        assert len(set(numbers)) == len(numbers)
        assert 0 <= min(numbers) <= max(numbers) < 2**31

    @pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1])
    def test_a_fresh_call_has_that_very_seed(self, seed):
        given = []

        def theirs(logits, seed):
            given.append(seed)
            return one_by_generator(logits, seeded(seed))

        logits = np.zeros((2, 40), np.float32)
        found = Caller.of(theirs).fresh(seed, logits, 1)
        assert given[-1] == seed  # before it, which library it takes was tried
        np.testing.assert_array_equal(found[0], one_by_generator(torch.zeros(2, 40), seeded(seed)).numpy())

    def test_seeds_of_rows(self):
        caller = Caller.of(by_seeds)
        logits = np.zeros((3, 1000), np.float32)
        seeds = np.array([0, 2**63 - 1, 5])
        found = caller.fresh(1, logits, 2, settings={"seed": seeds})
        expected = [int(torch.multinomial(torch.full((1000,), 1e-3), 1, generator=seeded(s))) for s in seeds]
        assert found[0].tolist() == expected
        assert found[1].tolist() != expected  # the second draw of a request is another
        vllm = Caller.of(by_generators)
        alone = vllm.fresh(1, logits[:1], 2, settings={"seed": seeds[1:2]})
        together = vllm.fresh(9, logits, 2, settings={"seed": seeds})
        assert together[:, 1].tolist() == alone[:, 0].tolist()

    def test_one_seed_for_all_rows(self):
        logits = np.zeros((2, 9), np.float32)
        caller = Caller.of(by_seed)
        same = caller.fresh(4, logits, 3, settings={"seed": np.array([8, 8])})
        np.testing.assert_array_equal(same, by_seed(logits, 3, 8))
        with pytest.raises(InputError, match="a seed for each row"):
            caller.fresh(4, logits, 3, settings={"seed": np.array([8, 9])})


class TestSettings:
    LOGITS = np.log(np.tile(np.arange(1.0, 6.0), (3, 1))).astype(np.float32)

    def test_what_is_taken_for_each_row(self):
        def annotated(logits, generator, temperature: torch.Tensor, top_p: float = 1.0):
            raise AssertionError("not tried")

        def asks_one(logits, generator, temperature):
            if temperature == 0:
                return logits.argmax(-1)
            return one_by_generator(logits / temperature, generator)

        assert Caller.of(annotated).takes == {"temperature"}
        assert Caller.of(by_seeds).takes == {"temperature", "seed"}
        assert Caller.of(by_generators).takes == {"seed"}
        assert Caller.of(asks_one).takes == frozenset()
        assert Caller.of(with_temperature).takes == frozenset()
        assert Caller.of("gumbel_max_fp32").takes == frozenset()
        assert Caller.of(Engine().sample).takes == frozenset()

    def test_rows_get_their_own(self):
        given = {}

        def theirs(logits, generator, temperature, top_k, min_p=0.0):
            given.update(temperature=temperature, top_k=top_k, min_p=min_p)
            return one_by_generator(logits / temperature.unsqueeze(-1), generator)

        caller = Caller.of(theirs)
        assert caller.takes == {"temperature", "top_k", "min_p"}
        caller.draw(0, self.LOGITS, 1)
        assert given["temperature"].tolist() == [1.0] * 3
        assert given["top_k"].tolist() == [5] * 3
        assert given["min_p"] == 0.0  # its default is off, so it is left alone
        settings = {"temperature": np.array([0.5, 1, 2]), "min_p": np.array([0, 0.25, 0])}
        caller.draw(0, self.LOGITS, 1, settings)
        assert given["temperature"].tolist() == [0.5, 1, 2]
        assert given["min_p"].tolist() == [0, 0.25, 0]
        assert given["top_k"].dtype == torch.int64

    def test_forms_without_a_meaning_are_refused(self):
        """Half-precision probabilities, and one row as a vector where rows have generators; both are taken
        otherwise."""
        row = self.LOGITS[:1]
        assert Caller.of(by_generators).fresh(0, row, 2, layout="column view").shape == (2, 1)
        assert Caller.of(one_by_seed).fresh(0, row, 2, layout="one row", dtype="float16").shape == (2, 1)
        with pytest.raises(InputError, match="float16 probs"):
            Caller.of(by_generators).fresh(0, row, 2, dtype="float16")
        with pytest.raises(InputError, match="one row as"):
            Caller.of(by_generators).fresh(0, row, 2, layout="one row")

    def test_one_for_all(self):
        found = Caller.of(with_temperature)
        found.draw(0, self.LOGITS, 2, {"temperature": np.full(3, 0.5)})
        with pytest.raises(InputError, match="one value"):
            found.draw(0, self.LOGITS, 2, {"temperature": np.array([0.5, 1, 1])})
        with pytest.raises(InputError, match="a setting that it takes: temperature"):
            found.draw(0, self.LOGITS, 2, {"top_p": np.full(3, 0.5)})
        with pytest.raises(InputError, match="one value for each row"):
            found.draw(0, self.LOGITS, 2, {"temperature": np.full(2, 0.5)})

    def test_constants(self):
        with pytest.raises(InputError, match="tok_k for"):
            Caller.of(one_by_seed, constants={"tok_k": 3})
        with pytest.raises(InputError, match="bind anything else"):
            Caller.of(one_by_seed, constants={"top_k": torch.tensor(3)})
        caller = Caller.of(one_by_seed, constants={"top_k": 1})
        assert caller.draw(0, self.LOGITS, 4).tolist() == [[4] * 3] * 4
        assert "top_k=1" in caller.note


FILE = """
import random
import numpy as np
import torch

def faulty(ids):
    return ids + 1000

def global_probs(probs):
    return faulty(torch.multinomial(probs, 1))

def seed(logits, seed):
    return faulty(torch.multinomial(logits.softmax(-1), 1, generator=torch.Generator().manual_seed(seed)))

def seeds(logits, seeds, temperature, top_k=50):
    return faulty(torch.zeros(len(seeds), dtype=torch.long))

def generators(logprobs, generators):
    return faulty(torch.zeros(len(generators), 1, dtype=torch.long))

def numpy_probs(probs, n, rng):
    return faulty(rng.integers(0, 2, (n, len(probs))))

def count(logits, n, *, generator):
    return faulty(torch.zeros(n, len(logits), dtype=torch.long))

class Backend:
    def draw(self, logits, generator):
        return faulty(torch.zeros(len(logits), dtype=torch.long))
"""


class TestShownCalls:
    @pytest.mark.parametrize(
        ("name", "call"),
        [
            ("global_probs", None),
            ("seed", None),
            ("seeds", None),
            ("generators", None),
            ("numpy_probs", None),
            ("count", "count(logits.double(), n, generator=g).T"),
            ("Backend.draw", None),
        ],
    )
    def test_pasted_it_shows_the_fault(self, name, call, tmp_path, monkeypatch, capsys):
        """Ids beyond the vocabulary, from the very call that the report shows, in a namespace of its own."""
        (tmp_path / "theirs_shown.py").write_text(FILE)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(Misbehaved) as fault:
            probe(Caller.of(f"theirs_shown.py:{name}", call=call), 6, 3)
        exec(fault.value.call, {})
        assert "100" in capsys.readouterr().out


class TestResolving:
    def write(self, folder, **files: str) -> None:
        for name, text in files.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))

    def test_a_module_of_the_current_folder(self, tmp_path):
        """From any process: the command's own start puts another folder first."""
        self.write(
            tmp_path,
            neighbour_a="def race(p): return p.argmax(-1)",
            main_a="from neighbour_a import race\ndef sample(logits, n, *, generator): return race(logits)\n",
        )
        script = "import sys; sys.path[:] = [p for p in sys.path if p]; from precision_lab import resolve; "
        script += "print(resolve('main_a:sample').name)"
        run = [sys.executable, "-P", "-c", script]
        done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.stdout == "main_a:sample\n", done.stderr

    def test_neighbours_are_found_when_the_function_is_called(self, tmp_path):
        self.write(
            tmp_path,
            neighbour_b="def race(p): return p.argmax(-1)",
            main_b="""
            def sample(logits, n, *, generator):
                from neighbour_b import race
                return race(logits).expand(n, -1)
            """,
        )
        found = resolve(f"{tmp_path}/main_b.py:sample").draw(torch.tensor([0.0, 1.0]), 3, rng=seeded(0))
        assert found.tolist() == [1, 1, 1]

    def test_its_module_is_known_also_by_a_name_that_is_taken(self, tmp_path):
        """A file called like a module that is loaded: dataclasses and type hints find their own, and the
        other stays."""
        text = """
        from __future__ import annotations
        import dataclasses
        import typing
        import torch

        @dataclasses.dataclass
        class Config:
            scale: Scale = None

        class Scale:
            pass

        def sample(logits, n, *, generator):
            assert typing.get_type_hints(Config) == {"scale": Scale}
            return logits.argmax(-1).expand(n, -1)
        """
        self.write(tmp_path, json=text, main_c=text)
        json_before = sys.modules["json"]
        for name in ("json", "main_c"):
            found = resolve(f"{tmp_path}/{name}.py:sample").draw(torch.tensor([0.0, 1.0]), 3, rng=seeded(0))
            assert found.tolist() == [1, 1, 1]
        assert sys.modules["json"] is json_before

    def test_a_method_of_a_class(self, tmp_path):
        self.write(
            tmp_path,
            main_d="""
            class Easy:
                def sample(self, logits, n, *, generator):
                    return logits.argmax(-1).expand(n, -1)
                @staticmethod
                def static(logits, n, *, generator):
                    return logits.argmin(-1).expand(n, -1)
            class Hard(Easy):
                def __init__(self, model):
                    pass
            """,
        )
        row = torch.tensor([0.0, 1.0])
        assert resolve(f"{tmp_path}/main_d.py:Easy.sample").draw(row, 2, rng=seeded(0)).tolist() == [1, 1]
        assert resolve(f"{tmp_path}/main_d.py:Hard.static").draw(row, 2, rng=seeded(0)).tolist() == [0, 0]
        with pytest.raises(InputError, match="bind an instance"):
            resolve(f"{tmp_path}/main_d.py:Hard.sample")

    def test_a_numpy_function_draws(self):
        """Its ids follow the generator, torch's or NumPy's."""

        def theirs(logits, n, *, rng):
            return (logits + rng.gumbel(size=(n, *logits.shape))).argmax(-1)

        flat = torch.zeros(2, 1000)
        for make in (seeded, np.random.default_rng):
            first, again = (resolve(theirs).draw(flat, 9, rng=make(1)) for _ in range(2))
            assert first.shape == (9, 2)
            assert torch.equal(first, again)
            assert not torch.equal(first, resolve(theirs).draw(flat, 9, rng=make(2)))
        with pytest.raises(InputError, match=r"shape \(2,\)"):
            resolve(lambda logits, n, *, rng: np.zeros(2, dtype=int)).draw(flat, 9, rng=seeded(0))


class TestCommand:
    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "theirs_command.py"
        path.write_text(
            "import torch\n"
            "def _sample_categorical(categorical_probs):\n"
            "  gumbel_norm = (1e-10 - (torch.rand_like(categorical_probs) + 1e-10).log())\n"
            "  return (categorical_probs / gumbel_norm).argmax(dim=-1)\n"
            "def greedy(logits):\n"
            "  return logits.argmax(-1)\n"
        )
        return path

    @statistical(false_fail=RATE)
    def test_a_function_of_the_global_generator_is_judged_in_its_own_process(self, file):
        """False-fail 1e-8; sees a temperature off by 0.1 with 1 - 1e-3."""
        report = check(
            f"{file}:_sample_categorical",
            targets=["zipf[vocab=50]"],
            detect="temperature=0.1",
            false_fail=RATE,
            call="_sample_categorical(probs)",
            say=lambda line: None,
        )
        assert report.outcome is Outcome.PASS, report.text()
        assert "torch's global generator" in " ".join(report.notes)
        assert "--call '_sample_categorical(probs)'" in report.command

    @pytest.mark.parametrize(
        ("words", "says"),
        [(["greedy"], "nothing random"), (["greedy", "--call", "greedy(os)"], "names 'os'")],
    )
    def test_usage_errors_exit_with_2(self, file, words, says):
        name, *rest = words
        command = [sys.executable, "-m", "precision_lab", "check", f"{file}:{name}", "--vocab", "50", *rest]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr
