"""Where logits come from: synthetic families, and rows recorded from real models."""

from .captured import Capture, load_capture, save_capture
from .target import TARGETS, Target, parse_target

__all__ = ["TARGETS", "Capture", "Target", "load_capture", "parse_target", "save_capture"]
