"""Public calling conventions, on miniature networks saved here: what goes in, what is read where, and what
is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from precision_lab import SAMPLERS
from precision_lab.errors import InputError
from precision_lab.laws.process import faithful_step
from precision_lab.mdm.adapters import Adapted, hugging_face, llada, mdlm
from precision_lab.mdm.decode import ancestral, confidence_ordered, event_driven, first_hitting
from precision_lab.mdm.decode.decoded import device_of
from precision_lab.mdm.schedule import COSINE, LINEAR, polynomial

transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
EXACT = SAMPLERS["inverse_cdf_fp64"]
WIDTH, MASK = 9, 4


class Table:
    """Logits that depend on all ids through a random projection; remembers what it was asked."""

    def __init__(self, width: int = WIDTH, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.mix = torch.from_numpy(rng.normal(size=(8, width, width)))
        self.asked: list = []

    def __call__(self, ids, *more):
        self.asked.append((ids.clone(), *more))
        return torch.stack([self.mix[l][ids[:, l]] + self.mix[l][ids].mean(1) for l in range(ids.shape[1])], 1)


def rng():
    return np.random.default_rng(1)


def said(network, tokens, t=None):
    """Log-probabilities everywhere, in our numbering."""
    return network.log_probs(network.hidden(tokens, t))


class TestNumbering:
    def test_there_and_back(self):
        network = Adapted(Table(), width=WIDTH, mask_id=MASK)
        ids = torch.arange(WIDTH)
        assert network.config.mask_id == WIDTH - 1
        assert network.from_public(torch.tensor([MASK])).item() == WIDTH - 1
        assert torch.equal(network.to_public(network.from_public(ids)), ids)

    def test_the_network_sees_its_own_ids_and_the_answer_is_in_ours(self):
        table = Table()
        network = Adapted(table, width=WIDTH, mask_id=MASK)
        public = torch.tensor([[0, MASK, 8]])
        found = said(network, network.from_public(public))
        assert torch.equal(table.asked[0][0], public)
        without = [i for i in range(WIDTH) if i != MASK]
        due = torch.log_softmax(Table()(public)[..., without], -1)
        torch.testing.assert_close(found, due)

    def test_never(self):
        network = Adapted(Table(), width=WIDTH, mask_id=MASK, never=[7, 8])
        found = said(network, torch.zeros(1, 2, dtype=torch.int64)).exp()
        assert (found[..., -2:] == 0).all()
        torch.testing.assert_close(found.sum(-1), torch.ones(1, 2, dtype=torch.float64))

    @pytest.mark.parametrize("decode", ["ancestral", "event_driven", "first_hitting", "confidence"])
    def test_decoders_take_it(self, decode):
        network = Adapted(Table(), width=WIDTH, mask_id=MASK, never=[0])
        size = {"batch": 3, "length": 5, "rng": rng()}
        if decode == "ancestral":
            done = ancestral(network, EXACT, steps=8, **size)
        elif decode == "event_driven":
            done = event_driven(network, faithful_step, steps=8, **size)
        elif decode == "first_hitting":
            done = first_hitting(network, EXACT, **size)
        else:
            done = confidence_ordered(network, EXACT, steps=5, **size)
        assert not torch.isin(done.tokens, torch.tensor([MASK, 0])).any()

    def test_shift(self):
        """The prediction at l is read at l - 1; at 0 from itself."""
        plain, shifted = (Adapted(Table(), width=WIDTH, mask_id=MASK, shift=s) for s in (False, True))
        tokens = torch.tensor([[1, 8, 2, 8]])
        a, b = said(plain, tokens), said(shifted, tokens)
        torch.testing.assert_close(b[:, 1:], a[:, :-1])
        torch.testing.assert_close(b[:, 0], a[:, 0])

    def test_half_precision_logits_are_normalised_in_float32(self):
        network = Adapted(lambda ids: Table()(ids).bfloat16(), width=WIDTH, mask_id=MASK)
        assert network.hidden(torch.zeros(1, 3, dtype=torch.int64)).dtype == torch.bfloat16
        found = said(network, torch.zeros(1, 3, dtype=torch.int64))
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found.double().exp().sum(-1), torch.ones(1, 3, dtype=torch.float64), atol=1e-6, rtol=0
        )


class TestConventions:
    def test_mdlm_is_told_sigma(self):
        table = Table()
        network = mdlm(table, width=WIDTH, mask_id=MASK)
        network.hidden(torch.tensor([[8, 8, 1, 2]]), torch.tensor([0.25]))
        assert torch.equal(table.asked.pop(0)[0], table.asked[0][0])  # the first question is asked twice
        network.hidden(torch.tensor([[8, 8, 8, 2]]), None)
        network.hidden(torch.tensor([[8, 8, 8, 8]]), torch.tensor([1.0]))
        due = [-math.log(1 - 0.999 * 0.25), -math.log(1 - 0.999 * 0.75), -math.log(1e-3)]
        np.testing.assert_allclose([float(a[1]) for a in table.asked], due, rtol=1e-6)

    @pytest.mark.parametrize("schedule", [LINEAR, COSINE, polynomial(3)], ids=lambda s: s.name)
    def test_mdlm_is_told_the_masked_share_not_the_time(self, schedule):
        """In first-hitting decoding the k-th call is made at the share of its hit, whatever the schedule."""
        table = Table()
        network = mdlm(table, width=WIDTH, mask_id=MASK, schedule=schedule)
        network.hidden(torch.tensor([[8, 1]]), torch.tensor([0.5]))
        share = float(schedule.masked(np.array(0.5)))
        assert float(table.asked[0][1]) == pytest.approx(-math.log(1 - 0.999 * share), rel=1e-6)
        first_hitting(network, EXACT, batch=2, length=3, rng=rng(), schedule=schedule)
        plain = Table()
        first_hitting(mdlm(plain, width=WIDTH, mask_id=MASK), EXACT, batch=2, length=3, rng=rng())
        for (_, told), (_, due) in zip(table.asked[2:], plain.asked[1:], strict=True):
            torch.testing.assert_close(told, due, rtol=1e-5, atol=1e-6)

    def test_mdlm_takes_no_schedule_that_is_none(self):
        with pytest.raises(InputError, match="short"):
            mdlm(
                Table(),
                width=WIDTH,
                mask_id=MASK,
                schedule=replace(LINEAR, name="short", masked=lambda t: t / 2),
            )

    def test_llada(self):
        network = llada(lambda ids: SimpleNamespace(logits=Table()(ids)), width=WIDTH, mask_id=6)
        assert said(network, torch.tensor([[8, 1]])).shape == (1, 2, WIDTH - 1)

    def test_subs_throws_the_mask_away_and_without_it_its_mass_is_refused(self):
        tokens = torch.tensor([[8, 1]])
        said(Adapted(Table(), width=WIDTH, mask_id=MASK), tokens)
        with pytest.raises(InputError, match="on the mask"):
            said(Adapted(Table(), width=WIDTH, mask_id=MASK, subs=False), tokens)

        def none_on_it(ids):
            return Table()(ids).index_fill(-1, torch.tensor([MASK]), -torch.inf)

        said(Adapted(none_on_it, width=WIDTH, mask_id=MASK, subs=False), tokens)


class TestDevice:
    """Where the module lies; ``meta`` stands in for an accelerator."""

    def test_a_module_or_its_method_tells(self):
        module = torch.nn.Linear(2, 2, device="meta")
        size = {"width": WIDTH, "mask_id": MASK}
        for forward in (module, module.forward):
            for network in (Adapted(forward, **size, never=[1]), mdlm(forward, **size), llada(forward, **size)):
                assert device_of(network).type == "meta"
                assert {network.public.device.type, network.never.device.type} == {"meta"}

    def test_a_plain_function_is_told(self):
        assert device_of(Adapted(Table(), width=WIDTH, mask_id=MASK)).type == "cpu"
        assert device_of(Adapted(Table(), width=WIDTH, mask_id=MASK, device="meta")).type == "meta"
        assert device_of(mdlm(Table(), width=WIDTH, mask_id=MASK, device="meta")).type == "meta"

    def test_its_ids_may_lie_elsewhere(self):
        """Text in the model's ids is where it was in ours."""
        network = Adapted(Table(), width=WIDTH, mask_id=MASK)
        assert network.to_public(torch.zeros(1, 2, dtype=torch.int64, device="meta")).device.type == "meta"


class TestBadNetworks:
    @pytest.mark.parametrize(
        ("forward", "message"),
        [
            (lambda ids: torch.zeros(1, 2, 5), "logits"),
            (lambda ids: torch.zeros(*ids.shape), "logits"),
            (lambda ids: "text", "str"),
            (lambda ids: torch.full((*ids.shape, WIDTH), math.nan), "NaN"),
            (lambda ids: torch.full((*ids.shape, WIDTH), math.inf), "inf"),
        ],
    )
    def test_answers(self, forward, message):
        with pytest.raises(InputError, match=message):
            said(Adapted(forward, width=WIDTH, mask_id=MASK), torch.zeros(1, 2, dtype=torch.int64))

    @pytest.mark.parametrize(
        "options",
        [
            {"mask_id": -1},
            {"mask_id": 1, "never": [1]},
            {"mask_id": 1, "never": [99]},
            {"mask_id": 1, "never": ["a"]},
        ],
    )
    def test_ids(self, options):
        with pytest.raises(InputError, match="id"):
            Adapted(Table(), width=WIDTH, **options)
        with pytest.raises(InputError, match="mask_id = 9"):
            llada(Table(), width=WIDTH, mask_id=WIDTH)

    def test_tokens_of_another_vocabulary(self):
        with pytest.raises(InputError, match="ids"):
            Adapted(Table(), width=WIDTH, mask_id=MASK).from_public(torch.tensor([WIDTH]))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT of 2,000 numbers, with random weights and its tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.BertForMaskedLM(
        transformers.BertConfig(vocab_size=len(words), max_position_embeddings=16, **shape)
    )
    model.eval().save_pretrained(folder)
    transformers.BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder, model


class TestHuggingFace:
    def test_is_the_model(self, bert):
        folder, model = bert
        network = hugging_face(folder, never=())
        public = torch.tensor([[2, 4, 5, 3]])
        found = said(network, network.from_public(public))
        due = model(input_ids=public).logits[..., [0, 1, 2, 3, 5, 6, 7, 8]].log_softmax(-1)
        torch.testing.assert_close(found, due)
        assert hugging_face(folder, device="cpu").device.type == "cpu"
        done = first_hitting(hugging_face(folder), EXACT, batch=2, length=6, rng=rng())
        assert int(done.tokens.min()) > 4

    def test_missing_folder_and_weights(self, bert, tmp_path):
        with pytest.raises(InputError, match=r"config\.json"):
            hugging_face(tmp_path)
        (tmp_path / "config.json").write_bytes((bert[0] / "config.json").read_bytes())
        with pytest.raises(InputError, match="pickle"):
            hugging_face(tmp_path)

    def test_truncated_weights(self, bert, tmp_path):
        for name in ("config.json", "model.safetensors"):
            (tmp_path / name).write_bytes((bert[0] / name).read_bytes())
        (tmp_path / "model.safetensors").write_bytes((bert[0] / "model.safetensors").read_bytes()[:900])
        with pytest.raises(InputError, match="masked language model"):
            hugging_face(tmp_path, mask_id=4)

    def test_weights_of_another_shape(self, bert, tmp_path):
        (tmp_path / "model.safetensors").write_bytes((bert[0] / "model.safetensors").read_bytes())
        config = (bert[0] / "config.json").read_text()
        (tmp_path / "config.json").write_text(config.replace('"vocab_size": 9', '"vocab_size": 11'))
        with pytest.raises(InputError, match=r"masked language model|weights of its configuration"):
            hugging_face(tmp_path, mask_id=4)

    def test_missing_layers_are_no_model(self, bert, tmp_path):
        (tmp_path / "model.safetensors").write_bytes((bert[0] / "model.safetensors").read_bytes())
        config = (bert[0] / "config.json").read_text()
        (tmp_path / "config.json").write_text(
            config.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2')
        )
        with pytest.raises(InputError, match="weights of its configuration"):
            hugging_face(tmp_path, mask_id=4)

    def test_no_mask_is_known(self, bert, tmp_path):
        for name in ("config.json", "model.safetensors"):
            (tmp_path / name).write_bytes((bert[0] / name).read_bytes())
        with pytest.raises(InputError, match="mask"):
            hugging_face(tmp_path)

    def test_without_transformers(self, bert, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "transformers", None)
        with pytest.raises(InputError, match="extra hf"):
            hugging_face(bert[0])
