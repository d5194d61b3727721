"""What came in a decoding run, and what each law of a step expects on the states that it visits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..laws.process import StepLaw
from ..types import Float
from .decode import Candidate


class StepAccount:
    """A ``watch`` of :func:`~precision_lab.mdm.decode.event_driven`; ``rows``: one dictionary of sums a sequence.

    "nll", "context": -log mu of the tokens that came and the entropy H(mu) where they came, nats, all steps.
    All steps but the last, where everything must come: "count", tokens that came; "surprise", their -log mu - H(mu);
    "candidates", sum of r / bound; "count_{law}", "surprise_{law}": what each of ``laws`` expects at the candidates, over
    bound. So count_{law} / candidates estimates a law's unmasking multiplier on these states and -surprise_{law} /
    count_{law} the surprise that it loses, weighted as steps are; under the law that decodes, count - count_{law} and
    surprise - surprise_{law} are 0 on average, whatever the network.
    """

    def __init__(self, sequences: int, laws: Mapping[str, StepLaw]) -> None:
        self.laws = laws
        expected = [f"{what}_{law}" for law in laws for what in ("count", "surprise")]
        self.rows = [
            dict.fromkeys(["nll", "context", "count", "surprise", *expected, "candidates"], 0.0)
            for _ in range(sequences)
        ]

    def __call__(self, seen: Candidate) -> dict[str, Float]:
        """Add one candidate. Law -> (vocab,) its probabilities of the token given the candidate; none in the last step."""
        sums, entropy = self.rows[seen.sequence], -float(np.exp(seen.log_mu) @ seen.log_mu)
        surprise = -seen.log_mu - entropy
        if seen.token >= 0:
            sums["nll"] -= float(seen.log_mu[seen.token])
            sums["context"] += entropy
        if seen.r == 1:
            return {}
        if seen.token >= 0:
            sums["count"] += 1
            sums["surprise"] += float(surprise[seen.token])
        sums["candidates"] += seen.r / seen.bound
        given = {name: law(seen.log_mu, seen.r) / seen.bound for name, law in self.laws.items()}
        for name, q in given.items():
            sums[f"count_{name}"] += float(q.sum())
            sums[f"surprise_{name}"] += float(q @ surprise)
        return given
