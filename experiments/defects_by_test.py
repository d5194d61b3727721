"""Which test sees which defect? Twelve defects of published samplers against every test of ours and every
public rule.

By law, without a draw: how many draws each of our tests needs (false-fail and false-pass rate 1e-6 each), or
that it cannot see the defect at any n; and with what probability each publisher's rule would pass the
defect, at the publisher's own n, beside the probability that it passes a right sampler. Then, on the same n
draws for all, the verdicts: ours at a false-fail rate of 1e-3, theirs at their own thresholds. Each defect
on its telling target (that of ``precision-lab gallery --defects``) and on two common ones. Laws are exact
but for closed forms of 9 (a race with exact zeros), of 12 on the step (the lattice's) and of 11 on the
common targets; the marginals of 5 and 6 are right, so that only independence can tell. The target counts as
exactly known. "coupled" is at best: two samplers on the same words that differ only where they must.
Cost: quick 15 seconds, full ten minutes, 3 GiB.
"""

from dataclasses import replace

import numpy as np
from matplotlib.colors import LogNorm, Normalize

from precision_lab import figures, statistics
from precision_lab.calibration.defective import COMMON, DEFECTIVE
from precision_lab.calibration.every_test import LEVEL, TESTS, fails, needed, said
from precision_lab.laws.law import target_law
from precision_lab.statistics import Chance, Counts
from precision_lab.study import Analysis, Study
from precision_lab.uniforms.murmur import murmur3_state

# ---------------------------------------------------------------- grid

QUICK = [5, 6, 9, 10, 1, 12]  # defects of cheap laws


def cells(profile):
    if profile == "full":
        telling = [(defect, case.telling) for defect, case in DEFECTIVE.items()]
        common = [(defect, name) for defect in DEFECTIVE for name in COMMON]
        pairs, n = dict.fromkeys(telling + common), 2000
    else:
        defects = QUICK[:2] if profile == "smoke" else QUICK
        pairs, n = [(defect, DEFECTIVE[defect].telling) for defect in defects], 300
    return [{"defect": defect, "target": target, "n": n} for defect, target in pairs]


# ------------------------------------------------------------- measure

VECTORS = Chance.of_bits(1000)  # of independent noise vectors of 1,000 tokens or more


class Drawn:
    """One cell: the law of the defect and of the target, n draws of either."""

    def __init__(self, cell, rng):
        self.case, self.target, self.n = DEFECTIVE[cell["defect"]], cell["target"], cell["n"]
        self.row = self.case.logits(self.target)
        self.p = replace(target_law(self.row), error=0.0)
        self.q, self.tokens = self.case.law(self.row, self.p), self.case.draw(self.row, self.n, rng)
        first = self.tokens if self.tokens.ndim == 1 else self.tokens[:, 0]
        self.counts = Counts.from_tokens(first, self.p.vocab)
        right = rng.multinomial(self.n, self.p.probs / self.p.probs.sum())
        self.right = Counts(right.astype(np.int64), self.n)

    def pairs(self):
        """(n, 2) draws that may know of each other."""
        if self.tokens.ndim == 2:
            return self.tokens
        return self.tokens[: self.n // 2 * 2].reshape(-1, 2)


def measure(cell, rng):
    drawn = Drawn(cell, rng)
    rows = one_token_tests(drawn, rng)
    rows.append(agreement(drawn))
    rows += [public_rule(rule, drawn) for rule in statistics.PUBLIC_CRITERIA.values()]
    if drawn.case.sampler == "shared":
        rows.append(shared_streams(drawn, rng))
    if drawn.case.sampler == "states":
        rows += repeated_states(drawn, rng)
    head = {"defect": cell["defect"], "what": drawn.case.what, "sampler": drawn.case.sampler}
    return [head | {"target": cell["target"], "n": cell["n"]} | row for row in rows]


def ours(test, needs, failed):
    return {"test": test, "by": "ours", "needs": needs, "failed": failed}


def theirs(test, wrong, fair, failed, failed_right):
    """``wrong``, ``fair``: forecasts for the defect and for a right sampler, None where the rule has none."""
    row = {"test": test, "by": "public", "failed": failed, "failed_right": failed_right}
    if wrong is None:
        return row
    return row | {"passes": wrong.passes, "right": fair.passes, "their_n": wrong.n}


def refused(rule, *draws):
    found = said(rule, *draws)
    return None if found is None else not found.passed


def one_token_tests(drawn, rng):
    p, q, row = drawn.p, drawn.q, drawn.row
    step = drawn.target.startswith("mdm step")
    rows = []
    for test in TESTS[:-2]:
        failed = fails(test, drawn.counts, p, q, row, drawn.right, rng=rng, step=step)
        rows.append(ours(test, needed(test, p, q, row, step=step) if drawn.case.marginal else None, failed))
    return rows


def agreement(drawn):
    pairs, q = drawn.pairs(), drawn.q
    failed = said(lambda: statistics.agreement_test(pairs[:, 0], pairs[:, 1], q, q).p_value <= LEVEL)
    needs = statistics.draws_needed_sharing(drawn.p, drawn.p) if drawn.case.sampler == "shared" else None
    return ours("agreement", needs, failed and bool(failed))


def public_rule(rule, drawn):
    p, q = drawn.p, drawn.q
    forecasts = said(rule.forecast, q, p), said(rule.forecast, p, p)
    return theirs(rule.name, *forecasts, refused(rule, drawn.counts, p), refused(rule, drawn.right, p))


def shared_streams(drawn, rng):
    pairs = drawn.pairs()
    other = rng.permutation(pairs[:, 1])
    failed = [
        refused(statistics.vllm_streams, pairs[:, 0], second, drawn.p) for second in (pairs[:, 1], other)
    ]
    forecasts = [statistics.forecast_vllm_streams(drawn.p, share) for share in (1.0, 0.0)]
    return theirs("vllm_streams", *forecasts, *failed)


def repeated_states(drawn, rng):
    states = murmur3_state(rng.integers(0, 1 << 62, drawn.n), np.zeros(drawn.n, dtype=np.int64))
    again = statistics.repeated_vector_test(states, VECTORS).p_value <= LEVEL
    needs = statistics.draws_needed_state_bits(32, VECTORS)
    vectors = (states, np.arange(drawn.n))
    failed = [refused(statistics.pytorch_repeats, each[:, None]) for each in vectors]
    forecasts = [statistics.forecast_pytorch_repeats(bits) for bits in (32.0, 1000.0)]
    return [ours("repeated_vector", needs, bool(again)), theirs("pytorch_repeats", *forecasts, *failed)]


# ------------------------------------------------------------- analyse

PAIR = ["defect", "target"]
AT_BEST = ["coupled", "lack_of_fit"]  # at best, on average: not counted


def analyse(rows):
    counted = rows[(rows.by == "ours") & ~rows.test.isin(AT_BEST)]
    public = rows[(rows.by == "public") & rows["right"].notna()]
    fair = public[public["right"] >= 0.5]
    needs = counted.groupby(PAIR).needs.min()
    n = int(rows.n.max())
    failed = {
        by: rows[(rows.by == by) & rows.failed.eq(True)].groupby(PAIR).ngroups for by in ("ours", "public")
    }
    only = fair[fair.failed.eq(True) & fair.failed_right.eq(False)].groupby(PAIR).ngroups
    notes = [
        f"{rows.groupby(PAIR).ngroups} pairs of a defect and a target",
        "draws needed at 1e-6 either way by the test of ours that needs fewest, telling target: "
        + ", ".join(f"{r.defect} {r.needs:.2g} ({r.test})" for r in fewest(counted).itertuples()),
        f"of all pairs ours see {(needs <= 1e6).sum()} within 1e6 draws, {(needs <= 1e9).sum()} within 1e9, "
        f"{needs.notna().sum()} at some n",
        "a rule that would pass a right sampler (P >= 1/2) fails "
        f"{fair[fair.passes < 0.5].groupby(PAIR).ngroups} of them (P > 1/2) at its publisher's n",
        f"{len(public) - len(fair)} of {len(public)} forecasts of a rule would fail a right sampler too",
        f"on {n:,} draws a test of ours failed {failed['ours']} of the pairs at 1e-3, "
        f"a rule {failed['public']}, but {only} where it passed as many right draws",
    ]
    return Analysis(notes=notes)


def fewest(counted):
    """Of each defect on its telling target, the test that needs fewest draws."""
    telling = counted[counted.target == counted.defect.map(lambda defect: DEFECTIVE[defect].telling)]
    return telling.loc[telling.groupby("defect").needs.idxmin().astype(int)]


# -------------------------------------------------------------- figure

THEIRS = [*statistics.PUBLIC_CRITERIA, "vllm_streams", "pytorch_repeats"]
OURS_TITLE = (
    "Our tests: draws needed at error rates of 1e-6, from the laws "
    "(lack_of_fit: on average; coupled: at best)\n"
    "grey: no number of draws; dot: failed {n:,} real draws, at 1e-3"
)
THEIRS_TITLE = (
    "Published rules: P(the defect passes) at the publisher's n, from the laws; hatched: right ones fail\n"
    "dot: failed the same {n:,} draws (open: and {n:,} right ones)"
)


def figure(rows, analysis):
    rows = rows.sort_values("defect", kind="stable")
    rows = rows.assign(case=rows.defect.astype(str) + "  " + rows.what + " | " + rows.target)
    drawn, (left, right) = figures.canvas(2, width=7.4, height=1.7 + 0.24 * rows["case"].nunique())
    n = int(rows.n.max())
    paint(left, rows, "ours", "needs", LogNorm(10, 1e10), figures.power_of_ten)
    left.set_title(OURS_TITLE.format(n=n), fontsize=8)
    paint(right, rows, "public", "passes", Normalize(0, 1), share_text)
    right.set_yticks([])
    right.set_title(THEIRS_TITLE.format(n=n), fontsize=8)
    for i, j in np.argwhere((pivoted(rows, "public", "right") < 0.5).to_numpy()):
        corners = [j, j + 1, j + 1, j], [i, i, i + 1, i + 1]
        right.fill(*corners, fill=False, hatch="////", lw=0, ec="#777777")
    return drawn


def share_text(value):
    return f"{value:.2g}" if value > 1e-3 else "0"


def pivoted(rows, by, value):
    """(cases, tests) of one column; NaN where there is no row."""
    table = rows[rows.by == by].pivot(index="case", columns="test", values=value)
    columns = [test for test in (TESTS if by == "ours" else THEIRS) if test in table]
    return table.reindex(index=list(dict.fromkeys(rows["case"])), columns=columns)


def paint(axes, rows, by, column, norm, text):
    """A square a case and test with its number; a dot where it failed the draws, open if it failed right
    ones too."""
    values = pivoted(rows, by, column)
    failed, unfair = (pivoted(rows, by, name).eq(True).to_numpy() for name in ("failed", "failed_right"))
    shown = np.ma.masked_invalid(values.to_numpy(dtype=float))
    axes.set_facecolor("#dddddd")
    axes.pcolormesh(shown, norm=norm, cmap="RdYlGn_r", edgecolors="white", linewidth=0.8, alpha=0.75)
    for i, j in np.ndindex(shown.shape):
        if not np.ma.is_masked(shown[i, j]):
            axes.text(j + 0.45, i + 0.66, text(shown[i, j]), ha="center", fontsize=6)
        if failed[i, j]:
            face = "none" if unfair[i, j] else "black"
            axes.plot(j + 0.87, i + 0.5, marker="o", ms=3.4, color="black", mfc=face, mew=0.7)
    axes.set_xticks(np.arange(shown.shape[1]) + 0.5, values.columns, rotation=35, ha="right", fontsize=7)
    axes.set_yticks(np.arange(shown.shape[0]) + 0.5, values.index, fontsize=7)
    axes.grid(False)
    axes.invert_yaxis()


STUDY = Study(
    name="defects_by_test",
    question="Which test sees which defect of a published sampler, and after how many draws?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
)
