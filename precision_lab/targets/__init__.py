"""Where logits come from: synthetic families, and rows recorded from real models."""

from .captured import Capture, is_file_of_logits, load_capture, load_row, save_capture
from .target import TARGETS, Target, parse_target
from .use import Use, parse_use

__all__ = [
    "TARGETS",
    "Capture",
    "Target",
    "Use",
    "is_file_of_logits",
    "load_capture",
    "load_row",
    "parse_target",
    "parse_use",
    "save_capture",
]
