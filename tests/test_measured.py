"""Word maps found by measurement, tables in files, CUDA's fast logarithm, and the generators of
``torch.compile``."""

from __future__ import annotations

import json
import math
import shutil
import zipfile

import numpy as np
import pytest
import torch

from precision_lab import measure
from precision_lab.atoms import Atoms
from precision_lab.errors import InputError
from precision_lab.files import cache_dir, read_json
from precision_lab.formats import FP16, FP32
from precision_lab.laws.argmax import argmax_law
from precision_lab.laws.law import Law
from precision_lab.samplers import SAMPLERS
from precision_lab.types import Guarantee
from precision_lab.uniforms import DTYPES, TORCH_EXPONENTIAL, TORCH_RAND, TorchRand, agreement, fast_log
from precision_lab.uniforms.agreement import cuda_words, word_map_here
from precision_lab.uniforms.cuda import CURAND, TORCH_CUDA_EXPONENTIAL, TORCH_CUDA_RAND, confirmed_on_cuda
from precision_lab.uniforms.fast_log import LENGTH, RELATIVE_BOUND, fast_exponential, fast_log_table
from precision_lab.uniforms.grids import RUST_RAND_FP32, TENSORFLOW_FP64, grid
from precision_lab.uniforms.inductor import COMPILED_EXPONENTIAL, COMPILED_RAND
from precision_lab.uniforms.jax_random import JAX_LOW
from precision_lab.uniforms.measured import confirmations, confirmed
from precision_lab.uniforms.murmur import MURMUR_32, MURMUR_CLOSED
from precision_lab.uniforms.numpy_random import NUMPY_FP32, NUMPY_FP64, numpy_agrees
from precision_lab.uniforms.philox import philox4x32
from precision_lab.uniforms.table import TableSource
from precision_lab.uniforms.triton import SCALE, TL_RAND, TL_RAND_64
from precision_lab.uniforms.word_maps import OWN_DIGITS, ROUNDED_FLOAT32

HALVES = (torch.float16, torch.bfloat16)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing measured yet, and a cache folder of its own; afterwards nothing of the test is remembered."""
    monkeypatch.setenv("PRECISION_LAB_CACHE", str(tmp_path))
    word_map_here.cache_clear()
    yield
    word_map_here.cache_clear()


def other_native(monkeypatch, draw) -> None:
    """The library's calls replaced: ``draw(op, dtype, shape, rng)``."""
    monkeypatch.setattr(
        agreement, "native_draws", lambda op, dtype, device, shape, *, rng: draw(op, dtype, shape, rng)
    )


def older(op: str, dtype: torch.dtype, shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    """torch 2.11: the low 11 or 8 bits of each 32-bit word."""
    digits = {torch.float16: 11, torch.bfloat16: 8}[dtype]
    words = torch.empty(shape, dtype=torch.int32).random_(generator=rng)
    return ((words & ((1 << digits) - 1)).double() / (1 << digits)).to(dtype)


def shifted(op: str, dtype: torch.dtype, shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    """A torch that nobody has: the same words, half a unit higher, or an exponential by the other
    logarithm."""
    u = torch.rand(shape, dtype=torch.float64, generator=rng)
    return (u + 2.0**-12 if op == "rand" else -torch.log(u)).to(dtype)


class TestAgreement:
    @pytest.mark.parametrize("op", ["rand", "exponential_"])
    @pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
    def test_every_call_of_this_torch_is_known(self, fresh, op, dtype):
        """No false failures: two paths from the same words. A map that differed in a share s of its values
        would agree with probability (1 - s)^4096: 1.7 % at s = 0.1 %."""
        source = confirmed(op, dtype)
        assert source.emulated is None
        assert source.dtype is dtype
        table = TORCH_RAND if op == "rand" else TORCH_EXPONENTIAL
        assert source in table.values()

    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    def test_an_older_torch_is_found(self, fresh, monkeypatch, dtype):
        """Draws, law and table are those of the older map, though the registry's objects are the same."""
        other_native(monkeypatch, older)
        source = confirmed("rand", dtype)
        assert source is TORCH_RAND["fp16" if dtype is torch.float16 else "bf16"]
        assert word_map_here("rand", dtype) == OWN_DIGITS
        assert source.emulated is None
        digits = 11 if dtype is torch.float16 else 8
        atoms = source.atoms()
        np.testing.assert_array_equal(atoms.values, np.arange(1 << digits) / (1 << digits))
        assert set(atoms.counts.tolist()) == {1 << (24 - digits)}
        every = source.from_words(torch.arange(1 << 24, dtype=torch.int32)).double().numpy()
        assert Atoms.of(every, 1, 24).sha256() == atoms.sha256()

    @pytest.mark.parametrize("op", ["rand", "exponential_"])
    @pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
    def test_an_unknown_torch_is_refused(self, fresh, monkeypatch, op, dtype):
        """In one sentence, by the law and by the table; its own draws are still to be had."""
        other_native(monkeypatch, shifted)
        with pytest.raises(
            InputError, match=rf"{op} of torch {torch.__version__.split('+')[0]}.* in {str(dtype)[6:]}"
        ):
            confirmed(op, dtype)
        name = next(name for name, known in DTYPES.items() if known is dtype)
        source = (TORCH_RAND if op == "rand" else TORCH_EXPONENTIAL)[name]
        if source.enumerable:
            with pytest.raises(InputError, match="no known word map"):
                source.atoms()
        with pytest.raises(InputError, match="no known word map"):
            source.from_words(torch.arange(4))
        assert source.draw((3,), rng=seeded(0)).shape == (3,)
        assert "unknown" in source.emulated
        assert {(o, d): agrees for o, d, _, agrees in confirmations()}[op, dtype] is False

    @pytest.mark.parametrize("name", ["gumbel_max_bf16", "gumbel_max_fp64", "llada_fp64"])
    def test_an_unknown_torch_has_no_ceiling(self, fresh, monkeypatch, name):
        """What is not known is nan, and no error: it can be listed."""
        assert SAMPLERS[name].ceiling > 5
        word_map_here.cache_clear()
        other_native(monkeypatch, shifted)
        assert math.isnan(SAMPLERS[name].ceiling)

    def test_one_stray_draw_in_4096_is_seen(self, fresh):
        native, words = agreement.draws_and_words("rand", torch.float32, "cpu")
        assert OWN_DIGITS.agrees(native, words)
        native[1234] += 2.0**-24
        assert not OWN_DIGITS.agrees(native, words)

    def test_a_map_named_by_hand_is_emulated_unless_it_is_the_one_here(self, fresh):
        half = {
            word_map: TorchRand("torch.rand float16", FP16, 24, word_map=word_map)
            for word_map in (ROUNDED_FLOAT32, OWN_DIGITS)
        }
        here = word_map_here("rand", torch.float16)
        for word_map, source in half.items():
            assert (source.emulated is None) == (word_map == here)
        other = next(source for word_map, source in half.items() if word_map != here)
        assert "evaluated by torch on this CPU" in other.emulated

    def test_what_was_found_is_noted_once(self, fresh):
        for _ in range(2):
            word_map_here.cache_clear()
            confirmed("rand", torch.bfloat16)
        (row,) = read_json(cache_dir() / "agreement.json")
        assert row["torch"] == torch.__version__
        assert row["device"] == f"cpu, {torch.backends.cpu.get_cpu_capability()}"
        assert (row["op"], row["dtype"], row["draws"]) == ("rand", "bfloat16", 4096)
        assert row["word map"] == word_map_here("rand", torch.bfloat16).name

    @pytest.mark.parametrize("text", ["", "[1, {}]", "{}", "\xff"])
    def test_a_spoilt_note_is_no_obstacle(self, fresh, text):
        (cache_dir() / "agreement.json").write_text(text, encoding="latin-1")
        assert confirmed("rand", torch.float32) is TORCH_RAND["fp32"]
        assert read_json(cache_dir() / "agreement.json")[-1]["dtype"] == "float32"

    def test_a_cache_that_cannot_be_written_is_no_obstacle(self, fresh, monkeypatch, tmp_path):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("PRECISION_LAB_CACHE", str(tmp_path / "file"))
        assert confirmed("rand", torch.float32) is TORCH_RAND["fp32"]

    def test_a_note_is_not_believed(self, fresh, monkeypatch):
        """The measurement is made in every process: a note of another torch's map changes nothing."""
        confirmed("rand", torch.float16)
        word_map_here.cache_clear()
        other_native(monkeypatch, older)
        assert word_map_here("rand", torch.float16) == OWN_DIGITS

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("randn", torch.float32), "rand or exponential_"),
            (("rand", torch.int32), "float16, bfloat16, float32, float64"),
            (("rand", torch.float32, "tpu"), "cpu or cuda"),
        ],
    )
    def test_bad_input(self, arguments, said):
        with pytest.raises(InputError, match=said):
            confirmed(*arguments)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is at hand")
    def test_no_cuda_is_one_sentence(self):
        with pytest.raises(InputError, match="a CUDA device that torch sees"):
            confirmed("rand", torch.float32, "cuda")
        assert not confirmed_on_cuda(TORCH_CUDA_RAND["fp32"])

    def test_nothing_is_measured_at_import(self):
        import subprocess
        import sys

        code = (
            "import torch, precision_lab.uniforms.measured, precision_lab.samplers\n"
            "from precision_lab.uniforms import agreement\n"
            "assert agreement.word_map_here.cache_info().misses == 0"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_cuda_words_are_the_first_of_each_thread(self):
        """Subsequence = thread in the counter's upper half, the seed as key: against Philox by hand."""
        words = cuda_words(5, (7 << 32) | 3)
        for thread in range(5):
            assert int(words[thread]) == int(philox4x32((0, 0, thread, 0), (3, 7))[0])


class TestEmulated:
    def test_who_is_and_who_is_not(self):
        assert all(source.emulated is None for source in (*TORCH_RAND.values(), *TORCH_EXPONENTIAL.values()))
        assert grid(10).emulated is None
        for source in (
            CURAND,
            TL_RAND,
            TL_RAND_64,
            MURMUR_32,
            MURMUR_CLOSED,
            COMPILED_RAND,
            COMPILED_EXPONENTIAL,
        ):
            assert source.emulated.endswith("evaluated by torch on this CPU")
        for other in (*JAX_LOW.values(), TENSORFLOW_FP64, RUST_RAND_FP32):
            assert other.emulated.endswith("evaluated by torch on this CPU")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device may confirm it")
    def test_the_fast_logarithm_names_its_device(self):
        assert "NVIDIA H100 80GB HBM3, torch 2.11.0+cu130" in TORCH_CUDA_EXPONENTIAL["fp32"].emulated

    def test_numpy_is_confirmed_here(self):
        """8,192 float32 and 4,096 float64 draws against raw words; no false failures."""
        assert NUMPY_FP32.emulated is None
        assert NUMPY_FP64.emulated is None

    def test_another_numpy_is_not(self, monkeypatch):
        numpy_agrees.cache_clear()
        monkeypatch.setattr(np.random, "Generator", lambda bits: np.random.RandomState(0))
        try:
            assert not numpy_agrees(53)
        finally:
            numpy_agrees.cache_clear()


class TestFastLog:
    def test_table_is_what_was_measured(self):
        """Values published with the measurement, to all their digits."""
        table = fast_log_table()
        measured = [8.2004217e-09, 6.827632148542762e-08, 1.2834213691803598e-07, 1.8841804205749213e-07]
        np.testing.assert_array_equal(table[:4].numpy(), np.array(measured, dtype=np.float32))
        assert (len(table), table.dtype) == (LENGTH, torch.float32)
        assert (table.diff() >= 0).all()

    def test_it_lies_within_the_guide_s_bound(self):
        """2^-21.41 absolute; and the relative error beyond the table, with all that the bound is to cover."""
        k = np.arange(1, LENGTH + 1)
        true = -np.log1p(-k * 2.0**-24)
        apart = np.abs(fast_log_table().double().numpy() - true)
        assert apart.max() < 2.0**-21.41
        assert (apart[1 << 20 :] / true[1 << 20 :]).max() < 1e-6
        assert apart[0] / true[0] > 0.85
        beyond = -math.log1p(-(LENGTH + 1) * 2.0**-24)
        assert (2.0**-21.41 + 2.0**-24) / beyond + 2.0**-23 < RELATIVE_BOUND

    def test_pack_and_unpack(self):
        values = fast_log_table().numpy()[:5000]
        assert fast_log.unpack(fast_log.pack(values)).tobytes() == values.tobytes()

    def test_series_is_the_logarithm(self):
        x = np.linspace(0, 1 / 8, 1001)
        np.testing.assert_allclose(fast_log.series(x), -np.log1p(-x), rtol=4e-16, atol=0)

    def test_a_spoilt_table_is_refused(self, monkeypatch, tmp_path):
        with np.load(fast_log.TABLE) as file:
            planes = file["planes"].copy()
        planes[0, 77] ^= 1
        np.savez_compressed(tmp_path / "spoilt.npz", planes=planes)
        monkeypatch.setattr(fast_log, "TABLE", tmp_path / "spoilt.npz")
        with pytest.raises(InputError, match="install the package again"):
            fast_log_table.__wrapped__()
        np.savez_compressed(tmp_path / "spoilt.npz", planes=planes[:, :9])
        with pytest.raises(InputError, match=r"\(4, 2097152\)"):
            fast_log_table.__wrapped__()

    def test_beyond_the_table_it_is_this_machine_s_logarithm(self):
        u = torch.tensor([0.1, 0.5, 0.75, 7 / 8 - 2.0**-24, 7 / 8], dtype=torch.float32)
        e = fast_exponential(u)
        assert torch.equal(e[:4], -torch.log(u[:4]))
        assert e[4] == fast_log_table()[-1]

    def test_smallest_values_and_the_words_they_have(self):
        """Exact: 383 words at 2^-24 (k = 1 and u = 1), then 257 and 255 by turns, as 5.4e9 draws of an H100
        had it."""
        top = torch.arange((1 << 32) - 4096, 1 << 32)
        values, counts = TORCH_CUDA_EXPONENTIAL["fp32"].from_words(top).unique(return_counts=True)
        assert values[:3].tolist() == [2.0**-24, 6.827632148542762e-08, 1.2834213691803598e-07]
        assert counts[:5].tolist() == [383, 257, 255, 257, 255]

    def test_the_bound_covers_what_it_says(self):
        """A race of three tokens whose exponentials are off by up to r in the worst pattern keeps its law to
        2 r."""
        weights = np.array([0.6, 0.3, 0.1])
        exact = grid(14, centred=True, format=FP32).atoms().push(lambda u: -np.log(u))
        r = 2.0**-8
        base = argmax_law(weights, exact, combine="divide", score=FP32).probs
        for sign in np.eye(3) * 2 - 1:
            other = argmax_law(weights * (1 + r * sign), exact, combine="divide", score=FP32).probs
            assert 0 < np.abs(other - base).max() < 2 * r


# What an H100 drew: P(tail) over its true value and one standard deviation, by gap, of argmax(p /
# exponential_()) and of torch.multinomial (245,760 draws at 14, 184,320 at 15, 76,800 at 16, 28,800 at 17;
# torch 2.11.0+cu130).
DRAWN = {
    14: ((1.04056, 0.00649), (1.04992, 0.00652)),
    15: ((1.11092, 0.00772), (1.10495, 0.00770)),
    16: ((1.13581, 0.01208), (1.14454, 0.01212)),
    17: ((0.77497, 0.01659), (0.78872, 0.01672)),
}


def tail_ratio(sampler: str, gap: int) -> tuple[float, Law]:
    """P(tail) over its true value: a head at 0 and round(0.1 e^gap) tokens at -gap."""
    tokens = round(0.1 * math.exp(gap))
    logits = torch.full((tokens + 1,), -float(gap))
    logits[0] = 0
    law = SAMPLERS[sampler].law(logits)
    true = tokens * math.exp(-gap) / (1 + tokens * math.exp(-gap))
    return float(law.probs[1:].sum()) / true, law


@pytest.mark.slow  # a table of 39 million atoms
class TestTheTailOnCuda:
    @pytest.mark.parametrize("gap", DRAWN)
    def test_the_law_is_what_a_gpu_drew(self, gap):
        """Within 4 standard deviations of both; the data are fixed, so it fails always or never. The accurate
        logarithm gives 0.998, 0.984, 0.905, 0.589: off by 6 to 19 of them."""
        ratio, law = tail_ratio("torch_cuda_race_fp32", gap)
        for drawn, deviation in DRAWN[gap]:
            assert abs(ratio - drawn) < 4 * deviation
        assert law.guarantee is Guarantee.EMULATED or torch.cuda.is_available()

    def test_the_bound_of_the_guide_is_in_the_error(self):
        _, law = tail_ratio("torch_cuda_race_fp32", 14)
        assert 2 * RELATIVE_BOUND <= law.error < 2.1 * RELATIVE_BOUND

    def test_compilation_changes_the_law(self):
        """No table of __logf and 31 bits: the tail is lost where the eager race finds too much of it."""
        for name in ("torch_compiled_race_fp32", "torch_compiled_gumbel_fp32"):
            ratio, law = tail_ratio(name, 15)
            assert 0.8 < ratio < 0.85
            assert law.error < 1e-9


class TestCompiled:
    """Inductor's published code, word by word."""

    def test_rand(self):
        words = torch.tensor([0, 1, 2, (1 << 31) - 1])
        step = float(np.float32(SCALE))
        assert COMPILED_RAND.from_words(words).tolist() == [0.0, step, 2 * step, 1 - 2.0**-24]
        assert step == 4.6566125955216364e-10  # the least that an H100 drew

    def test_exponential(self):
        """The least values that an H100 drew, the guard at the top, and +inf at u = 0."""
        words = (1 << 31) - torch.tensor([1, 128, 256])  # u = 1 - k 2^-24, k = 1, 2, 3
        e = COMPILED_EXPONENTIAL.from_words(words)
        assert e[0] == 2.0**-24
        np.testing.assert_allclose(e.double().numpy(), [2.0**-24, 2.0**-23, 3 * 2.0**-24], rtol=3e-7)
        assert COMPILED_EXPONENTIAL.from_words(torch.tensor([0])).tolist() == [math.inf]

    def test_inductor_s_reference_is_the_same_map(self):
        """torch._refs.exponential, which inductor lowers, on the same uniforms: bit for bit."""
        u = COMPILED_RAND.from_words(torch.randint(0, 1 << 31, (4096,), generator=seeded(1)))
        condition = u >= 1.0 - torch.finfo(u.dtype).eps / 2
        expected = -1 / 1 * torch.where(condition, -torch.finfo(u.dtype).eps / 2, torch.log(u))
        words = torch.randint(0, 1 << 31, (4096,), generator=seeded(1))
        assert torch.equal(COMPILED_EXPONENTIAL.from_words(words), expected)


@pytest.fixture
def small() -> Atoms:
    return Atoms.of(np.array([-math.inf, 0.0, 0.5, 1.5]), np.array([1, 2, 4, 9]), 4)


class TestTables:
    def test_there_and_back(self, small, tmp_path):
        small.save(tmp_path / "t.npz", {"device": "a", "what": "b"})
        atoms, metadata = Atoms.load(tmp_path / "t.npz")
        assert atoms.sha256() == small.sha256() == metadata["sha256"]
        assert (metadata["device"], metadata["what"]) == ("a", "b")
        assert (atoms.values.dtype, atoms.counts.dtype) == (np.float64, np.int64)

    def test_values_that_float32_lacks_are_kept(self, tmp_path):
        atoms = Atoms.of(np.array([0.1, 0.2]), np.array([1, (1 << 40) - 1]), 40)
        atoms.save(str(tmp_path / "t.npz"), {})
        assert Atoms.load(str(tmp_path / "t.npz"))[0].sha256() == atoms.sha256()

    def test_nothing_is_left_where_writing_fails(self, small, tmp_path):
        with pytest.raises(InputError, match="strings and finite numbers"):
            small.save(tmp_path / "t.npz", {"x": object()})
        with pytest.raises(InputError, match=r"ends in \.npz"):
            small.save(tmp_path / "t.npy", {})
        assert list(tmp_path.iterdir()) == []

    def write(self, path, **changes) -> None:
        """A sound table, with some of its arrays changed."""
        text = json.dumps({"sha256": self.sound.sha256(), "format": "fp32"}).encode()
        arrays = {
            "values": self.sound.values,
            "counts": self.sound.counts,
            "bits": np.array(4, dtype=np.int64),
            "metadata": np.frombuffer(text, dtype=np.uint8),
        }
        arrays.update(changes)
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})

    @pytest.fixture(autouse=True)
    def a_sound_table(self, small):
        self.sound = small

    def test_the_sound_one_passes(self, tmp_path):
        self.write(tmp_path / "t.npz")
        assert Atoms.load(tmp_path / "t.npz")[0].sha256() == self.sound.sha256()

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"values": np.array([-math.inf, 0.0, math.nan, 1.5])}, "NaN"),
            ({"values": np.array([0.0, -1.0, 0.5, 1.5])}, "unsorted"),
            ({"counts": np.array([1, 2, 4, 8])}, "sum to 15"),
            ({"counts": np.array([1, 2, 4])}, "one count per value"),
            ({"counts": np.array([1.0, 2, 4, 9])}, "counts of dtype <f8"),
            ({"values": np.array([1, 2, 3, 4])}, "values of dtype <i8"),
            ({"values": np.array([0, 1, 2, 3], dtype=object)}, r"values of dtype \|O"),
            ({"bits": np.array(5)}, r"2\^5"),
            ({"bits": np.array([4])}, "without bits"),
            ({"bits": np.array(-1)}, "bits = -1"),
            ({"values": np.array([-math.inf, 0.0, 0.25, 1.5])}, "of sha256"),
            ({"metadata": np.frombuffer(b"{}", dtype=np.uint8)}, "expected None"),
            ({"metadata": np.frombuffer(b"[1]", dtype=np.uint8)}, "without bits and metadata"),
            ({"metadata": np.frombuffer(b"{\xff", dtype=np.uint8)}, "metadata in JSON"),
            ({"metadata": None}, "holds bits.npy"),
            ({"more": np.zeros(1)}, "holds bits.npy"),
        ],
    )
    def test_what_is_not_a_table_is_refused(self, tmp_path, changes, said):
        self.write(tmp_path / "t.npz", **changes)
        with pytest.raises(InputError, match=said):
            Atoms.load(tmp_path / "t.npz")

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99])
    def test_a_file_cut_short_is_refused(self, tmp_path, share):
        self.write(tmp_path / "t.npz")
        data = (tmp_path / "t.npz").read_bytes()
        (tmp_path / "t.npz").write_bytes(data[: int(share * len(data))])
        with pytest.raises(InputError, match="restore the file"):
            Atoms.load(tmp_path / "t.npz")

    @pytest.mark.parametrize("shape", ["(1152921504606846976,)", "(-1,)", "(4294967296, 4294967296)"])
    def test_a_hostile_header_is_refused_before_anything_is_read(self, tmp_path, shape):
        self.write(tmp_path / "t.npz")
        header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        with zipfile.ZipFile(tmp_path / "t.npz") as archive:
            held = {name: archive.read(name) for name in archive.namelist()}
        held["values.npy"] = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
        with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
            for name, data in held.items():
                archive.writestr(name, data)
        with pytest.raises(InputError, match="values of shape"):
            Atoms.load(tmp_path / "t.npz")

    def test_other_names_are_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"ends in \.npz"):
            Atoms.load(tmp_path / "t.pkl")
        with pytest.raises(InputError, match="no file"):
            Atoms.load(tmp_path / "t.npz")
        (tmp_path / "t.npz").mkdir()
        with pytest.raises(InputError, match="no file"):
            Atoms.load(tmp_path / "t.npz")


class TestTableSource:
    @pytest.fixture
    def source(self, small, tmp_path) -> TableSource:
        here = {
            "device": agreement.device_name("cpu"),
            "torch": torch.__version__,
            "format": "fp16",
            "what": "a table",
        }
        small.save(tmp_path / "t.npz", here)
        return TableSource.load(tmp_path / "t.npz")

    def test_each_word_has_its_value(self, source, small):
        every = source.from_words(torch.arange(16))
        assert every.dtype is torch.float16
        np.testing.assert_array_equal(every.double().numpy(), np.repeat(small.values, small.counts))
        assert source.atoms().sha256() == small.sha256()
        law = source.push(torch.relu)
        assert (law.values.tolist(), law.counts.tolist()) == ([0.0, 0.5, 1.5], [3, 4, 9])

    def test_draws_by_both_generators(self, source):
        """600 draws of each: every value of at least 2/16 is seen; false-fail rate below 3 (7/8)^600 <
        1e-34."""
        for rng in (seeded(1), np.random.default_rng(1)):
            drawn = source.draw((600,), rng=rng)
            assert {0.0, 0.5, 1.5} <= set(drawn.tolist())

    def test_emulated_unless_measured_here(self, source, small):
        assert source.emulated is None
        for change in ({"device": "NVIDIA X, compute capability 9.0"}, {"torch": "2.0.0"}):
            other = TableSource("a table", FP16, 4, "", small, {**source.metadata, **change})
            device = change.get("device", source.metadata["device"])
            assert other.emulated.startswith(f"a table, measured on {device}, torch ")
            assert other.emulated.endswith("; not confirmed here")

    def test_what_does_not_fit_is_refused(self, small, tmp_path):
        with pytest.raises(InputError, match="4 bits"):
            TableSource("x", FP16, 5, "", small)
        tenth = Atoms.of(np.array([0.1, 0.2]), 1, 1)
        with pytest.raises(InputError, match="fp16 does not hold"):
            TableSource("x", FP16, 1, "", tenth)
        tenth.save(tmp_path / "t.npz", {"format": "fp8"})
        with pytest.raises(InputError, match="format 'fp8'"):
            TableSource.load(tmp_path / "t.npz")


class TestMeasure:
    @pytest.mark.parametrize(("op", "dtype"), [("gumbel", "bf16"), ("rand", "fp16"), ("exponential_", "bf16")])
    def test_a_table_of_this_machine(self, tmp_path, op, dtype):
        row = measure.measure(op, dtype, "cpu", tmp_path / "t.npz")
        source = TableSource.load(tmp_path / "t.npz")
        assert source.emulated is None
        assert source.atoms().sha256() == row["sha256"]
        assert (source.dtype, row["torch"]) == (DTYPES[dtype], torch.__version__)
        call, noise_of = measure.FORMULAS[op]
        assert source.atoms().sha256() == confirmed(call, DTYPES[dtype]).push(noise_of).sha256()

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("randn", "fp32", "cpu", "t.npz"), "rand, exponential_, gumbel, race"),
            (("rand", "fp8", "cpu", "t.npz"), "fp16, bf16, fp32, fp64"),
            (("rand", "fp16", "cpu", "t.csv"), r"ends in \.npz"),
            (("exponential_", "fp32", "cpu", "t.npz"), r"2\^53 words"),
        ],
    )
    def test_bad_input_leaves_nothing(self, tmp_path, arguments, said):
        op, dtype, device, name = arguments
        with pytest.raises(InputError, match=said):
            measure.measure(op, dtype, device, tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is at hand")
    def test_without_cuda(self, tmp_path):
        with pytest.raises(InputError, match="a CUDA device that torch sees"):
            measure.measure("exponential_", "fp32", "cuda", tmp_path / "t.npz")

    @pytest.mark.parametrize("format", ["fp16", "bf16", "fp32"])
    def test_the_exponential_of_a_device_is_the_published_one(self, monkeypatch, format):
        """With a logarithm of ours in place of the device's: guard, cast and all are the source's."""
        monkeypatch.setattr(torch.cuda.jiterator, "_create_jit_fn", lambda code: fast_exponential)
        source = TORCH_CUDA_EXPONENTIAL[format]
        there = measure.OnDevice(source.name, source.format, 32, "cpu", source, measure.unchanged)
        words = torch.cat([torch.arange(2000), torch.arange((1 << 32) - 2000, 1 << 32)])
        assert torch.equal(there.from_words(words), source.from_words(words))

    def test_the_blocks_that_a_device_is_given_are_every_word(self):
        """The same object with this CPU as its device has the law of the source; half precision keeps it
        small."""
        source = TORCH_CUDA_RAND["bf16"]
        there = measure.OnDevice(source.name, source.format, 32, "cpu", source, measure.unchanged)
        assert there.atoms().sha256() == source.atoms().sha256()


@pytest.mark.slow  # ten seconds of compilation
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
class TestInductorOnThisCPU:
    def test_compiled_draws_are_of_the_grid(self):
        """Exact in one direction: each of 2^20 compiled draws is a value of the source, which has 70 million
        of some 10^9 floats in [0, 1); a third of them are on no 24-bit grid."""
        torch.manual_seed(1)
        u = torch.compile(torch.rand_like)(torch.empty(1 << 20))
        nearest = (u.double() / float(np.float32(SCALE))).round().long()
        shifts = torch.tensor([0, -128, -64, -32, -16, -8, -4, -2, -1, 1, 2, 4, 8, 16, 32, 64, 128])
        words = (nearest[:, None] + shifts).clamp(0, (1 << 31) - 1)
        assert (COMPILED_RAND.from_words(words) == u[:, None]).any(dim=1).all()
        assert 0.2 < float(((u.double() * 2.0**24) % 1 != 0).double().mean()) < 0.5

    def test_compiled_exponentials_are_of_the_grid(self):
        """1 - e^-E is on the grid to the rounding of float32, and values below 2^-8 are -log(1 - k 2^-24)."""
        torch.manual_seed(2)
        e = torch.compile(lambda x: torch.empty_like(x).exponential_())(torch.empty(1 << 20)).double()
        small = e[e < 2.0**-8]
        k = -torch.expm1(-small) * 2.0**24
        assert len(small) > 3000
        assert float((k - k.round()).abs().max()) < 0.02
