"""The benchmark: rivals draw by the recipes whose laws stand beside them, ratios are within a round, cells
resume, and the decision table is made of laws that are computed here another way."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from dataclasses import replace
from itertools import count

import numpy as np
import pandas as pd
import pytest
import torch

import precision_lab.__main__ as command_line
from precision_lab.bench import choose as room
from precision_lab.bench import grid, h100
from precision_lab.bench.choose import ENOUGH, STEP, choose
from precision_lab.bench.rivals import OURS, RACE, REFERENCE, RIVALS, Rival, here
from precision_lab.bench.timing import Clock, best_rows, paired, peak_bytes, ratio
from precision_lab.errors import InputError
from precision_lab.faithful import categorical, categorical_masses, exponential_race
from precision_lab.files import read_json
from precision_lab.pipelines import parse_pipeline
from precision_lab.samplers import SAMPLERS, with_tolerance
from precision_lab.statistics import total_variation
from precision_lab.targets import Capture, save_capture
from precision_lab.targets.synthetic import zipf
from precision_lab.types import Guarantee

EAGER = [name for name, rival in RIVALS.items() if rival.in_chunks]
ROWS = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (7, 300))).float()


@pytest.fixture
def few(monkeypatch):
    """Three rivals, the reference in float16: its law is known in milliseconds."""
    coarse = replace(RIVALS[REFERENCE], recipe="gumbel_max_fp16")
    kept = {OURS: RIVALS[OURS], REFERENCE: coarse, "cumulative sum float64": RIVALS["cumulative sum float64"]}
    for name in set(RIVALS) - set(kept):
        monkeypatch.delitem(RIVALS, name)
    monkeypatch.setitem(RIVALS, REFERENCE, coarse)
    return kept


@pytest.fixture
def cli(monkeypatch, capsys):
    """``cli("choose", ...)`` -> (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["precision-lab", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            command_line.main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


def ticking(step_of: dict[str, float]) -> tuple[Clock, dict, list[str]]:
    """A clock that only the ways move, each by its own step; and the order of their calls."""
    now = [0.0]
    calls: list[str] = []

    def way(name):
        def move():
            calls.append(name)
            now[0] += step_of[name]

        return move

    return Clock("made up", lambda: now[0]), {name: way(name) for name in step_of}, calls


class TestRivals:
    """What is timed is what the law is of: the same generator gives the tokens of the recipe."""

    @pytest.mark.parametrize("name", EAGER)
    @pytest.mark.parametrize("rows_at_once", [1, 3, 7])
    def test_an_eager_rival_draws_the_tokens_of_its_recipe(self, name, rows_at_once):
        drawn = RIVALS[name].prepare(ROWS, 5, rows_at_once)()
        recipe = SAMPLERS[RIVALS[name].recipe]
        assert drawn.tolist() == recipe.draw(ROWS, 1, rng=torch.Generator().manual_seed(5))[0].tolist()

    def test_every_call_draws_anew(self):
        for name in EAGER:
            way = RIVALS[name].prepare(ROWS, 5, 7)
            assert way().tolist() != way().tolist()

    def test_ours_are_the_public_functions(self):
        for name, function in ((OURS, categorical), (RACE, exponential_race)):
            drawn = RIVALS[name].prepare(ROWS, 5, 7)()
            assert drawn.tolist() == function(ROWS, generator=torch.Generator().manual_seed(5))[0].tolist()

    def test_numpy_draws_the_tokens_of_its_recipe(self):
        drawn = RIVALS["numpy Generator.choice"].prepare(ROWS, 5, 7)()
        rng = np.random.default_rng(5)
        assert drawn == [int(SAMPLERS["numpy_choice"].draw(row, 1, rng=rng)) for row in ROWS]

    @pytest.mark.parametrize("mode", ["low", "high", "highest"])
    def test_jax_draws_what_its_mode_draws(self, mode):
        jax = pytest.importorskip("jax", reason="the extra jax is not installed")
        way = RIVALS[f"jax.random.categorical, {mode}"].prepare(ROWS, 5, 7)
        key = jax.random.key(5)
        for _ in range(2):
            key, now = jax.random.split(key)
            expected = jax.random.categorical(now, ROWS.numpy(), mode=mode)
            assert way().tolist() == expected.tolist()

    def test_each_has_a_recipe_of_its_precision(self):
        for rival in RIVALS.values():
            if rival.sampler() is None:
                assert rival.devices == ("cuda",)
                continue
            score = rival.sampler().stages.score
            assert {"float32": "fp32", "float64": "fp64"}.get(rival.precision, score) == score
            assert not rival.cuda_recipe or rival.cuda_recipe in SAMPLERS

    def test_here_are_those_whose_package_is_here(self, monkeypatch):
        absent = replace(RIVALS[OURS], name="absent", package="no_such_package_at_all")
        monkeypatch.setitem(RIVALS, "absent", absent)
        assert "absent" not in [rival.name for rival in here()]
        assert "numpy Generator.choice" not in [rival.name for rival in here("cuda")]
        assert [rival.name for rival in here(names=(RACE, "absent"))] == [RACE]


class TestTiming:
    def test_rounds_visit_all_in_turn_and_ratios_are_those_of_the_steps(self):
        clock, ways, calls = ticking({"a": 1.0, "b": 3.0, "c": 0.5})
        taken = paired(ways, clock=clock, seconds=4.5 * 7, least=2, most=20)
        assert {name: len(times) for name, times in taken.items()} == {"a": 7, "b": 7, "c": 7}
        assert calls[6:15] == [
            "a",
            "b",
            "c",
            "b",
            "c",
            "a",
            "c",
            "a",
            "b",
        ]  # after a visit to compile, one to count
        found = ratio(taken["b"], taken["a"], rng=np.random.default_rng(0))
        assert (found.value, found.low, found.high, found.n) == (3, 3, 3, 7)

    def test_short_draws_are_repeated_and_time_is_of_one(self):
        clock, ways, calls = ticking({"short": 1e-4, "long": 1.0})
        taken = paired(ways, clock=clock, seconds=1e-9, least=3)
        assert calls.count("short") == 2 + 3 * 20
        assert calls.count("long") == 2 + 3
        assert taken["short"] == pytest.approx([1e-4] * 3)

    def test_no_more_rounds_than_the_most(self):
        clock, ways, _ = ticking({"a": 0.01})
        assert len(paired(ways, clock=clock, seconds=1e9, least=1, most=5)["a"]) == 5

    def test_a_drift_that_all_share_cancels(self):
        """Every call takes as long again as the one before: the ratio of neighbours is what is left."""
        now, calls = [0.0], count()

        def grow():
            now[0] += 1.01 ** next(calls)

        ways = {"a": grow, "b": grow}
        taken = paired(ways, clock=Clock("made up", lambda: now[0]), seconds=1e-9, least=10)
        found = ratio(taken["b"], taken["a"], rng=np.random.default_rng(0))
        assert found.value == pytest.approx(1, abs=0.02)
        assert taken["a"][-1] > 1.1 * taken["a"][0]

    def test_the_best_rows_are_those_of_the_least_time(self):
        now = [0.0]

        def prepare(logits, seed, rows_at_once):
            def way():
                now[0] += abs(rows_at_once - 4) + 1

            return way

        rival = Rival("r", "float32", "", "", prepare, in_chunks=True)
        logits = torch.zeros(64, 1 << 15)
        clock = Clock("made up", lambda: now[0])
        assert best_rows(rival, logits, seed=0, clock=clock) == 4
        assert best_rows(replace(rival, in_chunks=False), logits, seed=0, clock=clock) == 64
        assert best_rows(rival, logits[:1], seed=0, clock=clock) == 1

    @pytest.mark.skipif(sys.platform != "linux", reason="the resident set is read as Linux tells it")
    def test_peak_memory_of_a_call(self):
        assert 60 < peak_bytes(lambda: torch.ones(1 << 24)) / 2**20 < 80  # 64 MiB
        assert peak_bytes(lambda: torch.ones(16)) < 8 * 2**20

    def test_the_clock_counts_processor_time_only_where_one_thread_draws(self):
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            assert Clock.of("cpu").name == "processor"
            torch.set_num_threads(2)
            assert Clock.of("cpu").name == "wall"
        finally:
            torch.set_num_threads(threads)


class TestGrid:
    def test_batches_of_which_as_many_rows_are_timed_are_one_cell(self):
        cells = grid.time_cells((4096, 262_144), (1, 8, 128, 1024), 1.0, "cpu", [OURS])
        assert [(c["vocab"], c["batch"]) for c in cells] == [
            *((4096, batch) for batch in (1, 8, 128, 1024)),
            (262_144, 1),
            (262_144, 8),
        ]
        assert grid.rows_timed(262_144, 1024) * 262_144 <= grid.MOST_VALUES
        assert grid.rows_timed(262_144, 1024, "cuda") == 1024

    def test_laws_only_where_one_is_known(self):
        known = grid.law_cells([64], ["zipf"], "cuda", ["cumulative sum float32", OURS])
        assert [cell["sampler"] for cell in known] == [OURS]

    def test_table_of_times_and_laws(self, few, tmp_path, capsys):
        found = grid.run((300,), (2, 4), seconds=1e-3, folder=tmp_path, rows=("zipf", "normal"))
        assert len(found) == 2 * len(few)
        assert found.ratio[found.sampler == REFERENCE].tolist() == [1, 1]
        assert (found.ratio_low <= found.ratio).all()
        assert (found.ratio <= found.ratio_high).all()
        assert (found.rounds >= 7).all()
        ours = found[found.sampler == OURS].iloc[0]
        assert ours.tv_zipf == pytest.approx(total_variation_of_masses(zipf(300)), rel=1e-6, abs=1e-14)
        coarse = found[found.sampler == REFERENCE].iloc[0]
        assert coarse.tv_normal > coarse.tv_zipf / 100 > 1e-6
        assert coarse.ceiling == SAMPLERS["gumbel_max_fp16"].ceiling
        assert (ours.bits_per_draw, coarse.bits_per_draw) == (
            128,
            300 * SAMPLERS["gumbel_max_fp16"].source.bits,
        )
        assert "8/8" in capsys.readouterr().err

    def test_the_same_command_resumes(self, few, tmp_path, monkeypatch):
        first = grid.run((300,), (2,), seconds=1e-3, folder=tmp_path)
        monkeypatch.setattr(grid, "measure", lambda *_: pytest.fail("a cell was measured again"))
        pd.testing.assert_frame_equal(grid.run((300,), (2,), seconds=1e-3, folder=tmp_path), first)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"vocabs": (0,)}, "--vocab 0"),
            ({"vocabs": ()}, "--vocab without"),
            ({"batches": (-3,)}, "--batch -3"),
            ({"seconds": 0.0}, "--seconds 0"),
            ({"seconds": math.nan}, "--seconds nan"),
            ({"device": "tpu"}, "device 'tpu'"),
            ({"samplers": ("nobody",)}, "sampler 'nobody'"),
            ({"samplers": ("flashinfer dual pivot",)}, "flashinfer dual pivot on cpu"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_bad_input_is_one_error(self, change, said, tmp_path):
        given = {"vocabs": (64,), "batches": (1,), "folder": tmp_path} | change
        with pytest.raises(InputError, match=said):
            grid.run(given.pop("vocabs"), given.pop("batches"), **given)


class TestRecorded:
    def test_the_h100_is_named_and_its_numbers_are_those_of_the_file(self):
        cell = read_json(h100.RECORDED)["rows"][-1]
        found = {row["sampler"]: row for row in h100.rows((cell["vocab"],), (cell["batch"],))}
        missing = {name for name, value in cell["milliseconds"].items() if value is None}
        assert missing
        assert set(found) == set(cell["milliseconds"]) - missing
        assert all("H100" in row["device"] for row in found.values())
        assert found[REFERENCE]["ratio"] == 1
        multinomial = cell["milliseconds"]["torch.multinomial"]
        assert found["torch.multinomial"]["microseconds"] == pytest.approx(multinomial * 1000 / cell["batch"])

    def test_only_what_is_asked_for(self):
        assert h100.rows((123,)) == []
        assert {row["batch"] for row in h100.rows(batches=(8,))} == {8}


def total_variation_of_masses(logits: np.ndarray) -> float:
    """Of our masses over their sum from softmax of the float32 logits, in plain float64."""
    row = logits.astype(np.float32)
    masses = categorical_masses(torch.from_numpy(row)).numpy().astype(np.float64)
    weights = np.exp(row.astype(np.float64) - row.max())
    return float(np.abs(masses / masses.sum() - weights / weights.sum()).sum() / 2)


class TestChoose:
    def test_next_tokens(self, few):
        found = choose(vocab=300, batch=4, seconds=1e-3)
        rows = {row["sampler"]: row for row in found.rows}
        assert set(rows) == set(few)
        assert rows[OURS]["wrong_by"] == pytest.approx(
            total_variation_of_masses(zipf(300)), rel=1e-6, abs=1e-14
        )
        assert rows[OURS]["enough"]
        assert not rows[REFERENCE]["enough"]
        assert rows[REFERENCE]["entropy_lost"] != 0
        assert rows[REFERENCE]["ratio"] == 1
        assert [row["enough"] for row in found.rows] == [True, True, False]
        assert found.rows[0]["ratio"] <= found.rows[1]["ratio"]
        assert found.recommendation.startswith(f"Take {found.rows[0]['sampler']} for next tokens")
        assert "zipf[vocab=300]" in found.given
        assert "unmasks" not in rows[OURS]

    def test_a_step_of_masked_diffusion(self, few):
        """Multiplier and share against the recipe's own law of that step, computed here."""
        found = choose(vocab=300, batch=4, use="mdm:64", seconds=1e-3)
        rows = {row["sampler"]: row for row in found.rows}
        assert set(rows) == {*few, STEP}
        assert rows[STEP]["unmasks"] == 1
        assert rows[STEP]["wrong_by"] == pytest.approx(
            total_variation_of_masses(zipf(300)), rel=1e-3, abs=1e-12
        )
        step = np.append(zipf(300) + np.log(1 / 64), np.log1p(-1 / 64)).astype(np.float32)
        law = SAMPLERS["gumbel_max_fp16"].law(step).probs
        asked = np.exp(step.astype(np.float64))
        asked /= asked.sum()
        assert rows[REFERENCE]["unmasks"] == pytest.approx(law[:-1].sum() / asked[:-1].sum(), rel=1e-5)
        assert rows[REFERENCE]["wrong_by"] == pytest.approx(np.abs(law - asked).sum() / 2 * 64, rel=1e-3)
        assert "unmasks" in found.recommendation

    def test_temperature_and_truncation_are_in_the_row(self, few):
        text = "temperature=0.7 > top_p=0.9"
        kept = parse_pipeline(text).kept(zipf(300))
        row = room._row(room.parse_use("lm"), room.parse_target("zipf[vocab=300]"), text)
        assert (np.isfinite(row.given) == kept).all()
        assert 1 < kept.sum() < 300
        plain = choose(vocab=300, seconds=1e-3).rows
        cut = choose(vocab=300, temperature=0.7, top_p=0.9, seconds=1e-3)
        wrong = [next(r["wrong_by"] for r in rows if r["sampler"] == REFERENCE) for rows in (plain, cut.rows)]
        assert wrong[0] != wrong[1]
        assert text in cut.given

    def test_the_bound_is_of_total_variation(self):
        """Of an enumeration, certified or exact, the error of one token times half the vocabulary, which
        covers what one that stops early lacks; a perturbation bound is one of sets as it stands."""
        logits = zipf(300).astype(np.float32)
        sampler = with_tolerance(SAMPLERS["gumbel_max_fp16"], tolerance=1e-3, relative=np.inf)
        early = sampler.law(logits)
        apart = total_variation(early, SAMPLERS["gumbel_max_fp16"].law(logits))
        assert early.guarantee is Guarantee.CERTIFIED
        assert 1e-4 < apart < room.bound_of(early, sampler)
        assert room.bound_of(early, sampler) == early.error * 150
        fine = SAMPLERS["gumbel_max_fp64"]
        assert room.bound_of(fine.law(logits), fine) == fine.law(logits).error

    def test_what_was_not_measured_here_is_not_proved(self):
        row = room._row(room.parse_use("lm"), room.parse_target("zipf[vocab=300]"), "")
        sampler = SAMPLERS["faithful_masses"]
        law = sampler.law(row.given)
        found = [
            room._fidelity(replace(law, guarantee=each), sampler, row, of_step=False)["enough"]
            for each in (Guarantee.EXACT, Guarantee.CERTIFIED, Guarantee.EMULATED)
        ]
        assert found == [True, True, False]

    def test_a_target_of_ones_own(self, few, tmp_path):
        path = tmp_path / "rows.safetensors"
        logits = np.stack([zipf(40), zipf(40)[::-1]]).astype(np.float16)
        none = np.array([0.5, 0.5])
        save_capture(path, Capture(logits, none, np.array([0, 1]), {"model": "made up"}))
        assert "made up row 1" in choose(target=f"{path}:1", seconds=1e-3).given
        assert "made up row 0" in choose(target=str(path), seconds=1e-3).given
        assert "normal[vocab=50]" in choose(target="normal[vocab=50]", seconds=1e-3).given
        with pytest.raises(InputError, match="--vocab 41 with a row of 50"):
            choose(vocab=41, target="normal[vocab=50]", seconds=1e-3)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"vocab": 1}, "--vocab 1"),
            ({"vocab": -5}, "--vocab -5"),
            ({"batch": 0}, "--batch 0"),
            ({"use": "lms"}, "--for lms"),
            ({"use": "mdm:0"}, "--for mdm:0"),
            ({"temperature": 0.0}, "--temperature 0"),
            ({"temperature": -1.0}, "--temperature -1"),
            ({"temperature": math.nan}, "--temperature nan"),
            ({"top_p": 1.5}, "top_p"),
            ({"top_k": 0}, "top_k"),
            ({"min_p": -0.1}, "min_p"),
            ({"top_k": 1}, "leaves one token"),
            ({"target": "nobody[vocab=3]"}, "nobody"),
            ({"use": "mdm:8", "target": "mdm_step[vocab=30]"}, "a step already"),
            ({"seconds": -1.0}, "--seconds -1"),
            ({"device": "tpu"}, "device 'tpu'"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_bad_input_is_one_error(self, change, said):
        with pytest.raises(InputError, match=said):
            choose(**({"vocab": None if "target" in change else 64} | change))


class TestRecommendation:
    """The sentence, from rows that are made up."""

    def rows(self, **wrong):
        made = []
        for k, (name, value) in enumerate(wrong.items()):
            cost = {"ratio": 0.5 + k, "ratio_low": 0.4 + k, "ratio_high": 0.6 + k}
            made.append({"sampler": name, "wrong_by": value, "bound": 0.0, "enough": value <= ENOUGH} | cost)
        plain = {"sampler": REFERENCE, "wrong_by": 0.1, "bound": 0.0, "enough": False, "unmasks": 0.5}
        return [*made, plain | {"ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0}]

    def test_the_cheapest_that_is_right(self):
        said = room._recommend(self.rows(a=0.0, b=1e-9), room.parse_use("lm"))
        assert said.startswith("Take a for next tokens: the cheapest of the 2")
        assert "0.5 [0.4, 0.6]" in said
        assert "cost as much" not in said

    def test_what_costs_as_much_is_named(self):
        rows = self.rows(a=0.0, b=1e-9)
        rows[1] |= {"ratio_low": 0.55}
        assert room._recommend(rows, room.parse_use("lm")).endswith(
            "; b cost as much, as far as these rounds tell."
        )

    def test_where_none_is_right_the_nearest(self):
        said = room._recommend(self.rows(a=1e-3, b=math.nan, c=1e-4), room.parse_use("mdm:9"))
        assert said.startswith("Take c for 9 ancestral steps: none is proved")


class TestCommands:
    def test_bench(self, cli, few, tmp_path):
        code, out, err = cli(
            "bench", "--vocab", "300", "--batch", "2", "--seconds", "0.001", "-o", str(tmp_path), "-f", "json"
        )
        assert code == 0
        assert {row["sampler"] for row in json.loads(out)} == set(few)
        assert "kind=times" in err

    def test_bench_shows_the_h100_where_it_was_measured(self, cli, tmp_path, monkeypatch):
        columns = {
            "device": "cpu",
            "vocab": 50_257,
            "batch": 8,
            "sampler": "a",
            "microseconds": 2.0,
            "ratio": 1.0,
        }
        monkeypatch.setattr(grid, "run", lambda *_, **__: pd.DataFrame([columns | {"rounds": 7}]))
        _, out, _ = cli("bench", "--vocab", "50257", "--batch", "8", "-o", str(tmp_path), "-f", "csv")
        marked = [row for row in csv.DictReader(io.StringIO(out)) if h100.MARK in row["device"]]
        assert len(marked) == len(h100.rows((50_257,), (8,))) > 0
        assert all(row["rounds"] == "" for row in marked)

    @pytest.mark.parametrize("format", ["table", "md", "json", "csv"])
    def test_choose(self, cli, few, format):
        code, out, _ = cli("choose", "--vocab", "300", "--seconds", "0.001", "-f", format)
        assert code == 0
        assert out.count(OURS) >= 1
        if format == "csv":
            assert len(list(csv.DictReader(io.StringIO(out)))) == len(few)
        else:
            assert "Take " in out
        if format == "json":
            found = json.loads(out)
            assert found["recommendation"].startswith("Take ")
            assert len(found["samplers"]) == len(few)

    @pytest.mark.parametrize(
        "arguments",
        [
            ("bench", "--vocab", "many"),
            ("bench", "--batch", "1,,2"),
            ("bench", "--rows", "uniform"),
            ("choose", "--for", "poetry"),
            ("choose", "--vocab", "1"),
        ],
        ids=" ".join,
    )
    def test_bad_input_is_one_line(self, cli, arguments, tmp_path):
        extra = ("-o", str(tmp_path)) if arguments[0] == "bench" else ()
        code, out, err = cli(*arguments, *extra)
        assert (code, out) == (2, "")
        assert err.startswith("error: got ")
        assert err.count("\n") == 1
