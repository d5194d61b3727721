"""The kernels built for a card that need not be there: they compile, and no product is fused with a sum.

Not collected by itself: test_kernels.py runs it in a process of its own, as Triton must not be in its
interpreter.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from precision_lab.faithful.kernels import launch
from precision_lab.faithful.truncation import COUNT, MASS, RATIO

H100 = GPUTarget("cuda", 90, 32)
TYPES = {
    "row_stride": "i64",
    **dict.fromkeys(("token_stride", "vocab", "blocks", "tiles_each", "rows", "draw_from", "seed"), "i32"),
    **dict.fromkeys(("room", "over", "dropped", "whole", "ties"), "i32"),
    **dict.fromkeys(("peaks", "divisors"), "*fp32"),
    **dict.fromkeys(("least", "shares"), "*fp64"),
    **dict.fromkeys(("state", "sums", "words", "ids"), "*i64"),
}
SUMS = {"PEAK": True, "BLOCKS": 8, "BLOCK": 256, "WIDTH": 256}
CHOICE = {"BLOCK": 256, "MOST_BLOCKS": 1024}
FUSED = {"enable_fp_fusion": True}


def built(kernel: Any, logits: str, constants: dict[str, Any], options: dict[str, Any]) -> str:
    """The instructions of the card, for logits of that type."""
    types = {"logits": logits, **TYPES}
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs=places)
    return triton.compile(source, target=H100, options={"num_warps": 8, **options}).asm["sass"]


def products(code: str) -> tuple[int, int]:
    """How many float32 products it has, alone and fused with a sum."""
    return len(re.findall(r"\bFMUL\b", code)), len(re.findall(r"\bFFMA\b", code))


def test_a_mass_has_nine_products_and_four_exact_ones_fused():
    """As :func:`arithmetic.mass_parts` writes it; with fusion allowed the compiler takes others into sums."""
    constants = {"HEAT": False, "CUT": False, **SUMS}
    alone, fused = products(built(launch.block_sums, "*bf16", constants, launch.SEPARATE))
    masses = alone // 9
    assert masses >= 8
    assert (alone, fused) == (9 * masses, 4 * masses)
    assert products(built(launch.block_sums, "*bf16", constants, FUSED))[1] > 4 * masses


@pytest.mark.parametrize("logits", ["*fp32", "*fp16"])
def test_sums_of_what_is_left(logits):
    assert "EXIT" in built(launch.block_sums, logits, {"HEAT": True, "CUT": True, **SUMS}, launch.SEPARATE)


@pytest.mark.parametrize("cut", [False, True])
def test_choice(cut):
    assert "EXIT" in built(launch.choose, "*fp32", {"HEAT": cut, "CUT": cut, **CHOICE}, launch.SEPARATE)


@pytest.mark.parametrize("kind", [COUNT, MASS, RATIO])
def test_cuts(kind):
    assert "EXIT" in built(launch.cut_row, "*fp32", {"KIND": kind, "TILE": launch.TILE}, launch.SEPARATE)


@pytest.mark.parametrize("wide", [False, True])
def test_gumbel(wide):
    assert "EXIT" in built(launch.gumbel_kernel, "*bf16", {"WIDE": wide, "TILE": 1024}, {})
