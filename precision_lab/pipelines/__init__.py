"""What stands between logits and a draw: temperature, top-k, top-p and min-p, in an order and a dtype."""

from ..steps import MinP, Step, Temperature, TopK, TopP
from .doubt import Doubt
from .pipeline import Pipeline, row_laws, settings
from .texts import PublishedPipeline, parse_pipeline

__all__ = [
    "Doubt",
    "MinP",
    "Pipeline",
    "PublishedPipeline",
    "Step",
    "Temperature",
    "TopK",
    "TopP",
    "parse_pipeline",
    "row_laws",
    "settings",
]
