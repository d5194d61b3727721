"""Where logits come from: synthetic families with closed forms, and files of recorded rows. One test is
random."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from precision_lab.errors import InputError
from precision_lab.laws.law import target_law
from precision_lab.provenance import file_sha256
from precision_lab.targets import TARGETS, Capture, load_capture, load_row, parse_target, save_capture
from precision_lab.targets.synthetic import (
    dirichlet,
    ends,
    geometric,
    head_and_tail,
    masked,
    mdm_step,
    normal,
    shifted,
    spread,
    uniform,
    zipf,
)

SMALL = {  # one small member of every family
    "uniform": "uniform[vocab=7]",
    "zipf": "zipf[vocab=100,exponent=1.3]",
    "geometric": "geometric[vocab=50,ratio=0.7]",
    "dirichlet": "dirichlet[vocab=60,concentration=0.05,seed=3]",
    "normal": "normal[vocab=200,sd=5,seed=4]",
    "head_and_tail": "head_and_tail[gap=6,tail_mass=0.1]",
    "mdm_step": "mdm_step[vocab=40,exponent=1,unmask=0.01]",
    "ends": "ends[vocab=600,share=0.4]",
    "shifted": "shifted[vocab=30,by=-1000]",
    "spread": "spread[vocab=40,nats=180]",
    "masked": "masked[vocab=64]",
}
RAW = {"shifted", "spread", "masked"}  # rows as networks give them


class TestFamilies:
    def test_every_family_has_a_small_member_here(self):
        assert SMALL.keys() == TARGETS.keys()

    @pytest.mark.parametrize("spec", [SMALL[name] for name in SMALL if name not in RAW])
    def test_probabilities_sum_to_one(self, spec):
        logits = parse_target(spec).logits
        assert logits.dtype == np.float64
        assert logits.ndim == 1
        assert math.fsum(np.exp(logits)) == pytest.approx(1, abs=1e-14)

    @pytest.mark.parametrize("name", [name for name in TARGETS if name not in RAW])
    def test_the_defaults_are_a_law_of_a_real_vocabulary(self, name):
        logits = parse_target(name).logits
        assert len(logits) >= 1000
        assert np.isfinite(logits).all()
        assert math.fsum(np.exp(logits)) == pytest.approx(1, abs=1e-12)

    def test_uniform(self):
        np.testing.assert_allclose(np.exp(uniform(8)), np.full(8, 1 / 8), rtol=1e-15)

    def test_zipf(self):
        harmonic = math.fsum(k**-1.5 for k in range(1, 31))
        np.testing.assert_allclose(
            np.exp(zipf(30, 1.5)), [k**-1.5 / harmonic for k in range(1, 31)], rtol=1e-13
        )
        np.testing.assert_allclose(zipf(5, 0.0), uniform(5), rtol=1e-15)

    def test_geometric(self):
        mass = (1 - 0.8**20) / (1 - 0.8)
        np.testing.assert_allclose(np.exp(geometric(20, 0.8)), [0.8**i / mass for i in range(20)], rtol=1e-13)

    def test_head_and_tail(self):
        logits = head_and_tail(7.0, 0.1)
        tail = round(0.1 * math.exp(7))
        assert len(logits) == tail + 1
        np.testing.assert_allclose(logits[1:] - logits[0], -7.0, atol=1e-14)
        assert np.exp(logits[1:]).sum() == pytest.approx(
            tail * math.exp(-7) / (1 + tail * math.exp(-7)), rel=1e-13
        )

    def test_ends(self):
        p = np.exp(ends(151_936, 0.5))
        assert p[0] == p[-1] == p[255] == p[256] == p[65_535] == p[65_536] == p[131_073]
        heavy = p == p[0]
        assert p[heavy].sum() == pytest.approx(0.5, rel=1e-12)
        assert p[-1] > 0.01
        np.testing.assert_allclose(np.exp(ends(2)), [0.5, 0.5], rtol=1e-14)

    def test_raw_rows_are_not_normalised_and_say_what_they_promise(self):
        np.testing.assert_allclose(shifted(20, -1000.0), zipf(20) - 1000.0, rtol=1e-15)
        assert (spread(100, 180.0)[0], spread(100, 180.0)[-1]) == (90.0, -90.0)
        row = masked(64)
        assert np.isneginf(row).sum() == (row == -1e4).sum() == (row == -1e9).sum() == 8
        assert (row.astype(np.float32) == np.finfo(np.float32).min).sum() == 8
        law = target_law(row)
        assert law.probs[[0, -1]].sum() == pytest.approx(0.9, rel=1e-12)
        assert (np.unique(law.probs[law.probs > 0], return_counts=True)[1] > 1).any()

    @pytest.mark.parametrize("vocab", [1, 2, 3, 4, 9])
    def test_short_rows(self, vocab):
        for name in ("ends", "shifted", "spread", "masked"):
            row = parse_target(f"{name}[vocab={vocab}]").logits
            assert len(row) == vocab
            assert not np.isnan(row).any()
            assert np.isfinite(row.max())

    @pytest.mark.parametrize("spec", ["ends[share=1]", "ends[share=nan]", "shifted[by=inf]", "spread[nats=-1]"])
    def test_bad_parameters_of_these(self, spec):
        with pytest.raises(InputError):
            parse_target(spec)

    def test_random_families_take_their_seed_as_data(self):
        np.testing.assert_array_equal(dirichlet(30, seed=1), dirichlet(30, seed=1))
        np.testing.assert_array_equal(normal(30, seed=1), normal(30, seed=1))
        assert (dirichlet(30, seed=1) != dirichlet(30, seed=2)).all()
        assert (normal(30, seed=1) != normal(30, seed=2)).all()

    def test_no_token_of_a_sparse_dirichlet_underflows(self):
        row = dirichlet(1000, concentration=1e-3, seed=0)
        assert np.isfinite(row).all()
        assert row.min() < -800  # exp of it is 0: only the logarithm holds it

    def test_moments_of_dirichlet_over_seeds(self):
        """E p_i = 1/3 and Var p_i = (2/9) / (3 a + 1). False-fail rate 2e-6 over seeds (two normal tests of
        4000 rows at |z| = 4.9); detects a mean off by 1.5 % or a concentration off by 25 %. The seeds are
        fixed."""
        rows = np.exp([dirichlet(3, concentration=0.5, seed=s) for s in range(4000)])[:, 0]
        variance = 2 / 9 / 2.5
        assert abs(rows.mean() - 1 / 3) < 4.9 * math.sqrt(variance / 4000)
        squares = (rows - 1 / 3) ** 2
        assert abs(squares.mean() - variance) < 4.9 * squares.std() / math.sqrt(4000)
        # the control
        assert abs(squares.mean() - 2 / 9 / (3 * 0.65 + 1)) > 4.9 * squares.std() / math.sqrt(4000)


class TestMdmStep:
    rows = st.lists(st.floats(-50, 20), min_size=1, max_size=12).map(np.array)

    @given(logits=rows, unmask=st.floats(1e-12, 1.0, exclude_max=True))
    def test_masses(self, logits, unmask):
        """Each token keeps ``unmask`` of its own mass; the rest is on the mask, which comes last."""
        step = mdm_step(logits, unmask)
        probs = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert len(step) == len(logits) + 1
        np.testing.assert_allclose(np.exp(step[:-1]), unmask * probs, rtol=1e-12, atol=1e-300)
        assert step[-1] == pytest.approx(math.log1p(-unmask), rel=1e-15, abs=0)
        assert math.fsum(np.exp(step)) == pytest.approx(1, abs=1e-14)

    @given(logits=rows)
    def test_the_last_step_leaves_nothing_on_the_mask(self, logits):
        step = mdm_step(logits, 1.0)
        assert step[-1] == -np.inf
        assert math.fsum(np.exp(step)) == pytest.approx(1, abs=1e-14)

    def test_an_impossible_token_stays_impossible(self):
        step = mdm_step(np.array([0.0, -np.inf, 0.0]), 0.25)
        np.testing.assert_allclose(np.exp(step), [0.125, 0, 0.125, 0.75], rtol=1e-15)

    @given(
        unmask=st.one_of(
            st.floats(max_value=0.0), st.floats(min_value=1.0, exclude_min=True), st.just(math.nan)
        )
    )
    def test_unmask_must_be_a_probability(self, unmask):
        with pytest.raises(InputError, match=r"probability in \(0, 1\]"):
            mdm_step(np.zeros(3), unmask)


class TestTemperature:
    def test_divides_the_logits(self):
        target = parse_target("zipf[vocab=9]").at_temperature(0.5)
        np.testing.assert_allclose(target.logits, 2 * zipf(9), rtol=1e-15)
        assert target.mask is None

    @pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
    def test_must_be_positive(self, temperature):
        with pytest.raises(InputError, match="temperature"):
            parse_target("zipf[vocab=9]").at_temperature(temperature)

    def test_is_not_of_a_step(self):
        with pytest.raises(InputError, match="mask"):
            parse_target("mdm_step[vocab=9]").at_temperature(0.5)


class TestNames:
    def test_parameters_reach_the_family_and_the_spec_is_the_name(self):
        target = parse_target(" zipf[ vocab=5 , exponent=2 ] ")
        np.testing.assert_array_equal(target.logits, zipf(5, 2.0))
        assert parse_target("zipf[vocab=5]").name == "zipf[vocab=5]"
        assert target.provenance == "synthetic"

    def test_empty_brackets_mean_the_defaults(self):
        np.testing.assert_array_equal(parse_target("geometric[]").logits, geometric())

    @pytest.mark.parametrize(
        ("spec", "says"),
        [
            ("zpf", "did you mean zipf"),
            ("unifrom[vocab=3]", "did you mean uniform"),
            ("qqqqq", "precision-lab ls targets"),
            ("zipf[size=5]", "parameter 'size' of zipf; expected vocab or exponent"),
            ("zipf[5]", "parameter '5'"),
            ("zipf[vocab=five]", "vocab='five'"),
            ("zipf[vocab=2.5]", r"vocab='2.5'; expected a number \(int\)"),
            ("zipf[vocab]", "vocab=''"),
            ("zipf[vocab=5", "name.parameter=value"),
            ("", "name.parameter=value"),
            ("zipf[vocab=0]", "vocab = 0; expected a positive number"),
            ("uniform[vocab=-3]", "positive"),
            ("uniform[vocab=99999999999999]", "at most"),
            ("zipf[vocab=99999999999999999999999]", "at most"),
            ("zipf[exponent=inf]", "exponent = inf"),
            ("zipf[exponent=nan]", "exponent = nan"),
            ("geometric[ratio=0]", "ratio"),
            ("geometric[ratio=nan]", "ratio"),
            ("normal[sd=-1]", "sd"),
            ("normal[seed=-1]", "seed = -1"),
            ("dirichlet[concentration=0]", "concentration"),
            ("dirichlet[seed=-7]", "seed = -7"),
            ("head_and_tail[gap=30]", "tail tokens"),
            ("head_and_tail[gap=1000]", "tail tokens"),
            ("head_and_tail[gap=2,tail_mass=0.05]", "tail tokens"),
            ("head_and_tail[gap=-1]", "gap"),
            ("mdm_step[unmask=0]", "probability"),
            ("mdm_step[unmask=1.5]", "probability"),
        ],
    )
    def test_what_is_wrong_is_said(self, spec, says):
        with pytest.raises(InputError, match=says):
            parse_target(spec)


# -- recorded rows -------------------------------------------------------------------------------
# subnormal, -inf
HALVES = np.array([[0, -0.1, -7.35, -65504], [-6e-8, -np.inf, 0, -3.14159]], dtype=np.float16)


@pytest.fixture
def capture() -> Capture:
    return Capture(HALVES, np.array([0.5, np.nan]), np.array([3, 0]), {"model": "toy", "text": "none"})


@pytest.fixture
def saved(tmp_path, capture):
    save_capture(tmp_path / "logits.safetensors", capture)
    return tmp_path / "logits.safetensors"


def written(path, **tensors):
    """A safetensors file without a manifest."""
    save_file({name: torch.as_tensor(value) for name, value in tensors.items()}, str(path))
    return path


class TestCapture:
    def test_round_trip_keeps_every_float16_value(self, saved, capture):
        back = load_capture(saved)
        assert back.logits.dtype == np.float16
        np.testing.assert_array_equal(back.logits.view(np.uint16), HALVES.view(np.uint16))
        np.testing.assert_array_equal(back.mask_ratio, capture.mask_ratio)
        np.testing.assert_array_equal(back.tokens, capture.tokens)
        assert back.manifest == {
            **capture.manifest, "rows": 2, "vocab": 4, "dtype": "float16", "sha256": file_sha256(saved),
        }  # fmt: skip

    def test_every_finite_float16_survives(self, tmp_path):
        bits = np.arange(1 << 16, dtype=np.uint16)
        values = bits.view(np.float16)
        values = values[np.isfinite(values)]
        path = tmp_path / "all.safetensors"
        save_capture(path, Capture(values[None], np.zeros(1), np.zeros(1, dtype=int), {"model": "all"}))
        np.testing.assert_array_equal(load_capture(path).logits[0].view(np.uint16), values.view(np.uint16))

    def test_a_row_is_a_target_in_float64(self, saved):
        target = load_capture(saved).row(1)
        assert target.logits.dtype == np.float64
        np.testing.assert_array_equal(target.logits, HALVES[1].astype(np.float64))
        assert target.name == "toy row 1"
        assert target.provenance == "captured: toy"

    def test_a_step_has_the_share_of_its_row(self, saved):
        """r = 1 / (N t) with t = 1/2; the mask is last and keeps 1 - r."""
        target = load_capture(saved).step(0, 50)
        probs = np.exp(target.logits)
        assert target.mask == len(HALVES[0])
        assert probs[target.mask] == pytest.approx(1 - 1 / 25, rel=1e-12)
        assert probs[:-1].sum() == pytest.approx(1 / 25, rel=1e-12)

    @pytest.mark.parametrize(("row", "steps"), [(0, 1), (1, 50), (0, 0)])
    def test_no_step_without_a_share_or_beyond_one(self, saved, row, steps):
        """N t = 1/2, a row of an autoregressive model, no steps."""
        with pytest.raises(InputError, match="masked share"):
            load_capture(saved).step(row, steps)

    @pytest.mark.parametrize("index", [-1, 2])
    def test_a_row_that_is_not_there(self, saved, index):
        with pytest.raises(InputError, match=r"expected 0\.\.1"):
            load_capture(saved).row(index)

    def test_saving_again_gives_the_same_bytes(self, saved, capture, tmp_path):
        save_capture(tmp_path / "again.safetensors", capture)
        assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()

    def test_a_file_without_a_manifest_is_taken_by_its_name(self, tmp_path):
        found = load_capture(
            written(tmp_path / "mine.safetensors", logits=np.array([0.5, -1.0], dtype=np.float32))
        )
        assert found.row(0).name == "mine row 0"
        np.testing.assert_array_equal(found.row(0).logits, [0.5, -1.0])
        assert np.isnan(found.mask_ratio).all()
        np.testing.assert_array_equal(found.tokens, [-1])

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_any_floating_dtype_of_numpy(self, tmp_path, dtype):
        found = load_capture(written(tmp_path / "x.safetensors", logits=np.zeros((2, 3), dtype=dtype)))
        assert found.logits.dtype == dtype
        assert found.row(1).logits.dtype == np.float64

    def test_a_manifest_without_a_model_names_the_file(self, tmp_path):
        path = written(tmp_path / "x.safetensors", logits=np.zeros((1, 3)))
        path.with_suffix(".json").write_text(json.dumps({"sha256": file_sha256(path)}))
        assert load_capture(path).row(0).name == "x row 0"

    def test_a_changed_byte_is_noticed(self, saved):
        raw = bytearray(saved.read_bytes())
        raw[-1] ^= 1
        saved.write_bytes(raw)
        with pytest.raises(InputError, match="as its manifest says"):
            load_capture(saved)

    @pytest.mark.parametrize("text", ["[]", "null", '"text"', "{}", '{"sha256": 3}', '{"sha256": null}'])
    def test_a_manifest_that_is_no_manifest(self, saved, text):
        saved.with_suffix(".json").write_text(text)
        with pytest.raises(InputError, match="as its manifest says"):
            load_capture(saved)

    def test_a_manifest_that_is_not_json(self, saved):
        saved.with_suffix(".json").write_text("{")
        with pytest.raises(InputError, match="valid JSON"):
            load_capture(saved)

    @pytest.mark.parametrize("keep", [0, 4, 8, 60, -1])
    def test_a_truncated_file(self, saved, keep):
        saved.write_bytes(saved.read_bytes()[:keep])
        with pytest.raises(InputError, match="manifest"):
            load_capture(saved)
        saved.with_suffix(".json").unlink()
        with pytest.raises(InputError, match="a safetensors file"):
            load_capture(saved)

    @given(raw=st.binary(max_size=200))
    def test_garbage_bytes(self, tmp_path_factory, raw):
        path = tmp_path_factory.mktemp("garbage") / "x.safetensors"
        path.write_bytes(raw)
        with pytest.raises(InputError):
            load_capture(path)

    def test_a_pickle_is_refused_and_not_run(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return (open, (str(tmp_path / "executed"), "w"))

        path = tmp_path / "x.safetensors"
        for raw in (pickle.dumps(Trap()), pickle.dumps({"logits": np.zeros((2, 3))})):
            path.write_bytes(raw)
            with pytest.raises(InputError, match="a safetensors file"):
                load_capture(path)
        torch.save({"logits": torch.zeros(2, 3)}, path)
        with pytest.raises(InputError, match="a safetensors file"):
            load_capture(path)
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_nan_and_plus_infinity(self, tmp_path, bad):
        logits = np.zeros((3, 4), dtype=np.float16)
        logits[1, 2] = bad
        found = load_capture(written(tmp_path / "x.safetensors", logits=logits))
        assert not found.row(0).logits.any()
        with pytest.raises(InputError, match=f"row 1 of .* with maximum {bad}"):
            found.row(1)

    def test_a_row_of_minus_infinity(self, tmp_path):
        logits = np.zeros((3, 4))
        logits[2] = -np.inf
        path = written(tmp_path / "x.safetensors", logits=logits)
        assert load_row(path, 1).logits.shape == (4,)
        for read in (load_capture(path).row, lambda index: load_row(path, index)):
            with pytest.raises(InputError, match=r"row 2 of .* with maximum -inf"):
                read(2)

    @pytest.mark.parametrize(
        "tensor",
        [
            torch.zeros(2, 3, 4),
            torch.zeros(()),
            torch.zeros(0, 3),
            torch.zeros(3, 0),
            torch.zeros(2, 3, dtype=torch.int64),
            torch.zeros(2, 3, dtype=torch.bool),
            torch.zeros(2, 3).to(torch.float8_e4m3fn),
            torch.zeros(2, 3, dtype=torch.complex64),
        ],
        ids=str,
    )
    def test_wrong_shapes_and_dtypes(self, tmp_path, tensor):
        with pytest.raises(InputError):
            load_capture(written(tmp_path / "x.safetensors", logits=tensor))

    def test_other_names_and_lengths(self, tmp_path):
        two = {"weights": torch.zeros(2, 3), "bias": torch.zeros(3)}
        with pytest.raises(
            InputError, match=r"no array 'logits' in .*holds 'bias', 'weights'.*under the name 'logits'"
        ):
            load_capture(written(tmp_path / "x.safetensors", **two))
        with pytest.raises(InputError, match="one per row"):
            load_capture(written(tmp_path / "y.safetensors", logits=torch.zeros(2, 3), tokens=torch.zeros(3)))
        with pytest.raises(InputError, match="one per row"):
            load_capture(
                written(tmp_path / "z.safetensors", logits=torch.zeros(2, 3), mask_ratio=torch.zeros(2, 1))
            )

    def test_a_missing_file_and_a_folder(self, tmp_path):
        for path in (tmp_path / "none.safetensors", tmp_path):
            with pytest.raises(InputError, match="no file"):
                load_capture(path)
