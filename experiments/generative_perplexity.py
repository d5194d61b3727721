"""Does generative perplexity flatter where diversity is lost, and how far do its public definitions
disagree?

Answers the tables and figures of arXiv:2409.02908 that show generative perplexity, here always against
entropy. The texts are those that ``generation``, ``decoders`` and ``truncation_control`` keep in
results/full/, and held-out windows of real text. Judges: SmolLM2-135M-Q4_1, pretrained, reads the decoded
text (it is not GPT-2-large: compare its numbers with each other); our autoregressive rival models/ar256
reads the ids, and is kin to the model by its training data. One row a sequence keeps nats and tokens by
part, from which each of six definitions follows. Headline: MDLM's, all tokens pooled. The quick profile asks
the rival about a few texts and adds the committed long run.
Cost: SmolLM2 a second a text of 256 tokens, the rival 0.05.
"""

from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from precision_lab import figures
from precision_lab.errors import InputError
from precision_lab.finding import Claim, Finding
from precision_lab.mdm.fetch import Unavailable
from precision_lab.mdm.judges import SMOLLM2_NAME, SameTokens, smollm2_judge
from precision_lab.mdm.texts import as_text, ids, real_texts
from precision_lab.mdm.train import load_model
from precision_lab.result import average, load_result
from precision_lab.statistics import difference, sequence_entropy
from precision_lab.statistics.perplexity import DEFINITIONS, Scores, generative_perplexity
from precision_lab.study import Analysis, Study

ROOT = Path(__file__).parent.parent
MODELS = {"generation": "mdm256", "decoders": "mdm256", "truncation_control": "mdm", "real": "mdm256"}
RIVAL = "ar256"
FP32 = "gumbel_max_fp32"
FP64 = "gumbel_max_fp64"

# ---------------------------------------------------------------- grid

CHUNK = 16  # texts of a cell
PER_POINT = 64  # texts of a point that are judged, at most
POINT = ["texts", "decoder", "sampler", "steps"]
GRID = {  # profile -> judges, sets of texts, texts of a set at most
    "smoke": ([RIVAL], ["real", "generation"], 2),
    "quick": ([RIVAL], ["real", "generation", "decoders"], CHUNK),
    "full": ([SMOLLM2_NAME, RIVAL], list(MODELS), None),
}


def cells(profile):
    judges, sets, limit = GRID[profile]
    found = []
    for name in sets:
        total = len(texts(name)) if limit is None else min(len(texts(name)), limit)
        for judge in judges:
            if judge == RIVAL and MODELS[name] != "mdm256":
                continue  # the rival knows that vocabulary alone
            cell = {"texts": name, "digest": digest(name), "judge": judge}
            chunks = [{"first": k, "last": min(k + CHUNK, total)} for k in range(0, total, CHUNK)]
            found += [cell | chunk for chunk in chunks]
    return found


@cache
def texts(name):
    """The table of one set: decoder, sampler, steps, tokens (ids in a string)."""
    if name == "real":
        windows = real_texts(ROOT / "models" / MODELS[name])[:PER_POINT]
        rows = [as_text(window) for window in windows]
        return pd.DataFrame({"tokens": rows, "decoder": "real", "sampler": "", "steps": 0})
    frame = load_result(ROOT / "results" / "full", name).frame
    if "version" in frame:
        frame = frame.assign(decoder="event_driven", sampler=frame.version)
    return frame[frame.groupby(POINT[1:]).cumcount() < PER_POINT].reset_index(drop=True)


@cache
def digest(name):
    """Of a set's texts, so that texts that were measured again are other texts."""
    return sha256("\n".join(texts(name).tokens).encode()).hexdigest()[:12]


# ------------------------------------------------------------- measure


def measure(cell, rng):
    part = texts(cell["texts"]).iloc[cell["first"] : cell["last"]]
    tokens = ids(list(part.tokens))
    entropies = sequence_entropy(tokens)
    described = []
    for k, (at, text) in enumerate(zip(part.index, part.itertuples(), strict=True)):
        row = {"texts": cell["texts"], "digest": cell["digest"], "row": int(at)}
        point = {"decoder": text.decoder, "sampler": text.sampler, "steps": int(text.steps)}
        described.append(row | point | {"sequence_entropy": float(entropies[k])})
    try:
        scores = judge_of(cell["judge"], MODELS[cell["texts"]]).score(tokens).rows()
    except Unavailable as error:
        return [row | {"judge": cell["judge"], "skipped": str(error)} for row in described]
    return [row | score | {"skipped": ""} for row, score in zip(described, scores, strict=True)]


@cache
def judge_of(name, model):
    if name == RIVAL:
        return SameTokens(RIVAL, load_model(ROOT / "models" / RIVAL))
    return smollm2_judge(ROOT / "models" / model / "tokenizer.json")


# ------------------------------------------------------------- analyse

FEWEST, MOST = 32, 50_000  # steps of the sweep's ends
NOTED = ("event_driven", "first_hitting", "autoregressive", "real")


def analyse(rows):
    scored, skipped = judged(rows)
    table = summary(scored)
    findings = [finding for judge in sorted(set(table.judge)) for finding in flattery(scored, judge)]
    ends = table.steps.isin((0, FEWEST, MOST)) & table.sampler.isin((FP32, FP64, ""))
    shown = table[ends & (table.texts != "truncation_control") & table.decoder.isin(NOTED)]
    notes = [point_text(row) for row in shown.sort_values("judge", kind="stable").itertuples()]
    notes += [f"not judged: {reason}" for reason in skipped]
    head = "Perplexity by MDLM's definition, mean sequence entropy in nats, 95 % bootstrap"
    return Analysis(findings, notes, head, table)


def judged(rows):
    """Rows with scores, of texts as they are now; and the reasons why others have none."""
    rows = rows.astype({"sampler": object, "skipped": object}).fillna({"sampler": "", "skipped": ""})
    rows = rows[rows.digest == rows.texts.map({name: digest(name) for name in set(rows.texts)})]
    return rows[rows.skipped == ""], sorted(set(rows.skipped) - {""})


def summary(scored):
    """One row a point and judge: n, mean sequence entropy and each definition's perplexity, 95 %
    bootstrap."""
    rows = []
    for key, part in scored.groupby([*POINT, "judge"]):
        entropy, scores = average(part.sequence_entropy.to_numpy()), Scores.read(part)
        row = dict(zip([*POINT, "judge"], key, strict=True)) | {"n": len(part)}
        row |= {"entropy_nats": entropy.value, "entropy_low": entropy.low, "entropy_high": entropy.high}
        row |= {"entropy_bits": entropy.value / np.log(2), "replaced": int(scores.replaced.sum())}
        for name in DEFINITIONS:
            try:
                found = perplexity(scores, name)
            except InputError:  # a definition that scores first tokens, and a judge without a start symbol
                continue
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def perplexity(scores, definition):
    return generative_perplexity(scores, definition, rng=np.random.default_rng(0))


def flattery(scored, judge):
    """That float32 buys perplexity with entropy: both fall from few to many steps."""
    sweep = scored[
        (scored.texts == "generation") & (scored.decoder == "event_driven") & (scored.judge == judge)
    ]
    few, many = (sweep[(sweep.sampler == FP32) & (sweep.steps == steps)] for steps in (FEWEST, MOST))
    if min(len(few), len(many)) < 2:
        return []
    name = f"{judge}: float32, N = {MOST:,} less N = {FEWEST}"
    reads = difference(*(perplexity(Scores.read(part), "mdlm") for part in (many, few)))
    entropy = difference(*(average(part.sequence_entropy.to_numpy()) for part in (many, few)))
    return [
        Finding(f"{name}, perplexity", reads, claim=Claim.BELOW, digits=0),
        Finding(f"{name}, entropy", entropy, claim=Claim.BELOW, digits=2),
    ]


def point_text(row):
    name = f"{row.judge} on {row.decoder} {row.sampler}".strip() + (f" N = {row.steps}" if row.steps else "")
    if row.n == 1:
        return f"{name}: {row.mdlm:.0f}, {row.entropy_nats:.2f} (n = 1)"
    reads = f"{row.mdlm:.0f} [{row.mdlm_low:.0f}, {row.mdlm_high:.0f}]"
    entropy = f"{row.entropy_nats:.2f} [{row.entropy_low:.2f}, {row.entropy_high:.2f}]"
    return f"{name}: {reads}, {entropy} (n = {row.n})"


# -------------------------------------------------------------- figure

GROUPS = {  # label -> decoder, sampler (None: all), texts, look
    "ancestral, float32": ("event_driven", FP32, "generation", figures.precision("float32")),
    "ancestral, float64": ("event_driven", FP64, "generation", figures.precision("float64")),
    "ancestral, float16": ("event_driven", "gumbel_max_fp16", "generation", figures.precision("float16")),
    "ancestral, bfloat16": ("event_driven", "gumbel_max_bf16", "generation", figures.precision("bfloat16")),
    "first-hitting": ("first_hitting", None, "decoders", figures.series(2)),
    "autoregressive": ("autoregressive", None, "decoders", figures.series(7)),
    "confidence ordered": ("confidence_ordered", None, "decoders", figures.series(3)),
    "real text": ("real", "", "real", figures.precision("real text")),
}


def figure(rows, analysis):
    table = analysis.summary
    judge = SMOLLM2_NAME if (table.judge == SMOLLM2_NAME).any() else RIVAL
    table = table[table.judge == judge].sort_values("steps")
    drawn, (steps, frontier, names) = figures.canvas(3, width=4.1, height=4.2)
    for k, (label, (decoder, sampler, of, look)) in enumerate(GROUPS.items()):
        part = table[(table.decoder == decoder) & (table.texts == of)]
        part = part if sampler is None else part[part.sampler == sampler]
        style = {"ls": "none", "capsize": 2, "elinewidth": 0.8, "label": label} | look
        frontier.errorbar(
            part.entropy_nats, part.mdlm, yerr=ends(part, "mdlm"), xerr=entropy_ends(part), **style
        )
        if of == "generation":
            steps.errorbar(part.steps * 1.05**k, part.mdlm, yerr=ends(part, "mdlm"), **style | {"ls": "-"})
        if label == "real text" and len(part):
            steps.axhline(part.mdlm.iloc[0], color="black", ls=":", lw=1.2)
    by_definition(names, table)
    steps.set(
        xscale="log", yscale="log", xlabel="ancestral steps N", ylabel=f"generative perplexity ({judge})"
    )
    steps.set_title("Perplexity falls with float32 noise (dotted: real text) ...")
    frontier.set(yscale="log", xlabel="mean sequence entropy (nats)", title="... and so does entropy")
    drawn.legend(*frontier.get_legend_handles_labels(), loc="outside lower center", fontsize=7, ncols=4)
    return drawn


def ends(part, column):
    return [part[column] - part[f"{column}_low"], part[f"{column}_high"] - part[column]]


def entropy_ends(part):
    return [part.entropy_nats - part.entropy_low, part.entropy_high - part.entropy_nats]


def by_definition(axes, table):
    """Every definition for float32 and float64 at the most steps."""
    shown = [name for name in DEFINITIONS if name in table and table[name].notna().any()]
    for k, sampler in enumerate((FP32, FP64)):
        of = (table.texts == "generation") & (table.decoder == "event_driven") & (table.sampler == sampler)
        for row in table[of & (table.steps == MOST)].to_dict("records"):
            value, low, high = (
                np.array([row[name + end] for name in shown]) for end in ("", "_low", "_high")
            )
            at = np.arange(len(shown)) + 0.15 * k
            style = {"ls": "none", "capsize": 2, "elinewidth": 0.8} | figures.precision(sampler)
            axes.errorbar(value, at, xerr=[value - low, high - value], **style)
    axes.set_yticks(range(len(shown)), shown)
    axes.set(
        xscale="log", xlabel="generative perplexity", title="float32 and float64, N = 50,000, by definition"
    )


STUDY = Study(
    name="generative_perplexity",
    question=(
        "Does generative perplexity flatter where diversity is lost, "
        "and how far do its public definitions disagree?"
    ),
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    keys=("texts", "digest", "row", "judge"),
)
