"""The faithful sampler as Triton kernels, for CUDA tensors: the same tokens as on a CPU, word for word.

``sums``: masses of a row, summed in blocks, in the pass after the one that finds its largest logit.
``choice``: a whole number below the sum of the sums, its block, its token.
``cuts``: top-k, top-p and min-p by bisection, without a sort.
``gumbel``: Gumbel-max in float32 and in float64, to compare with.

Needs the package triton, which comes with torch for CUDA (elsewhere: the extra ``triton``); nothing of it is
imported before a kernel is asked for. With TRITON_INTERPRET=1 the kernels run on a CPU, slowly.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch

from ...errors import InputError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@cache
def available() -> bool:
    """Whether the package triton is installed."""
    return find_spec("triton") is not None


def require() -> None:
    """Raises InputError where there is no Triton."""
    if not available():
        raise InputError(
            "no package triton",
            "one, for kernels",
            "pip install 'precision-lab[triton]'; without it categorical() draws the same tokens by torch operations",
        )


__all__ = ["DTYPES", "available", "require"]
