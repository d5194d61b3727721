"""Is float32 ancestral sampling on the model's own temperature frontier, and how far is a masked model from
its rival?

The paper's figure of generative perplexity against entropy at temperatures 0.8 to 1 (its fair comparison in
64 bit), on models/mdm256 and the autoregressive models/ar256: same size, data, tokenizer and length.
First-hitting and autoregressive decoding in float64 at seven temperatures; ancestral decoding with float32
noise, event-driven, temperature 1; held-out text. Judges: SmolLM2-135M-Q4_1 on the text, and the rival on
the ids, which favours its own samples. Perplexity as MDLM's code pools it; every row keeps the nats and the
tokens, so that any definition can be had from the table. The two numbers of a point have one joint 95 %
region; at matched entropy a point is compared with a frontier (statistics/frontier.py). Bodies compute in
bfloat16, as trained; "float64" is of the draw. Quick: the rival judges one shorter sequence of each model,
and the committed long run is shown.
Cost: a sequence of 256 tokens takes 6 s (first-hitting), 1 s (autoregressive), judging 1 to 2 s; full
half an hour of two cores.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from precision_lab import SAMPLERS, figures
from precision_lab.finding import Claim, Finding
from precision_lab.laws.process import lattice_step
from precision_lab.mdm import decode
from precision_lab.mdm.fetch import Unavailable
from precision_lab.mdm.judges import SMOLLM2_NAME, SameTokens, smollm2_judge
from precision_lab.mdm.stored import StoredModel
from precision_lab.mdm.texts import as_text, batches, real_texts
from precision_lab.mdm.train import load_model
from precision_lab.statistics import (
    Generated,
    Scores,
    flat,
    matched_entropy,
    perplexity_beside_diversity,
    sequence_entropy,
)
from precision_lab.study import Analysis, Study

MODELS = Path(__file__).parent.parent / "models"
MASKED = StoredModel(MODELS / "mdm256", autocast=True)
RIVAL = StoredModel(MODELS / "ar256", autocast=True)
RIVAL_JUDGE = "ar256"
JUDGES = (RIVAL_JUDGE, SMOLLM2_NAME)

# ---------------------------------------------------------------- grid

BATCH = 4
LENGTH = {"smoke": 16, "quick": 128, "full": 256}
TEMPERATURES = (0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1)
FRONTIERS = {"first_hitting": "masked, float64", "autoregressive": "autoregressive, float64"}
POINT = ["decoder", "temperature", "steps"]
ROW = ["sequences", "smollm2", "part", "sequence"]
GRID = {  # profile -> decoder, temperature, steps, sequences
    "smoke": [("first_hitting", 1.0, 0, 3), ("autoregressive", 1.0, 0, 3), ("real", 1.0, 0, 3)],
    "quick": [("first_hitting", 1.0, 0, 1), ("autoregressive", 1.0, 0, 1), ("real", 1.0, 0, 8)],
    "full": [
        *((decoder, temperature, 0, 24) for decoder in FRONTIERS for temperature in TEMPERATURES),
        ("event_driven", 1.0, 4096, 24),
        ("event_driven", 1.0, 50_000, 24),
        ("real", 1.0, 0, 64),
    ],
}


def cells(profile):
    shared = {
        "weights": MASKED.identity(6) + RIVAL.identity(6),
        "smollm2": profile == "full",  # whether SmolLM2 judges too
        "length": LENGTH[profile],
    }
    return [
        dict(zip(POINT, point, strict=True)) | part | shared
        for *point, total in GRID[profile]
        for part in batches(total, BATCH)
    ]


# ------------------------------------------------------------- measure


def measure(cell, rng):
    tokens = generate(cell, rng)
    entropies = sequence_entropy(tokens)
    rows = []
    for name in JUDGES if cell["smollm2"] else JUDGES[:1]:
        for k, scored in enumerate(scores(name, tokens)):
            row = {"sequence": k, "sequence_entropy": float(entropies[k]), "missing": None} | scored
            text = as_text(tokens[k]) if name == RIVAL_JUDGE else None  # once
            rows.append(cell | row | {"tokens": text})
    return rows


def generate(cell, rng):
    """(sequences, length) int64."""
    size = {"batch": cell["sequences"], "length": cell["length"]}
    decoder, sampler = cell["decoder"], SAMPLERS["gumbel_max_fp64"]
    if decoder == "real":
        windows = real_texts(MASKED.folder)
        if not cell["smollm2"]:
            windows = windows[::-1]  # the long run and a shorter one share no window
        first = cell["part"] * BATCH
        return windows[first : first + cell["sequences"], : cell["length"]]
    if decoder == "event_driven":
        done = decode.event_driven(MASKED.network(), lattice_step, steps=cell["steps"], rng=rng, **size)
    elif decoder == "first_hitting":
        warm = {"temperature": cell["temperature"], "rng": rng}
        done = decode.first_hitting(MASKED.network(), sampler, **warm, **size)
    else:
        warm = {"temperature": cell["temperature"], "rng": rng}
        done = decode.autoregressive(RIVAL.network(), sampler, **warm, **size)
    return done.tokens.numpy()


def scores(name, tokens):
    """A row of scores a sequence; where the judge cannot be had, the reason instead."""
    reader, reason = judge(name)
    if reader is None:
        return [{"judge": name, "missing": reason}] * len(tokens)
    return reader.score(tokens).rows()


@cache
def judge(name):
    """The judge and, where it cannot be had, the reason instead."""
    try:
        if name == RIVAL_JUDGE:
            return SameTokens(RIVAL_JUDGE, load_model(RIVAL.folder)), None
        return smollm2_judge(MASKED.folder / "tokenizer.json"), None
    except Unavailable as error:
        return None, str(error)


# ------------------------------------------------------------- analyse

FEW = 8  # sequences that allow an interval
COMPARED_AT = (0.9, 1.0)  # temperatures
CLAIMS = {  # point, frontier -> where the paper has the point's perplexity from the frontier's
    ("autoregressive", "first_hitting"): Claim.BELOW,
    ("first_hitting", "autoregressive"): Claim.ABOVE,
    ("event_driven", "first_hitting"): Claim.EQUAL,
    ("real", "first_hitting"): None,
    ("real", "autoregressive"): None,
}


def analyse(rows):
    pairs = points(rows)
    generated = {key: Generated.of(*pair) for key, pair in pairs.items()}
    findings, notes = [], []
    for name in JUDGES:
        for (decoder, frontier), claim in CLAIMS.items():
            for found in compared(generated, name, decoder, frontier, claim):
                (findings if isinstance(found, Finding) else notes).append(found)
        notes += missing(rows, name)
    few = (rows[rows.judge == RIVAL_JUDGE].sequence_entropy < 1).sum()
    notes.append(f"{few} sequences have less than 1 nat of entropy")
    head = "Perplexity over that of a frontier at matched entropy, 95 %"
    return Analysis(findings, notes, head, summary(pairs), details=generated)


def points(rows):
    """(judge, decoder, temperature, steps) -> ids and scores; of the longest text where several lengths
    are there."""
    longest = rows[rows.length == rows.length.max()]
    ids = longest[longest.judge == RIVAL_JUDGE].set_index([*POINT, *ROW]).tokens
    found = {}
    for key, part in longest[longest.missing.isna()].groupby(["judge", *POINT]):
        texts = [ids[row].split() for row in part[[*POINT, *ROW]].itertuples(index=False, name=None)]
        found[key] = np.array(texts, dtype=np.int64), Scores.read(part)
    return found


def compared(generated, name, decoder, frontier, claim):
    """For each point of ``decoder`` a Finding, or a sentence where the frontier does not reach its
    entropy."""
    line = {key[2]: points for key, points in generated.items() if key[:2] == (name, frontier)}
    for key, point in generated.items():
        if key[:2] != (name, decoder) or key[2] not in COMPARED_AT:
            continue
        if len(line) < 3 or min(map(len, [point, *line.values()])) < FEW:
            continue
        answer = matched_entropy(point, line, rng=np.random.default_rng(0))
        what = f"{name} reads {title(key)}"
        if answer is None:
            yield f"{what}: {FRONTIERS[frontier]} does not reach its entropy"
        else:
            over = f"over {FRONTIERS[frontier]} at temperature {answer.temperature.text()}"
            yield Finding(f"{what}, {over}", answer.ratio, null=1, claim=claim, digits=2)


def missing(rows, name):
    part = rows[rows.judge == name]
    if not len(part):
        return [f"{name} was not asked here"]
    return [f"{name}: MISSING: {reason}" for reason in part.missing.dropna().unique()]


def summary(pairs):
    """One row a point and judge: perplexity beside diversity, 95 % over sequences."""
    rows = []
    for key, (ids, scored) in pairs.items():
        found = flat(perplexity_beside_diversity(ids, scored, rng=np.random.default_rng(0)))
        rows.append(dict(zip(["judge", *POINT], key, strict=True)) | {"n": len(ids)} | found)
    return pd.DataFrame(rows)


def title(key):
    _, decoder, temperature, steps = key
    if decoder in FRONTIERS:
        return f"{FRONTIERS[decoder]}, temperature {temperature:g}"
    return f"masked, float32, N = {steps:,}" if steps else "real text"


# -------------------------------------------------------------- figure

LEGEND = [*FRONTIERS, "event_driven", "real"]
TICKS = [20, 50, 100, 200, 500, 1000, 2000]  # of perplexity


def figure(rows, analysis):
    drawn, panels = figures.canvas(2, width=4.6, height=4.2)
    for name, axes in zip(JUDGES, panels, strict=True):
        panel(axes, {key: found for key, found in analysis.details.items() if key[0] == name})
        none = "" if axes.lines else " (no scores: see the verdict)"
        axes.set(yscale="log", xlabel="entropy of a sequence (nats)", title=f"judge: {name}{none}")
        axes.set_yticks(TICKS, [str(tick) for tick in TICKS])
        axes.minorticks_off()
    panels[0].set_ylabel("generative perplexity (MDLM's pooling)")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return drawn


def look(key):
    if key[1] == "autoregressive":
        return figures.series(7)
    if key[1] == "first_hitting":
        return figures.precision("float64")
    if key[1] == "real":
        return figures.precision("real text")
    return figures.precision("float32") | ({"mfc": "white"} if key[3] < 50_000 else {})


def panel(axes, generated):
    """Frontiers as lines, each temperature beside its point; regions where there are sequences enough."""
    groups = {}
    for key in sorted(generated, key=lambda key: (LEGEND.index(key[1]), *key[2:])):
        groups.setdefault(FRONTIERS.get(key[1]) or title(key), []).append(key)
    for label, keys in groups.items():
        at = np.array([generated[key].point() for key in keys]).reshape(-1, 2)
        line = "-" if len(keys) > 1 else "none"
        axes.plot(at[:, 0], np.exp(at[:, 1]), label=label, ls=line, **look(keys[0]))
        for key, (entropy, log_perplexity) in zip(keys, at, strict=True):
            beside(axes, key, generated[key], entropy, np.exp(log_perplexity))


def beside(axes, key, generated, entropy, perplexity):
    """A point's temperature and its joint region."""
    if key[1] in FRONTIERS:
        at = (entropy, perplexity)
        axes.annotate(f"{key[2]:g}", at, (5, -8), textcoords="offset points", fontsize=6.5)
    if len(generated) >= FEW:
        edge = generated.region().outline()
        axes.plot(edge[:, 0], np.exp(edge[:, 1]), color=look(key)["color"], lw=0.7)


STUDY = Study(
    name="temperature_frontier",
    question=(
        "At equal entropy, does float32 sampling do more than a lower temperature, and which model is better?"
    ),
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    keys=(*POINT, *ROW, "length", "weights", "judge"),
)
