"""Generative perplexity: exp of the nats a judge needs per token of generated text. One name, several numbers.

The public code pools and selects in incompatible ways; DEFINITIONS names six, each with the code it was
read in. All of them follow from two numbers for each part of each sequence, nats S and tokens T, so these
are what is kept (:class:`Scores`): any definition can be had again from a table, without the judge. An end
is the judge's end-of-text token. Parts:

| part | tokens |
|---|---|
| first | the first, which only a judge that is shown a start symbol scores |
| before | those before the first end |
| end | the first end |
| after | those after it that are no end: text that the judge reads behind another text |
| ends | all further ends |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError, unknown_name
from ..types import Float, Int
from ._checks import check_tokens, check_whole
from .diversity import distinct_n, diversity, repetition, sequence_entropy
from .entropies import to_bits
from .estimate import Estimate
from .resampling import cluster_bootstrap

PARTS = ("first", "before", "end", "after", "ends")


@dataclass(frozen=True)
class Definition:
    """Which parts count, and how sequences i = 1..n with S_i nats in T_i tokens (of those parts, T_i >= 1)
    are pooled.

    "tokens": exp(sum S / sum T). "sequences": mean of exp(S_i / T_i). "log sequences": exp of the mean of
    S_i / T_i. "batches": mean over batches of exp(sum S / sum T), the sum over a batch; an incomplete last
    batch is dropped. On the same parts log sequences <= sequences (Jensen), and where all T are equal and
    batches are whole log sequences = tokens <= batches <= sequences.
    """

    pool: Literal["tokens", "sequences", "log sequences", "batches"]
    parts: tuple[str, ...]
    source: str


ALL = ("before", "end", "after", "ends")
DEFINITIONS = {
    "mdlm": Definition(
        "tokens",
        ("before", "end", "after"),
        "kuleshov-group/mdlm c112c526 diffusion.py compute_generative_perplexity; Duo 7c9b498f metrics.py, ReMDM f830d659 "
        "diffusion.py alike. The judge's own tokens, cut at the model's length; ends after the first (padding) are not "
        "scored, but what stands between them is",
    ),
    "sedd": Definition(
        "sequences",
        ALL,
        "louaaron/Score-Entropy-Discrete-Diffusion 0605786d run_train.py; RADD 60b772df run_train_ddp.py and "
        "facebookresearch/flow_matching 11568d37 examples/text/logic/evaluate.py alike. The generated ids themselves, the "
        "judge's tokenizer being the model's; sequences of an incomplete last batch are dropped",
    ),
    "bd3lms": Definition(
        "batches",
        ("before", "after"),
        "kuleshov-group/bd3lms 1c3e8f43 metrics.py record_generative_perplexity and scripts/log_sample_stats.py, which "
        "averages the perplexities of batches; no end is scored. Long text in windows that overlap by half the context",
    ),
    "sdtt": Definition(
        "log sequences",
        ("first", "before", "after"),
        "jdeschena/sdtt 9172b865 src/sdtt/run_eval.py: ends are deleted from the text before it is judged (here they are "
        "read and not scored), one text at a time behind Llama's start symbol",
    ),
    "gidd": Definition(
        "tokens",
        ("before", "after"),
        "dvruette/gidd f67acc96 gidd/eval/generative_ppl.py: special tokens are deleted before the text is judged (here read "
        "and not scored); cut at 512 tokens; its mask also scores one token of padding behind each shorter text",
    ),
    "hf_evaluate": Definition(
        "sequences",
        ("first", *ALL),
        "huggingface/evaluate 111609fc measurements/perplexity/perplexity.py, add_start_token=True: a start symbol is put "
        "in front, so the first token counts",
    ),
}


@dataclass(frozen=True)
class Scores:
    """What a judge said of n sequences. ``nats``: (n, 5) float64, summed -log p; ``tokens``: (n, 5) int64,
    how many; columns as PARTS. ``replaced``: (n,) invalid byte sequences of the text, each read as U+FFFD;
    ``dropped``: (n,) bytes for which the judge has no token, not read at all. ``judge``: its name."""

    judge: str
    nats: Float
    tokens: Int
    replaced: Int
    dropped: Int

    def __len__(self) -> int:
        return len(self.nats)

    @staticmethod
    def of(
        judge: str, ids: Sequence[Int], nats: Sequence[Float], end: int, replaced: ArrayLike, dropped: ArrayLike
    ) -> Scores:
        """From each sequence's judge's ids and -log p, NaN where a token is context only."""
        sums, counts = np.zeros((len(ids), len(PARTS))), np.zeros((len(ids), len(PARTS)), dtype=np.int64)
        for i, (row, cost) in enumerate(zip(ids, nats, strict=True)):
            if np.shape(row) != np.shape(cost) or np.ndim(row) != 1:
                got = f"ids of shape {np.shape(row)} and nats of shape {np.shape(cost)} in sequence {i}"
                raise InputError(got, "one number a token", "give NaN where a token is context only")
            ended = np.cumsum(row == end)
            part = np.where(row == end, np.where(ended == 1, 2, 4), np.where(ended == 0, 1, 3))
            part[:1] = 0
            scored = ~np.isnan(cost)
            sums[i] = np.bincount(part[scored], cost[scored], len(PARTS))
            counts[i] = np.bincount(part[scored], minlength=len(PARTS))
        return Scores(
            judge, sums, counts, np.asarray(replaced, dtype=np.int64), np.asarray(dropped, dtype=np.int64)
        )

    def rows(self) -> list[dict[str, Any]]:
        """One flat row a sequence, for a table: judge, nats_<part>, tokens_<part>, replaced, dropped."""
        return [
            {"judge": self.judge}
            | {f"nats_{part}": float(x) for part, x in zip(PARTS, nats, strict=True)}
            | {f"tokens_{part}": int(x) for part, x in zip(PARTS, tokens, strict=True)}
            | {"replaced": int(replaced), "dropped": int(dropped)}
            for nats, tokens, replaced, dropped in zip(
                self.nats, self.tokens, self.replaced, self.dropped, strict=True
            )
        ]

    @staticmethod
    def read(columns: Any) -> Scores:
        """Back from the columns of such rows (a data frame, or a dict of sequences), all of one judge."""
        judges = sorted(set(columns["judge"]))
        if len(judges) != 1:
            raise InputError(
                f"rows of {len(judges)} judges", "rows of one", "choose: frame[frame.judge == name]"
            )
        nats = np.stack([np.asarray(columns[f"nats_{part}"], dtype=np.float64) for part in PARTS], 1)
        tokens = np.stack([np.asarray(columns[f"tokens_{part}"], dtype=np.int64) for part in PARTS], 1)
        lost = (np.asarray(columns[name], dtype=np.int64) for name in ("replaced", "dropped"))
        return Scores(judges[0], nats, tokens, *lost)

    def sums(self, definition: str) -> tuple[Float, Int]:
        """S and T of every sequence, (n,) each; T = 0 where it has no token in the parts of the definition.

        Errors: InputError if that is so of all, or if the definition scores first tokens and the judge did not.
        """
        if definition not in DEFINITIONS:
            raise unknown_name("definition", definition, DEFINITIONS)
        at = [PARTS.index(part) for part in DEFINITIONS[definition].parts]
        if 0 in at and not self.tokens[:, 0].any():
            got, do = (
                f"scores of {self.judge} without a start symbol",
                "ask the judge with start=True, or use 'sedd'",
            )
            raise InputError(got, f"scored first tokens for {definition!r}", do)
        nats, tokens = self.nats[:, at].sum(1), self.tokens[:, at].sum(1)
        if not tokens.any():
            raise InputError(
                "no sequence with a scored token", "two tokens of text or more", "generate longer sequences"
            )
        return nats, tokens


def pool(nats: Float, tokens: Int, how: str, batch: int = 8) -> float:
    """The pooled perplexity of S and T, (n,) each, inf beyond e^709: see :class:`Definition`.

    ``batch``: of "batches", as even as n allows.
    """
    if how == "tokens":
        return _exp(nats.sum() / tokens.sum())
    if how == "batches":
        number = max(len(nats) // batch, 1)  # a sequence left out makes one batch shorter, and drops none
        sums = (np.add.reduceat(x, np.arange(number) * len(nats) // number) for x in (nats, tokens))
        with np.errstate(over="ignore"):
            return float(np.exp(np.divide(*sums)).mean())
    each = nats / tokens
    if how != "sequences":
        return _exp(each.mean())
    with np.errstate(over="ignore"):
        return float(np.exp(each).mean())


def _exp(nats: float) -> float:
    """e^nats, inf where it overflows."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def generative_perplexity(
    scores: Scores,
    definition: str = "mdlm",
    *,
    rng: np.random.Generator,
    batch: int = 8,
    confidence: float = 0.95,
) -> Estimate:
    """The perplexity of one of DEFINITIONS, BCa cluster bootstrap over sequences, ``n`` of them that have a
    scored token.

    ``batch``: sequences in a batch of "bd3lms", in the order given (its own configuration has 8).
    """
    (nats, tokens), size = scores.sums(definition), check_whole("batch", batch, 1)
    nats, tokens, how = nats[tokens > 0], tokens[tokens > 0], DEFINITIONS[definition].pool
    if how == "batches" and len(nats) > size:
        whole = len(nats) // size * size
        nats, tokens = nats[:whole], tokens[:whole]
    return cluster_bootstrap(
        lambda at: pool(nats[at], tokens[at], how, size), len(nats), rng=rng, confidence=confidence
    )


def perplexity_beside_diversity(
    tokens: ArrayLike,
    scores: Scores,
    *,
    rng: np.random.Generator,
    definition: str = "mdlm",
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """One row of a table: ``perplexity`` and, beside it, what cheap perplexity is bought with.

    ``tokens``: (n, length) generated ids; ``scores``: of the same n sequences. ``entropy_nats``,
    ``entropy_bits``: mean plug-in entropy of a sequence; ``distinct_1``, ``distinct_2``: of all sequences
    together (they fall with n);
    ``repetition_4``: mean rep-4. Intervals over sequences. Flat for a data frame: :func:`flat`.
    """
    rows = check_tokens(tokens)
    if len(rows) != len(scores):
        raise InputError(
            f"{len(rows)} sequences and {len(scores)} scores", "as many", "judge the same sequences"
        )
    entropy = diversity(rows, sequence_entropy, rng=rng, confidence=confidence)
    bits = to_bits(1.0)
    return {
        "perplexity": generative_perplexity(scores, definition, rng=rng, confidence=confidence),
        "entropy_nats": entropy,
        "entropy_bits": entropy.scaled(float(bits)),
        "distinct_1": diversity(rows, lambda x: distinct_n(x, 1), rng=rng, confidence=confidence),
        "distinct_2": diversity(rows, lambda x: distinct_n(x, 2), rng=rng, confidence=confidence),
        "repetition_4": diversity(rows, lambda x: repetition(x, 4), rng=rng, confidence=confidence),
    }


def flat(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """name, name_low, name_high of each estimate, one after another."""
    return {
        name + end: getattr(estimate, end[1:] or "value")
        for name, estimate in estimates.items()
        for end in ("", "_low", "_high")
    }
