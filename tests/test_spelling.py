"""What ids say, by tokenizers of every kind: the judge reads the text of the samples and nothing else."""

from __future__ import annotations

import json
import math
from functools import cache

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from precision_lab.errors import InputError
from precision_lab.mdm import judges
from precision_lab.mdm.judges import Retokenised
from precision_lab.mdm.spelling import Spelling, end_of, read_text, role_of, rows_of, start_of, texts_in
from precision_lab.statistics import DEFINITIONS, generative_perplexity
from precision_lab.statistics._checks import check_tokens

TEXT = ["the quick brown fox jumps over the lazy dog", "it was a bright cold day in april"] * 20


def byte_level(*special: str) -> Tokenizer:
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    built.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
        ),
    )
    return built


def word_piece() -> Tokenizer:
    built = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    built.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    built.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    )
    return built


def unigram() -> Tokenizer:
    built = Tokenizer(models.Unigram())
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    built.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    built.train_from_iterator(TEXT, trainer)
    return built


@cache
def kinds() -> dict[str, tuple[Tokenizer, str, str, str | None]]:
    """Tokenizer, its end, its padding and its mask."""
    return {
        "gpt2": (byte_level("<|endoftext|>"), "<|endoftext|>", "<|endoftext|>", None),
        "llada": (
            byte_level("<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>", "<|eot_id|>"),
            "<|eot_id|>",
            "<|eot_id|>",
            "<|mdm_mask|>",
        ),
        "llama": (byte_level("<s>", "</s>"), "</s>", "</s>", None),
        "llama3": (
            byte_level("<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"),
            "<|end_of_text|>",
            "<|finetune_right_pad_id|>",
            None,
        ),
        "bert": (word_piece(), "[SEP]", "[PAD]", "[MASK]"),
        "t5": (unigram(), "</s>", "<pad>", "<mask>"),
    }


NAMES = ["gpt2", "llada", "llama", "llama3", "bert", "t5"]


def network(vocab: int):
    """A bigram table."""

    class Bigram:
        config = type("Config", (), {"context": 200})
        table = torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(2)).log_softmax(-1)

        def hidden(self, ids):
            return self.table[ids]

        def head(self, hidden):
            return hidden

    return Bigram()


@cache
def judge_words() -> Tokenizer:
    return byte_level("<|endoftext|>")


def judge(tokenizer: Tokenizer | None, **options) -> Retokenised:
    words = judge_words()
    return Retokenised("bigram", network(words.get_vocab_size()), words, tokenizer, **options)


def perplexities(scores) -> dict[str, float]:
    return {
        name: generative_perplexity(scores, name, rng=np.random.default_rng(0)).value
        for name in DEFINITIONS
        if "first" not in DEFINITIONS[name].parts
    }


class TestSamplesAreTheirText:
    """Ids with an end and padding have the perplexity of their text, by every definition."""

    @pytest.mark.parametrize("kind", NAMES)
    def test_ended_and_padded(self, kind):
        tokenizer, end, pad, _ = kinds()[kind]
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXT[:2]]
        width = max(map(len, ids)) + 9
        end_id, pad_id = (tokenizer.token_to_id(name) for name in (end, pad))
        padded = [[*row, end_id, *[pad_id] * (width - len(row) - 1)] for row in ids]
        one = judge(tokenizer)
        due = judge(None).score([text + "<|endoftext|>" for text in TEXT[:2]])
        found = one.score(np.array(padded))
        np.testing.assert_allclose(found.nats, due.nats, rtol=1e-6)
        assert found.tokens.tolist() == due.tokens.tolist()
        assert perplexities(found) == pytest.approx(perplexities(due), rel=1e-6)
        assert not found.dropped.any()
        assert not found.replaced.any()

    @pytest.mark.parametrize("kind", NAMES)
    def test_cut_by_minus_100_or_by_a_masked_array(self, kind):
        tokenizer = kinds()[kind][0]
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXT[:2]]
        width = max(map(len, ids)) + 3
        cut = np.array([[*row, *[-100] * (width - len(row))] for row in ids])
        masked = np.ma.masked_array(np.where(cut == -100, 7, cut), cut == -100)
        due = judge(None).score(TEXT[:2])
        for tokens in (cut, masked, ids):
            np.testing.assert_allclose(judge(tokenizer).score(tokens).nats, due.nats, rtol=1e-6)

    @pytest.mark.parametrize("kind", NAMES)
    def test_a_mask_is_an_error_wherever_its_id_lies(self, kind):
        tokenizer, _, _, mask = kinds()[kind]
        ids = tokenizer.encode(TEXT[0], add_special_tokens=False).ids
        places = {tokenizer.get_vocab_size()}
        if mask is not None:
            places.add(tokenizer.token_to_id(mask))
        for place in places:
            with pytest.raises(InputError, match="mask"):
                judge(tokenizer).score([[*ids[:3], place, *ids[3:]]])

    def test_a_mask_that_has_to_be_named(self):
        tokenizer = kinds()["gpt2"][0]
        ids = tokenizer.encode(TEXT[0]).ids
        letter = tokenizer.id_to_token(ids[2])
        for name in (letter, ids[2], str(ids[2])):
            with pytest.raises(InputError, match="1 masks"):
                judge(tokenizer, mask=name).score([ids[:4]])
        with pytest.raises(InputError, match="mask 'nothing'"):
            judge(tokenizer, mask="nothing")

    def test_control_tokens_are_no_letters(self):
        """LLaDA's own: 20 words and 21 ends of a turn are 20 words and an end."""
        tokenizer, end, *_ = kinds()["llada"]
        ids = tokenizer.encode(TEXT[0]).ids
        row = np.array([tokenizer.token_to_id("<|startoftext|>"), *ids, *[tokenizer.token_to_id(end)] * 21])
        assert Spelling(tokenizer).read(row).texts == [TEXT[0], ""]
        read, _, _ = judge(tokenizer).read(row)
        assert read.tolist() == [*judge_words().encode(TEXT[0]).ids, 0]

    def test_packed_texts(self):
        """BERT's [CLS] a [SEP] [CLS] b: one end between two texts; [CLS] alone ends too."""
        tokenizer = kinds()["bert"][0]
        a, b = (tokenizer.encode(text, add_special_tokens=False).ids for text in TEXT[:2])
        cls, sep = (tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
        for row in ([cls, *a, sep, cls, *b], [cls, *a, cls, *b]):
            assert Spelling(tokenizer).read(np.array(row)).texts == TEXT[:2]

    def test_unknown_words_are_replaced_and_counted(self):
        for kind, name in (("bert", "[UNK]"), ("t5", "<unk>")):
            tokenizer = kinds()[kind][0]
            ids = tokenizer.encode("the day", add_special_tokens=False).ids
            said = Spelling(tokenizer).read(np.array([*ids, tokenizer.token_to_id(name)]))
            assert (said.texts, said.replaced) == (["the day \ufffd"], 1)

    def test_added_tokens_that_are_text(self):
        """Runs of spaces, as GPT-NeoX adds them, are letters; what is special and says nothing is counted."""
        tokenizer = byte_level("<|endoftext|>", "<|tool|>")
        tokenizer.add_tokens([AddedToken("    ", normalized=False, special=False)])
        row = [*tokenizer.encode("the").ids, tokenizer.token_to_id("    "), tokenizer.token_to_id("<|tool|>")]
        assert Spelling(tokenizer).read(np.array(row)) == (["the    "], 0, 1)

    def test_an_end_that_has_to_be_named(self):
        tokenizer = byte_level("<|stop here|>")
        row = np.array([*tokenizer.encode("the").ids, 0])
        assert Spelling(tokenizer).read(row) == (["the"], 0, 1)
        assert Spelling(tokenizer, end="<|stop here|>").read(row) == (["the", ""], 0, 0)

    def test_all_ends_is_no_text(self):
        tokenizer = kinds()["gpt2"][0]
        scores = judge(tokenizer).score([[0, 0, 0, 0], [*tokenizer.encode("the day").ids][:4]])
        assert scores.tokens[0].sum() == 0
        assert generative_perplexity(scores, "sedd", rng=np.random.default_rng(0)).n == 1


class TestNames:
    @pytest.mark.parametrize(
        ("name", "role"),
        [
            ("<|endoftext|>", "end"), ("</s>", "end"), ("<|eot_id|>", "end"), ("<|im_end|>", "end"), ("[SEP]", "end"),
            ("<eos>", "end"), ("<end_of_turn>", "end"), ("<\uff5cend\u2581of\u2581sentence\uff5c>", "end"), ("<s>", "start"),
            ("[CLS]", "start"), ("<bos>", "start"), ("<|im_start|>", "start"), ("<|begin_of_text|>", "start"),
            ("[PAD]", "pad"), ("<|finetune_right_pad_id|>", "pad"), ("[MASK]", "mask"), ("<|mdm_mask|>", "mask"),
            ("[UNK]", "unknown"), ("<|reserved_special_token_3|>", "other"), ("<|end_header_id|>", "other"),
            ("<|start_header_id|>", "other"), ("<|vision_end|>", "other"),
        ],
    )  # fmt: skip
    def test_roles(self, name, role):
        assert role_of(name) == role

    def test_the_end_and_the_start_of_a_judge(self):
        assert [end_of(kinds()[kind][0]) for kind in ("gpt2", "llama", "llama3", "bert")] == [0, 1, 1, 3]
        assert end_of(byte_level()) is None
        from tokenizers import processors

        llama = byte_level("<s>", "</s>")
        assert start_of(llama) is None
        llama.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        assert start_of(llama) == 0


class TestTexts:
    def test_what_spells_a_control_token_is_one(self):
        assert read_text("<s>a b</s></s></s>").texts == ["a b", ""]
        assert read_text("a<|endoftext|>b[PAD][PAD]").texts == ["a", "b"]
        assert read_text("x [UNK] y <|tool|>") == (["x \ufffd y "], 1, 1)
        assert read_text("a < b, c[1] and <b>bold</b>").texts == ["a < b, c[1] and <b>bold</b>"]
        with pytest.raises(InputError, match=r"\[MASK\]"):
            read_text("the [MASK] day")

    def test_files(self, tmp_path):
        (tmp_path / "a.txt").write_text("one\n\ntwo words\n")
        (tmp_path / "b.jsonl").write_text('"one"\n{"text": "two words", "id": "7"}\n')
        (tmp_path / "c.json").write_text(json.dumps(["one", {"output": "two words"}]))
        for name in ("a.txt", "b.jsonl", "c.json"):
            assert texts_in(tmp_path / name) == ["one", "two words"]
        (tmp_path / "ids.jsonl").write_text("[1, 2]\n[3, 4]\n")
        assert texts_in(tmp_path / "ids.jsonl") is None
        assert texts_in(tmp_path / "x.npy") is None
        (tmp_path / "mixed.jsonl").write_text('"one"\n[3, 4]\n')
        with pytest.raises(InputError, match="item 1"):
            texts_in(tmp_path / "mixed.jsonl")
        (tmp_path / "empty.txt").write_text("\n \n")
        with pytest.raises(InputError, match="no text"):
            texts_in(tmp_path / "empty.txt")


class TestRows:
    def test_what_is_no_sequence_of_ids(self):
        assert [row.tolist() for row in rows_of([[1, 2], [3]])] == [[1, 2], [3]]
        for wrong in ([], [[]], 5, [[1.5]], [[[1]]]):
            with pytest.raises(InputError):
                rows_of(wrong)

    def test_minus_100_inside_a_text(self):
        with pytest.raises(InputError, match="-100 may be at the tail"):
            judge(kinds()["gpt2"][0]).score([[5, -100, 6]])

    def test_diversity_refuses_what_it_cannot_honour(self):
        """A masked entry or -100 would be counted as a token."""
        masked = np.ma.masked_array([[1, 2, 3, 4]], [[0, 0, 1, 1]])
        with pytest.raises(InputError, match="masked"):
            check_tokens(masked)
        with pytest.raises(InputError, match="-100"):
            check_tokens([[1, 2, -100, -100]])
        assert check_tokens(np.ma.masked_array([[1, 2]])).tolist() == [[1, 2]]


class TestReport:
    def test_texts_and_padded_ids(self, tmp_path, monkeypatch):
        tokenizer, end, pad, _ = kinds()["llama3"]
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        ids = [tokenizer.encode(text).ids[:8] for text in TEXT[:2]]
        stop, fill = (tokenizer.token_to_id(name) for name in (end, pad))
        np.save(tmp_path / "x.npy", np.array([[*row, stop, fill, fill] for row in ids]))
        np.save(tmp_path / "y.npy", np.array(ids))
        (tmp_path / "x.txt").write_text("".join(f"{tokenizer.decode(row)}<|endoftext|>\n" for row in ids))
        words = judge_words()
        monkeypatch.setattr(judges, "load", lambda cache: (network(words.get_vocab_size()), words))
        of_ids = judges.report(tmp_path / "x.npy", tmp_path, "smollm2", seed=0)
        of_texts = judges.report(tmp_path / "x.txt", None, "smollm2", seed=0)
        for name in ("perplexity, mdlm", "perplexity, sedd", "perplexity, bd3lms"):
            assert of_ids.estimates[name].value == pytest.approx(of_texts.estimates[name].value, rel=1e-6)
            assert math.isfinite(of_ids.estimates[name].value)
        assert "2 of 2 sequences end in padding" in of_ids.notes[0]
        assert "of texts" in of_texts.notes[0]
        assert "entropy_nats" not in of_ids.estimates
        assert "entropy_nats" in judges.report(tmp_path / "y.npy", tmp_path, "smollm2", seed=0).estimates
