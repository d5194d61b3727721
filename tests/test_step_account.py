"""The account of a decoding run: what a right law expects is what comes, on average, and what a wrong one expects is not."""

from __future__ import annotations

import numpy as np
from test_event_driven import Answers

from precision_lab.laws.process import faithful_step, lattice_step, times_alone, tokens_alone, two_stage_step
from precision_lab.mdm.decode import event_driven
from precision_lab.mdm.step_account import StepAccount

LAWS = {"faithful": faithful_step, "coarse": lambda log_p, r: lattice_step(log_p, r, bits=8)}


def z(x: np.ndarray) -> float:
    return float(x.mean() / (x.std() / np.sqrt(len(x))))


class TestStepAccount:
    def test_a_run_follows_its_own_law_and_no_other(self):
        """2000 runs of 2 positions in 12 steps on a random network, decoded by a lattice of 8 bits. z of what came less what
        its own law expects is below 6 (false-fail 2e-9 for each of two sums); the faithful law is 10 or more off in both."""
        account = StepAccount(2000, LAWS)
        network = Answers(2, 30, spread=2.0)
        event_driven(
            network,
            LAWS["coarse"],
            batch=2000,
            length=2,
            steps=12,
            rng=np.random.default_rng(0),
            excess=2.0**-8,
            watch=account,
        )
        of = {what: np.array([row[what] for row in account.rows]) for what in account.rows[0]}
        for what in ("count", "surprise"):
            assert abs(z(of[what] - of[f"{what}_coarse"])) < 6
            assert abs(z(of[what] - of[f"{what}_faithful"])) > 10

    def test_what_came(self):
        account, network = StepAccount(4, LAWS), Answers(2, 5)
        seen = []

        def watch(candidate):
            seen.append((candidate, account(candidate)))

        event_driven(
            network, faithful_step, batch=4, length=2, steps=3, rng=np.random.default_rng(1), watch=watch
        )
        assert all((laws == {}) == (c.step == 2) for c, laws in seen)
        for i, row in enumerate(account.rows):
            came = [c for c, _ in seen if c.sequence == i and c.token >= 0]
            assert len(came) == 2
            np.testing.assert_allclose(row["nll"], -sum(c.log_mu[c.token] for c in came))
            assert row["count"] == sum(c.step < 2 for c in came)
            np.testing.assert_allclose(row["context"], -sum(np.exp(c.log_mu) @ c.log_mu for c in came))
            faithful = sum(c.r / c.bound for c, _ in seen if c.sequence == i and c.step < 2)
            np.testing.assert_allclose([row["count_faithful"], row["candidates"]], faithful)
            np.testing.assert_allclose(row["surprise_faithful"], 0, atol=1e-12)


class TestChangedLaws:
    """float32's law taken apart: the rate of one and the tokens of another, exactly."""

    LOG_P = np.log(np.array([0.7, 0.25, 0.05 - 1e-6, 1e-6]))

    def test_rate_and_tokens(self):
        r, p = 1e-3, np.exp(self.LOG_P)
        q = lattice_step(self.LOG_P, r)
        assert not np.isclose(q.sum(), r, rtol=1e-6)
        tokens, times, two = (
            f(self.LOG_P, r) for f in (tokens_alone(lattice_step), times_alone(lattice_step), two_stage_step)
        )
        np.testing.assert_allclose([tokens.sum(), times.sum(), two.sum()], [r, q.sum(), r])
        np.testing.assert_allclose(tokens / r, q / q.sum())
        np.testing.assert_allclose(times / times.sum(), p)
        one = lattice_step(self.LOG_P, 1.0)
        np.testing.assert_allclose(two / r, one / one.sum())

    def test_two_stages_have_no_race(self):
        """A token of 1e-6 at r = 1e-3: float32 takes nearly all of it in the race (y = 60), next to nothing in a draw of mu."""
        q, two = lattice_step(self.LOG_P, 1e-3), two_stage_step(self.LOG_P, 1e-3)
        assert q[3] / (1e-3 * 1e-6) < 1e-3 + 2.0**-24 / 1e-3
        assert two[3] / (1e-3 * 1e-6) > 0.95
