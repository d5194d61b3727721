"""Any causal model in a local folder as the judge: its nats are the model's, and the six definitions of
them are computed by hand. The models are miniature and random; nothing is downloaded."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_spelling import TEXT, byte_level
from tokenizers import Tokenizer, processors

from precision_lab.errors import InputError
from precision_lab.mdm.folders import load_folder, longest_of
from precision_lab.mdm.judges import folder_judge, judge_of
from precision_lab.statistics import DEFINITIONS, generative_perplexity

transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")


def small(family: str, vocab: int):
    if family == "gpt2":
        config = transformers.GPT2Config(vocab_size=vocab, n_positions=32, n_embd=16, n_layer=1, n_head=2)
        return transformers.GPT2LMHeadModel(config)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    if family == "llama":
        config = transformers.LlamaConfig(
            vocab_size=vocab,
            max_position_embeddings=32,
            num_key_value_heads=1,
            tie_word_embeddings=False,
            **shape,
        )
        return transformers.LlamaForCausalLM(config)
    config = transformers.GPTNeoXConfig(vocab_size=vocab, max_position_embeddings=32, **shape)
    return transformers.GPTNeoXForCausalLM(config)


SPECIAL = {
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "llama": {"bos_token": "<s>", "eos_token": "</s>"},
    "neox": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    found = {}
    for k, (family, special) in enumerate(SPECIAL.items()):
        words = byte_level(*dict.fromkeys(special.values()))
        if family == "llama":
            words.post_processor = processors.TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", words.token_to_id("<s>"))]
            )
        folder = tmp_path_factory.mktemp(family)
        torch.manual_seed(k)
        model = small(family, words.get_vocab_size() + 3)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        model.save_pretrained(folder)
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
        found[family] = folder
    return found


IDS = byte_level("<|endoftext|>", "<|pad|>")  # of the samples


@pytest.fixture(scope="module")
def spelled(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ids") / "tokenizer.json"
    IDS.save(str(path))
    return path


def nats_by_hand(folder: Path, row: list[int]) -> np.ndarray:
    """-log p of every token but the first, by the model as transformers loads it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([row])).logits[0].double().log_softmax(-1)
    return -log_p[torch.arange(len(row) - 1), torch.tensor(row[1:])].numpy()


@pytest.mark.parametrize("family", SPECIAL)
class TestNats:
    def test_are_the_models(self, folders, spelled, family):
        """Texts of unequal length in one batch, with ends; Llama's begins with its start symbol, as it was
        trained."""
        one = folder_judge(folders[family], spelled)
        words = Tokenizer.from_file(str(folders[family] / "tokenizer.json"))
        end = words.token_to_id(SPECIAL[family]["eos_token"])
        ids = [IDS.encode(TEXT[0][:18]).ids, [*IDS.encode(TEXT[1][:5]).ids, 0, *IDS.encode("the day").ids]]
        scores = one.score(ids)
        reads = [
            words.encode(TEXT[0][:18], add_special_tokens=False).ids,
            [
                *words.encode(TEXT[1][:5], add_special_tokens=False).ids,
                end,
                *words.encode("the day", add_special_tokens=False).ids,
            ],
        ]
        lead = [words.token_to_id("<s>")] if family == "llama" else []
        for read, nats, counts in zip(reads, scores.nats, scores.tokens, strict=True):
            due = nats_by_hand(folders[family], lead + read)
            assert nats.sum() == pytest.approx(due.sum(), rel=1e-5)
            assert counts.sum() == len(due)
            assert counts[0] == len(lead)

    def test_long_texts_come_in_chunks_of_its_context(self, folders, family):
        one = folder_judge(folders[family], None)
        text = " ".join(TEXT[:4])
        scores = one.score([text])
        read = one.read(text)[0]
        begins = one.start
        lead = [one.first] if begins else []
        row = lead + read.tolist()
        due = sum(
            nats_by_hand(folders[family], row[at : at + 32]).sum()
            for at in range(0, len(row), 32)
            if len(row) > at + 1
        )
        assert len(row) > 32
        assert scores.nats.sum() == pytest.approx(due, rel=1e-5)


class TestDefinitions:
    def test_all_six_by_hand(self, folders, spelled):
        """Two texts: "a END b END" and "c d"; every definition from the model's own nats."""
        one = folder_judge(folders["gpt2"], spelled, start=True)
        words = one.words
        texts = [[TEXT[0][:9], TEXT[1][:6], ""], [TEXT[1][4:20]]]
        rows = [[i for text in each for i in (*IDS.encode(text).ids, 0)][:-1] for each in texts]
        reads = [[i for text in each for i in (*words.encode(text).ids, 0)][:-1] for each in texts]
        assert [read.count(0) for read in reads] == [2, 0]
        each = [nats_by_hand(folders["gpt2"], [0, *read]) for read in reads]  # of all tokens, the first too
        last = len(reads[0]) - 1
        first_end = reads[0].index(0)
        a, b = each
        plain = np.delete(a, [first_end, last])  # without ends
        due = {
            "mdlm": math.exp((a[1:last].sum() + b[1:].sum()) / (last - 1 + len(b) - 1)),
            "sedd": (math.exp(a[1:].mean()) + math.exp(b[1:].mean())) / 2,
            "bd3lms": math.exp((plain[1:].sum() + b[1:].sum()) / (len(plain) + len(b) - 2)),
            "sdtt": math.exp((plain.mean() + b.mean()) / 2),
            "gidd": math.exp((plain[1:].sum() + b[1:].sum()) / (len(plain) + len(b) - 2)),
            "hf_evaluate": (math.exp(a.mean()) + math.exp(b.mean())) / 2,
        }
        scores = one.score(rows)
        assert due.keys() == DEFINITIONS.keys()
        for name, value in due.items():
            found = generative_perplexity(scores, name, rng=np.random.default_rng(0)).value
            assert found == pytest.approx(value, rel=1e-5), name


class TestFolders:
    def test_by_name(self, folders, spelled):
        assert judge_of(str(folders["gpt2"]), spelled, texts=False).name == str(folders["gpt2"])
        with pytest.raises(InputError, match="no --tokenizer"):
            judge_of(str(folders["gpt2"]), None, texts=False)
        with pytest.raises(InputError, match=r"config\.json"):
            judge_of(str(spelled.parent), spelled, texts=False)

    def test_a_head_that_is_not_in_the_file(self, folders, tmp_path):
        """Llama's head is its own; without it every load would be another model."""
        from safetensors.torch import load_file, save_file

        for name in ("config.json", "tokenizer.json"):
            (tmp_path / name).write_bytes((folders["llama"] / name).read_bytes())
        weights = load_file(folders["llama"] / "model.safetensors")
        del weights["lm_head.weight"]
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match=r"lm_head\.weight.*random"):
            folder_judge(tmp_path, None)

    def test_a_tokenizer_of_another_model(self, folders, tmp_path):
        for name in ("config.json", "model.safetensors"):
            (tmp_path / name).write_bytes((folders["gpt2"] / name).read_bytes())
        large = byte_level("<|endoftext|>")
        large.add_special_tokens([f"<|extra_{i}|>" for i in range(9)])
        large.save(str(tmp_path / "tokenizer.json"))
        with pytest.raises(InputError, match="the model's own tokenizer"):
            folder_judge(tmp_path, None)

    def test_positions(self, folders):
        assert longest_of(load_folder(folders["gpt2"], "AutoModelForCausalLM")) == 32
