"""One thread, hypothesis examples that are the same on every run, and no test that leaves the process changed."""

from __future__ import annotations

import os
import sys
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("contract", "wide_tables")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
torch.set_num_threads(1)
settings.register_profile(
    "reproducible",
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("reproducible")


def shared_settings() -> dict[str, Any]:
    """What one test can change under another: jax's only once it is imported."""
    found = {
        "torch threads": torch.get_num_threads(),
        "torch default dtype": torch.get_default_dtype(),
        "torch gradients": torch.is_grad_enabled(),
        "torch deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch denormals": float(torch.tensor(2.0**-140) * 1) > 0,
        "mpmath digits": mpmath.mp.dps,
        "folder": os.getcwd(),
    }
    if "jax" in sys.modules:
        config = sys.modules["jax"].config
        found |= {
            name: getattr(config, name)
            for name in ("jax_enable_x64", "jax_platforms", "jax_default_matmul_precision")
        }
    return found


@pytest.fixture(autouse=True)
def nothing_is_left_changed():
    """An error at the end of the test that changed a setting which others share."""
    before = shared_settings()
    yield
    after = shared_settings()
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert not changed, f"left changed, (before, after): {changed}"
