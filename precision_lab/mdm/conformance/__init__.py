"""Is this decoder what it is called? Tests that anyone can run on an implementation of a decoder of masked
diffusion.

The implementation decodes a small network whose every answer is a table, and which is told the time and
remembers what it was asked. What was asked and what came out is then judged: exactly where nothing is
random, else with a declared rate. A rule that is broken is named with the call, the text and the place that
show it.
"""

from .ancestral import ancestral_conformance, assert_ancestral_conformance
from .confidence import assert_confidence_conformance, confidence_conformance
from .first_hitting import assert_first_hitting_conformance, first_hitting_conformance
from .probe import Decode, Probe, ProbeConfig

__all__ = [
    "Decode",
    "Probe",
    "ProbeConfig",
    "ancestral_conformance",
    "assert_ancestral_conformance",
    "assert_confidence_conformance",
    "assert_first_hitting_conformance",
    "confidence_conformance",
    "first_hitting_conformance",
]
