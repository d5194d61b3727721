"""Which test sees which defect? Twelve defects of published samplers against every test of ours and every public rule.

By law, without a draw: how many draws each of our tests needs (false-fail and false-pass rate 1e-6 each), or that it
cannot see the defect at any n; and with what probability each publisher's rule would pass the defect, at the publisher's
own n, beside the probability that it passes a right sampler. Then, on the same n draws for all, the verdicts: ours at a
false-fail rate of 1e-3, theirs at their own thresholds. Each defect on its telling target (that of ``precision-lab
gallery --defects``) and on two common ones. Laws are exact but for closed forms of 9 (a race with exact zeros), of 12 on
the step (the lattice's) and of 11 on the common targets; the marginals of 5 and 6 are right, so that only independence
can tell. The target counts as exactly known. "coupled" is at best: two samplers on the same words that differ only where
they must. Cost: quick 15 seconds, full ten minutes, 3 GiB.
"""

from dataclasses import replace

import numpy as np
from matplotlib.colors import LogNorm, Normalize

from precision_lab import figures
from precision_lab import statistics as judge
from precision_lab.calibration.defective import COMMON, DEFECTIVE
from precision_lab.calibration.every_test import LEVEL, TESTS, fails, needed, said
from precision_lab.laws.law import target_law
from precision_lab.statistics import Chance, Counts
from precision_lab.study import Study
from precision_lab.uniforms.murmur import murmur3_state

VECTORS = Chance.of_bits(1000)  # of independent noise vectors of 1,000 tokens or more
QUICK = [5, 6, 9, 10, 1, 12]  # of cheap laws
BEST = ["coupled", "lack_of_fit"]  # at best, on average
THEIRS = [*judge.PUBLIC_CRITERIA, "vllm_streams", "pytorch_repeats"]


def cells(profile):
    if profile != "full":
        return [
            {"defect": k, "target": DEFECTIVE[k].telling, "n": 300} for k in QUICK[: 2 if profile == "smoke" else None]
        ]
    own = [(k, case.telling) for k, case in DEFECTIVE.items()]
    both = dict.fromkeys(own + [(k, name) for k in DEFECTIVE for name in COMMON])
    return [{"defect": k, "target": target, "n": 2000} for k, target in both]


def measure(cell, rng):
    case, target, n = DEFECTIVE[cell["defect"]], cell["target"], cell["n"]
    row = case.logits(target)
    p = replace(target_law(row), error=0.0)
    q, drawn = case.law(row, p), case.draw(row, n, rng)
    counts = Counts.from_tokens(drawn if drawn.ndim == 1 else drawn[:, 0], p.vocab)
    right = Counts(rng.multinomial(n, p.probs / p.probs.sum()).astype(np.int64), n)
    head = {"defect": cell["defect"], "what": case.what, "sampler": case.sampler, "target": target, "n": n}
    rows, step = [], {"step": target.startswith("mdm step")}

    def ours(test, needs, failed):
        rows.append(head | {"test": test, "by": "ours", "needs": needs, "failed": failed})

    def theirs(test, wrong, fair, failed, failed_right):
        known = {} if wrong is None else {"passes": wrong.passes, "right": fair.passes, "their_n": wrong.n}
        rows.append(head | {"test": test, "by": "public", "failed": failed, "failed_right": failed_right} | known)

    def refused(rule, *draws):
        found = said(rule, *draws)
        return None if found is None else not found.passed

    for test in TESTS[:-2]:
        failed = fails(test, counts, p, q, row, right, rng=rng, **step)
        ours(test, needed(test, p, q, row, **step) if case.marginal else None, failed)
    pairs = drawn if drawn.ndim == 2 else drawn[: n // 2 * 2].reshape(-1, 2)
    agree = said(lambda: judge.agreement_test(pairs[:, 0], pairs[:, 1], q, q).p_value <= LEVEL)
    ours("agreement", judge.draws_needed_sharing(p, p) if case.sampler == "shared" else None, agree and bool(agree))
    for rule in judge.PUBLIC_CRITERIA.values():
        theirs(
            rule.name,
            said(rule.forecast, q, p),
            said(rule.forecast, p, p),
            refused(rule, counts, p),
            refused(rule, right, p),
        )
    if case.sampler == "shared":
        other = rng.permutation(pairs[:, 1])
        failed = [refused(judge.vllm_streams, pairs[:, 0], second, p) for second in (pairs[:, 1], other)]
        theirs("vllm_streams", *(judge.forecast_vllm_streams(p, share) for share in (1.0, 0.0)), *failed)
    if case.sampler == "states":
        states = murmur3_state(rng.integers(0, 1 << 62, n), np.zeros(n, dtype=np.int64))
        again = judge.repeated_vector_test(states, VECTORS).p_value <= LEVEL
        ours("repeated_vector", judge.draws_needed_state_bits(32, VECTORS), bool(again))
        failed = [refused(judge.pytorch_repeats, vectors[:, None]) for vectors in (states, np.arange(n))]
        theirs("pytorch_repeats", *(judge.forecast_pytorch_repeats(bits) for bits in (32.0, 1000.0)), *failed)
    return rows


def grid(frame, by, value):
    """(cases, tests) of one column; NaN where there is no row."""
    table = frame[frame.by == by].pivot(index="case", columns="test", values=value)
    columns = [test for test in (TESTS if by == "ours" else THEIRS) if test in table]
    return table.reindex(index=list(dict.fromkeys(frame["case"])), columns=columns)


def paint(axes, values, frame, by, norm, say):
    failed, unfair = (grid(frame, by, column).eq(True).to_numpy() for column in ("failed", "failed_right"))
    shown = np.ma.masked_invalid(values.to_numpy(dtype=float))
    axes.set_facecolor("#dddddd")
    axes.pcolormesh(shown, norm=norm, cmap="RdYlGn_r", edgecolors="white", linewidth=0.8, alpha=0.75)
    for i, j in np.ndindex(shown.shape):
        if not np.ma.is_masked(shown[i, j]):
            axes.text(j + 0.45, i + 0.66, say(shown[i, j]), ha="center", fontsize=6)
        if failed[i, j]:
            axes.plot(
                j + 0.87, i + 0.5, marker="o", ms=3.4, color="black", mfc="none" if unfair[i, j] else "black", mew=0.7
            )
    axes.set_xticks(np.arange(shown.shape[1]) + 0.5, values.columns, rotation=35, ha="right", fontsize=7)
    axes.set_yticks(np.arange(shown.shape[0]) + 0.5, values.index, fontsize=7)
    axes.grid(False)
    axes.invert_yaxis()


def draw(frame):
    frame = frame.sort_values("defect", kind="stable")
    frame = frame.assign(case=frame.defect.astype(str) + "  " + frame.what + " | " + frame.target)
    figure, (left, right) = figures.canvas(2, width=7.4, height=1.7 + 0.24 * frame["case"].nunique())
    n = int(frame.n.max())
    paint(
        left,
        grid(frame, "ours", "needs"),
        frame,
        "ours",
        LogNorm(10, 1e10),
        lambda v: f"{v:.0e}".replace("e+0", "e").replace("e+", "e"),
    )
    left.set_title("Our tests: draws needed at error rates of 1e-6, from the laws (lack_of_fit: on average; coupled: at best)\n"
                   f"grey: no number of draws; dot: failed {n:,} real draws, at 1e-3", fontsize=8)  # fmt: skip
    paint(
        right,
        grid(frame, "public", "passes"),
        frame,
        "public",
        Normalize(0, 1),
        lambda v: f"{v:.2g}" if v > 1e-3 else "0",
    )
    right.set_yticks([])
    for i, j in np.argwhere((grid(frame, "public", "right") < 0.5).to_numpy()):
        right.fill([j, j + 1, j + 1, j], [i, i, i + 1, i + 1], fill=False, hatch="////", lw=0, ec="#777777")
    right.set_title("Published rules: P(the defect passes) at the publisher's n, from the laws; hatched: right ones fail\n"
                    f"dot: failed the same {n:,} draws (open: and {n:,} right ones)", fontsize=8)  # fmt: skip
    return figure


def verdict(frame):
    ours = frame[(frame.by == "ours") & ~frame.test.isin(BEST)]
    public = frame[(frame.by == "public") & frame["right"].notna()]
    fair, pair = public[public["right"] >= 0.5], ["defect", "target"]
    needs, cases = ours.groupby(pair).needs.min(), frame.groupby(pair).ngroups
    telling = ours[ours.target == ours.defect.map(lambda k: DEFECTIVE[k].telling)]
    own = telling.loc[telling.groupby("defect").needs.idxmin().astype(int)]
    found = ", ".join(f"{r.defect} {r.needs:.2g} ({r.test})" for r in own.itertuples())
    failed = [frame[(frame.by == by) & frame.failed.eq(True)].groupby(pair).ngroups for by in ("ours", "public")]
    only = fair[fair.failed.eq(True) & fair.failed_right.eq(False)].groupby(pair).ngroups
    return (
        f"{cases} pairs of a defect and a target. Draws needed at 1e-6 either way by the test of ours that needs fewest, telling "
        f"target: {found}. Of all pairs ours see {(needs <= 1e6).sum()} within 1e6 draws, {(needs <= 1e9).sum()} within 1e9, "
        f"{needs.notna().sum()} at some n. A rule that would pass a right sampler (P >= 1/2) fails "
        f"{fair[fair.passes < 0.5].groupby(pair).ngroups} of them (P > 1/2) at its publisher's n; {len(public) - len(fair)} of "
        f"{len(public)} forecasts of a rule would fail a right sampler too. On {int(frame.n.max()):,} draws a test of ours "
        f"failed {failed[0]} of the pairs at 1e-3, a rule {failed[1]}, but {only} where it passed as many right draws."
    )


QUESTION = "Which test sees which defect of a published sampler, and after how many draws?"
STUDY = Study("defects_by_test", QUESTION, cells, measure, draw, verdict)
