"""A law against its target as the command line prints it: uses, steps of masked diffusion, functions and
their words."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch

from precision_lab import __main__ as command_line
from precision_lab.compare import compare, in_use
from precision_lab.devices import checked, of_run
from precision_lab.errors import InputError
from precision_lab.explain import explained, given_logits
from precision_lab.laws.lattice import reach, tail_ratio_of_atoms
from precision_lab.laws.law import Law, target_law
from precision_lab.laws.process import lattice_step
from precision_lab.samplers import SAMPLERS, resolve
from precision_lab.statistics.unmasking import unmasking
from precision_lab.targets import Target, parse_target
from precision_lab.targets.synthetic import zipf
from precision_lab.types import Guarantee

HALF = """
import torch

def sample(logits, n, *, generator):
    row = logits.bfloat16()
    u = torch.rand(n, *row.shape, generator=generator, dtype=row.dtype)
    return (row - torch.log(-torch.log(u))).argmax(-1)

def of_probs(probs, n, *, generator):
    return torch.multinomial(probs, n, replacement=True, generator=generator).T
"""


@pytest.fixture
def cli(monkeypatch, capsys):
    """``cli("law", ...)`` -> (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["precision-lab", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            command_line.main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(HALF)
    return path


class TestInUse:
    def test_next_token_leaves_the_target(self):
        target = parse_target("zipf[vocab=10]")
        assert in_use(target, "lm") is target

    def test_a_step_has_the_mask_last_with_the_rest(self):
        step = in_use(parse_target("zipf[vocab=10]"), "mdm:100")
        probs = np.exp(step.logits)
        assert step.mask == 10
        assert probs[-1] == pytest.approx(0.99, rel=1e-12)
        assert probs[:-1] / probs[:-1].sum() == pytest.approx(np.exp(zipf(10)), rel=1e-12)

    @pytest.mark.parametrize("use", ["mdm", "mdm:0", "mdm:-3", "mdm:x", "tokens", ""])
    def test_others_are_refused(self, use):
        with pytest.raises(InputError, match="mdm:N"):
            in_use(parse_target("zipf[vocab=10]"), use)

    def test_a_step_of_a_step_is_refused(self):
        with pytest.raises(InputError, match="a step already"):
            in_use(parse_target("mdm_step[vocab=10]"), "mdm:8")


class TestUnmasking:
    def test_the_target_itself_changes_nothing(self):
        target = target_law(in_use(parse_target("zipf[vocab=50]"), "mdm:20").logits)
        found = unmasking(target, target)
        assert found.multiplier == pytest.approx(1.0, rel=1e-12)
        assert found.temperature == pytest.approx(1.0, rel=1e-9)
        assert found.entropy_lost == pytest.approx(0.0, abs=1e-12)

    def test_the_lattice_by_its_own_masses(self):
        """Multiplier, entropy and temperature of a law given in closed form, each computed here from its
        definition."""
        log_p = zipf(5000)
        r = 1 / 4096
        q = lattice_step(log_p, r)
        with np.errstate(divide="ignore"):
            law = Law(np.log(np.append(q, 1 - q.sum())), "closed form", 1e-9, Guarantee.CERTIFIED)
        target = target_law(in_use(Target("zipf", log_p, "test"), "mdm:4096").logits)
        found = unmasking(law, target)
        token = q / q.sum()
        p = np.exp(log_p)
        assert found.multiplier == pytest.approx(q.sum() / r, rel=1e-10)
        lost = -(p * np.log(p)).sum() + (token * np.log(token)).sum()
        assert found.entropy_lost == pytest.approx(lost, rel=1e-9)
        powered = p ** (1 / found.temperature)
        powered /= powered.sum()
        assert (powered * log_p).sum() == pytest.approx((token * log_p).sum(), rel=1e-7)
        assert found.multiplier < 1
        assert found.temperature < 1

    def test_laws_that_never_unmask_are_refused(self):
        never = Law(np.array([-np.inf, -np.inf, 0.0]), "mask", 0.0, Guarantee.EXACT)
        some = target_law(np.log([0.25, 0.25, 0.5]))
        for law, target in ((never, some), (some, never)):
            with pytest.raises(InputError, match="never unmasks"):
                unmasking(law, target)

    def test_other_vocabularies_are_refused(self):
        with pytest.raises(InputError, match="same target"):
            unmasking(target_law(np.zeros(3)), target_law(np.zeros(4)))


class TestTailRatio:
    def test_the_grid_of_a_uniform(self):
        """k 2^-b, k = 1, 2, ...: the closed form y / (e^y - 1), and (1 + e^-gap) for the head's own share."""
        bits = 20
        values = np.arange(1, 1 << 18) * 2.0**-bits
        gaps = np.array([9.0, 11.0, 13.0, 14.0])
        found = tail_ratio_of_atoms(values, np.full(len(values), 2.0**-bits), gaps)
        assert found == pytest.approx(reach(gaps, bits) * (1 + np.exp(-gaps)), rel=1e-6)

    def test_masses_above_one_are_refused(self):
        with pytest.raises(InputError, match="probabilities"):
            tail_ratio_of_atoms(np.ones(3), np.full(3, 0.5), np.array([1.0]))


class TestGivenLogits:
    def test_functions_get_their_dtype_and_recipes_all_digits(self, mine):
        target = parse_target("zipf[vocab=10]")
        function = resolve(f"{mine}:sample")
        assert given_logits(function, target, "bfloat16").dtype is torch.bfloat16
        assert given_logits(SAMPLERS["gumbel_max_bf16"], target, "bfloat16").dtype is torch.float64

    def test_other_dtypes_are_refused(self, mine):
        with pytest.raises(InputError, match="float16, bfloat16, float32, float64"):
            given_logits(resolve(f"{mine}:sample"), parse_target("zipf[vocab=10]"), "int8")


class TestDevices:
    def test_cpu_is_the_default(self, monkeypatch):
        monkeypatch.delenv("PRECISION_LAB_DEVICE", raising=False)
        assert of_run() == "cpu"

    def test_unknown_devices_are_refused(self):
        with pytest.raises(InputError, match="cpu or cuda"):
            checked("tpu")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
    @pytest.mark.parametrize(
        "arguments",
        [
            ("law", "--sampler", "gumbel_max_bf16", "--target", "zipf"),
            ("explain", "gumbel_max_bf16"),
            ("check", "gumbel_max_bf16"),
            ("run", "noise_ceiling"),
            ("bench", "--vocab", "64"),
            ("choose", "--vocab", "64"),
            ("capture",),
        ],
        ids=lambda arguments: arguments[0],
    )
    def test_cuda_that_is_not_there_is_one_line(self, cli, arguments):
        code, out, err = cli(*arguments, "--device", "cuda")
        assert (code, out) == (2, "")
        assert err.startswith("error: got device cuda; expected a CUDA device")
        assert err.count("\n") == 1


class TestCommands:
    def test_law_of_a_function_is_that_of_its_recipe(self, cli, mine):
        """The same arithmetic as a function and as a literal: the same distances, to the last digit printed."""
        target = "zipf[vocab=300]"
        code, out, _ = cli(
            "law", "--sampler", f"{mine}:sample", "--target", target, "--dtype", "float64", "-f", "json"
        )
        read = json.loads(out)
        assert code == 0
        _, out, _ = cli("law", "--sampler", "gumbel_max_bf16", "--target", target, "-f", "json")
        declared = json.loads(out)
        for quantity in (
            "total_variation",
            "kl_divergence",
            "effective_temperature",
            "unreachable_tokens",
            "guarantee",
        ):
            assert read[quantity] == pytest.approx(declared[quantity]) if quantity != "guarantee" else True
        assert read["guarantee"] == declared["guarantee"]
        assert "confirmed by" in read["how"]

    def test_a_step_has_its_three_numbers(self, cli):
        code, out, _ = cli(
            "law",
            "--sampler",
            "gumbel_max_bf16",
            "--target",
            "zipf[vocab=300]",
            "--for",
            "mdm:64",
            "-f",
            "json",
        )
        row = json.loads(out)
        assert code == 0
        assert 0 < row["unmask_multiplier"] < 1
        assert 0 < row["token_temperature"] < 1
        assert row["token_entropy_lost"] > 0
        _, out, _ = cli(
            "law",
            "--sampler",
            "gumbel_max_bf16",
            "--target",
            "mdm_step[vocab=300,unmask=0.015625]",
            "-f",
            "json",
        )
        assert json.loads(out)["unmask_multiplier"] == pytest.approx(row["unmask_multiplier"], rel=1e-9)

    @pytest.mark.parametrize("form", ["table", "md", "json"])
    def test_explain_in_every_form(self, cli, mine, form):
        code, out, err = cli("explain", f"{mine}:sample", "-f", form)
        assert (code, err) == (0, "")
        for word in ("bfloat16", "log(-log(u))", "argmax", "the first index wins", "ceiling"):
            assert word in out

    def test_one_draw_and_several_of_multinomial(self, cli, mine):
        """torch.multinomial draws one token by a race and several by a cumulative sum."""
        for draws, kind in (("1", "exponential race"), ("2", "cumulative sum")):
            _, out, _ = cli("explain", f"{mine}:of_probs", "--takes", "probs", "--draws", draws, "-f", "json")
            assert kind in json.loads(out)["kind"]

    def test_takes_is_for_functions(self, cli):
        code, _, err = cli("law", "--sampler", "gumbel_max_bf16", "--target", "zipf", "--takes", "probs")
        assert code == 2
        assert "leave --takes out" in err

    def test_explain_of_a_recipe_says_what_it_declares(self):
        row = explained(SAMPLERS["torch_cuda_race_fp32"])
        assert row["bits_per_draw"] == 32 * 1000
        assert "confirmed" not in row["arithmetic"]

    def test_an_id_beyond_the_logits_is_in_the_law(self):
        """A gate that leaves the id 5 of five tokens: the law has six, and the target gives the sixth
        nothing."""

        def sample(logits, n, *, generator):
            u = torch.rand(n, *logits.shape, generator=generator, dtype=torch.bfloat16)
            tokens = (logits.bfloat16() - torch.log(-torch.log(u))).argmax(-1)
            stays = torch.rand(n, len(logits), generator=generator) >= 0.25
            return torch.where(stays, logits.shape[-1], tokens)

        row = compare(resolve(sample), Target("flat", np.zeros(5), "test"))
        assert row["vocab"] == 6
        assert row["total_variation"] >= 0.75 - 1e-6
        assert math.isinf(row["kl_divergence"])


def test_logits_that_the_dtype_cannot_hold():
    """70000 is inf in float16; a mask of -1e9 becomes -inf, as it does in a model, and is let through."""
    target = Target("high", np.array([70000.0, 0.0]), "synthetic")
    function = resolve(lambda logits: torch.multinomial(logits.softmax(-1), 1))
    with pytest.raises(InputError, match=r"70000 in float16; expected at most 65504; subtract"):
        given_logits(function, target, "float16")
    assert given_logits(function, target, "bfloat16").isfinite().all()
    masked = given_logits(function, Target("masked", np.array([0.0, -1e9]), "synthetic"), "float16")
    assert masked.tolist() == [0, -math.inf]


def test_a_token_that_is_masked_is_not_called_unreachable():
    """The target forbids two; a float32 cumulative sum cannot reach two more, 40 nats down."""
    row = np.array([0.0, -1.0, -np.inf, -np.inf, -40.0, -40.5])
    found = compare(SAMPLERS["inverse_cdf_fp32"], Target("row", row, "test"))
    assert found["unreachable_tokens"] == 2
