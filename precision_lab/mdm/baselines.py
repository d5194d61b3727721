"""Two count models that any trained network must beat: the unigram entropy and an interpolated trigram."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from .corpus import check_ids


def unigram_cross_entropy(train: np.ndarray, validation: np.ndarray, vocab: int) -> float:
    """-mean log p(x) of the add-one unigram law of ``train``, in nats per token of ``validation``."""
    check_texts(train, validation, vocab)
    counts = np.bincount(train, minlength=vocab) + 1.0
    return float(-np.log(counts / counts.sum())[validation].mean())


def trigram_cross_entropy(train: np.ndarray, validation: np.ndarray, vocab: int) -> float:
    """Nats per token of an interpolated trigram, Witten-Bell smoothing (Bell, Cleary, Witten 1990).

    ``p(w|h) = (c(hw) + t(h) p(w|h')) / (c(h) + t(h))`` with t(h) the number of distinct words seen after h, down to the
    add-one unigram. The first two tokens of ``validation`` are context only.
    """
    check_texts(train, validation, vocab)
    counts = np.bincount(train, minlength=vocab) + 1.0
    probs = (counts / counts.sum())[validation[2:]]
    for order in (2, 3):
        seen, context = _codes(train, order, vocab), _codes(train[:-1], order - 1, vocab)
        grams, gram_counts = np.unique(seen, return_counts=True)
        heads, types = np.unique(grams // vocab, return_counts=True)
        histories, history_counts = np.unique(context, return_counts=True)
        wanted = _codes(validation, order, vocab)[3 - order :]
        c_gram = _lookup(grams, gram_counts, wanted)
        c_history = _lookup(histories, history_counts, wanted // vocab)
        t_history = _lookup(heads, types, wanted // vocab)
        known = t_history > 0
        probs = np.where(known, (c_gram + t_history * probs) / np.where(known, c_history + t_history, 1), probs)
    return float(-np.log(probs).mean())


def check_texts(train: np.ndarray, validation: np.ndarray, vocab: int) -> None:
    """InputError unless both are token ids below ``vocab``, three of them or more: one trigram."""
    for tokens in (train, validation):
        check_ids(tokens, vocab)
        if len(tokens) < 3:
            raise InputError(f"a text of {len(tokens)} tokens", "three or more", "use a longer text")


def _codes(tokens: np.ndarray, order: int, vocab: int) -> np.ndarray:
    """One integer per n-gram, in order of its last token."""
    wide = tokens.astype(np.int64)
    code = np.zeros(len(wide) - order + 1, dtype=np.int64)
    for k in range(order):
        code = code * vocab + wide[k : len(wide) - order + 1 + k]
    return code


def _lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
