"""One thread, and hypothesis examples that are the same on every run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("contract")
torch.set_num_threads(1)
settings.register_profile(
    "reproducible", deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("reproducible")
