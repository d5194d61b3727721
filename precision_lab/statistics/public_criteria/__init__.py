"""What publishers ask of a sampler before they ship it, as functions, and what each would say of a law that we know.

A :class:`Rule` judges counts (call it) and foresees its own verdict on a law without a draw (:meth:`Rule.forecast`). The
others look at noise or at two streams, each with a ``forecast_`` of its own. All were read at the public source that
``source_ref`` names: repository, file, test, commit. They are here to show what they cannot see.
"""

from .chi_square import FLASHSAMPLING_CHI_SQUARE, JAX_CHI_SQUARE, PYTORCH_CHI_SQUARE, VLLM_CHI_SQUARE
from .cosine import FLASHINFER_COSINE, passing_temperatures
from .noise import forecast_jax_gumbel_ks, jax_gumbel_ks, jax_gumbel_tail
from .rule import Criterion, Forecast, Rule
from .streams import forecast_pytorch_repeats, forecast_vllm_streams, pytorch_repeats, vllm_streams
from .tail import VLLM_COVERAGE, VLLM_TAIL

PUBLIC_CRITERIA = {
    rule.name: rule
    for rule in (
        FLASHINFER_COSINE,
        FLASHSAMPLING_CHI_SQUARE,
        JAX_CHI_SQUARE,
        PYTORCH_CHI_SQUARE,
        VLLM_CHI_SQUARE,
        VLLM_COVERAGE,
        VLLM_TAIL,
    )
}

__all__ = [
    "PUBLIC_CRITERIA",
    "Criterion",
    "Forecast",
    "Rule",
    "forecast_jax_gumbel_ks",
    "forecast_pytorch_repeats",
    "forecast_vllm_streams",
    "jax_gumbel_ks",
    "jax_gumbel_tail",
    "passing_temperatures",
    "pytorch_repeats",
    "vllm_streams",
]
