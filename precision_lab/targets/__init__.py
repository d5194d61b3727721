"""Where logits come from: synthetic families, and rows recorded from real models."""

from .captured import Capture, load_capture, save_capture
from .target import TARGETS, Target, parse_target
from .use import Use, parse_use

__all__ = ["TARGETS", "Capture", "Target", "Use", "load_capture", "parse_target", "parse_use", "save_capture"]
