"""What distribution does a categorical sampler really draw from?

from precision_lab import SAMPLERS, law
law("gumbel_max_fp32", logits).probs
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .laws.law import Law, target_law
    from .samplers import SAMPLERS, resolve

__all__ = ["SAMPLERS", "Law", "law", "resolve", "target_law"]
__version__ = "0.1.0"


def law(sampler: Any, logits: Any) -> Law:
    """The law of ``sampler`` on one row of logits, (vocab,): a name, a Sampler, a function, or
    ``file.py:fn`` naming one.

    A function is read as it runs, on the device and in the dtype of the logits; logits that are no tensor
    are given to it as float32. Returns a :class:`~precision_lab.laws.law.Law`: ``.probs``, ``.log_probs``,
    ``.error``, ``.guarantee``.
    InputError where the function cannot be read: the message names the operation and what to do.
    """
    import torch

    from .samplers import FunctionSampler, resolve

    found = resolve(sampler)
    if isinstance(found, FunctionSampler) and not isinstance(logits, torch.Tensor):
        import numpy as np

        logits = torch.from_numpy(np.asarray(logits, dtype=np.float32))
    return found.law(logits)


def __getattr__(name: str) -> Any:  # heavy imports only when asked for
    if name in ("SAMPLERS", "resolve"):
        from . import samplers

        return getattr(samplers, name)
    if name in ("Law", "target_law"):
        from .laws import law as module

        return getattr(module, name)
    raise AttributeError(name)
