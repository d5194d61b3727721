"""Published processors: against the library itself where it is installed, against their own rules, and
their faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from precision_lab.__main__ import app
from precision_lab.errors import InputError
from precision_lab.pipelines import parse_pipeline
from precision_lab.pipelines.faults import FAULTS, between, order_rows
from precision_lab.pipelines.published import PROCESSORS, Settings, one_after_another

MODELS = Path(__file__).parent.parent / "models"


@st.composite
def rows(draw, dtype=torch.float32):
    """(3, vocab) logits with ties, in a dtype."""
    vocab = draw(st.integers(2, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.normal(size=(3, vocab)) * 3
    if draw(st.booleans()):
        values = np.round(values)
    return torch.from_numpy(values).to(dtype)


@st.composite
def asked(draw):
    return Settings(
        draw(st.sampled_from([None, 0.7, 1.3])),
        draw(st.sampled_from([None, 1, 3, 7, 100])),
        draw(st.sampled_from([None, 0.1, 0.5, 0.9, 0.99])),
        draw(st.sampled_from([None, 0.01, 0.2])),
    )


class TestAgainstTheLibrary:
    @settings(max_examples=150, deadline=None)
    @given(st.data(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    def test_hugging_face_bit_for_bit(self, data, dtype):
        process = pytest.importorskip("transformers.generation.logits_process")
        logits = data.draw(rows(dtype))
        wanted = data.draw(asked())
        scores = logits.clone()
        made = [
            (wanted.temperature, process.TemperatureLogitsWarper),
            (wanted.top_k, process.TopKLogitsWarper),
            (wanted.top_p, process.TopPLogitsWarper),
            (wanted.min_p, process.MinPLogitsWarper),
        ]
        for value, kind in made:
            if value is not None:
                scores = kind(value)(None, scores)
        assert torch.equal(PROCESSORS["huggingface"](logits, wanted), scores)


class TestAgainstTheirOwnRules:
    @pytest.mark.parametrize("name", sorted(set(PROCESSORS) - {"without_the_shift"}))
    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_in_float32_they_do_what_their_rules_mean(self, name, data):
        """One of the laws that rounding allows, for every row; and never a token less than one."""
        processor = PROCESSORS[name]
        logits = data.draw(rows())
        wanted = data.draw(asked())
        if name == "megatron" and wanted.top_k is not None:
            wanted = Settings(wanted.temperature, wanted.top_k)  # top-k or top-p
        meant = processor.meaning(wanted)
        kept = (processor(logits, wanted) > -np.inf).numpy()
        assert kept.any(axis=1).all()
        for row, got in zip(logits.double().numpy(), kept, strict=True):
            allowed = meant.laws_in_doubt(row, "float32", limit=50_000)
            assert tuple(got) in {tuple(law.probs > 0) for law in allowed}

    @pytest.mark.parametrize("name", sorted(PROCESSORS))
    def test_the_law_after_them_is_the_one_meant(self, name):
        """To the rounding of float32, on a row with nothing at an edge."""
        row = np.log(np.array([0.4, 0.3, 0.17, 0.08, 0.05]))
        wanted = Settings(temperature=0.8, top_k=4)
        processor = PROCESSORS[name]
        logits = torch.from_numpy(row).float()
        after = processor(logits[None], wanted)[0].double().softmax(-1).numpy()
        assert after == pytest.approx(processor.meaning(wanted).law(logits.double().numpy()).probs, abs=1e-6)

    def test_bad_input(self):
        with pytest.raises(InputError, match="batch"):
            PROCESSORS["vllm"](torch.zeros(3), Settings())
        with pytest.raises(InputError, match="top_p = 0"):
            PROCESSORS["vllm"].meaning(Settings(top_p=0))

    def test_partial_sums_are_rounded(self):
        """256 + 1 is 256 in bfloat16: the sum stops there."""
        ones = torch.ones(1, 600, dtype=torch.bfloat16)
        assert float(one_after_another(ones)[0, -1]) == 256
        assert float(one_after_another(ones.float())[0, -1]) == 600


class TestFaults:
    def test_there_are_ten_and_more(self):
        assert len(PROCESSORS) >= 10
        assert len(FAULTS) >= 10

    @pytest.mark.parametrize(
        "fault", FAULTS, ids=lambda fault: f"{fault.processor}-{fault.dtype}-{fault.what[:20]}"
    )
    def test_each_is_off_what_is_meant(self, fault):
        row = fault.row()
        assert row["tokens_kept"] != row["tokens_meant"]
        assert row["total_variation"] > 0

    def test_the_same_processors_are_right_elsewhere(self):
        """Hugging Face keeps k where no logits tie, and MLX a token where p is not small."""
        logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
        assert int((PROCESSORS["huggingface"](logits, Settings(top_k=2)) > -np.inf).sum()) == 2
        assert int((PROCESSORS["mlx_lm"](logits, Settings(top_p=0.1)) > -np.inf).sum()) == 1

    def test_the_command(self):
        shown = CliRunner().invoke(app, ["gallery", "--pipelines", "-f", "csv"])
        assert shown.exit_code == 0
        assert len(shown.stdout.splitlines()) == 1 + len(FAULTS)


class TestOrders:
    def test_by_hand(self):
        """3, 2, 1 with top_p = 0.8 and T = 0.5: one token, or two whose second has 1 / (1 + e^2)."""
        first, second = (
            parse_pipeline("temperature=0.5 > top_p=0.8"),
            parse_pipeline("top_p=0.8 > temperature=0.5"),
        )
        distance = between(first, second, np.array([[3.0, 2.0, 1.0]]))
        assert distance == pytest.approx([1 / (1 + np.exp(2))])

    def test_on_real_rows(self):
        found = list(order_rows({"smollm2": MODELS / "smollm2" / "logits.safetensors"}))
        assert max(row["largest_total_variation"] for row in found) > 0.05
        assert all(0 <= row["mean_total_variation"] <= row["largest_total_variation"] <= 1 for row in found)


class TestByName:
    """``--pipeline 'vllm: top_k=50'``: the law that a library's rules mean, and its own arithmetic."""

    ROW = torch.log(torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04]))

    @pytest.mark.parametrize("name", [name for name in PROCESSORS if name != "without_the_shift"])
    def test_its_rules_and_its_arithmetic(self, name):
        found = parse_pipeline(f"{name}: temperature=0.7")
        assert str(found) == f"{name}: temperature=0.7"
        assert parse_pipeline(str(found)) == found
        law = found.law(self.ROW.double().numpy()).probs
        if name != "llada":  # whose temperature is in its noise
            assert found.apply(self.ROW).double().softmax(-1).numpy() == pytest.approx(law, abs=1e-6)
        assert found.apply(self.ROW[None]).shape == (1, 6)

    def test_the_order_is_the_librarys(self):
        """llama.cpp cools after top-p, vLLM before it: 2 tokens of mass 0.65 are left, or 1 of 0.70."""
        kept = {
            name: int(parse_pipeline(f"{name}: temperature=0.4, top_p=0.6").kept(self.ROW.numpy()).sum())
            for name in ("llama_cpp", "vllm")
        }
        assert kept == {"llama_cpp": 2, "vllm": 1}

    def test_bad_input(self):
        with pytest.raises(InputError, match="processor"):
            parse_pipeline("vlm: top_k=5")
        with pytest.raises(InputError, match="settings that gpt_fast has: temperature, top_k"):
            parse_pipeline("gpt_fast: top_p=0.9")
        with pytest.raises(InputError, match="settings that vllm has"):
            parse_pipeline("vllm:")
        with pytest.raises(InputError, match="a number"):
            parse_pipeline("vllm: top_k=many")
        with pytest.raises(InputError, match="top_k twice"):
            parse_pipeline("vllm: top_k=5, top_k=6")
        with pytest.raises(InputError, match="setting"):
            parse_pipeline("vllm: topk=5")
