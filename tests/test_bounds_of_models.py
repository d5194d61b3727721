"""Bounds and captures of other people's models: the number that training minimises, by mathematics on
tables."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from judging import statistical
from test_strange_networks import WORDS, saved
from typer.testing import CliRunner

from precision_lab.__main__ import app
from precision_lab.errors import InputError
from precision_lab.mdm.adapters import Adapted, llada, mdlm
from precision_lab.mdm.bound import Windows, bound_of, windows_of
from precision_lab.mdm.capture import capture_mdm
from precision_lab.mdm.evaluate import validation_bound
from precision_lab.mdm.loss import continuous_bound

WIDTH, MASK = 11, 4
ROW = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
LOG_P = torch.cat([ROW[:MASK], torch.tensor([-torch.inf]), ROW[MASK + 1 :]]).log_softmax(
    -1
)  # by the model's ids
IDS = torch.tensor([i for i in range(WIDTH) if i != MASK])


def constant(kind: str) -> Adapted:
    """Tokens are independent: the bound is the cross-entropy itself."""
    if kind == "mdlm":
        return mdlm(lambda ids, s: ROW.expand(*ids.shape, WIDTH), width=WIDTH, mask_id=MASK)
    if kind == "timed":
        return Adapted(lambda ids, t: ROW.expand(*ids.shape, WIDTH), width=WIDTH, mask_id=MASK, timed=True)
    return llada(lambda ids: ROW.expand(*ids.shape, WIDTH), width=WIDTH, mask_id=MASK)


def text(batch: int, length: int) -> torch.Tensor:
    at = torch.randint(len(IDS), (batch, length), generator=torch.Generator().manual_seed(1))
    return IDS[at]


@pytest.mark.parametrize("kind", ["llada", "mdlm", "timed"])
class TestBounds:
    @statistical(false_fail=1e-9)
    def test_are_the_cross_entropy_of_independent_tokens(self, kind):
        """3,200 sequences, the continuous one within 7 standard errors (3e-12); the discrete one has the
        masked tokens' mean."""
        tokens = text(8, 16)
        due = float(-LOG_P[tokens].mean())
        network = constant(kind)
        rng = torch.Generator().manual_seed(2)
        found = torch.stack([continuous_bound(network, tokens, rng=rng).mean() for _ in range(400)])
        assert abs(float(found.mean()) - due) < 7 * float(found.std()) / 20
        many = text(400, 16)
        value, error = validation_bound(network, many, seed=3)
        assert abs(value + float(LOG_P[many].mean())) < 7 * error

    @statistical(false_fail=1e-9)
    def test_of_an_answer_given_a_prompt(self, kind):
        """Only the answer counts, and the prompt is never masked."""
        tokens = text(8, 12)
        tokens[:, :7] = IDS[LOG_P[IDS].argmin()]  # a prompt that alone would cost more
        answer = torch.zeros(8, 12, dtype=torch.bool)
        answer[:, 7:] = True
        seen = []
        network = constant(kind)
        inner = network.forward
        network.forward = lambda ids, *t: (seen.append(ids.clone()), inner(ids, *t))[1]
        rng = torch.Generator().manual_seed(4)
        found = torch.stack(
            [continuous_bound(network, tokens, rng=rng, answer=answer).mean() for _ in range(400)]
        )
        due = float(-LOG_P[tokens[answer]].mean())
        assert abs(float(found.mean()) - due) < 7 * float(found.std()) / 20
        assert all(torch.equal(ids[:, :7], tokens[: len(ids), :7]) for ids in seen)
        wrong = float(-LOG_P[tokens].mean())
        assert abs(float(found.mean()) - wrong) > 0.05  # what a bound of everything would be

    def test_captures_are_in_the_models_ids(self, kind):
        taken = capture_mdm(constant(kind), text(6, 10), rows=5, rng=np.random.default_rng(0))
        assert taken.logits.shape == (5, WIDTH)
        assert np.isneginf(taken.logits[:, MASK]).all()
        np.testing.assert_allclose(np.delete(taken.logits[0], MASK), (ROW[IDS] - ROW[IDS].max()).half().numpy())
        assert set(taken.tokens) <= set(IDS.tolist())

    def test_what_has_no_bound(self, kind):
        network = constant(kind)
        tokens = text(4, 8)
        tokens[1, 2] = MASK
        with pytest.raises(InputError, match="never gives, such as the id 4"):
            validation_bound(network, tokens.repeat(20, 1), seed=0)
        with pytest.raises(InputError, match="answer of shape"):
            continuous_bound(
                network, text(4, 8), rng=torch.Generator(), answer=torch.zeros(4, 8, dtype=torch.bool)
            )
        with pytest.raises(InputError, match="use its tokenizer"):
            continuous_bound(network, torch.full((4, 8), -100), rng=torch.Generator())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("bert")
    saved(found, "Bert", True)
    return found


class TestCommand:
    def test_a_folder_and_a_text(self, folder, tmp_path):
        """[CLS] and [SEP] stand around every window and are no part of the bound."""
        path = tmp_path / "x.txt"
        path.write_text("w1 w2 w3 w4 w5 w6 w7\nw8 w9 w10 w11 w12 w13\n" * 6)
        windows = windows_of(folder, path, 12, False)
        cls, sep = WORDS.index("[CLS]"), WORDS.index("[SEP]")
        assert windows.tokens.shape == (7, 12)
        assert (windows.tokens[:, 0] == cls).all()
        assert (windows.tokens[:, -1] == sep).all()
        assert windows.answer[0].tolist() == [False, *[True] * 10, False]
        done = CliRunner().invoke(app, ["bound", str(folder), str(path), "--length", "12", "-f", "json"])
        assert done.exit_code == 0
        value = json.loads(done.stdout)["value"]
        assert 0 < value < 3 * math.log(len(WORDS))
        short = CliRunner().invoke(app, ["bound", str(folder), str(path), "--length", "25"])
        assert isinstance(short.exception, InputError)

    def test_is_the_mean_over_windows(self):
        tokens = text(40, 9)
        found = bound_of(
            constant("llada"), Windows(tokens, torch.ones_like(tokens, dtype=torch.bool)), passes=8, seed=0
        )
        assert found.n == 40
        assert found.low - 0.3 < float(-LOG_P[tokens].mean()) < found.high + 0.3
