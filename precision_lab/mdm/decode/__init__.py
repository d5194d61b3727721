"""Decoders: from a network and any categorical sampler to text. Each records what it cost and when each
token came.

| decoder | network calls | law |
|---|---|---|
| ancestral | at most N, cached; without a sampler at most one a token | of N steps; without a sampler exactly |
| two_stage | at most one a token | of N steps; the sampler never meets the mask |
| event_driven | at most one a token | of N steps of a sampler known by its law |
| first_hitting | one a token, or ``per_call`` tokens each | ancestral, N -> infinity; parallel: approximate |
| confidence_ordered | as asked | not the model's |
| autoregressive | one a token | of a causal network |
"""

from .ancestral import ancestral
from .autoregressive import autoregressive
from .confidence import confidence_ordered
from .decoded import Decoded, Network
from .event_driven import Candidate, event_driven
from .first_hitting import even_counts, first_hitting, hitting_times
from .two_stage import two_stage

__all__ = [
    "Candidate",
    "Decoded",
    "Network",
    "ancestral",
    "autoregressive",
    "confidence_ordered",
    "even_counts",
    "event_driven",
    "first_hitting",
    "hitting_times",
    "two_stage",
]
