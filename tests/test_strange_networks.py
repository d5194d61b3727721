"""Networks as people have them: what is no model's answer is refused, ids are the model's own at every
door, and what must not be drawn is not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_spelling import byte_level, word_piece

from precision_lab import SAMPLERS
from precision_lab.errors import InputError
from precision_lab.mdm.adapters import Adapted, hugging_face, llada, mdlm
from precision_lab.mdm.decode import (
    ancestral,
    confidence_ordered,
    event_driven,
    first_hitting,
    two_stage,
)
from precision_lab.mdm.folders import longest_of
from precision_lab.mdm.schedule import COSINE, LINEAR
from precision_lab.mdm.texts import rows

EXACT = SAMPLERS["inverse_cdf_fp64"]
WIDTH, MASK = 12, 4
RAW = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1)) * 3


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def always(row: torch.Tensor, **options) -> Adapted:
    """A network that says the same everywhere."""
    options = {"width": len(row), "mask_id": MASK} | options
    return Adapted(lambda ids: row.expand(*ids.shape, len(row)), **options)


def probs(network: Adapted, **options) -> torch.Tensor:
    """(vocab,) at one masked place, in our numbering."""
    state = torch.full((1, 3), network.config.mask_id)
    return network.log_probs(network.hidden(state, **options))[0, 0].exp()


DECODERS = {
    "ancestral": lambda network, **o: ancestral(network, EXACT, steps=7, **o),
    "faithful": lambda network, **o: ancestral(network, steps=7, **o),
    "two_stage": lambda network, **o: two_stage(network, EXACT, steps=7, **o),
    "event_driven": lambda network, **o: event_driven(network, "gumbel_max_fp64", steps=7, **o),
    "first_hitting": lambda network, **o: first_hitting(network, EXACT, **o),
    "confidence": lambda network, **o: confidence_ordered(network, EXACT, **o),
}


class TestWhatIsNoLogits:
    truth = torch.cat([RAW[:MASK], RAW[MASK + 1 :]]).softmax(-1)

    @pytest.mark.parametrize(
        "row",
        [
            RAW,
            torch.cat([RAW[:MASK], torch.tensor([-torch.inf]), RAW[MASK + 1 :]]).log_softmax(-1),
            torch.cat([RAW[:MASK], torch.tensor([-1e6]), RAW[MASK + 1 :]]).log_softmax(-1),
            RAW + 7.3,
            RAW.double(),
        ],
        ids=["logits", "log-probabilities", "log-probabilities, mask -1e6", "log-scores", "float64"],
    )
    def test_logits_of_all_kinds(self, row):
        torch.testing.assert_close(probs(always(row)).float(), self.truth, atol=1e-6, rtol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("kept", [1.0, 0.3])
    def test_probabilities(self, dtype, kept):
        """A softmax that is taken already, with or without the rest on the mask."""
        row = torch.cat([self.truth[:MASK] * kept, torch.tensor([1 - kept]), self.truth[MASK:] * kept]).to(
            dtype
        )
        with pytest.raises(InputError, match="look like probabilities"):
            first_hitting(always(row), EXACT, batch=1, length=3, rng=rng())

    def test_positive_logits_are_none(self):
        probs(always(RAW.abs() + 1.0))

    def test_two_answers_to_one_question(self):
        """Dropout that is left on."""
        torch.manual_seed(0)
        head = torch.nn.Linear(8, WIDTH)
        module = torch.nn.Sequential(torch.nn.Embedding(WIDTH, 8), torch.nn.Dropout(0.1), head)
        with pytest.raises(InputError, match=r"two answers.*model\.eval\(\)"):
            first_hitting(llada(module, width=WIDTH, mask_id=MASK), EXACT, batch=1, length=6, rng=rng())
        network = llada(module.eval(), width=WIDTH, mask_id=MASK)
        assert first_hitting(network, EXACT, batch=1, length=6, rng=rng()).nfe == 6

    def test_two_answers_beside_a_mask_of_minus_a_million(self):
        """MDLM's log-probabilities span a million nats; dropout shows all the same, and rounding does not."""
        noise = torch.Generator().manual_seed(0)

        def answer(scale):
            def forward(ids, sigma):
                drawn = RAW + scale * torch.randn(*ids.shape, WIDTH, generator=noise)
                drawn[..., MASK] = -1e6
                return drawn.log_softmax(-1)

            return mdlm(forward, width=WIDTH, mask_id=MASK)

        with pytest.raises(InputError, match=r"two answers.*model\.eval\(\)"):
            first_hitting(answer(0.1), EXACT, batch=1, length=6, rng=rng())
        assert first_hitting(answer(1e-6), EXACT, batch=1, length=6, rng=rng()).nfe == 6

    def test_what_the_network_raises(self):
        """Ids beyond its embeddings, a text beyond its positions."""
        table = torch.nn.Embedding(5, WIDTH)
        network = Adapted(lambda ids: table(ids), width=WIDTH, mask_id=7)
        with pytest.raises(InputError, match=r"up to 7, at which the network raises IndexError"):
            probs(network)
        with pytest.raises(InputError, match="4 tokens for a model of 3 positions"):
            first_hitting(always(RAW, longest=3), EXACT, batch=1, length=4, rng=rng())
        assert first_hitting(always(RAW, longest=4), EXACT, batch=1, length=4, rng=rng()).nfe == 4

    def test_nan_where_all_is_masked(self):
        def esm(ids):
            share = (ids != MASK).float().mean(1)
            return RAW.expand(*ids.shape, WIDTH) * (0.88 * share / share)[:, None, None]

        network = Adapted(esm, width=WIDTH, mask_id=MASK)
        with pytest.raises(InputError, match=r"every token is the mask.*token_dropout"):
            first_hitting(network, EXACT, batch=1, length=4, rng=rng())
        given = torch.tensor([[0, MASK, MASK, 2]])
        assert first_hitting(network, EXACT, batch=1, length=4, rng=rng(), given=given).nfe == 2

    def test_a_shift_that_is_forgotten(self):
        """A prompt whose every token is named one place before: an error, unless it is said to be meant."""
        text = torch.arange(60) * 7 % 11
        text = torch.where(text >= MASK, text + 1, text)
        ids = torch.cat([text[:40], torch.full((5,), MASK)])[None]

        def next_one(ids):
            follows = torch.cat([text[1:], text[:1]])[: ids.shape[1]].expand(len(ids), -1)
            return torch.nn.functional.one_hot(follows, WIDTH) * 9.0

        size = {"batch": 1, "length": 45, "rng": rng(), "given": ids}
        for make in (Adapted, llada):
            with pytest.raises(InputError, match="shift=True"):
                first_hitting(make(next_one, width=WIDTH, mask_id=MASK), EXACT, **size)
            done = first_hitting(
                make(next_one, width=WIDTH, mask_id=MASK, shift=True), EXACT, temperature=0, **size
            )
            assert done.tokens[0, 40:].tolist() == text[40:45].tolist()
            first_hitting(make(next_one, width=WIDTH, mask_id=MASK, shift=False), EXACT, **size)
        sigma = mdlm(lambda ids, s: next_one(ids), width=WIDTH, mask_id=MASK)
        with pytest.raises(InputError, match="shift=True"):
            first_hitting(sigma, EXACT, **size)
        copies = Adapted(lambda ids: torch.nn.functional.one_hot(ids, WIDTH) * 9.0, width=WIDTH, mask_id=MASK)
        first_hitting(copies, EXACT, **size)  # a network that copies what it sees is not shifted


class TestTime:
    @pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=["linear", "cosine"])
    def test_confidence_decoding_tells_the_share_by_the_schedule(self, schedule):
        """sigma = -log(1 - 0.999 m) of the share m that is masked, whatever the schedule."""
        seen = []

        def forward(ids, sigma):
            seen.append((float((ids == MASK).double().mean()), float(sigma[0])))
            return RAW.expand(*ids.shape, WIDTH)

        network = mdlm(forward, width=WIDTH, mask_id=MASK, schedule=schedule)
        confidence_ordered(network, EXACT, batch=1, length=4, rng=rng())
        assert {share for share, _ in seen} == {1.0, 0.75, 0.5, 0.25}
        for share, sigma in seen:
            assert sigma == pytest.approx(-np.log1p(-0.999 * share), rel=1e-5)


class TestIds:
    @pytest.mark.parametrize("decoder", DECODERS)
    @pytest.mark.parametrize("mask", [0, 4, WIDTH - 1, WIDTH, WIDTH + 3])
    def test_are_the_models_own(self, decoder, mask):
        """Given and returned, wherever the mask lies, also beyond the logits."""
        seen = []

        def forward(ids):
            seen.append(ids.clone())
            return RAW.expand(*ids.shape, WIDTH)

        network = Adapted(forward, width=WIDTH, mask_id=mask)
        start = torch.tensor([[5, mask, mask, 11 if mask != 11 else 10], [mask, 7, mask, 8]])
        done = DECODERS[decoder](network, batch=2, length=4, rng=rng(), given=start)
        assert {int(i) for ids in seen for i in ids.flatten()} <= {*range(WIDTH), mask}
        known = start != mask
        first, second = (5, int(start[0, 3])), (7, 8)
        asked = [row for ids in seen for row in ids.tolist()]
        assert all((row[0], row[3]) == first or (row[1], row[3]) == second for row in asked)
        assert any((row[0], row[3]) == first for row in asked)
        assert any((row[1], row[3]) == second for row in asked)
        assert torch.equal(done.tokens[known], start[known])
        assert not (done.tokens == mask).any()
        assert int(done.tokens.max()) < WIDTH
        assert rows(done)[0]["tokens"] == " ".join(map(str, done.tokens[0].tolist()))

    def test_the_last_id_is_not_taken_for_the_mask(self):
        """It was, when ids had to be renumbered by hand."""
        start = torch.tensor([[WIDTH - 1, MASK, WIDTH - 1]])
        done = first_hitting(always(RAW), EXACT, batch=1, length=3, rng=rng(), given=start)
        assert (done.nfe, done.tokens[0, [0, 2]].tolist()) == (1, [WIDTH - 1] * 2)

    def test_the_law_with_a_mask_beyond_the_logits(self):
        """V + 1 embeddings and V logits: the softmax of all of them."""
        for mask in (WIDTH, WIDTH + 2):
            found = probs(always(RAW, mask_id=mask))
            torch.testing.assert_close(found[:WIDTH], RAW.softmax(-1))
            assert found.shape == (mask,)

    def test_a_prompt_without_a_mask(self):
        with pytest.raises(InputError, match="4 is the mask"):
            first_hitting(
                always(RAW), EXACT, batch=1, length=2, rng=rng(), given=torch.tensor([[1, WIDTH - 1]])
            )


class TestNever:
    @pytest.mark.parametrize("decoder", DECODERS)
    def test_ids_without_a_token_and_special_ones(self, decoder, tmp_path):
        """A padded head: the tokenizer's special tokens and what it has no token for are not drawn."""
        tokenizer = word_piece()
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        size = tokenizer.get_vocab_size()
        row = torch.full((size + 9,), -5.0)
        row[:5] = 1.0
        row[size:] = 1.0
        mask = tokenizer.token_to_id("[MASK]")
        for given_as in (tokenizer, tmp_path, tmp_path / "tokenizer.json"):
            network = always(row, mask_id=mask, tokenizer=given_as)
            done = DECODERS[decoder](network, batch=2, length=30, rng=rng())
            assert 5 <= int(done.tokens.min()) <= int(done.tokens.max()) < size
        asked = always(row, mask_id=mask, tokenizer=tokenizer, never=["[PAD]"])
        done = DECODERS[decoder](asked, batch=2, length=30, rng=rng())
        assert int(done.tokens.max()) >= size
        assert not (done.tokens == tokenizer.token_to_id("[PAD]")).any()

    def test_names(self):
        with pytest.raises(InputError, match="the token 'nothing'"):
            always(RAW, tokenizer=byte_level("<|endoftext|>"), never=["nothing"])
        with pytest.raises(InputError, match="without a tokenizer"):
            always(RAW, never=["[PAD]"])


class TestConventions:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_times_come_in_the_dtype_of_the_weights(self, dtype):
        class Timed(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.clock = torch.nn.Linear(1, WIDTH, dtype=dtype)

            def forward(self, ids, t):
                return self.clock(t[:, None])[:, None].expand(*ids.shape, WIDTH)

        for network in (
            Adapted(Timed(), width=WIDTH, mask_id=MASK, timed=True),
            mdlm(Timed(), width=WIDTH, mask_id=MASK),
        ):
            assert first_hitting(network, EXACT, batch=2, length=3, rng=rng()).nfe == 3

    def test_mdlm_that_is_not_told_the_time(self):
        """sigma = 0, as with ``time_conditioning=False``; an unchanged text is not asked again."""
        told = []

        def forward(ids, sigma):
            told.append(sigma)
            return RAW.expand(*ids.shape, WIDTH)

        network = mdlm(forward, width=WIDTH, mask_id=MASK, timed=False)
        done = event_driven(network, "gumbel_max_fp32", batch=1, length=3, steps=1000, rng=rng())
        assert done.nfe == 3
        assert not torch.cat(told).any()


transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(20))]
FAMILIES = {
    "Bert": SHAPE,
    "Roberta": SHAPE,
    "Camembert": SHAPE,
    "XLMRoberta": SHAPE,
    "Electra": SHAPE | {"embedding_size": 16},
    "Albert": SHAPE | {"embedding_size": 16},
    "DebertaV2": SHAPE,
    "MPNet": SHAPE,
    "Esm": SHAPE | {"pad_token_id": 1, "mask_token_id": 4, "position_embedding_type": "rotary"},
    "DistilBert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
    "ModernBert": SHAPE
    | {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
}


def saved(folder: Path, family: str, tied: bool, size: int = len(WORDS)) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=size, max_position_embeddings=24, tie_word_embeddings=tied, **FAMILIES[family]
    )
    model = getattr(transformers, f"{family}ForMaskedLM")(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return model


def answer(folder: Path) -> torch.Tensor:
    network = hugging_face(folder, mask_id=4, never=())
    state = network.from_public(torch.tensor([[5, 4, 6, 4, 2]]))
    return network.log_probs(network.hidden(state))


class TestHeads:
    """Of every family, tied or not: a folder that lacks a tensor of its head is refused, or loads as it was
    saved."""

    @pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_tensor_that_is_not_in_the_file(self, family, tied, tmp_path):
        from safetensors.torch import load_file, save_file

        saved(tmp_path, family, tied)
        due = answer(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        body = ("encoder.", "layers.", ".layer.", "transformer.")
        head = [name for name in weights if not any(part in name for part in body)]
        refused = 0
        for name in head:
            less = {key: value for key, value in weights.items() if key != name}
            save_file(less, tmp_path / "model.safetensors", metadata={"format": "pt"})
            try:
                torch.testing.assert_close(answer(tmp_path), due)
            except InputError:
                refused += 1
        assert refused >= 1

    def test_tied_in_the_file_and_not_in_the_configuration(self, tmp_path):
        """As CamemBERT was read by transformers 5: every load another network."""
        saved(tmp_path, "Camembert", True)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
        with pytest.raises(InputError, match=r"without fitting .*random"):
            hugging_face(tmp_path, mask_id=4)


class TestFolders:
    def test_a_padded_head(self, tmp_path):
        saved(tmp_path, "Bert", True, size=40)
        done = first_hitting(hugging_face(tmp_path), EXACT, batch=10, length=20, rng=rng())
        assert 5 <= int(done.tokens.min()) <= int(done.tokens.max()) < len(WORDS)
        free = first_hitting(hugging_face(tmp_path, never=()), EXACT, batch=10, length=20, rng=rng())
        assert int(free.tokens.max()) >= len(WORDS)
        named = hugging_face(tmp_path, mask_id="[MASK]", never=["[PAD]"])
        assert named.mask_id == 4

    def test_a_mask_that_the_model_has_no_row_for(self, tmp_path):
        saved(tmp_path, "Bert", True, size=4)
        with pytest.raises(InputError, match="mask_id = 4 for a model of 4 ids"):
            hugging_face(tmp_path)

    @pytest.mark.parametrize("family", ["Bert", "Roberta"])
    def test_a_prompt_in_longer_company(self, family, tmp_path):
        """Padding is not attended to: the law at a place is that of the prompt alone."""
        saved(tmp_path, family, True)
        network = hugging_face(tmp_path, mask_id=4, pad_id=1 if family == "Roberta" else 0)
        pad = 1 if family == "Roberta" else 0
        alone = network.from_public(torch.tensor([[2, 7, 4, 3]]))
        padded = network.from_public(torch.tensor([[2, 7, 4, 3, pad, pad], [2, 7, 8, 9, 4, 3]]))
        a, b = (network.log_probs(network.hidden(ids)) for ids in (alone, padded))
        torch.testing.assert_close(b[:1, :4], a, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize(("family", "room"), [("Bert", 24), ("Roberta", 22), ("Esm", 24)])
    def test_positions(self, family, room, tmp_path):
        assert longest_of(saved(tmp_path, family, True)) == room
        network = hugging_face(tmp_path, mask_id=4)
        given = torch.full((1, room), 4)
        given[0, 0] = 2
        first_hitting(network, EXACT, batch=1, length=room, rng=rng(), given=given)
        with pytest.raises(InputError, match=f"a model of {room} positions"):
            first_hitting(network, EXACT, batch=1, length=room + 1, rng=rng())

    def test_the_object_with_logits(self):
        network = llada(
            lambda ids: SimpleNamespace(logits=RAW.expand(*ids.shape, WIDTH)), width=WIDTH, mask_id=MASK
        )
        assert probs(network).sum() == pytest.approx(1, abs=1e-6)
