"""Are some tokens unmasked before others, and is it that, or the tokens drawn, that costs diversity over
many steps?

"Prioritized unmasking", by arXiv:2409.02908 (section 5) the major factor, inferred from first-hitting
decoding. models/mdm, L = 64, event-driven. Laws of the step: float64, float32 (lattice), truncated, and
float32 changed in one thing: two_stage decides exactly whether to unmask, then draws in float32 from mu
alone; tokens has the right rate and float32's law of what comes; times has float32's rate, and what comes is
from mu. So two_stage takes out both effects of the race, and tokens and times tell them apart. By
probability mu of the token when it came: how often it came over how often it was asked for (predicted: q /
(r mu) on the states visited), mean time 1 - step / N, place in the order. mu rises with context, so the
order is not flat even for float64. The declared test: given the state, the step says nothing of the token,
on any network. Evidence is the likelihood ratio of float32's law to the law asked for, of tokens and of
times; the law asked for is refused where either passes 2e6 (Ville). Declared: medians.
Cost: 1.2 s of one core a sequence; full 16 to 40 of each of six laws and three N, quick one of each at
one N.
"""

from pathlib import Path

import numpy as np

from precision_lab import figures, statistics
from precision_lab.finding import Claim, Finding, evidence
from precision_lab.laws.process import lattice_step, times_alone, tokens_alone, two_stage_step
from precision_lab.mdm import decode
from precision_lab.mdm.step_account import StepAccount
from precision_lab.mdm.stored import StoredModel
from precision_lab.mdm.texts import STEP_LAWS, as_text
from precision_lab.result import estimates_table
from precision_lab.study import Analysis, Study

MODEL = StoredModel(Path(__file__).parent.parent / "models" / "mdm")
ASKED, RACE = "float64", "float32"
LAWS = {
    ASKED: STEP_LAWS["gumbel_max_fp64"],
    RACE: lattice_step,
    "two_stage": two_stage_step,
    "tokens": tokens_alone(lattice_step),
    "times": times_alone(lattice_step),
    "truncated": STEP_LAWS["gumbel_max_fp64_truncated"],
}

# ---------------------------------------------------------------- grid

GRID = {  # profile -> (laws, length, sequences of a cell, steps -> cells)
    "smoke": (2, 8, 2, {64: 1}),
    "quick": (6, 64, 1, {50_000: 1}),
    "full": (6, 64, 8, {256: 2, 4096: 5, 50_000: 5}),
}


def cells(profile):
    laws, length, sequences, parts = GRID[profile]
    shared = {"length": length, "sequences": sequences, "weights": MODEL.identity()}
    return [
        {"law": law, "steps": steps, "part": part} | shared
        for steps, count in parts.items()
        for part in range(count)
        for law in list(LAWS)[:laws]
    ]


# ------------------------------------------------------------- measure

EDGES = np.log(10.0) * np.arange(-6, 0)  # of log mu: below 1e-6, then six decades
DECADES = len(EDGES) + 1
BY_DECADE = ("asked", "expected", "came", "time", "order")
BY_SEQUENCE = ("evidence_tokens", "evidence_times", "entropy_asked", "entropy_race")


class OrderAccount:
    """A ``watch`` of event-driven decoding: sums by sequence and by decade of the token's probability."""

    def __init__(self, sequences, length):
        self.steps = StepAccount(sequences, {law: LAWS[law] for law in (ASKED, RACE)})
        self.decade = np.zeros((sequences, length), dtype=int)  # of the token that came at a position
        self.bins = {name: np.zeros((sequences, DECADES)) for name in BY_DECADE}
        self.sums = {name: np.zeros(sequences) for name in BY_SEQUENCE}

    def __call__(self, seen):
        expected = self.steps(seen)
        decade = np.digitize(seen.log_mu, EDGES)
        self.decade[seen.sequence, seen.position] = decade[
            seen.token
        ]  # the last candidate is the one that came
        if expected:
            self.add(seen, decade, expected[ASKED], expected[RACE])

    def add(self, seen, decade, p, q):
        """p, q: (vocab,) what the law asked for and float32's give the tokens at this candidate."""
        k = seen.sequence
        self.bins["asked"][k] += np.bincount(decade, p, DECADES)
        self.bins["expected"][k] += np.bincount(decade, q, DECADES)
        entropy = -np.exp(seen.log_mu) @ seen.log_mu
        p_any, q_any = p.sum(), q.sum()
        self.sums["entropy_asked"][k] += p_any * entropy
        self.sums["entropy_race"][k] += q_any * entropy
        if seen.token >= 0:
            given_any = np.log(q[seen.token] / q_any) - np.log(p[seen.token] / p_any)
            self.sums["evidence_tokens"][k] += given_any
            self.sums["evidence_times"][k] += np.log(q_any / p_any)
        else:
            self.sums["evidence_times"][k] += np.log((1 - q_any) / (1 - p_any))

    def finish(self, unmasked_at, steps):
        """Number, times and places of the tokens that came before the last step, in which everything
        comes."""
        length = unmasked_at.shape[1]
        rank = unmasked_at.argsort(1, kind="stable").argsort(1, kind="stable")
        values = {
            "came": np.ones(unmasked_at.shape),
            "time": 1 - unmasked_at / steps,
            "order": (rank + 0.5) / length,
        }
        for name, value in values.items():
            counted = np.where(unmasked_at < steps - 1, value, 0)
            rows = zip(self.decade, counted, strict=True)
            self.bins[name] = np.array([np.bincount(decade, value, DECADES) for decade, value in rows])

    def columns(self):
        """Name -> (sequences,)."""
        binned = {
            f"{name}_{k}": column for name, each in self.bins.items() for k, column in enumerate(each.T)
        }
        return self.sums | binned


def measure(cell, rng):
    n, steps = cell["sequences"], cell["steps"]
    account = OrderAccount(n, cell["length"])
    size = {"batch": n, "length": cell["length"], "steps": steps}
    done = decode.event_driven(MODEL.network(), LAWS[cell["law"]], **size, rng=rng, watch=account)
    account.finish(done.steps.numpy(), steps)
    ids = done.tokens.numpy()
    columns = account.columns() | {"sequence_entropy": statistics.sequence_entropy(ids)}
    return [
        cell
        | {"sequence": k, "tokens": as_text(ids[k])}
        | account.steps.rows[k]
        | {name: float(values[k]) for name, values in columns.items()}
        for k in range(n)
    ]


# ------------------------------------------------------------- analyse

RATIOS = {  # measure -> sums over each other
    "rate": ("came", "asked"),
    "predicted": ("expected", "asked"),
    "time": ("time", "came"),
    "order": ("order", "came"),
}
ENOUGH = 20  # tokens of a decade, in at least two sequences
ODDS = 2e6  # two likelihood ratios, each wrong once in 2e6
CENTRES = {"median": np.median, "mean": np.mean}


def analyse(rows):
    rows = rows[rows.length == rows.length.max()]
    decades = by_decade(rows)
    losses = entropy_lost(rows)
    effects = step_effects(rows)
    declared = {key: e for key, e in (effects | losses).items() if "mean" not in key[3]}
    return Analysis(
        findings(rows),
        [
            f"N = {steps}, {law}, {what}: {e.text(2)} (n = {e.n})"
            for (law, steps, _, what), e in declared.items()
        ],
        head="Shares and surprise (nats a token): 95 %. Nats by tokens and by times: likelihood of float32's "
        "law over that of the law asked for, -/+ log(2e6)",
        summary=estimates_table(decades | losses | effects, ["law", "steps", "decade", "measure"]),
        details=decades,
    )


def findings(rows):
    """The paper's major factor against the other one, at the largest N; then the declared test."""
    found = []
    largest = rows.steps.max()
    entropy = by_law(rows[rows.steps == largest])
    if {"tokens", "times"} <= entropy.keys() and loses(entropy):
        by_order = share(entropy, np.median, "times")
        by_token = share(entropy, np.median, "tokens")
        more = bootstrapped(lambda at: by_order(at) - by_token(at), entropy, np.random.default_rng(0))
        name = f"N = {largest}: share of the loss by the order of places less that by the token that wins"
        found.append(Finding(name, more, claim=Claim.ABOVE, digits=2))
    shown = rows[rows.law.isin([ASKED, RACE, "two_stage"])]
    for (law, steps), part in shown.groupby(["law", "steps"], sort=False):
        claim = Claim.ABOVE if law == RACE else Claim.BELOW
        for what in ("tokens", "times"):
            nats = evidence(part[f"evidence_{what}"].sum(), ODDS)
            found.append(Finding(f"{law}, N = {steps}, nats by {what}", nats, claim=claim, digits=1))
    return found


def loses(entropy):
    """Whether float32's loss of median entropy is seen."""
    return bootstrapped(lost(entropy, np.median, RACE), entropy, np.random.default_rng(0)).low > 0


def by_decade(rows):
    """(law, steps, decade, measure) -> Estimate, where enough tokens came."""
    found = {}
    for (law, steps), part in rows.groupby(["law", "steps"], sort=False):
        for k in range(DECADES):
            came = part[f"came_{k}"]
            if came.sum() < ENOUGH or (came > 0).sum() < 2:
                continue
            for name, (over, under) in RATIOS.items():
                found[law, steps, k, name] = statistics.ratio_of_sums(
                    part[f"{over}_{k}"], part[f"{under}_{k}"]
                )
    return found


def entropy_lost(rows):
    """(law, steps, "", measure) -> entropy that float32 loses and, where that is seen, the share of it
    that each changed law loses."""
    found = {}
    for steps, part in rows.groupby("steps"):
        entropy = by_law(part)
        for name, centre in CENTRES.items():
            rng = np.random.default_rng(0)
            whole = bootstrapped(lost(entropy, centre, RACE), entropy, rng)
            found[RACE, steps, "", f"{name} entropy lost"] = whole
            if whole.low <= 0:
                continue
            for law in list(LAWS)[2:]:
                if law in entropy:
                    estimate = bootstrapped(share(entropy, centre, law), entropy, rng)
                    found[law, steps, "", f"share of the {name}"] = estimate
    return found


def by_law(part):
    """law -> sequence entropies of its texts."""
    return {law: each.sequence_entropy.to_numpy() for law, each in part.groupby("law")}


def lost(entropy, centre, law):
    """Statistic of resampled sequences: the entropy that ``law`` loses."""

    def statistic(at):
        return float(centre(entropy[ASKED][at]) - centre(entropy[law][at]))

    return statistic


def share(entropy, centre, law):
    """Statistic of resampled sequences: what ``law`` loses over what float32 loses."""
    part, whole = lost(entropy, centre, law), lost(entropy, centre, RACE)
    return lambda at: part(at) / whole(at)


def bootstrapped(statistic, entropy, rng):
    """Independent groups of texts, drawn again in pairs."""
    sequences = min(map(len, entropy.values()))
    return statistics.cluster_bootstrap(statistic, clusters=sequences, rng=rng)


def step_effects(rows):
    """(float32, steps, "", measure) -> nats by which its next token is less surprising than asked, on its
    own states: for the token that comes there, and for the place where it comes (surer places sooner)."""
    found = {}
    for steps, race in rows[rows.law == RACE].groupby("steps"):
        sums = {
            name: race[name].to_numpy()
            for name in race.columns
            if name.startswith(("surprise", "count", "entropy"))
        }

        def place(at, sums=sums):
            asked = sums["entropy_asked"][at].sum() / sums[f"count_{ASKED}"][at].sum()
            raced = sums["entropy_race"][at].sum() / sums[f"count_{RACE}"][at].sum()
            return float(asked - raced)

        by_token = statistics.ratio_of_sums(-sums[f"surprise_{RACE}"], sums[f"count_{RACE}"])
        found[RACE, steps, "", "less surprising by the token"] = by_token
        found[RACE, steps, "", "less surprising by the place"] = statistics.cluster_jackknife(
            place, len(race)
        )
    return found


# -------------------------------------------------------------- figure

LOOKS = {law: figures.precision(law) for law in (ASKED, RACE, "two_stage", "truncated")}
LOOKS["tokens"] = figures.series(7) | {"marker": "v", "mfc": "white"}
LOOKS["times"] = {"color": "black", "marker": "P", "mfc": "white"}
SHADES = (0.3, 0.6, 1.0)  # of float32, N ascending


def figure(rows, analysis):
    rows = rows[rows.length == rows.length.max()]
    drawn, (rate, order, entropy) = figures.canvas(3, width=4.0, height=3.7)
    steps = sorted(set(rows.steps))
    rates(rate, analysis.details, steps)
    orders(order, analysis.details, steps[-1])
    medians(entropy, rows, steps)
    for axes in (rate, order):
        axes.set_xticks(range(DECADES), ["<1e-6", *(f"1e{k - 6}" for k in range(DECADES - 1))], fontsize=7)
        axes.set_xlabel("probability of the token when it came, from")
    for axes in (rate, order, entropy):
        axes.legend(fontsize=7)
    return drawn


def curve(axes, decades, law, steps, name, *, shift=0.0, **style):
    at = [k for k in range(DECADES) if (law, steps, k, name) in decades]
    found = [decades[law, steps, k, name] for k in at]
    figures.estimates(axes, np.array(at) + shift, found, **style)


def rates(axes, decades, steps):
    for n, alpha in zip(steps, SHADES[-len(steps) :], strict=True):
        look = LOOKS[RACE] | {"alpha": alpha}
        at = [k for k in range(DECADES) if (RACE, n, k, "predicted") in decades]
        axes.plot(at, [decades[RACE, n, k, "predicted"].value for k in at], color=look["color"], alpha=alpha)
        curve(axes, decades, RACE, n, "rate", label=f"float32, N = {n:,}", look=look)
    label = f"two-stage, N = {steps[-1]:,}"
    curve(axes, decades, "two_stage", steps[-1], "rate", shift=0.15, label=label, look=LOOKS["two_stage"])
    axes.axhline(1, color="black", lw=0.8)
    axes.set(ylabel="came / asked", title="Rate of unmasking (lines: predicted)")


def orders(axes, decades, steps):
    for k, law in enumerate(LAWS):
        if law not in ("tokens", "times"):
            curve(
                axes, decades, law, steps, "order", shift=0.08 * (k - 2), label=law, look=LOOKS[law], line="-"
            )
    axes.set(ylabel="mean place in the order (0 first, 1 last)", title=f"Order of unmasking, N = {steps:,}")


def medians(axes, rows, steps):
    for k, law in enumerate(LAWS):
        parts = [part.sequence_entropy for _, part in rows[rows.law == law].groupby("steps")]
        found = [statistics.median(x, rng=np.random.default_rng(0)) for x in parts]
        at = np.arange(len(found)) + 0.12 * (k - 2.5)
        figures.estimates(axes, at, found, label=law, look=LOOKS[law])
    axes.set(ylabel="sequence entropy (nats)", title="Median of the texts (95 %)")
    axes.set_xticks(range(len(steps)), [f"N = {n:,}" for n in steps])


STUDY = Study(
    name="unmasking_order",
    question="Are some tokens unmasked before others, and is that what costs diversity over many steps?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    keys=("law", "steps", "part", "length", "sequences", "weights", "sequence"),
)
