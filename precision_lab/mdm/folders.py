"""Models that ``transformers`` saved in a local folder. Nothing is downloaded, no code of the folder is
run, and no pickle is read; weights that are not in the file are an error, for they would be random."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError, described
from .corpus import read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
KINDS = {"AutoModelForMaskedLM": "a masked language model", "AutoModelForCausalLM": "a causal language model"}


def transformers_() -> Any:
    """The package; InputError without it."""
    try:
        import transformers
    except ImportError:
        raise InputError("no transformers", "the extra hf", "pip install 'precision-lab[hf]'") from None
    return transformers


def load_folder(folder: Path | str, kind: str, *, dtype: torch.dtype | str | None = None) -> Any:
    """The frozen model of ``kind``, of :data:`KINDS`, on the CPU, in evaluation mode. ``dtype`` None: as saved.

    Raises InputError without ``transformers`` (extra ``hf``), without the folder, and unless every weight of the
    configuration is in the file or tied to one that is.
    """
    transformers = transformers_()
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise InputError(f"no {path / 'config.json'}", "a folder written by save_pretrained", "check the path")
    if not list(path.glob("*.safetensors")):
        raise InputError(
            f"no .safetensors in {path}", "weights without pickle", "save again with safe_serialization"
        )
    options = {} if dtype is None else {"dtype": dtype}
    try:
        model, report = getattr(transformers, kind).from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: {said[0]}", KINDS[kind], "save it again") from error
    lost = sorted(report["missing_keys"]) + [str(key) for key in report["mismatched_keys"]]
    if lost:
        raise InputError(
            f"{path} without fitting {lost[0]}",
            "all weights of its configuration, in the file or tied to one in it (else they would be random)",
            "save it again, or mend tie_word_embeddings in config.json",
        )
    return model.eval().requires_grad_(False)


def own_tokenizer(folder: Path | str, remedy: str) -> Any | None:
    """The tokenizer of ``transformers`` in the folder; None where no file of one is there (one would be made up).
    InputError for one that does not load, with ``remedy`` in it."""
    path = Path(folder)
    if not any((path / name).is_file() for name in TOKENIZERS):
        return None
    try:
        return transformers_().AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except InputError:
        raise
    except Exception as error:
        got = f"{path} with a tokenizer that does not load ({type(error).__name__})"
        raise InputError(got, "one written by save_pretrained", f"save it again, or {remedy}") from error


def words_of(folder: Path | str) -> Tokenizer:
    """The tokenizer of the folder as the package ``tokenizers`` has it. InputError if there is none."""
    path = Path(folder)
    if (path / "tokenizer.json").is_file():
        return read_tokenizer(path / "tokenizer.json")
    found = getattr(own_tokenizer(path, "bring its tokenizer.json"), "backend_tokenizer", None)
    if found is None:
        raise InputError(
            f"{path} without a tokenizer.json", "one that the model was trained with", "save it beside"
        )
    return found


def longest_of(model: Any) -> int | None:
    """The most tokens that the model has positions for; None where it does not say. Families that count positions from
    behind the padding's id (RoBERTa) have fewer than ``max_position_embeddings``."""
    config = model.config
    most = next(
        (
            size
            for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length")
            if isinstance(size := getattr(config, name, None), int) and size > 0
        ),
        None,
    )
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if (
            name.endswith("position_embeddings")
            and isinstance(module, torch.nn.Embedding)
            and padding is not None
        ):
            room = module.num_embeddings - padding - 1
            return room if most is None else min(most, room)
    return most


class Whole:
    """A causal model as a judge's network: ``hidden`` are its logits, whatever its family makes of the last
    layer."""

    def __init__(self, model: Any) -> None:
        self.model, self.parameters = model, model.parameters
        vocab = model.get_input_embeddings().num_embeddings
        self.config = SimpleNamespace(context=longest_of(model) or 1024, vocab=int(vocab))

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """(batch, length) -> (batch, length, vocab). InputError for what the model raises."""
        try:
            found: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits
        except (IndexError, ValueError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            got = f"{tuple(ids.shape)} ids up to {int(ids.max())}, at which the judge raises {described(error)}"
            raise InputError(got, "a model that reads them", "check its tokenizer and context") from error
        return found

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden

    def rows(self, length: int) -> int:
        """Sequences at once: 2^26 logits, 268 MB in float32."""
        return (1 << 26) // (length * self.config.vocab)
